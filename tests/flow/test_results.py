"""Waiting for a job's result, while the job does not stand still."""

from __future__ import annotations

import asyncio
import threading

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
