"""Starting Relight for a measurement, and knowing when it is done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.jobs import EVERY
from bench.place import Place
from relight import Client, Engine
from relight.model import FINAL_STATES, JobState

POLL_SECONDS = 0.02
POLL_SECONDS_PER_JOB = 1e-5
"""Counting many jobs takes its time, too, and it is not what is measured."""


def engine_at(place: Place, **settings: Any) -> Engine:
    """Return an engine that knows the workflows of the benchmarks, not started."""
    return Engine(place.store, workflows=EVERY, durability=place.durability, **settings)


@contextmanager
def running(place: Place, **settings: Any) -> Iterator[Engine]:
    """Run an engine whose gate is open."""
    with engine_at(place, **settings) as engine:
        wait_for_gate(engine)
        yield engine


class SecondEngine:
    """An engine in another process: imported when this is entered, started by ``start``, stopped at the end."""

    def __init__(self, place: Place, slots: int) -> None:
        self._command = [sys.executable, "-m", "bench.engines", place.text(), str(slots)]

    def __enter__(self) -> SecondEngine:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._heard()
        return self

    def start(self, *, wait: bool) -> None:
        """Let it start; ``wait`` until its gate is open."""
        assert self._process.stdin is not None
        self._process.stdin.write("start\n")
        self._process.stdin.flush()
        if wait:
            self._heard()

    def _heard(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise AssertionError("the second engine ended by itself")

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate("stop\n", timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def runs_of_each(place: Place) -> list[int]:
    """Return how many runs each engine of a PostgreSQL store had."""
    with psycopg.connect(place.store) as db:
        counts = db.execute("SELECT count(*) FROM relight.runs GROUP BY engine_id ORDER BY 1").fetchall()
    return [count for (count,) in counts]


def make_store(place: Place) -> None:
    """Make a store that knows the kinds, with nothing in it."""
    with running(place):
        pass


@contextmanager
def client_of(place: Place) -> Iterator[Client]:
    """Open a client; it takes its durability from the environment, as users set it."""
    os.environ["RELIGHT_DURABILITY"] = place.durability
    with Client(place.store, workflows=EVERY) as client:
        yield client


def wait_for_gate(engine: Engine) -> None:
    """Wait until the gate is open."""
    while engine.health()["gate"] != "open":
        time.sleep(0.0005)


def unfinished(engine: Engine) -> int:
    """Count the jobs that have not ended. Raises when one ended otherwise than it should: that would be no measurement."""
    with engine.core.store.reading() as reads:
        counts = reads.count_in_states()
    ended = {state: n for state, n in counts.items() if state in FINAL_STATES}
    if set(ended) - {JobState.COMPLETED}:
        raise AssertionError(f"not all jobs completed: {ended}")
    return sum(counts.values()) - sum(ended.values())


def wait_until_done(engine: Engine) -> float:
    """Wait until every job of the store has ended; return the moment (``time.perf_counter``)."""
    while left := unfinished(engine):
        time.sleep(max(POLL_SECONDS, left * POLL_SECONDS_PER_JOB))
    return time.perf_counter()


def main() -> None:
    place, slots = Place.of(sys.argv[1]), int(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    with running(place, slots=slots):
        print("open", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
