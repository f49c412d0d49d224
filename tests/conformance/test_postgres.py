"""The store's promises, kept by PostgreSQL."""

from __future__ import annotations

import pytest
from tests.postgres import Server

from relight.conformance import *  # noqa: F403
from relight.conformance import StoreFactory
from relight.store.postgres import PostgresStore


@pytest.fixture
def store_factory(postgres: Server, database: str) -> StoreFactory:
    address = postgres.emptied(database)
    return lambda: PostgresStore(address, durability="process")
