"""Cells: where jobs go, where they are found, and what one that is down means for the others. On two real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.flow.kit import eventually
from tests.postgres import Server

from relight import Engine, external, start, step, workflow
from relight.cells import AsyncCells, Cells
from relight.errors import BlockingCall, ConfigError, IdempotencyMismatch, InvalidArgument, NotFound, StorageUnavailable
from relight.model import JobState


@step
def double(n: int) -> int:
    return 2 * n


@workflow
def leaf(n: int) -> int:
    return double(n)


@workflow
def parent(n: int) -> int:
    children = [start(leaf, n + i) for i in range(3)]
    return sum(child.result() for child in children)


@workflow
def waits(n: int) -> int:
    return external("word", type=int).wait() + n


WORKFLOWS = [leaf, parent, waits]


class Two:
    """Two servers, each a cell with an engine, and a database for the store of each test."""

    def __init__(self, servers: list[Server], stack: ExitStack) -> None:
        self.servers = servers
        self.stores = {name: each.address(each.new_database()) for name, each in zip("ab", servers, strict=True)}
        self.engines = {name: stack.enter_context(engine_at(store)) for name, store in self.stores.items()}

    def keys_of(self, cells: Cells, name: str) -> Iterator[str]:
        """Give cell keys that go to a cell."""
        return (key for n in range(10_000) if cells.cell_of(key := f"k{n}") == name)


def engine_at(store: str) -> Engine:
    return Engine(store, workflows=WORKFLOWS, durability="process", lease_seconds=3, suspend_after_seconds=0)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    made = [Server(), Server()]
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def two(servers: list[Server]) -> Iterator[Two]:
    with ExitStack() as stack:
        yield Two(servers, stack)


def files(folder: Path, *names: str) -> dict[str, str]:
    return {name: str(folder / f"{name}.db") for name in names}


# where a new job goes


def test_a_key_goes_where_it_always_went(tmp_path: Path) -> None:
    """These names and keys are written down: another hash would part jobs from those of an older client."""
    cells = Cells(files(tmp_path, "a", "b", "c"), workflows=WORKFLOWS)
    assert "".join(cells.cell_of(f"tenant-{n}") for n in range(12)) == "bbabbcbbaaaa"


def test_a_cell_that_is_added_takes_its_share_and_moves_nothing_else(tmp_path: Path) -> None:
    keys = [f"tenant-{n}" for n in range(3_000)]
    three, four = (Cells(files(tmp_path, *names)) for names in ("abc", "abcd"))
    before, after = ([cells.cell_of(key) for key in keys] for cells in (three, four))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"d"}
    assert 0.2 < len(moved) / len(keys) < 0.3
    assert all(0.3 < before.count(name) / len(keys) < 0.37 for name in "abc")


def test_what_can_be_no_cells_is_refused(tmp_path: Path) -> None:
    store = str(tmp_path / "a.db")
    for stores in (store, [], {}, [store, store]):
        with pytest.raises(ConfigError, match="cell|several"):
            Cells(stores)
    with pytest.raises(InvalidArgument, match="not open"):
        Cells([store]).job("x")


# on two servers


def test_jobs_run_where_their_key_says_and_their_children_beside_them(two: Two) -> None:
    with Cells(two.stores, workflows=WORKFLOWS) as cells:
        homes = {}
        for n in range(12):
            job = cells.submit(parent, n, cell_key=f"tenant-{n}")
            homes[job.id] = cells.cell_of(f"tenant-{n}")
            assert job.result(timeout_seconds=30) == 2 * (3 * n + 3)
        assert set(homes.values()) == {"a", "b"}
        for name, engine in two.engines.items():
            there = engine.jobs(limit=0)
            parents = {job.id for job in there if job.kind == "parent"}
            assert parents == {id for id, home in homes.items() if home == name}
            assert len([job for job in there if job.kind == "leaf"]) == 3 * len(parents)
        assert {job.id for job in cells.jobs(kind="parent")} == set(homes)
        newest = cells.jobs(limit=5)
        assert len(newest) == 5 and newest == sorted(newest, key=lambda job: job.id, reverse=True)


def test_a_job_is_found_in_any_cell_by_id_key_and_token(two: Two) -> None:
    with Cells(two.stores, workflows=WORKFLOWS) as cells:
        for name in "ab":
            key = next(two.keys_of(cells, name))
            job = cells.submit(waits, 1, cell_key=key, idempotency_key=f"at {name}")
            assert cells.job(job.id).state() is not None
            assert cells.job(kind="waits", idempotency_key=f"at {name}").id == job.id
            [token] = eventually(lambda name=name, job=job: tokens_of(two.engines[name], job.id))
            assert cells.complete(token, 41).counted
            assert cells.job(job.id, type=int).result(timeout_seconds=30) == 42
        with pytest.raises(NotFound, match="a, b"):
            cells.job("0" * 36)
        with pytest.raises(NotFound):
            cells.complete("no such token")


def tokens_of(engine: Engine, job_id: str) -> list[str]:
    with engine.core.store.reading() as reads:
        return [each.token for each in reads.tokens(job_id)]


def test_a_key_counts_in_all_cells_also_after_one_was_added(two: Two) -> None:
    with Cells({"a": two.stores["a"]}, workflows=WORKFLOWS) as alone:
        first = alone.submit(leaf, 1, idempotency_key="k")
    with Cells(two.stores, workflows=WORKFLOWS) as cells:
        moved = next(two.keys_of(cells, "b"))
        again = cells.submit(leaf, 1, idempotency_key="k", cell_key=moved)
        assert (again.id, again.created) == (first.id, False)
        with pytest.raises(IdempotencyMismatch):
            cells.submit(leaf, 2, idempotency_key="k", cell_key=moved)


def test_many_go_to_their_cells_and_come_back_in_order(two: Two) -> None:
    with Cells(two.stores, workflows=WORKFLOWS) as cells:
        jobs = cells.submit_many((leaf.bind(n) for n in range(40)), cell_key=lambda call: f"k{call.args[0]}")
        assert [job.result(timeout_seconds=30) for job in jobs] == [2 * n for n in range(40)]
        assert all(engine.jobs() for engine in two.engines.values())
        assert cells.submit_many([]) == []


def test_async_code_has_the_same(two: Two) -> None:
    async def use() -> None:
        async with AsyncCells(two.stores, workflows=WORKFLOWS) as cells:
            job = await cells.submit(leaf, 3, cell_key="x")
            assert await job.result(timeout_seconds=30) == 6
            assert (await (await cells.job(job.id)).state()) is JobState.COMPLETED
            many = await cells.submit_many([leaf.bind(1), leaf.bind(2)])
            assert [await each.result(timeout_seconds=30) for each in many] == [2, 4]
            assert len(await cells.jobs()) == 3
            assert set(await cells.health()) == {"a", "b"}
        with Cells(two.stores) as sync, pytest.raises(BlockingCall, match="AsyncCells"):
            sync.submit("leaf", {"n": 1})

    asyncio.run(use())


def test_one_that_is_down_stops_only_its_own_jobs(two: Two) -> None:
    with Cells(two.stores, workflows=WORKFLOWS) as cells:
        at_a, at_b = (next(two.keys_of(cells, name)) for name in "ab")
        asleep = cells.submit(waits, 1, cell_key=at_b)
        two.servers[1].control("stop", "-m", "immediate")
        try:
            with Cells(two.stores, workflows=WORKFLOWS) as late:
                for each in (cells, late):  # one that was connected before, and one that begins now
                    assert each.submit(parent, 1, cell_key=at_a).result(timeout_seconds=30) == 12
                    with pytest.raises(StorageUnavailable):
                        each.submit(leaf, 1, cell_key=at_b)
                    with pytest.raises(StorageUnavailable, match="1 of 2 cells do not answer"):
                        each.job(asleep.id)
                    with pytest.raises(StorageUnavailable, match="partial=True"):
                        each.jobs()
                    assert {job.kind for job in each.jobs(partial=True)} == {"parent", "leaf"}
                    with pytest.raises(StorageUnavailable, match="idempotency key"):
                        each.submit(leaf, 1, cell_key=at_a, idempotency_key="new")
                    with pytest.raises(StorageUnavailable, match="1 of 2 jobs were surely stored"):
                        each.submit_many(
                            [leaf.bind(7), leaf.bind(8)], cell_key=lambda call: (at_a, at_b)[call.args[0] - 7]
                        )
                    told = each.health()
                    assert "error" in told["b"] and told["a"]["role"] == "client"
            with Cells(two.stores, workflows=WORKFLOWS, fixed=True) as fixed:
                kept = fixed.submit(leaf, 1, cell_key=at_a, idempotency_key="new")
                assert kept.result(timeout_seconds=30) == 2
        finally:
            two.servers[1].start()
        [token] = eventually(lambda: tokens_of(two.engines["b"], asleep.id))
        cells.complete(token, 1)
        assert cells.job(asleep.id, type=int).result(timeout_seconds=30) == 2
        assert cells.submit(leaf, 1, cell_key=at_b).result(timeout_seconds=30) == 2
