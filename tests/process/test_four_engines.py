"""Four engines in four processes on one PostgreSQL store, one of them killed: what must hold over all of them (I-27)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.postgres import new_schema, own_database, own_server
from tests.process import flows
from tests.process.children import Place

from relight import Client
from relight.model import EventRecord, JobState

ENGINES, JOBS = 4, 2_000
NARROW, SLOTS = 900, 7
PACED, RATE, PER_SECONDS = 300, 100, 1.0
KEYS = ("a", "b", "c")
QUEUES = {"narrow": {"slots": SLOTS}, "paced": {"rate": [RATE, PER_SECONDS]}}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.store = flows.witness.store = new_schema()
    flows.witness.path = made.witness.path
    yield made
    made.close()


def deadlocks() -> int:
    with psycopg.connect(own_server().address(own_database()), autocommit=True) as db:
        db.execute("SELECT pg_stat_clear_snapshot()")
        row = db.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def most_at_once(events: list[EventRecord], ids: set[str]) -> int:
    """How many of these jobs ran at the same time, at most. A start's number is given after the ends that it counted."""
    running: set[str] = set()
    most = 0
    for event in events:
        if event.job_id not in ids:
            continue
        if event.type == "run_started":
            assert event.job_id not in running, "claimed twice"
            running.add(event.job_id)
        elif event.type in ("job_completed", "job_failed", "run_suspended", "workflow_recovery"):
            running.discard(event.job_id)
        most = max(most, len(running))
    return most


def submitted(place: Place) -> dict[str, set[str]]:
    """Submit all jobs; return their ids by queue."""
    ids: dict[str, set[str]] = {}
    with Client(place.store, workflows=flows.ALL) as client:
        for queue, count in (("narrow", NARROW), ("paced", PACED), ("default", JOBS - NARROW - PACED)):
            keys = KEYS if queue == "default" else (None,)
            calls = [
                flows.count_up.bind(n).options(queue=queue, partition_key=keys[n % len(keys)]) for n in range(count)
            ]
            ids[queue] = {job.id for job in client.submit_many(calls)}
    return ids


@pytest.mark.slow
def test_limits_hold_and_nothing_is_claimed_twice_or_lost_when_one_of_four_is_killed(place: Place) -> None:
    engines = [place.engine(queues=QUEUES, slots=50) for _ in range(ENGINES)]
    before = deadlocks()
    ids = submitted(place)
    place.ended(JOBS // 8)
    engines.pop().kill()
    place.ended(JOBS)
    events = place.events()
    started = [event for event in events if event.type == "run_started"]
    assert place.states() == {JobState.COMPLETED: JOBS}
    assert len({event.writer_id for event in started}) >= ENGINES - 1, "the work was shared"
    for queue in ids.values():
        most_at_once(events, queue)
    assert most_at_once(events, ids["narrow"]) <= SLOTS
    runs = Counter(event.job_id for event in started)
    again = {event.job_id for event in events if event.type == "workflow_recovery"}
    assert all(runs[job_id] == 1 + (job_id in again) for job_id in runs)
    paced = [event.ts for event in started if event.job_id in ids["paced"]]
    assert max(paced) - min(paced) >= (PACED // RATE - 1) * PER_SECONDS * 1000 * 0.9, "not all at once"
    assert deadlocks() == before
    place.assert_sound()
