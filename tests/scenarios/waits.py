"""Durable waits: sleeps, absolute times, delayed jobs; what they cost a run, and that a crash does not start them anew."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.scenarios.script import After, Scenario, Waits, named

from relight import now, sleep, sleep_until, step, workflow


@step
def note(word: str) -> str:
    return word


@workflow
def sleeps(seconds: float) -> str:
    sleep(seconds)
    return "woken"


@workflow
async def sleeps_aio(seconds: float) -> str:
    await sleep.aio(seconds)
    return "woken"


@workflow
def between_steps() -> list[str]:
    first = note("before")
    sleep(3600)
    return [first, note("after")]


@workflow
async def three_in_a_row() -> bool:
    began = now()
    for days in (1, 30, 365):
        await sleep.aio(days * 86_400)
    return now() - began >= timedelta(days=396)


@workflow
def until_an_hour_from_now() -> bool:
    due = now() + timedelta(hours=1)
    sleep_until(due)
    return now() >= due


@workflow
async def until_the_past() -> str:
    began = now()
    await sleep_until.aio(began - timedelta(days=1))
    return await note.aio("at once")


@workflow
def sleep_until_is_over_already() -> bool:
    began = now()
    sleep(100)
    sleep_until(began + timedelta(seconds=100))
    return now() - began < timedelta(seconds=160)


@workflow
def naps() -> str:
    sleep(0)
    return note("at once")


@workflow
async def side_by_side() -> list[str]:
    async def one(seconds: float) -> str:
        await sleep.aio(seconds)
        return await note.aio(f"after {seconds:g}")

    return list(await asyncio.gather(one(300), one(100), one(200)))


@workflow
async def step_beside_a_sleep() -> list[str]:
    async def napping() -> str:
        await sleep.aio(60)
        return "slept"

    return list(await asyncio.gather(napping(), note.aio("meanwhile")))


@workflow
def duration_counts_from_the_first_time() -> bool:
    began = now()
    note("a")
    sleep(1000)
    return timedelta(seconds=1000) <= now() - began < timedelta(seconds=1400)


@workflow
def in_a_loop(times: int) -> int:
    done = 0
    while done < times:
        sleep(10)
        done += len(note("x"))
    return done


@workflow
def begins_late(word: str) -> str:
    return note(word)


SCENARIOS = named(
    [
        Scenario(
            "sleeps",
            sleeps,
            (3600,),
            says="The run is put away for an hour, and another one of the same attempt ends the job.",
        ),
        Scenario("sleeps_async", sleeps_aio, (3600,), says="The same in async code."),
        Scenario(
            "short_sleep_in_memory",
            sleeps,
            (1,),
            engine={"suspend_after_seconds": 5},
            says="A sleep shorter than suspend_after_seconds stays in memory: one run.",
        ),
        Scenario("between_steps", between_steps, says="The step before the sleep is not called again after it."),
        Scenario("three_in_a_row_async", three_in_a_row, says="A year of sleep costs four runs."),
        Scenario("until_an_hour_from_now", until_an_hour_from_now, says="An absolute time is met."),
        Scenario("until_the_past_async", until_the_past, says="A time that has passed does not put the run away."),
        Scenario(
            "sleep_until_is_over_already",
            sleep_until_is_over_already,
            says="A second wait for the same time returns at once.",
        ),
        Scenario("no_time_at_all", naps, says="sleep(0) does not put the run away."),
        Scenario(
            "side_by_side_async",
            side_by_side,
            lines=True,
            says="Three sleeps at once end in the order of their length; results come in the order of the calls.",
        ),
        Scenario(
            "step_beside_a_sleep_async",
            step_beside_a_sleep,
            lines=True,
            says="The step beside is finished before the run is put away, and not called again.",
        ),
        Scenario(
            "duration_counts_from_the_first_time",
            duration_counts_from_the_first_time,
            (),
            (Waits("sleep#0"), After(500)),
            says="Half of the sleep passes, then the rest; a crash between does not start it anew.",
        ),
        Scenario("in_a_loop", in_a_loop, (3,), says="Sleeps in a loop are numbered like steps."),
        Scenario(
            "delayed_job",
            begins_late,
            ("later",),
            submit={"delay_seconds": 600},
            says="A delayed job begins when its time has come, in one run.",
        ),
        Scenario(
            "delayed_job_sleeps", sleeps, (60,), submit={"delay_seconds": 60}, says="A delay and a sleep are two waits."
        ),
    ]
)
