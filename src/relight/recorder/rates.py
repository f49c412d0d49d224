"""Rates along the log (R-1): in any window of a queue's rate no more starts than it allows, over all engines.

The claim's own rule once more (``store``'s ``rate_limits``), from the times of ``run_started`` in commit order: a queue's time
does not go back; where a clock was set back by more than the window, it is judged anew from there. Only a queue's present rate is known, so what
happened before it was last changed is not judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from relight.core.terms import RateTerms, terms_of
from relight.model import QueueRecord
from relight.recorder.invariants import TOLD_AT_MOST, Findings


class RateWalk:
    """Is told of every start in a queue that has a rate."""

    def __init__(self, found: Findings, queues: Sequence[QueueRecord]) -> None:
        self._found = found
        rates = {queue.queue: terms_of(queue).rate for queue in queues}
        self._rates: dict[str, RateTerms] = {name: rate for name, rate in rates.items() if rate is not None}
        self._last: dict[str, deque[int]] = {name: deque(maxlen=rate.n) for name, rate in self._rates.items()}
        self._over: dict[str, list[tuple[str, str, str]]] = {}

    @property
    def watches(self) -> bool:
        """Whether any queue has a rate."""
        return bool(self._rates)

    def started(self, queue: str, job_id: str, run_id: str, seq: int, ts: int) -> None:
        """Count a start, and look whether that was one too many."""
        rate = self._rates.get(queue)
        if rate is None:
            return
        last = self._last[queue]
        if last and last[-1] > ts + rate.per_ms:
            last.clear()  # the clock was set back: what lay ahead was rewound at a moment that no event tells
        at = max(ts, last[-1]) if last else ts
        if len(last) == rate.n and last[0] > at - rate.per_ms:
            over = self._over.setdefault(queue, [])
            if len(over) < TOLD_AT_MOST:
                detail = (
                    f"queue {queue} has the rate {rate}, event {seq} is start number {rate.n + 1} in {at - last[0]} ms"
                )
                over.append((detail, job_id, run_id))
        last.append(at)

    def forget(self, queue: str) -> None:
        """Drop what was seen of a queue: it had another rate then."""
        self._over.pop(queue, None)
        if queue in self._last:
            self._last[queue].clear()

    def close(self) -> None:
        """Tell what was found."""
        for over in self._over.values():
            for detail, *ids in over:
                self._found.add("R-1", detail, *ids)
