"""Engines in processes of their own, as a test sees them: ordered about by lines, stopped, continued, killed by pid."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.process.flows import Witness
from tests.stores import change_behind, new_store

from relight import errors
from relight.model import EngineRecord, EventRecord, JobRecord, JobState, RecoveryRecord
from relight.recorder.verify import verify_store
from relight.store.open import store_at
from relight.store.reads import EventFilter, JobFilter, Reads
from relight.store.store import Store

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = float(os.environ.get("RELIGHT_TEST_PATIENCE", "60"))


class Child:
    """One engine process. Orders are methods of ``child.Orders``: ``child("submit", kind=…)`` waits for the answer."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self.notes: list[dict[str, Any]] = []
        self._over = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.child", json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            with self._changed:
                if "no" in said:
                    self._answers[said["no"]] = said
                else:
                    self.notes.append(said)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def order(self, do: str, /, **args: Any) -> int:
        """Send an order without waiting for its answer; returns its number."""
        assert self.process.stdin is not None
        number = next(self._numbers)
        self.process.stdin.write(json.dumps({"no": number, "do": do, **args}) + "\n")
        self.process.stdin.flush()
        return number

    def answer(self, number: int) -> Any:
        """Wait for an order's answer. Raises what the order raised."""
        with self._changed:
            came = self._changed.wait_for(lambda: number in self._answers or self._over, PATIENCE_SECONDS)
            said = self._answers.get(number)
        if said is None:
            raise AssertionError(f"no answer: {'the process ended' if came else 'time is over'}")
        if "error" not in said:
            return said["ok"]
        kind = getattr(errors, said["error"], None)
        if kind is None:
            raise AssertionError(said["text"])
        raise kind(said["text"], **said["fields"])

    def __call__(self, do: str, /, **args: Any) -> Any:
        return self.answer(self.order(do, **args))

    def answered(self, number: int) -> bool:
        """Tell whether an order has been answered."""
        with self._changed:
            return number in self._answers

    def wait_reached(self, name: str) -> None:
        """Wait until a probe that blocks was reached."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: self._over or any(note.get("name") == name for note in self.notes), PATIENCE_SECONDS
            ), f"{name} was not reached"
            assert any(note.get("name") == name for note in self.notes), "the process ended before"

    def kill(self) -> None:
        """End the process as a power cut would: nothing of it runs any more when this returns."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for the process to end by itself; returns how."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def freeze(self) -> None:
        """Stop the process, and return once the kernel says that it is stopped.

        Not in the middle of a transaction: a stopped process would hold SQLite's write lock, and everybody would wait. So
        its journal is first held just before its next commit (a beat comes along soon).
        """
        self("probe", name="before_commit", action="block", at=0)
        self.wait_reached("before_commit")
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let it go on, with the very commit that it was stopped before."""
        os.kill(self.pid, signal.SIGCONT)
        self("let_go", name="before_commit")

    def close(self) -> None:
        """Make sure that it has ended, and give its pipes back."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # what was not flushed was meant for a process that is gone


class Place:
    """A folder with a store and a witness file, and the processes that a test starts on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = new_store(folder, "relight.db")
        self.witness = Witness()
        self.witness.path = folder / "witness"
        self._children: list[Child] = []
        self._open: Store | None = None

    # processes

    def child(self, **options: Any) -> Child:
        """Start a process with an engine that is not started yet."""
        child = Child({"store": self.store, "witness": str(self.witness.path), **options})
        self._children.append(child)
        return child

    def engine(self, **options: Any) -> Child:
        """Start a process, its engine, and wait for the gate."""
        child = self.child(**options)
        child("start")
        child("gate")
        return child

    def close(self) -> None:
        """End whatever still runs, and close the store."""
        for child in self._children:
            child.close()
        if self._open is not None:
            self._open.close()
            self._open = None

    def copy_to(self, folder: Path) -> Place:
        """Copy the store as it lies there, with its lock files: the dead stay dead, with their evidence."""
        assert self._open is None and all(child.process.poll() is not None for child in self._children)
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Place(folder)

    # looking

    @contextmanager
    def reading(self) -> Iterator[Reads]:
        if self._open is None:
            self._open = store_at(self.store, durability="process")
            self._open.open(create=False)
        with self._open.reading() as reads:
            yield reads

    def job(self, job_id: str) -> JobRecord:
        with self.reading() as reads:
            found = reads.job(job_id)
        assert found is not None
        return found

    def jobs(self, *states: JobState) -> list[JobRecord]:
        with self.reading() as reads:
            return reads.jobs(JobFilter(states=states, limit=0))

    def states(self) -> dict[JobState, int]:
        with self.reading() as reads:
            return reads.count_in_states()

    def events(self, *types: str, job_id: str | None = None) -> list[EventRecord]:
        with self.reading() as reads:
            return reads.events(EventFilter(types=types, job_id=job_id, limit=0))

    def engines(self) -> list[EngineRecord]:
        """All engines, the oldest first."""
        with self.reading() as reads:
            return reads.engines(limit=0)[::-1]

    def engine_row(self, engine_id: str) -> EngineRecord:
        with self.reading() as reads:
            found = reads.engine(engine_id)
        assert found is not None
        return found

    def recoveries(self) -> list[RecoveryRecord]:
        """All receipts, the oldest first."""
        with self.reading() as reads:
            return reads.recoveries(limit=0)[::-1]

    def damage(self, sql: str, *values: object) -> None:
        """Change rows behind everybody's back, as a bad disk or a bad hand does. The damage must be done to something."""
        assert change_behind(self.store, sql, values) > 0, f"nothing was damaged by {sql}"

    def eventually(self, check: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """Look again and again until a check gives something true, and return that."""
        clock, tick = threading.Condition(), 0.0
        with clock:
            while not (found := check()):
                assert tick < seconds, f"not in {seconds} s: {what}; jobs are {self.states()}"
                clock.wait(0.01)
                tick += 0.01
        return found

    def ended(self, count: int) -> None:
        """Wait until so many jobs are completed."""
        self.eventually(lambda: self.states().get(JobState.COMPLETED, 0) >= count, f"{count} jobs completed")

    def assert_sound(self, *, but: tuple[str, ...] = ()) -> None:
        """Audit the store; ``but`` are invariants that the test itself broke by damage."""
        if self._open is not None:
            self._open.close()
            self._open = None
        found = [finding for finding in verify_store(self.store).findings if finding.invariant not in but]
        assert not found, "\n".join(map(str, found[:20]))


def payload(event: EventRecord) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(event.payload)
    return decoded


def crashed(
    place: Place, kind: str, numbers: int, *, door: str = "hold", submit: dict[str, Any] | None = None, **options: Any
) -> list[str]:
    """Leave so many jobs behind, each in the middle of a step, in an engine that was killed. Returns their ids."""
    options.setdefault("slots", max(numbers, 1))
    options.setdefault("threads", max(numbers, 1))
    child = place.engine(**options)
    ids: list[str] = child("submit", kind=kind, numbers=list(range(numbers)), **(submit or {}))
    child("inside", door=door, count=numbers)
    child.kill()
    return ids
