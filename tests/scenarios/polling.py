"""Condition polling: until a state will do; pauses, limits, retries of a check, only the last state kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.scenarios.script import WORLD, After, End, Scenario, Waits, named

from relight import Retry, poll, step, workflow
from relight.errors import StepFailed, WaitTimeout


@dataclass
class Batch:
    id: str
    looked: int = 0
    done: bool = False


@step
def look(batch: Batch) -> Batch:
    return Batch(batch.id, batch.looked + 1, done=batch.looked >= 2)


@step
async def look_aio(batch: Batch) -> Batch:
    return Batch(batch.id, batch.looked + 1, done=batch.looked >= 2)


@step
def more(n: int) -> int:
    return n + 1


@step(retry=Retry(tries=3, first_seconds=1, jitter=False))
def flaky(n: int) -> int:
    if n == 1 and WORLD.books.setdefault("failed", 0) < 1:
        WORLD.books["failed"] += 1
        raise ConnectionError("reset")
    return n + 1


@step
def breaks(n: int) -> int:
    if n == 2:
        raise ValueError("gone")
    return n + 1


@workflow
def third_look(id: str) -> int:
    return poll(look, Batch(id), until=lambda b: b.done, every_seconds=60).looked


@workflow
async def third_look_aio(id: str) -> int:
    found = await poll.aio(look_aio, Batch(id), until=lambda b: b.done, every_seconds=60)
    return found.looked


@workflow
def first_look() -> int:
    return poll(more, 0, until=lambda n: n >= 1, every_seconds=3600)


@workflow
def plain_function() -> int:
    return poll(lambda n: n + 10, 0, until=lambda n: n >= 30, every_seconds=5)


@workflow
async def sync_step_in_async_code() -> int:
    return await poll.aio(more, 0, until=lambda n: n == 2, every_seconds=5)


@workflow
def runs_out() -> str:
    try:
        return str(poll(more, 0, until=lambda n: n > 99, every_seconds=60, timeout_seconds=150))
    except WaitTimeout:
        return "out of time"


@workflow
async def runs_out_and_fails() -> int:
    return await poll.aio(more, 0, until=lambda n: n > 99, every_seconds=60, timeout_seconds=90)


@workflow
def just_in_time() -> int:
    return poll(more, 0, until=lambda n: n == 3, every_seconds=60, timeout_seconds=150)


@workflow
def retried_check() -> int:
    return poll(flaky, 0, until=lambda n: n == 3, every_seconds=60)


@workflow
async def failing_check() -> str:
    try:
        return str(await poll.aio(breaks, 0, until=lambda n: n > 5, every_seconds=1))
    except StepFailed as failed:
        return failed.message


@workflow
def failing_check_fails() -> int:
    return poll(breaks, 0, until=lambda n: n > 5, every_seconds=1)


@workflow
def between_steps() -> list[int]:
    first = more(0)
    polled = poll(more, first, until=lambda n: n == 3, every_seconds=10)
    return [first, polled, more(polled)]


@workflow
async def two_at_once() -> list[int]:
    return list(
        await asyncio.gather(
            poll.aio(more, 0, until=lambda n: n == 2, every_seconds=10),
            poll.aio(more, 10, until=lambda n: n == 13, every_seconds=7),
        )
    )


@workflow
def twice_in_a_row() -> list[int]:
    return [poll(more, n, until=lambda n: n % 3 == 0, every_seconds=1) for n in (1, 4)]


@workflow
def for_ever() -> int:
    return poll(more, 0, until=lambda n: False, every_seconds=1000)


SCENARIOS = named(
    [
        Scenario(
            "third_look",
            third_look,
            ("b",),
            says="Three looks, a minute apart, put away between; one row, the last state.",
        ),
        Scenario("third_look_async", third_look_aio, ("b",), says="The same in async code."),
        Scenario("first_look", first_look, says="A first look that will do: nothing is put away."),
        Scenario("plain_function", plain_function, says="A check need not be a step."),
        Scenario("sync_step_in_async_code", sync_step_in_async_code, says="An async workflow polls a sync step."),
        Scenario("runs_out", runs_out, says="After 150 s WaitTimeout is raised, and can be caught."),
        Scenario("runs_out_and_fails_async", runs_out_and_fails, says="Nobody catches it: the job fails."),
        Scenario("just_in_time", just_in_time, says="The third look comes after 120 s of 150."),
        Scenario(
            "retried_check", retried_check, says="A check that fails is tried again by its own retry, within its turn."
        ),
        Scenario(
            "failing_check_async", failing_check, says="One without retry raises its failure, which can be caught."
        ),
        Scenario("failing_check_fails", failing_check_fails, says="Nobody catches it: the job fails."),
        Scenario("between_steps", between_steps, says="Steps before and after are called once."),
        Scenario("two_at_once_async", two_at_once, lines=True, says="Two lines poll, each at its own pace."),
        Scenario("twice_in_a_row", twice_in_a_row, says="Two polls are two rows."),
        Scenario(
            "cancelled_between_looks",
            for_ever,
            (),
            (Waits("poll:more#0"), After(500), End("cancel", "enough")),
            says="A cancel ends a poll between two looks.",
        ),
    ]
)
