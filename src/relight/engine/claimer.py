"""Claims: which queued jobs this engine takes now, within its own slots, the queues' limits, and priority.

A claim is read first and then applied as a compare-and-set, one command a job: another engine that was quicker costs us
that job only. Queue limits are checked again inside the claim's transaction, over all engines. A row that cannot be read
is set aside, and the others are claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from relight.core.changes import QueueLimit
from relight.ids import EngineId
from relight.model import JobRecord, QueueRecord, StepRecord
from relight.store.reads import Reads, Unreadable
from relight.store.store import Store

MAX_CLAIMS = 500

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
    """A job to claim, the version it is to run under, what is recorded in it, and the limits that its claim must keep."""

    job: JobRecord
    version: str | None
    steps: tuple[StepRecord, ...]
    limits: tuple[QueueLimit, ...]


@dataclass(frozen=True)
class Room:
    """What this engine has free: slots in all, threads for sync jobs, and whether a job on probation may start."""

    slots: int
    threads: int
    probation: bool


def find_candidates(
    store: Store,
    me: EngineId,
    *,
    served: Served,
    consume: Sequence[str] | None,
    room: Room,
    now_ms: int,
    set_aside: SetAside,
) -> list[Candidate]:
    """Return what to claim, the most urgent first. Jobs that cannot be read are set aside."""
    versions = served.with_room(threads=room.threads > 0)
    kinds = sorted({kind for kind, _ in versions})
    if room.slots <= 0 or not kinds:
        return []
    found: list[JobRecord] = []
    limits: dict[str, tuple[QueueLimit, ...]] = {}
    bad_jobs: list[Unreadable] = []
    bad_steps: list[Unreadable] = []
    with store.reading() as reads:
        queues = reads.claimable_queues()
        defined = {queue.queue: queue for queue in reads.queues()} if queues else {}
        for queue in queues:
            if consume is not None and queue not in consume:
                continue
            definition = defined.get(queue, QueueRecord(queue=queue))
            free, limits[queue] = _free_in(reads, definition, me, min(room.slots, MAX_CLAIMS))
            if free > 0:
                found += reads.claimable(queue, kinds, now_ms, free, versions=versions, aside=bad_jobs)
        found.sort(key=lambda job: (-job.priority, job.ready_at or 0, job.job_id))
        chosen = _fit(found, room, served)
        begun = [job.job_id for job in chosen if job.begun]
        steps: dict[str, list[StepRecord]] = {}
        for step in reads.steps_of(begun, aside=bad_steps) if begun else ():
            steps.setdefault(step.job_id, []).append(step)
    bad_jobs += [Unreadable(job.job_id, problem) for job in chosen if (problem := _problem_of(job))]
    set_aside("jobs", bad_jobs)
    set_aside("steps", bad_steps)
    bad = {each.id for each in (*bad_jobs, *bad_steps)}
    return [
        Candidate(job, served.version_for(job), tuple(steps.get(job.job_id, ())), limits[job.queue])
        for job in chosen
        if job.job_id not in bad
    ]


def _problem_of(job: JobRecord) -> str | None:
    """Return what is wrong with a row that reads as a job and still cannot be run."""
    try:
        msgspec.json.decode(job.tags or "{}", type=dict[str, str])
    except msgspec.DecodeError as error:
        return f"tags: {error}"
    return None


def _free_in(reads: Reads, queue: QueueRecord, me: EngineId, most: int) -> tuple[int, tuple[QueueLimit, ...]]:
    if queue.paused:
        return 0, ()
    if queue.slots is None and queue.per_engine_slots is None:
        return most, ()
    load = reads.queue_load(queue.queue)
    limits: list[QueueLimit] = []
    if queue.slots is not None:
        limits.append(QueueLimit(queue.queue, None, queue.slots))
        most = min(most, queue.slots - sum(load.values()))
    if queue.per_engine_slots is not None:
        limits.append(QueueLimit(queue.queue, me, queue.per_engine_slots))
        most = min(most, queue.per_engine_slots - load.get(me, 0))
    return most, tuple(limits)


def _fit(found: Sequence[JobRecord], room: Room, served: Served) -> list[JobRecord]:
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
