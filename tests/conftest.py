"""What every test gets: a clean environment and hypothesis without deadlines. Nothing about Relight itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.postgres import Server

# No test is timed, so no example has a deadline. Where CI is set a red run must be about the change alone: the same
# examples each time. `RELIGHT_TEST_PROFILE=thorough` looks harder.
hypothesis.settings.register_profile("short", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("RELIGHT_TEST_PROFILE", "short"))


def pytest_configure(config: pytest.Config) -> None:
    """Drop the settings of whoever runs the tests: every engine keyword can also come from `RELIGHT_<NAME>`."""
    for name in [*os.environ]:
        if name.startswith("RELIGHT_") and not name.startswith("RELIGHT_TEST_"):
            del os.environ[name]
    # Engines on a server keep their lock files in a folder of the user.
    os.environ["XDG_STATE_HOME"] = state = tempfile.mkdtemp(prefix="rl-state-")
    config.add_cleanup(lambda: shutil.rmtree(state, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about a SQLite file where the store is a server's (tests/stores.py)."""
    if os.environ.get("RELIGHT_TEST_STORE") != "postgresql":
        return
    about_files = [item for item in items if item.get_closest_marker("sqlite_file")]
    items[:] = [item for item in items if item not in about_files]
    config.hook.pytest_deselected(items=about_files)


@pytest.fixture(scope="session")
def postgres() -> Server:
    """The PostgreSQL server of this process of the tests."""
    from tests.postgres import own_server

    return own_server()


@pytest.fixture(scope="session")
def database(postgres: Server) -> str:
    """A database in it. Tests that want an empty store take a schema of their own."""
    return postgres.new_database()
