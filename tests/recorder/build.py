"""A small script language over the real store, journal and commands, to build stores whose history is known.

Nothing here runs user code and nothing needs a thread: every act is one command, pumped through its writer's journal.
A crash is an engine that is simply not heard of again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from relight.clock import rfc3339
from relight.core import events as ev
from relight.core.changes import OpenWriter, Who
from relight.core.commands import Command, JobRef
from relight.core.commands import engines as ce
from relight.core.commands import jobs as cj
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.failure import Failure
from relight.core.flow import digest
from relight.ids import EngineId, JobId, RandomIds, RunId, StepKey
from relight.model import Actor, EngineState, JobRecord, JobState, QueueRecord, StepKind, StepState, Verdict
from relight.store.journal import Journal
from relight.store.open import store_at
from relight.store.store import Store

START_MS = 1_750_000_000_000
ANN = Who(Actor.HUMAN, "ann")


class StepClock:
    """Each look at the wall is a millisecond later; ``skip`` jumps ahead."""

    def __init__(self) -> None:
        self._ms = START_MS

    def now_ms(self) -> int:
        self._ms += 1
        return self._ms

    def mono_ms(self) -> int:
        return self._ms

    def skip(self, ms: int) -> None:
        self._ms += ms

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        raise AssertionError("nothing waits here")


class Writer:
    """An engine or a client with its journal."""

    def __init__(self, world: World, role: str, name: str) -> None:
        self.world = world
        self.role = role
        self.name = name
        self.id = EngineId(world.ids.uuid7(world.clock.now_ms()))
        self.who = Who(Actor.SYSTEM, self.id) if role == "engine" else ANN
        self.recovery_id = ""
        self.journal = Journal(world.store, self.id, self._opener, clock=world.clock, ids=world.ids)

    def _opener(self) -> Command:
        now = self.world.clock.now_ms()
        with self.world.store.reading() as reads:
            heads = tuple(reads.unnamed_heads())
        row = OpenWriter(
            self.id,
            self.role,
            self.name,
            "closed" if self.role == "engine" else "open",
            "n",
            "host",
            "boot",
            1,
            "0",
            30_000,
            now + 30_000,
            now,
            "[]",
            None,
        )
        started = None
        if self.role == "engine":
            started = ev.EngineStarted(
                host_id="host",
                boot_id="boot",
                pid=1,
                version="0",
                store="relight.db",
                durability="power",
                heads={writer: digest for writer, _, digest in heads},
            )
        return ce.OpenWriterNow(row=row, heads=heads, who=self.who, started=started)

    def do(self, *commands: Command) -> None:
        """Write commands as one batch (or by halves); raise the first error."""
        for error in self.do_all(*commands):
            if error is not None:
                raise error

    def do_all(self, *commands: Command) -> list[BaseException | None]:
        """Write commands as one batch (or by halves); return what became of each."""
        tickets = [self.journal.put(command) for command in commands]
        while self.journal.pump():
            pass
        self.world.after_batch()
        assert all(ticket.done for ticket in tickets)
        return [ticket.error for ticket in tickets]

    def tell(self, payload: ev.EventPayload, job: JobRef | None = None) -> None:
        self.do(ce.Tell(payload=payload, who=self.who, job=job))

    # from outside

    def submit(self, kind: str = "census", **more: object) -> JobRef:
        job_id = JobId(self.world.ids.uuid7(self.world.clock.now_ms()))
        self.do(self.world.submission(job_id, kind, self.who, **more))
        return JobRef(job_id, f"trace-{job_id}", kind)

    def cancel(self, job: JobRef, *, force: bool = False, code: str = "cancel") -> None:
        row = self.world.row(job)
        self.do(cs.decide_end(row, self.who, code=code, reason="enough", force=force, open_decisions=()))

    def retry(self, job: JobRef, *reopen: str) -> None:
        self.do(cs.decide_retry(self.world.row(job), ANN, [StepKey(key) for key in reopen]))

    def resume(self, job: JobRef) -> None:
        self.do(cs.decide_resume(self.world.row(job), ANN))

    def signal(self, job: JobRef, name: str) -> str:
        signal_id = self.world.ids.uuid7(self.world.clock.now_ms())
        self.do(
            cs.SendSignal(
                job=job,
                signal_id=signal_id,
                name=name,
                payload="1",
                payload_hash=digest("1"),
                idempotency_key=None,
                who=ANN,
            )
        )
        return signal_id

    def answer(self, job: JobRef, decision_id: str) -> None:
        self.do(cs.GiveDecision(job=job, decision_id=decision_id, choice="yes", note=None, preview_hash=None, who=ANN))

    def close(self) -> None:
        self.do(ce.CloseWriterNow(engine_id=self.id, stopped=None))


class Engine(Writer):
    """An engine: ``start`` recovers and opens the gate; then it claims and runs."""

    def __init__(self, world: World, name: str = "e") -> None:
        super().__init__(world, "engine", name)

    def start(self, *, dead: Iterable[Engine] = (), silent: Iterable[Engine] = ()) -> Engine:
        self.begin_recovery()
        judged = [*((e, Verdict.DEAD) for e in dead), *((e, Verdict.SILENT) for e in silent)]
        stalled = doubts = 0
        for engine, verdict in judged:
            self.judge(engine, verdict)
            ran, doubted = self.stall_all(engine, verdict)
            stalled += ran
            doubts += doubted
        self.finish_recovery(judged, stalled=stalled, in_doubt=doubts)
        self.open_gate()
        return self

    def begin_recovery(self) -> None:
        self.recovery_id = self.world.ids.uuid7(self.world.clock.now_ms())
        self.tell(ev.RecoveryStarted(recovery_id=self.recovery_id))

    def judge(self, other: Engine, verdict: Verdict = Verdict.DEAD) -> None:
        with self.world.store.reading() as reads:
            row = reads.engine(other.id)
        assert row is not None
        self.do(
            ce.JudgeEngineNow(
                judge=self.id,
                engine_id=other.id,
                source=row.state,
                target=EngineState.SILENT if verdict is Verdict.SILENT else EngineState.DEAD,
                beat_at=row.beat_at,
                last_heartbeat_ts=rfc3339(row.beat_at),
                verdict=verdict,
                evidence={"reason": "test"},
            )
        )

    def stall_all(self, other: Engine, verdict: Verdict = Verdict.DEAD) -> tuple[int, int]:
        with self.world.store.reading() as reads:
            runs = reads.running_of(other.id)
        self.do(
            *(
                self.stalling(JobRef(run.job_id, run.trace_id or "", "", run.run_id), other, run.in_doubt, verdict)
                for run in runs
            )
        )
        return len(runs), sum(len(run.in_doubt) for run in runs)

    def stalling(
        self, job: JobRef, other: Engine, in_doubt: Iterable[StepKey] = (), verdict: Verdict = Verdict.DEAD
    ) -> ce.StallRunNow:
        return ce.StallRunNow(
            job=job,
            owner=other.id,
            verdict=verdict,
            evidence={"reason": "test"},
            recovery_id=self.recovery_id,
            judge=self.id,
            last_heartbeat_ts=rfc3339(START_MS),
            threshold_secs=30.0,
            in_doubt=tuple(in_doubt),
            held=verdict is Verdict.SILENT,
        )

    def finish_recovery(
        self,
        judged: Iterable[tuple[Engine, Verdict]] = (),
        *,
        stalled: int = 0,
        in_doubt: int = 0,
        quarantined: int = 0,
    ) -> None:
        engines = [ev.JudgedEngine(engine_id=e.id, verdict=verdict, evidence={}) for e, verdict in judged]
        self.do(
            ce.FinishRecovery(
                recovery_id=self.recovery_id,
                engine_id=self.id,
                engines=engines,
                scanned=stalled,
                stalled=stalled,
                in_doubt=in_doubt,
                quarantined=quarantined,
                started_at=self.world.clock.now_ms(),
            )
        )

    def open_gate(self) -> None:
        self.do(ce.OpenGate(engine_id=self.id, recovery_id=self.recovery_id, closed_ms=1))

    def quarantine(self, job: JobRef, *, readable: bool = True) -> None:
        self.do(
            ce.QuarantineRow(
                job_id=job.job_id,
                trace_id=job.trace_id if readable else None,
                table_name="jobs",
                code="unreadable",
                detail="a test",
                recovery_id=self.recovery_id,
                judge=self.id,
            )
        )

    def define_queue(
        self, name: str, slots: int | None, per_engine: int | None = None, rate: str | None = None
    ) -> None:
        queue = QueueRecord(queue=name, slots=slots, per_engine_slots=per_engine, rate=rate)
        with self.world.store.reading() as reads:
            seen = next((q for q in reads.queues() if q.queue == name), None)
        self.do(cq.DefineQueue(queue=queue, seen=seen, by=self.name, who=self.who))

    # its runs

    def claim(self, job: JobRef, **more: Any) -> JobRef:
        run_id = RunId(self.world.ids.uuid7(self.world.clock.now_ms()))
        ref = JobRef(job.job_id, job.trace_id, job.kind, run_id)
        self.do(cj.ClaimJob(job=ref, engine_id=self.id, attempt=self.world.row(job).attempt, replay_steps=0, **more))
        return ref

    def begin(self, run: JobRef, key: str, try_number: int = 1) -> None:
        self.do(
            ct.BeginTry(
                job=run,
                step_key=StepKey(key),
                name=key.partition("#")[0],
                try_number=try_number,
                policy="retry",
                args_hashes="{}",
                args_hash="a",
                args_bytes=2,
                inputs="{}",
                code_ref="x",
            )
        )

    def end(self, run: JobRef, key: str, outcome: str = "1", try_number: int = 1) -> None:
        self.do(self.ending(run, key, outcome, try_number))

    def ending(self, run: JobRef, key: str, outcome: str = "1", try_number: int = 1) -> Command:
        return ct.FinishStep(
            job=run,
            step_key=StepKey(key),
            try_number=try_number,
            outcome=outcome,
            outcome_hash=digest(outcome),
            began_at=START_MS,
        )

    def step(self, run: JobRef, key: str, outcome: str = "1") -> None:
        self.begin(run, key)
        self.end(run, key, outcome)

    def fail_try(self, run: JobRef, key: str, try_number: int = 1, state: StepState = StepState.FAILED) -> None:
        until = None if state is StepState.FAILED else self.world.clock.now_ms()
        self.do(
            ct.FailTry(
                job=run,
                step_key=StepKey(key),
                try_number=try_number,
                state=state,
                failure=Failure(type="ValueError", message="no"),
                until=until,
            )
        )

    def finish(self, run: JobRef, state: JobState = JobState.COMPLETED, outputs: str | None = None) -> None:
        published = state in (JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES)
        text = (outputs or "1") if published else None
        self.do(
            cj.FinishRun(
                job=run,
                engine_id=self.id,
                state=state,
                reason=str(state),
                attempt=self.world.row(run).attempt,
                duration_ms=1,
                outputs=text,
                outputs_hash=digest(text or ""),
                failure=Failure(type="ValueError", message="no") if state is JobState.FAILED else None,
                issues='[{"code":"odd"}]' if state is JobState.COMPLETED_WITH_ISSUES else None,
                by="ann" if state is JobState.CANCELLED else None,
            )
        )

    def put_away(
        self,
        run: JobRef,
        reason: str = "sleeping",
        *,
        state: JobState = JobState.QUEUED,
        ready_at: int | None = None,
        tells: tuple[ev.EventPayload, ...] = (),
    ) -> None:
        self.do(cj.PutJobAway(job=run, engine_id=self.id, state=state, reason=reason, ready_at=ready_at, tells=tells))

    def wait(self, run: JobRef, key: str, kind: StepKind, waits_for: str | None, until: int | None = None) -> None:
        self.do(
            ct.BeginWait(job=run, step_key=StepKey(key), kind=kind, name=str(kind), until=until, waits_for=waits_for)
        )

    def end_wait(self, run: JobRef, key: str, outcome: str = "null") -> None:
        self.do(ct.EndWait(job=run, step_key=StepKey(key), outcome=outcome))

    def ask(self, run: JobRef, key: str) -> str:
        decision_id = self.world.ids.uuid7(self.world.clock.now_ms())
        self.do(
            ct.AskPerson(
                job=run,
                step_key=StepKey(key),
                decision_id=decision_id,
                question="really?",
                options='["yes","no"]',
                preview=None,
                preview_hash=None,
                expires_at=None,
            )
        )
        return decision_id

    def start_children(self, run: JobRef, key: str, *kinds: str) -> list[JobRef]:
        children = []
        for kind in kinds:
            job_id = JobId(self.world.ids.uuid7(self.world.clock.now_ms()))
            children.append(
                self.world.submission(job_id, kind, run.agent, parent_job_id=run.job_id, parent_step_key=StepKey(key))
            )
        outcome = msgspec.json.encode([c.job_id for c in children]).decode()
        self.do(
            ct.StartChildren(job=run, step_key=StepKey(key), name="start", children=tuple(children), outcome=outcome)
        )
        return [JobRef(c.job_id, c.trace_id, c.kind) for c in children]

    def resume_by_policy(self, job: JobRef, *, probation: bool = False) -> None:
        row = self.world.row(job)
        self.do(
            cs.ResumeJob(
                job=cs.ref_of(row), source=row.state, source_reason=row.status_reason, who=self.who, probation=probation
            )
        )

    def poison(self, job: JobRef) -> None:
        row = self.world.row(job)
        self.do(
            cs.PoisonJob(job=cs.ref_of(row), source=row.state, who=self.who, stalls=row.stalls, evidence=("event",))
        )

    def stop(self) -> None:
        self.do(ce.CloseWriterNow(engine_id=self.id, stopped=ev.EngineStopped(drained=True, suspended_runs=0)))


@dataclass
class World:
    """One store, and everything that writes to it."""

    path: str | Path
    store: Store = field(init=False)
    clock: StepClock = field(default_factory=StepClock)
    ids: RandomIds = field(default_factory=lambda: RandomIds(random.Random(7).randbytes))
    after_batch: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.store = store_at(str(self.path), durability="process")
        self.store.open(create=True)

    def close(self) -> None:
        self.store.close()

    def engine(self, name: str = "e") -> Engine:
        return Engine(self, name)

    def client(self) -> Writer:
        return Writer(self, "client", "cli")

    def row(self, job: JobRef) -> JobRecord:
        with self.store.reading() as reads:
            row = reads.job(job.job_id)
        assert row is not None
        return row

    def submission(self, job_id: JobId, kind: str, who: Who, **more: object) -> cj.SubmitJob:
        return cj.SubmitJob(
            job_id=job_id,
            trace_id=f"trace-{job_id}",
            kind=kind,
            inputs="{}",
            inputs_hash=digest("{}"),
            who=who,
            **more,  # type: ignore[arg-type]
        )
