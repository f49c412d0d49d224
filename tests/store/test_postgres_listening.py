"""Hints between processes: what is announced, to whom, and what happens when nobody hears it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.flow.kit import eventually
from tests.postgres import Server, new_schema

from relight.conformance.world import World
from relight.store.postgres import PostgresStore, listening
from relight.store.postgres.store import FLOOR_MS


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> str:
    """A store whose watchers hardly ever ask of their own accord: what they notice, they were told."""
    monkeypatch.setattr("relight.store.postgres.store.FLOOR_MS", 60_000)
    return new_schema()


@pytest.fixture
def world(address: str) -> Iterator[World]:
    with World(lambda: PostgresStore(address, durability="process")) as made:
        yield made


def listening_pids(postgres: Server) -> list[int]:
    """Return the server's processes that serve who listens."""
    with psycopg.connect(postgres.address("postgres"), autocommit=True) as db:
        rows = db.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'ClientRead'",
            (listening.NAME,),
        ).fetchall()
    return [pid for (pid,) in rows]


def quiet(token: Callable[[], int]) -> int:
    """Return the token once it listens and nothing is on its way."""
    last = token()
    unchanged = 0
    while unchanged < 50:
        threading.Event().wait(0.002)
        now = token()
        unchanged = unchanged + 1 if now == last else 0
        last = now
    return last


def listens(store: PostgresStore) -> bool:
    return store._listener is not None and store._listener.well


def watching(world: World) -> Callable[[], int]:
    store = world.open_store()
    assert isinstance(store, PostgresStore)
    token = store.watch()
    token()
    eventually(lambda: listens(store), "it listens")
    return token


def test_a_commit_that_makes_something_claimable_is_heard_without_asking(world: World) -> None:
    client = world.client()
    client.submit()
    token = watching(world)
    for _ in range(3):
        seen = quiet(token)
        client.submit()
        eventually(lambda seen=seen: token() != seen, "it hears")


def test_what_nobody_waits_for_is_not_announced(world: World) -> None:
    engine = world.open_engine()
    run = engine.run_new()
    token = watching(world)
    seen = quiet(token)
    engine.begin(run, "a#0")
    assert quiet(token) == seen
    engine.finish(run)
    eventually(lambda: token() != seen, "an end is announced")


def test_a_store_s_own_commits_do_not_wake_it(world: World) -> None:
    client = world.client()
    client.submit()
    assert isinstance(client.store, PostgresStore)
    token = client.store.watch()
    token()
    eventually(lambda: listens(client.store), "it listens")
    seen = quiet(token)
    client.submit()
    assert quiet(token) == seen


def test_all_stores_of_a_process_share_one_connection_and_the_last_one_ends_it(postgres: Server, address: str) -> None:
    assert address.startswith(postgres.address("")[:20])
    before = set(listening_pids(postgres))
    stores = [PostgresStore(address, durability="process") for _ in range(4)]
    for store in stores:
        store.open(create=True)
        store.watch()()
    eventually(lambda: all(map(listens, stores)), "they listen")
    eventually(lambda: len(set(listening_pids(postgres)) - before) == 1, "one connection")
    for store in stores:
        store.close()
    eventually(lambda: not set(listening_pids(postgres)) - before, "it is gone")


def test_a_dead_connection_is_noticed_and_made_anew_and_everybody_looks_once(postgres: Server, world: World) -> None:
    client = world.client()
    client.submit()
    token = watching(world)
    seen = quiet(token)
    [pid] = listening_pids(postgres)
    with psycopg.connect(postgres.address("postgres"), autocommit=True) as db:
        db.execute("SELECT pg_terminate_backend(%s)", (pid,))
    eventually(lambda: token() != seen, "something may have been missed")
    eventually(lambda: [p for p in listening_pids(postgres) if p != pid], "it listens again")
    seen = quiet(token)
    client.submit()
    eventually(lambda: token() != seen, "it hears again")


def test_turned_off_nothing_is_announced_and_the_server_is_asked_each_time(postgres: Server, address: str) -> None:
    off = f"{address}{'&' if '?' in address else '?'}notify=off"
    before = set(listening_pids(postgres))
    with World(lambda: PostgresStore(off, durability="process")) as world:
        client = world.client()
        client.submit()
        store = world.open_store()
        assert not store.capabilities.notifies
        token = store.watch()
        seen = token()
        client.submit()
        assert token() != seen
        assert set(listening_pids(postgres)) == before


def test_the_floor_is_there_for_what_was_not_said() -> None:
    assert 20 <= FLOOR_MS <= 200
    off_by_one_side = new_schema()
    with World(lambda: PostgresStore(off_by_one_side, durability="process")) as world:
        world.client().submit()
        token = watching(world)
        seen = quiet(token)
        silent = PostgresStore(f"{off_by_one_side}&notify=off", durability="process")
        silent.open(create=False)
        silent.put_blob("hash", "1", 1)
        eventually(lambda: token() != seen, "it asks now and then")
        silent.close()
