"""What may be done to the store and its reference: each act chooses whom it is done to, and does nothing if there is none."""

from __future__ import annotations

from typing import Any

from tests.model.driver import KEYS, NAMES, QUEUES, Driver, Nothing, odd

from relight.conformance.world import ANN, FAILURE, Engine, Writer
from relight.core import events as ev
from relight.core.commands import Command, JobRef
from relight.core.commands import engines as ce
from relight.core.commands import jobs as cj
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.flow import digest
from relight.core.queue_rows import QueueLimit
from relight.errors import IllegalTransition
from relight.ids import EngineId, StepKey
from relight.model import (
    FINISHED_STEPS,
    EngineState,
    GateState,
    JobRecord,
    JobState,
    RunRecord,
    RunState,
    StepKind,
    StepState,
    Verdict,
)

_S = JobState


class Acts(Driver):
    """See the module. ``n`` and ``m`` choose; ``wait`` leaves the command to be written with the next."""

    def wake_due(self, n: int, wait: bool) -> None:
        self.go(self.an_engine(n), ce.WakeDueJobs(), wait)

    def define_queue(self, n: int, slots: int) -> None:
        engine = self.an_engine(n)
        self.write_all()  # what is claimed after this knows of it
        self.go(engine, engine.defining_queue("narrow", slots=slots))

    def steer_queue(self, n: int, slots: int, wait: bool) -> None:
        """An operator pauses a queue or overrides it; now and then on what is not its last revision any more."""
        seen = self.reference.t.queues.get("narrow")
        stale = n % 5 == 0 and seen is not None
        self.go(
            self.client,
            cq.SteerQueue(
                queue="narrow",
                seen=None if stale else seen,
                paused=n % 2 == 0,
                override={"slots": 3 + slots} if slots else {},
                who=ANN,
            ),
            wait,
        )

    def terms(self, queue: str, n: int) -> int | None:
        """Return the revision that a claim names: the present one, none, or one that is past."""
        defined = self.reference.t.queues.get(queue)
        revision = 0 if defined is None else defined.revision
        return (revision, revision, None, revision - 1)[n % 4]

    def limits(self, queue: str) -> tuple[QueueLimit, ...]:
        """Return the limits of a queue as it is defined: every claim names them."""
        defined = self.reference.t.queues.get(queue)
        return () if defined is None or defined.slots is None else (QueueLimit(queue, None, defined.slots),)

    def crash(self, n: int, m: int, verdict: Verdict, wait: bool) -> None:
        """An engine that has runs is heard of no more; another one recovers it."""
        owners = [e for e in self.live() if any(r.engine_id == e.id for r in self.running())]
        owner = self.some(owners, n)
        others = [e for e in self.live() if e is not owner]
        if owner is None or not others:
            return
        self.write_all()
        judge = others[m % len(others)]
        self.go(judge, judge.judging(owner, verdict))
        for run in [run for run in self.running() if run.engine_id == owner.id]:
            self.stall_run(judge, run, wait)

    # jobs

    def submit(self, n: int, m: int, wait: bool) -> None:
        delay = (None, None, 0, 500, 1000)[n % 5]
        command = self.client.submission(
            idempotency_key=(None, None, "a", "b")[m % 4],
            queue=QUEUES[n % 2],
            priority=m % 3,
            ready_at=None if delay is None else self.world.clock.now_ms() + delay,
            max_stalls=1 + n % 3,
        )
        self.go(self.client, command, wait)

    def fork(self, n: int, m: int, wait: bool) -> None:
        """A new job takes over what another one has finished; now and then what it has not."""
        source = self.a_job(n)
        steps = [s for s in self.reference.steps_of(source.job_id) if s.kind in (StepKind.STEP, StepKind.VALUE)]
        kept = [s.step_key for s in steps if s.state in FINISHED_STEPS or m % 7 == 0]
        new = self.client.submission(source.kind, queue=source.queue, forked_from=source.job_id)
        command = cj.ForkJob(source=cs.ref_of(source), new=new, from_step=None, steps=tuple(kept))
        self.go(self.client, command, wait)

    def start_job(self, n: int, queue: str, begins: bool) -> None:
        """A job is submitted, claimed, and perhaps its first step begins."""
        engines = [e for e in self.live() if self.reference.t.engines[e.id].gate is GateState.OPEN]
        engine = self.some(engines, n)
        if engine is None:
            return
        command = self.client.submission(queue=queue)
        self.go(self.client, command)
        job = self.reference.t.jobs[command.job_id]
        claim = engine.claiming(cs.ref_of(job), attempt=1, limits=self.limits(queue))
        self.go(engine, claim, begins)
        if begins:
            self.go(engine, engine.beginning(claim.job, KEYS[n % 3]))

    def claim(self, n: int, m: int, slots: int | None, mine: bool, wait: bool) -> None:
        try:
            engine, job = self.an_engine(m), self.a_job(n, _S.QUEUED)
        except Nothing:
            return
        limits = self.limits(job.queue)
        if slots is not None:
            limits = (*limits, QueueLimit(job.queue, engine.id if mine else None, slots))
        attempt = job.attempt if n != 777 else job.attempt + 1
        command = cj.ClaimJob(
            job=cj.fresh_run(job.job_id, job.trace_id, job.kind, self.world.new_id()),
            engine_id=engine.id,
            attempt=attempt,
            version=job.version if job.begun else ("2" if n % 2 else None),
            replay_steps=0,
            limits=limits,
            terms=self.terms(job.queue, n),
        )
        self.go(engine, command, wait)

    def finish(self, n: int, state: JobState, wait: bool) -> None:
        engine, run = self.a_run(n)
        attempt = self.reference.t.jobs[run.job_id].attempt
        self.go(engine, engine.finishing(run, state, attempt=attempt), wait)

    def put_away(self, n: int, delay: int | None, wait: bool) -> None:
        engine, run = self.a_run(n)
        ready_at = None if delay is None else self.world.clock.now_ms() + delay
        if self.is_quiet(engine, run):
            self.go(engine, engine.putting_away(run, ready_at=ready_at), wait)

    def await_person(self, n: int, delay: int | None, wait: bool) -> None:
        engine, run = self.a_run(n)
        asked = [d.decision_id for d in self.reference.t.decisions.values() if d.job_id == run.job_id]
        question = self.some(asked, n)
        if question is not None and self.is_quiet(engine, run):
            ready_at = None if delay is None else self.world.clock.now_ms() + delay
            self.go(engine, engine.awaiting_user(run, question, ready_at=ready_at), wait)

    def mismatch(self, n: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        if self.is_quiet(engine, run):
            self.go(engine, engine.mismatching(run), wait)

    # steps

    def begin_step(self, n: int, m: int, try_number: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        key = KEYS[m % len(KEYS)]
        found = self.reference.t.steps.get((run.job_id, key))
        if found is None or found.kind is StepKind.STEP:
            self.go(engine, engine.beginning(run, key, try_number), wait)

    def end_try(self, n: int, m: int, how: str, wait: bool) -> None:
        engine, run = self.a_run(n)
        doubtful = how in ("done", "not_done", "fail")
        wanted = (StepState.IN_DOUBT,) if doubtful else (StepState.RUNNING, StepState.BACKOFF)
        key = self.a_step(run, m, *wanted)
        found = self.reference.t.steps.get((run.job_id, key))
        if found is not None and found.kind is not StepKind.STEP:
            return
        self.go(engine, self.ending_try(engine, run, key, how), wait)

    def ending_try(self, engine: Engine, run: JobRef, key: str, how: str) -> Command:
        """Return what ends a try so."""
        match how:
            case "finish":
                return engine.finishing_step(run, key)
            case "failed":
                return engine.failing_try(run, key)
            case "backoff":
                return engine.failing_try(run, key, StepState.BACKOFF)
            case "doubt":
                return engine.failing_try(run, key, StepState.IN_DOUBT)
            case "abandon":
                return ct.AbandonStep(job=run, step_key=StepKey(key), try_number=1, reason="sibling")
        verdicts: dict[str, ev.Settlement] = {"done": "done", "not_done": "not_done", "fail": "failed"}
        return ct.ReconcileStep(
            job=run,
            step_key=StepKey(key),
            verdict=verdicts[how],
            by="reconcile",
            try_number=1,
            outcome="7" if how == "done" else None,
            failure=FAILURE if how == "fail" else None,
        )

    def record_value(self, n: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        self.go(engine, ct.RecordValue(job=run, step_key=StepKey(f"now#{n % 3}"), name="now", outcome=str(n)), wait)

    def report_progress(self, n: int, done: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        self.go(engine, ct.ReportProgress(job=run, progress=f'{{"done":{done}}}'), wait)

    # waits

    def wait_signal(self, n: int, name: str, number: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        key = StepKey(f"{name}#{number}")
        self.go(
            engine,
            ct.BeginWait(job=run, step_key=key, kind=StepKind.SIGNAL, name=name, until=None, waits_for=name),
            wait,
        )

    def consume(self, n: int, name: str, number: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        mine = [s for s in self.reference.t.signals.values() if s.job_id == run.job_id and s.name == name]
        unread = [s for s in mine if s.read_by is None]
        signal = self.some(mine if odd(n) else unread, 0)
        if signal is None:
            return
        key = StepKey(f"{name}#{number}")
        fresh = (run.job_id, key) not in self.reference.t.steps
        command = ct.ConsumeSignal(
            job=run,
            step_key=key,
            signal_id=signal.signal_id,
            name=name,
            payload_hash=digest(signal.payload or ""),
            outcome=signal.payload or "",
            fresh=fresh,
        )
        self.go(engine, command, wait)

    def ask(self, n: int, number: int, limit: int | None, wait: bool) -> None:
        engine, run = self.a_run(n)
        key = StepKey(f"ask#{number}")
        if (run.job_id, key) in self.reference.t.steps:
            return
        command = ct.AskPerson(
            job=run,
            step_key=key,
            decision_id=self.world.new_id(),
            question="really?",
            options='["yes","no"]',
            preview=None,
            preview_hash=None,
            expires_at=None if limit is None else self.world.clock.now_ms() + limit,
        )
        self.go(engine, command, wait)

    def sleep(self, n: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        until = self.world.clock.now_ms() + 1000
        key = StepKey(f"sleep#{n % 2}")
        self.go(
            engine,
            ct.BeginWait(job=run, step_key=key, kind=StepKind.SLEEP, name="sleep", until=until, waits_for=None),
            wait,
        )

    def end_wait(self, n: int, m: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        waits = [s.step_key for s in self.reference.steps_of(run.job_id) if s.state is StepState.WAITING]
        key = self.some(waits, m)
        if key is not None:
            self.go(engine, ct.EndWait(job=run, step_key=key, outcome="null"), wait)

    def start_child(self, n: int, number: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        key = StepKey(f"start#{number}")
        if self.reference.t.engines[engine.id].gate is not GateState.OPEN or not self.has_room():
            return
        child = engine.submission("child", parent_job_id=run.job_id, parent_step_key=key)
        self.go(
            engine,
            ct.StartChildren(job=run, step_key=key, name="start", children=(child,), outcome=f'["{child.job_id}"]'),
            wait,
        )

    def wait_child(self, n: int, m: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        children = [j.job_id for j in self.reference.t.jobs.values() if j.parent_job_id == run.job_id]
        child = self.some(children, m)
        if child is not None:
            self.wait_for_child(engine, run, child, wait)

    def wait_for_child(self, engine: Engine, run: JobRef, child: str, wait: bool = False) -> None:
        """Begin to wait for a child's end."""
        key = StepKey(f"child[{child[-6:]}]")
        self.go(
            engine,
            ct.BeginWait(job=run, step_key=key, kind=StepKind.CHILD_RESULT, name="child", until=None, waits_for=child),
            wait,
        )

    def race(self, n: int, m: int, wait: bool) -> None:
        """A run waits and is put away, and what it waits for comes just before or just after."""
        engine, run = self.a_run(n)
        if not self.is_quiet(engine, run):
            return
        name, other = NAMES[m % 2], NAMES[1 - m % 2]
        arrival: Command
        if n % 2 and self.has_room():
            self.start_child(n, m % 2, False)
        children = [j for j in self.reference.t.jobs.values() if j.parent_job_id == run.job_id]
        live = [j for j in children if j.state in (_S.QUEUED, _S.RUNNING)]
        if n % 2 and live:
            self.wait_for_child(engine, run, live[-1].job_id)
            arrival = cs.decide_end(
                live[-1], ANN, code="cancel", reason=None, force=True, open_decisions=self.open_questions(live[-1])
            )
        else:
            self.wait_signal(n, name, m % 3, wait)
            arrival = self.client.signal_command(run, name, str(n))
        away = (engine, engine.putting_away(run))
        acts: list[tuple[Writer, Command]] = [(self.client, arrival), away] if m % 3 else [away, (self.client, arrival)]
        for writer, command in acts:
            if writer is self.client and m % 5 < 2:
                self.go(self.client, self.client.signal_command(run, other, str(m)), wait=True)
            self.go(writer, command)

    def open_questions(self, job: JobRecord) -> list[str]:
        """Return a job's open questions."""
        rows = self.reference.t.decisions.values()
        return [row.decision_id for row in rows if row.job_id == job.job_id and row.state == "open"]

    # from outside

    def signal(self, n: int, name: str, key: str | None, wait: bool) -> None:
        job = self.a_job(n, _S.QUEUED, _S.RUNNING)
        self.go(self.client, self.client.signal_command(cs.ref_of(job), name, str(n), key=key), wait)

    def close_question(self, n: int, how: str, wait: bool) -> None:
        decisions = list(self.reference.t.decisions.values())
        if not decisions:
            return
        still_open = [d for d in decisions if d.state == "open"]
        row = decisions[n % len(decisions)] if odd(n) or not still_open else still_open[n % len(still_open)]
        job = self.reference.t.jobs[row.job_id]
        ref = cs.ref_of(job)
        match how:
            case "answer":
                self.go(self.client, self.client.answer_command(ref, row.decision_id), wait)
            case "time out":
                engine = self.an_engine(n)
                self.go(engine, cs.QuestionTimedOut(job=ref, decision_id=row.decision_id, who=engine.who), wait)
            case "withdraw":
                self.go(self.an_engine(n), cs.WithdrawQuestion(job=ref, decision_ids=(row.decision_id,)), wait)
            case _:
                expire = ct.ExpireDecision(job=ref, step_key=row.step_key, decision_id=row.decision_id, outcome="null")
                self.go(self.an_engine(n), expire, wait)

    def end(self, n: int, code: str, force: bool, wait: bool) -> None:
        job = self.a_job(n, _S.QUEUED, _S.RUNNING, _S.AWAITING_USER, _S.STALLED)
        if job.cancel_code is not None and not force:
            return
        engine = self.an_engine(n)
        who, writer = (engine.who, engine) if code == "deadline" else (ANN, self.client)
        opened = [d.decision_id for d in self.reference.t.decisions.values() if d.job_id == job.job_id]
        opened = [d for d in opened if self.reference.t.decisions[d].state == "open"] if force else []
        try:
            command = cs.decide_end(job, who, code=code, reason=None, force=force, open_decisions=opened)
        except IllegalTransition:
            return
        self.go(writer, command, wait)

    def settle(self, n: int, m: int, wait: bool) -> None:
        doubts = [s for s in self.reference.t.steps.values() if s.state is StepState.IN_DOUBT]
        step = self.some(doubts, n)
        if step is None:
            return
        ref = cs.ref_of(self.reference.t.jobs[step.job_id])
        verdict = ("done", "not_done", "fail")[m % 3]
        value = "7" if verdict == "done" else None
        command = cs.SettleDoubt(job=ref, step_key=step.step_key, verdict=verdict, value=value, who=ANN)
        self.go(self.client, command, wait)

    def retry(self, n: int, m: int, wait: bool) -> None:
        job = self.a_job(n, _S.FAILED, _S.POISONED)
        failed = [s.step_key for s in self.reference.steps_of(job.job_id) if s.state is StepState.FAILED]
        reopen = [key for i, key in enumerate(failed) if m >> i & 1]
        source = job.state if job.state in (_S.FAILED, _S.POISONED) else _S.FAILED
        self.go(self.client, cs.RetryJob(job=cs.ref_of(job), source=source, who=ANN, reopen=tuple(reopen)), wait)

    # engines, recovery, quarantine

    def beat(self, n: int, wait: bool) -> None:
        engine = self.an_engine(n)
        self.go(engine, ce.RenewLease(engine_id=engine.id, lease_ms=30_000), wait)

    def gate(self, n: int, fails: bool, wait: bool) -> None:
        shut = [e for e in self.live() if self.reference.t.engines[e.id].gate is not GateState.OPEN]
        engine = self.some(self.live() if odd(n) else shut, n)
        if engine is not None:
            failing = ce.FailGate(engine_id=engine.id, gate_code="x", detail="y")
            self.go(engine, failing if fails else engine.opening_gate(), wait)

    def judge(self, n: int, m: int, verdict: Verdict) -> None:
        judge, other = self.an_engine(n), self.engines[m % len(self.engines)]
        row = self.reference.t.engines[other.id]
        beat = row.beat_at - 1 if odd(m) else row.beat_at
        dead = verdict is not Verdict.SILENT
        if row.state is EngineState.DEAD or (row.state is not EngineState.LIVE and not dead):
            return
        target = EngineState.DEAD if dead else EngineState.SILENT
        # In a batch of its own: what its engine wrote before the fence is on disk before it.
        self.write_all()
        self.go(judge, judge.judging(other, verdict, source=row.state, beat_at=beat, target=target))

    def stall(self, n: int, m: int, wait: bool) -> None:
        engine = self.an_engine(m)
        owed = [
            run
            for run in self.reference.t.runs.values()
            if run.state is RunState.RUNNING and self.reference.t.engines[run.engine_id].state is not EngineState.LIVE
        ]
        run = self.some(list(self.reference.t.runs.values()) if odd(n) else owed, n)
        if run is not None:
            self.stall_run(engine, run, wait)

    def stall_run(self, engine: Engine, run: RunRecord, wait: bool) -> None:
        """Stall a run in a recovery of its own."""
        owner = self.reference.t.engines[run.engine_id]
        job = self.reference.t.jobs[run.job_id]
        in_doubt = [
            step.step_key
            for step in self.reference.steps_of(job.job_id)
            if step.kind is StepKind.STEP and step.state in (StepState.RUNNING, StepState.IN_DOUBT)
        ]
        engine.recovery_id = self.world.new_id()
        self.go(engine, engine.starting_recovery(), wait)
        command = engine.stalling(
            JobRef(job.job_id, job.trace_id, job.kind, run.run_id),
            next(each for each in self.engines if each.id == run.engine_id),
            in_doubt,
            owner.verdict or Verdict.DEAD,
        )
        self.go(engine, command, wait)

    def act_on_stalled(self, n: int, m: int, act: str, wait: bool) -> None:
        try:
            engine = self.an_engine(m)
            job = self.a_job(n, _S.STALLED, *((_S.AWAITING_USER,) if act == "operator" else ()))
        except Nothing:
            return
        command = self.acting(engine, job, act)
        if command is not None:
            self.go(self.client if act == "operator" else engine, command, wait)

    def acting(self, engine: Engine, job: JobRecord, act: str) -> Command | None:
        """Return what policy or an operator does to a stalled job."""
        ref = cs.ref_of(job)
        expects: dict[str, Any] = {"job": ref, "source": _S.STALLED, "source_reason": job.status_reason}
        match act:
            case "let go":
                owner = job.held_by or EngineId(engine.id)
                return cs.ReleaseHeld(job=ref, owner=owner, who=engine.who)
            case "operator":
                try:
                    return cs.decide_resume(job, ANN)
                except IllegalTransition:
                    return None
            case _ if job.held_by is not None:
                return None
            case "hold":
                return cs.HoldJob(who=engine.who, code="policy", **expects)
            case "poison":
                return cs.PoisonJob(who=engine.who, stalls=job.stalls, evidence=(), **expects)
            case _:
                return cs.ResumeJob(who=engine.who, probation=act == "probation", **expects)

    def set_aside(self, n: int, m: int, wait: bool) -> None:
        engine, job = self.an_engine(m), self.a_job(n, _S.RUNNING, _S.QUEUED)
        self.go(engine, engine.quarantining(cs.ref_of(job)), wait)

    def release_quarantined(self, n: int, wait: bool) -> None:
        aside = list(self.reference.t.quarantine)
        if not aside:
            return
        job = self.reference.t.jobs[aside[n % len(aside)]]
        self.go(self.client, cs.ReleaseQuarantined(job=cs.ref_of(job), table_name="jobs", who=ANN), wait)

    def stop_engine(self, n: int) -> None:
        if len(self.live()) < 2:
            return
        engine = self.live()[n % len(self.live())]
        self.write_all()
        stopped = ev.EngineStopped(drained=True, suspended_runs=0)
        self.go(engine, ce.CloseWriterNow(engine_id=engine.id, stopped=stopped))
