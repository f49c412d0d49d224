"""What each kind of event says: one typed payload for each kind. Here those of engines, of recovery, and of jobs.

Owns their fields and who may cause them. What happens inside a run is in ``step_payloads.py``, the source
specification's kinds in ``spec_payloads.py``. A payload holds no raw input or output: hashes, sizes, ids. Text from outside (``*_redacted``, ``detail``, ``reason``, evidence) has gone
through ``redact`` before. Times ``*_at`` are integers in ms, ``*_ts`` RFC 3339 text. What has no default is always on the
wire; an optional field that is None is left out. Use them as ``events.StepBegan``: several share a name with an error.
Read next: ``events.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from relight.model import Actor, JobState, Verdict

ANYBODY = frozenset(Actor)
AGENT = frozenset({Actor.AGENT})
HUMAN = frozenset({Actor.HUMAN})
SYSTEM = frozenset({Actor.SYSTEM})
OPERATOR_OR_SYSTEM = frozenset({Actor.HUMAN, Actor.SYSTEM})
AGENT_OR_SYSTEM = frozenset({Actor.AGENT, Actor.SYSTEM})

_RFC3339 = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$"
Rfc3339 = Annotated[str, msgspec.Meta(pattern=_RFC3339)]
Named = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Evidence = Mapping[str, object]
"""Facts by name, as JSON; what they hold of other processes' text must have been redacted."""

ResumedBy = Literal["policy", "operator"]


class EventPayload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all payloads: ``kind`` is the event's ``type``, ``actors`` are those who may cause it."""

    kind: ClassVar[str]
    actors: ClassVar[frozenset[Actor]]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of what payloads hold lists of."""


# Writers, engines, the gate.


class WriterOpened(EventPayload, frozen=True, kw_only=True):
    """A writer's first event; ``heads`` (hash by writer) are the chain ends that nobody has named yet."""

    kind = "writer_opened"
    actors = ANYBODY
    heads: Mapping[str, str]


class EngineStarted(EventPayload, frozen=True, kw_only=True):
    """An engine opened the store; its gate is closed."""

    kind = "engine_started"
    actors = SYSTEM
    host_id: str
    boot_id: str
    pid: int
    version: str
    store: str
    durability: Literal["power", "process"]
    heads: Mapping[str, str]


class EngineStopped(EventPayload, frozen=True, kw_only=True):
    """An engine left; ``drained`` says whether every run was put away first."""

    kind = "engine_stopped"
    actors = SYSTEM
    drained: bool
    suspended_runs: Count


class EngineFenced(EventPayload, frozen=True, kw_only=True):
    """An engine was declared dead, by another engine or by an operator; its later writes are refused."""

    kind = "engine_fenced"
    actors = OPERATOR_OR_SYSTEM
    by: str | None = None
    reason: str


class EngineSilent(EventPayload, frozen=True, kw_only=True):
    """An engine holds its lock and shows no sign of life."""

    kind = "engine_silent"
    actors = SYSTEM
    engine_id: str
    last_heartbeat_ts: Rfc3339


class EngineLagging(EventPayload, frozen=True, kw_only=True):
    """An engine's beat came late."""

    kind = "engine_lagging"
    actors = SYSTEM
    lag_ms: Count


class EngineDegraded(EventPayload, frozen=True, kw_only=True):
    """The store began to refuse this engine's writes."""

    kind = "engine_degraded"
    actors = SYSTEM
    code: str


class EngineRecovered(EventPayload, frozen=True, kw_only=True):
    """The store takes this engine's writes again."""

    kind = "engine_recovered"
    actors = SYSTEM
    outage_ms: Count


class GateOpened(EventPayload, frozen=True, kw_only=True):
    """Recovery is done: from here on this engine accepts and starts jobs."""

    kind = "gate_opened"
    actors = SYSTEM
    recovery_id: str
    closed_ms: Count


class GateFailed(EventPayload, frozen=True, kw_only=True):
    """Recovery met an error; the gate stays shut until it succeeds."""

    kind = "gate_failed"
    actors = SYSTEM
    code: str
    detail: str


class SchemaUpgraded(EventPayload, frozen=True, kw_only=True):
    """The store's schema was brought from one version to another."""

    kind = "schema_upgraded"
    actors = OPERATOR_OR_SYSTEM
    from_version: int
    to_version: int


class QueueChanged(EventPayload, frozen=True, kw_only=True):
    """A queue was defined, defined anew, paused, resumed or overridden; ``changes`` are the new values by field.

    ``before`` are the old ones of the same fields; ``before_by`` is who had given them, when that was another engine.
    """

    kind = "queue_changed"
    actors = ANYBODY
    queue: str
    changes: Mapping[str, object] | None = None
    before: Mapping[str, object] | None = None
    before_by: str | None = None


class KindRegistered(EventPayload, frozen=True, kw_only=True):
    """A job kind became known to the store."""

    kind = "kind_registered"
    actors = ANYBODY
    job_kind: str
    version: str | None = None


class WorkflowReplaced(EventPayload, frozen=True, kw_only=True):
    """An engine runs jobs of a kind with another function from now on: a notebook's cell was run again."""

    kind = "workflow_replaced"
    actors = ANYBODY
    job_kind: str
    code_ref: str


# Recovery.


class JudgedEngine(Part, frozen=True, kw_only=True):
    """What a recovery concluded about one engine."""

    engine_id: str
    verdict: Verdict
    evidence: Evidence


class RecoveryStarted(EventPayload, frozen=True, kw_only=True):
    """A recovery began, at an engine's start or on behalf of an engine that died meanwhile."""

    kind = "recovery_started"
    actors = SYSTEM
    recovery_id: str
    on_behalf_of: str | None = None


class RecoveryFinished(EventPayload, frozen=True, kw_only=True):
    """A recovery's receipt."""

    kind = "recovery_finished"
    actors = SYSTEM
    recovery_id: str
    engines: Sequence[JudgedEngine]
    scanned: Count
    stalled: Count
    in_doubt: Count
    quarantined: Count
    duration_ms: Count


class RecoveryFailed(EventPayload, frozen=True, kw_only=True):
    """A recovery met an error and is tried again."""

    kind = "recovery_failed"
    actors = SYSTEM
    recovery_id: str
    code: str
    detail: str
    retry_in_ms: Count


class RowQuarantined(EventPayload, frozen=True, kw_only=True):
    """A row that could not be handled was set aside."""

    kind = "row_quarantined"
    actors = SYSTEM
    table: str
    row_id: str
    code: str
    detail: str


class RowReleased(EventPayload, frozen=True, kw_only=True):
    """An operator took a row out of quarantine."""

    kind = "row_released"
    actors = HUMAN
    table: str
    row_id: str


# A job's way from submit to end.


class JobAccepted(EventPayload, frozen=True, kw_only=True):
    """A job is on disk, queued. With ``ready_at`` null it is ready at once. ``forked_from`` is the job it was forked from."""

    kind = "job_accepted"
    actors = ANYBODY
    job_kind: str
    queue: str
    priority: int
    ready_at: int | None
    idempotency_key: str | None = None
    inputs_hash: str
    inputs_bytes: Count
    parent_job_id: str | None = None
    forked_from: str | None = None


class JobDeduplicated(EventPayload, frozen=True, kw_only=True):
    """A submit found its job already there."""

    kind = "job_deduplicated"
    actors = ANYBODY
    idempotency_key: str


class RunStarted(EventPayload, frozen=True, kw_only=True):
    """A run began; ``replay_steps`` checkpoints lie before it."""

    kind = "run_started"
    actors = SYSTEM
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    replay_steps: Count


class RunSuspended(EventPayload, frozen=True, kw_only=True):
    """A run was put away."""

    kind = "run_suspended"
    actors = SYSTEM
    reason: str
    ready_at: int | None = None


class RunPoisoned(EventPayload, frozen=True, kw_only=True):
    """A run ended because its job kept killing its engine."""

    kind = "run_poisoned"
    actors = SYSTEM
    stalls: Count | None = None


class JobCompleted(EventPayload, frozen=True, kw_only=True):
    """A job ended well."""

    kind = "job_completed"
    actors = ANYBODY
    attempt: int
    duration_ms: Count
    outputs_hash: str
    outputs_bytes: Count


class Issue(Part, frozen=True, kw_only=True):
    """Something that went wrong in a job without failing it."""

    code: str
    detail: str | None = None


class JobCompletedWithIssues(EventPayload, frozen=True, kw_only=True):
    """A job ended with a result and with issues."""

    kind = "job_completed_with_issues"
    actors = ANYBODY
    attempt: int
    duration_ms: Count
    outputs_hash: str
    outputs_bytes: Count
    issues: Sequence[Issue]


class JobFailed(EventPayload, frozen=True, kw_only=True):
    """A job failed."""

    kind = "job_failed"
    actors = ANYBODY
    error_type: str
    error_code: str | None = None
    message_redacted: str


class JobCancelled(EventPayload, frozen=True, kw_only=True):
    """A job was cancelled."""

    kind = "job_cancelled"
    actors = ANYBODY
    by: str
    reason: str | None = None


class JobPoisoned(EventPayload, frozen=True, kw_only=True):
    """A job kept killing its engine; ``evidence`` are event ids."""

    kind = "job_poisoned"
    actors = ANYBODY
    stalls: Count
    evidence: Sequence[str]


class JobCancelRequested(EventPayload, frozen=True, kw_only=True):
    """A job is to end; what has begun gets one last run."""

    kind = "job_cancel_requested"
    actors = OPERATOR_OR_SYSTEM
    reason: str | None = None


class JobDeadlineExceeded(EventPayload, frozen=True, kw_only=True):
    """A job is past its deadline and is to end."""

    kind = "job_deadline_exceeded"
    actors = SYSTEM
    deadline_at: int | None = None


class JobResumed(EventPayload, frozen=True, kw_only=True):
    """A stalled or suspended job was queued again; ``accepted``: to go on where code and record differ."""

    kind = "job_resumed"
    actors = OPERATOR_OR_SYSTEM
    policy: ResumedBy
    from_state: JobState
    accepted: bool | None = None


class JobRetried(EventPayload, frozen=True, kw_only=True):
    """An operator queued a failed or poisoned job again."""

    kind = "job_retried"
    actors = OPERATOR_OR_SYSTEM


class JobHeld(EventPayload, frozen=True, kw_only=True):
    """A stalled job waits for an operator or for its silent owner."""

    kind = "job_held"
    actors = OPERATOR_OR_SYSTEM
    code: str


class HoldReleased(EventPayload, frozen=True, kw_only=True):
    """A held job waits for its owner no longer."""

    kind = "hold_released"
    actors = OPERATOR_OR_SYSTEM
    reason: str | None = None


class JobProbation(EventPayload, frozen=True, kw_only=True):
    """A job was resumed to run alone, because engines died while it ran."""

    kind = "job_probation"
    actors = SYSTEM
    stalls: Count | None = None


class JobForked(EventPayload, frozen=True, kw_only=True):
    """A new job was made of this one's finished steps; without ``from_step``, of all."""

    kind = "job_forked"
    actors = OPERATOR_OR_SYSTEM
    new_job_id: str
    from_step: str | None


class HistoryMismatch(EventPayload, frozen=True, kw_only=True):
    """The code no longer agrees with the record. A hash is empty where there is nothing to hash."""

    kind = "history_mismatch"
    actors = SYSTEM
    step_key: str
    recorded_hash: str
    now_hash: str
    detail: str


class VersionAccepted(EventPayload, frozen=True, kw_only=True):
    """A job that began under one version of its kind may go on under another one, of which there are engines."""

    kind = "version_accepted"
    actors = OPERATOR_OR_SYSTEM
    recorded_version: str | None
    now_version: str | None


class MismatchAccepted(EventPayload, frozen=True, kw_only=True):
    """A run went on where its code and its record differ, because an operator had accepted that. Hashes as above."""

    kind = "mismatch_accepted"
    actors = SYSTEM
    recorded_hash: str
    now_hash: str
    detail: str
