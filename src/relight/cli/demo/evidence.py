"""What the store says, read by the driver's process over a connection of its own, past everything that is to be proved.

Only a few columns of ``steps``, ``jobs`` and ``events`` are read, with apsw (never a second SQLite library) or psycopg. A
connection lives for one question: a long reader would pin the write-ahead log. Read next: ``driver.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from relight.cli.demo.witness import StepId
from relight.model import PUBLISHING_STATES, StepKind, StepState

if TYPE_CHECKING:
    from relight.store.postgres import PostgresStore

BUSY_MS = 10_000


class Tally(msgspec.Struct, frozen=True):
    """What recovery did to a set of jobs, and how many events there are in all."""

    stalled: int = 0
    resumed: int = 0
    in_doubt: int = 0
    events: int = 0


class _Connection(Protocol):
    def execute(self, sql: str, values: tuple[Any, ...] = ..., /) -> Iterable[tuple[Any, ...]]: ...


@contextmanager
def _reading(store: str) -> Iterator[_Connection]:
    if is_server(store):
        with _on_server(store) as found:
            yield found
        return
    import apsw

    connection = apsw.Connection(store, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(BUSY_MS)
        with connection:
            yield connection
    finally:
        connection.close()


@contextmanager
def _on_server(address: str) -> Iterator[_Connection]:
    from relight.store.open import store_at

    server = cast("PostgresStore", store_at(address))
    with server.looking() as look:

        class Asking:
            """Takes parameters as SQLite does."""

            def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> Iterable[tuple[Any, ...]]:
                return look(sql.replace("?", "%s"), values)

        yield Asking()


def is_server(store: str) -> bool:
    """Tell whether a store is a server's and not a file."""
    return store.startswith(("postgresql://", "postgres://"))


def _rows(store: str, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    with _reading(store) as connection:
        return list(connection.execute(sql, tuple(values)))


def last_seq(store: str) -> int:
    """Return the number of the newest event; 0 when there is no store yet."""
    if is_server(store):
        there = _rows(store, "SELECT to_regclass('events') IS NOT NULL")[0][0]
    else:
        there = os.path.exists(store) and _rows(store, "SELECT 1 FROM sqlite_schema WHERE name = 'events'")
    if not there:
        return 0
    return int(_rows(store, "SELECT coalesce(max(seq), 0) FROM events")[0][0])


def finished_steps(store: str) -> frozenset[StepId]:
    """Return every step whose outcome is recorded. Ask when the engine is dead: then the answer stands still."""
    recorded = "SELECT job_id, step_key FROM steps WHERE kind = ? AND state = ?"
    rows = _rows(store, recorded, (StepKind.STEP, StepState.COMPLETED))
    return frozenset((job_id, step_key) for job_id, step_key in rows)


def completed_jobs(store: str) -> frozenset[str]:
    """Return the jobs that have ended with outputs."""
    done = sorted(PUBLISHING_STATES)
    return frozenset(job_id for (job_id,) in _rows(store, "SELECT job_id FROM jobs WHERE state IN (?, ?)", done))


def count_events(store: str, after_seq: int, jobs: frozenset[str] | None = None) -> Tally:
    """Count what was recorded after an event; stalls, resumes and doubts only of ``jobs`` when they are given."""
    kinds: Counter[str] = Counter()
    with _reading(store) as connection:
        ours = "SELECT type, job_id, count(*) FROM events WHERE seq > ? GROUP BY type, job_id"
        for kind, job_id, count in connection.execute(ours, (after_seq,)):
            kinds["events"] += count
            if jobs is None or job_id in jobs:
                kinds[kind] += count
        told = "SELECT job_id, payload FROM events WHERE seq > ? AND type = 'workflow_recovery'"
        for job_id, payload in connection.execute(told, (after_seq,)):
            if jobs is None or job_id in jobs:
                kinds["in_doubt"] += len(msgspec.json.decode(payload)["in_doubt_steps"] or ())
    return Tally(kinds["workflow_recovery"], kinds["job_resumed"], kinds["in_doubt"], kinds["events"])


def most_stalled(store: str, after_seq: int, jobs: frozenset[str]) -> str | None:
    """Return the job that was stalled most often, the earliest of equals; None when none was."""
    stalls = (
        "SELECT job_id FROM events WHERE seq > ? AND type = 'workflow_recovery'"
        " GROUP BY job_id ORDER BY count(*) DESC, min(seq)"
    )
    return next((job_id for (job_id,) in _rows(store, stalls, (after_seq,)) if job_id in jobs), None)
