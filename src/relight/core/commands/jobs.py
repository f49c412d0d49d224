"""A job's way from submit to end: accepted, claimed, put away, ended."""

from __future__ import annotations

from relight.core import events as ev
from relight.core.changes import Changes, CopyStep, EndJob, EndRun, NewJob, PutAway, StartRun, Who
from relight.core.commands.base import Command, JobRef, event
from relight.core.failure import Failure
from relight.core.queue_rows import QueueLimit, RateLimit, TakeTurn
from relight.core.redact import redact
from relight.core.row import Row
from relight.core.sizes import size_of
from relight.core.terms import RateTerms
from relight.core.transitions import RUN_ENDS
from relight.errors import Conflict, IllegalTransition, RelightError
from relight.ids import EngineId, Ids, JobId, RunId, StepKey
from relight.model import Actor, JobState, OnStall, RunState

ZERO_METRICS = (
    '{"duration_ms":0,"total_tokens":0,"input_tokens":0,"output_tokens":0,"tokens_planner":0,"tokens_executor":0,'
    '"entities_read":0,"entities_written":0,"validators_run_count":0}'
)
"""Metrics are never null and zeroed at creation (HSK-JOB-101)."""


FORKED = "forked"
"""``status_reason`` of a job that has records although no run of it has begun yet."""


class SubmitJob(Command, frozen=True, kw_only=True):
    """Accept a job: queued, on disk. ``ready_at`` in the future makes it a sleeper until then."""

    job_id: JobId
    trace_id: str
    kind: str
    version: str | None = None
    inputs: str
    inputs_hash: str
    who: Who
    queue: str = "default"
    priority: int = 0
    ready_at: int | None = None
    on_stall: OnStall = "resume"
    max_stalls: int = 3
    deadline_at: int | None = None
    idempotency_key: str | None = None
    partition_key: str | None = None
    tags: str | None = None
    parent_job_id: JobId | None = None
    parent_step_key: StepKey | None = None
    detached: bool = False
    forked_from: JobId | None = None
    inputs_bytes: int | None = None
    """Of the inputs themselves, where ``inputs`` says where they are kept."""

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the job's row and ``job_accepted``."""
        ready_at = now_ms if self.ready_at is None else self.ready_at
        row = NewJob(
            self.job_id,
            self.kind,
            self.version,
            self.queue,
            self.priority,
            ready_at,
            ready_at <= now_ms,
            self.on_stall,
            self.max_stalls,
            self.deadline_at,
            self.idempotency_key,
            self.partition_key,
            self.inputs,
            self.inputs_hash,
            self.tags,
            self.trace_id,
            self.parent_job_id,
            self.parent_step_key,
            self.detached,
            ZERO_METRICS,
            now_ms,
            "submitted" if self.forked_from is None else FORKED,
        )
        accepted = ev.JobAccepted(
            job_kind=self.kind,
            queue=self.queue,
            priority=self.priority,
            ready_at=ready_at,
            idempotency_key=self.idempotency_key,
            inputs_hash=self.inputs_hash,
            inputs_bytes=size_of(self.inputs) if self.inputs_bytes is None else self.inputs_bytes,
            parent_job_id=self.parent_job_id,
            forked_from=self.forked_from,
        )
        ref = JobRef(self.job_id, self.trace_id, self.kind)
        return Changes([row], [event(accepted, self.who, now_ms, ids, job=ref)])


class ForkJob(Command, frozen=True, kw_only=True):
    """Make a new job of another one's finished steps; its own runs add the rest. The other job is not touched."""

    source: JobRef
    new: SubmitJob
    from_step: StepKey | None
    steps: tuple[StepKey, ...]

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the new job with its copies, ``job_accepted``, and in the other job ``job_forked``."""
        accepted = self.new.changes(now_ms, ids)
        rows = [*accepted.rows, *(CopyStep(self.new.job_id, self.source.job_id, key) for key in self.steps)]
        told = ev.JobForked(new_job_id=self.new.job_id, from_step=self.from_step)
        return Changes(rows, [*accepted.events, event(told, self.new.who, now_ms, ids, job=self.source)])


class NoteDuplicate(Command, frozen=True, kw_only=True):
    """Record that a submit found its job already there."""

    job: JobRef
    idempotency_key: str
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return ``job_deduplicated``."""
        told = ev.JobDeduplicated(idempotency_key=self.idempotency_key)
        return Changes([], [event(told, self.who, now_ms, ids, job=self.job)])


class ClaimJob(Command, frozen=True, kw_only=True):
    """Start a run of a queued job in an engine whose gate is open.

    ``version`` is the code's: a job that has begun is refused to another version than its own. ``limits`` must hold
    afterwards, and so must ``rate``, the queue's and its rate. ``terms`` is the queue's revision under which this was
    decided, ``turn`` the turn of the job's partition key that it takes.
    """

    job: JobRef
    engine_id: EngineId
    attempt: int
    replay_steps: int
    version: str | None = None
    limits: tuple[QueueLimit, ...] = ()
    rate: tuple[str, RateTerms] | None = None
    turn: TakeTurn | None = None
    terms: int | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the claim, its limits, and ``run_started``."""
        assert self.job.run_id is not None
        rows: list[Row] = [
            StartRun(self.job.job_id, self.job.run_id, self.engine_id, self.attempt, now_ms, self.version, self.terms),
            *self.limits,
        ]
        if self.rate is not None:
            queue, (n, per_ms) = self.rate
            rows.append(RateLimit(queue, n, per_ms, now_ms))
        if self.turn is not None:
            rows.append(self.turn)
        started = ev.RunStarted(attempt=self.attempt, replay_steps=self.replay_steps)
        return Changes(rows, [event(started, Who(Actor.SYSTEM, self.engine_id), now_ms, ids, job=self.job)])


class PutJobAway(Command, frozen=True, kw_only=True):
    """End a run on purpose, to be replayed later: a durable wait, a shutdown, a question, a history mismatch.

    ``state`` is queued, or awaiting_user when nothing but a person can move it. ``tells`` are the events that say so.
    """

    job: JobRef
    engine_id: EngineId
    state: JobState
    reason: str
    ready_at: int | None
    tells: tuple[ev.EventPayload, ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the run's end, the job's move, and ``run_suspended``."""
        assert self.job.run_id is not None
        if self.state not in RUN_ENDS[RunState.SUSPENDED]:
            raise IllegalTransition(f"a run is not put away as {self.state}", job_id=self.job.job_id, state=self.state)
        rows: list[Row] = [
            EndRun(self.job.run_id, self.engine_id, RunState.SUSPENDED, self.reason, now_ms),
            PutAway(self.job.job_id, self.job.run_id, self.state, self.reason, self.ready_at, now_ms),
        ]
        engine = Who(Actor.SYSTEM, self.engine_id)
        # What moves the job to a person comes first: after it the run's end changes nothing (``events.fold``).
        told = [
            event(payload, self.job.agent if Actor.AGENT in payload.actors else engine, now_ms, ids, job=self.job)
            for payload in self.tells
        ]
        suspended = ev.RunSuspended(reason=self.reason, ready_at=self.ready_at)
        told.append(event(suspended, engine, now_ms, ids, job=self.job))
        return Changes(rows, told)


_END_OF_RUN = {
    JobState.COMPLETED: RunState.COMPLETED,
    JobState.COMPLETED_WITH_ISSUES: RunState.COMPLETED,
    JobState.FAILED: RunState.FAILED,
    JobState.CANCELLED: RunState.CANCELLED,
    JobState.POISONED: RunState.POISONED,
}


class FinishRun(Command, frozen=True, kw_only=True):
    """End a run and its job together, in one transaction. Only here are outputs published."""

    job: JobRef
    engine_id: EngineId
    state: JobState
    reason: str
    attempt: int
    duration_ms: int
    outputs: str | None = None
    outputs_hash: str = ""
    outputs_bytes: int | None = None
    """Of the outputs themselves, where ``outputs`` says where they are kept."""
    failure: Failure | None = None
    issues: str | None = None
    by: str | None = None
    by_reason: str | None = None
    who: Who | None = None
    removed_steps: tuple[StepKey, ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return both ends and the job's terminal event."""
        assert self.job.run_id is not None
        if self.state not in _END_OF_RUN:
            raise IllegalTransition(
                f"no run ends its job as {self.state}; one is put away for a person or a validator",
                job_id=self.job.job_id,
                state=self.state,
            )
        rows: list[Row] = [
            EndRun(self.job.run_id, self.engine_id, _END_OF_RUN[self.state], self.reason, now_ms),
            EndJob(
                self.job.job_id,
                self.job.run_id,
                self.state,
                self.reason,
                self.outputs,
                None if self.failure is None else self.failure.text(),
                self.issues,
                now_ms,
            ),
        ]
        who = self.who or self.job.agent
        told = [
            event(ev.StepRemoved(), self.job.agent, now_ms, ids, job=self.job, step_key=key)
            for key in self.removed_steps
        ]
        told.append(event(self._end_payload(), who, now_ms, ids, job=self.job))
        return Changes(rows, told)

    def _end_payload(self) -> ev.EventPayload:
        if self.state is JobState.COMPLETED or self.state is JobState.COMPLETED_WITH_ISSUES:
            done = ev.JobCompleted(
                attempt=self.attempt,
                duration_ms=self.duration_ms,
                outputs_hash=self.outputs_hash,
                outputs_bytes=size_of(self.outputs or "") if self.outputs_bytes is None else self.outputs_bytes,
            )
            if self.state is JobState.COMPLETED:
                return done
            return ev.JobCompletedWithIssues(
                attempt=done.attempt,
                duration_ms=done.duration_ms,
                outputs_hash=done.outputs_hash,
                outputs_bytes=done.outputs_bytes,
                issues=ev.decode_issues(self.issues or "[]"),
            )
        return end_payload(self.state, self.failure, by=self.by, reason=self.by_reason)

    def refused(self, op: str) -> RelightError:
        """Say that the job no longer runs here: a late finish is refused, also from a live engine."""
        return Conflict(
            f"run {self.job.run_id} of job {self.job.job_id} had already ended; its result was not recorded", op=op
        )


def end_payload(state: JobState, failure: Failure | None, *, by: str | None, reason: str | None) -> ev.EventPayload:
    """Return the terminal event of a job that did not complete."""
    if state is JobState.CANCELLED:
        return ev.JobCancelled(by=by or "unknown", reason=None if reason is None else redact(reason))
    if state is JobState.FAILED:
        return ev.JobFailed(
            error_type=failure.type if failure else "operator",
            error_code=failure.code if failure else None,
            message_redacted=redact(failure.message) if failure else "",
        )
    assert state is JobState.POISONED, state
    # The run's own word: no engine died of it, and the job's error says why.
    return ev.JobPoisoned(stalls=0, evidence=[])


def fresh_run(job_id: JobId, trace_id: str, kind: str, run_id: str) -> JobRef:
    """Return a job's reference for a new run of it."""
    return JobRef(job_id, trace_id, kind, RunId(run_id))
