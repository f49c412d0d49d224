"""The store's promises, kept by SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.conformance import *  # noqa: F403
from relight.conformance import StoreFactory
from relight.store.sqlite import SqliteStore


@pytest.fixture
def store_factory(tmp_path: Path) -> StoreFactory:
    return lambda: SqliteStore(tmp_path / "relight.db", durability="process")
