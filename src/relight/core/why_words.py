"""How ``why`` speaks: durations, moments and lists for people, and foreign text made harmless. Knows nothing of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from relight.clock import to_datetime

_LAST_MS = 253_370_764_800_000
"""The year 9999: a damaged row may name a time that no calendar knows."""


def when(ms: int) -> datetime:
    """Turn stored milliseconds into a datetime, whatever a damaged row says."""
    return to_datetime(min(max(ms, 0), _LAST_MS))


def plain(text: str, limit: int = 160) -> str:
    """Return foreign text on one line, without control and direction characters, at most ``limit`` long."""
    shown = " ".join("".join(ch if ch.isprintable() else " " for ch in text[: 4 * limit]).split())
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def lasting(ms: int) -> str:
    """Say a duration: ``41 ms``, ``12 s``, ``4 min``, ``3 h 20 min``, ``5 days``."""
    ms = max(ms, 0)
    if ms < 1_000:
        return f"{ms} ms"
    seconds = ms // 1_000
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 10:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{hours} h" if hours < 48 else f"{hours // 24} days"


def number(n: float) -> str:
    """Write a count: ``3,112``, ``0.5``."""
    return f"{int(n):,}" if n == int(n) else f"{n:,.1f}"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Write ``1 signal``, ``3 signals``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def ordinal(n: int) -> str:
    """Write ``1st``, ``2nd``, ``11th``."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"


def listed(items: Sequence[str], limit: int = 3, of: int = 0) -> str:
    """Write ``a, b, c and 4 more``; ``of`` is how many there are when not all are given."""
    shown = items[:limit]
    more = max(of, len(items)) - len(shown)
    return f"{', '.join(shown)} and {more:,} more" if more > 0 and shown else ", ".join(shown)


@dataclass(frozen=True)
class Words:
    """Speaks of times as seen at ``now_ms`` in a time zone. Without a now, moments are said in full."""

    now_ms: int | None
    tz: tzinfo = UTC

    def moment(self, ms: int) -> str:
        """Say when: ``10:02:11``, ``tomorrow 08:15``, ``2026-02-03 08:15``; in UTC it says so."""
        at = when(ms).astimezone(self.tz)
        said = f"{at:%Y-%m-%d %H:%M}"
        if self.now_ms is not None:
            today = when(self.now_ms).astimezone(self.tz).date()
            if at.date() == today:
                said = f"{at:%H:%M:%S}"
            elif at.date() == today + timedelta(days=1):
                said = f"tomorrow {at:%H:%M}"
            elif at.date() == today - timedelta(days=1):
                said = f"yesterday {at:%H:%M}"
        return f"{said} UTC" if self.tz is UTC else said

    def past(self, ms: int) -> str:
        """Say how long ago."""
        return lasting((self.now_ms or ms) - ms)

    def ahead(self, ms: int) -> str:
        """Say how long from now."""
        return lasting(ms - (self.now_ms or ms))

    def since(self, ms: int) -> str:
        """Say ``since 10:02:11 UTC (4 min)``."""
        return f"since {self.moment(ms)} ({self.past(ms)})" if self.now_ms is not None else f"since {self.moment(ms)}"

    def until(self, ms: int) -> str:
        """Say ``until 10:02:11 UTC (in 4 min)``, or that the time has come."""
        if self.now_ms is not None and ms > self.now_ms:
            return f"until {self.moment(ms)} (in {self.ahead(ms)})"
        return f"until {self.moment(ms)}"
