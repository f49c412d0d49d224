"""The two sides and what joins them: a real store and the naive reference, driven in step and compared.

Commands are put into their writer's journal and written later, several in one batch, or at once. After each writing, what
became of each command and the whole store are compared with the reference, which does the same commands one by one. Which
commands, ``machine.py`` says.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis.stateful import RuleBasedStateMachine
from tests.model.reference import Reference
from tests.model.tables import Refuse

from relight.conformance.world import Engine, World, Writer
from relight.core.commands import Command, JobRef
from relight.core.commands.steps import BeginTry
from relight.engine.policy import end_of_orphan
from relight.errors import Conflict, Fenced, IllegalTransition
from relight.model import FINAL_STATES, EngineState, JobRecord, JobState, RunRecord, RunState, StepKind, StepState
from relight.recorder.verify import verify
from relight.store.reads import EventFilter
from relight.store.sqlite import SqliteStore
from relight.store.tickets import Ticket

T = TypeVar("T")

MAX_JOBS, MAX_LIVE_JOBS = 12, 5
KEYS = ("fetch#0", "parse#0", "write#0")
NAMES = ("go", "stop")
QUEUES = ("default", "narrow")


class Nothing(Exception):
    """There is nothing to do this to."""


def odd(n: int) -> bool:
    """Tell whether a choice is to be one that makes no sense: one in fifteen."""
    return n >= 900


class Driver(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(
            dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None
        )
        path = Path(self.folder.name) / "relight.db"
        self.world = World(lambda: SqliteStore(path, durability="process"))
        self.reference = Reference()
        self.waiting: dict[str, list[tuple[Command, int, Ticket]]] = {}
        self.engines: list[Engine] = []
        self.seen = 0
        self.puts = 0
        self.writers: dict[str, Writer] = {}

    # the two sides

    def open_writer(self, writer: Writer, first: Command) -> None:
        """Write a writer's row with its first command, on both sides."""
        now = self.world.clock.now_ms()
        self.writers[writer.id] = writer
        writer.do(first)
        assert writer.opened_with is not None
        self.reference.apply(writer.opened_with, now)
        self.reference.apply(first, now)

    def go(self, writer: Writer, command: Command, wait: bool = False) -> None:
        """Put a command in; write it now, or with what follows."""
        try:
            ticket = writer.journal.put(command)
        except IllegalTransition:
            return  # not even a command
        except Fenced:
            assert self.reference.t.engines[writer.id].state is not EngineState.LIVE
            return
        self.puts += 1
        self.waiting.setdefault(writer.id, []).append((command, self.world.clock.now_ms(), ticket))
        if not wait:
            self.write(writer)

    def write(self, writer: Writer) -> None:
        """Write what waits, and compare."""
        waiting = self.waiting.pop(writer.id, [])
        expected = [self.expect(writer, command, now) for command, now, _ in waiting]
        writer.pump()
        found = [self.became(ticket) for _, _, ticket in waiting]
        assert found == expected, [type(command).__name__ for command, _, _ in waiting]
        self.compare()

    def expect(self, writer: Writer, command: Command, now: int) -> str:
        """Do a command in the reference."""
        if self.reference.t.engines[writer.id].state is not EngineState.LIVE:
            return "fenced"
        try:
            self.reference.apply(command, now)
        except Refuse:
            return "refused"
        return "done"

    @staticmethod
    def became(ticket: Ticket) -> str:
        """Say what became of a command in the store."""
        assert ticket.done
        if ticket.error is None:
            return "done"
        assert isinstance(ticket.error, Conflict), ticket.error
        return "fenced" if isinstance(ticket.error, Fenced) else "refused"

    def write_all(self) -> None:
        """Write everything that waits."""
        for writer_id in list(self.waiting):
            self.write(self.writers[writer_id])

    def compare(self) -> None:
        """The store is as the reference has it: every row, every field, every event."""
        t = self.reference.t
        ids = list(t.jobs)
        with self.world.store.reading(snapshot=True) as reads:
            assert {job_id: reads.job(job_id) for job_id in ids} == t.jobs
            assert sum(reads.count_in_states().values()) == len(ids)
            assert {run.run_id: run for job_id in ids for run in reads.runs(job_id)} == t.runs
            assert {(step.job_id, step.step_key): step for step in reads.steps_of(ids)} == t.steps
            signals = [msgspec.structs.replace(s, seq=0) for job_id in ids for s in reads.signals(job_id)]
            assert signals == [s for job_id in ids for s in t.signals.values() if s.job_id == job_id]
            assert {d.decision_id: d for job_id in ids for d in reads.decisions(job_id)} == t.decisions
            assert {q.job_id: q for job_id in ids for q in reads.quarantine(job_id)} == t.quarantine
            assert {token.token: token for job_id in ids for token in reads.tokens(job_id)} == t.tokens
            assert {queue.queue: queue for queue in reads.queues()} == t.queues
            log = reads.events(EventFilter(after=self.seen, limit=0))
            assert [(event.type, event.job_id) for event in log] == self.reference.told
            for engine_id, expected in t.engines.items():
                row = reads.engine(engine_id)
                assert row is not None
                plain = msgspec.structs.replace(row, batch_seq=0, head_seq=0, head_hash="")
                assert plain == expected
            self.compare_line(reads)
        if log:
            self.seen = log[-1].seq
            self.reference.told.clear()

    def compare_line(self, reads: Any) -> None:
        """Who may be claimed, in what order."""
        now = self.world.clock.now_ms()
        for queue in QUEUES:
            line = [
                job
                for job in self.reference.t.jobs.values()
                if job.queue == queue and job.claimable and (job.ready_at or 0) <= now
            ]
            line.sort(key=lambda job: (-job.priority, job.ready_at, job.job_id))
            expected = [job.job_id for job in line if not self.reference.aside(job.job_id)]
            assert reads.claimable_ids(queue, ["census", "child"], now, 100) == expected

    def teardown(self) -> None:
        """The whole store must be sound, then everything goes."""
        try:
            if self.writers:
                self.write_all()
                self.tell_orphans()
                report = verify(self.world.store)
                assert report.ok, report.findings
        finally:
            self.world.close()
            self.folder.cleanup()

    def tell_orphans(self) -> None:
        """Ask the children of ended parents to end, as every engine does after its gate has opened."""
        with self.world.store.reading() as reads:
            orphans = reads.orphans(reads.open_parents())
        client = self.world.client()
        for orphan in orphans:
            client.do(end_of_orphan(orphan, self.engines[0].id))

    def is_quiet(self, engine: Engine, run: JobRef) -> bool:
        """Tell whether no step of a job runs: only then does an engine put its run away."""
        for writer in (engine, *self.engines):  # now and then a run has a second speaker
            waiting = self.waiting.get(writer.id, [])
            if any(isinstance(command, BeginTry) and command.job == run for command, _, _ in waiting):
                self.write(writer)
        steps = self.reference.steps_of(run.job_id)
        return not any(step.kind is StepKind.STEP and step.state is StepState.RUNNING for step in steps)

    # choosing

    def some(self, among: Sequence[T], n: int) -> T | None:
        """Choose one, or None when there is none."""
        return among[n % len(among)] if among else None

    def running(self) -> list[RunRecord]:
        """Runs that run."""
        return [run for run in self.reference.t.runs.values() if run.state is RunState.RUNNING]

    def live(self) -> list[Engine]:
        """Engines that may write."""
        return [e for e in self.engines if self.reference.t.engines[e.id].state is EngineState.LIVE]

    def an_engine(self, n: int) -> Engine:
        """Choose an engine: nearly always one that may write."""
        return self.one_of(self.live(), self.engines, n)

    def a_job(self, n: int, *states: JobState) -> JobRecord:
        """Choose a job: nearly always one in one of these states."""
        jobs = list(self.reference.t.jobs.values())
        return self.one_of([job for job in jobs if job.state in states], jobs, n)

    def a_run(self, n: int) -> tuple[Engine, JobRef]:
        """Choose a run and who speaks for it: nearly always a running one of an engine that lives, and its own engine."""
        live = {engine.id for engine in self.live()}
        running = [run for run in self.running() if run.engine_id in live]
        run = self.one_of(running, list(self.reference.t.runs.values()), n)
        job = self.reference.t.jobs[run.job_id]
        owner = next(engine for engine in self.engines if engine.id == run.engine_id)
        speaker = owner if n % 50 else self.an_engine(n)
        return speaker, JobRef(job.job_id, job.trace_id, job.kind, run.run_id)

    def a_step(self, job: JobRef, n: int, *states: StepState) -> str:
        """Choose a step of a job: nearly always one in one of these states."""
        steps = [step for step in self.reference.steps_of(job.job_id) if step.kind is StepKind.STEP]
        return self.one_of([step.step_key for step in steps if step.state in states], KEYS, n)

    def first_that_can(self, acts: Sequence[str], n: int, act: Callable[[str], None]) -> None:
        """Do one of these acts: the first, from some place on, that there is anything to do it to."""
        before = self.puts
        for i in range(len(acts)):
            with suppress(Nothing):
                act(acts[(n + i) % len(acts)])
            if self.puts > before:
                return

    @staticmethod
    def one_of(fitting: Sequence[T], all_of_them: Sequence[T], n: int) -> T:
        """Choose one that fits, now and then any. Raises ``Nothing``."""
        among = all_of_them if odd(n) else fitting
        if not among:
            raise Nothing
        return among[n % len(among)]

    def has_jobs(self) -> bool:
        return bool(self.reference.t.jobs)

    def has_room(self) -> bool:
        jobs = self.reference.t.jobs.values()
        return len(jobs) < MAX_JOBS and sum(job.state not in FINAL_STATES for job in jobs) < MAX_LIVE_JOBS

    def has_runs(self) -> bool:
        return bool(self.reference.t.runs)
