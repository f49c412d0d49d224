"""Claims: which queued jobs this engine takes now, within its own slots, the queues' limits, and priority.

A claim is read first and then applied as a compare-and-set, one command a job: another engine that was quicker costs us
that job only. Queue limits are checked again inside the claim's transaction, over all engines. A row that cannot be read
is set aside, and the others are claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
class Candidate:
    """A job to claim, what is recorded in it, and the limits that its claim must keep."""

    job: JobRecord
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
    sync_kinds: Sequence[str],
    async_kinds: Sequence[str],
    consume: Sequence[str] | None,
    room: Room,
    now_ms: int,
    set_aside: SetAside,
) -> list[Candidate]:
    """Return what to claim, the most urgent first. Jobs that cannot be read are set aside."""
    kinds = [*async_kinds, *(sync_kinds if room.threads > 0 else ())]
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
                found += reads.claimable(queue, kinds, now_ms, free, aside=bad_jobs)
        found.sort(key=lambda job: (-job.priority, job.ready_at or 0, job.job_id))
        chosen = _fit(found, room, frozenset(sync_kinds))
        begun = [job.job_id for job in chosen if job.begun]
        steps: dict[str, list[StepRecord]] = {}
        for step in reads.steps_of(begun, aside=bad_steps) if begun else ():
            steps.setdefault(step.job_id, []).append(step)
    bad_jobs += [Unreadable(job.job_id, problem) for job in chosen if (problem := _problem_of(job))]
    set_aside("jobs", bad_jobs)
    set_aside("steps", bad_steps)
    bad = {each.id for each in (*bad_jobs, *bad_steps)}
    return [
        Candidate(job, tuple(steps.get(job.job_id, ())), limits[job.queue]) for job in chosen if job.job_id not in bad
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


def _fit(found: Sequence[JobRecord], room: Room, sync_kinds: frozenset[str]) -> list[JobRecord]:
    slots, threads, probation = min(room.slots, MAX_CLAIMS), room.threads, room.probation
    chosen = []
    for job in found:
        if slots == 0:
            break
        if job.probation and not probation:
            continue
        if job.kind in sync_kinds:
            if threads == 0:
                continue
            threads -= 1
        probation = probation and not job.probation
        slots -= 1
        chosen.append(job)
    return chosen
