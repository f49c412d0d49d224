"""Ids: UUIDv7 text, made by a port that is passed in.

Owns how ids look and are made; reads no clock of its own. A UUIDv7 grows with time, so rows that are written
together lie together in an index (random keys double the cost of growth). Its *first* characters are useless to
a person (jobs of one second share them): people are shown and may type the *last* ones. Read next: ``clock.py``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import NewType, Protocol

JobId = NewType("JobId", str)
RunId = NewType("RunId", str)
EngineId = NewType("EngineId", str)
EventId = NewType("EventId", str)
StepKey = NewType("StepKey", str)

_VARIANT = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}
"""What a random digit becomes where RFC 9562 wants the variant's two bits."""

SHORT = 6
"""How many of an id's last characters are shown to people."""


class Ids(Protocol):
    """The source of ids and of randomness. Seeded in simulation."""

    def uuid7(self, now_ms: int) -> str:
        """Return a new UUIDv7 as 36 characters of text; later calls never sort before earlier ones of the same source."""
        ...

    def token(self) -> str:
        """Return 32 unguessable hexadecimal characters."""
        ...


DRAWN_BYTES = 16 << 10


class RandomIds:
    """Ids from the operating system's randomness, drawn 16 KiB at a time: drawing gives up the GIL.

    Within one millisecond a 12-bit counter keeps the order (RFC 9562, method 1). ``fill`` gives n random bytes.
    Not locked: two threads may draw the same counter value, but never the same 62 random bits.
    """

    def __init__(self, fill: Callable[[int], bytes] = os.urandom) -> None:
        self._fill = fill
        self._pool = ""
        self._at = 0
        self._last_ms = 0
        self._count = 0
        self._time = ""

    def _hex(self, n: int) -> str:
        at = self._at
        self._at = at + n
        piece = self._pool[at : at + n]
        if len(piece) < n:
            self._pool = self._fill(DRAWN_BYTES).hex()
            self._at = n
            piece = self._pool[:n]
        return piece

    def uuid7(self, now_ms: int) -> str:
        """Return a new UUIDv7; see ``Ids.uuid7``."""
        if now_ms <= self._last_ms and self._count < 0xFFF:
            self._count += 1
        else:
            self._last_ms = max(now_ms, self._last_ms + (self._count == 0xFFF and now_ms <= self._last_ms))
            self._count = 0
            self._time = f"{self._last_ms >> 16:08x}-{self._last_ms & 0xFFFF:04x}"
        r = self._hex(16)
        return f"{self._time}-7{self._count:03x}-{_VARIANT[r[0]]}{r[1:4]}-{r[4:]}"

    def token(self) -> str:
        """Return 32 unguessable hexadecimal characters."""
        return self._hex(32)


def derived_uuid7(parent: str, *path: str) -> str:
    """Derive a UUIDv7 that keeps the parent's time and is fixed by parent and path.

    A replay that starts the same child under the same key thereby finds the same job.
    """
    digest = hashlib.sha256("\0".join((parent, *path)).encode()).hexdigest()
    return f"{parent[:14]}7{digest[:3]}-{'89ab'[int(digest[3], 16) & 3]}{digest[4:7]}-{digest[7:19]}"


def short(some_id: str) -> str:
    """Show an id to a person: its last six characters behind an ellipsis."""
    return f"…{some_id[-SHORT:]}"
