"""Queue slots along the log (I-27): how many jobs of a queue ran at each moment, in all engines and in one.

Only a queue's present definition is known, so what happened before it was last changed is not judged, and a queue that
was made narrower while more jobs ran is judged from the next start on. Nothing is kept for queues without a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from relight.model import QueueRecord
from relight.recorder.invariants import TOLD_AT_MOST, Findings


class SlotWalk:
    """Is told of every start and end of a run. ``queue_of`` is filled page by page by whoever reads the log."""

    def __init__(self, found: Findings, queues: Sequence[QueueRecord]) -> None:
        self._found = found
        self._limits = {q.queue: q for q in queues if q.slots is not None or q.per_engine_slots is not None}
        self.queue_of: Mapping[str, str] = {}
        self._where: dict[str, tuple[str, str]] = {}
        """Run → its queue and engine."""
        self._load: Counter[tuple[str, str | None]] = Counter()
        self._over: dict[str, list[tuple[str, str, str]]] = {}

    @property
    def watches(self) -> bool:
        """Whether any queue has a limit."""
        return bool(self._limits)

    def started(self, job_id: str, run_id: str, engine_id: str, seq: int) -> None:
        """Count a run, and look whether that was one too many."""
        queue = self.queue_of.get(job_id)
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

    def forget(self, queue: str) -> None:
        """Drop what was found of a queue: it had another definition then."""
        self._over.pop(queue, None)

    def close(self) -> None:
        """Tell what was found."""
        for over in self._over.values():
            for detail, *ids in over:
                self._found.add("I-27", detail, *ids)
