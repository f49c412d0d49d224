"""A claim costs a few probes, whatever is stored and however many keys stand in line: counted in rows looked at, not in time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import apsw
import pytest

from relight.conformance.world import World
from relight.engine.claimer import MAX_CLAIMS, Room, Served, find_candidates
from relight.ids import EngineId
from relight.store.sqlite import SqliteStore

FINISHED, QUEUED, KEYS = 20_000, 10_000, 2_000
MANY_FINISHED, MANY_QUEUED, MANY_KEYS = 1_000_000, 100_000, 20_000


_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) "
_INTO = (
    "INSERT INTO jobs (job_id, kind, state, status_reason, queue, priority, ready_at, claimable, partition_key, inputs_hash, "
    "trace_id, metrics, created_at, updated_at, completed_at, inputs) "
)
_ENDED = "SELECT printf('a%012d', i), 'census', 'completed', '', 'fair', 0, NULL, 0, 'k' || (i % 97), '', '', '{}', 0, 0, 1, '{}' FROM n"
_FAIR = (
    "SELECT printf('b%012d', i), 'census', 'queued', '', 'fair', i % 3, i, 1, 'k' || (i * 7919 % :keys), '', '', '{}', 0, 0, NULL, "
    "'{}' FROM n"
)
_PLAIN = "SELECT printf('c%012d', i), 'census', 'queued', '', 'plain', i % 3, i, 1, NULL, '', '', '{}', 0, 0, NULL, '{}' FROM n"


def fill(path: Path, finished: int, queued: int, keys: int) -> None:
    """Put jobs into a store by the thousand, behind its back."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA synchronous = OFF")
    for count, rows in ((finished, _ENDED), (queued, _FAIR), (queued, _PLAIN)):
        db.execute(_NUMBERS + _INTO + rows, {"count": count, "keys": keys})
    db.close()


def claims(store: SqliteStore, slots: int, *consume: str) -> list[Any]:
    """Decide what an engine with so many slots claims."""
    found = find_candidates(
        store,
        EngineId("me"),
        served=Served({("census", None): False}, {"census": None}),
        consume=consume or None,
        room=Room(slots, 0, False),
        now_ms=1,
        set_aside=lambda table, aside: None,
    )
    return list(found.candidates)


def work(store: SqliteStore, slots: int, queue: str) -> int:
    """Return how many steps of its virtual machine the database takes to decide a claim, in hundreds."""
    seen = 0

    def count() -> bool:
        nonlocal seen
        seen += 1
        return False

    with store.reading():
        pass
    connections = list(store._idle)
    for db in connections:
        db.set_progress_handler(count, 100)
    claims(store, slots, queue)
    for db in connections:
        db.set_progress_handler(None)
    return seen


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SqliteStore]]:
    folder = tmp_path_factory.mktemp("fast")
    made: dict[str, SqliteStore] = {}
    for name, sizes in {"small": (10, 1_000, 200), "large": (FINISHED, QUEUED, KEYS)}.items():
        path = folder / f"{name}.db"
        with World(lambda path=path: SqliteStore(path, durability="process")):  # type: ignore[misc]
            pass
        fill(path, *sizes)
        made[name] = SqliteStore(path, durability="process")
        made[name].open(create=False)
    yield made
    for store in made.values():
        store.close()


@pytest.mark.parametrize("queue", ["fair", "plain"])
@pytest.mark.parametrize("slots", [1, 10, 100])
def test_what_is_stored_does_not_make_a_claim_dearer(stores: dict[str, SqliteStore], slots: int, queue: str) -> None:
    small, large = (work(store, slots, queue) for store in stores.values())
    assert 0 < large <= small * 1.5 + 5, (small, large)
    assert large <= 30 + 6 * slots, "a few probes for each job"


def test_a_claim_takes_one_job_of_each_key_while_there_are_keys(stores: dict[str, SqliteStore]) -> None:
    fair = [each.job for each in claims(stores["large"], MAX_CLAIMS, "fair")]
    assert len(fair) == MAX_CLAIMS
    assert len({job.partition_key for job in fair}) == len(fair)
    assert {job.priority for job in fair} == {2}


@pytest.mark.slow
def test_a_million_finished_and_a_hundred_thousand_queued_do_not_slow_a_claim(
    stores: dict[str, SqliteStore], tmp_path: Path
) -> None:
    path = tmp_path / "huge.db"
    with World(lambda: SqliteStore(path, durability="process")):
        pass
    fill(path, MANY_FINISHED, MANY_QUEUED, MANY_KEYS)
    huge = SqliteStore(path, durability="process")
    huge.open(create=False)
    try:
        for slots, queue in product((1, 100), ("fair", "plain")):
            small, large = work(stores["small"], slots, queue), work(huge, slots, queue)
            assert 0 < large <= small * 1.5 + 5, (small, large)
    finally:
        huge.close()
