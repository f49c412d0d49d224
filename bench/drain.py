"""W4: an engine finds many queued jobs that do nothing; and an idle engine picks up one, how soon?

Pickup counts from just before ``submit`` is called to the first line of the workflow: the durable submit is in it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench import jobs
from bench.engines import SecondEngine, client_of, engine_at, make_store, running, runs_of_each, wait_until_done
from bench.figures import Measured, Sizes, percentiles
from bench.floor import batches, floor_at
from bench.place import Place
from relight.core.commands.jobs import ClaimJob

GROUP = 500
PAUSE_SECONDS = 0.013
"""Between two pickups; no multiple of any polling period."""


def relight_async(place: Place, sizes: Sizes) -> Measured:
    """Jobs on the loop, with as many slots as help."""
    return _drain(place, sizes, jobs.nothing_async)


def relight_sync(place: Place, sizes: Sizes) -> Measured:
    """Jobs in threads, with the default number of threads."""
    return _drain(place, sizes, jobs.nothing)


def _drain(place: Place, sizes: Sizes, workflow: Any) -> Measured:
    make_store(place)
    with client_of(place) as client:
        client.submit_many(workflow.bind() for _ in range(sizes.queued))
    began = time.perf_counter()
    with engine_at(place, slots=sizes.best_slots) as engine:
        took = wait_until_done(engine) - began
    return Measured(sizes.queued / took, "jobs/s", {"jobs": sizes.queued, "slots": sizes.best_slots})


def relight_two_engines(place: Place, sizes: Sizes) -> Measured:
    """Jobs on two loops, in two processes."""
    make_store(place)
    with client_of(place) as client:
        client.submit_many(jobs.nothing_async.bind() for _ in range(sizes.queued))
    with SecondEngine(place, sizes.best_slots) as second:
        began = time.perf_counter()
        second.start(wait=False)
        with engine_at(place, slots=sizes.best_slots) as engine:
            took = wait_until_done(engine) - began
            detail = {"runs": runs_of_each(place)}
    return Measured(sizes.queued / took, "jobs/s", {"jobs": sizes.queued, "slots": sizes.best_slots}, detail)


def floor_drain(place: Place, sizes: Sizes) -> Measured:
    """Claim and end each job, five hundred a transaction."""
    floor = floor_at(place)
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


def relight_pickup(place: Place, sizes: Sizes) -> Measured:
    """Submitted in the engine's own process."""
    with running(place) as engine:
        asked = []
        for n in range(sizes.pickups):
            time.sleep(PAUSE_SECONDS)
            asked.append(time.monotonic_ns())
            engine.submit(jobs.stamp)
            _await_pickup(n + 1)
    return _picked_up(asked, sizes)


def relight_pickup_other(place: Place, sizes: Sizes) -> Measured:
    """Submitted by a client in another process."""
    with running(place):
        child = subprocess.run(
            [sys.executable, "-m", "bench.drain", place.text(), str(sizes.pickups)],
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


def floor_pickup(place: Place, sizes: Sizes) -> Measured:
    """Two transactions in a row: submit, claim."""
    floor = floor_at(place)
    took = []
    for _ in range(sizes.pickups):
        submit = floor.submit("stamp", "{}")
        prepared = [floor.prepare([submit]), floor.prepare([floor.claim(submit)])]
        time.sleep(PAUSE_SECONDS)
        took.append(floor.write(prepared) * 1000)
    detail = percentiles(took, "ms")
    return Measured(detail["p50_ms"], "ms", {"jobs": sizes.pickups}, detail)


def main() -> None:
    place, n = Place.of(sys.argv[1]), int(sys.argv[2])
    with client_of(place) as client:
        client.submit(jobs.nothing_async)
        for _ in range(n):
            time.sleep(PAUSE_SECONDS)
            print(time.monotonic_ns())
            client.submit(jobs.stamp)


if __name__ == "__main__":
    main()
