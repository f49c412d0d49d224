"""The durable logic of everything that waits: sleep, signal, question, child. Composed like a step, on the same table.

A wait's row holds what it waits for and until when. It stays in memory for a while; then its run is put away, and a later
replay finds the row and goes on waiting, or finds it over. What ends a wait is recorded in one transaction with whatever
it consumed, so nothing is read twice and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec

from relight.core import events as ev
from relight.core.changes import Who
from relight.core.commands import JobRef
from relight.core.commands.jobs import SubmitJob
from relight.core.commands.steps import (
    AskPerson,
    BeginWait,
    ConsumeSignal,
    EndWait,
    ExpireDecision,
    RecordValue,
    StartChildren,
)
from relight.core.flow import (
    INLINE_CHARS,
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
    Stow,
    Unstow,
    differ,
    digest,
    digest_of_stored,
)
from relight.core.history import History, inserted_before
from relight.core.keys import part_key
from relight.errors import Conflict, IdempotencyMismatch
from relight.ids import JobId, StepKey
from relight.model import Actor, DecisionRecord, JobRecord, JobState, SignalRecord, StepKind, StepRecord, StepState

TIMED_OUT = "timeout"


class LookSignal(msgspec.Struct, frozen=True):
    """Read the first unread message of this job under one of some names. Sends back a ``SignalRecord`` or None."""

    names: tuple[str, ...]


class LookJob(msgspec.Struct, frozen=True):
    """Read another job's row. Sends back a ``JobRecord`` or None."""

    job_id: JobId


class LookOwners(msgspec.Struct, frozen=True):
    """Read which jobs own idempotency keys. Sends back the ids by (kind, key); other arguments raise."""

    children: tuple[SubmitJob, ...]


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


def sleep_until(history: History, job: JobRef, key: StepKey, *, seconds: float | None, until_ms: int | None) -> Flow:
    """Wait for a time. A duration counts from the first time it was asked for."""
    record = yield from open_wait(history, job, key, StepKind.SLEEP)
    if is_over(record):
        return None
    if record is None:
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
) -> Flow:
    """Wait for a message of one of some names. Returns ``{"name", "by", "payload"}`` (payload as JSON text), or ``"timeout"``.

    Each name but the first has a row of its own beside the wait's, under ``key!1`` and so on: whoever sends a message finds
    the waits of its name. ``type_ref`` is the type that is waited for, as ``authoring/typerefs.py`` writes it.
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
    fresh = record is None
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
            begin = BeginWait(
                job=job,
                step_key=key,
                kind=StepKind.SIGNAL,
                name="|".join(names),
                until=until,
                waits_for=names[0],
                inputs=None if type_ref is None else as_text({"type": type_ref}),
                also=also,
            )
            yield Persist(begin, lazy=timeout_ms == 0)
            fresh = False
        if timeout_ms == 0 or (yield Park(StepKind.SIGNAL, names[0], until, key, also=also)) == "due":
            yield Persist(EndWait(job=job, step_key=key, outcome=as_text(TIMED_OUT), also=keys))
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


def start_children(history: History, job: JobRef, key: StepKey, children: Sequence[SubmitJob]) -> Flow:
    """Start child jobs in one transaction. Returns their ids, in order; a replay finds the same ones."""
    record = yield from open_wait(history, job, key, StepKind.CHILD)
    if is_over(record):
        return read_outcome(record)
    first = _first_of_each_key(children)
    stowed: dict[JobId, SubmitJob] = {}
    while True:
        owners: dict[tuple[str, str], JobId] = yield LookOwners(tuple(children))
        known = first | owners
        ids = [known.get((c.kind, c.idempotency_key or ""), c.job_id) for c in children]
        fresh = tuple(c for c, job_id in zip(children, ids, strict=True) if c.job_id == job_id)
        for child in fresh:
            if len(child.inputs) > INLINE_CHARS and child.job_id not in stowed:
                stowed[child.job_id] = msgspec.structs.replace(child, inputs=(yield Stow(child.inputs)))
        fresh = tuple(stowed.get(child.job_id, child) for child in fresh)
        try:
            yield Persist(StartChildren(job=job, step_key=key, name="start", children=fresh, outcome=as_text(ids)))
        except Conflict:
            again: dict[tuple[str, str], JobId] = yield LookOwners(tuple(children))
            if again == owners:
                raise
            continue
        return ids


def _first_of_each_key(children: Sequence[SubmitJob]) -> dict[tuple[str, str], JobId]:
    """Return which of these children owns each key. Raises ``IdempotencyMismatch`` when two differ under one key."""
    first: dict[tuple[str, str], SubmitJob] = {}
    for child in children:
        if child.idempotency_key is not None:
            owner = first.setdefault((child.kind, child.idempotency_key), child)
            if owner.inputs_hash != child.inputs_hash:
                raise IdempotencyMismatch(
                    f'two children of kind {child.kind} have the key "{child.idempotency_key}" and other arguments',
                    job_id=owner.job_id,
                )
    return {key: child.job_id for key, child in first.items()}


def child_result(history: History, job: JobRef, key: StepKey, child_id: JobId, timeout_ms: int | None) -> Flow:
    """Wait for a job's end. Returns ``{"state", "outputs", "error", "version"}`` (payloads as JSON text), or ``"timeout"``."""
    record = yield from open_wait(history, job, key, StepKind.CHILD_RESULT)
    if is_over(record):
        return read_outcome(record)
    until: int | None = None if record is None else record.until
    if record is None and timeout_ms is not None:
        until = (yield Now()) + timeout_ms
    begun = record is not None
    while True:
        child: JobRecord | None = yield LookJob(child_id)
        if child is not None and child.completed_at is not None:
            break
        if not begun:
            yield Persist(
                BeginWait(
                    job=job, step_key=key, kind=StepKind.CHILD_RESULT, name="result", until=until, waits_for=child_id
                )
            )
            begun = True
        if timeout_ms == 0 or (yield Park(StepKind.CHILD_RESULT, child_id, until, key)) == "due":
            yield Persist(EndWait(job=job, step_key=key, outcome=as_text(TIMED_OUT)))
            return TIMED_OUT
    outcome = {"state": child.state, "outputs": child.outputs, "error": child.error, "version": child.version}
    if not begun:
        # Nobody had to wait: one row, finished, as for any recorded value, but of the wait's own kind.
        yield Persist(
            BeginWait(job=job, step_key=key, kind=StepKind.CHILD_RESULT, name="result", until=None, waits_for=child_id),
            lazy=True,
        )
    told = ev.ChildFinished(child_job_id=child_id, state=child.state)
    yield Persist(
        EndWait(job=job, step_key=key, outcome=as_text(outcome), tells=(told,), who=Who(Actor.SYSTEM, "children"))
    )
    return outcome


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


ENDED_WELL = frozenset({JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES})
