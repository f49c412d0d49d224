"""Waiting for a job's result, while the job does not stand still."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from pathlib import Path

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import AsyncClient, step, workflow
from relight.errors import JobFailed
from relight.ids import JobId


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_who_waits_for_a_retried_job_is_not_told_of_its_end_before(rig: Rig, colour: str) -> None:
    """A look that saw the job failed may be followed by a retry before whoever waits is called: that is no end."""
    go, broken = threading.Event(), [True]

    @step
    def work() -> str:
        if broken:
            raise ValueError("broken")
        wait_for(go)
        return "done"

    @workflow
    def job() -> str:
        return work()

    done = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        done.result(timeout_seconds=10)
    broken.clear()
    done.retry(by="ada")
    got: list[object] = []

    async def wait() -> None:
        async with AsyncClient(rig.path) as client:
            found = client.job(done.id, type=str)
            cores.append(found._core)
            got.append(await found.result(timeout_seconds=20))

    cores = [done._core] if colour == "sync" else []
    waiting = threading.Thread(
        target=(lambda: got.append(done.result(timeout_seconds=20)))
        if colour == "sync"
        else lambda: asyncio.run(wait())
    )
    waiting.start()
    calls = eventually(lambda: cores and cores[0].ends._waiting.pop(JobId(done.id), None))
    for call in calls:
        call()
    eventually(lambda: got or cores[0].ends._waiting.get(JobId(done.id)))
    assert got == []
    go.set()
    waiting.join()
    assert got == ["done"]


def test_code_that_a_stopped_loop_left_standing_is_thrown_away_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, said, task = threading.Event(), [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: said.append(told.exc_value))

    @step
    async def stands() -> None:
        task.append(weakref.ref(asyncio.current_task()))
        began.set()
        while True:
            with contextlib.suppress(asyncio.CancelledError):  # deaf: only the end of its loop ends it
                await asyncio.get_running_loop().create_future()

    @workflow
    async def job() -> None:
        await stands()

    rig = Rig(tmp_path)
    engine = rig.start(job)
    engine.submit(job)
    wait_for(began)
    rig.crash(engine)
    rig.close()
    del engine, rig
    eventually(lambda: gc.collect() >= 0 and task[0]() is None, "thrown away")
    assert said == []
