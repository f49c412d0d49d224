"""A fan-out that tolerates failures, in an engine that is killed three times: exact outcomes, and progress that never goes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually
from tests.process import fanned

from relight import start, step, workflow
from relight.model import JobState

ROOT = Path(__file__).parents[2]
SIZES = [pytest.param(200, id="200"), pytest.param(5000, id="5000", marks=pytest.mark.slow)]


class Watch:
    """Reads a job's progress, and checks that it never goes back."""

    def __init__(self, rig: Rig, job: Any) -> None:
        self.rig = rig
        self.job = job
        self.done = self.failed = 0

    def look(self) -> int:
        told = msgspec.json.decode(self.rig.row(self.job).progress or "{}")
        done, failed = int(told.get("done") or 0), int(told.get("failed") or 0)
        assert done >= self.done and failed >= self.failed, (told, self.done, self.failed)
        self.done, self.failed = done, failed
        return done


@pytest.mark.parametrize("items", SIZES)
@pytest.mark.parametrize("kind", [fanned.fan, fanned.afan], ids=["sync", "async"])
def test_killed_three_times_its_outcomes_are_exact_and_its_progress_never_goes_back(
    rig: Rig, kind: Any, items: int
) -> None:
    rig.stop(rig.start(fanned.fan, fanned.afan))  # an engine makes the store
    client = rig.client(workflows=[fanned.fan, fanned.afan])
    job = client.submit(kind, items)
    watch = Watch(rig, job)
    for kill in (1, 2, 3):
        command = [sys.executable, "-m", "tests.process.fanned", rig.path]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None and process.stdout.readline() == "started\n"
            eventually(lambda kill=kill: watch.look() >= items * kill // 5, "progress", seconds=120)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        assert rig.row(job).completed_at is None
    engine = rig.start(fanned.fan, fanned.afan)
    eventually(lambda: watch.look() >= 0 and rig.row(job).completed_at, "ended", seconds=120)
    assert engine.job(job.id).result(timeout_seconds=10) == fanned.expected(items)
    assert watch.look() == items and watch.failed == items // fanned.BAD_OF
    row = rig.row(job)
    assert row.state is JobState.COMPLETED_WITH_ISSUES
    assert len(msgspec.json.decode(row.issues or "")) == items // fanned.BAD_OF
    finished = rig.told(job, "step_finished")
    assert len(finished) == items - items // fanned.BAD_OF  # P6: none of them ran twice
    assert job.info().progress.note == f"check ({items // 50} failed, up to {items // 50} allowed)"


@step
def double(n: int) -> int:
    return 2 * n


@workflow
def one(n: int) -> int:
    return double(n)


@workflow
def family(count: int) -> int:
    return len(start(one.bind(n) for n in range(count)))


@workflow
async def afamily(count: int) -> int:
    return len(await start.aio(one.bind(n) for n in range(count)))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", [family, afamily], ids=["sync", "async"])
def test_many_children_are_started_in_one_transaction(rig: Rig, kind: Any, count: int) -> None:
    engine = rig.start(kind, one, queues=(), slots=1)
    job = engine.submit(kind, count)
    assert job.result(timeout_seconds=120) == count
    ids = msgspec.json.decode(rig.steps(job)["start#0"].outcome or "")
    assert len(set(ids)) == count
    accepted = [event for event in rig.events(None, "job_accepted") if '"parent_job_id"' in event.payload]
    assert len(accepted) == count
    assert len({event.ts for event in accepted}) == 1 and len({event.writer_id for event in accepted}) == 1
    seqs = sorted(event.seq for event in accepted)
    assert seqs[-1] - seqs[0] < 2 * count  # nothing else came between: they are one batch
