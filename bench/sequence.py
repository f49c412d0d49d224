"""W1: one job, many trivial steps one after the other. What one agent feels: each step is durable before the next."""

from __future__ import annotations

import threading
import time

from bench import jobs
from bench.engines import running
from bench.figures import Measured, Sizes
from bench.floor import Floor, Prepared, floor_at
from bench.place import Place
from relight.core.commands import Command

LIMIT_SECONDS = 50


def relight_sync(place: Place, sizes: Sizes) -> Measured:
    """A sync workflow: its steps run in its thread, and wait there for the journal."""
    with running(place) as engine:
        began = time.perf_counter()
        got = engine.submit(jobs.in_sequence, sizes.sequence_steps).result(timeout_seconds=LIMIT_SECONDS)
        took = time.perf_counter() - began
    return _measured(got, sizes, took)


def relight_async(place: Place, sizes: Sizes) -> Measured:
    """An async workflow: its steps run on the engine's loop."""
    with running(place) as engine:
        began = time.perf_counter()
        got = engine.submit(jobs.in_sequence_async, sizes.sequence_steps).result(timeout_seconds=LIMIT_SECONDS)
        took = time.perf_counter() - began
    return _measured(got, sizes, took)


def _measured(got: int, sizes: Sizes, took: float) -> Measured:
    if got != sizes.sequence_steps:
        raise AssertionError(f"{got} steps were counted, not {sizes.sequence_steps}")
    return Measured(sizes.sequence_steps / took, "steps/s", {"steps": sizes.sequence_steps})


def floor_direct(place: Place, sizes: Sizes) -> Measured:
    """One transaction a step, in the thread that has the work."""
    floor = floor_at(place)
    took = floor.write(_with_job(floor, sizes.sequence_steps))
    return Measured(sizes.sequence_steps / took, "steps/s", {"steps": sizes.sequence_steps})


def floor_hop(place: Place, sizes: Sizes) -> Measured:
    """The same, handed to a writing thread and waited for: what any group commit has to pay at least."""
    floor = floor_at(place)
    prepared = _with_job(floor, sizes.sequence_steps)
    asked, written = threading.Lock(), threading.Lock()
    asked.acquire()
    written.acquire()

    def write() -> None:
        for one in prepared:
            asked.acquire()
            floor.write_one(one)
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    began = time.perf_counter()
    for _ in prepared:
        asked.release()
        written.acquire()
    took = time.perf_counter() - began
    writer.join()
    return Measured(sizes.sequence_steps / took, "steps/s", {"steps": sizes.sequence_steps})


def _with_job(floor: Floor, steps: int) -> list[Prepared]:
    """Submit, claim, steps, end: one transaction each, as one caller at a time gives them."""
    submit = floor.submit("in_sequence", f'{{"steps":{steps}}}')
    claim = floor.claim(submit)
    commands: list[list[Command]] = [
        [submit],
        [claim],
        *(floor.step(claim.job, n) for n in range(steps)),
        [floor.end(claim.job, str(steps))],
    ]
    return [floor.prepare(each) for each in commands]
