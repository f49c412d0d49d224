"""What is done to queues: code defines them, operators pause and override them. Each change is an event.

Both are decided on the queue's row as it was read, and name its revision: when it has changed meanwhile the store refuses,
and the caller reads again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from relight.core import events as ev
from relight.core.changes import Changes, Who
from relight.core.commands.base import Command, event
from relight.core.queue_rows import PutQueue, RewindRate, SetQueue
from relight.core.terms import TERMS, changed_terms, definition_of, read_terms
from relight.ids import Ids
from relight.model import QueueRecord


class DefineQueue(Command, frozen=True, kw_only=True):
    """An engine's definition of a queue takes the place of the one that was there. ``by`` is the engine's name."""

    queue: QueueRecord
    seen: QueueRecord | None
    by: str
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the definition, and ``queue_changed`` with the definition that it replaces."""
        q, seen = self.queue, self.seen
        revision = 0 if seen is None else seen.revision
        row = PutQueue(q.queue, q.slots, q.per_engine_slots, q.priority, q.rate, now_ms, self.by, revision)
        now = definition_of(q)
        if seen is None or seen.defined_by is None:
            told = ev.QueueChanged(queue=q.queue, changes={name: now[name] for name in TERMS if now[name] is not None})
        else:
            before = definition_of(seen)
            changes = changed_terms(before, now)
            told = ev.QueueChanged(
                queue=q.queue,
                changes=changes,
                before={name: before[name] for name in changes},
                before_by=seen.defined_by if seen.defined_by != self.by else None,
            )
        return Changes([row], [event(told, self.who, now_ms, ids)])


class SteerQueue(Command, frozen=True, kw_only=True):
    """An operator pauses a queue, resumes it, or says what holds in place of its definition until it is cleared."""

    queue: str
    seen: QueueRecord | None
    paused: bool
    override: Mapping[str, Any]
    who: Who

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the operator's word, and ``queue_changed``."""
        seen = self.seen or QueueRecord(queue=self.queue)
        before = read_terms(seen.override)
        text = msgspec.json.encode(self.override).decode() if self.override else None
        row = SetQueue(self.queue, self.paused, text, self.who.id, seen.revision, now_ms)
        changes: dict[str, object] = changed_terms(before, self.override)
        changes |= {f"{name}_override": None for name in before if name not in self.override}
        if self.paused != seen.paused:
            changes["paused"] = self.paused
        return Changes([row], [event(ev.QueueChanged(queue=self.queue, changes=changes), self.who, now_ms, ids)])


class RewindRates(Command, frozen=True, kw_only=True):
    """The clock was set back: starts of these queues that lie ahead of it count as of now. No event: it is no fact of theirs."""

    queues: tuple[str, ...]

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return one row for each queue."""
        return Changes([RewindRate(queue, now_ms) for queue in self.queues], [])


def differs(queue: QueueRecord, seen: QueueRecord | None) -> bool:
    """Tell whether a definition is news to the store."""
    return seen is None or seen.defined_by is None or definition_of(queue) != definition_of(seen)
