"""Time as a port: nobody else in Relight reads a clock.

``now_ms`` is for people and for timers that outlive a process. ``mono_ms`` counts suspension (a laptop's closed lid)
and never jumps; it is what leases and time-outs inside one process go by, so a wall clock set an hour forward or back
changes no verdict. Tests and the simulator pass a manual clock. Read next: ``model.py``.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What Relight asks of time. Implementations are safe to call from any thread."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970, UTC."""
        ...

    def mono_ms(self) -> int:
        """Return a clock that only grows, counts suspension, and has no relation to the wall."""
        ...

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        """Wait on a held condition until notified (True) or until the time is over (False)."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> int:
        """Return CLOCK_BOOTTIME where there is one (it counts suspension), else the monotonic clock."""
        ns = time.clock_gettime_ns(_BOOTTIME) if _BOOTTIME is not None else time.monotonic_ns()
        return ns // 1_000_000

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        """Wait on a held condition; see ``Clock.wait``."""
        return condition.wait(None if timeout_ms is None else max(timeout_ms, 0) / 1000)


def to_datetime(ms: int) -> datetime:
    """Turn stored milliseconds into an aware UTC datetime."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_ms(when: datetime) -> int:
    """Turn an aware datetime into stored milliseconds. Raises ``ValueError`` on a naive one."""
    if when.tzinfo is None:
        raise ValueError(f"{when!r} has no time zone; write datetime.now(timezone.utc) or add tzinfo=")
    return (when - _EPOCH) // timedelta(milliseconds=1)


def rfc3339(ms: int) -> str:
    """Write milliseconds as RFC 3339 in UTC, as the flight recorder's wire form has it."""
    return to_datetime(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"
