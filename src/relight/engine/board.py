"""Timers and open waits of one incarnation: who is to be woken when, and for what.

A run's line that waits is a ``Waiter``. It is woken by a time, by what it waits for, or by its run being cancelled or put
away; the first wake counts. The board is asked by the supervisor's loop; it has no thread of its own.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from relight.clock import Clock
from relight.core.flow import Park
from relight.store.reads import OpenWait

if TYPE_CHECKING:
    from relight.engine.run import Run

DUE = "due"
ARRIVED = "arrived"
LEAVE = "leave"
"""The run is being cancelled or put away: leave by exception."""


class Waiter:
    """One line of a run that waits. ``wake`` is called once, from any thread, with what happened."""

    __slots__ = (
        "_wake",
        "also",
        "kind",
        "line",
        "looked",
        "outcome",
        "put_away_at",
        "run",
        "until",
        "wait",
        "waits_for",
    )

    def __init__(self, run: Run, wait: Park, line: str, wake: Callable[[str], None]) -> None:
        self.run = run
        self.kind: str = wait.kind
        self.waits_for = wait.waits_for
        self.also = tuple(name for _, name in wait.also)
        """Further things of its kind that end the wait."""
        self.wait = wait
        self.line = line
        """The line of the job that waits."""
        self.put_away_at = 0
        self.until: int | None = None
        self.looked = wait.waits_for is None
        """Whether the store was asked, since the line parked, if what it waits for has come."""
        self.outcome: str | None = None
        self._wake = wake

    def wake(self, outcome: str) -> None:
        """Wake the line, if nothing woke it before. What is first is decided under the run's lock."""
        with self.run.lock:
            mine = self.settle(outcome)
        if mine:
            self.tell()

    def settle(self, outcome: str) -> bool:
        """Decide what wakes the line, if nothing has; the run's lock is held. ``tell`` it afterwards."""
        if self.outcome is not None:
            return False
        self.outcome = outcome
        return True

    def tell(self) -> None:
        """Let the line go on with what was decided."""
        self._wake(self.outcome or LEAVE)


class Board:
    """See the module. ``nudge`` is called when the supervisor should look sooner than it meant to."""

    def __init__(self, clock: Clock, nudge: Callable[[], None]) -> None:
        self._clock = clock
        self._nudge = nudge
        self._lock = threading.Lock()
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting: dict[Waiter, None] = {}
        self._asked: list[Waiter] = []

    def after(self, ms: int, call: Callable[[], None]) -> None:
        """Call something once ``ms`` milliseconds have passed, from the supervisor's thread."""
        at = self._clock.mono_ms() + max(ms, 0)
        with self._lock:
            heapq.heappush(self._timers, (at, next(self._order), call))
            first = self._timers[0][0] == at
        if first:
            self._nudge()

    def add(self, waiter: Waiter) -> None:
        """Note an open wait for something that the store will tell of."""
        if waiter.waits_for is not None:
            with self._lock:
                self._waiting[waiter] = None
            self._nudge()

    def remove(self, waiter: Waiter) -> None:
        """Forget a wait."""
        with self._lock:
            self._waiting.pop(waiter, None)

    def run_due(self) -> None:
        """Call what is due."""
        now = self._clock.mono_ms()
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > now:
                    return
                _, _, call = heapq.heappop(self._timers)
            call()

    def next_at(self) -> int | None:
        """Return when the next timer is due, on the monotonic clock."""
        with self._lock:
            return self._timers[0][0] if self._timers else None

    def open_waits(self) -> list[OpenWait]:
        """Return what lines here wait for."""
        with self._lock:
            self._asked = list(self._waiting)
            return [
                OpenWait(w.run.ref.job_id, w.kind, each) for w in self._asked for each in (w.waits_for or "", *w.also)
            ]

    def arrived(self, come: set[tuple[str, str]]) -> None:
        """Wake the lines whose wait is over, of those that ``open_waits`` last named."""
        for waiter in self._asked:
            waiter.looked = True
            job_id = waiter.run.ref.job_id
            if any((job_id, each) in come for each in (waiter.waits_for or "", *waiter.also)):
                waiter.wake(ARRIVED)
