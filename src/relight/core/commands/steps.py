"""Inside a run: steps begin and end, waits begin and end, questions are asked, children are started.

Each of these needs its run to be running: a late word from a run that was cancelled, failed or stalled is refused.
"""

from __future__ import annotations

import msgspec

from relight.core import events as ev
from relight.core.changes import (
    AcceptArguments,
    BeginStep,
    Changes,
    CloseDecision,
    NewDecision,
    NoteStep,
    ReadSignal,
    SetProgress,
    UpdateStep,
    Who,
)
from relight.core.commands.base import Command, JobRef, event
from relight.core.commands.jobs import SubmitJob
from relight.core.failure import Failure
from relight.core.redact import redact
from relight.core.row import Row
from relight.core.sizes import size_of
from relight.errors import Conflict, RelightError
from relight.ids import Ids, StepKey
from relight.model import Actor, InDoubtPolicy, StepKind, StepState


class InRun(Command, frozen=True, kw_only=True):
    """What a run writes about one of its steps."""

    job: JobRef
    step_key: StepKey

    def refused(self, op: str) -> RelightError:
        """Say that the run no longer runs."""
        return Conflict(
            f"run {self.job.run_id} of job {self.job.job_id} no longer runs, so {self.step_key} was not recorded", op=op
        )

    def _begin(
        self,
        now_ms: int,
        *,
        kind: StepKind,
        name: str,
        state: StepState,
        try_number: int = 1,
        policy: InDoubtPolicy = "retry",
        args_hashes: str | None = None,
        inputs: str | None = None,
        until: int | None = None,
        waits_for: str | None = None,
        code_ref: str | None = None,
        heartbeat_ms: int | None = None,
    ) -> BeginStep:
        job = self.job
        assert job.run_id is not None
        what = (kind, name, state, try_number, policy, args_hashes, inputs, until, waits_for, code_ref, now_ms)
        return BeginStep(job.job_id, self.step_key, job.run_id, *what, heartbeat_ms)

    def _update(
        self,
        state: StepState,
        *,
        try_number: int = 1,
        outcome: str | None = None,
        error: str | None = None,
        until: int | None = None,
        ended_at: int | None = None,
    ) -> UpdateStep:
        assert self.job.run_id is not None
        return UpdateStep(
            self.job.job_id, self.step_key, self.job.run_id, state, try_number, outcome, error, until, ended_at
        )

    @staticmethod
    def _ended_with(row: UpdateStep, also: tuple[StepKey, ...]) -> list[Row]:
        """Return the ends of a wait's further rows, which have no result of their own."""
        return [msgspec.structs.replace(row, step_key=key, outcome="null") for key in also]

    def _tell(self, payload: ev.EventPayload, now_ms: int, ids: Ids, who: Who | None = None) -> ev.Draft:
        return event(payload, who or self.job.agent, now_ms, ids, job=self.job, step_key=self.step_key)


class BeginTry(InRun, frozen=True, kw_only=True):
    """A step's function is about to be called."""

    name: str
    try_number: int
    policy: InDoubtPolicy
    args_hashes: str | None
    args_hash: str
    args_bytes: int
    inputs: str | None
    code_ref: str | None
    until: int | None = None
    heartbeat_ms: int | None = None
    kind: StepKind = StepKind.STEP

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the step's row, running, and ``step_began``."""
        row = self._begin(
            now_ms,
            kind=self.kind,
            name=self.name,
            state=StepState.RUNNING,
            try_number=self.try_number,
            policy=self.policy,
            args_hashes=self.args_hashes,
            inputs=self.inputs,
            code_ref=self.code_ref,
            until=self.until,
            heartbeat_ms=self.heartbeat_ms,
        )
        began = ev.StepBegan(
            step_kind=self.kind,
            try_number=self.try_number,
            args_hash=self.args_hash,
            args_bytes=self.args_bytes,
            in_doubt_policy=self.policy,
        )
        return Changes([row], [self._tell(began, now_ms, ids)])


class FinishStep(InRun, frozen=True, kw_only=True):
    """A step's outcome becomes its checkpoint."""

    try_number: int
    outcome: str
    outcome_hash: str
    began_at: int
    kind: StepKind = StepKind.STEP
    outcome_bytes: int | None = None
    """Of the outcome itself, where ``outcome`` says where it is kept."""

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the checkpoint and ``step_finished``."""
        row = self._update(StepState.COMPLETED, try_number=self.try_number, outcome=self.outcome, ended_at=now_ms)
        finished = ev.StepFinished(
            step_kind=self.kind,
            try_number=self.try_number,
            outcome_hash=self.outcome_hash,
            outcome_bytes=size_of(self.outcome) if self.outcome_bytes is None else self.outcome_bytes,
            duration_ms=max(now_ms - self.began_at, 0),
        )
        return Changes([row], [self._tell(finished, now_ms, ids)])


class FailTry(InRun, frozen=True, kw_only=True):
    """A try failed. ``state`` says what follows: failed (the last), backoff or in_doubt (``until``: the next try's time).

    ``outcome`` is what is kept of earlier tries all the same: the state of a poll.
    """

    try_number: int
    state: StepState
    failure: Failure
    until: int | None = None
    policy: InDoubtPolicy = "retry"
    outcome: str | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row and ``step_failed``, with ``step_retry_scheduled`` or ``step_in_doubt`` where that follows."""
        final = self.state is StepState.FAILED
        row = self._update(
            self.state,
            try_number=self.try_number,
            outcome=self.outcome,
            error=self.failure.text(),
            until=self.until,
            ended_at=now_ms if final else None,
        )
        failed = ev.StepFailed(
            try_number=self.try_number,
            error_type=self.failure.type,
            error_code=self.failure.code,
            message_redacted=redact(self.failure.message),
            final=final,
        )
        told = [self._tell(failed, now_ms, ids)]
        if self.state is StepState.IN_DOUBT:
            doubt = ev.StepInDoubt(try_number=self.try_number, policy=self.policy)
            told.append(self._tell(doubt, now_ms, ids, Who(Actor.SYSTEM, "step_flow")))
        elif not final and self.until is not None:
            retry = ev.StepRetryScheduled(
                try_number=self.try_number + 1, next_try_at=self.until, error_type=self.failure.type
            )
            told.append(self._tell(retry, now_ms, ids))
        return Changes([row], told)


class AbandonStep(InRun, frozen=True, kw_only=True):
    """A step was cancelled from inside the job; a replay must not run it again."""

    try_number: int
    reason: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row and ``step_abandoned``."""
        told = ev.StepAbandoned(try_number=self.try_number, reason=self.reason)
        return Changes(
            [self._update(StepState.ABANDONED, try_number=self.try_number, ended_at=now_ms)],
            [self._tell(told, now_ms, ids, Who(Actor.SYSTEM, "step_flow"))],
        )


class NoteOverdue(InRun, frozen=True, kw_only=True):
    """A sync step's try is past its time limit; its thread cannot be stopped and is counted."""

    try_number: int
    timeout_ms: int

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return ``step_abandoned`` with the reason ``timeout``; the row is settled when the function returns."""
        told = ev.StepAbandoned(try_number=self.try_number, reason="timeout")
        return Changes([], [self._tell(told, now_ms, ids, Who(Actor.SYSTEM, "step_flow"))])


class ReconcileStep(InRun, frozen=True, kw_only=True):
    """A doubt was settled: done with a value, not done, or failed. ``by`` is a person or the step's own function."""

    verdict: ev.Settlement
    by: str
    try_number: int
    outcome: str | None = None
    outcome_hash: str = ""
    failure: Failure | None = None
    human: bool = False
    ask_key: StepKey | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row and ``step_reconciled``."""
        who = Who(Actor.HUMAN if self.human else Actor.SYSTEM, self.by)
        told = self._tell(ev.StepReconciled(as_=self.verdict, by=self.by), now_ms, ids, who)
        match self.verdict:
            case "done":
                row = self._update(
                    StepState.COMPLETED, try_number=self.try_number, outcome=self.outcome, ended_at=now_ms
                )
            case "failed":
                row = self._update(
                    StepState.FAILED,
                    try_number=self.try_number,
                    error=None if self.failure is None else self.failure.text(),
                    ended_at=now_ms,
                )
            case _:
                row = self._update(StepState.BACKOFF, try_number=self.try_number, until=now_ms)
        rows: list[Row] = [row]
        if self.ask_key is not None:
            assert self.job.run_id is not None
            asked = msgspec.json.encode(self.verdict).decode()
            rows.append(
                UpdateStep(
                    self.job.job_id, self.ask_key, self.job.run_id, StepState.COMPLETED, 1, asked, None, None, now_ms
                )
            )
        return Changes(rows, [told])


class AcceptMismatch(InRun, frozen=True, kw_only=True):
    """A run goes on where its code and its record differ, because an operator accepted that.

    With ``args_hashes`` these are from now on what the finished step was called with, so that a later replay agrees.
    ``hashes`` are the recorded one and the one now.
    """

    args_hashes: str | None
    hashes: tuple[str, str]
    detail: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the step's new arguments, and ``mismatch_accepted``."""
        assert self.job.run_id is not None
        rows: list[Row] = []
        if self.args_hashes is not None:
            rows.append(AcceptArguments(self.job.job_id, self.step_key, self.job.run_id, self.args_hashes))
        recorded, now = self.hashes
        told = ev.MismatchAccepted(recorded_hash=recorded, now_hash=now, detail=redact(self.detail))
        return Changes(rows, [self._tell(told, now_ms, ids, Who(Actor.SYSTEM, "accept"))])


class RecordValue(InRun, frozen=True, kw_only=True):
    """Record a value such as ``now()``; it rides along with the next commit."""

    name: str
    outcome: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row, finished. Nothing is told: the value is no fact about the world."""
        row = self._begin(now_ms, kind=StepKind.VALUE, name=self.name, state=StepState.RUNNING)
        return Changes([row, self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms)], [])


class PollAgain(InRun, frozen=True, kw_only=True):
    """A poll's check gave a state that will not do yet: it is kept, and checked again at ``until``."""

    try_number: int
    outcome: str
    until: int

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row, waiting, and ``sleep_started``."""
        row = self._update(StepState.WAITING, try_number=self.try_number, outcome=self.outcome, until=self.until)
        return Changes([row], [self._tell(ev.SleepStarted(until=self.until), now_ms, ids)])


class BeginWait(InRun, frozen=True, kw_only=True):
    """A durable wait begins: a sleep (``until``), a signal, a child or a token (``waits_for``), with a time limit or without.

    ``also`` are further things that end the same wait, each under a key of its own; ``inputs`` is what is known of the wait.
    """

    kind: StepKind
    name: str
    until: int | None
    waits_for: str | None
    inputs: str | None = None
    also: tuple[tuple[StepKey, str], ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row, waiting, and ``sleep_started`` or ``wait_started``."""
        row = self._begin(
            now_ms,
            kind=self.kind,
            name=self.name,
            state=StepState.WAITING,
            until=self.until,
            waits_for=self.waits_for,
            inputs=self.inputs,
        )
        others: list[Row] = [
            msgspec.structs.replace(row, step_key=key, name=name, waits_for=name) for key, name in self.also
        ]
        told: ev.EventPayload
        if self.kind is StepKind.SLEEP:
            told = ev.SleepStarted(until=self.until)
        else:
            told = ev.WaitStarted(what=f"{self.kind}:{self.name}", until=self.until)
        return Changes([row, *others], [self._tell(told, now_ms, ids)])


class EndWait(InRun, frozen=True, kw_only=True):
    """A durable wait is over. ``outcome`` is its result; ``tells`` what happened, if that is a fact of its own.

    ``also`` are the keys of its further rows.
    """

    outcome: str
    tells: tuple[ev.EventPayload, ...] = ()
    who: Who | None = None
    also: tuple[StepKey, ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the row, completed."""
        row = self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms)
        return Changes(
            [row, *self._ended_with(row, self.also)],
            [self._tell(payload, now_ms, ids, self.who) for payload in self.tells],
        )


class ConsumeSignal(InRun, frozen=True, kw_only=True):
    """An unread signal becomes a wait's outcome, once."""

    signal_id: str
    name: str
    payload_hash: str
    outcome: str
    fresh: bool
    also: tuple[StepKey, ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the signal read, the wait ended, and ``signal_consumed``. ``fresh``: the wait had no row yet."""
        assert self.job.run_id is not None
        rows: list[Row] = []
        if self.fresh:
            rows.append(
                self._begin(now_ms, kind=StepKind.SIGNAL, name=self.name, state=StepState.WAITING, waits_for=self.name)
            )
        row = self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms)
        rows += [row, *self._ended_with(row, self.also)]
        rows.append(ReadSignal(self.signal_id, self.job.job_id, self.step_key))
        told = ev.SignalConsumed(signal_id=self.signal_id, name=self.name, payload_hash=self.payload_hash)
        return Changes(rows, [self._tell(told, now_ms, ids)])


class AskPerson(InRun, frozen=True, kw_only=True):
    """A question to a person: a decision's row, and a wait for it."""

    decision_id: str
    question: str
    options: str
    preview: str | None
    preview_hash: str | None
    expires_at: int | None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return both rows and ``wait_started``; ``job_awaiting_user`` is told when the run is put away for it."""
        rows: list[Row] = [
            self._begin(
                now_ms,
                kind=StepKind.ASK,
                name="ask",
                state=StepState.WAITING,
                until=self.expires_at,
                waits_for=self.decision_id,
            ),
            NewDecision(
                self.decision_id,
                self.job.job_id,
                self.step_key,
                self.question,
                self.options,
                self.preview,
                self.preview_hash,
                now_ms,
                self.expires_at,
            ),
        ]
        told = ev.WaitStarted(what=f"decision:{self.decision_id}", until=self.expires_at)
        return Changes(rows, [self._tell(told, now_ms, ids)])


class ExpireDecision(InRun, frozen=True, kw_only=True):
    """A question's time limit passed without an answer, seen by the run that waits."""

    decision_id: str
    outcome: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the decision closed, the wait ended, and ``decision_expired``."""
        rows: list[Row] = [
            CloseDecision(self.decision_id, self.job.job_id, None, None, None, now_ms, True),
            self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms),
        ]
        told = ev.DecisionExpired(decision_id=self.decision_id)
        return Changes(rows, [self._tell(told, now_ms, ids, Who(Actor.SYSTEM, "timer"))])


class StartChildren(InRun, frozen=True, kw_only=True):
    """Start child jobs: their rows and the parent's record of them in one transaction, however many."""

    name: str
    children: tuple[SubmitJob, ...]
    outcome: str
    found: tuple[tuple[JobRef, str], ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the children, the record, ``job_accepted`` for each and ``child_started`` in the parent.

        ``found`` are jobs that were there already, each with its key: ``job_deduplicated`` in these.
        """
        rows: list[Row] = [self._begin(now_ms, kind=StepKind.CHILD, name=self.name, state=StepState.RUNNING)]
        told: list[ev.Draft] = []
        for child in self.children:
            accepted = child.changes(now_ms, ids)
            rows += accepted.rows
            told += accepted.events
            told.append(self._tell(ev.ChildStarted(child_job_id=child.job_id), now_ms, ids))
        told += [
            event(ev.JobDeduplicated(idempotency_key=key), self.job.agent, now_ms, ids, job=owner)
            for owner, key in self.found
        ]
        rows.append(self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms))
        return Changes(rows, told)


class ReportProgress(Command, frozen=True, kw_only=True):
    """How far a job says it is, and signs of life of its tries; the last word stands. Rides along with the next commit.

    ``notes`` are (step key, what it said last, or None).
    """

    job: JobRef
    progress: str
    notes: tuple[tuple[StepKey, str | None], ...] = ()

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the job's progress. No event: beating is not progressing."""
        assert self.job.run_id is not None
        job = self.job
        rows: list[Row] = [SetProgress(job.job_id, self.job.run_id, self.progress)]
        rows += [NoteStep(job.job_id, key, self.job.run_id, note, now_ms) for key, note in self.notes]
        return Changes(rows, [])
