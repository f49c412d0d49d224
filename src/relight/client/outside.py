"""The outside's side of a job: answers to the tokens that it handed out, and the values that it published.

A word about a token is applied as a compare-and-set on the open token. When it is refused, the token is read again: what was
there first stands, and the caller is told what it was. Nothing waits for an engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from relight.authoring.registry import check_text, is_text
from relight.client.session import Session
from relight.clock import to_datetime
from relight.core.commands import Command
from relight.core.commands.outside import BeatTokenNow, CompleteToken, FailToken
from relight.core.commands.steering import ref_of
from relight.core.flow import INLINE_CHARS, STOWED, digest
from relight.core.keys import check_name
from relight.core.sizes import size_of
from relight.errors import Conflict, Fenced, InvalidArgument, NotFound
from relight.ids import short
from relight.model import FINAL_STATES, Delivery, JobRecord, TokenRecord

LOOK_FIRST_MS = 5
LOOK_LATER_MS = 100
"""How soon a value that is waited for is looked for again, at first and after a while."""


class Outside(Session):
    """A session that answers tokens and reads what was published."""

    def complete(self, token: str, value: object, *, by: str | None = None) -> Delivery:
        """Complete a token. Raises ``NotFound``, and ``InvalidArgument`` for a value of another type than is waited for."""
        row, _ = self._token(token)
        text = self.registry.encode_for(row.type, value, what=f"value of {row.name!r}")
        value_hash, size = digest(text), size_of(text)
        stored = text if len(text) <= INLINE_CHARS else self.stow(text)

        def decide(row: TokenRecord, job: JobRecord) -> Command:
            return CompleteToken(
                job=ref_of(job),
                step_key=row.step_key,
                token=token,
                name=row.name,
                value=stored,
                value_hash=value_hash,
                value_bytes=size,
                who=self.who(by),
            )

        return self._deliver(token, "completed", decide)

    def fail_token(self, token: str, error: str, *, by: str | None = None) -> Delivery:
        """Say that what a token stands for failed. Raises ``NotFound``."""
        if check_text(error, "error", 4000) is None:
            raise InvalidArgument("error=None: say in a sentence what failed")

        def decide(row: TokenRecord, job: JobRecord) -> Command:
            return FailToken(
                job=ref_of(job), step_key=row.step_key, token=token, name=row.name, error=error, who=self.who(by)
            )

        return self._deliver(token, "failed", decide)

    def heartbeat(self, token: str, note: str | None) -> Delivery:
        """Say that somebody is still at work on a token. Raises ``NotFound``."""
        check_text(note, "note", 1000)
        return self._deliver(token, "open", lambda row, job: BeatTokenNow(job=ref_of(job), token=token, note=note))

    def _token(self, token: str) -> tuple[TokenRecord, JobRecord]:
        with self.store.reading(snapshot=True) as reads:  # else its job may have ended by the token meanwhile
            row = reads.token(token) if is_text(token) else None
            heads = [] if row is None else reads.job_heads([row.job_id])
        if row is None or not heads:
            # Its name is a secret, so it is not repeated.
            raise NotFound(
                f"no job in {self.store.place} ever handed out this token. Is it whole, and this the right store?"
            )
        return row, heads[0]

    def _deliver(self, token: str, state: Any, decide: Callable[[TokenRecord, JobRecord], Command]) -> Delivery:
        row, job = self._token(token)
        late = self._late(row, job)
        if late is not None:
            return late
        try:
            self.journal.execute(decide(row, job), patience_seconds=self.patience_seconds)
        except Fenced:
            raise
        except Conflict:
            late = self._late(*self._token(token))
            if late is None:
                raise
            return late
        now, _ = self._token(token)
        ended = None if now.ended_at is None else to_datetime(now.ended_at)
        return Delivery(True, state, now.by, ended)

    def _late(self, row: TokenRecord, job: JobRecord) -> Delivery | None:
        """Say what was there first; None for a token that is open and within its time."""
        if row.state != "open":
            return Delivery(False, row.state, row.by, None if row.ended_at is None else to_datetime(row.ended_at))
        if job.state in FINAL_STATES:
            return Delivery(False, "job_ended", None, to_datetime(job.completed_at or job.updated_at))
        if row.expires_at is not None and row.expires_at <= self.clock.now_ms():
            return Delivery(False, "expired", None, to_datetime(row.expires_at))
        return None

    # what a job published

    def published_codec(self, name: str, type_: Any) -> Any:
        """Return what decodes a published value. Raises ``InvalidArgument``, ``RegistrationError``."""
        check_name(name, "published value")
        return self.registry.codecs.for_type(type_, what=f"published {name!r}")

    def published(self, job_id: str, name: str) -> str | None:
        """Return the latest value of a name as JSON text, or None while there is none.

        Raises ``NotFound`` for an unknown job, and for one that has ended without it.
        """
        job = self.find(job_id)
        with self.store.reading() as reads:
            text = reads.published(job_id, name)
            if text is not None and text.startswith(STOWED):
                text = reads.blob(text.removeprefix(STOWED))
        if text is None and job.state in FINAL_STATES:
            raise NotFound(f"{job.kind} {short(job_id)} is {job.state} and never published {name!r}", job_id=job_id)
        return text

    def look_until_published(self, job_id: str, name: str, seconds: float) -> str | None:
        """Return as ``published`` does, looking again for up to ``seconds`` while there is none."""
        until = self.clock.mono_ms() + int(seconds * 1000)
        condition = threading.Condition()
        pause_ms = LOOK_FIRST_MS
        while True:
            text = self.published(job_id, name)
            left_ms = until - self.clock.mono_ms()
            if text is not None or left_ms <= 0:
                return text
            with condition:
                self.clock.wait(condition, min(pause_ms, left_ms))
            pause_ms = min(2 * pause_ms, LOOK_LATER_MS)
