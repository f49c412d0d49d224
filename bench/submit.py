"""W3: durable submits, by a client while no engine runs: one caller, 64 callers, one call for many."""

from __future__ import annotations

import threading
import time

from bench import jobs
from bench.engines import client_of, make_store
from bench.figures import Measured, Sizes, percentiles
from bench.floor import batches, floor_at
from bench.place import Place
from relight import Client

GROUP = 1_000


def relight_single(place: Place, sizes: Sizes) -> Measured:
    """One thread, one submit after the other."""
    make_store(place)
    with client_of(place) as client:
        waited = []
        began = time.perf_counter()
        for _ in range(sizes.submits):
            before = time.perf_counter()
            client.submit(jobs.nothing)
            waited.append((time.perf_counter() - before) * 1000)
        took = time.perf_counter() - began
    return Measured(sizes.submits / took, "jobs/s", {"jobs": sizes.submits}, percentiles(waited, "ms"))


def relight_callers(place: Place, sizes: Sizes) -> Measured:
    """Many threads, each one submit after the other, through one client."""
    make_store(place)
    with client_of(place) as client:
        client.submit(jobs.nothing)
        callers = [threading.Thread(target=_submit_some, args=(client, sizes)) for _ in range(sizes.callers)]
        began = time.perf_counter()
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        took = time.perf_counter() - began
    total = sizes.callers * sizes.submits_per_caller
    return Measured(total / took, "jobs/s", {"jobs": total, "callers": sizes.callers})


def _submit_some(client: Client, sizes: Sizes) -> None:
    for _ in range(sizes.submits_per_caller):
        client.submit(jobs.nothing)


def relight_batch(place: Place, sizes: Sizes) -> Measured:
    """One ``submit_many``."""
    make_store(place)
    with client_of(place) as client:
        calls = [jobs.nothing.bind() for _ in range(sizes.batch)]
        began = time.perf_counter()
        handles = client.submit_many(calls)
        took = time.perf_counter() - began
    if len(handles) != sizes.batch:
        raise AssertionError(f"{len(handles)} handles for {sizes.batch} submits")
    return Measured(sizes.batch / took, "jobs/s", {"jobs": sizes.batch})


def floor_single(place: Place, sizes: Sizes) -> Measured:
    """One transaction a job."""
    return _floor(place, sizes.submits, 1)


def floor_callers(place: Place, sizes: Sizes) -> Measured:
    """As many jobs a transaction as there are callers."""
    return _floor(place, sizes.callers * sizes.submits_per_caller, sizes.callers)


def floor_batch(place: Place, sizes: Sizes) -> Measured:
    """A thousand jobs a transaction."""
    return _floor(place, sizes.batch, GROUP)


def _floor(place: Place, n: int, group: int) -> Measured:
    floor = floor_at(place)
    submits = [floor.submit("nothing", "{}") for _ in range(n)]
    took = floor.write([floor.prepare(some) for some in batches(submits, group)])
    return Measured(n / took, "jobs/s", {"jobs": n, "group": group})
