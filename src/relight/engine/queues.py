"""Queues as an engine brings them: at its start it writes its definitions. The last start wins, aloud.

A definition that differs from the one in the store replaces it, with an event and a warning that names both; an operator's
override stays in force over whatever code says. Read next: ``core/terms.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from relight.clock import to_datetime
from relight.core.commands.queues import DefineQueue, differs
from relight.core.commands.steering import system
from relight.core.terms import changed_terms, definition_of, term_words
from relight.errors import Conflict, Fenced
from relight.ids import EngineId
from relight.model import QueueRecord
from relight.store.journal import Journal
from relight.store.store import Store

TRIES = 8
"""How often a definition is written anew when the queue keeps changing."""

_log = logging.getLogger("relight")


def define_queues(
    store: Store,
    journal: Journal,
    queues: Sequence[QueueRecord],
    *,
    by: str,
    engine_id: EngineId,
    patience_seconds: float,
) -> None:
    """Write the definitions that are news to the store. Events: ``queue_changed`` for each of them."""
    for queue in queues:
        for attempt in range(TRIES):
            with store.reading() as reads:
                seen = next((q for q in reads.queues() if q.queue == queue.queue), None)
            if not differs(queue, seen):
                break
            command = DefineQueue(queue=queue, seen=seen, by=by, who=system(engine_id))
            try:
                journal.execute(command, patience_seconds=patience_seconds)
            except Fenced:
                raise
            except Conflict:  # another engine starts in the same moment, or an operator acts
                if attempt == TRIES - 1:
                    raise
                continue
            if seen is not None and seen.defined_by is not None:
                _log.warning("%s", queue_changed_text(queue, seen, by))
            break


def queue_changed_text(queue: QueueRecord, seen: QueueRecord, by: str) -> str:
    """Say that a definition replaced another one, and whose."""
    now = definition_of(queue)
    terms = changed_terms(definition_of(seen), now)
    before = {name: definition_of(seen)[name] for name in terms}
    at = f"{to_datetime(seen.defined_at):%Y-%m-%d %H:%M} UTC" if seen.defined_at is not None else "earlier"
    return (
        f"QueueChanged: {queue.queue} had {term_words(before)} (engine {seen.defined_by}, {at}), now {term_words(terms)} ({by}). "
        "The last start wins; relight queues shows both"
    )
