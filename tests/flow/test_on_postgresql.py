"""Whole jobs on PostgreSQL: what the other tests here show on a file, in a few. All of them: ``RELIGHT_TEST_STORE=postgresql``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flow.kit import Rig, wait_for

from relight import sleep, step, wait_signal, workflow
from relight.client.handles import Job


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("RELIGHT_TEST_STORE", "postgresql")
    rig = Rig(tmp_path)
    yield rig
    rig.close()
    rig.verify()


def test_a_job_runs_and_its_result_is_read(rig: Rig) -> None:
    @step
    def double(x: int) -> int:
        return 2 * x

    @workflow
    def job(x: int) -> int:
        return double(double(x))

    assert rig.path.startswith("postgresql://")
    assert rig.start(job).submit(job, 3).result(timeout_seconds=20) == 12


def test_after_a_crash_nothing_finished_runs_again(rig: Rig) -> None:
    calls: list[str] = []
    crashed, begun = threading.Event(), threading.Event()

    @step
    def first() -> int:
        calls.append("first")
        return 1

    @step
    def second() -> int:
        calls.append("second")
        if not crashed.is_set():
            begun.set()
            threading.Event().wait(20)
        return 2

    @workflow
    def job() -> int:
        return first() + second()

    engine = rig.start(job)
    handle: Job[int] = engine.submit(job)
    wait_for(begun)
    rig.until_recorded(handle, "second#0", "running")
    crashed.set()
    rig.restart(engine, job)
    assert rig.client().job(handle.id).result(timeout_seconds=20) == 3
    assert calls == ["first", "second", "second"]
    told = rig.told(handle)
    assert told.count("workflow_recovery") == 1 and told.count("job_accepted") == 1


def test_a_job_that_was_put_away_hears_its_signal_from_another_client(rig: Rig) -> None:
    @workflow
    def job() -> str:
        sleep(0.001)
        return wait_signal("word", type=str)

    handle = rig.start(job).submit(job)
    rig.until_put_away(handle)
    rig.client().job(handle.id).signal("word", "go on")
    assert handle.result(timeout_seconds=20) == "go on"
