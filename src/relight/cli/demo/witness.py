"""What the steps themselves saw: a file that the engine does not write, read or know.

Promise to be checked: a step whose outcome was recorded never runs again, in no later run of its job. The engine's own
records cannot prove that (what lost a record would lose it twice), so each step appends to this file: a ``begin`` line
before its work, an ``end`` line after it. Each line is one ``write`` to an ``O_APPEND`` descriptor: a kill falls before
or after it, and what was written stays, since only the process dies.

A begin line is a **rerun** when any of these hold:

1. the store held the step as finished at an earlier crash (looked up by the driver once the engine was dead);
2. the same run had begun the step before (our steps have one try);
3. the job had already begun a step of a later stage: then the workflow had been given this step's outcome. The order of
   stages is the order in which names first appear in a job, since the workflow is a straight line.

A step that had ended but was not yet recorded may run again: that is ``in doubt``, and no rerun. The second and third
rule need no word from the engine at all. Read next: ``evidence.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

StepId = tuple[str, str]
"""Job id and step key."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One line of the file, as a JSON array."""

    mark: Literal["begin", "end"]
    job_id: str
    step_key: str
    name: str
    run_id: str
    pid: int

    @property
    def step(self) -> StepId:
        """Identify the step over all runs of its job."""
        return self.job_id, self.step_key


class Witness:
    """The writing side, in the engine's process. Any thread may use it.

    ``pace_seconds`` is the least time that a step takes: in a folder of ten files nothing would be in flight when the
    kill comes.
    """

    def __init__(self, path: str, pace_seconds: float = 0) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._pace_seconds = pace_seconds
        self._pid = os.getpid()

    @contextmanager
    def observe(self, *, job_id: str, step_key: str, name: str, run_id: str) -> Iterator[None]:
        """Write ``begin``, let the step work, write ``end`` (not when it fails)."""
        begun = time.monotonic()
        self._write(Line("begin", job_id, step_key, name, run_id, self._pid))
        yield
        if (left := self._pace_seconds - (time.monotonic() - begun)) > 0:
            time.sleep(left)
        self._write(Line("end", job_id, step_key, name, run_id, self._pid))

    def _write(self, line: Line) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")


class Tail:
    """The reading side while the engine runs: how far the work is, and what is under way in the process watched."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(Line)
        self._rest = b""
        self.offset = 0
        self.lines: list[tuple[int, Line]] = []
        self.ended: set[StepId] = set()
        self.under_way: dict[int, set[StepId]] = {}

    def read(self) -> bool:
        """Take in what was appended since the last call; tell whether there was anything."""
        with open(self._path, "rb") as file:
            file.seek(self.offset + len(self._rest))
            new = file.read()
        *whole, self._rest = (self._rest + new).split(b"\n")
        for raw in whole:
            self._take(self._decoder.decode(raw))
            self.offset += len(raw) + 1
        return bool(new)

    def _take(self, line: Line) -> None:
        self.lines.append((self.offset, line))
        under_way = self.under_way.setdefault(line.pid, set())
        if line.mark == "begin":
            under_way.add(line.step)
        else:
            under_way.discard(line.step)
            self.ended.add(line.step)


class Ledger:
    """Holds what was finished at each crash against what began after it."""

    def __init__(self) -> None:
        self._crashes: list[tuple[int, frozenset[StepId]]] = []

    def crash(self, offset: int, finished: frozenset[StepId]) -> None:
        """Note that at this length of the witness file the store held these steps as finished."""
        self._crashes.append((offset, finished))

    def reruns(self, lines: list[tuple[int, Line]]) -> list[Line]:
        """Return the begin lines of steps that had been finished before, by any of the three rules."""
        begun: set[tuple[str, str, str]] = set()
        stages: dict[str, dict[str, int]] = {}
        latest: dict[str, int] = {}
        found: list[Line] = []
        for offset, line in lines:
            if line.mark == "end":
                continue
            of_job = stages.setdefault(line.job_id, {})
            stage = of_job.setdefault(line.name, len(of_job))
            was_recorded = any(offset >= at and line.step in finished for at, finished in self._crashes)
            if was_recorded or (*line.step, line.run_id) in begun or stage < latest.get(line.job_id, 0):
                found.append(line)
            begun.add((*line.step, line.run_id))
            latest[line.job_id] = max(stage, latest.get(line.job_id, 0))
        return found
