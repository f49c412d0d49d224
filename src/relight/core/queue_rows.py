"""What a batch writes about queues: what a claim must leave true of its queue, and what code and operators say of one.

Parts of a batch as those in ``changes.py``, which says in what order they are applied.
"""

from __future__ import annotations

from relight.core.row import Row


class QueueLimit(Row, frozen=True, array_like=True):
    """A limit that must hold after the claims of this batch: running jobs of a queue over all engines, or in one."""

    op = "queue_limits"
    queue: str
    engine_id: str | None
    slots: int


class RateLimit(Row, frozen=True, array_like=True):
    """A start that counts for its queue's rate: refused while ``n`` starts lie in the ``per_ms`` before it."""

    op = "rate_limits"
    queue: str
    n: int
    per_ms: int
    at: int


class RewindRate(Row, frozen=True, array_like=True):
    """The clock was set back by more than a rate's window: starts that lie ahead of it count as of now. Not checked."""

    op = "rewind_rates"
    queue: str
    at: int


class TakeTurn(Row, frozen=True, array_like=True):
    """A partition key of a queue is served (the empty one: jobs without); the next claim begins behind it."""

    op = "take_turns"
    queue: str
    priority: int
    partition_key: str


class PutQueue(Row, frozen=True, array_like=True):
    """A queue's definition in code, by the engine ``by``; the last start wins, and the one before is kept to be shown.

    ``seen`` is the revision that it follows (0: there is none yet). What an operator overrode stays.
    """

    op = "put_queues"
    queue: str
    slots: int | None
    per_engine_slots: int | None
    priority: int
    rate: str | None
    at: int
    by: str
    seen: int


class SetQueue(Row, frozen=True, array_like=True):
    """An operator's word on a queue: paused or not, and what holds in place of its definition. ``seen`` as above."""

    op = "set_queues"
    queue: str
    paused: bool
    override: str | None
    by: str
    seen: int
    at: int
