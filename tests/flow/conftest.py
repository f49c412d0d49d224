"""One rig for each test: whatever the test did, ``relight verify`` finds nothing wrong with its store afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flow.kit import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    try:
        yield rig
    finally:
        rig.close()
    if rig.must_verify:
        rig.verify()
