"""Waits until an engine is at rest, for those who drive one from a test: ``drain`` and ``run_inline``."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from relight.engine.rest import Rest

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation

LOOKS = 2
"""The second look that is told after somebody began to wait has begun after that, too."""


class Resting:
    """A listener of one incarnation; a context manager. ``fresh`` is called by one thread."""

    def __init__(self, engine: Incarnation) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._wanted = False
        self._looks = 0
        self._rest: Rest | None = None
        self._left = False
        self._woken = False

    def __enter__(self) -> Resting:
        self._engine.attention.listeners.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._engine.attention.listeners.remove(self)

    def ticked(self, engine: Incarnation, rest: Rest | None) -> bool:
        """Hear how a look of the engine ended. See ``relight.engine.rest``."""
        with self._changed:
            if not self._wanted:
                return False
            self._looks = 0 if rest is None else self._looks + 1
            self._rest = rest
            if self._looks >= LOOKS:
                self._changed.notify_all()
            return 0 < self._looks < LOOKS

    def left(self, engine: Incarnation) -> None:
        """Hear that the engine has stopped."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let ``fresh`` return None now: what its caller waits for may be there."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def fresh(self, timeout_seconds: float | None) -> Rest | None:
        """Wait until the engine is at rest, by a look that began after this call.

        Return None after ``timeout_seconds``, when the engine stopped, or when ``wake`` was called (once for each call).
        """
        with self._changed:
            self._wanted, self._looks, self._rest = True, 0, None
            self._engine.nudge()
            try:
                self._changed.wait_for(lambda: self._looks >= LOOKS or self._left or self._woken, timeout_seconds)
                found = self._rest if self._looks >= LOOKS and not self._woken else None
                self._woken = False
                return found
            finally:
                self._wanted = False
