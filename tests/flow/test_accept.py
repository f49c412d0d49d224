"""An operator accepts that code and record differ: the run goes on, finished steps keep their outcome, and it is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig
from tests.flow.test_mismatch import CALLS, begun, replayed, stopped

from relight import Job, external, poll, sleep, step, wait_signal, workflow
from relight.errors import IllegalTransition
from relight.model import JobState


@pytest.fixture(autouse=True)
def forget() -> None:
    CALLS.clear()


@step
def call(name: str, n: int = 0) -> str:
    CALLS.append(f"{name} {n}")
    return f"{name} {n}"


@workflow(name="flow")
def old(n: int) -> list[str]:
    got = [call("a", n), call("b", n)]
    wait_signal("go", type=int)
    return [*got, call("c", n)]


@workflow(name="flow")
def other_arguments(n: int) -> list[str]:
    got = [call("a", n + 1), call("b", n + 2)]
    wait_signal("go", type=int)
    return [*got, call("c", n + 3)]


@workflow(name="flow")
def new_step_first(n: int) -> list[str]:
    got = [str(extra(n)), call("a", n), call("b", n)]
    wait_signal("go", type=int)
    return [*got, call("c", n)]


@step
def extra(n: int) -> int:
    CALLS.append("extra")
    return n


@workflow(name="flow")
def new_wait_first(n: int) -> list[str]:
    sleep(0)
    got = [call("a", n), call("b", n)]
    wait_signal("go", type=int)
    return [*got, call("c", n)]


def accepted(rig: Rig, engine: Any, job: Job[Any]) -> None:
    engine.core.resume(job.id, by="ann", accept=True)


def told(rig: Rig, job: Job[Any], kind: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(event.payload) for event in rig.events(job, kind)]


def test_finished_steps_keep_their_outcome_however_they_are_called_now(rig: Rig) -> None:
    _, job = begun(rig, old, 1)
    engine, job = replayed(rig, other_arguments, job)
    stopped(rig, job, "arguments")
    CALLS.clear()
    accepted(rig, engine, job)
    assert job.result(timeout_seconds=20) == ["a 1", "b 1", "c 4"]
    assert CALLS == ["c 4"]
    assert [each["accepted"] for each in told(rig, job, "job_resumed")] == [True]
    assert [event.step_key for event in rig.events(job, "mismatch_accepted")] == ["call#0", "call#1"]
    [resumed] = rig.events(job, "job_resumed")
    assert (resumed.actor, resumed.actor_id) == ("human", "ann")


def test_a_fork_of_it_agrees_with_what_was_accepted(rig: Rig) -> None:
    _, job = begun(rig, old, 1)
    engine, job = replayed(rig, other_arguments, job)
    stopped(rig, job, "arguments")
    accepted(rig, engine, job)
    job.result(timeout_seconds=20)
    hashes = {key: row.args_hashes for key, row in rig.steps(job).items()}
    fork = job.fork()
    assert fork.result(timeout_seconds=20) == ["a 1", "b 1", "c 4"]
    assert {key: row.args_hashes for key, row in rig.steps(fork).items()} == hashes


@workflow(name="twice")
def twice(n: int) -> list[str]:
    got = [call("a", n)]
    wait_signal("go", type=int)
    got.append(call("b", n))
    wait_signal("again", type=int)
    return got


@workflow(name="twice")
def twice_changed(n: int) -> list[str]:
    got = [call("a", n + 1)]
    wait_signal("go", type=int)
    got.append(call("b", n + 1))
    wait_signal("again", type=int)
    return got


@workflow(name="twice")
def twice_changed_again(n: int) -> list[str]:
    got = [call("a", n + 2)]
    wait_signal("go", type=int)
    got.append(call("b", n + 2))
    wait_signal("again", type=int)
    return got


def test_an_acceptance_is_for_the_code_of_that_run_not_for_all_time(rig: Rig) -> None:
    _, job = begun(rig, twice, 1)
    engine, job = replayed(rig, twice_changed, job)
    stopped(rig, job, "arguments")
    accepted(rig, engine, job)
    rig.until_recorded(job, "call#1", "completed")
    rig.until_put_away(job)
    assert rig.row(job).accepting is False
    rig.stop(engine)
    engine = rig.start(twice_changed_again)
    job = engine.job(job.id)
    job.signal("again", 1)
    stopped(rig, job, "arguments")
    rig.stop(engine)
    engine = rig.start(twice_changed)
    job = engine.job(job.id)
    job.resume(by="ann")
    assert job.result(timeout_seconds=20) == ["a 1", "b 2"]


def before(first: Any) -> Any:
    """Return the old workflow with something new in front."""

    @workflow(name="flow")
    def new(n: int) -> list[str]:
        first()
        return old.__wrapped__(n)  # type: ignore[attr-defined, no-any-return]

    return new


NEW_WAITS = {
    "token": lambda: external("scan", type=int),
    "poll": lambda: poll(checked, 0, until=lambda n: n > 0, every_seconds=0.01),
    "signals": lambda: wait_signal("this", "that", timeout_seconds=0, default=None),
}


@step
def checked(n: int) -> int:
    return n + 1


@pytest.mark.parametrize("what", list(NEW_WAITS))
def test_whatever_is_new_in_front_of_finished_steps_runs_now(rig: Rig, what: str) -> None:
    _, job = begun(rig, old, 1)
    engine, job = replayed(rig, before(NEW_WAITS[what]), job)
    told_of = stopped(rig, job, "step_inserted")
    assert "is new, but call#0 after it is already done" in told_of
    CALLS.clear()
    accepted(rig, engine, job)
    assert job.result(timeout_seconds=20) == ["a 1", "b 1", "c 1"]
    assert [name for name in CALLS if name != "extra"] == ["c 1"]


@pytest.mark.parametrize(("new", "first"), [(new_step_first, "extra"), (new_wait_first, None)])
def test_a_new_step_in_front_of_finished_ones_runs_now(rig: Rig, new: Any, first: str | None) -> None:
    _, job = begun(rig, old, 1)
    engine, job = replayed(rig, new, job)
    stopped(rig, job, "step_inserted")
    CALLS.clear()
    accepted(rig, engine, job)
    assert job.result(timeout_seconds=20)[-3:] == ["a 1", "b 1", "c 1"]
    assert [name for name in CALLS if name != first] == ["c 1"]
    assert CALLS.count(first or "") == (first is not None)


def test_what_nobody_can_go_on_with_is_refused_with_what_helps(rig: Rig) -> None:
    @workflow(name="kinds")
    def first(n: int) -> None:
        sleep(0)
        wait_signal("go", type=int)

    @step(name="sleep")
    def sleep_step(n: int) -> int:
        return n

    @workflow(name="kinds")
    def second(n: int) -> None:
        sleep_step(n)
        wait_signal("go", type=int)

    _, job = begun(rig, first, 1)
    engine, job = replayed(rig, second, job)
    stopped(rig, job, "other_kind")
    with pytest.raises(IllegalTransition, match=r"cannot be accepted.*relight fork"):
        accepted(rig, engine, job)
    assert not any("--accept" in act for cause in job.why().causes for act in cause.actions)
    assert "fork the job" in job.why().causes[0].detail


def test_a_job_that_is_not_stopped_has_nothing_to_accept(rig: Rig) -> None:
    engine, job = begun(rig, old, 1)
    engine = rig.start(old)
    with pytest.raises(IllegalTransition, match="nothing to accept"):
        accepted(rig, engine, job)
    assert rig.row(job).state is JobState.QUEUED
