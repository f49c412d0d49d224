"""Commands on their way through the journal: what each wants written, who waits for it, which may share a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from relight.core.chain import Head, link
from relight.core.changes import (
    BeginStep,
    CancelJob,
    Changes,
    CloseDecision,
    EndJob,
    MoveJob,
    PutAway,
    Quarantine,
    ReleaseHold,
    StallRun,
    UpdateStep,
)
from relight.core.commands import Command
from relight.core.events import Draft
from relight.ids import EngineId
from relight.store.store import Batch

MOVES = frozenset({EndJob, PutAway, MoveJob, StallRun, CancelJob, CloseDecision, Quarantine, ReleaseHold})
"""Rows that may move their job from one state to another, or decide where the next one moves it."""
EVENT_BYTES = 600
"""About what one event adds to a batch, its payload included."""

_encode = msgspec.json.Encoder().encode


class Ticket:
    """A command on its way. ``done`` turns True once; then ``error`` is None or what became of it.

    ``tag`` is whatever the waker wants to find again: one waker for many tickets is one call for each batch.
    """

    __slots__ = ("command", "done", "error", "events", "lazy", "put_at", "rows", "size", "tag", "texts", "waker")

    def __init__(
        self, command: Command, wanted: Changes, put_at: int, waker: Waker | None, tag: Any = None, lazy: bool = False
    ) -> None:
        self.command = command
        self.rows = wanted.rows
        self.texts = [_encode(row) for row in wanted.rows]
        self.events = wanted.events
        self.size = sum(map(len, self.texts)) + EVENT_BYTES * len(wanted.events)
        self.put_at = put_at
        self.waker = waker
        self.tag = tag
        self.lazy = lazy
        self.done = False
        self.error: BaseException | None = None


Waker = Callable[[list[Ticket]], None]
"""Called from the journal's thread, once a batch, with all of its tickets that named this waker."""


class Touched:
    """What the commands of a batch do to jobs and steps, as far as a later command has to see it on disk first."""

    __slots__ = ("_moved", "_updated")

    def __init__(self) -> None:
        self._moved: set[str | None] = set()
        self._updated: set[tuple[str, str]] = set()

    def admits(self, ticket: Ticket) -> bool:
        """Add a command, unless it has to wait for the next batch.

        It waits when an earlier one moves its job, and when it begins another try of a step that an earlier one ends: a
        store lets steps begin before others end.
        """
        if self._moved and not self._moved.isdisjoint(_jobs_of(ticket)):
            return False
        ends: list[tuple[str, str]] = []
        for row in ticket.rows:
            if isinstance(row, BeginStep):
                if (row.job_id, row.step_key) in self._updated:
                    return False
            elif isinstance(row, UpdateStep):
                ends.append((row.job_id, row.step_key))
            elif type(row) in MOVES:
                self._moved.add(row.job_id)  # type: ignore[attr-defined]  # all of them have it
        self._updated.update(ends)
        return True


def _jobs_of(ticket: Ticket) -> set[str | None]:
    jobs: set[str | None] = {event.job_id for event in ticket.events if event.job_id is not None}
    return jobs or {getattr(row, "job_id", None) for row in ticket.rows}


class Latch:
    """Waits in a thread for a number of tickets; a lock is the cheapest thing Python threads can wait on."""

    __slots__ = ("_count", "_left", "_lock")

    def __init__(self, count: int = 1) -> None:
        self._lock = threading.Lock()
        self._count = threading.Lock()
        self._left = count
        if count:
            self._lock.acquire()

    def __call__(self, tickets: list[Ticket]) -> None:
        """Count tickets as done: a latch is a waker."""
        self.skip(len(tickets))

    def skip(self, count: int = 1) -> None:
        """Count some as done."""
        with self._count:
            self._left -= count
            if self._left == 0:
                self._lock.release()

    def wait(self, timeout_seconds: float | None) -> bool:
        """Wait until all are done; tell whether they are."""
        return self._lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds)


def batch_of(writer_id: EngineId, seq: int, head: Head, tickets: Sequence[Ticket]) -> Batch:
    """Return the batch that a writer at ``head`` makes of some commands: their rows by operation, their events linked."""
    rows: dict[str, list[bytes]] = {}
    drafts: list[Draft] = []
    for ticket in tickets:
        for row, text in zip(ticket.rows, ticket.texts, strict=True):
            rows.setdefault(row.op, []).append(text)
        drafts += ticket.events
    events, new_head = link(head, drafts, writer_id=writer_id, engine_id=writer_id)
    texts = {op: (b"[" + b",".join(some) + b"]").decode() for op, some in rows.items()}
    return Batch(writer_id, seq, new_head, texts, events)
