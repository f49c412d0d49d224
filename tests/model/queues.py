"""The rules of queues in the reference: who defines them, who overrides them, and that each change follows the one seen."""

from __future__ import annotations

import msgspec
from tests.model.tables import Ground, need, put

from relight.core.commands import queues as cq
from relight.core.terms import definition_of
from relight.model import QueueRecord


class QueueRules(Ground):
    """See the module."""

    def _define_queue(self, c: cq.DefineQueue, now: int) -> None:
        old = self.t.queues.get(c.queue.queue) or QueueRecord(queue=c.queue.queue)
        need(old.revision == (0 if c.seen is None else c.seen.revision))
        previous = None
        if old.defined_by is not None:
            was = {**definition_of(old), "by": old.defined_by, "at": old.defined_at}
            previous = msgspec.json.encode(was).decode()
        defined = {name: getattr(c.queue, name) for name in ("slots", "per_engine_slots", "priority", "rate")}
        self.t.queues[old.queue] = put(
            old,
            **defined,
            defined_by=c.by,
            defined_at=now,
            updated_at=now,
            previous=previous,
            revision=old.revision + 1,
        )
        self.tell("queue_changed")

    def _steer_queue(self, c: cq.SteerQueue, now: int) -> None:
        old = self.t.queues.get(c.queue) or QueueRecord(queue=c.queue)
        need(old.revision == (0 if c.seen is None else c.seen.revision))
        override = msgspec.json.encode(c.override).decode() if c.override else None
        self.t.queues[c.queue] = put(
            old,
            paused=c.paused,
            override=override,
            override_by=c.who.id,
            updated_at=now,
            revision=old.revision + 1,
        )
        self.tell("queue_changed")
