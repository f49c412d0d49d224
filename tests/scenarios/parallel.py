"""Fan-out: all must succeed, so many may fail, a share may fail, so many must succeed; limits, keys, arms of several steps."""

from __future__ import annotations

import asyncio

from tests.scenarios.script import WORLD, Answer, End, Scenario, Send, TryAgain, Waits, named

from relight import Retry, ask, current_step, parallel, sleep, step, wait_signal, workflow
from relight import parallel as fan
from relight.errors import StepError, StepFailed


@step
def half(n: int) -> int:
    if n % 2 and "mended" not in WORLD.books:
        raise ValueError(f"{n} is odd")
    return n // 2


@step
async def half_aio(n: int) -> int:
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n // 2


@step
def double(n: int) -> int:
    return 2 * n


@step(retry=Retry(tries=3, first_seconds=1, jitter=False))
def second_time(n: int) -> int:
    if current_step().try_number == 1:
        raise ConnectionError("reset")
    return n


@workflow
def all_of(numbers: list[int]) -> list[int]:
    return parallel(half, numbers)


@workflow
async def all_of_aio(numbers: list[int]) -> list[int]:
    return await parallel.aio(half_aio, numbers)


@workflow
async def sync_steps_in_async_code(numbers: list[int]) -> list[int]:
    return await parallel.aio(double, numbers)


@workflow
def caught(numbers: list[int]) -> str:
    try:
        parallel(half, numbers)
    except ExceptionGroup as group:
        return ", ".join(error.message for error in group.exceptions if isinstance(error, StepFailed))
    return "none"


@workflow
def max_failed(numbers: list[int], allowed: int) -> list[int]:
    found = parallel(half, numbers, max_failed=allowed, limit=1)
    return [*found.ok, *(-index for index, _ in found.failed)]


@workflow
async def max_failed_aio(numbers: list[int], allowed: int) -> list[int]:
    found = await parallel.aio(half_aio, numbers, max_failed=allowed)
    return [*found.ok, *(-index for index, _ in found.failed)]


@workflow
def share(numbers: list[int], allowed: float) -> list[int]:
    return parallel(half, numbers, max_failed_share=allowed, limit=1).ok


@workflow
async def min_ok_aio(numbers: list[int], needed: int) -> list[int]:
    return (await parallel.aio(half_aio, numbers, min_ok=needed)).ok


@workflow
def min_ok(numbers: list[int], needed: int) -> list[int]:
    return parallel(half, numbers, min_ok=needed, limit=1).ok


@workflow
def beyond_and_caught(numbers: list[int]) -> int:
    try:
        return len(parallel(half, numbers, max_failed=0, limit=1).ok)
    except ExceptionGroup as group:
        return -len(group.exceptions)


@workflow
def keyed(words: list[str]) -> list[int]:
    return parallel(lambda word: double(len(word)), words, key=str)


def both(n: int) -> int:
    return half(double(n))


@workflow
def keyed_step(numbers: list[int]) -> list[int]:
    return parallel(double, numbers, key=lambda n: f"n{n}", limit=1)


@workflow
def arms_of_two_steps(numbers: list[int]) -> list[int]:
    return parallel(both, numbers, limit=2)


async def both_aio(n: int) -> int:
    await sleep.aio(10 * n)
    return await half_aio(await double.aio(n))


@workflow
async def arms_that_sleep(numbers: list[int]) -> list[int]:
    return await parallel.aio(both_aio, numbers)


def waits(name: str) -> str:
    return wait_signal(name, type=str)


@workflow
def arms_that_wait(names: list[str]) -> list[str]:
    return parallel(waits, names)


async def asks(name: str) -> str:
    return (await ask.aio(f"{name}?")).choice


@workflow
async def arms_that_ask(names: list[str]) -> list[str]:
    return await parallel.aio(asks, names)


@workflow
def nested(rows: list[list[int]]) -> list[int]:
    return parallel(lambda row: sum(parallel(double, row)), rows)


@workflow
def nothing() -> list[int]:
    return parallel(double, [])


@workflow
def one_at_a_time(numbers: list[int]) -> list[int]:
    return parallel(double, numbers, limit=1)


@workflow
def retried_arms(numbers: list[int]) -> list[int]:
    return parallel(second_time, numbers)


@workflow
async def gathered(numbers: list[int]) -> list[int]:
    return list(await asyncio.gather(*(half_aio(n) for n in numbers)))


@workflow
async def task_group(numbers: list[int]) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(both_aio(n)) for n in numbers]
    return [task.result() for task in tasks]


@workflow
def twice(numbers: list[int]) -> list[int]:
    return fan(double, fan(double, numbers))


@step
def stops(n: int) -> int:
    raise StepError(f"no {n}", code=f"no_{n}", retryable=False)


@workflow
def codes(numbers: list[int]) -> list[str]:
    return [str(error.error_code) for _, error in parallel(stops, numbers, max_failed=len(numbers)).failed]


SCENARIOS = named(
    [
        Scenario("all_of", all_of, ([2, 4, 6, 8],), lines=True, says="All succeed: results in the order of the items."),
        Scenario("all_of_async", all_of_aio, ([2, 4, 6, 8],), lines=True, says="The same in async code."),
        Scenario(
            "sync_steps_in_async_code",
            sync_steps_in_async_code,
            ([1, 2, 3],),
            lines=True,
            says="Sync steps fan out of an async workflow.",
        ),
        Scenario(
            "one_of_all_fails",
            all_of,
            ([2, 3, 4],),
            lines=True,
            says="All are tried, then one group of failures ends the job.",
        ),
        Scenario(
            "two_of_all_fail_and_are_caught",
            caught,
            ([2, 3, 4, 5],),
            lines=True,
            says="The group holds each failure, in the order of the items.",
        ),
        Scenario(
            "failed_arms_run_again",
            all_of,
            ([2, 3, 4, 5],),
            (TryAgain(),),
            lines=True,
            says="After an operator's retry all failed arms run again, and no finished one.",
        ),
        Scenario(
            "within_max_failed", max_failed, ([2, 3, 4], 1), lines=True, says="One failure of one allowed is an issue."
        ),
        Scenario(
            "within_max_failed_async", max_failed_aio, ([2, 3, 4, 5], 2), lines=True, says="Two of two, in async code."
        ),
        Scenario("none_failed_of_some_allowed", max_failed, ([2, 4], 1), lines=True, says="No failure: no issue."),
        Scenario(
            "beyond_max_failed",
            max_failed,
            ([2, 3, 5, 4], 1),
            lines=True,
            says="The second failure is one too many: the fourth item never begins, and the group is raised.",
        ),
        Scenario(
            "beyond_and_caught",
            beyond_and_caught,
            ([3, 2, 4],),
            lines=True,
            says="Beyond the tolerance the group can be caught; what was left out stays out.",
        ),
        Scenario("within_share", share, ([2, 3, 4, 6], 0.25), lines=True, says="A quarter may fail, and does."),
        Scenario("beyond_share", share, ([2, 3, 5, 6], 0.25), lines=True, says="Two quarters are too many."),
        Scenario(
            "min_ok_reached", min_ok, ([2, 3, 4], 2), lines=True, says="Two must succeed, and do; all items are tried."
        ),
        Scenario("min_ok_async", min_ok_aio, ([3, 2, 5], 1), lines=True, says="One success is enough, in async code."),
        Scenario(
            "min_ok_out_of_reach",
            min_ok,
            ([3, 5, 2, 4], 3),
            lines=True,
            says="After two failures of four, three cannot succeed any more: the rest never begins.",
        ),
        Scenario("keyed", keyed, (["a", "bcd", "ef"],), lines=True, says="With key= each arm is named by its item."),
        Scenario("keyed_step", keyed_step, ([1, 2],), lines=True, says="The same for a step."),
        Scenario("arms_of_two_steps", arms_of_two_steps, ([2, 3],), lines=True, says="An arm may call several steps."),
        Scenario(
            "arms_that_sleep_async",
            arms_that_sleep,
            ([1, 2, 3],),
            lines=True,
            says="Arms sleep side by side; the run is put away between.",
        ),
        Scenario(
            "arms_that_wait",
            arms_that_wait,
            (["a", "b"],),
            (Waits("b0/signal:a#0"), Waits("b1/signal:b#0"), Send("b", "B"), Send("a", "A")),
            lines=True,
            says="Each arm waits for a signal of its own.",
        ),
        Scenario(
            "arms_that_ask_async",
            arms_that_ask,
            (["left", "right"],),
            (Waits("b0/ask#0"), Waits("b1/ask#0"), Answer("approve", 0), Answer("reject", 1)),
            lines=True,
            says="Each arm asks a person.",
        ),
        Scenario("nested", nested, ([[1, 2], [3]],), lines=True, says="A fan-out in each arm of a fan-out."),
        Scenario("nothing_to_do", nothing, says="No items: no results, no branches."),
        Scenario("one_at_a_time", one_at_a_time, ([1, 2, 3],), says="With limit=1 items are done in their order."),
        Scenario(
            "retried_arms",
            retried_arms,
            ([1, 2, 3],),
            lines=True,
            says="Each arm retries by itself; the run is put away while all pause.",
        ),
        Scenario(
            "gathered_async",
            gathered,
            ([2, 4, 6],),
            lines="keys",
            says="Plain gather: keys are taken in the order of the calls.",
        ),
        Scenario(
            "gathered_and_one_fails_async", gathered, ([2, 3],), lines="keys", says="gather raises the first failure."
        ),
        Scenario(
            "task_group_async",
            task_group,
            ([1, 2],),
            lines=True,
            says="A TaskGroup's tasks are branches in the order of creation.",
        ),
        Scenario("one_after_the_other", twice, ([1, 2],), lines=True, says="A second fan-out has branches of its own."),
        Scenario("codes_of_failures", codes, ([1, 2],), lines=True, says="Each failure has its code."),
        Scenario(
            "cancelled_while_arms_wait",
            arms_that_wait,
            (["a", "b"],),
            (Waits("b0/signal:a#0"), Waits("b1/signal:b#0"), End("cancel", "enough")),
            lines=True,
            says="A cancel reaches every arm.",
        ),
    ]
)
