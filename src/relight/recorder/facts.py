"""Gathers what ``why`` explains: one snapshot, few queries, no payload.

One query gives everything about a job alone; engines are read when the job has not ended, its queue when it may be
claimed, a gate's events when that gate is what it waits for; and one more query a level for the jobs it waits for, three
levels deep. A million finished jobs make none of this slower. Read next: ``core/why.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from relight.core.terms import rate_room, terms_of
from relight.core.why_facts import Facts, JobFacts, LineFacts, LiveFacts, Mark
from relight.errors import NotFound, StorageCorrupt
from relight.ids import JobId, short
from relight.model import FINAL_STATES, EngineRecord, EngineState, GateState, JobRecord, JobState, StepKind, StepState
from relight.store.reads import Reads

DEPTH = 3
"""How many levels of children are explained: a chain of waits is told up to there."""

CHILDREN = 3
"""How many of the children waited for are explained on each level."""

GATE_EVENTS = 50

EVIDENCE = frozenset(
    {
        "external_created",
        "history_mismatch",
        "job_accepted",
        "job_awaiting_user",
        "job_cancel_requested",
        "job_cancelled",
        "job_completed",
        "job_completed_with_issues",
        "job_deadline_exceeded",
        "job_failed",
        "job_held",
        "job_poisoned",
        "job_probation",
        "row_quarantined",
        "run_started",
        "run_suspended",
        "sleep_started",
        "step_abandoned",
        "step_began",
        "step_failed",
        "step_in_doubt",
        "step_retry_scheduled",
        "wait_started",
        "workflow_recovery",
    }
)
"""The types of events that causes name as their evidence."""


def gather_facts(reads: Reads, job_id: str, now_ms: int, live: LiveFacts | None = None) -> Facts:
    """Read everything that explains a job; ``reads`` must be one snapshot (``store.reading(snapshot=True)``).

    ``live`` is what an engine in this process knows besides. Raises ``NotFound`` when there is no such job, and
    ``StorageCorrupt`` when its rows cannot be read. Cost: 2 queries, 1 to 4 more for a job in line, 1 a level of children.
    """
    found = _read_jobs(reads, [JobId(job_id)])
    if not found:
        if job_id in reads.job_ids_ending(job_id, limit=1):
            raise StorageCorrupt(
                f"the rows of job {short(job_id)} cannot be read: relight verify names them", job_id=job_id
            )
        raise NotFound(f"there is no job {short(job_id)} in this store: relight jobs lists them", job_id=job_id)
    engines = () if found[0].job.state in FINAL_STATES else tuple(reads.engines_to_judge())
    return _Gathering(reads, engines, now_ms).facts_of(found, DEPTH, live)[found[0].job.job_id]


def _read_jobs(reads: Reads, job_ids: Sequence[JobId]) -> list[JobFacts]:
    """Read several jobs; one whose rows cannot be read is left out, and harms no other."""
    try:
        return reads.job_facts(job_ids, EVIDENCE)
    except msgspec.ValidationError:
        if len(job_ids) == 1:
            return []
    return [facts for job_id in job_ids for facts in _read_jobs(reads, [job_id])]


class _Gathering:
    """One walk down a job's waits: engines and queues are the same for all the jobs on the way."""

    def __init__(self, reads: Reads, engines: tuple[EngineRecord, ...], now_ms: int) -> None:
        self._reads = reads
        self._engines = engines
        self._now_ms = now_ms

    def facts_of(self, level: Sequence[JobFacts], depth: int, live: LiveFacts | None = None) -> dict[JobId, Facts]:
        """Return the facts of jobs of one level, with what they wait for below them."""
        awaited = {found.job.job_id: awaited_children(found) for found in level} if depth else {}
        wanted = list(dict.fromkeys(child for ids in awaited.values() for child in ids))[:CHILDREN]
        below = self.facts_of(_read_jobs(self._reads, wanted), depth - 1) if wanted else {}
        return {found.job.job_id: self._facts(found, awaited.get(found.job.job_id, []), below, live) for found in level}

    def _facts(
        self, found: JobFacts, awaited: Sequence[JobId], below: Mapping[JobId, Facts], live: LiveFacts | None
    ) -> Facts:
        job = found.job
        claimable = job.state is JobState.QUEUED and job.claimable
        gated = claimable or job.state is JobState.STALLED
        return Facts(
            now_ms=self._now_ms,
            store=found,
            engines=self._engines,
            gate_marks=self._gate_marks() if gated else (),
            line=self._line(job) if claimable else None,
            children={child: below[child] for child in awaited if child in below},
            live=live,
        )

    def _gate_marks(self) -> tuple[Mark, ...]:
        """Return the last events of the engine whose gate is shut, the newest first, when no gate is open."""
        live = [e for e in self._engines if e.state is EngineState.LIVE]
        if any(e.gate is GateState.OPEN for e in live):
            return ()
        shut = next((e for e in live if e.gate is GateState.FAILED), live[0] if live else None)
        if shut is None:
            return ()
        events = self._reads.events_of_writer(shut.engine_id, max(shut.head_seq - GATE_EVENTS, 0), GATE_EVENTS)
        return tuple(Mark(e.event_id, e.type, e.ts, None, e.actor_id, e.payload) for e in reversed(events))

    def _line(self, job: JobRecord) -> LineFacts:
        queue = next((q for q in self._reads.queues() if q.queue == job.queue), None)
        terms = terms_of(queue)
        limited = terms.slots is not None or terms.per_engine_slots is not None
        until = None
        if terms.rate is not None:
            _, until = rate_room(terms.rate, self._reads.rate_window(job.queue, terms.rate.n, 1), self._now_ms, 1)
        return LineFacts(
            queue=queue,
            load=self._reads.queue_load(job.queue) if limited else {},
            holders=tuple(self._reads.slot_holders(job.queue)) if limited else (),
            ahead=self._reads.ahead_in_line(job),
            rate_until=until,
        )


def awaited_children(found: JobFacts) -> list[JobId]:
    """Return the jobs that a job waits for, in the order in which it began to."""
    waits = (s for s in found.steps if s.kind is StepKind.CHILD_RESULT and s.state is StepState.WAITING)
    return list(dict.fromkeys(JobId(s.waits_for) for s in waits if s.waits_for))
