"""What a batch writes: typed rows for each operation, and the events that tell of them.

A command (``core/commands.py``) becomes ``Changes``: rows for some of the operations below plus event drafts. A store
applies all rows of one operation set-based, the operations in the order of ``OPS``, and compares the number of rows
changed with the number of rows given: any difference refuses the whole batch (``store/store.py``). The field order of a
row is its wire form: rows travel as JSON arrays, and the SQL picks values by position (a test compares both).

Payloads are JSON text here (``str``), because a batch is one JSON text. Read next: ``core/commands.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from relight.core.events import Draft
from relight.core.queue_rows import PutQueue, QueueLimit, RateLimit, RewindRate, SetQueue, TakeTurn
from relight.core.row import Row
from relight.model import Actor


class OpenWriter(Row, frozen=True, array_like=True):
    """A writer's row, made in its first batch, before the fence is checked."""

    op = "open_writers"
    engine_id: str
    role: str
    name: str
    gate: str
    nonce: str
    host_id: str
    boot_id: str
    pid: int
    version: str
    lease_ms: int
    lease_until: int
    at: int
    kinds: str
    queues: str | None


class NameHead(Row, frozen=True, array_like=True):
    """A chain's head that this batch's ``writer_opened`` names; nobody need name it again."""

    op = "name_heads"
    engine_id: str
    head_seq: int


class NewJob(Row, frozen=True, array_like=True):
    """A job, queued. Refused when its key is taken, or when it has a parent that has ended."""

    op = "new_jobs"
    job_id: str
    kind: str
    version: str | None
    queue: str
    priority: int
    ready_at: int | None
    claimable: bool
    on_stall: str
    max_stalls: int
    deadline_at: int | None
    idempotency_key: str | None
    partition_key: str | None
    inputs: str
    inputs_hash: str
    tags: str | None
    trace_id: str
    parent_job_id: str | None
    parent_step_key: str | None
    detached: bool
    metrics: str
    at: int
    status_reason: str = "submitted"


class CopyStep(Row, frozen=True, array_like=True):
    """A fork takes over what another job's step gave: a finished row, as it stands there."""

    op = "copy_steps"
    job_id: str
    source_job_id: str
    step_key: str


class StartRun(Row, frozen=True, array_like=True):
    """A claim: queued and claimable and due → running, by an engine whose gate is open; and the run's row.

    ``terms`` is the revision of its queue under which it was decided: under another one it is refused (None: not asked).
    """

    op = "start_runs"
    job_id: str
    run_id: str
    engine_id: str
    attempt: int
    at: int
    version: str | None = None
    """Under which version of its kind it runs: of a job that has begun its own, else what the engine chose."""
    terms: int | None = None


class BeginStep(Row, frozen=True, array_like=True):
    """A step's try, or a wait, begins: insert, or go on with an unfinished row. Needs its run to be running."""

    op = "begin_steps"
    job_id: str
    step_key: str
    run_id: str
    kind: str
    name: str
    state: str
    try_number: int
    policy: str
    args_hashes: str | None
    inputs: str | None
    until: int | None
    waits_for: str | None
    code_ref: str | None
    at: int
    heartbeat_ms: int | None = None


class UpdateStep(Row, frozen=True, array_like=True):
    """What became of a try or a wait. Needs its run to be running and the step to be unfinished."""

    op = "update_steps"
    job_id: str
    step_key: str
    run_id: str
    state: str
    try_number: int
    outcome: str | None
    error: str | None
    until: int | None
    ended_at: int | None


class AcceptArguments(Row, frozen=True, array_like=True):
    """A finished step is called with other arguments, which an operator accepted: from now on these are its own."""

    op = "accept_arguments"
    job_id: str
    step_key: str
    run_id: str
    args_hashes: str


class NewSignal(Row, frozen=True, array_like=True):
    """A message to a job that has not ended; the same key a second time is refused."""

    op = "new_signals"
    signal_id: str
    job_id: str
    name: str
    payload: str
    by: str | None
    idempotency_key: str | None
    at: int


class ReadSignal(Row, frozen=True, array_like=True):
    """An unread signal becomes the outcome of a step."""

    op = "read_signals"
    signal_id: str
    job_id: str
    step_key: str


class NewDecision(Row, frozen=True, array_like=True):
    """A question to a person."""

    op = "new_decisions"
    decision_id: str
    job_id: str
    step_key: str
    question: str
    options: str
    preview: str | None
    preview_hash: str | None
    asked_at: int
    expires_at: int | None


class CloseDecision(Row, frozen=True, array_like=True):
    """An answer to an open question. ``choice`` None: withdrawn or expired, without an answer."""

    op = "close_decisions"
    decision_id: str
    job_id: str
    choice: str | None
    by: str | None
    note: str | None
    at: int
    expired: bool
    value: str | None = None


class SettleStep(Row, frozen=True, array_like=True):
    """An operator settles a doubt ahead of replay, while no run of the job is running: done, not done, or failed."""

    op = "settle_steps"
    job_id: str
    step_key: str
    state: str
    outcome: str | None
    error: str | None
    at: int


class EndRun(Row, frozen=True, array_like=True):
    """A running run reaches its end state. ``engine_id`` None: an operator ends another's run."""

    op = "end_runs"
    run_id: str
    engine_id: str | None
    state: str
    reason: str
    at: int


class EndJob(Row, frozen=True, array_like=True):
    """A running job ends with its run; it and only it may publish outputs."""

    op = "end_jobs"
    job_id: str
    run_id: str
    state: str
    status_reason: str
    outputs: str | None
    error: str | None
    issues: str | None
    at: int


class PutAway(Row, frozen=True, array_like=True):
    """A running job is put away. Under the job's lock its waits are checked again: what came meanwhile makes it claimable."""

    op = "put_away"
    job_id: str
    run_id: str
    state: str
    status_reason: str
    ready_at: int | None
    at: int


class StallRun(Row, frozen=True, array_like=True):
    """Recovery: running → stalled, for a run of an engine that is dead or silent. ``held_by`` names a silent owner."""

    op = "stall_runs"
    job_id: str
    run_id: str
    engine_id: str
    status_reason: str
    held_by: str | None
    counts: bool
    at: int


class MoveJob(Row, frozen=True, array_like=True):
    """A move outside a run: resume, retry, cancel of what never began, hold, poison, deadline."""

    op = "move_jobs"
    job_id: str
    source: str
    source_reason: str | None
    target: str
    status_reason: str
    claimable: bool
    new_attempt: bool
    probation: bool
    error: str | None
    at: int
    begun: bool | None = None
    accepting: bool = False


class ReopenStep(Row, frozen=True, array_like=True):
    """An operator's retry opens a failed step again (its next run calls it), keeping everything finished."""

    op = "reopen_steps"
    job_id: str
    step_key: str


class WakeJob(Row, frozen=True, array_like=True):
    """Something a job may wait for happened. A job put away becomes claimable; a running one is left to its engine."""

    op = "wake_jobs"
    job_id: str
    waits_for: str
    decided: bool
    at: int


class CancelJob(Row, frozen=True, array_like=True):
    """A request to end a job that has begun: ``code`` is ``cancel``, ``deadline`` or ``fail``. The first request stands."""

    op = "cancel_jobs"
    job_id: str
    code: str
    reason: str | None
    by: str | None
    at: int


class ExpectOrphan(Row, frozen=True, array_like=True):
    """A job whose parent has ended. Refused when the parent lives, or was retried in this very batch."""

    op = "expect_orphans"
    job_id: str


class RouteJob(Row, frozen=True, array_like=True):
    """A queued job that has begun goes on under another version of its kind than ``seen``, the one it has."""

    op = "route_jobs"
    job_id: str
    seen: str | None
    version: str | None
    at: int


class JudgeEngine(Row, frozen=True, array_like=True):
    """A verdict on another engine: compare-and-set on its state and on the very beat that was judged.

    What is held dead is not judged again: the evidence of its death stays. Nor does a verdict repeat what the row says.
    """

    op = "judge_engines"
    engine_id: str
    source: str
    target: str
    beat_at: int
    verdict: str
    evidence: str
    at: int


class CloseWriter(Row, frozen=True, array_like=True):
    """A writer leaves of its own accord."""

    op = "close_writers"
    engine_id: str
    at: int


class SetGate(Row, frozen=True, array_like=True):
    """The gate's state. To open it, no unquarantined run may be running under an engine held dead or silent."""

    op = "set_gates"
    engine_id: str
    gate: str
    detail: str | None
    at: int


class Beat(Row, frozen=True, array_like=True):
    """A heartbeat: the lease is good until ``lease_until``."""

    op = "beats"
    engine_id: str
    beat_at: int
    lease_until: int


class Quarantine(Row, frozen=True, array_like=True):
    """A row is set aside with its evidence."""

    op = "new_quarantines"
    job_id: str
    table_name: str
    code: str
    detail: str
    recovery_id: str | None
    at: int


class ReleaseRow(Row, frozen=True, array_like=True):
    """An operator takes a row out of quarantine."""

    op = "release_rows"
    job_id: str
    at: int


class ReleaseHold(Row, frozen=True, array_like=True):
    """The silent owner's last try has ended (or it died): policy may act on the job again."""

    op = "release_holds"
    job_id: str
    engine_id: str
    at: int


class NewRecovery(Row, frozen=True, array_like=True):
    """A receipt."""

    op = "new_recoveries"
    recovery_id: str
    engine_id: str
    engines: str
    scanned: int
    stalled: int
    in_doubt: int
    quarantined: int
    started_at: int
    duration_ms: int


class PutKind(Row, frozen=True, array_like=True):
    """A kind is registered in this store (again)."""

    op = "put_kinds"
    kind: str
    version: str | None
    at: int


class SetProgress(Row, frozen=True, array_like=True):
    """How far a job says it is."""

    op = "set_progress"
    job_id: str
    run_id: str
    progress: str


class NoteStep(Row, frozen=True, array_like=True):
    """A sign of life of a try that is running, with what it said last. Its count is not checked."""

    op = "note_steps"
    job_id: str
    step_key: str
    run_id: str
    note: str | None
    at: int


class NewToken(Row, frozen=True, array_like=True):
    """A token handed out by a run."""

    op = "new_tokens"
    token: str
    job_id: str
    step_key: str
    name: str
    type: str | None
    at: int
    expires_at: int | None
    heartbeat_ms: int | None


class BeatToken(Row, frozen=True, array_like=True):
    """A sign of life of whoever works on an open token. Of several in one batch the last stands."""

    op = "beat_tokens"
    token: str
    job_id: str
    note: str | None
    at: int


class CloseToken(Row, frozen=True, array_like=True):
    """The one answer to an open token: completed or failed within its time, or expired because its time is up."""

    op = "close_tokens"
    token: str
    job_id: str
    state: str
    value: str | None
    error: str | None
    by: str | None
    at: int


class PutPublished(Row, frozen=True, array_like=True):
    """A value that a running run makes readable from outside; the latest stands."""

    op = "put_published"
    job_id: str
    run_id: str
    name: str
    value: str
    at: int


class WakeDue(Row, frozen=True, array_like=True):
    """Jobs whose timer has run out become claimable: one row for all of them. Its count is not checked."""

    op = "wake_due"
    now: int


OPS: tuple[type[Row], ...] = (
    OpenWriter,
    NameHead,
    NewJob,
    StartRun,
    QueueLimit,
    CopyStep,
    RewindRate,
    RateLimit,
    TakeTurn,
    AcceptArguments,
    BeginStep,
    UpdateStep,
    SetProgress,
    NoteStep,
    NewToken,
    BeatToken,
    CloseToken,
    PutPublished,
    NewSignal,
    ReadSignal,
    NewDecision,
    CloseDecision,
    SettleStep,
    StallRun,
    EndRun,
    EndJob,
    PutAway,
    MoveJob,
    ReopenStep,
    WakeJob,
    CancelJob,
    RouteJob,
    ExpectOrphan,
    WakeDue,
    JudgeEngine,
    SetGate,
    Beat,
    Quarantine,
    ReleaseRow,
    ReleaseHold,
    NewRecovery,
    PutKind,
    PutQueue,
    SetQueue,
    CloseWriter,
)
"""All operations in the order in which a store applies them. The fence is checked right after ``OpenWriter``."""


class Changes(msgspec.Struct, gc=False):
    """What one command asks for: rows, and the events that tell of them in the same transaction.

    ``actor`` and ``actor_id`` are who is to be named for it.
    """

    rows: list[Row]
    events: list[Draft]

    @classmethod
    def none(cls) -> Changes:
        """Return empty changes."""
        return cls([], [])


class Who(msgspec.Struct, frozen=True, gc=False):
    """Who acts: named in every event of a command."""

    actor: Actor
    id: str


def merge(parts: Iterable[Changes]) -> Changes:
    """Join several commands' changes into those of one batch, in their order."""
    rows: list[Row] = []
    events: list[Draft] = []
    for part in parts:
        rows += part.rows
        events += part.events
    return Changes(rows, events)
