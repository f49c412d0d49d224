"""The pytest plugin: found by its entry point, free when unused, and its engines are audited."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from tests.test_imports import brought_by

GOOD = """
from relight import ask, sleep, step, workflow
from relight.testing import drain


@workflow
def naps() -> str:
    sleep(3600)
    return ask("Go?").choice


def test_it(relight_engine, relight_store, relight_clock):
    began = relight_clock.now()
    engine = relight_engine(naps)
    job = engine.submit(naps)
    drain(engine)
    job.answer("approve", by="ann")
    assert job.result(timeout_seconds=20) == "approve"
    assert (relight_clock.now() - began).total_seconds() >= 3600
    assert engine.settings.store == relight_store
"""

BAD = """
import apsw
from tests_flow import naps


def test_it(relight_engine, relight_store):
    relight_engine(naps).submit(naps)
    db = apsw.Connection(relight_store)
    db.execute("UPDATE jobs SET state = 'completed'")
    db.close()
"""

FLOW = """
from relight import wait_signal, workflow


@workflow
def naps() -> str:
    return wait_signal("go", type=str)
"""


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("test_it.py").write_text(test)
    folder.joinpath("tests_flow.py").write_text(FLOW)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_its_fixtures_are_there_for_everybody(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_engine_that_leaves_a_store_wrong_fails_its_test(tmp_path: Path) -> None:
    done = run(tmp_path, BAD)
    assert done.returncode == 1
    assert "relight verify: I-" in done.stdout


def test_it_costs_nothing_when_it_is_not_used() -> None:
    assert [each.value for each in entry_points(group="pytest11", name="relight")] == ["pytest_relight"]
    assert "relight" not in brought_by("import pytest_relight")


def test_relight_does_not_need_pytest() -> None:
    assert "pytest" not in brought_by("import relight, relight.testing")
