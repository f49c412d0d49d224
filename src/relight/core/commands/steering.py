"""What people, clients and policy do to jobs from outside: resume, retry, cancel, fail, hold, signal, answer.

Each is decided on a job as it was read, and names the state it expects: when the job has moved meanwhile the store
refuses, and the caller reads again (``decide_*`` return the command, or raise what is wrong with the act).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from relight.core import events as ev
from relight.core.changes import (
    CancelJob,
    Changes,
    CloseDecision,
    EndRun,
    ExpectOrphan,
    MoveJob,
    NewSignal,
    ReleaseHold,
    ReleaseRow,
    ReopenStep,
    RouteJob,
    SettleStep,
    WakeJob,
    Who,
)
from relight.core.commands.base import Command, JobRef, event
from relight.core.commands.jobs import end_payload
from relight.core.failure import Failure
from relight.core.redact import redact
from relight.core.row import Row
from relight.core.transitions import By, is_legal
from relight.errors import IllegalTransition
from relight.ids import EngineId, Ids, StepKey, short
from relight.model import FINAL_STATES, Actor, JobRecord, JobState, RunState, StepState


def ref_of(job: JobRecord) -> JobRef:
    """Return a job's reference, with its present run."""
    return JobRef(job.job_id, job.trace_id, job.kind, job.run_id)


def refuse_illegal(job: JobRecord, target: JobState, by: By, verb: str) -> None:
    """Raise ``IllegalTransition`` unless the table lets ``by`` move the job to ``target``."""
    if not is_legal(job.state, target, by):
        raise IllegalTransition(
            f"{job.kind} {short(job.job_id)} is {job.state}; it cannot be {verb}. relight why {short(job.job_id)} says what can be done",
            job_id=job.job_id,
            state=job.state,
        )


class _Move(Command, frozen=True, kw_only=True):
    job: JobRef
    source: JobState
    source_reason: str | None = None
    who: Who

    def _check(self, legal: bool, verb: str) -> None:
        """Refuse a command that expects a state from which the table has no such move, whatever state the job is in."""
        if not legal:
            raise IllegalTransition(
                f"{self.job.kind} {short(self.job.job_id)} is {self.source}; it cannot be {verb}. "
                f"relight why {short(self.job.job_id)} says what can be done",
                job_id=self.job.job_id,
                state=self.source,
            )

    def _row(
        self,
        target: JobState,
        reason: str,
        now_ms: int,
        *,
        claimable: bool = False,
        new_attempt: bool = False,
        probation: bool = False,
        error: str | None = None,
        begun: bool | None = None,
        accepting: bool = False,
    ) -> MoveJob:
        return MoveJob(
            self.job.job_id,
            self.source,
            self.source_reason,
            target,
            reason,
            claimable,
            new_attempt,
            probation,
            error,
            now_ms,
            begun,
            accepting,
        )

    def _tell(self, payload: ev.EventPayload, now_ms: int, ids: Ids) -> ev.Draft:
        return event(payload, self.who, now_ms, ids, job=self.job)


class ResumeJob(_Move, frozen=True, kw_only=True):
    """Queue a stalled or suspended job again: a new run, from its checkpoints."""

    policy: Literal["policy", "operator"] = "policy"
    probation: bool = False
    accept: bool = False
    reopen: tuple[StepKey, ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the move and ``job_resumed``; on probation also ``job_probation``.

        ``accept``: the next run goes on where code and record differ. ``reopen`` are steps that it calls again for that.
        """
        by = By.POLICY if self.policy == "policy" else By.OPERATOR
        self._check(self.source not in FINAL_STATES and is_legal(self.source, JobState.QUEUED, by), "resumed")
        row = self._row(
            JobState.QUEUED,
            "resumed",
            now_ms,
            claimable=True,
            new_attempt=self.source is JobState.STALLED,
            probation=self.probation,
            accepting=self.accept,
        )
        rows: list[Row] = [row, *(ReopenStep(self.job.job_id, key) for key in self.reopen)]
        resumed = ev.JobResumed(policy=self.policy, from_state=self.source, accepted=True if self.accept else None)
        told = [self._tell(resumed, now_ms, ids)]
        if self.probation:
            told.append(self._tell(ev.JobProbation(), now_ms, ids))
        return Changes(rows, told)


class AcceptVersion(Command, frozen=True, kw_only=True):
    """An operator lets a queued job that has begun go on under another version of its kind; replay finds what differs."""

    job: JobRef
    seen: str | None
    version: str | None
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the job's new version, and ``version_accepted``."""
        told = ev.VersionAccepted(recorded_version=self.seen, now_version=self.version)
        row = RouteJob(self.job.job_id, self.seen, self.version, now_ms)
        return Changes([row], [event(told, self.who, now_ms, ids, job=self.job)])


class HoldJob(_Move, frozen=True, kw_only=True):
    """Leave a stalled job to an operator, saying why."""

    code: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the reason and ``job_held``."""
        self._check(self.source is JobState.STALLED, "held")
        row = self._row(JobState.STALLED, f"held:{self.code}", now_ms)
        return Changes([row], [self._tell(ev.JobHeld(code=self.code), now_ms, ids)])


class PoisonJob(_Move, frozen=True, kw_only=True):
    """End a job that keeps killing its engine, with the evidence."""

    stalls: int
    evidence: tuple[str, ...]

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the move and ``job_poisoned``."""
        by = By.OPERATOR if self.who.actor is Actor.HUMAN else By.CRASH_LOOP
        self._check(is_legal(self.source, JobState.POISONED, by), "poisoned")
        failure = Failure(
            type="crash_loop", message=f"the engine died {self.stalls} times while a step of this job ran"
        )
        row = self._row(JobState.POISONED, "crash_loop", now_ms, error=failure.text())
        told = ev.JobPoisoned(stalls=self.stalls, evidence=list(self.evidence))
        return Changes([row], [self._tell(told, now_ms, ids)])


class RetryJob(_Move, frozen=True, kw_only=True):
    """An operator's retry: a failed or poisoned job is queued again; finished steps stay finished, ``reopen`` runs again."""

    reopen: tuple[StepKey, ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the move, the steps opened, and ``job_retried``."""
        may = self.source in FINAL_STATES and is_legal(self.source, JobState.QUEUED, By.OPERATOR)
        self._check(may, "retried")
        rows: list[Row] = [self._row(JobState.QUEUED, "retried", now_ms, claimable=True, new_attempt=True)]
        rows += [ReopenStep(self.job.job_id, key) for key in self.reopen]
        return Changes(rows, [self._tell(ev.JobRetried(), now_ms, ids)])


PARENT_ENDED = "its parent ended"
"""The reason why a child is asked to end when its parent has ended."""
WITH_PARENT = "cancel:parent_ended"
"""``status_reason`` of a child that had not begun when its parent ended."""


def ended_with_parent(child: JobRecord) -> bool:
    """Tell whether a child was cancelled, or is being cancelled, because its parent had ended."""
    if child.completed_at is None:
        return child.cancel_code == "cancel" and child.cancel_reason == PARENT_ENDED
    asked = child.cancel_reason == PARENT_ENDED or child.status_reason == WITH_PARENT
    return child.state is JobState.CANCELLED and asked


class EndNow(_Move, frozen=True, kw_only=True):
    """End a job without a last run: one that never began, or by force. A running run is ended with it."""

    target: JobState
    reason: str
    by_reason: str | None = None
    begun: bool | None = None
    failure: Failure | None = None
    open_decisions: tuple[str, ...] = ()
    orphan: bool = False

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the ends and the job's terminal event."""
        by = (By.OPERATOR, By.DEADLINE, By.CLAIM)
        self._check(any(is_legal(self.source, self.target, each) for each in by), f"made {self.target}")
        rows: list[Row] = [
            CloseDecision(decision, self.job.job_id, None, self.who.id, None, now_ms, False)
            for decision in self.open_decisions
        ]
        if self.orphan:
            rows.append(ExpectOrphan(self.job.job_id))
        if self.source is JobState.RUNNING:
            assert self.job.run_id is not None
            end = RunState.CANCELLED if self.target is JobState.CANCELLED else RunState.FAILED
            rows.append(EndRun(self.job.run_id, None, end, self.reason, now_ms))
        error = None if self.failure is None else self.failure.text()
        rows.append(self._row(self.target, self.reason, now_ms, error=error, begun=self.begun))
        told = end_payload(self.target, self.failure, by=self.who.id, reason=self.by_reason)
        return Changes(rows, [self._tell(told, now_ms, ids)])


class RequestEnd(Command, frozen=True, kw_only=True):
    """Ask a job that has begun to end: it gets one last run, which cleans up. The first request stands.

    ``code`` is ``cancel``, ``fail`` or ``deadline``. ``orphan``: refused unless the job's parent has ended.
    """

    job: JobRef
    code: str
    reason: str | None
    who: Who
    orphan: bool = False

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the request and ``job_cancel_requested`` or ``job_deadline_exceeded``."""
        row = CancelJob(self.job.job_id, self.code, self.reason, self.who.id, now_ms)
        told: ev.EventPayload
        if self.code == "deadline":
            told = ev.JobDeadlineExceeded()
        else:
            told = ev.JobCancelRequested(reason=None if self.reason is None else redact(self.reason))
        rows: list[Row] = [row, ExpectOrphan(self.job.job_id)] if self.orphan else [row]
        return Changes(rows, [event(told, self.who, now_ms, ids, job=self.job)])


class SendSignal(Command, frozen=True, kw_only=True):
    """Deliver a message to a job that has not ended. A job put away for just this name may go on."""

    job: JobRef
    signal_id: str
    name: str
    payload: str
    payload_hash: str
    idempotency_key: str | None
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the message, the wake-up, and ``signal_sent``."""
        rows: list[Row] = [
            NewSignal(
                self.signal_id, self.job.job_id, self.name, self.payload, self.who.id, self.idempotency_key, now_ms
            ),
            WakeJob(self.job.job_id, self.name, False, now_ms),
        ]
        told = ev.SignalSent(signal_id=self.signal_id, name=self.name, payload_hash=self.payload_hash)
        return Changes(rows, [event(told, self.who, now_ms, ids, job=self.job)])


class GiveDecision(Command, frozen=True, kw_only=True):
    """A person's answer to an open question that has not expired."""

    job: JobRef
    decision_id: str
    choice: str
    note: str | None
    preview_hash: str | None
    who: Who
    value: str | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the answer, the wake-up, and ``decision_given``."""
        rows: list[Row] = [
            CloseDecision(
                self.decision_id, self.job.job_id, self.choice, self.who.id, self.note, now_ms, False, self.value
            ),
            WakeJob(self.job.job_id, self.decision_id, True, now_ms),
        ]
        told = ev.DecisionGiven(
            decision_id=self.decision_id,
            choice=self.choice,
            preview_hash=self.preview_hash,
            note_redacted=None if self.note is None else redact(self.note),
        )
        return Changes(rows, [event(told, self.who, now_ms, ids, job=self.job)])


class SettleDoubt(Command, frozen=True, kw_only=True):
    """An operator settles a step in doubt while no run of its job is running: the next run finds it settled."""

    job: JobRef
    step_key: StepKey
    verdict: str
    value: str | None
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the step settled, and ``step_reconciled``."""
        state, outcome, error = StepState.BACKOFF, None, None
        verdict: ev.Settlement = "not_done"
        if self.verdict == "done":
            verdict, state, outcome = "done", StepState.COMPLETED, self.value or "null"
        elif self.verdict == "fail":
            verdict, state = "failed", StepState.FAILED
            error = Failure(type="in_doubt", code="in_doubt", message=f"failed by {self.who.id}").text()
        row = SettleStep(self.job.job_id, self.step_key, state, outcome, error, now_ms)
        told = ev.StepReconciled(as_=verdict, by=self.who.id)
        return Changes([row], [event(told, self.who, now_ms, ids, job=self.job, step_key=self.step_key)])


class QuestionTimedOut(Command, frozen=True, kw_only=True):
    """A question's time limit passed while its job was put away: wake the job, whose next run sees it expire."""

    job: JobRef
    decision_id: str
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the question expired, the wake-up, and ``decision_expired``."""
        rows: list[Row] = [
            CloseDecision(self.decision_id, self.job.job_id, None, None, None, now_ms, True),
            WakeJob(self.job.job_id, self.decision_id, True, now_ms),
        ]
        told = ev.DecisionExpired(decision_id=self.decision_id)
        return Changes(rows, [event(told, self.who, now_ms, ids, job=self.job)])


class WithdrawQuestion(Command, frozen=True, kw_only=True):
    """A question nobody needs answered any more."""

    job: JobRef
    decision_ids: tuple[str, ...]

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the questions closed without an answer."""
        return Changes(
            [CloseDecision(d, self.job.job_id, None, None, None, now_ms, False) for d in self.decision_ids], []
        )


class ReleaseHeld(Command, frozen=True, kw_only=True):
    """A silent owner's last try has ended, or the owner died: policy may act on its jobs again."""

    job: JobRef
    owner: EngineId
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the hold taken off and ``hold_released``."""
        row = ReleaseHold(self.job.job_id, self.owner, now_ms)
        return Changes([row], [event(ev.HoldReleased(), self.who, now_ms, ids, job=self.job)])


class ReleaseQuarantined(Command, frozen=True, kw_only=True):
    """An operator takes a job out of quarantine: recovery and claims may meet it again."""

    job: JobRef
    table_name: str
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the release and ``row_released``."""
        told = ev.RowReleased(table=self.table_name, row_id=self.job.job_id)
        return Changes([ReleaseRow(self.job.job_id, now_ms)], [event(told, self.who, now_ms, ids, job=self.job)])


def decide_resume(job: JobRecord, who: Who) -> ResumeJob:
    """Decide an operator's resume: of a stalled or held job, or of one whose history did not match."""
    if job.state is JobState.AWAITING_USER and not job.status_reason.startswith("history_mismatch"):
        raise IllegalTransition(
            f"{job.kind} {short(job.job_id)} waits for an answer, not for a resume: relight answer {short(job.job_id)} CHOICE",
            job_id=job.job_id,
            state=job.state,
        )
    if job.state not in (JobState.STALLED, JobState.AWAITING_USER):
        refuse_illegal(job, JobState.STALLED, By.OPERATOR, "resumed")
    if job.held_by is not None:
        raise IllegalTransition(
            f"{job.kind} {short(job.job_id)} is held: engine {short(job.held_by)} was stopped in the middle of it and may "
            f"still act. End that process, or: relight engines fence {short(job.held_by)}",
            job_id=job.job_id,
            held_by=job.held_by,
        )
    return ResumeJob(job=ref_of(job), source=job.state, source_reason=job.status_reason, who=who, policy="operator")


MISMATCH = "history_mismatch"
"""``status_reason`` of a job whose code no longer agrees with its record begins so."""

ACCEPTABLE = frozenset({"arguments", "step_inserted", "never_reached", "abandoned"})
"""Mismatches that can be accepted. A record of another kind, or one that can no longer be read, cannot be gone on with."""


def is_acceptable(job: JobRecord) -> bool:
    """Tell whether a job is stopped by a mismatch with which its run could go on."""
    reason, _, code = job.status_reason.partition(":")
    return job.state is JobState.AWAITING_USER and reason == MISMATCH and code in ACCEPTABLE


def decide_accept(job: JobRecord, who: Who, abandoned: Sequence[StepKey]) -> ResumeJob:
    """Decide an operator's word that a job goes on under its present code, although its record differs.

    Finished steps keep their outcome; ``abandoned`` ones, for which the code now waits, are called again.
    """
    name = f"{job.kind} {short(job.job_id)}"
    if job.state is not JobState.AWAITING_USER or not job.status_reason.startswith(MISMATCH):
        raise IllegalTransition(
            f"{name} is {job.state} ({job.status_reason}), not stopped by a history mismatch or for want of its version: there is nothing "
            f"to accept. "
            f"relight why {short(job.job_id)} says what can be done",
            job_id=job.job_id,
            state=job.state,
        )
    if not is_acceptable(job):
        raise IllegalTransition(
            f"the mismatch of {name} cannot be accepted: a record that its code cannot use would be called again. Start an "
            f"engine with the old code, or: relight fork {short(job.job_id)} --from STEP",
            job_id=job.job_id,
            state=job.state,
        )
    reopen = tuple(abandoned) if job.status_reason == f"{MISMATCH}:abandoned" else ()
    return ResumeJob(
        job=ref_of(job),
        source=job.state,
        source_reason=job.status_reason,
        who=who,
        policy="operator",
        accept=True,
        reopen=reopen,
    )


def decide_retry(job: JobRecord, who: Who, reopen: Sequence[StepKey]) -> RetryJob:
    """Decide an operator's retry of a failed or poisoned job."""
    if job.state not in (JobState.FAILED, JobState.POISONED):
        raise IllegalTransition(
            f"{job.kind} {short(job.job_id)} is {job.state}; only failed and poisoned jobs are retried",
            job_id=job.job_id,
            state=job.state,
        )
    return RetryJob(job=ref_of(job), source=job.state, who=who, reopen=tuple(reopen))


def decide_end(
    job: JobRecord,
    who: Who,
    *,
    code: str,
    reason: str | None,
    force: bool,
    open_decisions: Sequence[str],
    orphan: bool = False,
) -> EndNow | RequestEnd:
    """Decide a cancel (``code`` cancel), an operator's fail (fail), or what a deadline does (deadline).

    ``orphan``: a cancel because the job's parent has ended; refused when it has not, or was retried meanwhile.

    What never began ends at once, and so does anything by force; what has begun is asked to end in one last run.
    """
    target = JobState.CANCELLED if code == "cancel" else JobState.FAILED
    by = By.DEADLINE if code == "deadline" else By.OPERATOR
    verb = "cancelled" if code == "cancel" else "failed"
    if job.state in FINAL_STATES:
        refuse_illegal(job, target, by, verb)
    if not force and job.begun:
        return RequestEnd(job=ref_of(job), code=code, reason=reason, who=who, orphan=orphan)
    refuse_illegal(job, target, by, verb)
    failure = None
    status = WITH_PARENT if orphan else f"forced:{code}" if job.begun else code
    if code == "deadline":
        failure, status = (
            Failure(type="deadline_exceeded", message="the job's deadline passed", code="deadline_exceeded"),
            "deadline_exceeded",
        )
    elif code == "fail":
        failure = Failure(type="operator", message=reason or "failed by an operator", code="operator")
    return EndNow(
        job=ref_of(job),
        source=job.state,
        who=who,
        target=target,
        reason=status,
        by_reason=reason,
        begun=job.begun,
        failure=failure,
        open_decisions=tuple(open_decisions),
        orphan=orphan,
    )


def system(engine_id: str) -> Who:
    """Return an engine as an actor."""
    return Who(Actor.SYSTEM, engine_id)
