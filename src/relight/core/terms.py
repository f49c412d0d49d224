"""What holds in a queue now: its definition in code, an operator's word over it, and how much room its rate leaves.

A definition is given by the engine that started last; an **override** holds in place of single terms of it until it is
cleared, whoever starts. Both are kept side by side in the queue's row and put together only here. Pure.
Read next: ``engine/claimer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from relight.model import QueueRecord

TERMS: Final = ("slots", "per_engine_slots", "priority", "rate")
"""What a definition says, and what an operator may say in its place."""


class RateTerms(NamedTuple):
    """``n`` starts in any ``per_ms`` milliseconds, over all engines."""

    n: int
    per_ms: int

    def __str__(self) -> str:
        return f"{self.n:,}/{self.per_ms / 1000:g}s"


class Terms(NamedTuple):
    """What holds in a queue. None: no limit. ``revision`` is that of the queue's row, 0 when it has none."""

    slots: int | None = None
    per_engine_slots: int | None = None
    priority: int = 0
    rate: RateTerms | None = None
    paused: bool = False
    revision: int = 0


class RateWindow(NamedTuple):
    """The last starts of a queue, which are numbered: the numbers kept, when the newest was, when the oldest kept were."""

    first: int
    last: int
    latest: int
    starts: Sequence[int]


def terms_of(queue: QueueRecord | None) -> Terms:
    """Return what holds in a queue; for None, a queue nobody defined."""
    if queue is None:
        return Terms()
    said: dict[str, Any] = {**definition_of(queue), **read_terms(queue.override)}
    return Terms(
        slots=said["slots"],
        per_engine_slots=said["per_engine_slots"],
        priority=said["priority"],
        rate=rate_terms(said["rate"]),
        paused=queue.paused,
        revision=queue.revision,
    )


def definition_of(queue: QueueRecord) -> dict[str, Any]:
    """Return what code says of a queue, by term."""
    rate = None if queue.rate is None else msgspec.json.decode(queue.rate)
    return {
        "slots": queue.slots,
        "per_engine_slots": queue.per_engine_slots,
        "priority": queue.priority,
        "rate": rate,
    }


def read_terms(text: str | None) -> Mapping[str, Any]:
    """Read stored terms; none are an empty mapping."""
    return {} if text is None else msgspec.json.decode(text, type=dict[str, Any])


def rate_terms(rate: Mapping[str, Any] | None) -> RateTerms | None:
    """Read a rate as it is stored: ``{"n": 10, "per_seconds": 1.5}``."""
    return None if rate is None else RateTerms(int(rate["n"]), max(int(rate["per_seconds"] * 1000), 1))


def term_words(terms: Mapping[str, Any]) -> str:
    """Say terms for people: ``slots=3, rate=10/60s``; what says nothing is left out."""
    said = []
    for name in TERMS:
        value = terms.get(name)
        if value is not None and (name, value) != ("priority", 0):
            said.append(f"{name}={rate_terms(value) if name == 'rate' else value}")
    return ", ".join(said) or "no limit"


def changed_terms(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return those terms of ``now`` that differ from ``before``."""
    return {name: now[name] for name in TERMS if name in now and now[name] != before.get(name)}


def rate_room(rate: RateTerms, window: RateWindow, now_ms: int, most: int) -> tuple[int, int | None]:
    """Return how many starts a rate leaves room for now, at most ``most``, and when there is more (None: not asked).

    The same rule as the store's, which decides again in the claim's own transaction.
    """
    if is_ahead(rate, window, now_ms):
        return 0, now_ms + rate.per_ms
    now = max(now_ms, window.latest)
    free = max(rate.n - (window.last - window.first + 1), 0) if window.starts else rate.n
    for started in window.starts:
        if free >= most:
            break
        free_at = started + rate.per_ms
        if free_at > now:
            return free, free_at - now + now_ms
        free += 1
    return min(free, most), None


def is_ahead(rate: RateTerms, window: RateWindow, now_ms: int) -> bool:
    """Tell whether a queue's starts lie ahead of the clock, so that it must have been set back: they are to be rewound."""
    return window.latest > now_ms + rate.per_ms
