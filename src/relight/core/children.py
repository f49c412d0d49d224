"""The durable logic of children: jobs that a job starts, and waits for. Two records, one of the start and one of each wait.

A child's id is derived from its parent and the place of its start, so a replay finds it. When a parent has ended, its
children are asked to end; an operator's retry of the parent then opens the records of their starts again. What still lives
is kept. What was cancelled for its parent's end is started again, under the next id of its place, once it has ended: it has
cleaned up, so its finished steps no longer hold. It does so without its key, which stays the cancelled job's.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from relight.core import events as ev
from relight.core.changes import Who
from relight.core.commands import JobRef
from relight.core.commands.jobs import SubmitJob
from relight.core.commands.steering import ended_with_parent
from relight.core.commands.steps import BeginWait, EndWait, StartChildren
from relight.core.flow import INLINE_CHARS, Enter, Flow, Now, Park, Persist, Stow
from relight.core.history import History
from relight.core.keys import doubt_key
from relight.core.waits import TIMED_OUT, LookJob, as_text, is_over, open_wait, read_outcome, time_out, was_reopened
from relight.errors import Conflict, IdempotencyMismatch
from relight.ids import JobId, StepKey, derived_uuid7
from relight.model import Actor, JobRecord, JobState, StepKind

ENDED_WELL = frozenset({JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES})


class LookOwners(msgspec.Struct, frozen=True):
    """Read which jobs own idempotency keys. Sends back a ``JobRef`` by (kind, key); other arguments raise."""

    children: tuple[SubmitJob, ...]


def child_id(job_id: str, key: str, index: int, again: int = 0) -> JobId:
    """Return the id of the child that a place starts first, or starts again for the ``again``-th time."""
    return JobId(derived_uuid7(job_id, key, f"{index}.{again}" if again else str(index)))


def first_id(job_id: str, key: str, index: int, started: str, attempts: int) -> str:
    """Return under which id a place started its child first; ``attempts`` of the parent bound how often it did again."""
    again = any(child_id(job_id, key, index, n) == started for n in range(1, attempts + 1))
    return child_id(job_id, key, index) if again else started


def start_children(history: History, job: JobRef, key: StepKey, children: Sequence[SubmitJob]) -> Flow:
    """Start child jobs in one transaction. Returns their ids, in order; a replay finds the same ones."""
    record = yield from open_wait(history, job, key, StepKind.CHILD)
    if is_over(record):
        return read_outcome(record)
    first = _first_of_each_key(children)
    present: dict[JobId, JobId] = {}
    kept: set[JobId] = set()
    if was_reopened(history, key):
        present, kept = yield from _look_again(history, job, key, children)
    stowed: dict[JobId, SubmitJob] = {}
    while True:
        owners: dict[tuple[str, str], JobRef] = yield LookOwners(tuple(children))
        known = first | owners
        places = [known.get((c.kind, c.idempotency_key or ""), _ref(c)) for c in children]
        found = tuple(
            (owner, c.idempotency_key or "")
            for c, owner in zip(children, places, strict=True)
            if owner.job_id != c.job_id
        )
        ids = [owner.job_id for owner in places]
        fresh = tuple(c for c, owner in zip(children, ids, strict=True) if c.job_id == owner and owner not in kept)
        for child in fresh:
            if len(child.inputs) > INLINE_CHARS and child.job_id not in stowed:
                stowed[child.job_id] = msgspec.structs.replace(child, inputs=(yield Stow(child.inputs)))
        fresh = tuple(_as_started(stowed.get(child.job_id, child), present) for child in fresh)
        ids = [present.get(job_id, job_id) for job_id in ids]
        begin = StartChildren(job=job, step_key=key, name="start", children=fresh, outcome=as_text(ids), found=found)
        try:
            yield Persist(begin)
        except Conflict:
            again: dict[tuple[str, str], JobRef] = yield LookOwners(tuple(children))
            if again == owners:
                raise
            continue
        return ids


def _as_started(child: SubmitJob, present: dict[JobId, JobId]) -> SubmitJob:
    """Return a child as it is started now: again under its next id, and then without its key."""
    job_id = present.get(child.job_id)
    return child if job_id is None else msgspec.structs.replace(child, job_id=job_id, idempotency_key=None)


def _look_again(history: History, job: JobRef, key: StepKey, children: Sequence[SubmitJob]) -> Flow:
    """Look at what an earlier run of the parent started.

    Returns the present id of each child that was ever started again, by its first id; and the first ids of those to keep.
    """
    present: dict[JobId, JobId] = {}
    kept: set[JobId] = set()
    ends = 0
    for index, child in enumerate(children):
        again, seen_id = 0, child.job_id
        while (seen := (yield LookJob(seen_id))) is not None:
            if not ended_with_parent(seen):
                kept.add(child.job_id)
                break
            yield from _await_end(history, job, doubt_key(key, ends), seen)
            ends, again = ends + 1, again + 1
            seen_id = child_id(job.job_id, key, index, again)
        if again:
            present[child.job_id] = seen_id
    return present, kept


def _await_end(history: History, job: JobRef, key: StepKey, seen: JobRecord) -> Flow:
    """Wait until a child that was asked to end has ended: what is started again must not run beside it."""
    if is_over(history.call(key)):
        return
    yield Enter(key)
    begun = False
    while seen.completed_at is None:
        if not begun:
            yield Persist(_wait_for(job, key, seen.job_id, None))
            begun = True
        yield Park(StepKind.CHILD_RESULT, seen.job_id, None, key)
        seen = yield LookJob(seen.job_id)
    if begun:
        yield Persist(EndWait(job=job, step_key=key, outcome=as_text({"state": seen.state})))


def _wait_for(job: JobRef, key: StepKey, job_id: JobId, until: int | None) -> BeginWait:
    return BeginWait(job=job, step_key=key, kind=StepKind.CHILD_RESULT, name="result", until=until, waits_for=job_id)


def _first_of_each_key(children: Sequence[SubmitJob]) -> dict[tuple[str, str], JobRef]:
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
    return {key: _ref(child) for key, child in first.items()}


def _ref(child: SubmitJob) -> JobRef:
    return JobRef(child.job_id, child.trace_id, child.kind)


def child_result(history: History, job: JobRef, key: StepKey, job_id: JobId, timeout_ms: int | None) -> Flow:
    """Wait for a job's end. Returns ``{"state", "outputs", "error", "version"}`` (payloads as JSON text), or ``"timeout"``."""
    record = yield from open_wait(history, job, key, StepKind.CHILD_RESULT)
    if is_over(record):
        return read_outcome(record)
    until: int | None = None if record is None else record.until
    if record is None and timeout_ms is not None:
        until = (yield Now()) + timeout_ms
    begun = record is not None and record.waits_for == job_id  # else the child was started again since
    while True:
        child: JobRecord | None = yield LookJob(job_id)
        if child is not None and child.completed_at is not None:
            break
        if not begun:
            yield Persist(_wait_for(job, key, job_id, until))
            begun = True
        if timeout_ms == 0 or (yield Park(StepKind.CHILD_RESULT, job_id, until, key)) == "due":
            yield from time_out(job, key, f"{StepKind.CHILD_RESULT}:result")
            return TIMED_OUT
    outcome = {"state": child.state, "outputs": child.outputs, "error": child.error, "version": child.version}
    if not begun:
        # Nobody had to wait: one row, finished, as for any recorded value, but of the wait's own kind.
        yield Persist(_wait_for(job, key, job_id, None), lazy=True)
    told = ev.ChildFinished(child_job_id=job_id, state=child.state)
    yield Persist(
        EndWait(job=job, step_key=key, outcome=as_text(outcome), tells=(told,), who=Who(Actor.SYSTEM, "children"))
    )
    return outcome
