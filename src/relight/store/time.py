"""Whose clock holds: the server's, where a store is one. Engines on many hosts then agree on leases, due times and rates.

The server is asked now and then (each beat, each judgement), and between two looks this machine's monotonic clock goes on
from its answer: so a wall clock that is set wrong on one host changes nothing, and reading the time costs no round trip.
Must not be asked by whoever has a clock of its own to pass (tests, the simulator). Read next: ``clock.py``.
"""

from __future__ import annotations

import threading

from relight.clock import Clock, SystemClock
from relight.errors import StorageUnavailable
from relight.store.store import Store


class StoreClock:
    """The clock of a store's server, as far as it is known here: within half a round trip of the last look."""

    def __init__(self, store: Store, machine: Clock) -> None:
        self._store = store
        self._machine = machine
        self._ahead_ms = machine.now_ms() - machine.mono_ms()
        self.look()

    def look(self) -> None:
        """Ask the server. One that does not answer changes nothing."""
        asked = self._machine.mono_ms()
        try:
            told = self._store.now_ms()
        except StorageUnavailable:
            return
        if told is not None:
            self._ahead_ms = told - (asked + self._machine.mono_ms()) // 2

    def now_ms(self) -> int:
        """Return the server's clock; see ``Clock.now_ms``."""
        return self._machine.mono_ms() + self._ahead_ms

    def mono_ms(self) -> int:
        """Return this machine's clock that only grows; see ``Clock.mono_ms``."""
        return self._machine.mono_ms()

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        """Wait on a held condition; see ``Clock.wait``."""
        return self._machine.wait(condition, timeout_ms)


def clock_of(store: Store, clock: Clock) -> Clock:
    """Return the clock that holds for a store, which is open: its server's, unless ``clock`` is not the machine's own."""
    own = not isinstance(clock, SystemClock) or not store.capabilities.time_is_proof
    return clock if own else StoreClock(store, clock)


def look_at(clock: Clock) -> None:
    """Ask the server for its time, where it is the one that holds."""
    if isinstance(clock, StoreClock):
        clock.look()
