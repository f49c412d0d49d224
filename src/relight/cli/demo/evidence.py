"""What the store says, read by the driver's process over a read-only connection of its own.

Only a few columns of ``steps``, ``jobs`` and ``events`` are read, with apsw (never a second SQLite library). A
connection lives for one question: a long reader would pin the write-ahead log. Read next: ``driver.py``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from relight.cli.demo.witness import StepId
from relight.model import PUBLISHING_STATES, StepKind, StepState

if TYPE_CHECKING:
    import apsw

BUSY_MS = 10_000


class Tally(msgspec.Struct, frozen=True):
    """What recovery did to a set of jobs, and how many events there are in all."""

    stalled: int = 0
    resumed: int = 0
    in_doubt: int = 0
    events: int = 0


@contextmanager
def _reading(store: str) -> Iterator[apsw.Connection]:
    import apsw

    connection = apsw.Connection(store, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(BUSY_MS)
        with connection:
            yield connection
    finally:
        connection.close()


def _rows(store: str, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    with _reading(store) as connection:
        return list(connection.execute(sql, tuple(values)))


def last_seq(store: str) -> int:
    """Return the number of the newest event; 0 when there is no store yet."""
    if not os.path.exists(store) or not _rows(store, "SELECT 1 FROM sqlite_schema WHERE name = 'events'"):
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
        doubts = (
            "SELECT e.job_id, json_array_length(e.payload, '$.in_doubt_steps') FROM events AS e"
            " WHERE e.seq > ? AND e.type = 'workflow_recovery'"
        )
        for job_id, count in connection.execute(doubts, (after_seq,)):
            if jobs is None or job_id in jobs:
                kinds["in_doubt"] += count or 0
    return Tally(kinds["workflow_recovery"], kinds["job_resumed"], kinds["in_doubt"], kinds["events"])


def most_stalled(store: str, after_seq: int, jobs: frozenset[str]) -> str | None:
    """Return the job that was stalled most often, the earliest of equals; None when none was."""
    stalls = (
        "SELECT job_id FROM events WHERE seq > ? AND type = 'workflow_recovery'"
        " GROUP BY job_id ORDER BY count(*) DESC, min(seq)"
    )
    return next((job_id for (job_id,) in _rows(store, stalls, (after_seq,)) if job_id in jobs), None)
