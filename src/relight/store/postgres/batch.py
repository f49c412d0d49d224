"""A batch as the statements that apply it, in their order.

Owns which rows a batch locks first. Must not talk to the database. Read next: ``sql/apply/opening.sql``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from relight.core.changes import (
    OPS,
    AcceptArguments,
    BeginStep,
    CancelJob,
    CopyStep,
    EndJob,
    EndRun,
    JudgeEngine,
    MoveJob,
    NewJob,
    NewToken,
    NoteStep,
    PutPublished,
    ReadSignal,
    StartRun,
    UpdateStep,
)
from relight.core.queue_rows import QueueLimit, RateLimit, RewindRate
from relight.core.row import Row
from relight.store.store import Batch

Statement = tuple[str, Mapping[str, object]]
"""The name of a statement in ``sql/apply``, and its parameters."""

_OF_THE_RUN = (AcceptArguments, BeginStep, CopyStep, NewJob, NewToken, NoteStep, PutPublished, ReadSignal, UpdateStep)
"""Operations that name a job and need no lock on it: only the writer whose run it is does them, under its own fence."""

_JOBS = {row.op: row for row in OPS if "job_id" in row.__struct_fields__ and row not in (*_OF_THE_RUN, StartRun)}
"""Those whose jobs are locked first. Claims take what nobody else holds, when it is their turn."""
_ENDING = {row.op: row for row in (EndJob, MoveJob)}
_LIMITS = {row.op: row for row in (RateLimit, RewindRate)}
_PARTS = {RateLimit.op: ("", "/2", "/3")}
"""Operations of several statements."""


@lru_cache(maxsize=64)
def _decoder(row: type[Row], name: str) -> msgspec.json.Decoder[Any]:
    """Return a decoder of the fields up to one, for rows of an operation; what lies before it is not looked into."""
    fields = row.__struct_fields__
    before: list[tuple[str, Any]] = [(field, msgspec.Raw) for field in fields[: fields.index(name)]]
    kind = msgspec.defstruct("Part", [*before, (name, str | None)], array_like=True, gc=False)
    return msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]


def _values(batch: Batch, row: type[Row], name: str) -> Iterator[str]:
    """Yield one field of all rows of an operation, where it is not null."""
    text = batch.rows.get(row.op)
    if text:
        for part in _decoder(row, name).decode(text):
            value = getattr(part, name)
            if value is not None:
                yield value


def statements_of(batch: Batch, schema_number: int) -> list[Statement]:
    """Return what applies a batch: its opening, the fence, its locks, its operations and its events, then COMMIT."""
    rows = batch.rows
    own = {"writer_id": batch.writer_id}
    opening = rows.get("open_writers")
    found: list[Statement] = [("begin", {})]
    if opening is not None:
        found.append(("open_writers", {"rows": opening}))
    fence = {"batch_seq": batch.seq, "head_seq": batch.head.seq, "head_hash": batch.head.hash}
    found.append(("fence", {**own, **fence, "opening": opening is not None, "schema_number": str(schema_number)}))
    ending = sorted({job for row in _ENDING.values() for job in _values(batch, row, "job_id")})
    found += _locks(batch, ending)
    for row in OPS[1:]:
        text = rows.get(row.op)
        if text is not None:
            given = {"rows": text, **own} if row is JudgeEngine else {"rows": text}
            found += [(row.op + part, given) for part in _PARTS.get(row.op, ("",))]
        if row is CancelJob and ending:
            found.append(("wake_parents", {"ending": _json(ending)}))
    if batch.events:
        found.append(("events", {"rows": _json(batch.events), **own}))
    found.append(("commit", {}))
    return found


def _locks(batch: Batch, ending: list[str]) -> Iterator[Statement]:
    """Yield the locks, in the order in which every batch takes them."""
    judged = set(_values(batch, JudgeEngine, "engine_id"))
    forced = _forced_runs(batch)
    if judged or forced:
        yield "lock_engines", {"engine_ids": _json(sorted(judged)), "run_ids": _json(sorted(forced))}
    queues = _limited_queues(batch)
    if queues:
        yield "lock_queues", {"queues": _json(sorted(queues))}
    jobs = {job for row in _JOBS.values() for job in _values(batch, row, "job_id")}
    jobs.update(_values(batch, NewJob, "parent_job_id"))
    if jobs:
        yield "lock_jobs", {"job_ids": _json(sorted(jobs)), "ending": _json(ending)}


def _forced_runs(batch: Batch) -> set[str]:
    """Return the runs that are ended by somebody else than their engine."""
    text = batch.rows.get(EndRun.op)
    ended = msgspec.json.decode(text, type=list[EndRun]) if text else []
    return {end.run_id for end in ended if end.engine_id is None}


def _limited_queues(batch: Batch) -> set[str]:
    """Return the queues whose limits hold over all engines."""
    text = batch.rows.get(QueueLimit.op)
    limits = msgspec.json.decode(text, type=list[QueueLimit]) if text else []
    queues = {limit.queue for limit in limits if limit.engine_id is None}
    for row in _LIMITS.values():
        queues.update(_values(batch, row, "queue"))
    return queues


def _json(values: object) -> str:
    return msgspec.json.encode(values).decode()
