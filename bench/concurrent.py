"""W2: many jobs of a few steps each, at once: what group commit is for. W2c: the same beside busy Python threads.

W2c is the hard one: ``ast.parse`` keeps the GIL for milliseconds at a time, so whatever the engine does between two of
its own waits costs a place in a queue of GIL holders, and a write lock held meanwhile would stop every other process.
``lockwait.py`` is that other process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import jobs
from bench.engines import SecondEngine, running, runs_of_each, unfinished, wait_until_done
from bench.figures import Measured, Sizes
from bench.floor import Floor, Prepared, batches, floor_at
from bench.place import Place
from relight import Engine
from relight.core.commands import Command

GROUP = 1_000
BUSY_LIMIT_SECONDS = 45


def relight_default(place: Place, sizes: Sizes) -> Measured:
    """With the default number of slots."""
    return _concurrent(place, sizes, sizes.default_slots)


def relight_best(place: Place, sizes: Sizes) -> Measured:
    """With as many slots as help."""
    return _concurrent(place, sizes, sizes.best_slots)


def _concurrent(place: Place, sizes: Sizes, slots: int) -> Measured:
    with running(place, slots=slots) as engine:
        took = _submit_and_finish(engine, sizes)
    return Measured(sizes.jobs * sizes.steps_per_job / took, "steps/s", _sizes(sizes, slots=slots))


def relight_two_engines(place: Place, sizes: Sizes) -> Measured:
    """Shared by an engine of another process, each with as many slots as help."""
    with SecondEngine(place, sizes.best_slots) as second, running(place, slots=sizes.best_slots) as engine:
        second.start(wait=True)
        took = _submit_and_finish(engine, sizes)
        detail = {"runs": runs_of_each(place)}
    return Measured(sizes.jobs * sizes.steps_per_job / took, "steps/s", _sizes(sizes, slots=sizes.best_slots), detail)


def _submit_and_finish(engine: Engine, sizes: Sizes) -> float:
    """Submit all jobs in one call; return the seconds until the last one's end is on disk, submit included."""
    began = time.perf_counter()
    engine.submit_many(jobs.in_sequence_async.bind(sizes.steps_per_job) for _ in range(sizes.jobs))
    return wait_until_done(engine) - began


def _sizes(sizes: Sizes, **more: Any) -> dict[str, Any]:
    return {"jobs": sizes.jobs, "steps_per_job": sizes.steps_per_job, **more}


def relight_beside_cpu_default(place: Place, sizes: Sizes) -> Measured:
    """Beside busy threads, with the default number of slots."""
    return _beside_cpu(place, sizes, sizes.default_slots)


def relight_beside_cpu_best(place: Place, sizes: Sizes) -> Measured:
    """Beside busy threads, with as many slots as help."""
    return _beside_cpu(place, sizes, sizes.best_slots)


def _beside_cpu(place: Place, sizes: Sizes, slots: int) -> Measured:
    with running(place, slots=slots + sizes.cpu_threads) as engine:
        for first in range(sizes.cpu_threads):
            engine.submit(jobs.parse_on, first * 40)
        while len(jobs.parsed) < sizes.cpu_threads * 2:
            time.sleep(0.01)
        with LockWait(Path(place.store)) as waits:
            parsed_before = len(jobs.parsed)
            done, took = _finish_within(engine, sizes, BUSY_LIMIT_SECONDS)
            parsed = len(jobs.parsed) - parsed_before
        jobs.stop_parsing.set()
        engine.stop(drain_seconds=10)
    detail = {"lock_wait_ms": waits.result, "parse_steps": parsed, "jobs_done": done}
    return Measured(
        done * sizes.steps_per_job / took, "steps/s", _sizes(sizes, slots=slots, cpu_threads=sizes.cpu_threads), detail
    )


def _finish_within(engine: Engine, sizes: Sizes, limit_seconds: float) -> tuple[int, float]:
    """Submit all jobs; return how many ended in how many seconds. Not all, when the limit comes first."""
    began = time.perf_counter()
    engine.submit_many(jobs.in_sequence_async.bind(sizes.steps_per_job) for _ in range(sizes.jobs))
    while (left := unfinished(engine) - sizes.cpu_threads) > 0 and time.perf_counter() - began < limit_seconds:
        time.sleep(0.1)
    return sizes.jobs - left, time.perf_counter() - began


class LockWait:
    """Another process that wants the write lock every few milliseconds; ``result`` has what it saw, in ms."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.result: dict[str, float] = {}

    def __enter__(self) -> LockWait:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.lockwait", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self._process.communicate("stop\n", timeout=30)
        self.result = json.loads(out)


def floor(place: Place, sizes: Sizes) -> Measured:
    """The same jobs in groups of a thousand commands a transaction."""
    made = floor_at(place)
    took = made.write(_prepared(made, sizes))
    return Measured(sizes.jobs * sizes.steps_per_job / took, "steps/s", _sizes(sizes, group=GROUP))


def floor_beside_nobody(place: Place, sizes: Sizes) -> Measured:
    """The same while the other process measures: how long a raw writer keeps the lock."""
    made = floor_at(place)
    prepared = _prepared(made, sizes)
    with LockWait(Path(place.store)) as waits:
        took = made.write(prepared)
    return Measured(
        sizes.jobs * sizes.steps_per_job / took, "steps/s", _sizes(sizes, group=GROUP), {"lock_wait_ms": waits.result}
    )


def _prepared(made: Floor, sizes: Sizes) -> list[Prepared]:
    submits = [made.submit("in_sequence_async", f'{{"steps":{sizes.steps_per_job}}}') for _ in range(sizes.jobs)]
    claims = [made.claim(submit) for submit in submits]
    waves: list[Sequence[Command]] = [submits, claims]
    waves += [
        [command for claim in claims for command in made.step(claim.job, ordinal)]
        for ordinal in range(sizes.steps_per_job)
    ]
    waves.append([made.end(claim.job, str(sizes.steps_per_job)) for claim in claims])
    return [made.prepare(group) for wave in waves for group in batches(wave, GROUP)]
