"""Starting Relight for a measurement, and knowing when it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.jobs import EVERY
from relight import Client, Engine
from relight.model import FINAL_STATES, Durability, JobState

POLL_SECONDS = 0.02


def engine_at(path: Path, durability: Durability, **settings: Any) -> Engine:
    """Return an engine that knows the workflows of the benchmarks, not started."""
    return Engine(os.fspath(path), workflows=EVERY, durability=durability, **settings)


@contextmanager
def running(path: Path, durability: Durability, **settings: Any) -> Iterator[Engine]:
    """Run an engine whose gate is open."""
    with engine_at(path, durability, **settings) as engine:
        wait_for_gate(engine)
        yield engine


def make_store(path: Path, durability: Durability) -> None:
    """Make a store that knows the kinds, with nothing in it."""
    with running(path, durability):
        pass


@contextmanager
def client_of(path: Path, durability: Durability) -> Iterator[Client]:
    """Open a client; it takes its durability from the environment, as users set it."""
    os.environ["RELIGHT_DURABILITY"] = durability
    with Client(os.fspath(path), workflows=EVERY) as client:
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
    while unfinished(engine):
        time.sleep(POLL_SECONDS)
    return time.perf_counter()
