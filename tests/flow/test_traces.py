"""Every event that names a job is in that job's trace, whoever wrote it and whatever happened: filtering by it shows all."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for
from tests.stores import change_behind

from relight import Job, ask, parallel, sleep, start, step, wait_signal, workflow
from relight.engine.operator import release_job
from relight.errors import JobFailed, StepError
from relight.ids import JobId
from relight.model import FINAL_STATES, JobState

inside, go = threading.Semaphore(0), threading.Event()
broken = threading.Event()


@step(in_doubt="ask")
def hold(n: int) -> int:
    inside.release()
    wait_for(go)
    return n


@step
def mend(n: int) -> int:
    if broken.is_set():
        raise StepError("broken", retryable=False)
    return n


@workflow
def holding(n: int) -> int:
    return hold(n)


@workflow(on_stall="hold")
def cautious(n: int) -> int:
    return hold(n)


@workflow
def mending(n: int) -> int:
    return mend(n)


@workflow
def waiting() -> list[Any]:
    got = [wait_signal("go", type=int), ask("Send it?").choice]
    got.append(ask("Really?", timeout_seconds=0.2, on_timeout="reject").choice)
    sleep(0.1)
    return got


@workflow
def patient() -> int:
    return wait_signal("never", type=int)


@workflow
def family() -> int:
    children = start(mending.bind(n) for n in (1, 2))
    start(patient)
    return sum(child.result() for child in children) + len(parallel(mend, [1, 2]))


WORKFLOWS = [holding, cautious, mending, waiting, patient, family]

TOLD = {
    "job_accepted",
    "job_deduplicated",
    "run_started",
    "run_suspended",
    "step_began",
    "step_finished",
    "step_failed",
    "step_reconciled",
    "wait_started",
    "sleep_started",
    "signal_sent",
    "signal_consumed",
    "child_started",
    "child_finished",
    "decision_given",
    "decision_expired",
    "job_awaiting_user",
    "job_cancel_requested",
    "job_cancelled",
    "job_completed",
    "job_deadline_exceeded",
    "job_failed",
    "job_held",
    "job_resumed",
    "job_retried",
    "row_quarantined",
    "row_released",
    "workflow_recovery",
}
"""What a busy day tells of jobs, from claims to quarantine: all of it must be in the log that is checked."""


@pytest.fixture(autouse=True)
def shut() -> None:
    go.clear()
    broken.clear()


def damage(rig: Rig, sql: str, *values: object) -> None:
    assert change_behind(rig.path, sql, values) == 1


def crash_in_the_middle(rig: Rig) -> tuple[Job[int], Job[int], Job[int]]:
    first = rig.start(*WORKFLOWS)
    held, careful, forced = first.submit(holding, 1), first.submit(cautious, 2), first.submit(holding, 3)
    for _ in range(3):
        assert inside.acquire(timeout=20)
    for job in (held, careful, forced):
        rig.until_recorded(job, "hold#0", "running")
    first.core.end(forced.id, code="fail", reason="enough", by="ann", force=True)
    rig.crash(first)
    return held, careful, forced


def test_every_event_that_names_a_job_is_in_its_trace(rig: Rig) -> None:
    crashed = crash_in_the_middle(rig)
    client = rig.client(workflows=WORKFLOWS)
    aside = client.submit(mending, 4)
    damage(rig, "UPDATE jobs SET on_stall = 'perhaps' WHERE job_id = ?", aside.id)
    go.set()
    engine = rig.start(*WORKFLOWS)
    held, careful, forced = (engine.job(job.id) for job in crashed)
    rig.until(careful, JobState.STALLED, "held:policy")
    careful.resume(by="ann")
    forced.retry(by="ann")
    for job in (held, careful, forced):
        rig.question(job)
        job.answer("not_done", by="ann")
        job.result(timeout_seconds=20)
    eventually(lambda: rig.told(None, "row_quarantined"), "set aside")
    damage(rig, "UPDATE jobs SET on_stall = 'resume' WHERE job_id = ?", aside.id)
    release_job(client.core, JobId(aside.id), by="ann")
    assert aside.result(timeout_seconds=20) == 4

    people = engine.submit(waiting, idempotency_key="once")
    assert not engine.submit(waiting, idempotency_key="once").created
    people.signal("go", 1, by="ann")
    rig.question(people)
    people.answer("approve", by="ann")
    assert people.result(timeout_seconds=20) == [1, "approve", "reject"]
    assert engine.submit(family).result(timeout_seconds=20) == 5
    cancelled = engine.submit(patient)
    rig.until_put_away(cancelled)
    cancelled.cancel("enough", by="ann")
    rig.until(cancelled, JobState.CANCELLED)
    late = engine.submit(patient, deadline_seconds=0.3)
    rig.until(late, JobState.FAILED)
    broken.set()
    failed = engine.submit(mending, 5)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=20)
    broken.clear()
    failed.retry(by="ann")
    assert failed.result(timeout_seconds=20) == 5
    eventually(lambda: all(info.state in FINAL_STATES for info in engine.jobs()), "all ended, orphans too")

    events = rig.events()
    traces = {info.id: rig.row(info.id).trace_id for info in engine.jobs(limit=0)}
    wrong = [(e.type, e.trace_id, traces[e.job_id]) for e in events if e.job_id and e.trace_id != traces[e.job_id]]
    assert wrong == []
    assert {event.type for event in events if event.job_id} >= TOLD
