"""The rows of the naive reference, and the smallest steps that its commands are made of. See ``reference.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from relight.core.commands import JobRef
from relight.model import (
    FINAL_STATES,
    FINISHED_STEPS,
    DecisionRecord,
    EngineRecord,
    JobRecord,
    JobState,
    QuarantineRecord,
    QueueRecord,
    RunRecord,
    RunState,
    SignalRecord,
    StepKind,
    StepRecord,
    StepState,
    TokenRecord,
)

_S = JobState
put = msgspec.structs.replace


class Refuse(Exception):
    """The command's precondition does not hold."""


def need(condition: object) -> None:
    """Refuse the command unless this holds."""
    if not condition:
        raise Refuse


@dataclass
class Tables:
    """All rows, by key."""

    jobs: dict[str, JobRecord] = field(default_factory=dict)
    runs: dict[str, RunRecord] = field(default_factory=dict)
    steps: dict[tuple[str, str], StepRecord] = field(default_factory=dict)
    signals: dict[str, SignalRecord] = field(default_factory=dict)
    signal_keys: set[tuple[str, str, str]] = field(default_factory=set)
    decisions: dict[str, DecisionRecord] = field(default_factory=dict)
    engines: dict[str, EngineRecord] = field(default_factory=dict)
    quarantine: dict[str, QuarantineRecord] = field(default_factory=dict)
    tokens: dict[str, TokenRecord] = field(default_factory=dict)
    queues: dict[str, QueueRecord] = field(default_factory=dict)

    def copy(self) -> Tables:
        """Return tables that may be changed without changing these: rows are immutable."""
        return Tables(**{name: type(rows)(rows) for name, rows in vars(self).items()})


class Ground:
    """Rows, the log, and what every command may ask of them."""

    def __init__(self) -> None:
        self.t = Tables()
        self.told: list[tuple[str, str | None]] = []

    # the smallest steps

    def tell(self, kind: str, job: JobRef | str | None = None) -> None:
        """Note an event."""
        self.told.append((kind, job.job_id if isinstance(job, JobRef) else job))

    def job(self, job: JobRef) -> JobRecord:
        """Return a job, or refuse."""
        need(job.job_id in self.t.jobs)
        return self.t.jobs[job.job_id]

    def set_job(self, job: JobRef | str, now: int | None, **fields: Any) -> None:
        """Change a job; ``now`` None: its ``updated_at`` stays."""
        key = job if isinstance(job, str) else job.job_id
        stamp = {} if now is None else {"updated_at": now}
        self.t.jobs[key] = put(self.t.jobs[key], **fields, **stamp)

    def running(self, job: JobRef) -> RunRecord:
        """Return the run a reference names if it runs, and is the job's; or refuse."""
        run = self.t.runs.get(job.run_id or "")
        need(run is not None and run.state is RunState.RUNNING and run.job_id == job.job_id)
        assert run is not None
        return run

    def begin(self, job: JobRef, key: str, now: int, **fields: Any) -> None:
        """Begin a step or a wait, or go on with one that is not finished."""
        run = self.running(job)
        old = self.t.steps.get((job.job_id, key))
        need(old is None or old.state not in FINISHED_STEPS)
        new = StepRecord(job_id=job.job_id, step_key=key, run_id=run.run_id, begun_at=now, **fields)  # type: ignore[arg-type]
        if old is not None:
            new = put(new, kind=old.kind, name=old.name, outcome=old.outcome, error=old.error, note=old.note)
        self.t.steps[job.job_id, key] = new

    def update(self, job: JobRef, key: str, state: StepState, *, now: int | None = None, **fields: Any) -> None:
        """Write what became of an unfinished step; ``now`` is its end."""
        old = self.t.steps.get((job.job_id, key))
        need(old is not None and old.state not in FINISHED_STEPS)
        assert old is not None
        run = self.running(job)
        fresh = {"try_number": 1, "outcome": None, "error": None, "until": None} | fields
        self.t.steps[job.job_id, key] = put(old, state=state, run_id=run.run_id, ended_at=now, **fresh)

    def end_run(self, run_id: str | None, state: RunState, reason: str, now: int, engine_id: str | None) -> None:
        """End a running run of an engine (None: of any). No step stays in flight under it."""
        run = self.t.runs.get(run_id or "")
        need(run is not None and run.state is RunState.RUNNING and engine_id in (None, run.engine_id))
        assert run is not None
        self.t.runs[run.run_id] = put(run, state=state, reason=reason, ended_at=now)
        for step in self.steps_of(run.job_id):
            if step.state is StepState.RUNNING and step.kind is StepKind.STEP:
                self.t.steps[step.job_id, step.step_key] = put(step, state=StepState.IN_DOUBT)

    def aside(self, job_id: str) -> bool:
        """Tell whether a job is in quarantine."""
        row = self.t.quarantine.get(job_id)
        return row is not None and row.released_at is None

    def steps_of(self, job_id: str) -> Iterator[StepRecord]:
        """Yield a job's steps."""
        return (step for (owner, _), step in list(self.t.steps.items()) if owner == job_id)

    def waits(self, job_id: str) -> Iterator[StepRecord]:
        """Yield a job's open waits that are for something."""
        return (s for s in self.steps_of(job_id) if s.state is StepState.WAITING and s.waits_for is not None)

    def has_come(self, wait: StepRecord) -> bool:
        """Tell whether what a wait is for has come."""
        match wait.kind:
            case StepKind.SIGNAL:
                unread = (s for s in self.t.signals.values() if s.job_id == wait.job_id and s.read_by is None)
                return any(signal.name == wait.waits_for for signal in unread)
            case StepKind.ASK:
                decision = self.t.decisions.get(wait.waits_for or "")
                return decision is not None and decision.state != "open"
            case StepKind.CHILD_RESULT:
                child = self.t.jobs.get(wait.waits_for or "")
                return child is not None and child.state in FINAL_STATES
            case StepKind.EXTERNAL:
                token = self.t.tokens.get(wait.waits_for or "")
                return token is not None and token.state != "open"
            case _:
                return False

    def wake(self, job_id: str, waits_for: str, now: int, *, decided: bool) -> None:
        """Let a job go on that was put away and waits for this."""
        job = self.t.jobs[job_id]
        if not any(wait.waits_for == waits_for for wait in self.waits(job_id)):
            return
        if job.state is _S.AWAITING_USER and decided:
            self.set_job(job_id, now, state=_S.QUEUED, status_reason="decided", claimable=True, ready_at=now)
        elif job.state is _S.QUEUED:
            self.set_job(job_id, now, claimable=True, ready_at=now)

    def is_orphan(self, job: JobRecord) -> bool:
        """Tell whether a job's parent has ended."""
        parent = self.t.jobs.get(job.parent_job_id or "")
        return parent is not None and parent.state in FINAL_STATES

    def ended(self, job_id: str, now: int) -> None:
        """A job has ended: nothing waits in it any more, and a parent that was put away for it may go on."""
        for step in self.steps_of(job_id):
            if step.state is StepState.WAITING:
                self.t.steps[job_id, step.step_key] = put(step, state=StepState.ABANDONED, ended_at=now)
        for row in list(self.t.decisions.values()):
            if row.job_id == job_id and row.state == "open":
                self.t.decisions[row.decision_id] = put(row, state="withdrawn", decided_at=now)
        for parent in list(self.t.jobs.values()):
            waits = any(w.kind is StepKind.CHILD_RESULT and w.waits_for == job_id for w in self.waits(parent.job_id))
            if waits and parent.state is _S.QUEUED and not parent.claimable:
                self.set_job(parent.job_id, now, claimable=True, ready_at=now)
