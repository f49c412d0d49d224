"""Queue slots along the log (I-27): how many jobs of a queue ran at each moment, in all engines and in one.

Only a queue's present definition is known, so what happened before it was last changed is not judged, and a queue that
was made narrower while more jobs ran is judged from the next start on. Nothing is kept for queues without a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from relight.core.terms import terms_of
from relight.model import QueueRecord
from relight.recorder.invariants import TOLD_AT_MOST, Findings
from relight.recorder.rates import RateWalk


class SlotWalk:
    """Is told of every start and end of a run. ``queue_of`` is filled page by page by whoever reads the log."""

    def __init__(self, found: Findings, queues: Sequence[QueueRecord]) -> None:
        self._found = found
        terms = {q.queue: terms_of(q) for q in queues}
        self._limits = {
            name: each for name, each in terms.items() if (each.slots, each.per_engine_slots) != (None, None)
        }
        self._rates = RateWalk(found, queues)
        self.queue_of: Mapping[str, str] = {}
        self._where: dict[str, tuple[str, str]] = {}
        """Run → its queue and engine."""
        self._load: Counter[tuple[str, str | None]] = Counter()
        self._over: dict[str, list[tuple[str, str, str]]] = {}

    @property
    def watches(self) -> bool:
        """Whether any queue has a limit or a rate."""
        return bool(self._limits) or self._rates.watches

    def started(self, job_id: str, run_id: str, engine_id: str, seq: int, ts: int) -> None:
        """Count a run, and look whether that was one too many."""
        queue = self.queue_of.get(job_id)
        if queue is not None:
            self._rates.started(queue, job_id, run_id, seq, ts)
        limits = self._limits.get(queue or "")
        if queue is None or limits is None:
            return
        self._where[run_id] = (queue, engine_id)
        for place, slots in ((None, limits.slots), (engine_id, limits.per_engine_slots)):
            self._load[queue, place] += 1
            ran = self._load[queue, place]
            over = self._over.setdefault(queue, [])
            if slots is not None and ran > slots and len(over) < TOLD_AT_MOST:
                where = "" if place is None else f" in engine {place}"
                over.append(
                    (f"queue {queue} has {slots} slots{where}, event {seq} started job number {ran}", job_id, run_id)
                )

    def ended(self, run_id: str) -> None:
        """Count a run no longer."""
        where = self._where.pop(run_id, None)
        if where is not None:
            queue, engine_id = where
            for place in (None, engine_id):
                self._load[queue, place] -= 1
                if not self._load[queue, place]:
                    del self._load[queue, place]

    def forget(self, queue: str, changes: Collection[str] | None) -> None:
        """Drop what was found of a queue: it had other terms then. ``changes`` are which; None: any."""
        terms = None if changes is None else {name.removesuffix("_override") for name in changes}
        if terms is None or not terms.isdisjoint({"slots", "per_engine_slots"}):
            self._over.pop(queue, None)
        if terms is None or "rate" in terms:
            self._rates.forget(queue)

    def close(self) -> None:
        """Tell what was found."""
        self._rates.close()
        for over in self._over.values():
            for detail, *ids in over:
                self._found.add("I-27", detail, *ids)
