"""A parent that failed while its children were alive: an operator's retry alone makes it succeed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import cleanup, start, step, wait_signal, workflow
from relight.engine.policy import end_of_orphan
from relight.errors import Conflict, WaitTimeout
from relight.model import JobRecord, JobState
from relight.store.reads import JobFilter

mended = threading.Event()
released = threading.Event()
cleaning = threading.Event()
made: list[str] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    for event in (mended, released, cleaning):
        event.clear()
    made.clear()


@step
def reserve(name: str) -> str:
    made.append(f"reserve {name}")
    return name


@step
def release(name: str) -> None:
    cleaning.set()
    wait_for(released)
    made.append(f"release {name}")


@workflow
def works(name: str) -> str:
    reserve(name)
    try:
        return name + wait_signal("go", type=str)
    except BaseException:
        with cleanup():
            release(name)
        raise


@workflow
def quick(name: str) -> str:
    return name


def bug() -> None:
    if not mended.is_set():
        raise TypeError("a bug")


@workflow
def parent() -> str:
    child = start(works, "a")
    done = start(quick, "b")
    got = done.result()
    wait_signal("fail", type=int)
    bug()
    return child.result() + got


def children(rig: Rig, job: Any) -> list[JobRecord]:
    with rig.reading() as reads:
        rows = [row for row in reads.jobs(JobFilter(limit=0)) if row.parent_job_id == job.id]
    return sorted(rows, key=lambda row: row.created_at)


def of_kind(rig: Rig, job: Any, kind: str) -> list[JobRecord]:
    return [row for row in children(rig, job) if row.kind == kind]


def failed(rig: Rig, engine: Any, job: Any) -> JobRecord:
    """Let the parent fail while its child waits; return the child."""
    [child] = eventually(lambda: of_kind(rig, job, "works"))
    rig.until_recorded(child.job_id, "signal:go#0", "waiting")
    job.signal("fail", 1)
    rig.until(job, JobState.FAILED)
    return child


def test_what_was_cancelled_for_its_parent_s_end_is_started_again_by_the_retry(rig: Rig) -> None:
    released.set()
    engine = rig.start(parent, works, quick)
    job = engine.submit(parent)
    first = failed(rig, engine, job)
    rig.until(first.job_id, JobState.CANCELLED)
    mended.set()
    job.retry()
    again = eventually(lambda: [row for row in of_kind(rig, job, "works") if row.job_id != first.job_id])
    engine.job(again[0].job_id).signal("go", "!")
    assert job.result(timeout_seconds=10) == "a!b"
    assert made == ["reserve a", "release a", "reserve a"]
    assert len(of_kind(rig, job, "quick")) == 1, "what had completed is not started again"


def test_it_begins_only_when_the_other_one_has_cleaned_up(rig: Rig) -> None:
    engine = rig.start(parent, works, quick)
    job = engine.submit(parent)
    first = failed(rig, engine, job)
    wait_for(cleaning)
    mended.set()
    job.retry()
    rig.until_put_away(job)
    assert rig.row(first.job_id).state == JobState.RUNNING
    assert len(of_kind(rig, job, "works")) == 1
    assert "works" in job.why().summary or "child" in job.why().summary
    released.set()
    again = eventually(lambda: [row for row in of_kind(rig, job, "works") if row.job_id != first.job_id])
    engine.job(again[0].job_id).signal("go", "!")
    assert job.result(timeout_seconds=10) == "a!b"
    assert made == ["reserve a", "release a", "reserve a"]


def test_a_child_that_is_still_alive_is_waited_for_again(rig: Rig) -> None:
    engine = rig.start(parent, works, quick)
    job = engine.submit(parent)
    rig.probes[engine].hold("watch")
    rig.probes[engine].wait_held("watch")
    child = failed(rig, engine, job)
    mended.set()
    job.retry()
    engine.job(child.job_id).signal("go", "!")
    assert job.result(timeout_seconds=10) == "a!b"
    assert len(of_kind(rig, job, "works")) == 1
    assert rig.row(child.job_id).state == JobState.COMPLETED


def test_a_look_at_orphans_that_is_late_cancels_nothing(rig: Rig) -> None:
    engine = rig.start(parent, works, quick)
    job = engine.submit(parent)
    rig.probes[engine].hold("watch")
    rig.probes[engine].wait_held("watch")
    child = failed(rig, engine, job)
    with rig.reading() as reads:
        [seen] = reads.orphans([job.id])
    late = end_of_orphan(seen, engine._engine.engine_id)  # type: ignore[union-attr]
    mended.set()
    job.retry()
    with pytest.raises(Conflict):
        engine.core.journal.execute(late)
    assert rig.row(child.job_id).cancel_code is None
    engine.job(child.job_id).signal("go", "!")
    assert job.result(timeout_seconds=10) == "a!b"


@workflow
def keyed() -> str:
    child = start(works.bind("k").options(idempotency_key="mine"))
    try:
        child.result(timeout_seconds=0.01)
    except WaitTimeout:
        bug()
    return child.result()


def test_it_is_started_again_without_its_key_and_its_waits_keep_theirs(rig: Rig) -> None:
    released.set()
    engine = rig.start(keyed, works)
    job = engine.submit(keyed)
    rig.until(job, JobState.FAILED)
    first = eventually(lambda: [row for row in children(rig, job) if row.state == JobState.CANCELLED])[0]
    mended.set()
    job.retry()
    again = eventually(lambda: [row for row in children(rig, job) if row.job_id != first.job_id])[0]
    assert (first.idempotency_key, again.idempotency_key) == ("mine", None)
    engine.job(again.job_id).signal("go", "!")
    assert job.result(timeout_seconds=10) == "k!"
    assert rig.events(job, "history_mismatch") == []


@workflow
def fails_again() -> str:
    child = start(works, "a")
    wait_signal("fail", type=int)
    bug()
    return child.result()


def test_it_may_fail_and_be_retried_more_than_once(rig: Rig) -> None:
    released.set()
    engine = rig.start(fails_again, works)
    job = engine.submit(fails_again)
    job.signal("fail", 1)
    for n in (1, 2):
        rig.until(job, JobState.FAILED)
        eventually(
            lambda n=n: [row.state for row in children(rig, job)] == ["cancelled"] * n, "cancelled with their parent"
        )
        if n == 2:
            mended.set()
        job.retry()
    newest = eventually(lambda: [row for row in children(rig, job) if row.completed_at is None])[0]
    engine.job(newest.job_id).signal("go", "!")
    assert job.result(timeout_seconds=10) == "a!"
    assert len(children(rig, job)) == 3


@workflow
def shares() -> str:
    return start(quick.bind("one").options(idempotency_key="shared")).result()


def test_a_start_that_finds_its_job_there_is_told_in_that_job(rig: Rig) -> None:
    engine = rig.start(shares, quick)
    owner = engine.submit(quick, "one", idempotency_key="shared")
    assert owner.result(timeout_seconds=10) == "one"
    assert engine.submit(shares).result(timeout_seconds=10) == "one"
    [told] = rig.events(owner, "job_deduplicated")
    assert told.actor == "agent" and "shared" in str(told.payload)
