"""One job's events told again: the state they lead to, its runs, its steps. Independent of the job's rows.

The fold is ``core/events.fold`` over the transition table. It looks at one state and one event; what it cannot know is
tracked here: that a stalled job is *held* for its silent owner (a request to end is then only noted), how many attempts
there were, and which run runs. Checks of the events alone are made here (I-3, I-8, I-9, I-12, I-14, P6, J-4); the
comparison with the rows is in ``rows.py``, read that next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from relight.core import events as ev
from relight.core.events import STATE_EVENTS, TERMINAL_EVENTS, FoldError, fold
from relight.errors import InvalidEvent
from relight.model import Actor, EventRecord, JobState, RunState, Verdict
from relight.recorder import outside
from relight.recorder.invariants import Findings
from relight.store.audits import AuditedJob

RUN_ENDS_AS: Final = {
    "run_suspended": RunState.SUSPENDED,
    "workflow_recovery": RunState.STALLED,
    "job_completed": RunState.COMPLETED,
    "job_completed_with_issues": RunState.COMPLETED,
    "job_failed": RunState.FAILED,
    "job_cancelled": RunState.CANCELLED,
    "job_poisoned": RunState.POISONED,
}
"""What the run that an event names has become, if it ran."""

_IN_RUN: Final = frozenset(
    {
        "step_began",
        "step_finished",
        "step_failed",
        "step_retry_scheduled",
        "sleep_started",
        "wait_started",
        "signal_consumed",
        "child_started",
        "external_created",
        "published",
    }
)
"""Kinds that only a running run can cause."""

_REQUESTS: Final = frozenset({"job_cancel_requested", "job_deadline_exceeded"})

_READ: Final = frozenset(
    {
        "job_accepted",
        "job_completed",
        "job_completed_with_issues",
        "job_resumed",
        "run_started",
        "workflow_recovery",
        "step_finished",
        "step_failed",
        "step_reconciled",
    }
    | outside.READ
)
"""Kinds whose payload matters here."""


@dataclass
class RunStory:
    """A run, as its events tell it."""

    attempt: int
    engine_id: str
    state: RunState = RunState.RUNNING
    recoveries: int = 0


@dataclass
class StepStory:
    """A step, as its events tell it. ``failed``: for good, until an operator's retry."""

    finished: int = 0
    done: bool = False
    failed: bool = False
    outcome_hash: str | None = None


@dataclass
class JobStory:
    """Takes a job's events in commit order."""

    job: AuditedJob
    found: Findings
    state: JobState | None = None
    accepted: ev.JobAccepted | None = None
    attempt: int = 1
    held: bool = False
    quarantined: bool = False
    released: bool = False
    terminal: int = 0
    outputs_hash: str | None = None
    current: str | None = None
    runs: dict[str, RunStory] = field(default_factory=dict)
    steps: dict[str, StepStory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outside = outside.OutsideStory(self.job, self.found)

    @property
    def forked_from(self) -> str | None:
        """The job that this one was forked from."""
        return None if self.accepted is None else self.accepted.forked_from

    def tell(self, invariant: str, detail: str, *ids: object) -> None:
        """Note a finding about this job."""
        self.found.add(invariant, detail, self.job.job_id, *ids)

    def take(self, event: EventRecord) -> None:
        """Follow one event."""
        if event.trace_id != self.job.trace_id:
            self.tell("J-4", f"{event.type} has trace {event.trace_id}, the job {self.job.trace_id}", event.event_id)
        payload = None
        if event.type in _READ:
            try:
                payload = ev.parse(event.type, event.payload)
            except InvalidEvent:
                pass  # the walk along the log has told it (I-0)
        if event.type in _IN_RUN and event.run_id != self.current:
            self.tell("I-9", f"{event.type} of run {event.run_id}, which did not run then", event.event_id)
        self._count(event, payload)
        self._follow_run(event, payload)
        self._follow_step(event, payload)
        self.outside.take(event, payload)
        self._fold(event, payload)

    def _fold(self, event: EventRecord, payload: ev.EventPayload | None) -> None:
        if self.held and event.type in _REQUESTS:
            return
        try:
            self.state = fold(self.state, event.type, payload)
        except FoldError as error:
            self.tell("I-3", str(error), event.event_id)
            self.state = STATE_EVENTS[event.type].target
        self.held = self.held and self.state is JobState.STALLED

    def _count(self, event: EventRecord, payload: ev.EventPayload | None) -> None:
        match event.type:
            case "job_accepted" if isinstance(payload, ev.JobAccepted):
                self.accepted = payload
            case "job_resumed" if self.state is JobState.STALLED:
                self.attempt += 1
            case "job_cancel_requested" | "job_deadline_exceeded" if self.state is JobState.STALLED and not self.held:
                self.attempt += 1
            case "job_retried":
                self.attempt += 1
                self.terminal = 0
                for step in self.steps.values():
                    step.failed = False
            case "hold_released":
                self.held = False
            case "row_quarantined":
                self.quarantined = True
            case "row_released":
                self.quarantined, self.released = False, True
        if event.type in TERMINAL_EVENTS:
            self.terminal += 1
        if isinstance(payload, ev.JobCompleted | ev.JobCompletedWithIssues):
            self.outputs_hash = payload.outputs_hash

    # runs

    def _follow_run(self, event: EventRecord, payload: ev.EventPayload | None) -> None:
        if isinstance(payload, ev.RunStarted):
            self._run_started(event, payload)
        elif isinstance(payload, ev.WorkflowRecovery):
            self._recovered(event, payload)
        if event.type in RUN_ENDS_AS and event.run_id is not None and event.run_id == self.current:
            self.runs[event.run_id].state = RUN_ENDS_AS[event.type]
            self.current = None

    def _run_started(self, event: EventRecord, payload: ev.RunStarted) -> None:
        if payload.attempt != self.attempt:
            self.tell(
                "I-12", f"run {event.run_id} is number {payload.attempt}, should be {self.attempt}", event.event_id
            )
        if self.current is not None:
            self.tell("I-11", f"run {event.run_id} started while {self.current} ran", event.event_id)
        if event.run_id is None:
            return
        if event.run_id in self.runs:
            self.tell("I-11", f"run {event.run_id} started twice", event.event_id)
        self.runs[event.run_id] = RunStory(payload.attempt, event.writer_id)
        self.current = event.run_id

    def _recovered(self, event: EventRecord, payload: ev.WorkflowRecovery) -> None:
        self.held = payload.verdict is Verdict.SILENT
        run = self.runs.get(event.run_id or "")
        facts = {
            "actor system": event.actor is Actor.SYSTEM,
            "from running": payload.from_state == "running",
            "to stalled": payload.to_state == "stalled",
            "its run": payload.workflow_run_id == event.run_id,
            "its job": payload.job_id == self.job.job_id,
            "its trace": event.trace_id == self.job.trace_id,
            "its engine": run is None or payload.dead_engine_id == run.engine_id,
        }
        if wrong := [name for name, right in facts.items() if not right]:
            self.tell("I-8", f"workflow_recovery of run {event.run_id} has not {', '.join(wrong)}", event.event_id)
        if run is None:
            self.tell("I-8", f"run {event.run_id} was stalled and never started", event.event_id)
            return
        run.recoveries += 1
        if run.recoveries > 1:
            self.tell("I-8", f"run {event.run_id} was stalled {run.recoveries} times", event.event_id)

    # steps

    def _follow_step(self, event: EventRecord, payload: ev.EventPayload | None) -> None:
        key = event.step_key
        if key is None:
            return
        if event.type == "step_began":
            step = self.steps.get(key)
            if step is not None and (step.done or step.failed):
                how = "finished" if step.done else "failed for good"
                self.tell("P6", f"step {key} began again after it had {how}", event.event_id)
        elif isinstance(payload, ev.StepFinished):
            step = self.steps.setdefault(key, StepStory())
            step.finished += 1
            step.done = True
            step.outcome_hash = payload.outcome_hash
            if step.finished > 1:
                self.tell("I-14", f"step {key} finished {step.finished} times", event.event_id)
        elif isinstance(payload, ev.StepFailed) and payload.final:
            self.steps.setdefault(key, StepStory()).failed = True
        elif isinstance(payload, ev.StepReconciled):
            step = self.steps.setdefault(key, StepStory())
            step.done = step.done or payload.as_ == "done"
            step.failed = step.failed or payload.as_ == "failed"
