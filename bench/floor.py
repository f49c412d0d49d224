"""The raw floor: the driver writes the same rows into the same tables, and nothing else happens.

Rows and events are those of Relight's own commands, made, encoded and chained beforehand, not timed. Writing them is one
transaction a *batch*, as prepared statements with one set of bindings a row: no JSON, no compare-and-set, no queue, no
threads, no user code. On SQLite: same file, same pragmas, same rule for the checkpoint. On PostgreSQL: the same connection,
in pipeline mode, so that a transaction is one round trip. The distance to it is Relight's own cost.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from psycopg import RawCursor
from psycopg.types.numeric import Int8Dumper

from bench.place import Place
from relight import version
from relight.clock import SystemClock
from relight.core.chain import EventRow, Head, link
from relight.core.changes import OpenWriter, Who
from relight.core.commands import Command, JobRef
from relight.core.commands.engines import OpenWriterNow
from relight.core.commands.jobs import ClaimJob, FinishRun, SubmitJob, fresh_run
from relight.core.commands.steps import BeginTry, FinishStep
from relight.core.flow import digest
from relight.ids import EngineId, JobId, RandomIds, StepKey
from relight.model import Actor, GateState, JobState, Role
from relight.store.open import store_at
from relight.store.sqlite.connect import checkpoint_when_long, connect
from relight.store.statements import parse_statements
from relight.store.store import Batch

_ALSO = {"start_runs": ("new_runs",), "stall_runs": ("stall_jobs", "doubt_steps")}
"""Operations that are more than one statement."""


class Prepared(NamedTuple):
    """One transaction, ready to be written."""

    fence: tuple[Any, ...]
    statements: list[tuple[str, list[tuple[Any, ...]]]]


class Floor(ABC):
    """A store's tables, opened for writing by hand. Makes the store, and a writer's row, when there is none."""

    sql: Mapping[str, str]

    def __init__(self, place: Place) -> None:
        self.clock, self.ids = SystemClock(), RandomIds()
        self.me = EngineId(self.ids.uuid7(self.clock.now_ms()))
        self.who = Who(Actor.SYSTEM, self.me)
        self._seq = 1
        self._head = self._open_writer(place)

    def _open_writer(self, place: Place) -> Head:
        store = store_at(place.store, durability=place.durability)
        store.open(create=True)
        now_ms = self.clock.now_ms()
        row = OpenWriter(
            self.me,
            Role.CLIENT,
            "floor",
            GateState.OPEN,
            "",
            "",
            "",
            os.getpid(),
            version.VERSION,
            0,
            0,
            now_ms,
            "[]",
            None,
        )
        wanted = OpenWriterNow(row=row, heads=(), who=self.who).changes(now_ms, self.ids)
        events, head = link(Head(0, "0" * 64), wanted.events, writer_id=self.me, engine_id=self.me)
        rows = {row.op: msgspec.json.encode([row]).decode() for row in wanted.rows}
        store.apply(Batch(self.me, 1, head, rows, events))
        store.close()
        return head

    def prepare(self, commands: Iterable[Command]) -> Prepared:
        """Make one transaction of commands. Not to be timed."""
        now_ms = self.clock.now_ms()
        rows: dict[str, list[tuple[Any, ...]]] = {}
        drafts = []
        for command in commands:
            wanted = command.changes(now_ms, self.ids)
            for row in wanted.rows:
                values = tuple(getattr(row, name) for name in row.__struct_fields__)
                for name in (row.op, *_ALSO.get(row.op, ())):
                    rows.setdefault(name, []).append(values)
            drafts += wanted.events
        events, self._head = link(self._head, drafts, writer_id=self.me, engine_id=self.me)
        self._seq += 1
        rows["events"] = [_values(event) for event in events]
        fence = (self._seq, self._head.seq, self._head.hash, self.me)
        return Prepared(fence, [(self.sql[name], bindings) for name, bindings in rows.items()])

    def write(self, transactions: Sequence[Prepared]) -> float:
        """Write them one after the other, each durable before the next; return the seconds that it took."""
        began = time.perf_counter()
        for prepared in transactions:
            self.write_one(prepared)
        return time.perf_counter() - began

    @abstractmethod
    def write_one(self, prepared: Prepared) -> None:
        """Write one transaction; it is durable when this returns."""

    # commands, as an engine would give them

    def submit(self, kind: str, inputs: str) -> SubmitJob:
        """A submit."""
        now_ms = self.clock.now_ms()
        new = (self.ids.uuid7(now_ms), self.ids.uuid7(now_ms))
        return SubmitJob(
            job_id=JobId(new[0]), trace_id=new[1], kind=kind, inputs=inputs, inputs_hash=digest(inputs), who=self.who
        )

    def claim(self, submit: SubmitJob) -> ClaimJob:
        """The claim of a submitted job."""
        job = fresh_run(submit.job_id, submit.trace_id, submit.kind, self.ids.uuid7(self.clock.now_ms()))
        return ClaimJob(job=job, engine_id=self.me, attempt=1, replay_steps=0)

    def step(self, job: JobRef, ordinal: int) -> list[Command]:
        """Begin and end of a job's step that takes and gives a number."""
        inputs = f'{{"n":{ordinal}}}'
        key = StepKey(f"add_one#{ordinal}")
        hashes = msgspec.json.encode({"n": digest(str(ordinal))}).decode()
        outcome = str(ordinal + 1)
        return [
            BeginTry(
                job=job,
                step_key=key,
                name="add_one",
                try_number=1,
                policy="retry",
                args_hashes=hashes,
                args_hash=digest(inputs),
                args_bytes=len(inputs),
                inputs=inputs,
                code_ref="jobs.py:30",
            ),
            FinishStep(job=job, step_key=key, try_number=1, outcome=outcome, outcome_hash=digest(outcome), began_at=0),
        ]

    def end(self, job: JobRef, outputs: str) -> FinishRun:
        """The end of a run and its job."""
        return FinishRun(
            job=job,
            engine_id=self.me,
            state=JobState.COMPLETED,
            reason="completed",
            attempt=1,
            duration_ms=1,
            outputs=outputs,
            outputs_hash=digest(outputs),
        )


class SqliteFloor(Floor):
    """By apsw. Checkpoints as Relight does."""

    sql = parse_statements((Path(__file__).parent / "floor.sql").read_text(encoding="utf-8"))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._db = connect(Path(place.store), place.durability, create=False, writer=True)

    def write_one(self, prepared: Prepared) -> None:
        """Write one transaction; it is durable when this returns."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        db.execute(self.sql["fence"], prepared.fence)
        for sql, bindings in prepared.statements:
            db.executemany(sql, bindings)
        db.execute("COMMIT")
        checkpoint_when_long(db)


class PostgresFloor(Floor):
    """By psycopg, in pipeline mode. The server's own parameters ($1), so that nothing is rewritten."""

    sql = parse_statements((Path(__file__).parent / "floor_postgres.sql").read_text(encoding="utf-8"))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        from relight.store.postgres.connect import connect, place_of, split_address

        info, schema, *_ = split_address(place.store)
        self._db = connect(info, place_of(info, schema), place.durability, writer=True)
        # One type for all numbers: else a statement would be prepared once for each width that its values have.
        self._db.adapters.register_dumper(int, Int8Dumper)

    def write_one(self, prepared: Prepared) -> None:
        """Write one transaction in one round trip; it is durable when this returns."""
        with self._db.pipeline():
            cursor = RawCursor(self._db)
            cursor.execute("BEGIN", prepare=True)
            cursor.execute(self.sql["fence"].encode(), prepared.fence, prepare=True)
            for sql, bindings in prepared.statements:
                for values in bindings:
                    cursor.execute(sql.encode(), values, prepare=True)
            cursor.execute("COMMIT", prepare=True)


def floor_at(place: Place) -> Floor:
    """Return the floor for a place's kind of store."""
    return PostgresFloor(place) if place.kind == "postgresql" else SqliteFloor(place)


def _values(event: EventRow) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in event.__struct_fields__)


def batches(commands: Sequence[Command], size: int) -> Iterator[Sequence[Command]]:
    """Cut commands into groups, as group commit does."""
    for start in range(0, len(commands), size):
        yield commands[start : start + size]
