"""A naive second implementation of what commands do to a store: dictionaries, one command at a time, no SQL, no batches.

It is written from the design and not from the statements. A command is either done whole or refused (``Refuse``), and then
nothing has changed. Records are those of ``relight.model``, so that a comparison is of every field. ``told`` is the log:
the kind and the job of each event, in commit order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from tests.model.queues import QueueRules
from tests.model.tables import Refuse, need, put
from tests.model.tokens import TokenRules

from relight.core.commands import Command, JobRef
from relight.core.commands import engines as ce
from relight.core.commands import jobs as cj
from relight.core.commands import outside as co
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.failure import Failure
from relight.core.redact import redact
from relight.model import (
    FINAL_STATES,
    FINISHED_STEPS,
    DecisionRecord,
    EngineRecord,
    EngineState,
    GateState,
    JobRecord,
    JobState,
    QuarantineRecord,
    RunRecord,
    RunState,
    SignalRecord,
    StepKind,
    StepState,
    Verdict,
)

_S = JobState


class Reference(QueueRules, TokenRules):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._do: dict[type[Command], Callable[[Any, int], None]] = {
            cj.SubmitJob: self._submit,
            cj.ForkJob: self._fork,
            cj.ClaimJob: self._claim,
            cj.PutJobAway: self._put_away,
            cj.FinishRun: self._finish_run,
            ct.BeginTry: self._begin_try,
            ct.FinishStep: self._finish_step,
            ct.FailTry: self._fail_try,
            ct.AbandonStep: self._abandon,
            ct.ReconcileStep: self._reconcile,
            ct.RecordValue: self._record_value,
            ct.BeginWait: self._begin_wait,
            ct.EndWait: self._end_wait,
            ct.ConsumeSignal: self._consume,
            ct.AskPerson: self._ask,
            ct.ExpireDecision: self._expire,
            co.MakeToken: self._make_token,
            co.CompleteToken: self._complete_token,
            co.FailToken: self._fail_token,
            co.BeatTokenNow: self._beat_token,
            co.ExpireToken: self._expire_token,
            ct.StartChildren: self._start_children,
            ct.ReportProgress: self._progress,
            cs.SendSignal: self._signal,
            cs.GiveDecision: self._answer,
            cs.QuestionTimedOut: self._time_out,
            cs.WithdrawQuestion: self._withdraw,
            cs.RequestEnd: self._request_end,
            cs.EndNow: self._end_now,
            cs.ResumeJob: self._resume,
            cs.HoldJob: self._hold,
            cs.PoisonJob: self._poison,
            cs.RetryJob: self._retry,
            cs.SettleDoubt: self._settle,
            cs.ReleaseHeld: self._release_hold,
            cs.ReleaseQuarantined: self._release_quarantined,
            ce.QuarantineRow: self._set_aside,
            ce.StallRunNow: self._stall,
            ce.JudgeEngineNow: self._judge,
            ce.OpenGate: self._open_gate,
            ce.FailGate: self._fail_gate,
            ce.RenewLease: self._beat,
            ce.WakeDueJobs: self._wake_due,
            cq.DefineQueue: self._define_queue,
            cq.SteerQueue: self._steer_queue,
            ce.Tell: self._tell_alone,
            ce.CloseWriterNow: self._close,
            ce.OpenWriterNow: self._open_writer,
        }

    def apply(self, command: Command, now: int) -> None:
        """Do a command whole, or raise ``Refuse`` with nothing changed."""
        before, told = self.t.copy(), len(self.told)
        try:
            self._do[type(command)](command, now)
        except Refuse:
            self.t = before
            del self.told[told:]
            raise

    # jobs

    def _submit(self, c: cj.SubmitJob, now: int) -> None:
        need(c.job_id not in self.t.jobs)
        if c.idempotency_key is not None:
            owners = {(job.kind, job.idempotency_key) for job in self.t.jobs.values()}
            need((c.kind, c.idempotency_key) not in owners)
        if c.parent_job_id is not None:
            parent = self.t.jobs.get(c.parent_job_id)
            need(parent is not None and parent.state not in FINAL_STATES)
        ready_at = now if c.ready_at is None else c.ready_at
        self.t.jobs[c.job_id] = JobRecord(
            job_id=c.job_id,
            kind=c.kind,
            queue=c.queue,
            priority=c.priority,
            ready_at=ready_at,
            claimable=ready_at <= now,
            attempt=1,
            on_stall=c.on_stall,
            max_stalls=c.max_stalls,
            deadline_at=c.deadline_at,
            idempotency_key=c.idempotency_key,
            inputs=c.inputs,
            inputs_hash=c.inputs_hash,
            trace_id=c.trace_id,
            status_reason="submitted" if c.forked_from is None else "forked",
            parent_job_id=c.parent_job_id,
            parent_step_key=c.parent_step_key,
            metrics=cj.ZERO_METRICS,
            created_at=now,
            updated_at=now,
        )
        self.tell("job_accepted", c.job_id)

    def _fork(self, c: cj.ForkJob, now: int) -> None:
        self._submit(c.new, now)
        for key in c.steps:
            step = self.t.steps.get((c.source.job_id, key))
            need(step is not None and step.state in FINISHED_STEPS)
            assert step is not None
            self.t.steps[c.new.job_id, key] = put(step, job_id=c.new.job_id)
        self.tell("job_forked", c.source)

    def _claim(self, c: cj.ClaimJob, now: int) -> None:
        job = self.job(c.job)
        need(job.state is _S.QUEUED and job.claimable and job.ready_at is not None and job.ready_at <= now)
        need(job.attempt == c.attempt and not self.aside(job.job_id))
        need(not job.begun or job.version == c.version)
        need(self.t.engines[c.engine_id].gate is GateState.OPEN)
        queue = self.t.queues.get(job.queue)
        need(c.terms in (None, 0 if queue is None else queue.revision))
        run_id = c.job.run_id
        assert run_id is not None
        self.set_job(
            c.job,
            now,
            state=_S.RUNNING,
            status_reason="claimed",
            claimable=False,
            ready_at=None,
            begun=True,
            run_id=run_id,
            version=c.version,
        )
        self.t.runs[run_id] = RunRecord(
            run_id=run_id,
            job_id=job.job_id,
            engine_id=c.engine_id,
            attempt=c.attempt,
            state=RunState.RUNNING,
            started_at=now,
        )
        for limit in c.limits:
            runs = [r for r in self.t.runs.values() if r.state is RunState.RUNNING and not self.aside(r.job_id)]
            here = [r for r in runs if self.t.jobs[r.job_id].queue == limit.queue]
            need(len([r for r in here if limit.engine_id in (None, r.engine_id)]) <= limit.slots)
        self.tell("run_started", c.job)

    def _put_away(self, c: cj.PutJobAway, now: int) -> None:
        self.end_run(c.job.run_id, RunState.SUSPENDED, c.reason, now, c.engine_id)
        job = self.job(c.job)
        need(job.state is _S.RUNNING and job.run_id == c.job.run_id)
        due = c.ready_at is not None and c.ready_at <= now
        came = due or any(self.has_come(wait) for wait in self.waits(job.job_id))
        asked = job.cancel_code is not None
        if c.state is _S.AWAITING_USER:
            need(not asked)
            need(not (came and c.reason == "awaiting_user"))
        awake = c.state is _S.QUEUED and (came or asked)
        self.set_job(
            c.job,
            now,
            state=c.state,
            status_reason=c.reason,
            claimable=awake,
            ready_at=now if awake else c.ready_at,
            probation=False,
            accepting=job.accepting and c.state is _S.QUEUED and c.reason != "waiting",
        )
        for payload in c.tells:
            self.tell(payload.kind, c.job)
        self.tell("run_suspended", c.job)

    def _finish_run(self, c: cj.FinishRun, now: int) -> None:
        ends = {_S.COMPLETED: RunState.COMPLETED, _S.COMPLETED_WITH_ISSUES: RunState.COMPLETED}
        state = ends.get(c.state) or RunState(str(c.state))
        self.end_run(c.job.run_id, state, c.reason, now, c.engine_id)
        job = self.job(c.job)
        need(job.state is _S.RUNNING and job.run_id == c.job.run_id)
        self.set_job(
            c.job,
            now,
            state=c.state,
            status_reason=c.reason,
            claimable=False,
            ready_at=None,
            outputs=c.outputs,
            error=None if c.failure is None else c.failure.text(),
            issues=c.issues,
            completed_at=now,
            probation=False,
        )
        self.tell(f"job_{c.state}", c.job)
        self.ended(job.job_id, now)

    # steps

    def _begin_try(self, c: ct.BeginTry, now: int) -> None:
        self.begin(
            c.job,
            c.step_key,
            now,
            kind=StepKind.STEP,
            name=c.name,
            state=StepState.RUNNING,
            try_number=c.try_number,
            policy=c.policy,
            args_hashes=c.args_hashes,
            inputs=c.inputs,
            until=c.until,
            code_ref=c.code_ref,
        )
        self.tell("step_began", c.job)

    def _finish_step(self, c: ct.FinishStep, now: int) -> None:
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, try_number=c.try_number, outcome=c.outcome)
        self.tell("step_finished", c.job)

    def _fail_try(self, c: ct.FailTry, now: int) -> None:
        end = now if c.state is StepState.FAILED else None
        fields = {"try_number": c.try_number, "error": c.failure.text(), "until": c.until}
        self.update(c.job, c.step_key, c.state, now=end, **fields)
        self.tell("step_failed", c.job)
        if c.state is StepState.IN_DOUBT:
            self.tell("step_in_doubt", c.job)
        elif c.state is StepState.BACKOFF and c.until is not None:
            self.tell("step_retry_scheduled", c.job)

    def _abandon(self, c: ct.AbandonStep, now: int) -> None:
        self.update(c.job, c.step_key, StepState.ABANDONED, now=now, try_number=c.try_number)
        self.tell("step_abandoned", c.job)

    def _reconcile(self, c: ct.ReconcileStep, now: int) -> None:
        if c.verdict == "done":
            self.update(c.job, c.step_key, StepState.COMPLETED, now=now, try_number=c.try_number, outcome=c.outcome)
        elif c.verdict == "failed":
            error = None if c.failure is None else c.failure.text()
            self.update(c.job, c.step_key, StepState.FAILED, now=now, try_number=c.try_number, error=error)
        else:
            self.update(c.job, c.step_key, StepState.BACKOFF, try_number=c.try_number, until=now)
        self.tell("step_reconciled", c.job)

    def _record_value(self, c: ct.RecordValue, now: int) -> None:
        self.begin(c.job, c.step_key, now, kind=StepKind.VALUE, name=c.name, state=StepState.RUNNING)
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)

    def _begin_wait(self, c: ct.BeginWait, now: int) -> None:
        self.begin(
            c.job,
            c.step_key,
            now,
            kind=c.kind,
            name=c.name,
            state=StepState.WAITING,
            until=c.until,
            waits_for=c.waits_for,
        )
        self.tell("sleep_started" if c.kind is StepKind.SLEEP else "wait_started", c.job)

    def _end_wait(self, c: ct.EndWait, now: int) -> None:
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)
        for payload in c.tells:
            self.tell(payload.kind, c.job)

    def _consume(self, c: ct.ConsumeSignal, now: int) -> None:
        if c.fresh:
            fields = {"kind": StepKind.SIGNAL, "name": c.name, "state": StepState.WAITING, "waits_for": c.name}
            self.begin(c.job, c.step_key, now, **fields)
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)
        signal = self.t.signals.get(c.signal_id)
        need(signal is not None and signal.job_id == c.job.job_id and signal.read_by is None)
        assert signal is not None
        self.t.signals[c.signal_id] = put(signal, read_by=c.step_key)
        self.tell("signal_consumed", c.job)

    def _ask(self, c: ct.AskPerson, now: int) -> None:
        fields = {"kind": StepKind.ASK, "name": "ask", "state": StepState.WAITING, "until": c.expires_at}
        self.begin(c.job, c.step_key, now, waits_for=c.decision_id, **fields)
        need(c.decision_id not in self.t.decisions)
        self.t.decisions[c.decision_id] = DecisionRecord(
            decision_id=c.decision_id,
            job_id=c.job.job_id,
            step_key=c.step_key,
            question=c.question,
            options=c.options,
            preview=c.preview,
            preview_hash=c.preview_hash,
            asked_at=now,
            expires_at=c.expires_at,
        )
        self.tell("wait_started", c.job)

    def close_decision(self, job: JobRef, decision_id: str, now: int, state: str, **fields: Any) -> None:
        """Close an open question of a job that has not ended."""
        row = self.t.decisions.get(decision_id)
        need(row is not None and row.state == "open" and row.job_id == job.job_id)
        assert row is not None
        need(self.job(job).state not in FINAL_STATES)
        if state == "given":
            need(row.expires_at is None or row.expires_at > now)
        self.t.decisions[decision_id] = put(row, state=state, decided_at=now, **fields)

    def _expire(self, c: ct.ExpireDecision, now: int) -> None:
        self.close_decision(c.job, c.decision_id, now, "expired")
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)
        self.tell("decision_expired", c.job)

    def _start_children(self, c: ct.StartChildren, now: int) -> None:
        self.begin(c.job, c.step_key, now, kind=StepKind.CHILD, name=c.name, state=StepState.RUNNING)
        for child in c.children:
            self._submit(child, now)
            self.tell("child_started", c.job)
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)

    def _progress(self, c: ct.ReportProgress, now: int) -> None:
        job = self.job(c.job)
        if job.state is _S.RUNNING and job.run_id == c.job.run_id:
            self.set_job(c.job, None, progress=c.progress)

    # from outside

    def _signal(self, c: cs.SendSignal, now: int) -> None:
        need(self.job(c.job).state not in FINAL_STATES)
        if c.idempotency_key is not None:
            key = (c.job.job_id, c.name, c.idempotency_key)
            need(key not in self.t.signal_keys)
            self.t.signal_keys.add(key)
        self.t.signals[c.signal_id] = SignalRecord(
            seq=0,
            signal_id=c.signal_id,
            job_id=c.job.job_id,
            name=c.name,
            payload=c.payload,
            by=c.who.id,
            sent_at=now,
        )
        self.wake(c.job.job_id, c.name, now, decided=False)
        self.tell("signal_sent", c.job)

    def _answer(self, c: cs.GiveDecision, now: int) -> None:
        given = {"choice": c.choice, "by": c.who.id, "note": c.note, "value": c.value}
        self.close_decision(c.job, c.decision_id, now, "given", **given)
        self.wake(c.job.job_id, c.decision_id, now, decided=True)
        self.tell("decision_given", c.job)

    def _time_out(self, c: cs.QuestionTimedOut, now: int) -> None:
        self.close_decision(c.job, c.decision_id, now, "expired")
        self.wake(c.job.job_id, c.decision_id, now, decided=True)
        self.tell("decision_expired", c.job)

    def _withdraw(self, c: cs.WithdrawQuestion, now: int) -> None:
        for decision_id in c.decision_ids:
            self.close_decision(c.job, decision_id, now, "withdrawn")

    def _request_end(self, c: cs.RequestEnd, now: int) -> None:
        job = self.job(c.job)
        need(job.begun and job.cancel_code is None)
        need(not c.orphan or self.is_orphan(job))
        need(job.state in (_S.QUEUED, _S.AWAITING_USER, _S.RUNNING, _S.STALLED))
        self.set_job(c.job, now, cancel_code=c.code, cancel_reason=c.reason, cancel_by=c.who.id)
        if job.state is _S.STALLED and job.held_by is None:
            self.set_job(c.job, now, attempt=job.attempt + 1)
        if job.state in (_S.QUEUED, _S.AWAITING_USER) or (job.state is _S.STALLED and job.held_by is None):
            reason = f"asked_to_end:{c.code}"
            self.set_job(c.job, now, state=_S.QUEUED, status_reason=reason, claimable=True, ready_at=now)
        self.tell("job_deadline_exceeded" if c.code == "deadline" else "job_cancel_requested", c.job)

    def move(self, c: Any, now: int, target: JobState, reason: str, **fields: Any) -> None:
        """Move a job that is as the command expects it."""
        job = self.job(c.job)
        need(job.state is c.source and c.source_reason in (None, job.status_reason))
        queued, final = target is _S.QUEUED, target in FINAL_STATES
        begins_anew = job.state in (_S.FAILED, _S.POISONED)
        fresh: dict[str, Any] = (
            {f"cancel_{what}": None for what in ("code", "reason", "by")} | {"deadline_at": None, "stalls": 0}
            if begins_anew
            else {}
        )
        self.set_job(
            c.job,
            now,
            state=target,
            status_reason=reason,
            claimable=queued,
            ready_at=now if queued else None,
            completed_at=now if final else None,
            held_by=job.held_by if target is _S.STALLED else None,
            issues=None if queued else job.issues,
            detached=job.detached or (begins_anew and self.is_orphan(job)),
            **({"probation": False, "error": None if queued else job.error} | fresh | fields),
        )
        if final:
            self.ended(job.job_id, now)

    def _end_now(self, c: cs.EndNow, now: int) -> None:
        for decision_id in c.open_decisions:
            self.close_decision(c.job, decision_id, now, "withdrawn", by=c.who.id)
        need(c.begun in (None, self.job(c.job).begun))
        need(not c.orphan or self.is_orphan(self.job(c.job)))
        if c.source is _S.RUNNING:
            end = RunState.CANCELLED if c.target is _S.CANCELLED else RunState.FAILED
            self.end_run(c.job.run_id, end, c.reason, now, None)
        error = {} if c.failure is None else {"error": c.failure.text()}
        self.tell(f"job_{c.target}", c.job)
        self.move(c, now, c.target, c.reason, **error)

    def _resume(self, c: cs.ResumeJob, now: int) -> None:
        attempt = self.job(c.job).attempt + (c.source is _S.STALLED)
        accepting = self.job(c.job).accepting or c.accept
        self.move(c, now, _S.QUEUED, "resumed", attempt=attempt, probation=c.probation, accepting=accepting)
        self.tell("job_resumed", c.job)
        if c.probation:
            self.tell("job_probation", c.job)

    def _hold(self, c: cs.HoldJob, now: int) -> None:
        self.move(c, now, _S.STALLED, f"held:{c.code}")
        self.tell("job_held", c.job)

    def _poison(self, c: cs.PoisonJob, now: int) -> None:
        message = f"the engine died {c.stalls} times while a step of this job ran"
        self.move(c, now, _S.POISONED, "crash_loop", error=Failure(type="crash_loop", message=message).text())
        self.tell("job_poisoned", c.job)

    def _retry(self, c: cs.RetryJob, now: int) -> None:
        self.move(c, now, _S.QUEUED, "retried", attempt=self.job(c.job).attempt + 1)
        for key in c.reopen:
            step = self.t.steps.get((c.job.job_id, key))
            need(step is not None and step.state is StepState.FAILED)
            assert step is not None
            self.t.steps[c.job.job_id, key] = put(step, state=StepState.BACKOFF, until=0, try_number=0, ended_at=None)
        self.tell("job_retried", c.job)

    def _settle(self, c: cs.SettleDoubt, now: int) -> None:
        step = self.t.steps.get((c.job.job_id, c.step_key))
        need(step is not None and step.state is StepState.IN_DOUBT)
        assert step is not None
        need(self.job(c.job).state in (_S.STALLED, _S.QUEUED, _S.AWAITING_USER))
        if c.verdict == "done":
            new = put(step, state=StepState.COMPLETED, outcome=c.value or "null", error=None, until=None, ended_at=now)
        elif c.verdict == "fail":
            failure = Failure(type="in_doubt", code="in_doubt", message=f"failed by {c.who.id}")
            new = put(step, state=StepState.FAILED, outcome=None, error=failure.text(), until=None, ended_at=now)
        else:
            new = put(step, state=StepState.BACKOFF, outcome=None, error=None, until=now, ended_at=None)
        self.t.steps[c.job.job_id, c.step_key] = new
        self.tell("step_reconciled", c.job)

    # engines and recovery

    def _stall(self, c: ce.StallRunNow, now: int) -> None:
        run = self.running(c.job)
        need(run.engine_id == c.owner)
        need(self.t.engines[c.owner].state in (EngineState.DEAD, EngineState.SILENT))
        job = self.job(c.job)
        need(job.state is _S.RUNNING and job.run_id == run.run_id)
        reason = f"stalled:{c.verdict}"
        self.t.runs[run.run_id] = put(run, state=RunState.STALLED, reason=reason, ended_at=now)
        counted: dict[str, Any] = {}
        if c.verdict is Verdict.DEAD and c.in_doubt:
            done = sum(step.state is StepState.COMPLETED for step in self.steps_of(job.job_id))
            again = job.stalled_at_checkpoint == done
            counted = {"stalls": job.stalls + 1 if again else 1, "stalled_at_checkpoint": done}
        self.set_job(
            c.job,
            now,
            state=_S.STALLED,
            status_reason=reason,
            claimable=False,
            ready_at=None,
            held_by=c.owner if c.held else None,
            **counted,
        )
        for step in self.steps_of(job.job_id):
            if step.state is StepState.RUNNING and step.kind is StepKind.STEP:
                self.t.steps[step.job_id, step.step_key] = put(step, state=StepState.IN_DOUBT)
        self.tell("workflow_recovery", c.job)

    def _judge(self, c: ce.JudgeEngineNow, now: int) -> None:
        row = self.t.engines[c.engine_id]
        need(row.state is c.source and row.beat_at == c.beat_at and c.engine_id != c.judge)
        need(c.source is not EngineState.DEAD and c.source is not c.target)
        evidence = msgspec.json.encode(c.evidence).decode()
        self.t.engines[c.engine_id] = put(row, state=c.target, verdict=c.verdict, evidence=evidence, ended_at=now)
        if c.target is EngineState.SILENT:
            self.tell("engine_silent")

    def _open_gate(self, c: ce.OpenGate, now: int) -> None:
        row = self.t.engines[c.engine_id]
        need(row.gate is not GateState.OPEN)
        for run in self.t.runs.values():
            gone = self.t.engines[run.engine_id].state in (EngineState.DEAD, EngineState.SILENT)
            need(not (gone and run.state is RunState.RUNNING and not self.aside(run.job_id)))
        self.t.engines[c.engine_id] = put(row, gate=GateState.OPEN, gate_detail=None, gate_opened_at=now)
        self.tell("gate_opened")

    def _fail_gate(self, c: ce.FailGate, now: int) -> None:
        row = self.t.engines[c.engine_id]
        need(row.gate is not GateState.OPEN)
        self.t.engines[c.engine_id] = put(row, gate=GateState.FAILED, gate_detail=f"{c.gate_code}: {c.detail}")
        self.tell("gate_failed")

    def _beat(self, c: ce.RenewLease, now: int) -> None:
        row = self.t.engines[c.engine_id]
        self.t.engines[c.engine_id] = put(row, beat_at=now, lease_until=now + c.lease_ms)

    def _set_aside(self, c: ce.QuarantineRow, now: int) -> None:
        need(not self.aside(c.job_id))
        self.t.quarantine[c.job_id] = QuarantineRecord(
            job_id=c.job_id,
            table_name=c.table_name,
            code=c.code,
            detail=redact(c.detail),
            recovery_id=c.recovery_id,
            quarantined_at=now,
        )
        self.tell("row_quarantined", c.job_id)

    def _release_quarantined(self, c: cs.ReleaseQuarantined, now: int) -> None:
        need(self.aside(c.job.job_id))
        self.t.quarantine[c.job.job_id] = put(self.t.quarantine[c.job.job_id], released_at=now)
        self.tell("row_released", c.job)

    def _release_hold(self, c: cs.ReleaseHeld, now: int) -> None:
        job = self.job(c.job)
        need(job.state is _S.STALLED and job.held_by == c.owner)
        self.set_job(c.job, now, held_by=None)
        self.tell("hold_released", c.job)

    def _wake_due(self, c: ce.WakeDueJobs, now: int) -> None:
        for job in list(self.t.jobs.values()):
            if job.state is _S.QUEUED and job.ready_at is not None and job.ready_at <= now:
                self.set_job(job.job_id, None, claimable=True)

    def _tell_alone(self, c: ce.Tell, now: int) -> None:
        self.tell(c.payload.kind, c.job)

    def _close(self, c: ce.CloseWriterNow, now: int) -> None:
        row = self.t.engines[c.engine_id]
        need(row.state is EngineState.LIVE)
        self.t.engines[c.engine_id] = put(row, state=EngineState.STOPPED, ended_at=now)
        if c.stopped is not None:
            self.tell("engine_stopped")

    def _open_writer(self, c: ce.OpenWriterNow, now: int) -> None:
        row = c.row
        need(row.engine_id not in self.t.engines)
        fields = {name: getattr(row, name) for name in row.__struct_fields__ if name != "at"}
        fresh = EngineRecord(**fields, state=EngineState.LIVE, beat_at=row.at, started_at=row.at)
        self.t.engines[row.engine_id] = fresh
        self.tell("writer_opened")
        if c.started is not None:
            self.tell("engine_started")
