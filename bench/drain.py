"""W4: an engine finds many queued jobs that do nothing; and an idle engine picks up one, how soon?

Pickup counts from just before ``submit`` is called to the first line of the workflow: the durable submit is in it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import jobs
from bench.engines import client_of, engine_at, make_store, running, wait_until_done
from bench.figures import Measured, Sizes, percentiles
from bench.floor import Floor, batches
from relight.core.commands.jobs import ClaimJob
from relight.model import Durability

GROUP = 500
PAUSE_SECONDS = 0.013
"""Between two pickups; no multiple of any polling period."""


def relight_async(folder: Path, sizes: Sizes, durability: Durability) -> Measured:
    """Jobs on the loop, with as many slots as help."""
    return _drain(folder, sizes, durability, jobs.nothing_async)


def relight_sync(folder: Path, sizes: Sizes, durability: Durability) -> Measured:
    """Jobs in threads, with the default number of threads."""
    return _drain(folder, sizes, durability, jobs.nothing)


def _drain(folder: Path, sizes: Sizes, durability: Durability, workflow: Any) -> Measured:
    path = folder / "store.db"
    make_store(path, durability)
    with client_of(path, durability) as client:
        client.submit_many(workflow.bind() for _ in range(sizes.queued))
    began = time.perf_counter()
    with engine_at(path, durability, slots=sizes.best_slots) as engine:
        took = wait_until_done(engine) - began
    return Measured(sizes.queued / took, "jobs/s", {"jobs": sizes.queued, "slots": sizes.best_slots})


def floor_drain(folder: Path, sizes: Sizes, durability: Durability) -> Measured:
    """Claim and end each job, five hundred a transaction."""
    floor = Floor(folder / "store.db", durability)
    submits = [floor.submit("nothing", "{}") for _ in range(sizes.queued)]
    floor.write([floor.prepare(some) for some in batches(submits, GROUP)])
    claims = [floor.claim(submit) for submit in submits]
    prepared = []
    for some in _groups(claims):
        prepared.append(floor.prepare(some))
        prepared.append(floor.prepare([floor.end(claim.job, "null") for claim in some]))
    took = floor.write(prepared)
    return Measured(sizes.queued / took, "jobs/s", {"jobs": sizes.queued, "group": GROUP})


def _groups(claims: list[ClaimJob]) -> list[list[ClaimJob]]:
    return [claims[start : start + GROUP] for start in range(0, len(claims), GROUP)]


def relight_pickup(folder: Path, sizes: Sizes, durability: Durability) -> Measured:
    """Submitted in the engine's own process."""
    with running(folder / "store.db", durability) as engine:
        asked = []
        for n in range(sizes.pickups):
            time.sleep(PAUSE_SECONDS)
            asked.append(time.monotonic_ns())
            engine.submit(jobs.stamp)
            _await_pickup(n + 1)
    return _picked_up(asked, sizes)


def relight_pickup_other(folder: Path, sizes: Sizes, durability: Durability) -> Measured:
    """Submitted by a client in another process."""
    path = folder / "store.db"
    with running(path, durability):
        child = subprocess.run(
            [sys.executable, "-m", "bench.drain", str(path), durability, str(sizes.pickups)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=50,
        )
        asked = [int(line) for line in child.stdout.split()]
        _await_pickup(len(asked))
    return _picked_up(asked, sizes)


def _await_pickup(n: int) -> None:
    deadline = time.monotonic() + 10
    while len(jobs.picked_up) < n:
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(jobs.picked_up)} of {n} jobs were picked up")
        time.sleep(0.0005)


def _picked_up(asked: list[int], sizes: Sizes) -> Measured:
    took = [(began - before) / 1e6 for before, began in zip(asked, jobs.picked_up, strict=True)]
    detail = percentiles(took, "ms")
    return Measured(detail["p50_ms"], "ms", {"jobs": sizes.pickups}, detail)


def floor_pickup(folder: Path, sizes: Sizes, durability: Durability) -> Measured:
    """Two transactions in a row: submit, claim."""
    floor = Floor(folder / "store.db", durability)
    took = []
    for _ in range(sizes.pickups):
        submit = floor.submit("stamp", "{}")
        prepared = [floor.prepare([submit]), floor.prepare([floor.claim(submit)])]
        time.sleep(PAUSE_SECONDS)
        took.append(floor.write(prepared) * 1000)
    detail = percentiles(took, "ms")
    return Measured(detail["p50_ms"], "ms", {"jobs": sizes.pickups}, detail)


def main() -> None:
    path, durability, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with client_of(path, durability) as client:  # type: ignore[arg-type]  # a text that our own parent wrote
        client.submit(jobs.nothing_async)
        for _ in range(n):
            time.sleep(PAUSE_SECONDS)
            print(time.monotonic_ns())
            client.submit(jobs.stamp)


if __name__ == "__main__":
    main()
