"""Versions: several of one kind, patches, mismatches of arguments and of order, removed steps, and what an operator does then."""

from __future__ import annotations

from tests.scenarios.script import WORLD, Deploy, End, Reaches, Resume, Scenario, Send, Waits, named

from relight import patched, sleep, step, wait_signal, workflow
from relight.model import JobState


@step
def old(word: str) -> str:
    return f"old {word}"


@step
def new(word: str) -> str:
    return f"new {word}"


@step(check_args=False)
def unchecked(word: str) -> str:
    return f"got {word}"


@step
def with_default(word: str, times: int = 1) -> str:
    return word * times


@workflow(name="index", version="1")
def index_v1(word: str) -> list[str]:
    return [old(word), wait_signal("go", type=str)]


@workflow(name="index", version="2")
def index_v2(word: str) -> list[str]:
    return [new(word), wait_signal("go", type=str)]


@workflow(name="index", version="10")
async def index_v10(word: str) -> list[str]:
    return [await new.aio(f"ten {word}")]


@workflow
def inserted() -> list[str]:
    got = [new("first")] if WORLD.code > 1 else []
    return [*got, old("a"), wait_signal("go", type=str), old("z")]


@workflow
def inserted_behind_a_patch() -> list[str]:
    got = [new("first")] if WORLD.code > 1 and patched("first") else []
    return [*got, old("a"), wait_signal("go", type=str), old("z")]


@workflow
async def patched_ahead() -> list[str]:
    a = await old.aio("a")
    b = await wait_signal.aio("go", type=str)
    got = [await new.aio("ahead")] if WORLD.code > 1 and patched("ahead") else []
    return [a, b, *got, await old.aio("z")]


@workflow
def patched_in_new_jobs() -> list[str]:
    got = [new("first")] if patched("first") else []
    sleep(60)
    got += [new("again")] if patched("first") else []
    return [*got, old("a")]


@workflow
def other_argument() -> list[str]:
    a = old("a" if WORLD.code == 1 else "A")
    return [a, wait_signal("go", type=str)]


@workflow
async def other_argument_aio() -> list[str]:
    a = await old.aio("a" if WORLD.code == 1 else "A")
    return [a, await wait_signal.aio("go", type=str)]


@workflow
def other_argument_unchecked() -> list[str]:
    a = unchecked("a" if WORLD.code == 1 else "A")
    return [a, wait_signal("go", type=str)]


@workflow
def default_written_out() -> list[str]:
    a = with_default("a") if WORLD.code == 1 else with_default(word="a", times=1)
    return [a, wait_signal("go", type=str)]


@workflow
def removed() -> list[str]:
    got = [old("a")] if WORLD.code == 1 else []
    return [*got, wait_signal("go", type=str), new("z")]


@workflow
def removed_and_nothing_left() -> list[str]:
    got = [old("a")] if WORLD.code == 1 else []
    return [*got, wait_signal("go", type=str)]


@workflow
def added_ahead() -> list[str]:
    got = [old("a"), wait_signal("go", type=str)]
    return [*got, new("z")] if WORLD.code > 1 else got


@workflow
def reordered() -> list[str]:
    if WORLD.code == 1:
        got = [old("a"), new("b")]
    else:
        got = [new("b"), old("a")]
    return [*got, wait_signal("go", type=str)]


@workflow
def went_before() -> list[str]:
    first = old("a")
    return [first, wait_signal("go", type=str)]


GO = (Waits("signal:go#0"), Deploy(2), Send("go", "on"))
MISMATCH = (*GO, Reaches((JobState.AWAITING_USER,)))
ROLLED_BACK = (*MISMATCH, Deploy(1), Resume())
SCENARIOS = named(
    [
        Scenario(
            "newest_of_two",
            index_v2,
            ("x",),
            (Waits("signal:go#0"), Send("go", "on")),
            also=(index_v1,),
            says="A new job takes the newest version there is.",
        ),
        Scenario(
            "older_one_named",
            index_v1,
            ("x",),
            (Waits("signal:go#0"), Send("go", "on")),
            also=(index_v2,),
            says="So does one that was submitted by way of an older one: what has not begun has no version yet.",
        ),
        Scenario(
            "only_the_older_one",
            index_v1,
            ("x",),
            (Waits("signal:go#0"), Send("go", "on")),
            says="Where only the older one is known, it is the newest.",
        ),
        Scenario(
            "ten_is_newer_than_two_async",
            index_v10,
            ("x",),
            also=(index_v2, index_v1),
            says="Versions are compared as numbers where they are numbers.",
        ),
        Scenario(
            "inserted",
            inserted,
            (),
            MISMATCH,
            says="A new step in front of what is done stops the job: nothing is run, an operator is asked.",
        ),
        Scenario(
            "inserted_and_rolled_back", inserted, (), ROLLED_BACK, says="With the old code, and resumed, it goes on."
        ),
        Scenario(
            "inserted_behind_a_patch",
            inserted_behind_a_patch,
            (),
            GO,
            says="Behind patched() it is left out by a job that passed the place.",
        ),
        Scenario("patched_ahead_async", patched_ahead, (), GO, says="A patch at a place not yet reached is taken."),
        Scenario(
            "patched_in_new_jobs",
            patched_in_new_jobs,
            says="A new job takes the patch, everywhere, before and after a sleep.",
        ),
        Scenario(
            "other_argument", other_argument, (), MISMATCH, says="A finished step with another argument stops the job."
        ),
        Scenario("other_argument_async", other_argument_aio, (), MISMATCH, says="The same in async code."),
        Scenario(
            "other_argument_and_rolled_back",
            other_argument,
            (),
            ROLLED_BACK,
            says="With the old code, and resumed, it goes on.",
        ),
        Scenario(
            "other_argument_unchecked",
            other_argument_unchecked,
            (),
            GO,
            says="check_args=False: the record counts, whatever the argument.",
        ),
        Scenario(
            "default_written_out",
            default_written_out,
            (),
            GO,
            says="Arguments equal to their default, by position or name, are the same.",
        ),
        Scenario(
            "removed", removed_and_nothing_left, (), GO, says="A removed step is an event and an issue, not a stop."
        ),
        Scenario(
            "removed_and_more_to_do",
            removed,
            (),
            GO,
            says="So it is when a step that was not reached yet follows.",
        ),
        Scenario("added_ahead", added_ahead, (), GO, says="A step added behind all that is done is just called."),
        Scenario(
            "reordered",
            reordered,
            (),
            GO,
            says="Finished steps of different names in another order find their records: nothing is called again.",
        ),
        Scenario(
            "mismatch_and_cancelled",
            other_argument,
            (),
            (*MISMATCH, Deploy(1), End("cancel", "enough")),
            says="A stopped job can be cancelled; with the old code its last run replays.",
        ),
        Scenario("same_code", went_before, (), GO, says="A deploy that changes nothing here changes nothing."),
    ]
)
