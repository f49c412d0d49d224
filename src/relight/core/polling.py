"""The durable logic of ``poll``: a check that is called with a state and gives the next one, until it will do.

One record for all of it: each check is a try of the same row, which keeps the last state in its outcome and the time of the
next check in ``until``. A crash goes on from there: a check that was cut is made again with the state it was given. A check
that fails is tried again by its own ``Retry``, within the poll's time limit; what never succeeds ends the poll as it would
end a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from relight.core.commands import JobRef
from relight.core.commands.steps import BeginTry, FailTry, FinishStep, PollAgain
from relight.core.failure import Failure, failure_of, read_failure
from relight.core.flow import (
    INLINE_CHARS,
    Abandoned,
    Enter,
    Flow,
    Invoke,
    Mismatch,
    Now,
    Park,
    Persist,
    Raised,
    Returned,
    StepCall,
    StepSpec,
    Stow,
    Unstow,
    as_raised,
    declared_text,
    details_text,
    differ,
    digest,
    idempotency_key,
)
from relight.core.history import History, inserted_before
from relight.core.sizes import size_of
from relight.errors import PayloadError, WaitTimeout, type_name
from relight.ids import StepKey
from relight.model import StepKind, StepRecord, StepState


class OutOfTime:
    """What a poll returns whose time limit passed."""


OUT_OF_TIME: Final = OutOfTime()
_TIMEOUT = type_name(WaitTimeout)


class Polling(msgspec.Struct, frozen=True):
    """A poll as it was called: ``call_of`` makes the call of its check with a state."""

    key: StepKey
    step: StepSpec
    first: Any
    until: Callable[[Any], bool]
    every_ms: int
    timeout_ms: int | None
    call_of: Callable[[Any], StepCall]


class _Notes(msgspec.Struct, frozen=True):
    """What a poll's row keeps in ``inputs``: when its time is up."""

    deadline: int | None


def poll(history: History, job: JobRef, what: Polling) -> Flow:
    """Check until the state will do, and return it; or ``OUT_OF_TIME``. Raises what the check failed with."""
    key = what.key
    record = history.call(key)
    if record is not None and record.kind is not StepKind.POLL:
        yield Mismatch(key, "other_kind", f"{key} was recorded as {record.kind} and is now a poll", "", "")
    if record is not None and record.state is StepState.COMPLETED:
        return (yield from _replayed(record, what))
    if record is not None and record.state is StepState.FAILED:
        failure = read_failure(record.error or "{}")
        if failure.type == _TIMEOUT:
            return OUT_OF_TIME
        raise as_raised(failure, what.step, what.call_of(what.first))
    if record is not None and record.state is StepState.ABANDONED:
        yield Abandoned(key)
    yield Enter(key)
    ahead = history.ahead_of(key)
    if record is None and ahead:
        yield from differ(history, job, Mismatch(key, "step_inserted", inserted_before(key, ahead), "", ""))
    history.settle(key)
    return (yield from _check_until_it_will_do(job, what, record))


def _replayed(record: StepRecord, what: Polling) -> Flow:
    text = yield Unstow(record.outcome or "null")
    try:
        return what.call_of(what.first).result.decode(text.encode())
    except PayloadError as error:
        detail = f"its recorded state no longer fits: {error}"
        yield Mismatch(what.key, "outcome", detail, digest(text), "")


class _Place:
    """Where a poll is: the next check's number and time, the state it is given, and how often it failed in a row."""

    def __init__(self, what: Polling, record: StepRecord | None) -> None:
        self.state = what.first
        self.kept: str | None = None if record is None else record.outcome
        self.number = 1
        self.at = 0
        self.failed = 0
        self.failing_since = 0
        self.deadline: int | None = None
        self.fresh = record is None or record.try_number == 0  # a retry by an operator begins the time limit anew
        if record is None:
            return
        cut = record.state in (StepState.RUNNING, StepState.IN_DOUBT)
        self.number = record.try_number if cut else record.try_number + 1
        self.at = 0 if cut else record.until or 0
        if record.error and record.state is StepState.BACKOFF and not self.fresh:
            self.failed = read_failure(record.error).tries
        if not self.fresh and record.inputs:
            self.deadline = msgspec.json.decode(record.inputs, type=_Notes).deadline


def _check_until_it_will_do(job: JobRef, what: Polling, record: StepRecord | None) -> Flow:
    place = _Place(what, record)
    began_ms: int = yield Now()
    if place.fresh and what.timeout_ms is not None:
        place.deadline = began_ms + what.timeout_ms
    if place.kept is not None:
        text = yield Unstow(place.kept)
        place.state = what.call_of(what.first).result.decode(text.encode())
    while True:
        if place.at:
            yield Park(StepKind.POLL, None, place.at, what.key, place.number - 1)
            if place.deadline is not None and place.at >= place.deadline:
                yield from _give_up(job, what, place)
                return OUT_OF_TIME
        done, value = yield from _check_once(job, what, place)
        if done:
            return value
        place.number += 1


def _check_once(job: JobRef, what: Polling, place: _Place) -> Flow:
    """Make one check and record what came of it. Returns (True, the state that will do), or (False, None)."""
    call = what.call_of(place.state)
    began_ms: int = yield Now()
    begin = BeginTry(
        job=job,
        step_key=what.key,
        name=what.step.name,
        try_number=place.number,
        policy="retry",
        args_hashes=None,
        args_hash=call.args_hash,
        args_bytes=size_of(call.inputs),
        inputs=msgspec.json.encode(_Notes(place.deadline)).decode(),
        code_ref=what.step.code_ref,
        until=None if what.step.timeout_ms is None else began_ms + what.step.timeout_ms,
        heartbeat_ms=what.step.heartbeat_ms,
        kind=StepKind.POLL,
    )
    yield Persist(begin, lazy=True)
    got: Returned | Raised = yield Invoke(what.step, call, place.number)
    if isinstance(got, Returned):
        try:
            data = call.result.encode(got.value, what=f"state of {what.key}")
            value = call.result.decode(data)
        except PayloadError as error:
            got = Raised(error, certain=True)
    if isinstance(got, Raised):
        place.failing_since = place.failing_since or began_ms
        yield from _failed(job, what, place, call, got)
        return False, None
    text = data.decode()
    stored = text if len(text) <= INLINE_CHARS else (yield Stow(text))
    if what.until(value):
        finish = FinishStep(
            job=job,
            step_key=what.key,
            try_number=place.number,
            outcome=stored,
            outcome_hash=digest(text),
            outcome_bytes=size_of(text),
            began_at=began_ms,
            kind=StepKind.POLL,
        )
        yield Persist(finish)
        return True, value
    now_ms: int = yield Now()
    place.state, place.kept, place.failed, place.failing_since = value, stored, 0, 0
    place.at = _by_deadline(place, now_ms + what.every_ms)
    yield Persist(PollAgain(job=job, step_key=what.key, try_number=place.number, outcome=stored, until=place.at))
    return False, None


def _by_deadline(place: _Place, at: int) -> int:
    return at if place.deadline is None else min(at, place.deadline)


def _failed(job: JobRef, what: Polling, place: _Place, call: StepCall, raised: Raised) -> Flow:
    """Record a check that failed; return when the next one is planned, or raise what the workflow gets."""
    error = raised.error
    place.failed += 1
    failure = failure_of(
        error, tries=place.failed, details=details_text(error), declared=declared_text(what.step, call, error)
    )
    next_at = None
    if not isinstance(error, what.step.raises):
        seed = idempotency_key(job.job_id, what.key)
        now_ms: int = yield Now()
        try:
            next_at = what.step.retry.next_try_at(
                place.failed, error, seed, now_ms=now_ms, first_ms=place.failing_since
            )
        except Exception as broken:  # boundary: the user's predicate of Retry(on=…); a failure it cannot judge is final
            error.add_note(f"and Retry(on=…) of {what.step.name} raised {type(broken).__name__}: {broken}")
    place.at = 0 if next_at is None else _by_deadline(place, next_at)
    yield Persist(_fail(job, what, place, failure, None if next_at is None else place.at))
    if next_at is None:
        raise as_raised(failure, what.step, call)


def _give_up(job: JobRef, what: Polling, place: _Place) -> Flow:
    """Record that the time is up."""
    failure = Failure(
        type=_TIMEOUT, message="the poll's time limit passed", code=WaitTimeout.code, tries=place.number - 1
    )
    yield Persist(_fail(job, what, place, failure, None, place.number - 1))


def _fail(
    job: JobRef, what: Polling, place: _Place, failure: Failure, until: int | None, number: int | None = None
) -> FailTry:
    return FailTry(
        job=job,
        step_key=what.key,
        try_number=place.number if number is None else number,
        state=StepState.FAILED if until is None else StepState.BACKOFF,
        failure=failure,
        until=until,
        outcome=place.kept,
    )
