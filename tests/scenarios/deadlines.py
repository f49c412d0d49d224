"""Deadlines: a limit for the whole job, from its submit; by the workflow, by the submit; clean-up; retries and waits cut."""

from __future__ import annotations

from tests.scenarios.script import After, Answer, Scenario, Send, TryAgain, Waits, named

from relight import Retry, ask, cleanup, external, poll, sleep, start, step, wait_signal, workflow
from relight.errors import JobFailed


@step
def note(word: str) -> str:
    return word


@step
def look(n: int) -> int:
    return n + 1


@step(retry=Retry(tries=10, first_seconds=1500, factor=1, max_seconds=1500, jitter=False))
def always_breaks() -> str:
    raise ConnectionError("reset")


@workflow(deadline_seconds=3600)
def an_hour(seconds: float) -> str:
    sleep(seconds)
    return note("in time")


@workflow(deadline_seconds=3600)
async def an_hour_aio(seconds: float) -> str:
    await sleep.aio(seconds)
    return await note.aio("in time")


@workflow
def cleans_up(seconds: float) -> str:
    try:
        sleep(seconds)
        return note("in time")
    finally:
        with cleanup():
            note("cleaned up")


@workflow
def waits(what: str) -> str:
    match what:
        case "signal":
            return wait_signal("go", type=str)
        case "ask":
            return ask("Go?").choice
        case "external":
            return external("go", type=str).wait()
        case "poll":
            return str(poll(look, 0, until=lambda n: False, every_seconds=1000))
        case "backoff":
            return always_breaks()
        case _:
            return start(cleans_up, 86_400).result()


@workflow
async def parent_of_limited() -> str:
    child = await start.aio(an_hour, 7200)
    try:
        return await child.result.aio()
    except JobFailed as failed:
        return f"child: {failed.error_type} {failed.error_code}"


LIMIT = {"deadline_seconds": 3600}
KINDS = ("signal", "ask", "external", "poll", "backoff", "child")
SCENARIOS = named(
    [
        Scenario("met", an_hour, (1800,), says="A job that ends in time does not hear of its deadline."),
        Scenario(
            "exceeded",
            an_hour,
            (7200,),
            says="After an hour one last run raises at the sleep; the job has failed with deadline_exceeded.",
        ),
        Scenario("exceeded_async", an_hour_aio, (7200,), says="The same in async code."),
        Scenario("by_submit", cleans_up, (7200,), submit=LIMIT, says="A submit's deadline; the last run cleans up."),
        Scenario(
            "submit_beats_workflow",
            an_hour,
            (1800,),
            submit={"deadline_seconds": 600},
            says="The submit's deadline is the one that counts.",
        ),
        *(
            Scenario(
                f"in_a_{what}",
                waits,
                (what,),
                submit=LIMIT,
                also=(cleans_up,),
                lines=what == "child",
                says=f"A deadline ends a wait without a limit: {what}.",
            )
            for what in KINDS
        ),
        Scenario(
            "never_began",
            cleans_up,
            (1,),
            submit={**LIMIT, "delay_seconds": 7200},
            says="A job whose time comes after its deadline fails without a run.",
        ),
        Scenario(
            "signal_in_time",
            waits,
            ("signal",),
            (Waits("signal:go#0"), After(1800), Send("go", "on")),
            submit=LIMIT,
            says="A signal before the deadline.",
        ),
        Scenario(
            "answer_in_time",
            waits,
            ("ask",),
            (Waits("ask#0"), After(1800), Answer("approve")),
            submit=LIMIT,
            says="An answer before the deadline.",
        ),
        Scenario(
            "child_has_its_own_async",
            parent_of_limited,
            also=(an_hour,),
            lines=True,
            says="A child's deadline fails the child; its parent goes on.",
        ),
        Scenario(
            "retried_after_it",
            an_hour,
            (7200,),
            (Waits("sleep#0"), After(3601), TryAgain()),
            says="An operator's retry goes on without the deadline that has passed.",
        ),
    ]
)
