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
    from_done: float | None = None
    from_at: int | None = None
    """From when and from how much this run counts: what is left is told by its pace."""


class Telling:
    """The progress of one run: at most one count at a time, the first that began and has not ended."""

    def __init__(self, recorded: str | None) -> None:
        self._lock = threading.Lock()
        self._last = _read(recorded)
        self._counting: str | None = None
        self._paces = False  # the pace is this run's own: nothing ran while the job was put away

    def text(self) -> str:
        """Return the last word, as it is stored."""
        with self._lock:
            return msgspec.json.encode(self._last).decode()

    def say(self, *, done: float | None, total: float | None, note: str | None, at: int, in_step: bool) -> None:
        """Note what the code said. While items are counted, a step's word is about its item only."""
        with self._lock:
            if in_step and self._counting is not None and self._last.place == self._counting:
                self._last.at = at
            else:
                self._last = self._paced(_Told(done=done, total=total, note=note, at=at))

    def count(self, items: ItemCount, *, at: int, replaying: Callable[[], bool]) -> bool:
        """Note a count; tell whether it is news."""
        with self._lock:
            if self._counting not in (None, items.place):
                return False
            self._counting = None if items.ended == items.total else items.place
            last, same = self._last, self._last.place == items.place
            known = (last.done or 0, last.failed) if same else (0, 0)
            if (items.ended, items.failed) <= known and same:
                return False
            if not same and replaying():
                return False
            told = _Told(
                done=max(items.ended, known[0]),
                total=items.total,
                note=items.name,
                at=at,
                place=items.place,
                failed=max(items.failed, known[1]),
                allowed=items.allowed,
            )
            self._last = self._paced(told)
            return True

    def _paced(self, told: _Told) -> _Told:
        last = self._last
        if told.done is None:
            return told
        if not self._paces or last.from_at is None or last.place != told.place or told.done < (last.done or 0):
            told.from_done, told.from_at = told.done, told.at
        else:
            told.from_done, told.from_at = last.from_done, last.from_at
        self._paces = True
        return told

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
