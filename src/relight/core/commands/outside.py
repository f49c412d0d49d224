"""What passes between a job and the outside world: tokens that somebody else completes, and values made readable.

A token is made by a run and answered once: by a client (completed, failed), or by its time (expired, told by the run that
waits for it). A word that comes late is refused by the store, and the caller says what was there first.
"""

from __future__ import annotations

from relight.core import events as ev
from relight.core.changes import BeatToken, Changes, CloseToken, NewToken, PutPublished, WakeJob, Who
from relight.core.commands.base import Command, JobRef, event
from relight.core.commands.steps import InRun
from relight.core.redact import redact
from relight.core.row import Row
from relight.ids import Ids, StepKey
from relight.model import Actor, StepKind, StepState

PUBLISH = "publish"
"""The name of what records that a workflow's body published something."""

FAILED_OUTSIDE = "external_failed"
"""The type and code of a failure that was told by whoever worked on a token."""


class MakeToken(InRun, frozen=True, kw_only=True):
    """Hand out a token: its row and the record of it, finished at once. ``outcome`` is what a replay reads."""

    token: str
    name: str
    type: str | None
    expires_at: int | None
    heartbeat_ms: int | None
    outcome: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return both rows and ``external_created``."""
        rows: list[Row] = [
            self._begin(now_ms, kind=StepKind.TOKEN, name=self.name, state=StepState.RUNNING),
            self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms),
            NewToken(
                self.token,
                self.job.job_id,
                self.step_key,
                self.name,
                self.type,
                now_ms,
                self.expires_at,
                self.heartbeat_ms,
            ),
        ]
        told = ev.ExternalCreated(name=self.name, expires_at=self.expires_at)
        return Changes(rows, [self._tell(told, now_ms, ids)])


class ExpireToken(InRun, frozen=True, kw_only=True):
    """A token's time limit passed, or a heartbeat was missed, seen by the run that waits. ``token_key``: where it was made."""

    token: str
    token_key: StepKey
    name: str
    reason: ev.Expiry
    outcome: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the token expired, the wait ended, and ``external_expired``."""
        rows: list[Row] = [
            CloseToken(self.token, self.job.job_id, "expired", None, None, None, now_ms),
            self._update(StepState.COMPLETED, outcome=self.outcome, ended_at=now_ms),
        ]
        told = ev.ExternalExpired(name=self.name, reason=self.reason)
        timer = Who(Actor.SYSTEM, "timer")
        return Changes(rows, [event(told, timer, now_ms, ids, job=self.job, step_key=self.token_key)])


class CompleteToken(Command, frozen=True, kw_only=True):
    """Somebody outside completes a token that is open. A job put away for just this may go on."""

    job: JobRef
    step_key: StepKey
    token: str
    name: str
    value: str
    value_hash: str
    value_bytes: int
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the token completed, the wake-up, and ``external_completed``."""
        rows: list[Row] = [
            CloseToken(self.token, self.job.job_id, "completed", self.value, None, self.who.id, now_ms),
            WakeJob(self.job.job_id, self.token, False, now_ms),
        ]
        told = ev.ExternalCompleted(name=self.name, value_hash=self.value_hash, value_bytes=self.value_bytes)
        return Changes(rows, [event(told, self.who, now_ms, ids, job=self.job, step_key=self.step_key)])


class FailToken(Command, frozen=True, kw_only=True):
    """Somebody outside says that what a token stands for failed. A job put away for just this may go on."""

    job: JobRef
    step_key: StepKey
    token: str
    name: str
    error: str
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the token failed, the wake-up, and ``external_failed``."""
        rows: list[Row] = [
            CloseToken(self.token, self.job.job_id, "failed", None, self.error, self.who.id, now_ms),
            WakeJob(self.job.job_id, self.token, False, now_ms),
        ]
        told = ev.ExternalFailed(name=self.name, error_type=FAILED_OUTSIDE, message_redacted=redact(self.error))
        return Changes(rows, [event(told, self.who, now_ms, ids, job=self.job, step_key=self.step_key)])


class BeatTokenNow(Command, frozen=True, kw_only=True):
    """Whoever works on an open token is still at it. Nobody is woken: a run that waits looks when its time comes."""

    job: JobRef
    token: str
    note: str | None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the sign of life. No event: beating is not progressing."""
        return Changes([BeatToken(self.token, self.job.job_id, self.note, now_ms)], [])


class PublishValue(InRun, frozen=True, kw_only=True):
    """Make a value readable from outside; the latest of a name stands. Large values are stowed before.

    ``recorded``: published by a workflow's body, which is replayed: the step says that it was done, and is not done again.
    """

    name: str
    value: str
    value_hash: str
    value_bytes: int
    recorded: bool

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the value, the record of a body's, and ``published``."""
        assert self.job.run_id is not None
        rows: list[Row] = []
        if self.recorded:
            rows.append(self._begin(now_ms, kind=StepKind.VALUE, name=PUBLISH, state=StepState.RUNNING))
            rows.append(self._update(StepState.COMPLETED, outcome="null", ended_at=now_ms))
        rows.append(PutPublished(self.job.job_id, self.job.run_id, self.name, self.value, now_ms))
        told = ev.Published(name=self.name, value_hash=self.value_hash, value_bytes=self.value_bytes)
        return Changes(rows, [self._tell(told, now_ms, ids)])
