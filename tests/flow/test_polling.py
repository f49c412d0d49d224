"""Polling: one row, the last state, and a crash goes on from it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import Retry, current_step, poll, step, workflow
from relight.errors import InvalidArgument, JobFailed, StepFailed, WaitTimeout
from relight.model import JobState, StepKind, StepState


@dataclass
class Batch:
    looked: int = 0


@step
def look(batch: Batch) -> Batch:
    return Batch(batch.looked + 1)


@step
async def alook(batch: Batch) -> Batch:
    await asyncio.sleep(0)
    return Batch(batch.looked + 1)


@workflow(name="polls")
def polls(wanted: int) -> int:
    return poll(look, Batch(), until=lambda b: b.looked >= wanted, every_seconds=0.02).looked


@workflow(name="polls")
async def apolls(wanted: int) -> int:
    return (await poll.aio(alook, Batch(), until=lambda b: b.looked >= wanted, every_seconds=0.02)).looked


@workflow(name="polls")
async def mixed(wanted: int) -> int:
    return (await poll.aio(look, Batch(), until=lambda b: b.looked >= wanted, every_seconds=0.02)).looked


@pytest.mark.parametrize("flow", [polls, apolls, mixed], ids=["sync", "async", "a sync check in async code"])
@pytest.mark.parametrize("keep", [0, 5], ids=["put away", "in memory"])
def test_the_state_is_threaded_until_it_will_do(rig: Rig, flow: Any, keep: float) -> None:
    engine = rig.start(flow, suspend_after_seconds=keep)
    job = engine.submit(flow, 4)
    assert job.result(timeout_seconds=20) == 4
    [row] = [s for s in rig.steps(job).values() if s.kind is StepKind.POLL]
    assert (row.state, row.outcome, row.try_number) == (StepState.COMPLETED, '{"looked":4}', 4)
    assert rig.told(job, "step_began", "step_finished") == ["step_began"] * 4 + ["step_finished"]


def test_the_first_check_is_made_with_first_and_its_result_is_what_counts(rig: Rig) -> None:
    @workflow
    def job() -> int:
        return poll(lambda n: n + 1, 5, until=lambda n: n >= 5, every_seconds=60)

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 6


def test_a_crash_goes_on_from_the_last_state_and_time(rig: Rig) -> None:
    given: list[int] = []
    cut, dead = threading.Event(), threading.Event()

    def check(n: int) -> int:
        given.append(n)
        if n == 2 and not cut.is_set():
            cut.set()
            dead.wait(20)
        return n + 1

    @workflow
    def job() -> int:
        return poll(check, 0, until=lambda n: n >= 4, every_seconds=0.01)

    engine = rig.start(job)
    submitted = engine.submit(job)
    wait_for(cut)
    engine = rig.restart(engine, job)
    dead.set()
    assert engine.job(submitted.id).result(timeout_seconds=20) == 4
    assert given == [0, 1, 2, 2, 3]
    assert rig.steps(submitted)["poll:check#0"].try_number == 4


def test_a_job_between_two_checks_costs_a_row_only_and_says_when_it_looks_again(rig: Rig) -> None:
    @workflow
    def job() -> int:
        return poll(lambda n: n + 1, 0, until=lambda n: n > 1, every_seconds=3600)

    engine = rig.start(job)
    submitted = engine.submit(job)
    rig.until_put_away(submitted)
    why = submitted.why()
    assert why.causes[0].code == "sleeping"
    assert "polls lambda: after 1 check its state will not do yet, the check is made again at" in why.summary
    rig.crash(engine)
    rig.start(job)
    assert rig.steps(submitted)["poll:lambda#0"].outcome == "1"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_it_runs_out_of_time_now_and_on_replay(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> str:
        try:
            poll(lambda n: n + 1, 0, until=lambda n: False, every_seconds=0.03, timeout_seconds=0.1)
        except WaitTimeout as late:
            summary = late.summary
        return summary

    @workflow(name="job")
    async def ajob() -> str:
        try:
            await poll.aio(lambda n: n + 1, 0, until=lambda n: False, every_seconds=0.03, timeout_seconds=0.1)
        except WaitTimeout as late:
            summary = late.summary
        return summary

    wanted = job if colour == "sync" else ajob
    submitted = rig.start(wanted).submit(wanted)
    assert submitted.result(timeout_seconds=20) == "polled lambda"
    [failed] = rig.events(submitted, "step_failed")
    assert "WaitTimeout" in failed.payload
    assert 2 <= rig.steps(submitted)["poll:lambda#0"].try_number <= 5


def test_an_operator_s_retry_gives_a_poll_that_ran_out_of_time_another_one(rig: Rig) -> None:
    ready = threading.Event()

    @workflow
    def job() -> int:
        return poll(lambda n: n + 1, 0, until=lambda n: ready.is_set(), every_seconds=0.02, timeout_seconds=0.05)

    submitted = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        submitted.result(timeout_seconds=10)
    before = int(rig.steps(submitted)["poll:lambda#0"].outcome or 0)
    ready.set()
    submitted.retry()
    eventually(lambda: submitted.state() == JobState.COMPLETED)
    assert submitted.result() == before + 1


def test_what_asks_about_the_state_may_fail_and_the_job_goes_on_after_the_fix(rig: Rig) -> None:
    mended = threading.Event()

    def will_do(n: int) -> bool:
        if n == 2 and not mended.is_set():
            raise KeyError("no such field")
        return n >= 3

    @workflow
    def job() -> int:
        return poll(lambda n: n + 1, 0, until=will_do, every_seconds=0.01)

    submitted = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match="KeyError"):
        submitted.result(timeout_seconds=10)
    mended.set()
    submitted.retry()
    eventually(lambda: submitted.state() == JobState.COMPLETED)
    assert submitted.result() == 3


def test_a_check_is_tried_again_by_its_own_retry_and_keeps_the_state(rig: Rig) -> None:
    tries: list[tuple[int, int]] = []

    @step(retry=Retry(tries=3, first_seconds=0.01, jitter=False))
    def flaky(n: int) -> int:
        tries.append((n, current_step().try_number))
        if len(tries) in (2, 3):
            raise ConnectionError("reset")
        return n + 1

    @workflow
    def job() -> int:
        return poll(flaky, 0, until=lambda n: n >= 2, every_seconds=0.01)

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 2
    assert [n for n, _ in tries] == [0, 1, 1, 1]


def test_a_check_without_a_retry_fails_the_poll_as_a_step_would(rig: Rig) -> None:
    calls: list[int] = []

    def check(n: int) -> int:
        calls.append(n)
        raise ValueError("broken")

    @workflow
    def job() -> str:
        try:
            return str(poll(check, 7, until=lambda n: True, every_seconds=1))
        except StepFailed as failed:
            said = f"{failed.step_key} {failed.error_type} {failed.message}"
        return said

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "poll:check#0 ValueError broken"
    assert calls == [7]


def test_it_says_what_is_wrong_with_it(rig: Rig) -> None:
    @step(in_doubt="ask")
    def charge(n: int) -> int:
        return n

    refused: list[str] = []

    @workflow
    def job() -> None:
        for check, more in (
            (charge, {}),
            (5, {}),
            (look, {"every_seconds": 0}),
            (look, {"until": None}),
            (look, {"timeout_seconds": -1}),
        ):
            try:
                poll(check, 1, **({"until": bool, "every_seconds": 1} | more))  # type: ignore[arg-type]
            except InvalidArgument as error:
                refused.append(str(error))

    rig.start(job).submit(job).result(timeout_seconds=10)
    assert len(refused) == 5
