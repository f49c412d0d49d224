"""``ManualClock``: a clock that a test sets forward, and that skips the time in which everything waits.

It goes like any clock, from the present, so that nothing behaves otherwise than in production; what a test needs to wait
for, it jumps over. A jump happens only while somebody waits for a job to end (``result()``, ``drain``, ``run_inline``), and
every engine on this clock is at rest: a test that still sends a signal is not overtaken by the signal's time limit.
Rejected: a clock that stands still between jumps. The engine's own small pauses (a commit that waits 20 ms for company)
would stand still with it.
"""

from __future__ import annotations

import math
import threading
from datetime import datetime
from typing import TYPE_CHECKING

from relight.clock import SystemClock, to_datetime
from relight.errors import InvalidArgument

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation
    from relight.engine.rest import Rest

LONGEST_SECONDS = 1e10
LOOKS = 2
"""So often in a row an engine must be found at rest while somebody waits. The second look began after that somebody did,
so it has seen whatever was committed before, by anyone."""


class ManualClock:
    """A clock for ``Engine(clock=)`` and ``run_inline(clock=)`` that a test moves.

    With ``skip`` (the default) it jumps to the next due moment when everything waits and somebody waits for a job's end;
    without, only ``advance`` moves it. Real time passes on it too, as it takes milliseconds: compare with ``>=``. Engines of
    one process may share one. Steps run in real time, and their ``timeout_seconds`` is real.
    """

    def __init__(self, *, skip: bool = True) -> None:
        self.skip = skip
        self._real = SystemClock()
        self._ahead_ms = 0
        self._lock = threading.Lock()
        self._waiting: dict[object, threading.Condition] = {}
        self._engines: dict[str, Incarnation] = {}
        self._looks: dict[str, int] = {}
        self._until: dict[str, int | None] = {}

    def __repr__(self) -> str:
        return f"<ManualClock {self.now():%Y-%m-%d %H:%M:%S} UTC, {self._ahead_ms / 1000:g} s ahead>"

    def now(self) -> datetime:
        """Return the time on this clock, aware, in UTC."""
        return to_datetime(self.now_ms())

    def advance(self, seconds: float) -> None:
        """Set the clock forward, and wake whoever is due by then. Raises ``InvalidArgument`` for a step back."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < LONGEST_SECONDS:
            raise InvalidArgument(f"advance({seconds!r}): a number of seconds, 0 or more; a clock never goes back")
        self._jump(math.ceil(seconds * 1000))

    def jump_to(self, mono_ms: int) -> None:
        """Set the clock forward to a moment on its monotonic reading; one that has passed changes nothing."""
        self._jump(mono_ms - self.mono_ms())

    def _jump(self, by_ms: int) -> None:
        with self._lock:
            self._ahead_ms += max(by_ms, 0)
            waiting = list(self._waiting.values())
        for condition in waiting:
            with condition:
                condition.notify_all()

    # the port

    def now_ms(self) -> int:
        """Return the wall clock; see ``relight.clock.Clock``."""
        return self._real.now_ms() + self._ahead_ms

    def mono_ms(self) -> int:
        """Return the clock that only grows; see ``relight.clock.Clock``."""
        return self._real.mono_ms() + self._ahead_ms

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        """Wait on a held condition; a jump beyond the time-out ends the wait too."""
        if timeout_ms is None:
            return condition.wait()
        me = object()
        deadline = self.mono_ms() + timeout_ms
        with self._lock:
            self._waiting[me] = condition
        try:
            return condition.wait(max(timeout_ms, 0) / 1000) and self.mono_ms() < deadline
        finally:
            with self._lock:
                del self._waiting[me]

    # skipping

    def ticked(self, engine: Incarnation, rest: Rest | None) -> bool:
        """Hear how an engine's look ended; jump when all of them are at rest. See ``relight.engine.rest``."""
        if not self.skip:
            return False
        me = engine.engine_id
        with self._lock:
            self._engines[me] = engine
            if rest is None or not any(each.attention.awaited() for each in self._engines.values()):
                self._looks.clear()
                return False
            self._looks[me] = self._looks.get(me, 0) + 1
            self._until[me] = rest.until
            if any(self._looks.get(each, 0) < LOOKS for each in self._engines):
                return self._looks[me] < LOOKS
            self._looks.clear()
            due = [at for at in self._until.values() if at is not None]
        if due:
            self.jump_to(min(due))
        return bool(due)

    def left(self, engine: Incarnation) -> None:
        """Hear that an engine has stopped."""
        with self._lock:
            self._engines.pop(engine.engine_id, None)
            self._until.pop(engine.engine_id, None)
            self._looks.clear()
