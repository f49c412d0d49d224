"""Random legal acts on a few jobs, by engines that crash, fall silent and leave, several acts to a batch.

Every command is decided on rows as they were read, as the engine and the clients do; when the store refuses one, because
another act of the same batch came first, that is as it should be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from tests.recorder.build import ANN, START_MS, Engine, World, Writer

from relight.core import events as ev
from relight.core.commands import Command, JobRef
from relight.core.commands import jobs as cj
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.failure import Failure
from relight.core.flow import digest
from relight.core.queue_rows import QueueLimit
from relight.core.step_payloads import Settlement
from relight.errors import Conflict, Fenced, IllegalTransition
from relight.ids import JobId, RunId, StepKey
from relight.model import (
    FINISHED_STEPS,
    DecisionRecord,
    EngineState,
    JobRecord,
    JobState,
    RunState,
    StepKind,
    StepRecord,
    StepState,
    Verdict,
)

SLOTS = 4
MOVABLE = (StepState.BACKOFF, StepState.IN_DOUBT)


class Chaos:
    """A world in which anything legal may happen next. ``crowd``: also several things to one job in one batch."""

    def __init__(self, world: World, seed: int, *, crowd: bool = False) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.crowd = crowd
        self.busy: set[JobId] = set()
        self.inside: set[JobId] = set()
        self.jobs: list[JobId] = []
        self.left: list[tuple[Engine, Verdict]] = []
        self.engine = world.engine().start()
        self.engine.define_queue("default", SLOTS)
        self.client: Writer = world.client()
        self.refused = 0
        self.applied = 0

    def play(self, batches: int) -> None:
        """Do so many batches."""
        for _ in range(batches):
            if self.random.random() < 0.08:
                self.change_engines()
            if self.random.random() < 0.1:
                self.client.close()
                self.client = self.world.client()
                self.client.submit()
            writer = self.engine if self.random.random() < 0.75 else self.client
            self.busy, self.inside = set(), set()
            commands = [self.command(writer) for _ in range(self.random.choice((1, 1, 2, 4)))]
            self.write(writer, [command for command in commands if command is not None])

    def write(self, writer: Writer, commands: list[Command]) -> None:
        if not commands:
            return
        for error in writer.do_all(*commands):
            assert not isinstance(error, Fenced)
            if error is None:
                self.applied += 1
            else:
                assert isinstance(error, Conflict), error
                self.refused += 1

    def change_engines(self) -> None:
        """The engine crashes, is stopped by a signal, or leaves; another one takes over."""
        match self.random.choice(("crash", "crash", "silence", "leave")):
            case "crash":
                self.left.append((self.engine, Verdict.DEAD))
            case "silence":
                self.left.append((self.engine, Verdict.SILENT))
            case "leave":
                if self.running():
                    return
                self.engine.stop()
        engine = self.world.engine()
        engine.begin_recovery()
        stalled = doubts = 0
        for other, verdict in self.left:
            engine.judge(other, verdict)
            ran, doubted = engine.stall_all(other, verdict)
            stalled, doubts = stalled + ran, doubts + doubted
        engine.finish_recovery(self.left, stalled=stalled, in_doubt=doubts)
        engine.open_gate()
        self.left = [(other, Verdict.DEAD) for other, verdict in self.left if verdict is Verdict.SILENT]
        for other, _ in self.left:
            if self.random.random() < 0.5:
                engine.judge(other)
                self.left = []
        self.engine = engine

    # reading

    def running(self) -> list[JobRecord]:
        return [row for row in self.rows() if row.state is JobState.RUNNING]

    def rows(self) -> list[JobRecord]:
        with self.world.store.reading() as reads:
            return [row for job_id in self.jobs if (row := reads.job(job_id)) is not None]

    def steps(self, row: JobRecord) -> list[StepRecord]:
        with self.world.store.reading() as reads:
            return reads.steps(row.job_id)

    def decisions(self, row: JobRecord) -> list[DecisionRecord]:
        with self.world.store.reading() as reads:
            return [d for d in reads.decisions(row.job_id) if d.state == "open"]

    def is_open(self, row: JobRecord, step: StepRecord) -> bool:
        return step.kind is StepKind.ASK and step.waits_for in {d.decision_id for d in self.decisions(row)}

    def new_id(self) -> str:
        return self.world.ids.uuid7(self.world.clock.now_ms())

    # deciding

    def command(self, writer: Writer) -> Command | None:
        """Decide on something, or on nothing."""
        rows = self.rows()
        lively = sum(row.completed_at is None for row in rows)
        if not rows or (lively < 12 and self.random.random() < 0.2):
            job_id = JobId(self.new_id())
            self.jobs.append(job_id)
            return self.world.submission(job_id, "census", writer.who, max_stalls=2)
        row = self.random.choice(rows)
        if row.job_id in self.busy and not self.crowd:
            return None
        self.busy.add(row.job_id)
        acts = list(self.from_outside(row))
        inside: list[Callable[[], Command]] = []
        if writer is self.engine:
            acts += self.by_engine(row)
            # A run waits for each of its own words to be on disk; only others act on its job at the same time.
            if row.state is JobState.RUNNING and row.run_id is not None and row.job_id not in self.inside:
                inside = [*self.in_run(row), *self.in_run(row), *self.leaving(row)]
        if not acts and not inside:
            return None
        act = self.random.choice([*acts, *inside])
        if act in inside:
            self.inside.add(row.job_id)
        try:
            return act()
        except IllegalTransition:
            return None

    def from_outside(self, row: JobRecord) -> Iterator[Callable[[], Command]]:
        ref = cs.ref_of(row)
        code = self.random.choice(("cancel", "fail"))
        if self.random.random() < 0.3:
            yield lambda: cs.decide_end(
                row,
                ANN,
                code=code,
                reason=None,
                force=self.random.random() < 0.3,
                open_decisions=tuple(d.decision_id for d in self.decisions(row)),
            )
        yield lambda: cs.decide_resume(row, ANN)
        failed = [s.step_key for s in self.steps(row) if s.state is StepState.FAILED]
        yield lambda: cs.decide_retry(row, ANN, failed)
        if row.completed_at is None:
            yield lambda: cs.SendSignal(
                job=ref,
                signal_id=self.new_id(),
                name="go",
                payload="1",
                payload_hash="h",
                idempotency_key=None,
                who=ANN,
            )
        for decision in self.decisions(row):
            yield partial(
                cs.GiveDecision,
                job=ref,
                decision_id=decision.decision_id,
                choice="yes",
                note=None,
                preview_hash=None,
                who=ANN,
            )

    def by_engine(self, row: JobRecord) -> Iterator[Callable[[], Command]]:
        engine = self.engine
        ref = cs.ref_of(row)
        if row.state is JobState.QUEUED:
            run = JobRef(row.job_id, row.trace_id, row.kind, RunId(self.new_id()))
            limit = QueueLimit("default", None, SLOTS)
            for _ in range(4):
                yield lambda: cj.ClaimJob(
                    job=run, engine_id=engine.id, attempt=row.attempt, replay_steps=0, limits=(limit,)
                )
        if row.state is JobState.STALLED and row.held_by is None:
            yield lambda: cs.ResumeJob(
                job=ref, source=row.state, source_reason=row.status_reason, who=engine.who, probation=row.stalls > 0
            )
            yield lambda: cs.HoldJob(job=ref, source=row.state, who=engine.who, code="on_stall")
            if row.stalls >= row.max_stalls:
                yield lambda: cs.PoisonJob(job=ref, source=row.state, who=engine.who, stalls=row.stalls, evidence=())
        if row.held_by is not None:
            owner = row.held_by
            with self.world.store.reading() as reads:
                engine_row = reads.engine(owner)
            if engine_row is not None and engine_row.state is EngineState.DEAD:
                yield lambda: cs.ReleaseHeld(job=ref, owner=owner, who=engine.who)
        for decision in self.decisions(row):
            yield partial(cs.QuestionTimedOut, job=ref, decision_id=decision.decision_id, who=engine.who)

    def in_run(self, row: JobRecord) -> Iterator[Callable[[], Command]]:
        run = cs.ref_of(row)
        steps = self.steps(row)
        key = StepKey(f"s#{sum(s.kind is StepKind.STEP for s in steps)}")
        yield lambda: self.beginning(run, key, 1)
        for step in steps:
            if step.kind is StepKind.STEP and step.state is StepState.RUNNING:
                yield partial(self.finishing, run, step)
                yield partial(self.failing, run, step)
            elif step.kind is StepKind.STEP and step.state in MOVABLE:
                yield partial(self.beginning, run, step.step_key, step.try_number + 1)
                yield partial(self.settling, run, step)
            elif step.state not in FINISHED_STEPS and not self.is_open(row, step):
                yield partial(ct.EndWait, job=run, step_key=step.step_key, outcome="1")
        wait = StepKey(f"w#{self.world.clock.now_ms()}")
        yield lambda: ct.BeginWait(job=run, step_key=wait, kind=StepKind.SIGNAL, name="go", until=None, waits_for="go")
        yield lambda: ct.AskPerson(
            job=run,
            step_key=wait,
            decision_id=self.new_id(),
            question="?",
            options="[]",
            preview=None,
            preview_hash=None,
            expires_at=None,
        )

    def beginning(self, run: JobRef, key: StepKey, try_number: int) -> Command:
        return ct.BeginTry(
            job=run,
            step_key=key,
            name="s",
            try_number=try_number,
            policy="retry",
            args_hashes="{}",
            args_hash="a",
            args_bytes=1,
            inputs=None,
            code_ref=None,
        )

    def finishing(self, run: JobRef, step: StepRecord) -> Command:
        return ct.FinishStep(
            job=run,
            step_key=step.step_key,
            try_number=step.try_number,
            outcome="1",
            outcome_hash=digest("1"),
            began_at=START_MS,
        )

    def failing(self, run: JobRef, step: StepRecord) -> Command:
        state = self.random.choice((StepState.FAILED, StepState.BACKOFF, StepState.IN_DOUBT))
        failure = Failure(type="ValueError", message="no")
        until = None if state is StepState.FAILED else self.world.clock.now_ms()
        return ct.FailTry(
            job=run, step_key=step.step_key, try_number=step.try_number, state=state, failure=failure, until=until
        )

    def settling(self, run: JobRef, step: StepRecord) -> Command:
        verdict: Settlement = self.random.choice(("done", "not_done", "failed"))
        return ct.ReconcileStep(
            job=run,
            step_key=step.step_key,
            verdict=verdict,
            by="ann",
            human=True,
            try_number=step.try_number,
            outcome="1" if verdict == "done" else None,
        )

    def leaving(self, row: JobRecord) -> Iterator[Callable[[], Command]]:
        engine = self.engine
        run = cs.ref_of(row)
        asked = self.decisions(row)
        state = JobState.QUEUED
        tells: tuple[ev.EventPayload, ...] = ()
        waiting = [s for s in self.steps(row) if s.state is StepState.WAITING]
        if asked and row.cancel_code is None and all(self.is_open(row, s) for s in waiting):
            told = ev.JobAwaitingUser(
                decision_id=asked[0].decision_id, question_redacted="?", options=["yes"], preview_hash=None
            )
            state, tells = JobState.AWAITING_USER, (told,)
        if not any(s.state is StepState.RUNNING for s in self.steps(row)):
            yield lambda: cj.PutJobAway(
                job=run,
                engine_id=engine.id,
                state=state,
                reason="awaiting_user" if tells else "waiting",
                ready_at=None,
                tells=tells,
            )
        end = self.random.choice((JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED))
        completed = end is JobState.COMPLETED
        yield lambda: cj.FinishRun(
            job=run,
            engine_id=engine.id,
            state=end,
            reason=str(RunState.COMPLETED),
            attempt=row.attempt,
            duration_ms=1,
            outputs="1" if completed else None,
            outputs_hash=digest("1") if completed else "",
        )
