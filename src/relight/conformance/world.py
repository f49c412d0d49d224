"""A small script language over a store: writers, jobs and their ways, one command at a time, without a thread.

Writers use two ``Store`` objects by turns, as two processes would. Time stands still until it is told to go on, and ids
come from a seed. Backends need only ``StoreFactory``. Who writes is in ``writers.py``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from relight.conformance.writers import ANN, FAILURE, START_MS, Engine, Writer
from relight.core.commands import JobRef
from relight.ids import RandomIds
from relight.model import EngineRecord, EventRecord, JobRecord, Role, RunRecord, StepRecord
from relight.store.reads import EventFilter
from relight.store.store import Store

__all__ = [
    "ANN",
    "FAILURE",
    "START_MS",
    "Engine",
    "ManualTime",
    "Snapshot",
    "StoreFactory",
    "World",
    "Writer",
    "seeded_ids",
]

StoreFactory = Callable[[], Store]
"""Makes a store that is not open. All stores of one test are the same database, which is empty when the test begins."""


class ManualTime:
    """A clock that stands still until ``advance``. Nothing may wait on it."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self._start = self._now = start_ms

    def now_ms(self) -> int:
        """Return the wall clock."""
        return self._now

    def mono_ms(self) -> int:
        """Return the time since the start."""
        return self._now - self._start

    def advance(self, ms: int) -> int:
        """Let time pass; return what the wall clock says then."""
        self._now += ms
        return self._now

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        """Fail: whoever waits here would wait for ever."""
        raise AssertionError(f"nothing waits in these tests ({condition}, {timeout_ms})")


def seeded_ids(seed: int = 7) -> RandomIds:
    """Return a source of ids that gives the same ones each time."""
    return RandomIds(random.Random(seed).randbytes)


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that is stored of one job."""

    job: JobRecord | None
    runs: list[RunRecord]
    steps: list[StepRecord]
    signals: list[Any]
    decisions: list[Any]
    tokens: list[Any]
    quarantine: list[Any]
    events: list[EventRecord]


class World:
    """One database, its clock and ids, and everything that writes to it here."""

    def __init__(self, store_factory: StoreFactory, *, seed: int = 7) -> None:
        self.factory = store_factory
        self.clock = ManualTime()
        self.ids = seeded_ids(seed)
        self.stores: list[Store] = []
        self.store = self.open_store(create=True)
        self._lent = 0

    def open_store(self, *, create: bool = False) -> Store:
        """Open one more store object on the database; ``close`` closes it."""
        store = self.factory()
        store.open(create=create)
        self.stores.append(store)
        return store

    def lend_store(self) -> Store:
        """Return one of two stores by turns, so that writers do not all share a connection; opening one costs more."""
        self._lent += 1
        if len(self.stores) == 1 and self._lent > 1:
            self.open_store()
        return self.stores[(self._lent - 1) % 2]

    def close(self) -> None:
        """Close every store."""
        for store in self.stores:
            store.close()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def new_id(self) -> str:
        """Return a new id."""
        return self.ids.uuid7(self.clock.now_ms())

    # who writes

    def engine(self, name: str = "engine", *, store: Store | None = None) -> Engine:
        """Return an engine whose row is written and whose gate is shut."""
        engine = Engine(self, name, store or self.lend_store())
        engine.do(engine.starting_recovery())
        return engine

    def open_engine(self, name: str = "engine", *, store: Store | None = None) -> Engine:
        """Return an engine whose gate is open."""
        engine = Engine(self, name, store or self.lend_store())
        engine.do(engine.starting_recovery(), engine.finishing_recovery(), engine.opening_gate())
        return engine

    def client(self, *, store: Store | None = None) -> Writer:
        """Return a client."""
        return Writer(self, Role.CLIENT, "client", store or self.lend_store())

    # looking

    def job(self, job: JobRef | str) -> JobRecord:
        """Return a job's row."""
        row = self.find(job)
        assert row is not None, f"there is no job {job}"
        return row

    def find(self, job: JobRef | str) -> JobRecord | None:
        """Return a job's row, or None."""
        with self.store.reading() as reads:
            return reads.job(job if isinstance(job, str) else job.job_id)

    def step(self, job: JobRef, key: str) -> StepRecord:
        """Return one step of a job."""
        with self.store.reading() as reads:
            return next(step for step in reads.steps(job.job_id) if step.step_key == key)

    def run(self, job: JobRef) -> RunRecord:
        """Return the run that a reference names."""
        with self.store.reading() as reads:
            return next(run for run in reads.runs(job.job_id) if run.run_id == job.run_id)

    def writer_row(self, writer: Writer) -> EngineRecord:
        """Return a writer's row."""
        with self.store.reading() as reads:
            row = reads.engine(writer.id)
        assert row is not None
        return row

    def snapshot(self, job: JobRef | str) -> Snapshot:
        """Return all that is stored of a job, in one state of the store."""
        job_id = job if isinstance(job, str) else job.job_id
        with self.store.reading(snapshot=True) as reads:
            return Snapshot(
                reads.job(job_id),
                reads.runs(job_id),
                reads.steps(job_id),
                reads.signals(job_id),
                reads.decisions(job_id),
                reads.tokens(job_id),
                reads.quarantine(job_id),
                reads.events(EventFilter(job_id=job_id, limit=0)),
            )

    def event_types(self, job: JobRef | str) -> list[str]:
        """Return the kinds of a job's events, in commit order."""
        return [event.type for event in self.snapshot(job).events]

    def told_by(self, writer: Writer) -> list[EventRecord]:
        """Return a writer's events in its own order."""
        with self.store.reading() as reads:
            return reads.events_of_writer(writer.id, limit=1_000_000)
