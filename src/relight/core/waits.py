"""The durable logic of everything that waits: sleep, signal, question. Children are in ``children.py``. Composed like a step, on the same table.

A wait's row holds what it waits for and until when. It stays in memory for a while; then its run is put away, and a later
replay finds the row and goes on waiting, or finds it over. What ends a wait is recorded in one transaction with whatever
it consumed, so nothing is read twice and nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec

from relight.core import events as ev
from relight.core.changes import Who
from relight.core.commands import JobRef
from relight.core.commands.steps import (
    AskPerson,
    BeginWait,
    ConsumeSignal,
    EndWait,
    ExpireDecision,
    RecordValue,
)
from relight.core.flow import (
    STOWED,
    Abandoned,
    Enter,
    Flow,
    LookDecision,
    Mismatch,
    NewId,
    Now,
    Park,
    Persist,
    Unstow,
    differ,
    digest,
    digest_of_stored,
)
from relight.core.history import History, inserted_before
from relight.core.keys import part_key
from relight.errors import Conflict
from relight.ids import JobId, StepKey
from relight.model import Actor, DecisionRecord, SignalRecord, StepKind, StepRecord, StepState

TIMED_OUT = "timeout"


class LookSignal(msgspec.Struct, frozen=True):
    """Read the first unread message of this job under one of some names. Sends back a ``SignalRecord`` or None."""

    names: tuple[str, ...]


class LookJob(msgspec.Struct, frozen=True):
    """Read another job's row. Sends back a ``JobRecord`` or None."""

    job_id: JobId


def open_wait(history: History, job: JobRef, key: StepKey, kind: StepKind) -> Flow:
    """Find a wait's record; ask to enter when it is not finished. Returns the record, or None for a wait to begin.

    One that was cancelled by a sibling stays cancelled; one that an operator's retry opened again begins anew.
    """
    record = history.call(key)
    if record is not None and record.kind is not kind:
        yield Mismatch(key, "other_kind", f"{key} was recorded as {record.kind} and is now {kind}", "", "")
    if record is not None and record.state is StepState.ABANDONED:
        yield Abandoned(key)
    if is_over(record):
        return record
    yield Enter(key)
    ahead = history.ahead_of(key)
    if record is None and ahead:
        yield from differ(history, job, Mismatch(key, "step_inserted", inserted_before(key, ahead), "", ""))
    return record if record is not None and record.state is StepState.WAITING else None


def is_over(record: StepRecord | None) -> TypeGuard[StepRecord]:
    """Tell whether a wait has its outcome."""
    return record is not None and record.state is StepState.COMPLETED


def read_outcome(record: StepRecord) -> Any:
    """Return a recorded outcome."""
    return msgspec.json.decode(record.outcome or "null")


def as_text(value: object) -> str:
    """Return an outcome in its stored form."""
    return msgspec.json.encode(value).decode()


def time_out(job: JobRef, key: StepKey, what: str | None, *, also: tuple[StepKey, ...] = ()) -> Flow:
    """End a wait whose time is up, and tell so; ``what`` as its start told. None: it was only a look."""
    told = () if what is None else (ev.WaitTimedOut(what=what),)
    yield Persist(
        EndWait(
            job=job, step_key=key, outcome=as_text(TIMED_OUT), tells=told, who=Who(Actor.SYSTEM, "timer"), also=also
        )
    )


def was_reopened(history: History, key: StepKey) -> bool:
    """Tell whether a wait that had its outcome was opened again by an operator's retry: it has rows, and begins anew."""
    record = history.peek(key)
    return record is not None and record.state is StepState.BACKOFF


def sleep_until(history: History, job: JobRef, key: StepKey, *, seconds: float | None, until_ms: int | None) -> Flow:
    """Wait for a time. A duration counts from the first time it was asked for."""
    record = yield from open_wait(history, job, key, StepKind.SLEEP)
    if is_over(record):
        return None
    again = history.peek(key) if was_reopened(history, key) else None
    if again is not None and again.until:
        until = again.until
        yield Persist(BeginWait(job=job, step_key=key, kind=StepKind.SLEEP, name="sleep", until=until, waits_for=None))
    elif record is None:
        now_ms: int = yield Now()
        until = until_ms if until_ms is not None else now_ms + int((seconds or 0) * 1000)
        yield Persist(BeginWait(job=job, step_key=key, kind=StepKind.SLEEP, name="sleep", until=until, waits_for=None))
    else:
        until = record.until or 0
    yield Park(StepKind.SLEEP, None, until, key)
    yield Persist(EndWait(job=job, step_key=key, outcome="null"), lazy=True)
    return None


def _with_payload(outcome: Any) -> Flow:
    """Bring back a message's content that is kept apart."""
    stored = outcome.get("payload") if isinstance(outcome, dict) else None
    if stored is None or not stored.startswith(STOWED):
        return outcome
    return {**outcome, "payload": (yield Unstow(stored))}


def wait_signal(
    history: History,
    job: JobRef,
    key: StepKey,
    *,
    names: tuple[str, ...],
    timeout_ms: int | None,
    type_ref: str | None = None,
    has_default: bool = False,
) -> Flow:
    """Wait for a message of one of some names. Returns ``{"name", "by", "payload"}`` (payload as JSON text), or ``"timeout"``.

    Each name but the first has a row of its own beside the wait's, under ``key!1`` and so on: whoever sends a message finds
    the waits of its name. ``type_ref`` is the type that is waited for, as ``authoring/typerefs.py`` writes it;
    ``has_default``: a time-out is no failure, so no retry opens it again.
    """
    # A look without waiting has one row only: nobody is to be woken.
    also = () if timeout_ms == 0 else tuple((part_key(key, i), name) for i, name in enumerate(names[1:], 1))
    keys = tuple(each for each, _ in also)
    record = yield from open_wait(history, job, key, StepKind.SIGNAL)
    if is_over(record):
        return (yield from _with_payload(read_outcome(record)))
    until: int | None = None if record is None else record.until
    if record is None and timeout_ms is not None:
        until = (yield Now()) + timeout_ms
    about = {**({"type": type_ref} if type_ref else {}), **({"default": True} if has_default else {})}
    begin = BeginWait(
        job=job,
        step_key=key,
        kind=StepKind.SIGNAL,
        name="|".join(names),
        until=until,
        waits_for=names[0],
        inputs=as_text(about) if about else None,
        also=also,
    )
    fresh = record is None
    if fresh and was_reopened(history, key):
        yield Persist(begin, lazy=True)
        fresh = False
    while True:
        found: SignalRecord | None = yield LookSignal(names)
        if found is not None:
            outcome = {"name": found.name, "by": found.by, "payload": found.payload}
            read = ConsumeSignal(
                job=job,
                step_key=key,
                signal_id=found.signal_id,
                name=found.name,
                payload_hash=digest_of_stored(found.payload or "null"),
                outcome=as_text(outcome),
                fresh=fresh,
                also=() if fresh else keys,
            )
            try:
                yield Persist(read)
            except Conflict:
                continue  # another arm of this job read it first; look for the next one
            return (yield from _with_payload(outcome))
        if fresh:
            yield Persist(begin, lazy=timeout_ms == 0)
            fresh = False
        if timeout_ms == 0 or (yield Park(StepKind.SIGNAL, names[0], until, key, also=also)) == "due":
            told = None if timeout_ms == 0 else f"{StepKind.SIGNAL}:{'|'.join(names)}"
            yield from time_out(job, key, told, also=keys)
            return TIMED_OUT


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked: ``preview`` is the action as JSON text, bound to the answer by its hash."""

    text: str
    options: tuple[str, ...]
    preview: str | None
    timeout_ms: int | None


def ask(history: History, job: JobRef, key: StepKey, question: Question) -> Flow:
    """Ask a person. Returns ``{"id", "choice", "by", "note", "at"}``, or ``{"id", "expired_at"}`` (times in ms).

    A question that was withdrawn while the job waits on (it had been ended by force, and is retried) is asked anew.
    """
    record = yield from open_wait(history, job, key, StepKind.ASK)
    if is_over(record):
        return read_outcome(record)
    if record is not None and record.waits_for is not None:
        decision_id, until = record.waits_for, record.until
    else:
        decision_id, until = yield from _put_question(job, key, question)
    while True:
        came = yield Park(StepKind.ASK, decision_id, until, key)
        if came == "due":
            expired: dict[str, object] = {"id": decision_id, "expired_at": until}
            try:
                yield Persist(ExpireDecision(job=job, step_key=key, decision_id=decision_id, outcome=as_text(expired)))
            except Conflict:
                pass  # answered, or expired by a timer, in the same moment: its row says which
            else:
                return expired
        row: DecisionRecord = yield LookDecision(decision_id)
        if row.state != "withdrawn":
            outcome = _outcome_of(row)
            yield Persist(EndWait(job=job, step_key=key, outcome=as_text(outcome)))
            return outcome
        decision_id, until = yield from _put_question(job, key, question)


def _put_question(job: JobRef, key: StepKey, question: Question) -> Flow:
    """Write a new question. Returns its id and its time limit."""
    decision_id: str = yield NewId()
    until = None if question.timeout_ms is None else (yield Now()) + question.timeout_ms
    yield Persist(
        AskPerson(
            job=job,
            step_key=key,
            decision_id=decision_id,
            question=question.text,
            options=as_text(question.options),
            preview=question.preview,
            preview_hash=None if question.preview is None else digest(question.preview),
            expires_at=until,
        )
    )
    return decision_id, until


def _outcome_of(row: DecisionRecord) -> dict[str, object]:
    if row.state == "given":
        return {"id": row.decision_id, "choice": row.choice, "by": row.by, "note": row.note, "at": row.decided_at}
    return {"id": row.decision_id, "expired_at": row.expires_at if row.expires_at is not None else row.decided_at}


def recorded_now(history: History, job: JobRef, key: StepKey) -> Flow:
    """Return the time in ms as it was when first asked; durable before the next step's function is called."""
    record = history.call(key)
    if is_over(record):
        return read_outcome(record)
    yield Enter(key)
    now_ms: int = yield Now()
    yield Persist(RecordValue(job=job, step_key=key, name="now", outcome=as_text(now_ms)), lazy=True)
    return now_ms


def recorded_issue(history: History, job: JobRef, key: StepKey, code: str, detail: str | None) -> Flow:
    """Return an issue as it was noted first: ``{"code", "detail"}``."""
    record = history.call(key)
    if is_over(record):
        return read_outcome(record)
    yield Enter(key)
    noted = {"code": code, "detail": detail}
    yield Persist(RecordValue(job=job, step_key=key, name="issue", outcome=as_text(noted)), lazy=True)
    return noted


def published_before(history: History, key: StepKey) -> Flow:
    """Tell whether this call published in an earlier run; if not, ask to enter."""
    if is_over(history.call(key)):
        return True
    yield Enter(key)
    return False
