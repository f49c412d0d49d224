"""Promise P11, crash loops: a job that kills its engine again and again ends alone; everything else goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import place  # noqa: F401 - a fixture

from relight import Client
from relight.errors import JobPoisoned
from relight.model import JobRecord, JobState, RunState

# ruff: noqa: F811 - fixtures are imported by name


def crash_again(place: Place, **options: Any) -> int:
    """Start an engine and let it be killed by one of its jobs; returns how it ended."""
    child = place.child(**options)
    child.order("start")
    return child.wait()


def submitted(place: Place, kind: str, number: int = 1, **options: Any) -> str:
    """Store a job while no engine runs."""
    with Client(place.store, workflows=flows.ALL) as client:
        flow: Any = flows.BY_KIND[kind]
        return client.submit(flow, number, **options).id


@pytest.fixture
def known(place: Place) -> Place:
    """A store that an engine once made."""
    child = place.engine()
    child("stop")
    child.close()
    return place


def told_of(place: Place, job_id: str) -> list[str]:
    return [event.type for event in place.events(job_id=job_id)]


def until(place: Place, job_id: str, state: JobState) -> JobRecord:
    place.eventually(lambda: place.job(job_id).state is state, f"the job is {state}")
    return place.job(job_id)


def test_a_job_that_kills_its_process_is_put_on_probation_and_then_poisoned(known: Place) -> None:
    job_id = submitted(known, "killer")
    for crashes in range(1, 4):
        assert crash_again(known) < 0
        assert known.job(job_id).state is JobState.RUNNING, "nobody has recovered it yet"
        assert known.witness.times("crash") == crashes
    known.engine()
    job = until(known, job_id, JobState.POISONED)
    assert known.witness.times("crash") == 3, "it was not called once more"
    assert (job.stalls, job.attempt, job.status_reason, job.outputs) == (3, 3, "crash_loop", None)
    kinds = told_of(known, job_id)
    assert (kinds.count("job_probation"), kinds.count("job_resumed"), kinds.count("job_poisoned")) == (1, 2, 1)
    assert kinds.index("job_probation") > [i for i, kind in enumerate(kinds) if kind == "workflow_recovery"][1]
    [poisoned] = known.events("job_poisoned", job_id=job_id)
    stalls = [event.event_id for event in known.events("workflow_recovery", job_id=job_id)]
    assert payload(poisoned) == {"stalls": 3, "evidence": stalls}
    failure = msgspec.json.decode(job.error or "")
    assert (failure["type"], "3 times" in failure["message"]) == ("crash_loop", True)
    with Client(str(known.store)) as client, pytest.raises(JobPoisoned, match="3 times"):
        client.job(job_id).result(timeout_seconds=10)
    with known.reading() as reads:
        assert {run.state for run in reads.runs(job_id)} == {RunState.STALLED}
    known.assert_sound()


def test_a_job_that_kills_its_process_before_its_step_is_on_disk_is_found_out_too(known: Place) -> None:
    """The first crash leaves no trace of a step; from then on what this job begins is written down first."""
    job_id = submitted(known, "quick_killer")
    for _ in range(4):
        assert crash_again(known) < 0
    known.engine()
    assert until(known, job_id, JobState.POISONED).stalls == 3
    assert known.witness.times("crash") == 4
    known.assert_sound()


def test_bystanders_complete(known: Place) -> None:
    """They had a step in flight at each crash, too; on probation they run one at a time, and are not poisoned."""
    killer = submitted(known, "killer")
    others = [submitted(known, "side", number) for number in range(3)]
    quick = [submitted(known, "count_up", number) for number in range(3)]
    for _ in range(8):
        child = known.child(doors_open=["side"] if known.job(killer).state is JobState.POISONED else [])
        child("start")
        if (
            known.eventually(lambda c=child: c.process.poll() or known.job(killer).state is JobState.POISONED, "a turn")
            is True
        ):  # type: ignore[misc]
            break
    child("open", door="side")
    assert known.job(killer).state is JobState.POISONED
    for job_id in others + quick:
        until(known, job_id, JobState.COMPLETED)
    known.assert_sound()


def test_on_probation_only_one_such_job_runs_in_an_engine(known: Place) -> None:
    ids = [submitted(known, "three", number, max_stalls=3) for number in range(4)]
    for _ in range(2):
        child = known.engine()
        child("inside", door="hold", count=4)
        child.kill()
    child = known.engine()
    free = [submitted(known, "side", 9)]
    child("inside", door="side", count=1)
    child("inside", door="hold", count=1)
    assert child("inside", door="hold", count=1) == 1
    states = [known.job(job_id).state for job_id in ids]
    assert sorted(states) == [JobState.QUEUED] * 3 + [JobState.RUNNING]
    assert all(known.job(job_id).probation for job_id in ids)
    child("open", door="hold")
    child("open", door="side")
    for job_id in ids + free:
        until(known, job_id, JobState.COMPLETED)
    starts = [event for event in known.events("run_started", "job_completed") if event.job_id in ids][-8:]
    assert [event.type for event in starts] == ["run_started", "job_completed"] * 4, "one after the other"
    known.assert_sound()


def test_progress_between_crashes_resets_the_count(known: Place) -> None:
    """Five crashes, each after one more finished step: more than max_stalls, and not a loop."""
    job_id = submitted(known, "stubborn")
    for _ in range(5):
        assert crash_again(known) < 0
    known.engine()
    job = until(known, job_id, JobState.COMPLETED)
    assert (job.attempt, job.stalls) == (6, 1)
    assert not known.events("job_probation", "job_poisoned")
    assert all(times == 1 for (what, _), times in known.witness.counts().items() if what.startswith("progress"))


def test_a_crash_without_a_step_in_flight_does_not_count(known: Place) -> None:
    job_id = submitted(known, "listens", max_stalls=1)
    for _ in range(3):
        child = known.engine(suspend_after_seconds=600)
        known.eventually(
            lambda: known.job(job_id).state is JobState.RUNNING and known.events("wait_started", job_id=job_id),
            "it waits",
        )
        child.kill()
    child = known.engine()
    with Client(str(known.store)) as client:
        client.job(job_id).signal("go", 5)
    job = until(known, job_id, JobState.COMPLETED)
    assert (job.stalls, job.attempt) == (0, 4)


@pytest.mark.parametrize("max_stalls", [1, 2])
def test_the_limit_is_the_jobs_own(known: Place, max_stalls: int) -> None:
    job_id = submitted(known, "killer", max_stalls=max_stalls)
    for _ in range(max_stalls):
        crash_again(known)
    known.engine()
    assert until(known, job_id, JobState.POISONED).stalls == max_stalls
    assert known.witness.times("crash") == max_stalls


def tame(place: Place) -> None:
    """From now on ``crash`` lets its process live."""
    assert place.witness.path is not None
    place.witness.path.with_name("tame").touch()


def test_hold_leaves_a_stalled_job_to_an_operator_whose_resume_works(known: Place) -> None:
    job_id = submitted(known, "held_killer")
    crash_again(known)
    child = known.engine(lease_seconds=0.5)
    job = until(known, job_id, JobState.STALLED)
    known.eventually(lambda: known.job(job_id).status_reason == "held:policy", "it is held")
    assert told_of(known, job_id)[-1] == "job_held"
    with Client(str(known.store)) as client:
        why = client.job(job_id).why()
        assert any("resume" in action for cause in why.causes for action in cause.actions)
        tame(known)
        client.job(job_id).resume(by="ann")
    job = until(known, job_id, JobState.COMPLETED)
    assert job.attempt == 2
    [resumed] = known.events("job_resumed", job_id=job_id)
    assert (resumed.actor_id, payload(resumed)["policy"]) == ("ann", "operator")
    assert len(known.events("job_held", job_id=job_id)) == 1, "the watch does not say it again and again"
    assert child.process.poll() is None


def test_a_poisoned_job_can_be_retried_by_an_operator(known: Place) -> None:
    job_id = submitted(known, "killer", max_stalls=1)
    crash_again(known)
    known.engine()
    until(known, job_id, JobState.POISONED)
    tame(known)
    with Client(str(known.store)) as client:
        client.job(job_id).retry(by="ann")
    job = until(known, job_id, JobState.COMPLETED)
    assert (job.attempt, job.stalls) == (2, 0)
    known.assert_sound()
