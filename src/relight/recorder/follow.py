"""Following the log: pages of events in commit order, from a place on, for as long as somebody listens.

**Promise.** Every event after the place is given once, in the order of ``seq``, and none is passed over: on every store
``seq`` is only shown up to where nothing can still be committed below it. What was read last is the place to go on from
after a restart, so a follower keeps one number.

Nothing is held open between pages: each is a short read, and the waiting is the caller's (``wait``), who knows what there
is to wait for: a changed ``store.change_token()``, a notification, a time, the end. Read next: ``verify.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from relight.model import EventRecord
from relight.store.reads import EventFilter
from relight.store.store import Store

Wait = Callable[[int], bool]
"""Called with the place reached when there is nothing more. True: look again. False: stop following."""

PAGE = 500


def stop_at_end(_seq: int) -> bool:
    """Do not wait: follow to the present end of the log."""
    return False


def follow(
    store: Store, which: EventFilter | None = None, *, wait: Wait = stop_at_end, page: int = PAGE
) -> Iterator[Sequence[EventRecord]]:
    """Give the log after ``which.after`` in pages of at most ``page`` events, never an empty one.

    ``which`` filters by job, types, trace and actor; its ``limit`` is how many events to give in all, 0 for no end. A
    page is what there is now, so the last one before a wait is usually short. Raises ``StorageError`` when the store
    cannot be read; the pages given so far stand.
    """
    which = which or EventFilter(limit=0)
    after, left = which.after, which.limit or None
    while left is None or left > 0:
        size = page if left is None else min(page, left)
        events, after = _read(store, replace(which, after=after, limit=size))
        if events:
            left = None if left is None else left - len(events)
            yield events
        if len(events) < size and not wait(after):
            return


def _read(store: Store, which: EventFilter) -> tuple[list[EventRecord], int]:
    """Read one page; return it, and the place reached: the end of the log when nothing more of it fits the filter."""
    with store.reading(snapshot=True) as reads:
        end = reads.last_seq()
        events = reads.events(which)
    if len(events) == which.limit:
        return events, events[-1].seq
    return events, max(which.after, end)
