from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recorder.build import World
from tests.stores import new_store

from relight.errors import StorageUnavailable
from relight.recorder.follow import follow
from relight.store.reads import EventFilter


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(new_store(tmp_path))
    yield world
    world.close()


def test_the_whole_log_is_given_in_order_and_then_it_ends(world: World) -> None:
    client = world.client()
    for _ in range(5):
        client.submit()
    pages = list(follow(world.store, page=2))
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [event.seq for page in pages for event in page] == [1, 2, 3, 4, 5, 6]


def test_an_empty_log_gives_no_page(world: World) -> None:
    assert list(follow(world.store)) == []


def test_what_is_written_while_it_waits_is_given_next_and_once(world: World) -> None:
    client = world.client()
    client.submit()
    reached: list[int] = []

    def wait(seq: int) -> bool:
        reached.append(seq)
        if len(reached) < 4:
            client.submit()
        return len(reached) < 5

    seqs = [event.seq for page in follow(world.store, wait=wait) for event in page]
    assert seqs == [1, 2, 3, 4, 5]
    assert reached == [2, 3, 4, 5, 5]


def test_it_goes_on_from_a_place(world: World) -> None:
    client = world.client()
    for _ in range(3):
        client.submit()
    [page] = follow(world.store, EventFilter(after=2, limit=0))
    assert [event.seq for event in page] == [3, 4]


def test_filters_choose_and_the_place_still_moves_to_the_end(world: World) -> None:
    client = world.client()
    job = client.submit()
    for _ in range(5):
        client.submit()
    reached: list[int] = []

    def wait(seq: int) -> bool:
        reached.append(seq)
        return False

    [page] = follow(world.store, EventFilter(job_id=job.job_id, limit=0), wait=wait)
    assert [event.type for event in page] == ["job_accepted"]
    assert reached == [7]


def test_a_limit_ends_it_without_a_wait(world: World) -> None:
    client = world.client()
    for _ in range(5):
        client.submit()
    which = EventFilter(types=("job_accepted",), limit=3)
    pages = list(follow(world.store, which, page=2, wait=lambda seq: pytest.fail("nothing to wait for")))
    assert [len(page) for page in pages] == [2, 1]


def test_a_full_last_page_is_followed_by_a_look_and_not_by_an_empty_page(world: World) -> None:
    client = world.client()
    client.submit()
    assert [len(page) for page in follow(world.store, page=2)] == [2]


def test_no_read_is_open_between_pages(world: World) -> None:
    client = world.client()
    for _ in range(4):
        client.submit()
    pages = follow(world.store, page=1)
    next(pages)
    client.submit()  # would wait for nobody: readers never block, but the snapshot of an open read would hide it
    assert sum(len(page) for page in pages) == 5


def test_a_store_that_cannot_be_read_says_so(world: World) -> None:
    world.client().submit()
    pages = follow(world.store, page=1)
    next(pages)
    world.close()
    with pytest.raises(StorageUnavailable):
        next(pages)
