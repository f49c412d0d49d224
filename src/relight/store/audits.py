"""What ``relight verify`` reads, typed: whole tables in pages, by key, with states as plain text.

An auditor must read rows that nobody was meant to write. So states are ``str`` here, and an event that is not even an
event is given back as it stands, with what is wrong with it. Read next: ``recorder/verify.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import msgspec

from relight.ids import EngineId, JobId, RunId, StepKey
from relight.model import EventRecord, RecoveryRecord

INLINE_CHARS = 64 * 1024
"""Longer texts are not read: their hashes are not compared."""


class Source(Protocol):
    """What a database gives: the JSON text of a named query's one row."""

    def fetch(self, name: str, /, **values: object) -> str:
        """Run the query and return its text. Raises ``StorageUnavailable`` or ``StorageCorrupt``."""
        ...


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """Rows counted in one moment, and the newest event's ``seq``."""

    jobs: int
    runs: int
    steps: int
    events: int
    writers: int
    recoveries: int
    last_seq: int


class AuditedWriter(msgspec.Struct, frozen=True, array_like=True):
    """A writer, with the end of its chain as its row has it (``head_*``) and as its events have it (``last_*``)."""

    engine_id: EngineId
    role: str
    state: str
    gate: str
    gate_opened_at: int | None
    ended_at: int | None
    head_seq: int
    head_hash: str
    last_seq: int
    last_hash: str


class AuditedJob(msgspec.Struct, frozen=True, array_like=True):
    """A job, with what bears on it from other rows. ``inputs`` and ``outputs`` are None when they are long."""

    job_id: JobId
    kind: str
    state: str
    queue: str
    claimable: bool
    begun: bool
    attempt: int
    run_id: RunId | None
    cancel_code: str | None
    inputs_hash: str
    inputs: str | None
    has_outputs: bool
    outputs: str | None
    trace_id: str
    parent_job_id: JobId | None
    detached: bool
    completed_at: int | None
    quarantined: bool
    parent_state: str | None
    parent_last_seq: int | None
    has_issues: bool
    open_questions: int


class AuditedRun(msgspec.Struct, frozen=True, array_like=True):
    """A run, with its engine's state."""

    job_id: JobId
    run_id: RunId
    engine_id: EngineId
    attempt: int
    state: str
    ended: bool
    engine_state: str | None
    engine_ended_at: int | None


class AuditedStep(msgspec.Struct, frozen=True, array_like=True):
    """A step, with its run's state. ``outcome`` is None when there is none or it is long."""

    job_id: JobId
    step_key: StepKey
    run_id: RunId
    kind: str
    state: str
    ended: bool
    outcome: str | None
    run_state: str | None


class AuditedToken(msgspec.Struct, frozen=True, array_like=True):
    """A token. ``value`` is None when there is none or it is long."""

    job_id: JobId
    token: str
    step_key: StepKey
    state: str
    ended: bool
    value: str | None


class AuditedValue(msgspec.Struct, frozen=True, array_like=True):
    """A published value; None when it is long."""

    job_id: JobId
    name: str
    value: str | None


class ReadEvent(NamedTuple):
    """An event as it stands. ``flaw`` says why it is none, when it is none; its fields may then be anything."""

    event: EventRecord
    flaw: str | None

    @property
    def job_id(self) -> str:
        """The job it is about; empty when it is about none."""
        return self.event.job_id or ""


_EVENT_FIELDS = EventRecord.__struct_fields__


@lru_cache(maxsize=16)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)


class Audits:
    """All reads of an audit. Every list is a page in the order of its key."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _get(self, kind: Any, name: str, /, **values: object) -> Any:
        return _decoder(kind).decode(self._source.fetch(name, **values))

    def totals(self) -> Totals:
        """Count everything."""
        return self._get(Totals, "audit_totals")  # type: ignore[no-any-return]

    def writers(self, after: str, limit: int) -> list[AuditedWriter]:
        """Return writers after an id."""
        return self._get(list[AuditedWriter], "audit_writers", after=after, limit=limit)  # type: ignore[no-any-return]

    def strangers(self, limit: int) -> list[str]:
        """Return writers of events that have no row."""
        return self._get(list[str], "audit_strangers", limit=limit)  # type: ignore[no-any-return]

    def is_named(self, writer_id: str, hash: str, upto: int) -> bool:
        """Tell whether a writer's chain has this hash at or before a place."""
        found: list[int] = self._get(list[int], "audit_named", writer_id=writer_id, hash=hash, upto=upto)
        return found[0] > 0

    def twins(self, limit: int) -> list[tuple[str, str, list[JobId]]]:
        """Return (kind, key, jobs) of keys that more than one job owns."""
        rows: list[tuple[str, str, str]] = self._get(list[tuple[str, str, str]], "audit_twins", limit=limit)
        return [(kind, key, msgspec.json.decode(ids)) for kind, key, ids in rows]

    def queues(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the queues of some jobs."""
        ids = msgspec.json.encode(job_ids).decode()
        return dict(self._get(list[tuple[str, str]], "audit_queues", job_ids=ids))

    def receipt(self, recovery_id: str) -> RecoveryRecord | None:
        """Return one receipt."""
        rows: list[RecoveryRecord] = self._get(list[RecoveryRecord], "audit_receipt", recovery_id=recovery_id)
        return rows[0] if rows else None

    def jobs(self, after: str, limit: int) -> list[AuditedJob]:
        """Return jobs after an id."""
        return self._get(list[AuditedJob], "audit_jobs", after=after, limit=limit, inline=INLINE_CHARS)  # type: ignore[no-any-return]

    def runs(self, after: tuple[str, str], upto: str, limit: int) -> list[AuditedRun]:
        """Return runs after (job, run), of jobs up to an id."""
        job_id, run_id = after
        return self._get(list[AuditedRun], "audit_runs", job_id=job_id, run_id=run_id, upto=upto, limit=limit)  # type: ignore[no-any-return]

    def steps(self, after: tuple[str, str], upto: str, limit: int) -> list[AuditedStep]:
        """Return steps after (job, key), of jobs up to an id."""
        job_id, step_key = after
        return self._get(  # type: ignore[no-any-return]
            list[AuditedStep],
            "audit_steps",
            job_id=job_id,
            step_key=step_key,
            upto=upto,
            limit=limit,
            inline=INLINE_CHARS,
        )

    def tokens(self, after: tuple[str, str], upto: str, limit: int) -> list[AuditedToken]:
        """Return tokens after (job, token), of jobs up to an id."""
        job_id, token = after
        return self._get(  # type: ignore[no-any-return]
            list[AuditedToken],
            "audit_tokens",
            job_id=job_id,
            token=token,
            upto=upto,
            limit=limit,
            inline=INLINE_CHARS,
        )

    def published(self, after: tuple[str, str], upto: str, limit: int) -> list[AuditedValue]:
        """Return published values after (job, name), of jobs up to an id."""
        job_id, name = after
        return self._get(  # type: ignore[no-any-return]
            list[AuditedValue],
            "audit_published",
            job_id=job_id,
            name=name,
            upto=upto,
            limit=limit,
            inline=INLINE_CHARS,
        )

    def altered_copies(self, forks: Sequence[tuple[str, str]], limit: int) -> list[tuple[JobId, StepKey]]:
        """Return (job, key) of steps that forks took over, given as (job, source), and that differ from the source's."""
        pairs = msgspec.json.encode(forks).decode()
        return self._get(list[tuple[JobId, StepKey]], "audit_copies", pairs=pairs, limit=limit)  # type: ignore[no-any-return]

    def events_of_jobs(self, after: tuple[str, int], upto: str, limit: int) -> list[ReadEvent]:
        """Return events of jobs after (job, seq), of jobs up to an id."""
        job_id, seq = after
        return self._events("audit_events", job_id=job_id, seq=seq, upto=upto, limit=limit)

    def events(self, after: int, limit: int, *types: str) -> list[ReadEvent]:
        """Return the log after a sequence number, in commit order; only some kinds when any is named."""
        kinds = msgspec.json.encode(types).decode() if types else None
        return self._events("events", after=after, limit=limit, types=kinds, trace_id=None, actor=None)

    def events_of_writer(self, writer_id: str, after: int, limit: int) -> list[ReadEvent]:
        """Return a writer's events after a place in its chain."""
        return self._events("events_of_writer", writer_id=writer_id, after=after, limit=limit)

    def _events(self, name: str, /, **values: object) -> list[ReadEvent]:
        text = self._source.fetch(name, **values)
        try:
            return [ReadEvent(event, None) for event in _decoder(list[EventRecord]).decode(text)]
        except msgspec.ValidationError:
            return [_read(row) for row in msgspec.json.decode(text, type=list[list[Any]])]


def _read(row: list[Any]) -> ReadEvent:
    try:
        return ReadEvent(msgspec.convert(row, EventRecord, strict=False), None)
    except msgspec.ValidationError as error:
        # Constructing does not check: the fields are what the row holds.
        return ReadEvent(EventRecord(**dict(zip(_EVENT_FIELDS, row, strict=True))), str(error))
