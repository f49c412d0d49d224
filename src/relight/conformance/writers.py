"""Who writes in the suite: a client or an engine, with a journal that is pumped by hand; every act is a real command.

A method named after an act writes it (``claim``); its ``-ing`` form only returns the command (``claiming``), to be put
together with others. A crash is an engine that is simply not heard of again. Read next: ``world.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from relight.clock import Clock, rfc3339
from relight.core import events as ev
from relight.core.chain import Head, link
from relight.core.changes import OpenWriter, Who, merge
from relight.core.commands import Command, JobRef
from relight.core.commands import engines as ce
from relight.core.commands import jobs as cj
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.failure import Failure
from relight.core.flow import digest
from relight.core.queue_rows import QueueLimit
from relight.core.row import Row
from relight.ids import EngineId, Ids, JobId, RunId, StepKey
from relight.model import (
    PUBLISHING_STATES,
    Actor,
    EngineRecord,
    EngineState,
    GateState,
    JobRecord,
    JobState,
    QueueRecord,
    Role,
    StepKind,
    StepState,
    Verdict,
)
from relight.store.journal import Journal
from relight.store.store import Batch, Store

START_MS = 1_750_000_000_000
LEASE_MS = 30_000
ANN = Who(Actor.HUMAN, "ann")
FAILURE = Failure(type="ValueError", message="no")


class Surroundings(Protocol):
    """What a writer needs of the world it writes in."""

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def ids(self) -> Ids:
        """Ids."""
        ...

    def new_id(self) -> str:
        """Return a new id."""
        ...

    def find(self, job: JobRef | str) -> JobRecord | None:
        """Return a job's row, or None."""
        ...

    def job(self, job: JobRef | str) -> JobRecord:
        """Return a job's row."""
        ...

    def writer_row(self, writer: Writer) -> EngineRecord:
        """Return a writer's row."""
        ...


class Writer:
    """A client, or an engine, with a journal of its own. Its row is written with its first act."""

    def __init__(self, world: Surroundings, role: Role, name: str, store: Store) -> None:
        self.world = world
        self.role = role
        self.name = name
        self.store = store
        self.id = EngineId(world.new_id())
        self.who = Who(Actor.SYSTEM, self.id) if role is Role.ENGINE else ANN
        self.opened_with: ce.OpenWriterNow | None = None
        self.journal = self.new_journal(store)

    def new_journal(self, store: Store) -> Journal:
        """Return another journal of this writer, as a copy of the process would have."""
        return Journal(store, self.id, self.opening, clock=self.world.clock, ids=self.world.ids)

    def opening(self) -> Command:
        """Return the command that writes this writer's row."""
        now = self.world.clock.now_ms()
        with self.store.reading() as reads:
            heads = tuple(reads.unnamed_heads())
        is_engine = self.role is Role.ENGINE
        gate = GateState.CLOSED if is_engine else GateState.OPEN
        row = OpenWriter(
            self.id,
            self.role,
            self.name,
            gate,
            "nonce",
            "host",
            "boot",
            1,
            "0",
            LEASE_MS,
            now + LEASE_MS,
            now,
            "[]",
            None,
        )
        started = ev.EngineStarted(
            host_id="host", boot_id="boot", pid=1, version="0", store="store", durability="process", heads={}
        )
        self.opened_with = ce.OpenWriterNow(row=row, heads=heads, who=self.who, started=started if is_engine else None)
        return self.opened_with

    def outcomes(self, *commands: Command) -> list[BaseException | None]:
        """Put commands in together, write them, and return what became of each."""
        tickets = [self.journal.put(command) for command in commands]
        self.pump()
        assert all(ticket.done for ticket in tickets), f"the store refuses: {self.journal.trouble!r}"
        return [ticket.error for ticket in tickets]

    def pump(self) -> None:
        """Write until nothing more can be done now."""
        while self.journal.pump():
            pass

    def batch_of(self, *commands: Command, skip: int = 0) -> Batch:
        """Return the batch that commands make right after what is on disk; ``skip`` leaves batch numbers out."""
        row = self.world.writer_row(self)
        wanted = merge(command.changes(self.world.clock.now_ms(), self.world.ids) for command in commands)
        rows: dict[str, list[Row]] = {}
        for each in wanted.rows:
            rows.setdefault(each.op, []).append(each)
        head = Head(row.head_seq, row.head_hash)
        events, head = link(head, wanted.events, writer_id=self.id, engine_id=self.id)
        texts = {op: msgspec.json.encode(some).decode() for op, some in rows.items()}
        return Batch(self.id, row.batch_seq + 1 + skip, head, texts, events)

    def do(self, *commands: Command) -> None:
        """Write commands; raise the first error."""
        for error in self.outcomes(*commands):
            if error is not None:
                raise error

    def tell(self, payload: ev.EventPayload, job: JobRef | None = None) -> None:
        """Write an event alone."""
        self.do(ce.Tell(payload=payload, who=self.who, job=job))

    def close(self) -> None:
        """Leave of one's own accord."""
        stopped = ev.EngineStopped(drained=True, suspended_runs=0) if self.role is Role.ENGINE else None
        self.do(ce.CloseWriterNow(engine_id=self.id, stopped=stopped))

    # jobs from outside

    def submission(self, kind: str = "census", **more: Any) -> cj.SubmitJob:
        """Return the command for a submit; keywords are those of ``SubmitJob``."""
        job_id = JobId(self.world.new_id())
        values: dict[str, Any] = {
            "job_id": job_id,
            "trace_id": f"trace-{job_id}",
            "kind": kind,
            "inputs": "{}",
            "inputs_hash": digest("{}"),
            "who": self.who,
        } | more
        return cj.SubmitJob(**values)

    def submit(self, kind: str = "census", **more: Any) -> JobRef:
        """Submit a job."""
        command = self.submission(kind, **more)
        self.do(command)
        return ref(command)

    def signal_command(self, job: JobRef, name: str, payload: str = "1", *, key: str | None = None) -> cs.SendSignal:
        """Return the command that sends a message."""
        return cs.SendSignal(
            job=job,
            signal_id=self.world.new_id(),
            name=name,
            payload=payload,
            payload_hash=digest(payload),
            idempotency_key=key,
            who=ANN,
        )

    def signal(self, job: JobRef, name: str, payload: str = "1", *, key: str | None = None) -> str:
        """Send a message; return its id."""
        command = self.signal_command(job, name, payload, key=key)
        self.do(command)
        return command.signal_id

    def answer_command(self, job: JobRef, decision_id: str, choice: str = "yes") -> cs.GiveDecision:
        """Return the command that answers a question."""
        return cs.GiveDecision(job=job, decision_id=decision_id, choice=choice, note=None, preview_hash=None, who=ANN)

    def answer(self, job: JobRef, decision_id: str, choice: str = "yes") -> None:
        """Answer a question."""
        self.do(self.answer_command(job, decision_id, choice))

    def end_command(
        self, job: JobRef, code: str = "cancel", *, force: bool = False, open_decisions: Sequence[str] = ()
    ) -> cs.EndNow | cs.RequestEnd:
        """Return what ends a job as it is now: ``code`` is cancel, fail or deadline."""
        who = Who(Actor.SYSTEM, self.id) if code == "deadline" else ANN
        return cs.decide_end(
            self.world.job(job), who, code=code, reason="enough", force=force, open_decisions=open_decisions
        )

    def end(self, job: JobRef, code: str = "cancel", *, force: bool = False) -> None:
        """Cancel a job, fail it, or tell it of its deadline."""
        self.do(self.end_command(job, code, force=force))

    def retry(self, job: JobRef, *reopen: str) -> None:
        """Retry a failed or poisoned job."""
        self.do(cs.decide_retry(self.world.job(job), ANN, [StepKey(key) for key in reopen]))

    def resume(self, job: JobRef) -> None:
        """Resume a job as an operator."""
        self.do(cs.decide_resume(self.world.job(job), ANN))

    def settle(self, job: JobRef, key: str, verdict: str, value: str | None = None) -> None:
        """Settle a step in doubt as an operator: done, not_done or fail."""
        self.do(cs.SettleDoubt(job=job, step_key=StepKey(key), verdict=verdict, value=value, who=ANN))

    def release_quarantined(self, job: JobRef) -> None:
        """Take a job out of quarantine."""
        self.do(cs.ReleaseQuarantined(job=job, table_name="jobs", who=ANN))


class Engine(Writer):
    """An engine: recovers, opens its gate, claims and runs."""

    def __init__(self, world: Surroundings, name: str, store: Store) -> None:
        super().__init__(world, Role.ENGINE, name, store)
        self.recovery_id = world.new_id()

    # recovery and gate

    def beat(self) -> None:
        """Renew the lease."""
        self.do(ce.RenewLease(engine_id=self.id, lease_ms=LEASE_MS))

    def judging(self, other: Engine, verdict: Verdict = Verdict.DEAD, **more: Any) -> ce.JudgeEngineNow:
        """Return the command that fences another engine as its row is now."""
        row = self.world.writer_row(other)
        target = EngineState.SILENT if verdict is Verdict.SILENT else EngineState.DEAD
        values: dict[str, Any] = {
            "judge": self.id,
            "engine_id": other.id,
            "source": row.state,
            "target": target,
            "beat_at": row.beat_at,
            "last_heartbeat_ts": rfc3339(row.beat_at),
            "verdict": verdict,
            "evidence": {"reason": "test"},
        } | more
        return ce.JudgeEngineNow(**values)

    def judge(self, other: Engine, verdict: Verdict = Verdict.DEAD) -> None:
        """Fence another engine."""
        self.do(self.judging(other, verdict))

    def stalling(
        self, run: JobRef, owner: Engine, in_doubt: Iterable[str] = (), verdict: Verdict = Verdict.DEAD
    ) -> ce.StallRunNow:
        """Return the command that stalls a run."""
        return ce.StallRunNow(
            job=run,
            owner=owner.id,
            verdict=verdict,
            evidence={"reason": "test"},
            recovery_id=self.recovery_id,
            judge=self.id,
            last_heartbeat_ts=rfc3339(START_MS),
            threshold_secs=LEASE_MS / 1000,
            in_doubt=tuple(StepKey(key) for key in in_doubt),
            held=verdict is Verdict.SILENT,
        )

    def stall_all(self, owner: Engine, verdict: Verdict = Verdict.DEAD) -> list[JobRef]:
        """Stall everything an engine left running; return the runs."""
        with self.store.reading() as reads:
            runs = reads.running_of(owner.id)
        stalled = [JobRef(run.job_id, run.trace_id or "", "", run.run_id) for run in runs]
        self.do(*(self.stalling(job, owner, run.in_doubt, verdict) for job, run in zip(stalled, runs, strict=True)))
        return stalled

    def recover(self, other: Engine, verdict: Verdict = Verdict.DEAD) -> list[JobRef]:
        """Fence an engine and stall what it left running."""
        self.judge(other, verdict)
        return self.stall_all(other, verdict)

    def starting_recovery(self) -> Command:
        """Return the command that says that a recovery began."""
        return ce.Tell(payload=ev.RecoveryStarted(recovery_id=self.recovery_id), who=self.who)

    def finishing_recovery(self, **more: int) -> ce.FinishRecovery:
        """Return the command that writes the receipt."""
        counts = {"scanned": 0, "stalled": 0, "in_doubt": 0, "quarantined": 0} | more
        return ce.FinishRecovery(
            recovery_id=self.recovery_id,
            engine_id=self.id,
            engines=(),
            started_at=self.world.clock.now_ms(),
            **counts,
        )

    def finish_recovery(self, **more: int) -> None:
        """Write the receipt."""
        self.do(self.finishing_recovery(**more))

    def opening_gate(self) -> ce.OpenGate:
        """Return the command that opens the gate."""
        return ce.OpenGate(engine_id=self.id, recovery_id=self.recovery_id, closed_ms=1)

    def open_gate(self) -> None:
        """Open the gate."""
        self.do(self.opening_gate())

    def quarantining(self, job: JobRef) -> ce.QuarantineRow:
        """Return the command that sets a job aside."""
        return ce.QuarantineRow(
            job_id=job.job_id,
            trace_id=job.trace_id,
            table_name="jobs",
            code="cannot_be_stalled",
            detail="test",
            recovery_id=self.recovery_id,
            judge=self.id,
        )

    def release_hold(self, job: JobRef, owner: Engine) -> None:
        """Say that a silent owner's last try has ended."""
        self.do(cs.ReleaseHeld(job=job, owner=owner.id, who=self.who))

    def wake_due(self) -> None:
        """Wake every job whose timer has run out."""
        self.do(ce.WakeDueJobs())

    def seen_queue(self, queue: str) -> QueueRecord | None:
        """Return a queue's row."""
        with self.store.reading() as reads:
            return next((each for each in reads.queues() if each.queue == queue), None)

    def defining_queue(self, queue: str, **terms: Any) -> cq.DefineQueue:
        """Return the command that defines a queue."""
        record = QueueRecord(queue=queue, **terms)
        return cq.DefineQueue(queue=record, seen=self.seen_queue(queue), by=self.name, who=self.who)

    def define_queue(self, queue: str, **terms: Any) -> None:
        """Define a queue."""
        self.do(self.defining_queue(queue, **terms))

    def resume_by_policy(self, job: JobRef, *, probation: bool = False) -> None:
        """Resume a stalled job as policy does."""
        row = self.world.job(job)
        self.do(
            cs.ResumeJob(
                job=cs.ref_of(row), source=row.state, source_reason=row.status_reason, who=self.who, probation=probation
            )
        )

    def hold(self, job: JobRef) -> None:
        """Leave a stalled job to an operator."""
        row = self.world.job(job)
        self.do(
            cs.HoldJob(
                job=cs.ref_of(row), source=row.state, source_reason=row.status_reason, who=self.who, code="policy"
            )
        )

    def poisoning(self, job: JobRef, **more: Any) -> cs.PoisonJob:
        """Return the command that poisons a job."""
        row = self.world.job(job)
        values: dict[str, Any] = {
            "job": cs.ref_of(row),
            "source": row.state,
            "who": self.who,
            "stalls": row.stalls,
            "evidence": ("event",),
        } | more
        return cs.PoisonJob(**values)

    # a job's run

    def claiming(self, job: JobRef, *, limits: Sequence[QueueLimit] = (), **more: Any) -> cj.ClaimJob:
        """Return the command that claims a job as it is now."""
        row = self.world.find(job)
        values: dict[str, Any] = {
            "job": JobRef(job.job_id, job.trace_id, job.kind, RunId(self.world.new_id())),
            "engine_id": self.id,
            "attempt": 1 if row is None else row.attempt,
            "version": None if row is None else row.version,
            "replay_steps": 0,
            "limits": tuple(limits),
        } | more
        return cj.ClaimJob(**values)

    def claim(self, job: JobRef, **more: Any) -> JobRef:
        """Claim a job; return the reference that names the new run."""
        command = self.claiming(job, **more)
        self.do(command)
        return command.job

    def run_new(self, **more: Any) -> JobRef:
        """Submit a job and claim it."""
        return self.claim(self.submit(**more))

    def beginning(self, run: JobRef, key: str = "fetch#0", try_number: int = 1, **more: Any) -> ct.BeginTry:
        """Return the command that begins a try."""
        values: dict[str, Any] = {
            "job": run,
            "step_key": StepKey(key),
            "name": key.partition("#")[0],
            "try_number": try_number,
            "policy": "retry",
            "args_hashes": None,
            "args_hash": digest("{}"),
            "args_bytes": 2,
            "inputs": None,
            "code_ref": None,
        } | more
        return ct.BeginTry(**values)

    def begin(self, run: JobRef, key: str = "fetch#0", try_number: int = 1, **more: Any) -> None:
        """Begin a step."""
        self.do(self.beginning(run, key, try_number, **more))

    def finishing_step(self, run: JobRef, key: str = "fetch#0", outcome: str = "7", **more: Any) -> ct.FinishStep:
        """Return the command that records a step's outcome."""
        values: dict[str, Any] = {
            "job": run,
            "step_key": StepKey(key),
            "try_number": 1,
            "outcome": outcome,
            "outcome_hash": digest(outcome),
            "began_at": START_MS,
        } | more
        return ct.FinishStep(**values)

    def finish_step(self, run: JobRef, key: str = "fetch#0", outcome: str = "7", **more: Any) -> None:
        """Record a step's outcome."""
        self.do(self.finishing_step(run, key, outcome, **more))

    def failing_try(
        self, run: JobRef, key: str = "fetch#0", state: StepState = StepState.FAILED, **more: Any
    ) -> ct.FailTry:
        """Return the command that records a failed try."""
        until = None if state is StepState.FAILED else self.world.clock.now_ms() + 1000
        values: dict[str, Any] = {
            "job": run,
            "step_key": StepKey(key),
            "try_number": 1,
            "state": state,
            "failure": FAILURE,
            "until": until,
        } | more
        return ct.FailTry(**values)

    def fail_try(self, run: JobRef, key: str = "fetch#0", state: StepState = StepState.FAILED, **more: Any) -> None:
        """Record a failed try."""
        self.do(self.failing_try(run, key, state, **more))

    def waiting(
        self, run: JobRef, key: str, kind: StepKind, waits_for: str | None = None, until: int | None = None
    ) -> ct.BeginWait:
        """Return the command that begins a durable wait."""
        name = key.partition("#")[0]
        return ct.BeginWait(job=run, step_key=StepKey(key), kind=kind, name=name, until=until, waits_for=waits_for)

    def wait(
        self, run: JobRef, key: str, kind: StepKind, waits_for: str | None = None, until: int | None = None
    ) -> None:
        """Begin a durable wait."""
        self.do(self.waiting(run, key, kind, waits_for, until))

    def ask(self, run: JobRef, key: str = "ask#0", expires_at: int | None = None) -> str:
        """Ask a person; return the question's id."""
        decision_id = self.world.new_id()
        self.do(
            ct.AskPerson(
                job=run,
                step_key=StepKey(key),
                decision_id=decision_id,
                question="really?",
                options='["yes","no"]',
                preview=None,
                preview_hash=None,
                expires_at=expires_at,
            )
        )
        return decision_id

    def start_child(self, run: JobRef, key: str = "start#0", **more: Any) -> JobRef:
        """Start a child job."""
        child = self.submission("child", parent_job_id=run.job_id, parent_step_key=StepKey(key), **more)
        outcome = msgspec.json.encode([child.job_id]).decode()
        self.do(ct.StartChildren(job=run, step_key=StepKey(key), name="start", children=(child,), outcome=outcome))
        return ref(child)

    def putting_away(
        self,
        run: JobRef,
        reason: str = "waiting",
        *,
        state: JobState = JobState.QUEUED,
        ready_at: int | None = None,
        tells: tuple[ev.EventPayload, ...] = (),
    ) -> cj.PutJobAway:
        """Return the command that puts a run away."""
        return cj.PutJobAway(job=run, engine_id=self.id, state=state, reason=reason, ready_at=ready_at, tells=tells)

    def put_away(self, run: JobRef, reason: str = "waiting", **more: Any) -> None:
        """Put a run away."""
        self.do(self.putting_away(run, reason, **more))

    def await_user(self, run: JobRef, decision_id: str, **more: Any) -> None:
        """Put a run away for a person."""
        self.do(self.awaiting_user(run, decision_id, **more))

    def awaiting_user(self, run: JobRef, decision_id: str, *, ready_at: int | None = None) -> cj.PutJobAway:
        """Return the command that puts a run away for a person."""
        told = ev.JobAwaitingUser(
            decision_id=decision_id, question_redacted="really?", options=["yes", "no"], preview_hash=""
        )
        return self.putting_away(run, "awaiting_user", state=JobState.AWAITING_USER, ready_at=ready_at, tells=(told,))

    def mismatching(self, run: JobRef) -> cj.PutJobAway:
        """Return the command that puts a run away because its code no longer agrees with its record."""
        told = ev.HistoryMismatch(step_key="fetch#0", recorded_hash="a", now_hash="b", detail="x")
        return self.putting_away(run, "history_mismatch:args", state=JobState.AWAITING_USER, tells=(told,))

    def mismatch(self, run: JobRef) -> None:
        """Put a run away for an operator."""
        self.do(self.mismatching(run))

    def finishing(self, run: JobRef, state: JobState = JobState.COMPLETED, **more: Any) -> cj.FinishRun:
        """Return the command that ends a run and its job."""
        row = self.world.find(run)
        outputs = "1" if state in PUBLISHING_STATES else None
        values: dict[str, Any] = {
            "job": run,
            "engine_id": self.id,
            "state": state,
            "reason": str(state),
            "attempt": 1 if row is None else row.attempt,
            "duration_ms": 1,
            "outputs": outputs,
            "outputs_hash": digest(outputs or ""),
            "failure": FAILURE if state is JobState.FAILED else None,
            "issues": '[{"code":"odd"}]' if state is JobState.COMPLETED_WITH_ISSUES else None,
            "by": "ann" if state is JobState.CANCELLED else None,
        } | more
        return cj.FinishRun(**values)

    def finish(self, run: JobRef, state: JobState = JobState.COMPLETED, **more: Any) -> None:
        """End a run and its job."""
        self.do(self.finishing(run, state, **more))


def ref(command: cj.SubmitJob) -> JobRef:
    """Return a submitted job's reference."""
    return JobRef(command.job_id, command.trace_id, command.kind)
