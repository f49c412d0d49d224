"""Branches and races: different things at once; the first one's number is recorded, the others are abandoned."""

from __future__ import annotations

import asyncio

from tests.scenarios.script import After, Answer, Complete, End, Scenario, Send, Waits, named

from relight import ask, branch, external, race, sleep, step, wait_signal, workflow
from relight.errors import Conflict, StepFailed


@step
def add(a: int, b: int) -> int:
    return a + b


@step
async def shout(text: str) -> str:
    return text.upper()


@step
def breaks(text: str) -> str:
    raise ValueError(text)


@workflow
def three_branches() -> list[object]:
    a, b, c = branch(add, 1, 2), branch(add, 3, 4), branch(shout, "x")
    return [c.result(), a.result(), b.result()]


@workflow
async def three_branches_aio() -> list[object]:
    a, b, c = branch(add, 1, 2), branch(shout, "x"), branch(sleep.aio, 5)
    return [await a, await b, await c]


@workflow
def branch_fails() -> str:
    a, b = branch(add, 1, 2), branch(breaks, "it")
    total = a.result()
    try:
        return b.result()
    except StepFailed as failed:
        return f"{total}, {failed.message}"


@workflow
def branch_fails_the_job() -> str:
    return branch(breaks, "it").result()


def two_steps(n: int) -> int:
    return add(add(n, 1), 1)


@workflow
def branches_of_several_steps() -> int:
    return branch(two_steps, 1).result() + branch(two_steps, 10).result()


@workflow
def sleeps_race() -> int:
    return race(branch(sleep, 300), branch(sleep, 100), branch(sleep, 200))


@workflow
async def sleeps_race_aio() -> int:
    return await race.aio(sleep.aio(300), sleep.aio(100), sleep.aio(200))


@workflow
def signal_or_time() -> str:
    paid, late = branch(waits, "paid"), branch(sleep, 3600)
    return paid.result() if race(paid, late) == 0 else "too late"


def waits(name: str) -> str:
    return wait_signal(name, type=str)


@workflow
async def answer_or_signal() -> str:
    asked, stopped = branch(ask.aio, "Go?"), branch(wait_signal.aio, "stop", "halt")
    if await race.aio(asked, stopped) == 0:
        return (await asked).choice
    return (await stopped).name


@workflow
def loser_has_no_result() -> str:
    quick, slow = branch(sleep, 1), branch(sleep, 1000)
    race(quick, slow)
    try:
        slow.result()
    except Conflict:
        return "no result"
    return "a result"


@workflow
def goes_on_after_a_race() -> int:
    quick, slow = branch(sleep, 1), branch(sleep, 1000)
    first = race(quick, slow)
    return add(first, add(10, 10))


@workflow
def winner_fails() -> str:
    broken, slow = branch(breaks, "it"), branch(sleep, 1000)
    race(broken, slow)
    try:
        return str(broken.result())
    except StepFailed as failed:
        return f"won and failed: {failed.message}"


@workflow
async def winner_fails_aio() -> int:
    return await race.aio(breaks.aio("it"), sleep.aio(1000))


def sleeps_then_adds(seconds: float) -> int:
    sleep(seconds)
    return add(1, 1)


@workflow
def loser_never_goes_on() -> int:
    quick, slow = branch(sleep, 10), branch(sleeps_then_adds, 100)
    first = race(quick, slow)
    sleep(1000)  # long enough for the loser, had it not been cut short
    return first


@workflow
def two_races() -> list[int]:
    return [race(branch(sleep, 100), branch(sleep, seconds)) for seconds in (10, 1000)]


@workflow
async def race_of_tasks() -> str:
    async def later(word: str, seconds: float) -> str:
        await sleep.aio(seconds)
        return await shout(word)

    tasks = [asyncio.ensure_future(later(word, seconds)) for word, seconds in (("slow", 60), ("quick", 6))]
    return await tasks[await race.aio(*tasks)]


@workflow
def callback_or_time() -> str:
    token = external("quote", type=str)
    quote = branch(token.wait)
    return quote.result() if race(quote, branch(sleep, 600)) == 0 else "no quote"


@workflow
def left_behind() -> str:
    branch(sleep, 86_400)
    sleep(1)  # so that it has begun to sleep
    return "did not wait"


SCENARIOS = named(
    [
        Scenario(
            "three_branches",
            three_branches,
            lines=True,
            says="Three different things at once, results asked for in another order.",
        ),
        Scenario(
            "three_branches_async", three_branches_aio, lines=True, says="The same in async code, one of them a sleep."
        ),
        Scenario(
            "branch_fails_and_is_caught", branch_fails, lines=True, says="A branch's failure is raised by its result()."
        ),
        Scenario("branch_fails_the_job", branch_fails_the_job, lines=True, says="Nobody catches it: the job fails."),
        Scenario(
            "branches_of_several_steps", branches_of_several_steps, lines=True, says="A branch may call several steps."
        ),
        Scenario(
            "sleeps_race", sleeps_race, lines=True, says="The shortest of three sleeps wins; the others are abandoned."
        ),
        Scenario("sleeps_race_async", sleeps_race_aio, lines=True, says="The same with bare awaitables."),
        Scenario(
            "signal_beats_time",
            signal_or_time,
            (),
            (Waits("b0/signal:paid#0"), Waits("b1/sleep#0"), After(1800), Send("paid", "cash")),
            lines=True,
            says="The signal comes first.",
        ),
        Scenario(
            "time_beats_signal",
            signal_or_time,
            lines=True,
            says="The time passes first; the wait for the signal is abandoned.",
        ),
        Scenario(
            "answer_beats_signal_async",
            answer_or_signal,
            (),
            (Waits("b0/ask#0"), Waits("b1/signal:stop|halt#0"), Answer("approve")),
            lines=True,
            says="A person's answer comes first.",
        ),
        Scenario(
            "signal_beats_answer_async",
            answer_or_signal,
            (),
            (Waits("b0/ask#0"), Waits("b1/signal:stop|halt#0"), Send("halt", "!")),
            lines=True,
            says="The signal comes first; the question is withdrawn.",
        ),
        Scenario("loser_has_no_result", loser_has_no_result, lines=True, says="result() of a loser raises Conflict."),
        Scenario(
            "goes_on_after_a_race", goes_on_after_a_race, lines=True, says="Steps after a race have keys of the trunk."
        ),
        Scenario("winner_fails", winner_fails, lines=True, says="What wins may have failed."),
        Scenario(
            "winner_fails_async",
            winner_fails_aio,
            lines=True,
            says="A bare awaitable that wins with an error raises it.",
        ),
        Scenario(
            "loser_never_goes_on",
            loser_never_goes_on,
            lines=True,
            says="A loser that would wake later does not call its next step.",
        ),
        Scenario("two_races", two_races, lines=True, says="Each race has a record of its own."),
        Scenario("race_of_tasks_async", race_of_tasks, lines=True, says="Plain tasks race."),
        Scenario(
            "callback_beats_time",
            callback_or_time,
            (),
            (Waits("b0/wait:quote#0"), Waits("b1/sleep#0"), Complete("quote", "42")),
            lines=True,
            says="A callback comes first.",
        ),
        Scenario("time_beats_callback", callback_or_time, lines=True, says="The time passes first."),
        Scenario(
            "cancelled_in_a_race",
            signal_or_time,
            (),
            (Waits("b0/signal:paid#0"), Waits("b1/sleep#0"), End("cancel", "enough")),
            lines=True,
            says="A cancel ends the race without a winner.",
        ),
        Scenario(
            "left_behind",
            left_behind,
            lines=True,
            says="A branch that has not ended when the workflow returns is abandoned.",
        ),
    ]
)
