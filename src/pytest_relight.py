"""Fixtures for tests of durable code: a clock, a store's place, and engines that are stopped and audited.

A plugin of pytest, found by its entry point. pytest imports this module in every run where Relight is installed, so it
lies beside the package and imports it only in fixtures that are used. ``-p no:relight`` turns it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from relight import Engine
    from relight.testing import ManualClock


@pytest.fixture
def relight_clock() -> ManualClock:
    """A ``ManualClock`` that skips the time in which everything waits."""
    from relight.testing import ManualClock

    return ManualClock()


@pytest.fixture
def relight_store(tmp_path: Path) -> str:
    """The place of a store that is not there yet, in the test's own folder."""
    return str(tmp_path / "relight.db")


@pytest.fixture
def relight_engine(relight_store: str, relight_clock: ManualClock) -> Iterator[Callable[..., Engine]]:
    """Start engines: ``relight_engine(checkout, resources=…)`` gives one that runs these workflows, its gate open.

    On ``relight_store`` and ``relight_clock``; keyword arguments are ``Engine``'s. When the test is over they are stopped, and
    ``relight verify`` must find nothing wrong with the store: the test fails in its teardown otherwise.
    """
    from relight import Engine
    from relight.recorder.verify import verify_store

    engines: list[Engine] = []

    def start(*workflows: Any, **options: Any) -> Engine:
        options = {"durability": "process", "clock": relight_clock, **options}
        engine = Engine(relight_store, workflows=workflows, **options)
        engines.append(engine.start())
        engine._wait_for_gate()
        return engine

    yield start
    for engine in reversed(engines):
        engine.stop(drain_seconds=5)
    if engines:
        report = verify_store(relight_store)
        if not report.ok:
            pytest.fail("relight verify: " + "; ".join(map(str, report.findings)), pytrace=False)
