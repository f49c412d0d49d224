"""The gate: a one-way latch for each incarnation. Closed, no job is accepted or started by this engine.

It opens in the transaction that finds, by a fresh query, no unquarantined run running under an engine held dead or
silent; ``gate_opened`` in the log proves by its place that recovery came first. A recovery that fails leaves it shut with
a reason; waiters are told; it opens by itself once recovery succeeds. Trouble later never closes it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from relight.clock import Clock
from relight.errors import GateClosed, GateError, RecoveryFailed
from relight.model import GateState


class Gate:
    """The latch in memory, with those who wait for it. Its twin in the store is set by the same command that tells of it.

    ``progress`` tells how many runs recovery has accounted for, of how many; ``waiting`` counts those who wait.
    """

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name
        self._changed = threading.Condition()
        self._failures = 0
        self._abandoned: str | None = None
        self.state = GateState.CLOSED
        self.reason: str | None = None
        self.closed_at = clock.mono_ms()
        self.closed_ms: int | None = None
        self.waiting = 0
        self.progress: Callable[[], tuple[int, int]] = lambda: (0, 0)

    @property
    def is_open(self) -> bool:
        """Whether new work may begin."""
        return self.state is GateState.OPEN

    def open(self) -> None:
        """Open the latch, for good."""
        with self._changed:
            self.state = GateState.OPEN
            self.reason = None
            self.closed_ms = self._clock.mono_ms() - self.closed_at
            self._changed.notify_all()

    def fail(self, reason: str) -> None:
        """Say why it stays shut, and tell those who wait."""
        with self._changed:
            if self.state is not GateState.OPEN:
                self.state = GateState.FAILED
                self.reason = reason
                self._failures += 1
                self._changed.notify_all()

    def abandon(self, reason: str) -> None:
        """The incarnation ends (``reason`` says how): a gate that is shut stays shut, and nobody need wait any longer."""
        with self._changed:
            self._abandoned = reason
            self._changed.notify_all()

    def wait(self, timeout_ms: int) -> None:
        """Wait until it is open.

        Raises ``RecoveryFailed`` as soon as recovery failed, ``GateClosed`` after the time-out or when it is abandoned.
        """
        deadline = self._clock.mono_ms() + timeout_ms
        with self._changed:
            if self.state is GateState.OPEN:
                return
            self.waiting += 1
            try:
                self._wait_for_change(deadline)
            finally:
                self.waiting -= 1

    def _wait_for_change(self, deadline: int) -> None:
        failures = self._failures
        while not self.is_open:
            left = deadline - self._clock.mono_ms()
            if self._abandoned is not None:
                raise self._ended(self._abandoned)
            if self._failures > failures or (self.state is GateState.FAILED and left <= 0):
                raise self._failed()
            if left <= 0:
                raise self._closed()
            self._clock.wait(self._changed, left)

    def _ended(self, reason: str) -> GateError:
        done, expected = self.progress()
        return GateClosed(
            f"engine {self._name} {reason} before it had recovered the last crash; nothing was accepted. Use another engine, "
            "or a Client: its jobs start once some gate opens",
            recovered=done,
            expected=expected,
            retry_after_seconds=1.0,
        )

    def _failed(self) -> GateError:
        return RecoveryFailed(
            f"engine {self._name} cannot recover the last crash ({self.reason}); it tries again by itself. "
            "relight doctor shows the store's health",
            reason=self.reason,
            retry_after_seconds=2.0,
        )

    def _closed(self) -> GateError:
        for_ms = self._clock.mono_ms() - self.closed_at
        done, expected = self.progress()
        rate = done / for_ms if done and for_ms else 0
        again = max(1.0, (expected - done) / rate / 1000) if rate else 1.0
        return GateClosed(
            f"engine {self._name} is still recovering ({done:,} of {expected:,} runs, {for_ms / 1000:.0f} s so far). "
            f"Try again in about {again:.0f} s",
            recovered=done,
            expected=expected,
            retry_after_seconds=again,
        )
