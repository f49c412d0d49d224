"""Kill everywhere: after SIGKILL at any durable boundary and a restart, everything comes out as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("everywhere.py")


def run_points(*options: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(f"killed at {result['points']} points, {result['runs']} runs")
    return result


@pytest.mark.timeout(300)
def test_a_kill_at_every_fourth_boundary_leaves_nothing_wrong() -> None:
    result = run_points("--every", "4")
    assert result["found"] == []
    assert isinstance(result["points"], int) and result["points"] >= 10


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_kill_at_every_boundary_leaves_nothing_wrong() -> None:
    result = run_points()
    assert result["found"] == []
    assert isinstance(result["points"], int) and result["points"] >= 50


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_kill_at_every_boundary_and_again_in_the_recovery_leaves_nothing_wrong() -> None:
    result = run_points("--nested")
    assert result["found"] == []
    assert isinstance(result["points"], int) and result["points"] >= 50
