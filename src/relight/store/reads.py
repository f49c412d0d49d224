"""Reads, typed once for all databases: a database gives JSON text for a named query, here it becomes records.

Stored rows are not trusted: one that cannot be read as its record raises ``msgspec.ValidationError``. Lists have an order
where their docstring says so, and are paged by the last key seen, never by an offset. Read next: ``store.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from relight.core.terms import RateWindow
from relight.ids import EngineId, JobId, RunId, StepKey
from relight.model import (
    DecisionRecord,
    EngineRecord,
    EngineState,
    EventRecord,
    JobRecord,
    JobState,
    QuarantineRecord,
    QueueRecord,
    RecoveryRecord,
    Role,
    RunRecord,
    SignalRecord,
    StepRecord,
    TokenRecord,
)
from relight.store.audits import Audits

if TYPE_CHECKING:
    from relight.core.why_facts import JobFacts

T = TypeVar("T")

Versions = Sequence[tuple[str, str | None]]
"""Kinds with their versions: which jobs that have begun may be claimed."""

ALL = 1_000_000_000
"""A limit that does not limit."""

LAST_ID = "g"
"""Sorts behind every UUID: pages backwards start here."""


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list shows; newest first, before ``before`` (an id), at most ``limit``."""

    kind: str | None = None
    states: tuple[JobState, ...] = ()
    queue: str | None = None
    tags: Mapping[str, str] | None = None
    since_ms: int = 0
    before: str = LAST_ID
    limit: int = 100


@dataclass(frozen=True)
class EventFilter:
    """Which events a list shows; in commit order after ``after`` (a ``seq``), at most ``limit``."""

    job_id: str | None = None
    types: tuple[str, ...] = ()
    trace_id: str | None = None
    actor: str | None = None
    after: int = 0
    limit: int = 1000


class RunningRun(msgspec.Struct, frozen=True, array_like=True):
    """What recovery reads of a running run: no payload. ``trace_id`` is None when the job's row is missing."""

    run_id: RunId
    job_id: JobId
    engine_id: EngineId
    trace_id: str | None
    in_doubt: list[StepKey]


class Attention(msgspec.Struct, frozen=True, array_like=True):
    """A job running here that was asked to end, or that is no longer running by the store."""

    job_id: JobId
    run_id: RunId | None
    state: JobState
    cancel_code: str | None
    cancel_reason: str | None
    cancel_by: str | None


class OpenWait(msgspec.Struct, frozen=True, array_like=True):
    """A wait that is open in memory: what kind, and for what."""

    job_id: JobId
    kind: str
    waits_for: str


class Unreadable(NamedTuple):
    """A job (or an engine) one of whose rows cannot be read as its record, and why."""

    id: str
    detail: str


class SqlReads(Protocol):
    """What a database gives: the JSON text of a named query's one row."""

    def fetch(self, name: str, /, **values: object) -> str:
        """Run the query and return its text. Raises ``StorageUnavailable`` or ``StorageCorrupt``."""
        ...


@lru_cache(maxsize=64)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)


class Reads:
    """All reads, typed. Times in milliseconds, ids as text, rows as records; a missing single row is None.

    A row that cannot be read as its record raises ``msgspec.ValidationError``: stored rows are not trusted. Reads that
    serve many jobs at once take a list ``aside``: such a row is put there instead, and the others are returned.
    """

    def __init__(self, source: SqlReads) -> None:
        self._source = source

    def _get(self, kind: Any, name: str, /, **values: object) -> Any:
        return _decoder(kind).decode(self._source.fetch(name, **values))

    def _first(self, kind: type[T], name: str, /, **values: object) -> T | None:
        rows: list[T] = self._get(list[kind], name, **values)  # type: ignore[valid-type]
        return rows[0] if rows else None

    def _each(self, kind: Any, name: str, aside: list[Unreadable] | None, /, **values: object) -> list[Any]:
        """Return the rows of a query, each of which begins with whose it is; one that cannot be read goes ``aside``."""
        text = self._source.fetch(name, **values)
        try:
            rows: list[Any] = _decoder(list[kind]).decode(text)
        except msgspec.ValidationError:
            if aside is None:
                raise
        else:
            return rows
        found: list[Any] = []
        for raw in _decoder(list[msgspec.Raw]).decode(text):
            try:
                found.append(_decoder(kind).decode(raw))
            except msgspec.ValidationError as error:
                aside.append(Unreadable(str(msgspec.json.decode(raw)[0]), str(error)))
        return found

    def job(self, job_id: str) -> JobRecord | None:
        """Return one job with its payloads."""
        return self._first(JobRecord, "job", job_id=job_id)

    def job_heads(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Return several jobs without payloads, in no order."""
        return self._get(list[JobRecord], "job_heads", job_ids=_json(job_ids))  # type: ignore[no-any-return]

    def job_by_key(self, kind: str, idempotency_key: str) -> JobRecord | None:
        """Return the job that owns a key."""
        return self._first(JobRecord, "job_by_key", kind=kind, idempotency_key=idempotency_key)

    def jobs_by_keys(self, kind: str, keys: Sequence[str]) -> list[JobRecord]:
        """Return the jobs of a kind that own any of these keys, without payloads."""
        return self._get(list[JobRecord], "jobs_by_keys", kind=kind, keys=_json(keys))  # type: ignore[no-any-return]

    def job_ids_ending(self, ending: str, limit: int = 10) -> list[JobId]:
        """Return ids that end so, the newest first."""
        return self._get(list[JobId], "job_ids_ending", ending=ending, limit=limit)  # type: ignore[no-any-return]

    def jobs(self, which: JobFilter, *, aside: list[Unreadable] | None = None) -> list[JobRecord]:
        """Return a page of jobs without payloads, newest first. Those put ``aside`` count for the page."""
        values: dict[str, object] = {
            "before": which.before,
            "queue": which.queue,
            "since": which.since_ms,
            "tags": _json(which.tags or {}),
            "limit": which.limit or ALL,
        }
        if not which.states:
            if which.kind is None:
                return self._each(JobRecord, "jobs_page", aside, **values)
            return self._each(JobRecord, "jobs_page_of_kind", aside, kind=which.kind, **values)
        found: list[JobRecord] = []
        for state in which.states:
            found += self._each(JobRecord, "jobs_page_in_state", aside, state=state, kind=which.kind, **values)
        found.sort(key=lambda job: job.job_id, reverse=True)
        return found[: which.limit or ALL]

    def count_in_states(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that any is in."""
        return dict(self._get(list[tuple[JobState, int]], "count_in_states"))

    def claimable_queues(self) -> list[str]:
        """Return the queues that have something to claim, by name."""
        return self._get(list[str], "claimable_queues")  # type: ignore[no-any-return]

    def claimable(
        self,
        queue: str,
        kinds: Sequence[str],
        now_ms: int,
        limit: int,
        *,
        versions: Versions | None = None,
        aside: list[Unreadable] | None = None,
    ) -> list[JobRecord]:
        """Return jobs that may be claimed, the next one first, with their inputs.

        Of jobs that have begun only those whose (kind, version) is among ``versions``; None: all.
        """
        values = {"queue": queue, "now": now_ms, "limit": limit, **_taken(kinds, versions)}
        return self._each(JobRecord, "claimable", aside, **values)

    def begun_versions(self) -> list[tuple[str, str | None, int]]:
        """Return (kind, version, how many) of jobs that have begun and not ended."""
        return self._get(list[tuple[str, str | None, int]], "begun_versions")  # type: ignore[no-any-return]

    def count_mismatched(self) -> int:
        """Return how many jobs are stopped because code and record differ."""
        return self._get(list[int], "count_mismatched")[0]  # type: ignore[no-any-return]

    def claimable_ids(self, queue: str, kinds: Sequence[str], now_ms: int, limit: int) -> list[JobId]:
        """Return the same jobs' ids only."""
        return self._get(  # type: ignore[no-any-return]
            list[JobId], "claimable_ids", queue=queue, now=now_ms, limit=limit, **_taken(kinds, None)
        )

    def partitioned_queues(self) -> set[str]:
        """Return the queues that have something to claim under a partition key."""
        return set(self._get(list[str], "partitioned_queues"))

    def priority_below(
        self, queue: str, kinds: Sequence[str], below: int, *, versions: Versions | None = None
    ) -> int | None:
        """Return the highest priority below one that has something to claim in a queue. ``versions`` as in ``claimable``."""
        values = {"queue": queue, "below": below, **_taken(kinds, versions)}
        return self._get(list[int | None], "priority_below", **values)[0]  # type: ignore[no-any-return]

    def partitions_in_turn(
        self, queue: str, priority: int, kinds: Sequence[str], limit: int, *, versions: Versions | None = None
    ) -> list[str]:
        """Return partition keys that have something to claim, the one whose turn it is first; "" are jobs without one."""
        values = {"queue": queue, "priority": priority, "limit": limit, **_taken(kinds, versions)}
        return self._get(list[str], "partitions_in_turn", **values)  # type: ignore[no-any-return]

    def claimable_of(
        self,
        queue: str,
        priority: int,
        parts: Sequence[str],
        kinds: Sequence[str],
        each: int,
        *,
        versions: Versions | None = None,
        aside: list[Unreadable] | None = None,
    ) -> list[JobRecord]:
        """Return the next jobs of some partition keys, at most ``each`` of one, key by key, with their inputs."""
        values: dict[str, object] = {"queue": queue, "priority": priority, "each": each, **_taken(kinds, versions)}
        return self._each(JobRecord, "claimable_of", aside, parts=_json(parts), **values)

    def rate_window(self, queue: str, n: int, most: int) -> RateWindow:
        """Return the last starts of a queue, as far as the next ``most`` depend on them."""
        return self._get(RateWindow, "rate_window", queue=queue, n=n, limit=most)  # type: ignore[no-any-return]

    def queue_load(self, queue: str) -> dict[EngineId, int]:
        """Return how many jobs of a queue run in each engine."""
        return dict(self._get(list[tuple[EngineId, int]], "queue_load", queue=queue))

    def slot_holders(self, queue: str, limit: int = 5) -> list[tuple[JobId, int]]:
        """Return running jobs of a queue with the time since when, the oldest first."""
        return self._get(list[tuple[JobId, int]], "slot_holders", queue=queue, limit=limit)  # type: ignore[no-any-return]

    def ahead_in_line(self, job: JobRecord) -> int:
        """Return how many claimable jobs of its queue come before a job; of its priority only those of its partition key."""
        values = {
            "queue": job.queue,
            "priority": job.priority,
            "part": job.partition_key or "",
            "ready_at": job.ready_at,
            "job_id": job.job_id,
        }
        return self._get(list[int], "ahead_in_line", **values)[0]  # type: ignore[no-any-return]

    def next_due(self) -> tuple[int | None, int | None]:
        """Return the time of the first timer and of the first deadline."""
        return self._get(tuple[int | None, int | None], "next_due")  # type: ignore[no-any-return]

    def due_questions(
        self, now_ms: int, limit: int = 1000, *, aside: list[Unreadable] | None = None
    ) -> list[JobRecord]:
        """Return jobs that await a person beyond their time limit."""
        return self._each(JobRecord, "due_questions", aside, now=now_ms, limit=limit)

    def past_deadline(
        self, now_ms: int, limit: int = 1000, *, aside: list[Unreadable] | None = None
    ) -> list[JobRecord]:
        """Return jobs beyond their deadline that nobody has told."""
        return self._each(JobRecord, "past_deadline", aside, now=now_ms, limit=limit)

    def stalled(self, after: str = "", limit: int = 1000, *, aside: list[Unreadable] | None = None) -> list[JobRecord]:
        """Return stalled jobs after an id, by id."""
        return self._each(JobRecord, "stalled", aside, after=after, limit=limit)

    def orphans(
        self, parent_ids: Sequence[str], limit: int = 1000, *, aside: list[Unreadable] | None = None
    ) -> list[JobRecord]:
        """Return live, attached children of ended parents that nobody told."""
        return self._each(JobRecord, "orphans", aside, parent_ids=_json(parent_ids), limit=limit)

    def open_parents(self, limit: int = 1000) -> list[JobId]:
        """Return ended parents that still have such children."""
        return self._get(list[JobId], "open_parents", limit=limit)  # type: ignore[no-any-return]

    def attention(self, job_ids: Sequence[str], *, aside: list[Unreadable] | None = None) -> list[Attention]:
        """Return those of the jobs running here that need to be told something."""
        return self._each(Attention, "attention", aside, job_ids=_json(job_ids))

    def arrived(self, waits: Sequence[OpenWait]) -> set[tuple[JobId, str]]:
        """Return which of the open waits are over: (job, what it waited for)."""
        return set(self._get(list[tuple[JobId, str]], "arrived", waits=msgspec.json.encode(waits).decode()))

    def runs(self, job_id: str) -> list[RunRecord]:
        """Return all runs of a job, the oldest first."""
        return self._get(list[RunRecord], "runs", job_id=job_id)  # type: ignore[no-any-return]

    def steps(self, job_id: str) -> list[StepRecord]:
        """Return everything recorded in a job, in order of beginning."""
        return self._get(list[StepRecord], "steps", job_id=job_id)  # type: ignore[no-any-return]

    def steps_of(self, job_ids: Sequence[str], *, aside: list[Unreadable] | None = None) -> list[StepRecord]:
        """Return everything recorded in several jobs, in no order."""
        return self._each(StepRecord, "steps_of", aside, job_ids=_json(job_ids))

    def signals(self, job_id: str) -> list[SignalRecord]:
        """Return a job's messages, first in, first out, read ones too."""
        return self._get(list[SignalRecord], "signals", job_id=job_id)  # type: ignore[no-any-return]

    def first_unread(self, job_id: str, *names: str) -> SignalRecord | None:
        """Return the next message of some names that no step has read."""
        return self._first(SignalRecord, "first_unread", job_id=job_id, names=_json(names))

    def waiting_for(self, job_id: str, waits_for: str) -> list[StepRecord]:
        """Return a job's open waits for something, in no order."""
        return self._get(list[StepRecord], "waiting_for", job_id=job_id, waits_for=waits_for)  # type: ignore[no-any-return]

    def token(self, token: str) -> TokenRecord | None:
        """Return one token."""
        return self._first(TokenRecord, "token", token=token)

    def tokens(self, job_id: str) -> list[TokenRecord]:
        """Return a job's tokens, the oldest first."""
        return self._get(list[TokenRecord], "tokens", job_id=job_id)  # type: ignore[no-any-return]

    def published(self, job_id: str, name: str) -> str | None:
        """Return what a job published last under a name, as JSON text or a reference to a blob."""
        found: list[str] = self._get(list[str], "published", job_id=job_id, name=name)
        return found[0] if found else None

    def signal_by_key(self, job_id: str, name: str, idempotency_key: str) -> SignalRecord | None:
        """Return the message that was sent under a key."""
        return self._first(SignalRecord, "signal_by_key", job_id=job_id, name=name, idempotency_key=idempotency_key)

    def decisions(self, job_id: str) -> list[DecisionRecord]:
        """Return a job's questions, the oldest first."""
        return self._get(list[DecisionRecord], "decisions", job_id=job_id)  # type: ignore[no-any-return]

    def decision(self, decision_id: str) -> DecisionRecord | None:
        """Return one question."""
        return self._first(DecisionRecord, "decision", decision_id=decision_id)

    def engines(
        self,
        role: Role = Role.ENGINE,
        limit: int = 100,
        *,
        before: str = LAST_ID,
        aside: list[Unreadable] | None = None,
    ) -> list[EngineRecord]:
        """Return writers of a role before an id, the newest first. Those put ``aside`` count for the page."""
        return self._each(EngineRecord, "engines", aside, role=role, before=before, limit=limit or ALL)

    def engine(self, engine_id: str) -> EngineRecord | None:
        """Return one writer."""
        return self._first(EngineRecord, "engine", engine_id=engine_id)

    def engines_to_judge(self, *, aside: list[Unreadable] | None = None) -> list[EngineRecord]:
        """Return engines still marked live or silent, and any that has left runs running."""
        return self._each(EngineRecord, "engines_to_judge", aside)

    def running_of(self, engine_id: str, after: str = "", limit: int = 1000) -> list[RunningRun]:
        """Return an engine's unquarantined running runs after an id, by id."""
        return self._get(list[RunningRun], "running_of", engine_id=engine_id, after=after, limit=limit)  # type: ignore[no-any-return]

    def count_running_of_dead(self) -> int:
        """Return how many runs of engines held dead or silent are still running and not quarantined."""
        return self._get(list[int], "count_running_of_dead")[0]  # type: ignore[no-any-return]

    def count_running_of(self, engine_ids: Sequence[str]) -> int:
        """Return how many unquarantined runs of these engines are running."""
        return self._get(list[int], "count_running_of", engine_ids=_json(engine_ids))[0]  # type: ignore[no-any-return]

    def adrift(self, after: str = "", limit: int = 1000) -> list[tuple[JobId, str | None]]:
        """Return (job, trace) of unquarantined jobs after an id that say they run while no engine's run of theirs does."""
        return self._get(list[tuple[JobId, str | None]], "adrift", after=after, limit=limit)  # type: ignore[no-any-return]

    def unnamed_heads(self) -> list[tuple[EngineId, int, str]]:
        """Return (writer, seq, hash) of chain heads that nobody has named."""
        return self._get(list[tuple[EngineId, int, str]], "unnamed_heads")  # type: ignore[no-any-return]

    def kinds(self) -> list[tuple[str, str]]:
        """Return (kind, version) ever registered; an absent version is empty."""
        return self._get(list[tuple[str, str]], "kinds")  # type: ignore[no-any-return]

    def queues(self) -> list[QueueRecord]:
        """Return every queue's definition."""
        return self._get(list[QueueRecord], "queues")  # type: ignore[no-any-return]

    def is_used(self, queue: str) -> bool:
        """Tell whether any job is in a queue, or was."""
        return bool(self._get(list[bool], "is_used", queue=queue)[0])

    def quarantine(self, job_id: str | None = None) -> list[QuarantineRecord]:
        """Return rows set aside and not released, or the one of a job even if released."""
        return self._get(list[QuarantineRecord], "quarantine", job_id=job_id)  # type: ignore[no-any-return]

    def recoveries(self, limit: int = 100, *, before: str = LAST_ID) -> list[RecoveryRecord]:
        """Return receipts before an id, the newest first."""
        return self._get(list[RecoveryRecord], "recoveries", before=before, limit=limit or ALL)  # type: ignore[no-any-return]

    def events(self, which: EventFilter) -> list[EventRecord]:
        """Return a page of the log in commit order."""
        values: dict[str, object] = {
            "after": which.after,
            "types": _json(which.types) if which.types else None,
            "trace_id": which.trace_id,
            "actor": which.actor,
            "limit": which.limit or ALL,
        }
        if which.job_id is None:
            return self._get(list[EventRecord], "events", **values)  # type: ignore[no-any-return]
        return self._get(list[EventRecord], "events_of_job", job_id=which.job_id, **values)  # type: ignore[no-any-return]

    def events_of_writer(self, writer_id: str, after: int = 0, limit: int = 1000) -> list[EventRecord]:
        """Return a page of one writer's chain in its order."""
        return self._get(list[EventRecord], "events_of_writer", writer_id=writer_id, after=after, limit=limit)  # type: ignore[no-any-return]

    def writers(self, after: str = "", limit: int = 1000) -> list[EngineId]:
        """Return writers' ids after one."""
        return self._get(list[EngineId], "writers", after=after, limit=limit)  # type: ignore[no-any-return]

    def job_ids(self, after: str = "", limit: int = 1000) -> list[JobId]:
        """Return jobs' ids after one."""
        return self._get(list[JobId], "job_ids", after=after, limit=limit)  # type: ignore[no-any-return]

    def last_seq(self) -> int:
        """Return the newest event's sequence number, 0 when there is none."""
        return self._get(list[int], "last_seq")[0]  # type: ignore[no-any-return]

    def batch_seq(self, writer_id: str) -> tuple[int, EngineState] | None:
        """Return a writer's last batch number on disk and its state; None when its row is not there."""
        text = self._source.fetch("batch_seq", engine_id=writer_id)
        return _decoder(tuple[int, EngineState]).decode(text) if text else None

    def blob(self, blob_hash: str) -> str | None:
        """Return a value kept by its content's hash."""
        text = self._source.fetch("blob", blob_hash=blob_hash)
        return _decoder(list[str]).decode(text)[0] if text else None

    def job_facts(self, job_ids: Sequence[str], event_types: Iterable[str]) -> list[JobFacts]:
        """Return what explains several jobs, in no order, with the last events of these types as evidence."""
        from relight.core.why_facts import JobFacts

        return self._get(  # type: ignore[no-any-return]
            list[JobFacts], "job_facts", job_ids=_json(job_ids), types=_json(sorted(event_types))
        )

    def audits(self) -> Audits:
        """Return what ``relight verify`` reads, from the same source."""
        return Audits(self._source)


def _taken(kinds: Sequence[str], versions: Versions | None) -> dict[str, object]:
    """Return the parameters that say what may be claimed."""
    had = None if versions is None else _json([_json(version) for version in versions])
    return {"kinds": _json(kinds), "versions": had}


def _json(values: object) -> str:
    return msgspec.json.encode(values).decode()
