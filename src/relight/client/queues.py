"""Acts on queues: pause, resume, override, clear. They hold for every engine at once, and until somebody takes them back.

Running jobs go on whatever is done to their queue. Each act is an event with who did it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relight.client.session import Session
from relight.core.commands.queues import SteerQueue
from relight.core.keys import check_name
from relight.core.terms import TERMS, read_terms
from relight.errors import Conflict, Fenced, InvalidArgument, NotFound
from relight.model import QueueRecord

TRIES = 8
"""How often an act is decided anew when its queue keeps changing."""


class SteeringQueues(Session):
    """A session that steers queues."""

    def pause_queue(self, queue: str, *, by: str | None) -> QueueRecord:
        """Let nothing of a queue start until it is resumed. Events: ``queue_changed``, unless it is paused already."""
        return self._steer(queue, by, paused=True)

    def resume_queue(self, queue: str, *, by: str | None) -> QueueRecord:
        """Let a paused queue start jobs again. Events: ``queue_changed``, unless it is not paused."""
        return self._steer(queue, by, paused=False)

    def set_queue(self, queue: str, terms: Mapping[str, Any], *, by: str | None) -> QueueRecord:
        """Say what holds in a queue in place of its definition, until it is cleared; other terms stay as they are.

        ``terms``: slots, per_engine_slots, priority (whole numbers), rate (``{"n", "per_seconds"}``); None is no limit.
        Events: ``queue_changed``.
        """
        unknown = sorted(set(terms) - set(TERMS))
        if unknown or not terms:
            raise InvalidArgument(f"a queue has no {', '.join(unknown) or 'such term'}. It has: {', '.join(TERMS)}")
        return self._steer(queue, by, override=terms)

    def clear_queue(self, queue: str, *, by: str | None) -> QueueRecord:
        """Let a queue's definition in code hold again. It stays paused if it is. Events: ``queue_changed``, if it changes."""
        return self._steer(queue, by, clear=True)

    def _steer(
        self,
        queue: str,
        by: str | None,
        *,
        paused: bool | None = None,
        override: Mapping[str, Any] | None = None,
        clear: bool = False,
    ) -> QueueRecord:
        check_name(queue, "queue")
        who = self.who(by)
        for attempt in range(TRIES):
            seen = self._queue(queue)
            row = seen or QueueRecord(queue=queue)
            before = dict(read_terms(row.override))
            after = {} if clear else {**before, **(override or {})}
            wanted = row.paused if paused is None else paused
            if (wanted, after) == (row.paused, before):
                return row
            command = SteerQueue(queue=queue, seen=seen, paused=wanted, override=after, who=who)
            try:
                self.journal.execute(command, patience_seconds=self.patience_seconds)
            except Fenced:
                raise
            except Conflict:  # an engine defined it, or somebody else acted, in the same moment
                if attempt == TRIES - 1:
                    raise
            else:
                break
        return self._queue(queue) or row

    def _queue(self, queue: str) -> QueueRecord | None:
        """Return a queue's row, or None. Raises ``NotFound`` for a name that nothing in the store ever used."""
        with self.store.reading() as reads:
            found = next((row for row in reads.queues() if row.queue == queue), None)
            known = found is not None or queue == "default" or reads.is_used(queue)
        if not known:
            raise NotFound(
                f"no engine has defined a queue {queue!r} in {self.store.place}, and no job is in it. relight queues lists them",
                queue=queue,
            )
        return found
