"""The durable logic of what somebody outside completes: a token is made and handed out, and waited for later.

Two records, as for children: the token's making, finished at once (a replay hands out the same one), and each wait for it.
The clock starts at the making. Whoever sees the token's time pass, or a heartbeat missed, while it waits, expires it: of
that and a completion in the same moment the store lets one happen, and the loser looks again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relight.core.commands import JobRef
from relight.core.commands.outside import ExpireToken, MakeToken
from relight.core.commands.steps import BeginWait, EndWait
from relight.core.events import Expiry
from relight.core.flow import Flow, NewToken, Now, Park, Persist
from relight.core.history import History
from relight.core.waits import TIMED_OUT, as_text, is_over, open_wait, read_outcome, time_out
from relight.errors import Conflict
from relight.ids import StepKey
from relight.model import StepKind, TokenRecord

PREFIX = "ext_"
"""Tokens begin so: nothing else that people type does."""


class LookToken(msgspec.Struct, frozen=True):
    """Read a token's row, with its value in full. Sends back a ``TokenRecord``."""

    token: str


def make_token(
    history: History,
    job: JobRef,
    key: StepKey,
    *,
    name: str,
    type_ref: str | None,
    timeout_ms: int | None,
    heartbeat_ms: int | None,
    lazy: bool,
) -> Flow:
    """Make a token and return it. ``lazy``: it is on disk before the next step is called, which waits for that."""
    record = yield from open_wait(history, job, key, StepKind.TOKEN)
    if is_over(record):
        return read_outcome(record)
    token = PREFIX + (yield NewToken())
    now_ms: int = yield Now()
    make = MakeToken(
        job=job,
        step_key=key,
        token=token,
        name=name,
        type=type_ref,
        expires_at=None if timeout_ms is None else now_ms + timeout_ms,
        heartbeat_ms=heartbeat_ms,
        outcome=as_text(token),
    )
    yield Persist(make, lazy=lazy)
    return token


def await_token(history: History, job: JobRef, key: StepKey, *, name: str, token: str, timeout_ms: int | None) -> Flow:
    """Wait for a token's answer.

    Returns ``{"state", "value" (JSON text), "error", "reason"}``, or ``"timeout"`` when only this wait's own limit passed.
    """
    record = yield from open_wait(history, job, key, StepKind.EXTERNAL)
    if is_over(record):
        return read_outcome(record)
    own: int | None = None if record is None else record.until
    if record is None and timeout_ms is not None:
        own = (yield Now()) + timeout_ms
    if record is None:
        # First, and on disk: the token's own row may still be on its way there, and is before it.
        yield Persist(BeginWait(job=job, step_key=key, kind=StepKind.EXTERNAL, name=name, until=own, waits_for=token))
    while True:
        row: TokenRecord = yield LookToken(token)
        if row.state != "open":
            outcome = _told(row.state, value=row.value, error=row.error)
            yield Persist(EndWait(job=job, step_key=key, outcome=as_text(outcome)))
            return outcome
        limit, reason = _limit(row)
        now_ms: int = yield Now()
        if limit is not None and limit <= now_ms:
            expired = _told("expired", reason=reason)
            if row.job_id != job.job_id:  # handed out by the job that this one was copied from: not ours to close
                yield Persist(EndWait(job=job, step_key=key, outcome=as_text(expired)))
                return expired
            expire = ExpireToken(
                job=job,
                step_key=key,
                token=token,
                token_key=row.step_key,
                name=row.name,
                reason=reason,
                outcome=as_text(expired),
            )
            try:
                yield Persist(expire)
            except Conflict:
                continue  # it was completed, or heard of, in the same moment
            return expired
        if own is not None and own <= now_ms:
            yield from time_out(job, key, f"{StepKind.EXTERNAL}:{name}")
            return TIMED_OUT
        until = min((at for at in (limit, own) if at is not None), default=None)
        yield Park(StepKind.EXTERNAL, token, until, key)


def _told(
    state: str, *, value: str | None = None, error: str | None = None, reason: str | None = None
) -> dict[str, Any]:
    return {"state": state, "value": value, "error": error, "reason": reason}


def _limit(row: TokenRecord) -> tuple[int | None, Expiry]:
    """Return when a token's time is up as things stand, and for what reason."""
    silent = None if row.heartbeat_ms is None else row.beat_at + row.heartbeat_ms
    if silent is not None and (row.expires_at is None or silent < row.expires_at):
        return silent, "heartbeat"
    return row.expires_at, "timeout"
