"""The same promises while another process writes to the same file all the time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relight.conformance import *  # noqa: F403
from relight.conformance import StoreFactory
from relight.store.sqlite import SqliteStore

pytestmark = pytest.mark.slow  # the whole suite a second time, and the neighbour needs a core of its own


@pytest.fixture(scope="module")
def neighbour() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("neighbour.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        yield process


@pytest.fixture
def store_factory(tmp_path: Path, neighbour: subprocess.Popen[str]) -> Iterator[StoreFactory]:
    assert neighbour.stdin is not None and neighbour.stdout is not None
    path = tmp_path / "relight.db"
    neighbour.stdin.write(f"{path}\n")
    assert neighbour.stdout.readline() == "writing\n"
    yield lambda: SqliteStore(path, durability="process")
    neighbour.stdin.write("\n")
    assert int(neighbour.stdout.readline()) >= 0
