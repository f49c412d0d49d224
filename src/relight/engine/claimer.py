"""Claims: which queued jobs this engine takes now, within its own slots, the queues' terms, and priority.

A claim is read first and then applied as a compare-and-set, one command a job: another engine that was quicker costs us
that job only. Slots and rates are checked again inside the claim's transaction, over all engines, and a claim that was
decided under other terms than the queue's present ones is refused. A row that cannot be read is set aside, and the others
are claimed.

In line: the queue's priority, the job's priority; then, in a queue where jobs have **partition keys**, the keys take turns,
each giving its oldest job; else the oldest job. Whose turn it is stands in the store, so it is the same for all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import msgspec

from relight.core.commands.jobs import FORKED
from relight.core.queue_rows import QueueLimit, TakeTurn
from relight.core.terms import RateTerms, Terms, is_ahead, rate_room, terms_of
from relight.ids import EngineId
from relight.model import JobRecord, StepRecord
from relight.store.reads import Reads, Unreadable, Versions
from relight.store.store import Store

MAX_CLAIMS = 500
ABOVE_ALL = 1 << 31
"""Above every priority."""

SetAside = Callable[[str, Sequence[Unreadable]], None]
"""Puts jobs into quarantine: which table's rows cannot be read, and whose."""


@dataclass(frozen=True)
class Served:
    """What an engine can run: each version of each kind, and whether it is sync; and the newest version of each kind.

    A job that has begun is run by the version it began under; one that has not by the newest.
    """

    is_sync: Mapping[tuple[str, str | None], bool]
    newest: Mapping[str, str | None]

    def version_for(self, job: JobRecord) -> str | None:
        """Return the version under which a job would run here."""
        return job.version if job.begun else self.newest[job.kind]

    def needs_thread(self, job: JobRecord) -> bool:
        """Tell whether a job would run in a thread here."""
        return self.is_sync[(job.kind, self.version_for(job))]

    def with_room(self, *, threads: bool) -> list[tuple[str, str | None]]:
        """Return the versions that may be claimed now: sync ones only while there are threads."""
        return [which for which, is_sync in self.is_sync.items() if threads or not is_sync]


@dataclass(frozen=True)
class Candidate:
    """A job to claim, the version it is to run under, what is recorded in it, and what its claim must keep."""

    job: JobRecord
    version: str | None
    steps: tuple[StepRecord, ...]
    limits: tuple[QueueLimit, ...]
    rate: tuple[str, RateTerms] | None = None
    turn: TakeTurn | None = None
    terms: int = 0


@dataclass(frozen=True)
class Claims:
    """What to claim, the most urgent first; ``again_at`` (ms) is when a rate that stops a queue now leaves room again.

    ``rewind``: queues whose starts lie ahead of the clock, which must have been set back.
    """

    candidates: Sequence[Candidate] = ()
    again_at: int | None = None
    rewind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Room:
    """What this engine has free: slots in all, threads for sync jobs, and whether a job on probation may start."""

    slots: int
    threads: int
    probation: bool


@dataclass
class _Line:
    """One queue, as a claim finds it."""

    terms: Terms
    free: int
    in_turn: bool
    limits: tuple[QueueLimit, ...] = ()
    jobs: list[JobRecord] = field(default_factory=list)

    def rank(self, job: JobRecord) -> tuple[int, int, int, str]:
        """Return what orders the heads of queues."""
        return (-self.terms.priority, -job.priority, job.ready_at or 0, job.job_id)


def find_candidates(
    store: Store,
    me: EngineId,
    *,
    served: Served,
    consume: Sequence[str] | None,
    room: Room,
    now_ms: int,
    set_aside: SetAside,
) -> Claims:
    """Return what to claim, the most urgent first. Jobs that cannot be read are set aside."""
    versions = served.with_room(threads=room.threads > 0)
    kinds = _kinds(versions)
    if room.slots <= 0 or not kinds:
        return Claims()
    bad_jobs: list[Unreadable] = []
    bad_steps: list[Unreadable] = []
    with store.reading() as reads:
        lines, again_at, rewind = _lines(reads, me, consume, min(room.slots, MAX_CLAIMS), now_ms)
        for queue, line in lines.items():
            if line.in_turn:
                line.jobs = _in_turn(reads, queue, versions, line.free, bad_jobs)
            else:
                line.jobs = reads.claimable(queue, kinds, now_ms, line.free, versions=versions, aside=bad_jobs)
        chosen = _fit(_merged(list(lines.values())), room, served)
        begun = [job.job_id for job in chosen if job.begun or job.status_reason == FORKED]
        steps: dict[str, list[StepRecord]] = {}
        for step in reads.steps_of(begun, aside=bad_steps) if begun else ():
            steps.setdefault(step.job_id, []).append(step)
    bad_jobs += [Unreadable(job.job_id, problem) for job in chosen if (problem := _problem_of(job))]
    set_aside("jobs", bad_jobs)
    set_aside("steps", bad_steps)
    bad = {each.id for each in (*bad_jobs, *bad_steps)}
    found = [
        _candidate(job, served.version_for(job), lines[job.queue], tuple(steps.get(job.job_id, ())))
        for job in chosen
        if job.job_id not in bad
    ]
    return Claims(found, again_at, tuple(rewind))


def _candidate(job: JobRecord, version: str | None, line: _Line, steps: tuple[StepRecord, ...]) -> Candidate:
    turn = TakeTurn(job.queue, job.priority, job.partition_key or "") if line.in_turn else None
    rate = None if line.terms.rate is None else (job.queue, line.terms.rate)
    return Candidate(job, version, steps, line.limits, rate, turn, line.terms.revision)


def _lines(
    reads: Reads, me: EngineId, consume: Sequence[str] | None, most: int, now_ms: int
) -> tuple[dict[str, _Line], int | None, list[str]]:
    """Return the queues that have something to claim and room for it, when a rate leaves room again, what to rewind."""
    queues = [queue for queue in reads.claimable_queues() if consume is None or queue in consume]
    defined = {queue.queue: queue for queue in reads.queues()} if queues else {}
    partitioned = reads.partitioned_queues() if queues else set()
    lines: dict[str, _Line] = {}
    later: list[int] = []
    rewind: list[str] = []
    for queue in queues:
        line = _Line(terms_of(defined.get(queue)), most, queue in partitioned)
        _narrow(reads, queue, line, me)
        if line.free > 0 and line.terms.rate is not None:
            window = reads.rate_window(queue, line.terms.rate.n, line.free)
            line.free, until = rate_room(line.terms.rate, window, now_ms, line.free)
            later += [] if until is None else [until]
            rewind += [queue] if is_ahead(line.terms.rate, window, now_ms) else []
        if line.free > 0:
            lines[queue] = line
    return lines, min(later) if later else None, rewind


def _narrow(reads: Reads, queue: str, line: _Line, me: EngineId) -> None:
    """Narrow a queue's room to its slots."""
    slots, each = line.terms.slots, line.terms.per_engine_slots
    if line.terms.paused:
        line.free = 0
    if line.free == 0 or (slots is None and each is None):
        return
    load = reads.queue_load(queue)
    limits: list[QueueLimit] = []
    if slots is not None:
        limits.append(QueueLimit(queue, None, slots))
        line.free = min(line.free, slots - sum(load.values()))
    if each is not None:
        limits.append(QueueLimit(queue, me, each))
        line.free = min(line.free, each - load.get(me, 0))
    line.limits = tuple(limits)


def _in_turn(reads: Reads, queue: str, versions: Versions, most: int, aside: list[Unreadable]) -> list[JobRecord]:
    """Return jobs of a queue with partition keys: at each priority the keys in turn, one job of each, and round again."""
    kinds = _kinds(versions)
    found: list[JobRecord] = []
    priority = reads.priority_below(queue, kinds, ABOVE_ALL, versions=versions)
    while priority is not None and len(found) < most:
        left = most - len(found)
        parts = reads.partitions_in_turn(queue, priority, kinds, left, versions=versions)
        if parts:
            each = -(-left // len(parts))
            jobs = reads.claimable_of(queue, priority, parts, kinds, each, versions=versions, aside=aside)
            found += _dealt(parts, jobs)[:left]
        priority = reads.priority_below(queue, kinds, priority, versions=versions)
    return found


def _kinds(versions: Versions) -> list[str]:
    return sorted({kind for kind, _ in versions})


def _dealt(parts: Sequence[str], jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Return jobs as the keys give them in turn: the first of each, then the second of each."""
    hands: dict[str, list[JobRecord]] = {part: [] for part in parts}
    for job in jobs:
        hands.setdefault(job.partition_key or "", []).append(job)
    return [job for round_ in zip_longest(*hands.values()) for job in round_ if job is not None]


def _merged(lines: Sequence[_Line]) -> Iterator[JobRecord]:
    """Yield the jobs of all queues, each queue's in its own order, always the most urgent of those that are next."""
    left = [(line, iter(line.jobs)) for line in lines]
    heads = [(line, rest, job) for line, rest in left if (job := next(rest, None)) is not None]
    while heads:
        first = min(range(len(heads)), key=lambda i: heads[i][0].rank(heads[i][2]))
        line, rest, job = heads[first]
        yield job
        after = next(rest, None)
        if after is None:
            heads.pop(first)
        else:
            heads[first] = (line, rest, after)


def _problem_of(job: JobRecord) -> str | None:
    """Return what is wrong with a row that reads as a job and still cannot be run."""
    try:
        msgspec.json.decode(job.tags or "{}", type=dict[str, str])
    except msgspec.DecodeError as error:
        return f"tags: {error}"
    return None


def _fit(found: Iterator[JobRecord], room: Room, served: Served) -> list[JobRecord]:
    slots, threads, probation = min(room.slots, MAX_CLAIMS), room.threads, room.probation
    chosen = []
    for job in found:
        if slots == 0:
            break
        if job.probation and not probation:
            continue
        if served.needs_thread(job):
            if threads == 0:
                continue
            threads -= 1
        probation = probation and not job.probation
        slots -= 1
        chosen.append(job)
    return chosen
