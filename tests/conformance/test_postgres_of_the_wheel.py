"""The same promises on the PostgreSQL that the wheel brings: another version than the system's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgres import Server, wheel

from relight.conformance import *  # noqa: F403
from relight.conformance import StoreFactory
from relight.store.postgres import PostgresStore

pytestmark = pytest.mark.slow  # the whole suite a second time


@pytest.fixture(scope="module")
def newer() -> Iterator[tuple[Server, str]]:
    server = Server(wheel())
    yield server, server.new_database()
    server.stop()


@pytest.fixture
def store_factory(newer: tuple[Server, str]) -> StoreFactory:
    server, database = newer
    address = server.emptied(database)
    return lambda: PostgresStore(address, durability="process")
