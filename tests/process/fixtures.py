"""Fixtures for tests that start engines: imported by name, since several folders use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.process import flows
from tests.process.children import Place, crashed
from tests.stores import on_postgresql

from relight import Engine


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty place; every process that a test starts on it has ended when the test has."""
    made = Place(tmp_path)
    flows.witness.path, flows.witness.store = made.witness.path, made.store
    for door in flows.doors.values():
        door.shut()
    yield made
    for door in flows.doors.values():
        door.open()
    made.close()


@pytest.fixture
def in_process(place: Place) -> Iterator[Callable[..., Engine]]:
    """Start engines in the test's own process; they are stopped with it, and whatever their steps wait for is opened."""
    started: list[Engine] = []

    def start(*, probe: Callable[[str], None] | None = None, **options: Any) -> Engine:
        options.setdefault("workflows", flows.ALL)
        engine = Engine(place.store, **options)
        engine.probe = probe
        started.append(engine)
        return engine.start()

    yield start
    for door in flows.doors.values():
        door.open()
    for engine in started:
        engine.stop(drain_seconds=20)


@pytest.fixture(scope="session")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str, int], tuple[Place, list[str]]]:
    """Copies of a store whose engine was killed in the middle of jobs: killed once for each shape, then copied."""
    made: dict[tuple[str, int], tuple[Place, list[str]]] = {}

    def copy(folder: Path, kind: str, numbers: int) -> tuple[Place, list[str]]:
        if on_postgresql():  # a server's schema is not copied
            place = Place(folder)
            ids = crashed(place, kind, numbers)
            place.close()
            return place, ids
        if (kind, numbers) not in made:
            original = Place(tmp_path_factory.mktemp("wreck"))
            ids = crashed(original, kind, numbers)
            original.close()
            made[kind, numbers] = original, ids
        original, ids = made[kind, numbers]
        return original.copy_to(folder), ids

    return copy
