"""How far a run says it is: what its code said last (``heartbeat``), or how many items of a ``parallel`` have ended.

**Promise.** The count of a fan-out never goes back, whatever crashes between: a replay counts from nothing again, but says
so only once it is further than what is recorded of the same place, and not at all while it only repeats what was recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from relight.authoring.context import ItemCount


class _Told(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is stored. ``place`` and what follows are those of a count; ``note`` is its step's name."""

    done: float | None = None
    total: float | None = None
    note: str | None = None
    at: int = 0
    place: str | None = None
    failed: int = 0
    allowed: int | None = None


class Telling:
    """The progress of one run: at most one count at a time, the first that began and has not ended."""

    def __init__(self, recorded: str | None) -> None:
        self._lock = threading.Lock()
        self._last = _read(recorded)
        self._counting: str | None = None

    def say(self, *, done: float | None, total: float | None, note: str | None, at: int, in_step: bool) -> str:
        """Return what the code said, as it is stored. While items are counted, a step's word is about its item only."""
        with self._lock:
            if in_step and self._counting is not None and self._last.place == self._counting:
                self._last.at = at
            else:
                self._last = _Told(done=done, total=total, note=note, at=at)
            return msgspec.json.encode(self._last).decode()

    def count(self, items: ItemCount, *, at: int, replaying: Callable[[], bool]) -> str | None:
        """Return a count as it is to be stored, or None while there is nothing new to say."""
        with self._lock:
            if self._counting not in (None, items.place):
                return None
            self._counting = None if items.ended == items.total else items.place
            last, same = self._last, self._last.place == items.place
            known = (last.done or 0, last.failed) if same else (0, 0)
            if (items.ended, items.failed) <= known and same:
                return None
            if not same and replaying():
                return None
            self._last = _Told(
                done=max(items.ended, known[0]),
                total=items.total,
                note=items.name,
                at=at,
                place=items.place,
                failed=max(items.failed, known[1]),
                allowed=items.allowed,
            )
            return msgspec.json.encode(self._last).decode()

    def over(self, place: str) -> None:
        """Note that a fan-out has ended, however it did."""
        with self._lock:
            if self._counting == place:
                self._counting = None


def _read(recorded: str | None) -> _Told:
    try:
        return msgspec.json.decode(recorded or "{}", type=_Told)
    except msgspec.MsgspecError:
        return _Told()  # damaged, or another version's: it is only a word about progress
