"""Waits that timed out: each tells so by an event of its own, and an operator's retry begins it anew with all its time."""

from __future__ import annotations

from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import ask, external, parallel, sleep, start, wait_signal, workflow
from relight.errors import JobFailed
from relight.model import JobState

SOON = 0.05


@workflow
def for_signal() -> str:
    return wait_signal("go", type=str, timeout_seconds=SOON)


@workflow
def for_one_of_two() -> Any:
    return wait_signal("a", "b", timeout_seconds=SOON).name


@workflow
def slow() -> str:
    return wait_signal("end", type=str)


@workflow
def for_child() -> str:
    return start(slow).result(timeout_seconds=SOON)


@workflow
def for_token() -> str:
    return external("scan", type=str).wait(timeout_seconds=SOON)


@workflow
def for_person() -> str:
    return ask("Go?", timeout_seconds=SOON).choice


CASES = {
    for_signal: "signal:go",
    for_one_of_two: "signal:a|b",
    for_child: "child_result:result",
    for_token: "external:scan",
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.kind)
def test_a_time_out_is_an_event_of_its_own(rig: Rig, kind: Any) -> None:
    job = rig.start(kind, slow).submit(kind)
    with pytest.raises(JobFailed, match="WaitTimeout") as failed:
        job.result(timeout_seconds=10)
    [told] = rig.events(job, "wait_timed_out")
    assert CASES[kind] in str(told.payload) and told.actor == "system"
    assert failed.value.fields["step_key"] == told.step_key


def test_a_look_is_no_time_out(rig: Rig) -> None:
    @workflow
    def looks() -> str:
        return wait_signal("go", type=str, timeout_seconds=0, default="nothing")

    job = rig.start(looks).submit(looks)
    assert job.result(timeout_seconds=10) == "nothing"
    assert rig.events(job, "wait_timed_out") == []


def until_failed(rig: Rig, kind: Any) -> Any:
    engine = rig.start(kind, slow)
    job = engine.submit(kind)
    rig.until(job, JobState.FAILED)
    return engine, job


@pytest.mark.parametrize("kind", [for_signal, for_one_of_two], ids=lambda kind: kind.kind)
def test_a_retry_waits_for_the_signal_again(rig: Rig, kind: Any) -> None:
    _, job = until_failed(rig, kind)
    job.retry()
    rig.until(job, JobState.FAILED)
    assert len(rig.events(job, "wait_started")) == len(rig.events(job, "wait_timed_out")) == 2
    assert {step.state for step in rig.steps(job).values()} == {"completed"}


@workflow
def for_long_signal() -> str:
    return wait_signal("go", "stop", timeout_seconds=1).name


def test_a_signal_after_the_retry_comes_in_time(rig: Rig) -> None:
    _, job = until_failed(rig, for_long_signal)
    job.retry()
    job.signal("stop", 1)
    assert job.result(timeout_seconds=10) == "stop"
    assert {step.state for step in rig.steps(job).values()} == {"completed"}


def test_a_retry_waits_for_the_token_again(rig: Rig) -> None:
    _, job = until_failed(rig, for_token)
    job.retry()
    rig.until(job, JobState.FAILED)
    assert len(rig.events(job, "wait_timed_out")) == 2


def test_a_retry_asks_the_person_again(rig: Rig) -> None:
    _, job = until_failed(rig, for_person)
    job.retry()
    rig.until(job, JobState.FAILED)
    assert [row.state for row in rig.decisions(job)] == ["expired", "expired"]


@workflow
def with_default() -> list[str]:
    parallel(_broken, ["x"])
    return []


def _broken(word: str) -> str:
    wait_signal("go", type=str, timeout_seconds=0.01, default="later")
    raise ValueError(word)


def test_a_wait_with_a_default_is_not_opened_again(rig: Rig) -> None:
    engine, job = until_failed(rig, with_default)
    engine.core.retry(job.id, by=None, all_failed=True)
    rig.until(job, JobState.FAILED)
    assert len(rig.events(job, "wait_timed_out")) == 1


@workflow
def sleeps_and_fails() -> None:
    parallel(_sleep_or_fail, [0, 1])


def _sleep_or_fail(n: int) -> None:
    if n:
        sleep(3600)
    wait_signal("go", type=str)


def test_a_sleep_that_ended_with_its_job_keeps_its_time(rig: Rig) -> None:
    engine = rig.start(sleeps_and_fails)
    job = engine.submit(sleeps_and_fails)
    rig.until_put_away(job)
    [asleep] = [step for step in rig.steps(job).values() if step.kind == "sleep"]
    job.fail("no")
    rig.until(job, JobState.FAILED)
    assert {step.state for step in rig.steps(job).values()} == {"abandoned"}
    job.retry()
    again = rig.until_recorded(job, asleep.step_key, "waiting")
    assert again.until == asleep.until
