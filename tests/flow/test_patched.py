"""``patched``: what an edit puts in front of what an earlier run has done is run by new jobs only, and always the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import patched, step, wait_signal, workflow
from relight.errors import InvalidArgument, NotInJob
from relight.model import JobState


@step
def old(what: str) -> str:
    return f"old {what}"


@step
def new(what: str) -> str:
    return f"new {what}"


def edited(name: str, *, is_async: bool) -> tuple[Any, Any]:
    """Return a workflow before and after an edit, in one colour: a step, a place, a wait, the place again."""

    @workflow(name=name)
    def before() -> list[str]:
        return [old("a"), wait_signal("go", type=str), old("z")]

    @workflow(name=name)
    def after() -> list[str]:
        got = [new("first")] if patched("first") else []
        got.append(old("a"))
        got += [new("before the wait")] if patched("before") else []
        got.append(wait_signal("go", type=str))
        got += [new("after it")] if patched("after") else []
        return [*got, old("z")]

    @workflow(name=name)
    async def abefore() -> list[str]:
        return [await old.aio("a"), await wait_signal.aio("go", type=str), await old.aio("z")]

    @workflow(name=name)
    async def aafter() -> list[str]:
        got = [await new.aio("first")] if patched("first") else []
        got.append(await old.aio("a"))
        got += [await new.aio("before the wait")] if patched("before") else []
        got.append(await wait_signal.aio("go", type=str))
        got += [await new.aio("after it")] if patched("after") else []
        return [*got, await old.aio("z")]

    return (abefore, aafter) if is_async else (before, after)


COLOURS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@COLOURS
def test_a_job_that_passed_a_place_goes_on_as_it_began_and_a_new_one_runs_the_edit(rig: Rig, is_async: bool) -> None:
    before, after = edited("job", is_async=is_async)
    engine = rig.start(before)
    passed = engine.submit(before)
    rig.until_put_away(passed)
    rig.stop(engine)
    engine = rig.start(after)
    engine.job(passed.id).signal("go", "on")
    assert engine.job(passed.id).result(timeout_seconds=10) == ["old a", "on", "new after it", "old z"]
    fresh = engine.submit(after)
    fresh.signal("go", "on")
    everything = ["new first", "old a", "new before the wait", "on", "new after it", "old z"]
    assert fresh.result(timeout_seconds=10) == everything
    assert rig.row(passed).state is JobState.COMPLETED


@COLOURS
def test_the_answer_is_recorded_and_stays_whatever_comes_later(rig: Rig, is_async: bool) -> None:
    _, after = edited("job", is_async=is_async)
    engine = rig.start(after)
    fresh = engine.submit(after)
    rig.until_put_away(fresh)
    assert rig.steps(fresh)["patched:first#0"].outcome == "true"
    engine = rig.restart(engine, after)
    engine.job(fresh.id).signal("go", "on")
    assert engine.job(fresh.id).result(timeout_seconds=10)[0] == "new first"
    runs = rig.steps(fresh)
    assert {key: each.outcome for key, each in runs.items() if key.startswith("patched")} == {
        "patched:first#0": "true",
        "patched:before#0": "true",
        "patched:after#0": "true",
    }


def test_a_place_before_a_fan_out_that_was_begun_was_passed(rig: Rig) -> None:
    async def arm(n: int) -> str:
        return await old.aio(str(n)) + await wait_signal.aio("go", type=str)

    @workflow(name="job")
    async def before() -> list[str]:
        return list(await asyncio.gather(arm(1), arm(2)))

    @workflow(name="job")
    async def after() -> list[str]:
        first = [await new.aio("first")] if patched("first") else []
        return [*first, *await asyncio.gather(arm(1), arm(2))]

    engine = rig.start(before)
    job = engine.submit(before)
    rig.until_put_away(job)
    rig.stop(engine)
    engine = rig.start(after)
    for _ in range(2):
        engine.job(job.id).signal("go", "!")
    assert engine.job(job.id).result(timeout_seconds=10) == ["old 1!", "old 2!"]


def test_it_belongs_in_a_workflow(rig: Rig) -> None:
    with pytest.raises(NotInJob):
        patched("x")

    @workflow
    def job() -> str:
        try:
            patched("a/b")
        except InvalidArgument as error:
            return str(error)
        return ""

    assert "patch" in rig.start(job).submit(job).result(timeout_seconds=10)
