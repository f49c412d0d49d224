"""What tests of whole jobs share: a store in a temporary folder, engines on it, crashes, and a way to hold one side of a race.

``Rig.crash`` leaves a store as ``kill -9`` does: the lock is free, nothing more is written, ``finally`` blocks of the dead do
not run (its threads are parked until the test is over, and then fenced). ``killed`` does it to a real process. Whatever a
test did, ``relight verify`` must find nothing wrong with its store afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from tests.stores import new_store

from relight import Client, Engine, Job
from relight.authoring.outside import engine_stopped
from relight.core.failure import Failure, read_failure
from relight.engine.watch import Watch
from relight.errors import StorageUnavailable
from relight.model import DecisionRecord, JobRecord, JobState, RunRecord, StepRecord
from relight.recorder.verify import verify_store
from relight.store.open import store_at
from relight.store.reads import EventFilter
from relight.store.store import Store

T = TypeVar("T")

PATIENCE_SECONDS = 20.0


def eventually(look: Callable[[], T], what: str = "", *, seconds: float = PATIENCE_SECONDS) -> T:
    """Look until what is found is true, and return it. Fails after ``seconds``, saying what was seen last."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {seconds:g} s: {what or getattr(look, '__name__', look)}; last seen: {seen!r}"
            )
        pause.wait(0.003)


def wait_for(event: threading.Event, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until an event is set."""
    assert event.wait(seconds), "the event was never set"


class Probe:
    """The crash-test seam of an engine or client: counts what is reached, and holds whoever reaches a held name."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._dead = False
        self.reached: Counter[str] = Counter()

    def __call__(self, name: str) -> None:
        with self._changed:
            self.reached[name] += 1
            self._waiting[name] += 1
            self._changed.notify_all()
            while self._dead or name in self._held:
                self._changed.wait()
            self._waiting[name] -= 1

    def hold(self, *names: str) -> None:
        """Hold whoever reaches one of these from now on."""
        with self._changed:
            self._held |= set(names)

    def let_go(self) -> None:
        """Hold nobody any more."""
        with self._changed:
            self._held.clear()
            self._dead = False
            self._changed.notify_all()

    def die(self) -> None:
        """Hold everybody, at everything."""
        with self._changed:
            self._dead = True

    def wait_held(self, name: str) -> None:
        """Wait until somebody is held at a name."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self._held and self._waiting[name] > 0, PATIENCE_SECONDS), (
                name
            )


class Rig:
    """A store, and what runs on it. Options of engines are those of a fast test unless it says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = new_store(folder)
        self.probes: dict[Engine, Probe] = {}
        self._engines: list[Engine] = []
        self._dead: list[Engine] = []
        self._clients: list[Client] = []
        self._looking: Store | None = None
        self.must_verify = True

    # engines and clients

    def engine(self, *workflows: Any, **options: Any) -> Engine:
        """Return an engine that is not started yet, with a probe."""
        options = {
            "durability": "process",
            "suspend_after_seconds": 0,
            "lease_seconds": 3,
            "drain_seconds": 5,
        } | options
        engine = Engine(self.path, workflows=workflows, **options)
        engine.probe = self.probes[engine] = Probe()
        return engine

    def start(self, *workflows: Any, **options: Any) -> Engine:
        """Start an engine; it is stopped when the test is over."""
        return self.start_made(self.engine(*workflows, **options))

    def start_made(self, engine: Engine) -> Engine:
        """Start an engine that ``engine`` returned, perhaps with its probe holding."""
        self._engines.append(engine.start())
        return engine

    def stop(self, engine: Engine, *, drain_seconds: float | None = None) -> None:
        """Stop an engine."""
        engine.stop(drain_seconds=drain_seconds)
        self._engines.remove(engine)

    def crash(self, engine: Engine) -> None:
        """Let an engine die as ``kill -9`` would: at once, writing nothing more, its lock free."""
        inside = engine._engine
        assert inside is not None and inside.lock is not None
        inside.journal.on_fenced = lambda: inside._fenced(lambda: None)
        inside.released = lambda run: None
        self.probes[engine].die()
        for service in engine._services:
            if isinstance(service, Watch):  # it may be held by the probe
                service._stopping = True
            else:
                service.stop()
        lock, inside.lock = inside.lock, None
        lock.release()
        self._engines.remove(engine)
        self._dead.append(engine)

    def restart(self, engine: Engine, *workflows: Any, **options: Any) -> Engine:
        """Let an engine die, and start another one."""
        self.crash(engine)
        return self.start(*workflows, **options)

    def client(self, **options: Any) -> Client:
        """Open a client; it is closed when the test is over."""
        client = Client(self.path, **options)
        client.probe = Probe()
        self._clients.append(client.__enter__())
        return client

    def close(self) -> None:
        """Stop everything."""
        for probe in self.probes.values():
            probe.let_go()
        for engine in self._dead:
            self._bury(engine)
        for engine in list(self._engines):
            engine.stop(drain_seconds=2)
        for client in self._clients:
            if isinstance(client.probe, Probe):
                client.probe.let_go()
            client.__exit__(None, None, None)
        if self._looking is not None:
            self._looking.close()

    @staticmethod
    def _bury(engine: Engine) -> None:
        inside, core = engine._engine, engine._core
        assert inside is not None and core is not None
        for run in inside.all_runs():
            run.lose("dead")
        inside.journal.close(timeout_seconds=2)
        inside.threads.close()
        inside.arms.close()
        if inside._loop is not None:
            inside._loop.stop()
        core.ends.stop()
        core.store.close()
        engine_stopped(engine)

    def verify(self) -> None:
        """Let ``relight verify`` look at the store."""
        try:
            report = verify_store(self.path)
        except StorageUnavailable:
            return  # nothing ever made it
        assert report.ok, report.findings

    # looking

    def reading(self) -> AbstractContextManager[Any]:
        """Lend a connection to look at the store with."""
        if self._looking is None:
            self._looking = store_at(self.path)
            self._looking.open(create=False)
        return self._looking.reading()

    def row(self, job: Job[Any] | str) -> JobRecord:
        """Return a job's row."""
        with self.reading() as reads:
            found = reads.job(job if isinstance(job, str) else job.id)
        assert found is not None
        return found

    def steps(self, job: Job[Any] | str) -> dict[str, StepRecord]:
        """Return what is recorded in a job, by key."""
        with self.reading() as reads:
            return {step.step_key: step for step in reads.steps(job if isinstance(job, str) else job.id)}

    def failure(self, job: Job[Any], key: str) -> Failure:
        """Return the recorded failure of a step."""
        return read_failure(self.steps(job)[key].error or "{}")

    def runs(self, job: Job[Any]) -> list[RunRecord]:
        """Return a job's runs."""
        with self.reading() as reads:
            return reads.runs(job.id)

    def decisions(self, job: Job[Any]) -> list[DecisionRecord]:
        """Return a job's questions."""
        with self.reading() as reads:
            return reads.decisions(job.id)

    def events(self, job: Job[Any] | None = None, *types: str) -> list[Any]:
        """Return events, of one job or of all, of these types or of all."""
        with self.reading() as reads:
            return reads.events(EventFilter(job_id=None if job is None else job.id, types=types, limit=0))

    def told(self, job: Job[Any] | None, *types: str) -> list[str]:
        """Return the types of a job's events, in order."""
        return [event.type for event in self.events(job, *types)]

    def until(self, job: Job[Any], state: JobState | str, reason: str | None = None) -> JobRecord:
        """Wait until a job is in a state (and says this reason for it), and return its row."""

        def look() -> JobRecord | None:
            row = self.row(job)
            return row if row.state == state and (reason is None or row.status_reason == reason) else None

        try:
            return eventually(look)
        except AssertionError:
            row = self.row(job)
            raise AssertionError(
                f"never {state} {reason or ''}: {row.state} {row.status_reason} {row.error or ''}"
            ) from None

    def until_put_away(self, job: Job[Any]) -> JobRecord:
        """Wait until a job waits without a run."""

        def look() -> JobRecord | None:
            row = self.row(job)
            away = row.state == JobState.AWAITING_USER or (
                row.state == JobState.QUEUED and row.begun and not row.claimable
            )
            return row if away else None

        return eventually(look, "put away")

    def until_recorded(self, job: Job[Any], key: str, *states: str) -> StepRecord:
        """Wait until a step is recorded (in one of some states)."""

        def look() -> StepRecord | None:
            step = self.steps(job).get(key)
            return step if step is not None and (not states or step.state in states) else None

        return eventually(look, f"{key} {states}")

    def until_asked_to_end(self, engine: Engine, job: Job[Any]) -> None:
        """Wait until a run in memory has been told that its job is to end."""
        inside = engine._engine
        assert inside is not None
        eventually(
            lambda: any(run.ref.job_id == job.id and run.end is not None for run in inside.all_runs()), "asked to end"
        )

    def question(self, job: Job[Any]) -> DecisionRecord:
        """Wait until a job has an open question, and return it."""
        return eventually(lambda: next((row for row in self.decisions(job) if row.state == "open"), None), "a question")
