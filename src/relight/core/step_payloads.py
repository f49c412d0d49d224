"""The kinds of events that tell what happens inside a run: steps and tries, waits, questions, messages, children.

Owns their fields and who may cause them. Arguments, outcomes and messages are told by hash and size only. Two fields are
words of Python's: ``try`` is written ``try_number`` here, ``as`` is ``as_``; on the wire they are as ``docs`` name them.
Read next: ``events.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from relight.core.payloads import (
    AGENT,
    AGENT_OR_SYSTEM,
    ANYBODY,
    HUMAN,
    OPERATOR_OR_SYSTEM,
    SYSTEM,
    Count,
    EventPayload,
)
from relight.model import InDoubtPolicy, JobState, StepKind

Settlement = Literal["done", "not_done", "failed"]
Expiry = Literal["timeout", "heartbeat"]

# Steps.


class StepBegan(EventPayload, frozen=True, kw_only=True, rename={"try_number": "try"}):
    """A try of a step began, or a primitive of the named kind."""

    kind = "step_began"
    actors = AGENT
    try_number: Count
    args_hash: str
    args_bytes: Count
    in_doubt_policy: InDoubtPolicy
    step_kind: StepKind = StepKind.STEP


class StepFinished(EventPayload, frozen=True, kw_only=True, rename={"try_number": "try"}):
    """A step's outcome was recorded."""

    kind = "step_finished"
    actors = AGENT
    try_number: Count
    outcome_hash: str
    outcome_bytes: Count
    duration_ms: Count
    step_kind: StepKind = StepKind.STEP


class StepFailed(EventPayload, frozen=True, kw_only=True, rename={"try_number": "try"}):
    """A try failed; ``final`` says that it was the last."""

    kind = "step_failed"
    actors = AGENT
    try_number: Count
    error_type: str
    error_code: str | None = None
    message_redacted: str
    final: bool


class StepRetryScheduled(EventPayload, frozen=True, kw_only=True, rename={"try_number": "try"}):
    """Another try will be made."""

    kind = "step_retry_scheduled"
    actors = AGENT
    try_number: Count
    next_try_at: int
    error_type: str


class StepInDoubt(EventPayload, frozen=True, kw_only=True, rename={"try_number": "try"}):
    """A try ended without a certain answer."""

    kind = "step_in_doubt"
    actors = SYSTEM
    try_number: Count
    policy: InDoubtPolicy


class StepReconciled(EventPayload, frozen=True, kw_only=True, rename={"as_": "as"}):
    """A doubt was settled."""

    kind = "step_reconciled"
    actors = OPERATOR_OR_SYSTEM
    as_: Settlement
    by: str


class StepAbandoned(EventPayload, frozen=True, kw_only=True, rename={"try_number": "try"}):
    """A step was given up inside its job, or its function overran its time."""

    kind = "step_abandoned"
    actors = AGENT_OR_SYSTEM
    try_number: Count | None = None
    reason: str | None = None


class StepRemoved(EventPayload, frozen=True, kw_only=True):
    """A recorded step was never called again: the code no longer has it."""

    kind = "step_removed"
    actors = AGENT_OR_SYSTEM


# Waits, questions, messages, children.


class SleepStarted(EventPayload, frozen=True, kw_only=True):
    """A durable sleep began."""

    kind = "sleep_started"
    actors = AGENT
    until: int | None = None


class WaitStarted(EventPayload, frozen=True, kw_only=True):
    """A durable wait began; ``what`` is its kind and name."""

    kind = "wait_started"
    actors = AGENT
    what: str
    until: int | None = None


class WaitTimedOut(EventPayload, frozen=True, kw_only=True):
    """What a durable wait was for did not come in time; ``what`` is its kind and name."""

    kind = "wait_timed_out"
    actors = SYSTEM
    what: str


class JobAwaitingUser(EventPayload, frozen=True, kw_only=True):
    """A job waits for a person's answer."""

    kind = "job_awaiting_user"
    actors = AGENT
    decision_id: str
    question_redacted: str
    options: Sequence[str]
    preview_hash: str | None
    expires_at: int | None = None


class DecisionGiven(EventPayload, frozen=True, kw_only=True):
    """A person answered."""

    kind = "decision_given"
    actors = HUMAN
    decision_id: str
    choice: str
    preview_hash: str | None
    note_redacted: str | None = None


class DecisionExpired(EventPayload, frozen=True, kw_only=True):
    """Nobody answered in time."""

    kind = "decision_expired"
    actors = SYSTEM
    decision_id: str


class SignalSent(EventPayload, frozen=True, kw_only=True):
    """A message was delivered to a job."""

    kind = "signal_sent"
    actors = ANYBODY
    signal_id: str
    name: str
    payload_hash: str


class SignalConsumed(EventPayload, frozen=True, kw_only=True):
    """A job read a message."""

    kind = "signal_consumed"
    actors = AGENT
    signal_id: str
    name: str
    payload_hash: str


class ChildStarted(EventPayload, frozen=True, kw_only=True):
    """A job started a child."""

    kind = "child_started"
    actors = AGENT_OR_SYSTEM
    child_job_id: str


class ChildFinished(EventPayload, frozen=True, kw_only=True):
    """A job learned how a child ended."""

    kind = "child_finished"
    actors = AGENT_OR_SYSTEM
    child_job_id: str
    state: JobState


class ExternalCreated(EventPayload, frozen=True, kw_only=True):
    """A job handed out a token that somebody outside completes."""

    kind = "external_created"
    actors = AGENT
    name: str
    expires_at: int | None = None


class ExternalCompleted(EventPayload, frozen=True, kw_only=True):
    """Somebody outside completed what a job waits for."""

    kind = "external_completed"
    actors = ANYBODY
    name: str
    value_hash: str
    value_bytes: Count


class ExternalFailed(EventPayload, frozen=True, kw_only=True):
    """Somebody outside said that what a job waits for failed."""

    kind = "external_failed"
    actors = ANYBODY
    name: str
    error_type: str
    error_code: str | None = None
    message_redacted: str


class ExternalExpired(EventPayload, frozen=True, kw_only=True):
    """Nobody outside answered in time (``timeout``), or beat in time (``heartbeat``)."""

    kind = "external_expired"
    actors = SYSTEM
    name: str
    reason: Expiry


class Published(EventPayload, frozen=True, kw_only=True):
    """A job made a value readable from outside."""

    kind = "published"
    actors = AGENT
    name: str
    value_hash: str
    value_bytes: Count
