"""Promises P2, P3, P6 on real processes: killed with many jobs in flight, started again at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from tests.process.children import Place, crashed, payload
from tests.process.fixtures import place  # noqa: F401 - a fixture

from relight.model import Actor, EngineState, EventRecord, JobState, RunState

FIELDS = {
    "workflow_run_id", "job_id", "from_state", "to_state", "reason", "last_heartbeat_ts", "threshold_secs",
    "verdict", "evidence", "dead_engine_id", "recovery_id", "in_doubt_steps",
}  # fmt: skip
"""FR-EVT-WF-RECOVERY: the specification's fields, then ours."""


def told_by(place: Place, engine_id: str, *types: str) -> list[EventRecord]:  # noqa: F811
    return [event for event in place.events(*types) if event.writer_id == engine_id]


def restart(place: Place, **options: Any) -> tuple[str, int]:  # noqa: F811
    """Start an engine whose doors are open, and wait for its gate; return its id, and how long the gate was shut."""
    child = place.child(doors_open=["hold"], **options)
    engine_id: str = child("start")["engine_id"]
    health = child("gate")
    assert (health["gate"], health["ok"]) == ("open", True)
    return engine_id, health["gate_closed_ms"]


@pytest.mark.parametrize("jobs", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_restart_right_after_a_crash_accounts_for_every_job_before_anything_starts(
    place: Place,  # noqa: F811
    jobs: int,
    record_property: Callable[[str, object], None],
) -> None:
    ids = crashed(place, "three", jobs)
    [dead] = [row.engine_id for row in place.engines()]
    before = {job.job_id: job for job in place.jobs(JobState.RUNNING)}
    assert set(before) == set(ids)
    me, gate_ms = restart(place, slots=jobs)
    record_property("gate_ms", gate_ms)
    print(f"the gate was shut for {gate_ms} ms with {jobs:,} jobs to stall")
    place.ended(jobs)

    told = place.events("workflow_recovery")
    assert {event.job_id for event in told} == set(ids) and len(told) == jobs
    [finished] = told_by(place, me, "recovery_finished")
    [gate] = told_by(place, me, "gate_opened")
    begun = told_by(place, me, "job_accepted", "run_started", "job_resumed")
    assert max(event.seq for event in told) < finished.seq < gate.seq < min(event.seq for event in begun)
    said = payload(finished)
    assert [said[name] for name in ("scanned", "stalled", "in_doubt", "quarantined")] == [jobs, jobs, jobs, 0]
    assert [each["engine_id"] for each in said["engines"]] == [dead]
    for event in told:
        job = before[event.job_id or ""]
        assert (event.trace_id, event.run_id, event.actor) == (job.trace_id, job.run_id, Actor.SYSTEM)

    ran = place.witness.counts()
    assert len(ran) == 4 * jobs
    assert all(times == (2 if what == "hold" else 1) for (what, _), times in ran.items())
    place.assert_sound()


def test_a_stalled_run_is_told_with_every_field_of_the_specification(place: Place) -> None:  # noqa: F811
    [job_id] = crashed(place, "three", 1, lease_seconds=7)
    [dead] = place.engines()
    job = place.job(job_id)
    me, _ = restart(place)
    place.ended(1)
    [event] = place.events("workflow_recovery")
    said = payload(event)
    assert set(said) == FIELDS
    assert (event.actor, event.actor_id, event.writer_id) == (Actor.SYSTEM, me, me)
    assert (event.trace_id, event.job_id, event.run_id) == (job.trace_id, job_id, job.run_id)
    assert (said["workflow_run_id"], said["job_id"]) == (job.run_id, job_id)
    assert (said["from_state"], said["to_state"], said["reason"]) == ("running", "stalled", "engine_dead")
    assert (said["threshold_secs"], said["verdict"]) == (7, "dead")
    assert (said["dead_engine_id"], said["in_doubt_steps"]) == (dead.engine_id, ["hold#0"])
    beat = datetime.fromisoformat(said["last_heartbeat_ts"])
    assert beat.tzinfo is not None and dead.started_at <= beat.timestamp() * 1000 <= event.ts
    evidence = said["evidence"]
    assert (evidence["reason"], evidence["lock"], evidence["pid"]) == ("lock_free", "free", dead.pid)
    assert evidence["beat_age_ms"] < 7_000, "the owner had beaten within its lease, and was recovered all the same"
    [receipt] = [row for row in place.recoveries() if row.engine_id == me]
    assert said["recovery_id"] == receipt.recovery_id
    place.assert_sound()


def test_the_rows_after_a_recovery_say_what_the_events_say(place: Place) -> None:  # noqa: F811
    [job_id] = crashed(place, "three", 1)
    [dead] = place.engines()
    me, _ = restart(place)
    place.ended(1)
    row = place.engine_row(dead.engine_id)
    assert (row.state, row.verdict) == (EngineState.DEAD, "dead") and row.evidence is not None
    with place.reading() as reads:
        first, second = reads.runs(job_id)
    assert (first.state, first.reason, first.engine_id, first.attempt) == (
        RunState.STALLED,
        "stalled:dead",
        dead.engine_id,
        1,
    )
    assert (second.state, second.engine_id, second.attempt) == (RunState.COMPLETED, me, 2)
    kinds = [event.type for event in place.events(job_id=job_id)]
    assert kinds[kinds.index("workflow_recovery") :][:3] == ["workflow_recovery", "job_resumed", "run_started"]


@pytest.mark.parametrize("kind", ["three_in_thread", "three_mixed", "three_mixed_in_thread"])
def test_jobs_of_every_colour_survive(place: Place, kind: str) -> None:  # noqa: F811
    crashed(place, kind, 8)
    restart(place)
    place.ended(8)
    ran = place.witness.counts()
    assert all(times == (2 if what == "hold" else 1) for (what, _), times in ran.items()) and len(ran) == 32
    place.assert_sound()


def test_killed_again_and_again_every_step_that_finished_stays_finished(place: Place) -> None:  # noqa: F811
    crashed(place, "three", 20, submit={"max_stalls": 100})
    for _ in range(3):
        child = place.engine()
        child("inside", door="hold", count=20)
        child.kill()
    restart(place)
    place.ended(20)
    ran = place.witness.counts()
    assert {what: times for (what, _), times in ran.items()} == {"first": 1, "hold": 5, "held": 1, "last": 1}
    assert len(place.events("workflow_recovery")) == 4 * 20
    place.assert_sound()


def test_without_a_crash_a_start_has_a_receipt_and_nothing_else(place: Place) -> None:  # noqa: F811
    child = place.engine()
    child("stop")
    child.kill()
    me, _ = restart(place)
    assert [event.type for event in place.events() if event.writer_id == me][-3:] == [
        "recovery_started",
        "recovery_finished",
        "gate_opened",
    ]
    assert not place.events("workflow_recovery", "row_quarantined")
