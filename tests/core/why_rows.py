"""Rows and facts about one job for the tests of ``why``: factories with overrides, all seen at ``NOW``."""

from __future__ import annotations

import json
from typing import Any

from relight.core.changes import Who
from relight.core.why_facts import Facts, JobFacts, LineFacts, Mark, StepCounts
from relight.ids import EngineId, JobId, RunId, StepKey
from relight.model import (
    FINAL_STATES,
    Actor,
    DecisionRecord,
    EngineRecord,
    EngineState,
    GateState,
    JobRecord,
    JobState,
    QuarantineRecord,
    QueueRecord,
    Role,
    RunRecord,
    RunState,
    StepKind,
    StepRecord,
    StepState,
    TokenRecord,
    Why,
)

NOW = 1_750_000_000_000  # 2025-06-15 15:06:40 UTC
MINUTE = 60_000
JOB = JobId("01977a00-0000-7000-8000-000000f36877")
CHILD = JobId("01977a00-0000-7000-8000-0000008b21c4")
RUN = RunId("01977a00-0000-7000-8000-000000aaaaaa")
ENGINE = EngineId("01977a00-0000-7000-8000-000000e00001")
OTHER = EngineId("01977a00-0000-7000-8000-000000e00002")
ANN = Who(Actor.HUMAN, "ann")


def job(state: JobState = JobState.QUEUED, **more: Any) -> JobRecord:
    begun = state not in (JobState.QUEUED, JobState.CANCELLED, JobState.FAILED)
    values: dict[str, Any] = {
        "job_id": JOB,
        "kind": "checkout",
        "state": state,
        "claimable": state is JobState.QUEUED,
        "begun": begun,
        "attempt": 1,
        "run_id": RUN if begun else None,
        "created_at": NOW - 10 * MINUTE,
        "updated_at": NOW - 4 * MINUTE,
        "ready_at": NOW - 4 * MINUTE if state is JobState.QUEUED else None,
        "completed_at": NOW - 4 * MINUTE if state in FINAL_STATES else None,
    }
    return JobRecord(**(values | more))


def engine(**more: Any) -> EngineRecord:
    values: dict[str, Any] = {
        "engine_id": ENGINE,
        "role": Role.ENGINE,
        "name": "etl-1",
        "state": EngineState.LIVE,
        "gate": GateState.OPEN,
        "pid": 4711,
        "lease_until": NOW + 20_000,
        "beat_at": NOW - 5_000,
        "started_at": NOW - 60 * MINUTE,
        "kinds": '["checkout"]',
    }
    return EngineRecord(**(values | more))


def step(key: str = "charge#0", state: StepState = StepState.RUNNING, **more: Any) -> StepRecord:
    values: dict[str, Any] = {
        "job_id": JOB,
        "step_key": StepKey(key),
        "run_id": RUN,
        "kind": StepKind.STEP,
        "name": key.partition("#")[0],
        "state": state,
        "begun_at": NOW - 2 * MINUTE,
    }
    return StepRecord(**(values | more))


def wait(kind: StepKind, waits_for: str | None = None, key: str | None = None, **more: Any) -> StepRecord:
    return step(key or f"{kind}#0", StepState.WAITING, kind=kind, waits_for=waits_for, **more)


def question(key: str = "ask#0", **more: Any) -> DecisionRecord:
    values: dict[str, Any] = {
        "decision_id": f"decision-{key}",
        "job_id": JOB,
        "step_key": StepKey(key),
        "question": "Let the agent run send_mail?",
        "options": '["approve","reject"]',
        "asked_at": NOW - MINUTE,
    }
    return DecisionRecord(**(values | more))


def token(**more: Any) -> TokenRecord:
    values: dict[str, Any] = {
        "token": "ext_1",
        "job_id": JOB,
        "step_key": StepKey("external:scan#0"),
        "name": "scan",
        "created_at": NOW - MINUTE,
        "expires_at": NOW + 60 * MINUTE,
        "heartbeat_ms": 5 * MINUTE,
        "beat_at": NOW - MINUTE,
    }
    return TokenRecord(**(values | more))


def progress(done: int, total: int, note: str) -> str:
    """Progress as a run tells it that counts since 15 minutes and told it last 2 s ago."""
    return json.dumps(
        {"done": done, "total": total, "note": note, "at": NOW - 2_000, "from_done": 0, "from_at": NOW - 15 * MINUTE}
    )


def asks(key: str = "ask#0", **more: Any) -> dict[str, Any]:
    return {"steps": (wait(StepKind.ASK, f"decision-{key}", key),), "decisions": (question(key, **more),)}


DOUBT = {
    "steps": (
        step("charge#0", StepState.IN_DOUBT, policy="ask"),
        wait(StepKind.ASK, "decision-charge#0?0", "charge#0?0"),
    ),
    "decisions": (question("charge#0?0", options='["done","not_done","fail"]'),),
}


def mark(kind: str, event_id: str = "event-1", key: str | None = None, **payload: object) -> Mark:
    return Mark(event_id, kind, NOW - 3 * MINUTE, None if key is None else StepKey(key), "ann", json.dumps(payload))


def facts(of: JobRecord | None = None, *, engines: tuple[EngineRecord, ...] = (engine(),), **more: Any) -> Facts:
    of = job() if of is None else of
    store = {name: more.pop(name) for name in list(more) if name in JobFacts.__struct_fields__}
    runs = (
        RunRecord(
            run_id=RUN, job_id=JOB, engine_id=ENGINE, attempt=1, state=RunState.RUNNING, started_at=NOW - 3 * MINUTE
        ),
    )
    stored = {"runs": runs, "owner": engine()} if of.run_id is not None else {}
    if "steps" in store:
        stored["counts"] = StepCounts(len(store["steps"]), 0, sum(s.state == "failed" for s in store["steps"]), None)
    return Facts(now_ms=NOW, store=JobFacts(of, **(stored | store)), engines=engines, **more)


def running(**more: Any) -> Facts:
    return facts(job(JobState.RUNNING, status_reason="claimed"), **more)


def stalled(**more: Any) -> JobRecord:
    return job(JobState.STALLED, **({"status_reason": "stalled:dead"} | more))


RECOVERED = mark(
    "workflow_recovery",
    verdict="dead",
    dead_engine_id=ENGINE,
    recovery_id="recovery-R00012",
    evidence={"reason": "lock_free", "pid": 4711},
)
PUT_AWAY = job(claimable=False, begun=True, run_id=RUN, ready_at=None, status_reason="waiting")
HELD = stalled(status_reason="stalled:silent", held_by=ENGINE)
QUARANTINE = QuarantineRecord(
    job_id=JOB, table_name="jobs", code="unreadable", detail="bad row", recovery_id=None, quarantined_at=NOW - MINUTE
)
FULL = LineFacts(
    queue=QueueRecord(queue="default", slots=2), load={ENGINE: 2}, holders=((CHILD, NOW - 41 * MINUTE),), ahead=3
)
ASLEEP = (wait(StepKind.SLEEP, until=NOW + 3_600_000),)


def codes(why: Why) -> list[str]:
    return [cause.code for cause in why.causes]


def actions(why: Why) -> list[str]:
    return [action for cause in why.causes for action in cause.actions]
