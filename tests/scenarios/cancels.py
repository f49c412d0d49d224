"""Cancel and clean-up: from every state, through ``finally``, with steps in ``cleanup()``; and a person who fails a job."""

from __future__ import annotations

import asyncio
import threading

from tests.scenarios.script import WORLD, End, Reaches, Scenario, TryAgain, Waits, during, named

from relight import ask, cancelled, cleanup, external, parallel, poll, sleep, start, step, wait_signal, workflow
from relight.errors import CancelRequested, StepFailed
from relight.model import JobState


@step
def rent() -> str:
    return "vm-1"


@step
def give_back(machine: str) -> str:
    return f"gave back {machine}"


@step
def look(n: int) -> int:
    return n + 1


@workflow
def asleep() -> None:
    machine = rent()
    try:
        sleep(86_400)
    finally:
        with cleanup():
            give_back(machine)


@workflow
async def asleep_aio() -> None:
    machine = await rent.aio()
    try:
        await sleep.aio(86_400)
    finally:
        with cleanup():
            await give_back.aio(machine)


@workflow
def in_a_wait(what: str) -> str:
    machine = rent()
    try:
        match what:
            case "signal":
                return wait_signal("never", type=str)
            case "ask":
                return ask("Go on?").choice
            case "external":
                return external("never", type=str).wait()
            case "poll":
                return str(poll(look, 0, until=lambda n: False, every_seconds=100))
            case _:
                return start(waits_for_ever).result()
    finally:
        with cleanup():
            give_back(machine)


@workflow
async def in_a_wait_aio(what: str) -> str:
    machine = await rent.aio()
    try:
        match what:
            case "signal":
                return await wait_signal.aio("never", type=str)
            case "ask":
                return (await ask.aio("Go on?")).choice
            case "external":
                return await external("never", type=str).wait.aio()
            case _:
                return await (await start.aio(waits_for_ever)).result.aio()
    finally:
        with cleanup():
            await give_back.aio(machine)


@workflow
def waits_for_ever() -> str:
    try:
        return wait_signal("never", type=str)
    finally:
        with cleanup():
            give_back("the child's")


@workflow
def without_cleanup() -> None:
    machine = rent()
    try:
        sleep(86_400)
    finally:
        give_back(machine)


@workflow
def tries_to_go_on() -> str:
    try:
        sleep(86_400)
    except Exception:
        return "swallowed"
    return rent()


@workflow
def sees_it() -> str:
    try:
        sleep(86_400)
    except CancelRequested:
        with cleanup():
            give_back("it")
        raise
    return "woken"


@step
def is_cancelled_meanwhile(how: str) -> str:
    if how == "cancel":
        during(lambda job: job.cancel("meanwhile", by="ada"))
    else:
        during(lambda job: job.fail("meanwhile", by="ada"))
    threading.Event().wait(0.1)  # long enough for the cancel to be heard
    return "finished all the same"


@workflow
def in_a_step(how: str) -> str:
    try:
        said = is_cancelled_meanwhile(how)
        return rent() + said
    finally:
        with cleanup():
            give_back("after the step")


@workflow
async def in_a_step_aio(how: str) -> str:
    try:
        said = await is_cancelled_meanwhile.aio(how)
        return await rent.aio() + said
    finally:
        with cleanup():
            await give_back.aio("after the step")


@step
def breaks(machine: str) -> str:
    raise ValueError(f"cannot give back {machine}")


@workflow
def cleanup_fails() -> None:
    try:
        sleep(86_400)
    finally:
        with cleanup():
            breaks("vm-1")


@workflow
def cleanup_fails_and_goes_on() -> None:
    try:
        sleep(86_400)
    finally:
        with cleanup():
            try:
                breaks("vm-1")
            except StepFailed:
                give_back("by hand")


@workflow
def two_levels() -> None:
    try:
        try:
            sleep(86_400)
        finally:
            with cleanup():
                give_back("inner")
    finally:
        with cleanup():
            give_back("outer")


@workflow
def cleanup_without_cancel() -> str:
    machine = rent()
    try:
        return "done"
    finally:
        with cleanup():
            give_back(machine)


@workflow
async def failing_cleans_up() -> str:
    machine = await rent.aio()
    try:
        return await breaks.aio(machine)
    finally:
        with cleanup():
            await give_back.aio(machine)


@workflow
async def in_gathered_lines() -> list[str]:
    async def line(name: str) -> str:
        try:
            return await wait_signal.aio(name, type=str)
        finally:
            with cleanup():
                await give_back.aio(name)

    return list(await asyncio.gather(line("a"), line("b")))


def arm(name: str) -> str:
    try:
        return wait_signal(name, type=str)
    finally:
        with cleanup():
            give_back(name)


@workflow
def in_arms() -> list[str]:
    return parallel(arm, ["a", "b"])


@workflow
def never_begins() -> str:
    return rent()


@step
def breaks_until_mended() -> str:
    if "mended" not in WORLD.books:
        raise ValueError("broken")
    return "mended"


@workflow
def after_a_failure() -> str:
    sleep(1)
    return breaks_until_mended()


@workflow
def told(n: int) -> bool:
    sleep(n)
    return cancelled()


KINDS = ("signal", "ask", "external", "poll", "child")
KEYS = {
    "signal": "signal:never#0",
    "ask": "ask#0",
    "external": "wait:never#0",
    "poll": "poll:look#0",
    "child": "result:CHILD#0",
}
CHILD_TOO = {True: (Waits("signal:never#0", child="start#0"),), False: ()}
ENOUGH = End("cancel", "enough")
SCENARIOS = named(
    [
        Scenario(
            "never_began",
            never_begins,
            (),
            (ENOUGH,),
            submit={"delay_seconds": 600},
            says="A job that never began is cancelled at once, without a run.",
        ),
        Scenario(
            "asleep",
            asleep,
            (),
            (Waits("sleep#0"), ENOUGH),
            says="One last run replays to the sleep, raises there, and gives the machine back.",
        ),
        Scenario("asleep_async", asleep_aio, (), (Waits("sleep#0"), ENOUGH), says="The same in async code."),
        *(
            Scenario(
                f"in_a_{what}",
                in_a_wait,
                (what,),
                (Waits(KEYS[what]), *CHILD_TOO[what == "child"], ENOUGH),
                also=(waits_for_ever,),
                lines=what == "child",
                says=f"The same in a wait: {what}.",
            )
            for what in KINDS
        ),
        *(
            Scenario(
                f"in_a_{what}_async",
                in_a_wait_aio,
                (what,),
                (Waits(KEYS[what]), *CHILD_TOO[what == "child"], ENOUGH),
                also=(waits_for_ever,),
                lines=what == "child",
                says=f"The same in a wait of async code: {what}.",
            )
            for what in KINDS
            if what != "poll"
        ),
        Scenario(
            "without_cleanup",
            without_cleanup,
            (),
            (Waits("sleep#0"), ENOUGH),
            says="A step in finally that is not in cleanup() is refused: nothing is given back.",
        ),
        Scenario(
            "except_exception_does_not_eat_it",
            tries_to_go_on,
            (),
            (Waits("sleep#0"), ENOUGH),
            says="CancelRequested is no Exception.",
        ),
        Scenario(
            "seen_and_raised_again",
            sees_it,
            (),
            (Waits("sleep#0"), ENOUGH),
            says="The body sees it, cleans up, and raises it again.",
        ),
        Scenario(
            "in_a_step",
            in_a_step,
            ("cancel",),
            free=("is_cancelled_meanwhile#0",),
            says="A running sync step finishes and is recorded; the next step is refused, the clean-up runs.",
            lines=True,
        ),
        Scenario(
            "in_a_step_of_async_code",
            in_a_step_aio,
            ("cancel",),
            free=("is_cancelled_meanwhile#0",),
            says="In async code the step is given up where it is awaited.",
            lines=True,
        ),
        Scenario(
            "failed_by_a_person",
            asleep,
            (),
            (Waits("sleep#0"), End("fail", "wrong input")),
            says="job.fail() does the same and ends as failed.",
        ),
        Scenario(
            "failed_in_a_step",
            in_a_step,
            ("fail",),
            free=("is_cancelled_meanwhile#0",),
            says="The same while a step runs.",
            lines=True,
        ),
        Scenario(
            "cleanup_fails",
            cleanup_fails,
            (),
            (Waits("sleep#0"), ENOUGH),
            says="A clean-up that fails: the job is cancelled all the same; what failed is in the history.",
        ),
        Scenario(
            "cleanup_fails_and_goes_on",
            cleanup_fails_and_goes_on,
            (),
            (Waits("sleep#0"), ENOUGH),
            says="A clean-up may catch failures of its steps.",
        ),
        Scenario(
            "two_levels", two_levels, (), (Waits("sleep#0"), ENOUGH), says="Inner and outer clean-up, in this order."
        ),
        Scenario("cleanup_without_cancel", cleanup_without_cancel, says="Without a cancel the block changes nothing."),
        Scenario("failure_cleans_up_async", failing_cleans_up, says="A failing job runs its finally, too."),
        Scenario(
            "gathered_lines_async",
            in_gathered_lines,
            (),
            (Waits("b0/signal:a#0"), Waits("b1/signal:b#0"), ENOUGH),
            lines=True,
            says="Each line cleans up.",
        ),
        Scenario(
            "arms",
            in_arms,
            (),
            (Waits("b0/signal:a#0"), Waits("b1/signal:b#0"), ENOUGH),
            lines=True,
            says="Each arm cleans up.",
        ),
        Scenario(
            "twice",
            asleep,
            (),
            (Waits("sleep#0"), ENOUGH, End("cancel", "again", again=True), End("fail", "again", again=True)),
            lines=True,
            says="The first request stands.",
        ),
        Scenario(
            "after_its_end",
            never_begins,
            (),
            (Reaches((JobState.COMPLETED,)), End("cancel", "late", again=True)),
            says="A job that has ended cannot be cancelled.",
        ),
        Scenario(
            "after_a_failure_and_retry",
            after_a_failure,
            (),
            (Waits("end"), TryAgain()),
            says="A failed job is retried, not cancelled.",
        ),
        Scenario("not_cancelled", told, (5,), says="cancelled() is false where nobody asked."),
    ]
)
