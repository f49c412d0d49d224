"""Time limits of tries: an async try is cancelled; a sync one cannot be, so it is overdue until its function returns."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import Retry, cancelled, current_step, step, workflow
from relight.errors import JobFailed, StepFailed
from relight.model import StepState


def test_an_async_try_is_cancelled_at_its_time_limit(rig: Rig) -> None:
    ended: list[str] = []

    @step(timeout_seconds=0.05)
    async def slow() -> None:
        try:
            await asyncio.sleep(30)  # sleep-ok: a step that is cancelled
        finally:
            ended.append("cancelled")

    @workflow
    async def job() -> str:
        try:
            await slow()
        except StepFailed as error:
            return f"{error.error_type}: {error.message}"
        return ""

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "TimeoutError: slow#0 took longer than 0.05 s"
    assert ended == ["cancelled"]
    assert rig.steps(done)["slow#0"].state is StepState.FAILED


def test_an_async_try_that_timed_out_is_tried_again(rig: Rig) -> None:
    @step(timeout_seconds=0.05, retry=Retry(tries=2, first_seconds=0))
    async def slow() -> int:
        if current_step().try_number == 1:
            await asyncio.sleep(30)  # sleep-ok: a step that is cancelled
        return current_step().try_number

    @workflow
    async def job() -> int:
        return await slow()

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 2


def test_a_timeout_error_of_the_steps_own_is_its_own(rig: Rig) -> None:
    @step(timeout_seconds=30)
    async def own() -> None:
        raise TimeoutError("from the server")

    @workflow
    async def job() -> str:
        try:
            await own()
        except StepFailed as error:
            return f"{error.error_type}: {error.message}"
        return ""

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "TimeoutError: from the server"


def test_an_async_step_in_a_sync_workflow_is_cancelled_too(rig: Rig) -> None:
    @step(timeout_seconds=0.05)
    async def slow() -> None:
        await asyncio.sleep(30)  # sleep-ok: a step that is cancelled

    @workflow
    def job() -> None:
        slow.sync()

    with pytest.raises(JobFailed, match="TimeoutError"):
        rig.start(job).submit(job).result(timeout_seconds=10)


@pytest.mark.parametrize("colour", ["sync", "aio"])
def test_a_sync_try_is_overdue_and_the_next_one_begins_only_when_it_has_returned(rig: Rig, colour: str) -> None:
    overdue, go = threading.Event(), threading.Event()
    running: list[int] = []
    most: list[int] = []

    @step(timeout_seconds=0.05, retry=Retry(tries=2, first_seconds=0))
    def slow() -> int:
        running.append(current_step().try_number)
        most.append(len(running))
        if current_step().try_number == 1:
            eventually(cancelled, "cancelled() after the time limit")
            overdue.set()
            wait_for(go)
        running.pop()
        return current_step().try_number

    @workflow(name="job")
    def job() -> int:
        return slow()

    @workflow(name="job")
    async def ajob() -> int:
        return await slow.aio()

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    done = engine.submit(wanted)
    wait_for(overdue)
    [told] = eventually(lambda: rig.events(done, "step_abandoned"))
    assert '"reason":"timeout"' in told.payload
    assert engine.health()["abandoned_threads"] == 1
    assert rig.told(done).count("step_began") == 1
    go.set()
    assert done.result(timeout_seconds=10) == 2
    assert most == [1, 1]
    assert rig.told(done, "step_began", "step_failed", "step_finished") == [
        "step_began",
        "step_failed",
        "step_began",
        "step_finished",
    ]


def test_what_an_overdue_try_returned_is_not_its_outcome(rig: Rig) -> None:
    @step(timeout_seconds=0.05)
    def slow() -> str:
        eventually(cancelled)
        return "too late"

    @workflow
    def job() -> str:
        return slow()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match=r"slow#0: .*TimeoutError: slow#0 took longer than 0\.05 s"):
        failed.result(timeout_seconds=10)


def test_a_try_within_its_time_limit_is_not_overdue_afterwards(rig: Rig) -> None:
    @step(timeout_seconds=0.2)
    def quick() -> bool:
        return cancelled()

    @step
    def later() -> bool:
        threading.Event().wait(0.3)
        return cancelled()

    @workflow
    def job() -> list[bool]:
        return [quick(), later()]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [False, False]
    assert rig.told(done, "step_abandoned") == []


def test_a_step_knows_its_time_limit(rig: Rig) -> None:
    @step(timeout_seconds=60)
    def limited() -> bool:
        return current_step().deadline is not None

    @step
    def unlimited() -> bool:
        return current_step().deadline is None

    @workflow
    def job() -> list[bool]:
        return [limited(), unlimited()]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [True, True]


def test_an_uncertain_sync_try_past_its_limit_is_in_doubt_where_it_matters(rig: Rig) -> None:
    @step(timeout_seconds=0.05, retry=Retry(tries=2, first_seconds=0), in_doubt="ask")
    def mail() -> str:
        if current_step().try_number == 1:
            eventually(cancelled)
        return "sent"

    @workflow
    def job() -> str:
        return mail()

    done = rig.start(job).submit(job)
    question = rig.question(done)
    assert "mail#0" in question.question and "try 1" in question.question
    assert rig.told(done).count("step_began") == 1
    done.answer("not_done", by="ada")
    assert done.result(timeout_seconds=10) == "sent"
    assert rig.told(done).count("step_began") == 2


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("listed", ["on", "not_on"])
def test_a_time_limit_is_a_timeout_error_that_a_retry_can_name(rig: Rig, colour: str, listed: str) -> None:
    chosen = Retry(tries=2, first_seconds=0, on=(TimeoutError,))
    if listed == "not_on":
        chosen = Retry(tries=2, first_seconds=0, not_on=(TimeoutError,))

    @step(timeout_seconds=0.05, retry=chosen)
    def slow() -> int:
        if current_step().try_number == 1:
            eventually(cancelled)
        return current_step().try_number

    @step(timeout_seconds=0.05, retry=chosen)
    async def aslow() -> int:
        if current_step().try_number == 1:
            await asyncio.sleep(30)  # sleep-ok: a step that is cancelled
        return current_step().try_number

    @workflow
    def job() -> str:
        try:
            return str(slow() if colour == "sync" else aslow.sync())
        except StepFailed as error:
            assert error.is_a(TimeoutError)
            return f"{error.error_type} {error.tries}"

    got = rig.start(job).submit(job).result(timeout_seconds=10)
    assert got == ("2" if listed == "on" else "TimeoutError 1")
