"""The values everything else speaks in: states, records, and what users are shown. Frozen, without behaviour.

A **job** is what a user submits; each attempt at it is a **run** of one **engine**; what happens inside is **steps**,
whose recorded outcomes are **checkpoints**. States are named here; which may follow which is in
``core/transitions.py`` (read that next). Times in records are integers in milliseconds (``_at``, ``_ms``);
times shown to users are aware datetimes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

import msgspec

from relight.errors import StepFailed
from relight.ids import EngineId, JobId, RunId, StepKey

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

OnStall = Literal["resume", "hold"]
InDoubtPolicy = Literal["retry", "ask", "fail", "reconcile"]
Durability = Literal["power", "process"]


class JobState(StrEnum):
    """The ten states of a job (source: the specification's job contract, in snake case)."""

    QUEUED = "queued"
    RUNNING = "running"
    STALLED = "stalled"
    AWAITING_VALIDATION = "awaiting_validation"
    AWAITING_USER = "awaiting_user"
    COMPLETED = "completed"
    COMPLETED_WITH_ISSUES = "completed_with_issues"
    FAILED = "failed"
    CANCELLED = "cancelled"
    POISONED = "poisoned"


FINAL_STATES = frozenset(
    {JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES, JobState.FAILED, JobState.CANCELLED, JobState.POISONED}
)
"""States in which a job has ended: it holds no slot, waits for nothing, and ``result()`` returns or raises."""

PUBLISHING_STATES = frozenset({JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES})
"""The only states in which a job has outputs."""


class RunState(StrEnum):
    """A run begins ``running`` and never leaves its end state: runs are rows, so evidence is never overwritten."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"
    STALLED = "stalled"
    POISONED = "poisoned"


class StepState(StrEnum):
    """What is known of a step, a durable wait, or a recorded value."""

    RUNNING = "running"
    """Its function was called and has not been heard of since."""
    WAITING = "waiting"
    """A durable wait (sleep, signal, decision, child) that is not over."""
    BACKOFF = "backoff"
    """A try failed; the next one's time is stored."""
    IN_DOUBT = "in_doubt"
    """It had begun when its engine died, or a try ended without a certain answer."""
    COMPLETED = "completed"
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Cancelled by a sibling's failure; a replay must not run it again."""


FINISHED_STEPS = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.ABANDONED})
"""States in which replay returns the record instead of calling. Only an operator's retry opens a failed one again."""


class StepKind(StrEnum):
    """What a row of ``steps`` records. All but ``STEP`` are primitives composed on the same table."""

    STEP = "step"
    SLEEP = "sleep"
    SIGNAL = "signal"
    ASK = "ask"
    CHILD = "child"
    """The start of a child job; its outcome is the child's id."""
    CHILD_RESULT = "child_result"
    VALUE = "value"
    """A recorded value such as ``now()``."""
    TOKEN = "token"
    """The making of a token for somebody outside; its outcome is the token."""
    EXTERNAL = "external"
    """A wait for such a token to be completed."""
    POLL = "poll"
    """A check that is made again and again until its result will do; its outcome is the last state."""


CALLED_STEPS = frozenset({StepKind.STEP, StepKind.POLL})
"""Kinds that call a user's function: what of them is in flight in a crash is in doubt."""


class Role(StrEnum):
    """Who writes to a store: an engine owns runs, a client only submits and steers."""

    ENGINE = "engine"
    CLIENT = "client"


class EngineState(StrEnum):
    """A writer's row: only ``live`` may write. Everything else is a fence."""

    LIVE = "live"
    STOPPED = "stopped"
    DEAD = "dead"
    SILENT = "silent"


class GateState(StrEnum):
    """A one-way latch for each incarnation. ``FAILED`` is closed with a reason, and opens once recovery succeeds."""

    CLOSED = "closed"
    FAILED = "failed"
    OPEN = "open"


class Verdict(StrEnum):
    """What a judge concluded about another engine (``DESIGN`` §4: proof, not guess)."""

    DEAD = "dead"
    SILENT = "silent"
    ALIVE = "alive"
    LEASE_EXPIRED = "lease_expired"


class Actor(StrEnum):
    """Who caused an event."""

    HUMAN = "human"
    AGENT = "agent"
    SYSTEM = "system"


# Records are rows as a store returns them, by position: field order is column order (a test compares them).


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One row of ``jobs``. Payloads (``inputs``, ``outputs``) are canonical JSON text.

    ``claimable`` says that the job may be claimed: its time (``ready_at``) had come when that was decided, and a clock set back
    later does not take it away. A sleeper is queued but not claimable.
    ``begun`` says that a run of it ever started. ``attempt`` counts first start, stalls and operator retries, not sleeps.
    ``accepting``: an operator let its next run go on where code and record differ.
    """

    job_id: JobId
    kind: str
    version: str | None = None
    state: JobState = JobState.QUEUED
    status_reason: str = "submitted"
    queue: str = "default"
    priority: int = 0
    ready_at: int | None = None
    claimable: bool = True
    begun: bool = False
    attempt: int = 0
    run_id: RunId | None = None
    on_stall: OnStall = "resume"
    max_stalls: int = 3
    stalls: int = 0
    stalled_at_checkpoint: int | None = None
    probation: bool = False
    held_by: EngineId | None = None
    cancel_code: str | None = None
    cancel_reason: str | None = None
    cancel_by: str | None = None
    deadline_at: int | None = None
    idempotency_key: str | None = None
    partition_key: str | None = None
    inputs: str | None = None
    inputs_hash: str = ""
    outputs: str | None = None
    error: str | None = None
    issues: str | None = None
    tags: str | None = None
    trace_id: str = ""
    parent_job_id: JobId | None = None
    parent_step_key: StepKey | None = None
    detached: bool = False
    progress: str | None = None
    protocol_id: str = "relight"
    profile_id: str = "default"
    capability_profile_id: str = "default"
    access_mode: str = "analysis_only"
    safety_mode: str = "normal"
    entity_refs: str = "[]"
    planned_operations: str = "[]"
    metrics: str = "{}"
    task_schema_version: int = 1
    created_at: int = 0
    updated_at: int = 0
    completed_at: int | None = None
    accepting: bool = False


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of ``runs``: one attempt at a job by one engine."""

    run_id: RunId
    job_id: JobId
    engine_id: EngineId
    attempt: int
    state: RunState
    reason: str | None = None
    started_at: int = 0
    ended_at: int | None = None


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One row of ``steps``: what is known under one key of one job.

    ``args_hashes`` maps each parameter to a short hash. ``until`` is a timer: the end of a sleep, a wait's time limit,
    the next try in backoff. ``waits_for`` is what a wait is for: a signal's name, a decision's or a child job's id, a token.
    ``note`` and ``beat_at`` are the last ``heartbeat`` of a try; ``heartbeat_ms`` is how long it said that it may be silent.
    """

    job_id: JobId
    step_key: StepKey
    run_id: RunId
    kind: StepKind
    name: str
    state: StepState
    try_number: int = 1
    policy: InDoubtPolicy = "retry"
    args_hashes: str | None = None
    inputs: str | None = None
    outcome: str | None = None
    error: str | None = None
    until: int | None = None
    waits_for: str | None = None
    code_ref: str | None = None
    note: str | None = None
    begun_at: int = 0
    ended_at: int | None = None
    beat_at: int | None = None
    heartbeat_ms: int | None = None


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of ``engines``: an incarnation (or a client), its fence, its chain's head, its lease."""

    engine_id: EngineId
    role: Role
    name: str
    state: EngineState
    gate: GateState
    gate_detail: str | None = None
    nonce: str = ""
    host_id: str = ""
    boot_id: str = ""
    pid: int = 0
    version: str = ""
    lease_ms: int = 30_000
    lease_until: int = 0
    beat_at: int = 0
    started_at: int = 0
    gate_opened_at: int | None = None
    ended_at: int | None = None
    verdict: Verdict | None = None
    evidence: str | None = None
    batch_seq: int = 0
    head_seq: int = 0
    head_hash: str = ""
    kinds: str = "[]"
    queues: str | None = None


class SignalRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of ``signals``. Unread signals of one name are read first in, first out (by ``seq``)."""

    seq: int
    signal_id: str
    job_id: JobId
    name: str
    payload: str | None
    by: str | None
    sent_at: int
    read_by: StepKey | None = None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of ``decisions``: a question, and a person's answer once there is one."""

    decision_id: str
    job_id: JobId
    step_key: StepKey
    question: str
    options: str
    preview: str | None = None
    preview_hash: str | None = None
    asked_at: int = 0
    expires_at: int | None = None
    state: Literal["open", "given", "expired", "withdrawn"] = "open"
    choice: str | None = None
    by: str | None = None
    note: str | None = None
    value: str | None = None
    decided_at: int | None = None


TokenState = Literal["open", "completed", "failed", "expired"]


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of ``tokens``: what a job handed out to be completed from outside, and the one answer that counts.

    ``beat_at`` is the last sign of life of whoever works on it (at first: its making), ``type`` how a value is checked at
    delivery, ``step_key`` where it was made.
    """

    token: str
    job_id: JobId
    step_key: StepKey
    name: str
    type: str | None = None
    created_at: int = 0
    expires_at: int | None = None
    heartbeat_ms: int | None = None
    beat_at: int = 0
    note: str | None = None
    state: TokenState = "open"
    value: str | None = None
    error: str | None = None
    by: str | None = None
    ended_at: int | None = None


class QuarantineRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A row that recovery or a claim could not handle: set aside with evidence; an operator releases or fails it."""

    job_id: JobId
    table_name: str
    code: str
    detail: str
    recovery_id: str | None
    quarantined_at: int
    released_at: int | None = None


class QueueRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A queue as it was defined in code (by ``defined_by``, an engine), and what an operator made of it.

    ``rate``, ``previous`` (the definition before) and ``override`` are JSON. What holds now is said by ``core/terms.py``. A
    queue that only an operator named has a row without ``defined_by``. ``revision`` counts its changes; 0: there is no row.
    """

    queue: str
    slots: int | None = None
    per_engine_slots: int | None = None
    priority: int = 0
    rate: str | None = None
    paused: bool = False
    updated_at: int = 0
    defined_by: str | None = None
    defined_at: int | None = None
    previous: str | None = None
    override: str | None = None
    override_by: str | None = None
    revision: int = 0


class EventRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One row of ``events``: ``Event`` as stored, with its place in its writer's chain."""

    seq: int
    event_id: str
    type: str
    ts: int
    actor: Actor
    actor_id: str
    trace_id: str
    job_id: str | None
    run_id: str | None
    step_key: str | None
    model_id: str | None
    engine_id: str | None
    payload: str
    writer_id: str
    writer_seq: int
    prev_hash: str
    hash: str


class RecoveryRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A receipt: what one recovery did. ``engines`` is JSON: ``[{engine_id, verdict, evidence}]``."""

    recovery_id: str
    engine_id: EngineId
    engines: str
    scanned: int
    stalled: int
    in_doubt: int
    quarantined: int
    started_at: int
    duration_ms: int


# What users are shown.


@dataclass(frozen=True)
class Progress:
    """How far a job says it is. ``done`` and ``total`` count whatever the job counts."""

    done: float
    total: float | None
    note: str | None
    at: datetime


@dataclass(frozen=True)
class JobInfo:
    """A snapshot of a job. ``summary`` is the first sentence of its ``why``; ``tags`` is never None."""

    id: str
    kind: str
    state: JobState
    status_reason: str
    attempt: int
    created_at: datetime
    completed_at: datetime | None
    tags: Mapping[str, str]
    progress: Progress | None
    summary: str


@dataclass(frozen=True)
class Event:
    """One immutable fact of the flight recorder, in the order of ``seq``."""

    seq: int
    event_id: str
    type: str
    timestamp: datetime
    actor: str
    actor_id: str
    trace_id: str
    engine_id: str | None
    writer_id: str
    writer_seq: int
    job_id: str | None
    run_id: str | None
    step_key: str | None
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Cause:
    """One reason why a job does not progress (or that it has ended). ``actions`` are commands allowed now."""

    code: str
    since: datetime
    detail: str
    evidence: Sequence[str]
    next_check_at: datetime | None
    actions: Sequence[str]


@dataclass(frozen=True)
class Why:
    """Why a job is where it is: one sentence, and its causes, the weightiest first (never empty)."""

    summary: str
    causes: Sequence[Cause]

    def _repr_html_(self) -> str:
        """Show it in a notebook: the sentence, and each cause with what can be done."""
        from html import escape

        rows = "".join(
            f"<li><code>{escape(cause.code)}</code> {escape(cause.detail)}"
            + "".join(f"<br><code>{escape(action)}</code>" for action in cause.actions)
            for cause in self.causes
        )
        return f"<p>{escape(self.summary)}</p><ul>{rows}</ul>"


@dataclass(frozen=True)
class Decision:
    """A person's answer to ``ask``; or what its time limit decided: then ``by`` is ``"timeout"``, ``at`` the limit."""

    id: str
    choice: str
    by: str
    note: str | None
    at: datetime


@dataclass(frozen=True)
class Signal:
    """A message delivered to a job, when several names were waited for."""

    name: str
    by: str | None
    raw: bytes = field(default=b"null", repr=False)

    def payload(self, type: type[T]) -> T:
        """Decode the message's content as ``type``. Raises ``msgspec.ValidationError`` when it is something else."""
        return msgspec.json.decode(self.raw, type=type)


@dataclass(frozen=True)
class Delivery:
    """What became of a word about a token. ``counted`` is False when it came late: nothing was changed.

    ``state`` is how the token stands now: ``open``, ``completed``, ``failed``, ``expired``, or ``job_ended``; ``by`` and ``at``
    say who brought it there and when (None while it is open).
    """

    counted: bool
    state: Literal["open", "completed", "failed", "expired", "job_ended"]
    by: str | None = None
    at: datetime | None = None


@dataclass(frozen=True)
class CurrentJob:
    """The job this code runs in. ``replaying`` is True until replay reaches the first step without a record."""

    id: str
    run_id: str
    kind: str
    attempt: int
    tags: Mapping[str, str]
    trace_id: str
    replaying: bool
    deadline: datetime | None
    suspending: bool = False


@dataclass(frozen=True)
class CurrentStep:
    """The try this code runs in. ``idempotency_key`` is the same over all tries and runs of the step."""

    key: str
    name: str
    try_number: int
    idempotency_key: str
    deadline: datetime | None
    last_note: str | None


class Outcomes(Generic[R_co]):
    """What ``parallel`` gives when failures are tolerated: one outcome for each item, in the order of the items."""

    def __init__(self, items: Sequence[R_co | StepFailed | None], skipped: int = 0) -> None:
        self._items = tuple(items)
        self._skipped = skipped

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[R_co | StepFailed]:
        return (item for item in self._items if item is not None)

    @property
    def ok(self) -> list[R_co]:
        """The results of the items that succeeded, in the order of the items."""
        return [item for item in self._items if item is not None and not isinstance(item, StepFailed)]

    @property
    def failed(self) -> list[tuple[int, StepFailed]]:
        """Index and failure of each item that failed."""
        return [(i, item) for i, item in enumerate(self._items) if isinstance(item, StepFailed)]

    @property
    def skipped(self) -> int:
        """How many items were not tried. 0 in what ``parallel`` returns: beyond the tolerance it raises, within it all are."""
        return self._skipped
