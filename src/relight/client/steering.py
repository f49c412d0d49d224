"""Acts on jobs from outside: signal, cancel, fail, resume, retry, answer, settle.

Every act is decided on the job as read and applied as a compare-and-set; when the job moved meanwhile, it is read and
decided again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from relight.authoring.registry import check_text, is_text, version_order
from relight.client.session import Session
from relight.clock import to_datetime
from relight.core.able import other_versions
from relight.core.changes import Who
from relight.core.commands import Command
from relight.core.commands.steering import (
    AcceptVersion,
    GiveDecision,
    SendSignal,
    SettleDoubt,
    decide_accept,
    decide_end,
    decide_resume,
    decide_retry,
    ref_of,
)
from relight.core.flow import DOUBT_OPTIONS, INLINE_CHARS, digest
from relight.core.history import History
from relight.core.keys import branch_of, check_name
from relight.core.reopening import children_of, failures_that_ended, starts_to_reopen
from relight.errors import (
    Conflict,
    Fenced,
    IdempotencyMismatch,
    InvalidArgument,
)
from relight.ids import StepKey, short
from relight.model import (
    FINAL_STATES,
    DecisionRecord,
    JobRecord,
    StepKind,
    StepState,
)

TRIES = 8
"""How often an act is decided anew when its job keeps moving."""


class _AlreadyAsked(Exception):
    """The job was asked to end before."""


class Steering(Session):
    """A session that steers."""

    def _act(self, job_id: str, decide: Callable[[JobRecord], Command]) -> None:
        """Decide on the job as it is, and apply; decide again when it moved meanwhile."""
        for attempt in range(TRIES):
            command = decide(self.find(job_id))
            try:
                self.journal.execute(command, patience_seconds=self.patience_seconds)
            except Fenced:
                raise
            except Conflict:
                if attempt == TRIES - 1:
                    raise
            else:
                return

    def signal(self, job_id: str, name: str, payload: object, *, by: str | None, idempotency_key: str | None) -> None:
        """Deliver a message. Raises ``NotFound``, ``Conflict`` when the job has ended, ``NotSerializable``."""
        check_name(name, "signal")
        check_text(idempotency_key, "idempotency_key")
        text = self._payload_text(job_id, name, payload)
        stored = text if len(text) <= INLINE_CHARS else self.stow(text)
        signal_id = self.ids.uuid7(self.clock.now_ms())

        def decide(job: JobRecord) -> Command:
            self._refuse_ended(job, "take a signal")
            return SendSignal(
                job=ref_of(job),
                signal_id=signal_id,
                name=name,
                payload=stored,
                payload_hash=digest(text),
                idempotency_key=idempotency_key,
                who=self.who(by),
            )

        if idempotency_key is not None and self._was_sent(job_id, name, idempotency_key, stored):
            return
        try:
            self.journal.execute(decide(self.find(job_id)), patience_seconds=self.patience_seconds)
        except Fenced:
            raise
        except Conflict:
            self._refuse_ended(self.find(job_id), "take a signal")
            if idempotency_key is None or not self._was_sent(job_id, name, idempotency_key, stored):
                raise

    def _was_sent(self, job_id: str, name: str, key: str, stored: str) -> bool:
        with self.store.reading() as reads:
            known = reads.signal_by_key(job_id, name, key)
        if known is not None and known.payload != stored:
            raise IdempotencyMismatch(
                f'signal {name!r} was sent to {short(job_id)} under the key "{key}" with another payload', job_id=job_id
            )
        return known is not None

    def _payload_text(self, job_id: str, name: str, payload: object) -> str:
        """Encode a payload, checked against the waits for it that are open now. Raises ``InvalidArgument``."""
        what = f"payload of signal {name!r}"
        with self.store.reading() as reads:
            waits = reads.waiting_for(job_id, name) if is_text(job_id) else []
        types = {msgspec.json.decode(w.inputs).get("type") for w in waits if w.inputs and w.kind is StepKind.SIGNAL}
        wanted = types.pop() if len(types) == 1 else None  # of several, whichever reads it decides
        return self.registry.encode_for(wanted, payload, what=what)

    @staticmethod
    def _refuse_ended(job: JobRecord, verb: str) -> None:
        if job.state in FINAL_STATES:
            raise Conflict(
                f"{job.kind} {short(job.job_id)} is {job.state} and cannot {verb}", job_id=job.job_id, state=job.state
            )

    def end(self, job_id: str, *, code: str, reason: str | None, by: str | None, force: bool = False) -> None:
        """Cancel a job, or fail it. Asking twice is well; what has ended otherwise raises ``IllegalTransition``."""
        check_text(reason, "reason", 2000)

        def decide(job: JobRecord) -> Command:
            if job.cancel_code is not None and job.state not in FINAL_STATES and not force:
                raise _AlreadyAsked
            opened = [row.decision_id for row in self._decisions(job_id) if row.state == "open"] if force else []
            return decide_end(job, self.who(by), code=code, reason=reason, force=force, open_decisions=opened)

        try:
            self._act(job_id, decide)
        except _AlreadyAsked:
            return

    def _decisions(self, job_id: str) -> list[DecisionRecord]:
        with self.store.reading() as reads:
            return reads.decisions(job_id)

    def resume(self, job_id: str, *, by: str | None, accept: bool = False) -> None:
        """Queue a stalled or mismatched job again.

        ``accept``: it goes on although its code and its record differ; or, if it waits because no live engine has the
        version under which it began, under the newest one that they have.
        """
        who = self.who(by)
        self._act(job_id, lambda job: self.accepting(job, who) if accept else decide_resume(job, who))

    def retry(self, job_id: str, *, by: str | None, all_failed: bool = False) -> None:
        """Queue a failed or poisoned job again: the failed step that ended it runs again, finished ones do not.

        With ``all_failed`` every failed step runs again, also one whose failure the job's code had caught.
        """

        def decide(job: JobRecord) -> Command:
            return self.retrying(job, self.who(by), all_failed=all_failed)

        self._act(job_id, decide)

    def retrying(self, job: JobRecord, who: Who, *, all_failed: bool) -> Command:
        """Return the command that retries a job as it is now."""
        with self.store.reading() as reads:
            steps = reads.steps(job.job_id)
            started = children_of(steps)
            heads = reads.job_heads([child for ids in started.values() for child in ids]) if started else []
        reopen = failures_that_ended(job.error, steps, all_failed=all_failed)
        return decide_retry(job, who, [*reopen, *starts_to_reopen(job, started, heads)])

    def accepting(self, job: JobRecord, who: Who) -> Command:
        """Return the command that accepts what stopped a job: a mismatch, or that no live engine has its version.

        Of several versions that engines have, the newest takes it.
        """
        with self.store.reading() as reads:
            steps = reads.steps(job.job_id)
            versions = other_versions(job, reads.engines(limit=0), self.clock.now_ms())
        if versions:
            newest = max((version or None for version in versions), key=version_order)
            return AcceptVersion(job=ref_of(job), seen=job.version, version=newest, who=who)
        cut = History(steps)
        abandoned = [
            s.step_key for s in steps if s.state is StepState.ABANDONED and not cut.has_lost(branch_of(s.step_key))
        ]
        return decide_accept(job, who, abandoned)

    def answer(
        self,
        job_id: str,
        choice: str,
        *,
        decision_id: str | None,
        note: str | None,
        by: str | None,
        value: str | None = None,
    ) -> None:
        """Answer a job's open question. Raises ``Conflict`` when there is none, ``InvalidArgument`` for no such choice."""
        check_text(note, "note", 4000)
        job = self.find(job_id)
        row = self._open_question(job, decision_id)
        options: list[str] = msgspec.json.decode(row.options)
        if choice not in options:
            raise InvalidArgument(f'"{choice}" is not one of the choices: {", ".join(options)}', job_id=job_id)
        if row.expires_at is not None and row.expires_at <= self.clock.now_ms():
            raise Conflict(
                f"the question {row.question!r} expired at {to_datetime(row.expires_at):%Y-%m-%d %H:%M} UTC",
                job_id=job_id,
            )
        command = GiveDecision(
            job=ref_of(job),
            decision_id=row.decision_id,
            choice=choice,
            note=note,
            preview_hash=row.preview_hash,
            who=self.who(by),
            value=value,
        )
        try:
            self.journal.execute(command, patience_seconds=self.patience_seconds)
        except Fenced:
            raise
        except Conflict:
            raise Conflict(
                f"the question {row.question!r} was answered or withdrawn in the same moment", job_id=job_id
            ) from None

    def _open_question(self, job: JobRecord, decision_id: str | None) -> DecisionRecord:
        self._refuse_ended(job, "take an answer")
        opened = [
            row for row in self._decisions(job.job_id) if row.state == "open" and decision_id in (None, row.decision_id)
        ]
        if not opened:
            raise Conflict(f"{job.kind} {short(job.job_id)} has no open question", job_id=job.job_id)
        if len(opened) > 1:
            listed = "; ".join(f"{row.decision_id}: {row.question}" for row in opened)
            raise InvalidArgument(
                f"{short(job.job_id)} has {len(opened)} open questions; name one by decision_id: {listed}"
            )
        return opened[0]

    def settle(self, job_id: str, step_key: str, *, verdict: str, value: str | None, by: str | None) -> None:
        """Settle a step in doubt ahead of replay: ``verdict`` is done (with a value as JSON), not_done, or fail."""
        if verdict not in DOUBT_OPTIONS:
            raise InvalidArgument(f"verdict={verdict!r}: one of {', '.join(DOUBT_OPTIONS)}", job_id=job_id)
        if value is not None:
            try:
                msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise InvalidArgument(f"--value {value!r} is not JSON: {error}") from None
        job = self.find(job_id)
        self._refuse_ended(job, "be settled")
        for row in self._decisions(job_id):
            if row.state == "open" and row.step_key.startswith(f"{step_key}?"):
                self.answer(job_id, verdict, decision_id=row.decision_id, note=None, by=by, value=value)
                return
        with self.store.reading() as reads:
            step = next((s for s in reads.steps(job_id) if s.step_key == step_key), None)
        if step is None or step.state is not StepState.IN_DOUBT:
            raise Conflict(
                f"{step_key} of {job.kind} {short(job_id)} is not in doubt. relight why {short(job_id)} lists what is"
            )
        command = SettleDoubt(
            job=ref_of(job), step_key=StepKey(step_key), verdict=verdict, value=value, who=self.who(by)
        )
        self.journal.execute(command, patience_seconds=self.patience_seconds)
