"""The source specification's kinds of events, with its names, fields and enumerations (``FR-EVT-*``).

Owns nothing of our own: what is ours is in ``payloads.py``; the one kind that both share is ``workflow_recovery``. Output
of programs, prompts and arguments travel by reference or hash only. Where the specification names no actor, anybody may
cause the kind. Read next: ``events.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from relight.core.payloads import ANYBODY, SYSTEM, Count, EventPayload, Evidence, Named, Part, Rfc3339
from relight.model import Verdict


class TerminalCommand(EventPayload, frozen=True, kw_only=True):
    """A program was started; its output is named by reference only. Source: FR-EVT-001."""

    kind = "terminal_command"
    actors = ANYBODY
    session_id: str
    command: str
    cwd: str | None = None
    args: Sequence[str] | None = None
    exit_code: int | None = None
    duration_ms: Count | None = None
    stdout_ref: str | None = None
    stderr_ref: str | None = None
    env_ref: str | None = None
    timed_out: bool | None = None
    cancelled: bool | None = None
    truncated_bytes: Count | None = None


class EditOp(Part, frozen=True, kw_only=True):
    """One edit: a range as the surface names it, and what was put in or taken out."""

    range: str | Sequence[int] | Mapping[str, int]
    insert_text: str | None = None
    delete_text: str | None = None


class EditorEdit(EventPayload, frozen=True, kw_only=True):
    """A document was edited. Source: FR-EVT-002."""

    kind = "editor_edit"
    actors = ANYBODY
    editor_surface: Literal["monaco", "canvas", "sheet"]
    ops: Sequence[EditOp]
    document_uri: str | None = None
    path: str | None = None
    before_hash: str | None = None
    after_hash: str | None = None
    diff_hash: str | None = None


class Diagnostic(EventPayload, frozen=True, kw_only=True):
    """A diagnostic was recorded. Source: FR-EVT-003."""

    kind = "diagnostic"
    actors = ANYBODY
    diagnostic_id: str
    wsid: str | None = None
    severity: Literal["fatal", "error", "warning", "info", "hint"] | None = None
    source: str | None = None


class MissingEvidence(Part, frozen=True, kw_only=True):
    """What a bundle lacks, and why."""

    # Not a kind of event: the specification's own name for the sort of evidence.
    kind: str
    reason: str


class DebugBundleExport(EventPayload, frozen=True, kw_only=True):
    """A debug bundle was exported. Source: FR-EVT-005."""

    kind = "debug_bundle_export"
    actors = ANYBODY
    bundle_id: str
    scope: Literal["problem", "job", "time_window", "workspace"]
    redaction_mode: Literal["SAFE_DEFAULT", "WORKSPACE", "FULL_LOCAL"]
    included_job_ids: Sequence[str] | None = None
    included_diagnostic_ids: Sequence[str] | None = None
    included_wsids: Sequence[str] | None = None
    event_count: Count | None = None
    missing_evidence: Sequence[MissingEvidence] | None = None


class TokenUsage(Part, frozen=True, kw_only=True):
    """Tokens of one inference."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class LlmInference(EventPayload, frozen=True, kw_only=True):
    """A model was called. Refused without trace or model id. Source: FR-EVT-006."""

    kind = "llm_inference"
    actors = ANYBODY
    trace_id: Named
    model_id: Named
    token_usage: TokenUsage
    latency_ms: Count | None = None
    prompt_hash: str | None = None
    response_hash: str | None = None


class ToolTiming(Part, frozen=True, kw_only=True):
    """When a tool call began and ended."""

    started_at: Rfc3339
    ended_at: Rfc3339
    duration_ms: Count


class ToolError(Part, frozen=True, kw_only=True):
    """How a tool call failed."""

    code: str
    kind: str
    message: str
    retryable: bool


class ToolCall(EventPayload, frozen=True, kw_only=True):
    """A tool was called. Source: FR-EVT-007."""

    kind = "tool_call"
    actors = ANYBODY
    trace_id: Named
    tool_call_id: Named
    tool_id: Named
    tool_version: str
    transport: Literal["local", "mcp", "mex", "stage_bridge", "other"]
    side_effect: Literal["READ", "WRITE", "EXECUTE"]
    idempotency: Literal["IDEMPOTENT", "IDEMPOTENT_WITH_KEY", "NON_IDEMPOTENT"]
    ok: bool
    timing: ToolTiming
    idempotency_key: str | None = None
    args_ref: str | None = None
    args_hash: str | None = None
    result_ref: str | None = None
    result_hash: str | None = None
    error: ToolError | None = None
    resources_touched: Sequence[str] | None = None
    capability_ids: Sequence[str] | None = None
    parent_span_id: str | None = None


class SecurityViolation(EventPayload, frozen=True, kw_only=True):
    """A guard stopped something. Source: FR-EVT-008."""

    kind = "security_violation"
    actors = ANYBODY
    violation_type: Literal[
        "prompt_injection", "cloud_leakage", "sensitivity_violation", "unknown_sensitivity", "export_violation"
    ]
    description: str
    trigger: str
    guard_name: str
    action_taken: str
    source_id: str | None = None
    offset: int | None = None
    context: str | None = None
    job_state_transition: str | None = None


class WorkflowRecovery(EventPayload, frozen=True, kw_only=True):
    """Recovery moved a run of a dead or silent engine from running to stalled.

    ``threshold_secs`` is the owner's lease. The last five fields are ours. Source: FR-EVT-WF-RECOVERY, HSK-WF-003.
    """

    kind = "workflow_recovery"
    actors = SYSTEM
    workflow_run_id: Named
    job_id: str | None = None
    from_state: Literal["running"]
    to_state: Literal["stalled"]
    reason: str
    last_heartbeat_ts: Rfc3339
    threshold_secs: Annotated[float, msgspec.Meta(ge=0)]
    verdict: Verdict
    evidence: Evidence
    dead_engine_id: str
    recovery_id: str
    in_doubt_steps: Sequence[str]


class CapabilityAction(EventPayload, frozen=True, kw_only=True):
    """A capability was asked for, and allowed or denied: both are told."""

    kind = "capability_action"
    actors = ANYBODY
    capability_id: str
    actor_id: str
    job_id: str
    decision_outcome: Literal["allowed", "denied"]


class GovGateTransition(EventPayload, frozen=True, kw_only=True):
    """A governance gate changed. Source: FR-EVT-GOV-GATES-001."""

    kind = "gov_gate_transition"
    actors = ANYBODY
    role: Literal["operator", "orchestrator", "coder", "validator", "system"]
    gate_kind: str
    gate: str
    gate_state_ref: str
    idempotency_key: str
    spec_id: str | None = None
    work_packet_id: str | None = None
    verdict: Literal["PASS", "FAIL"] | None = None


class GovWorkPacketActivated(EventPayload, frozen=True, kw_only=True, rename={"board_ref": "task_board_ref"}):
    """A work packet became the active one. Source: FR-EVT-GOV-WP-001."""

    kind = "gov_work_packet_activated"
    actors = ANYBODY
    base_wp_id: str
    work_packet_id: str
    active_packet_ref: str
    board_ref: str
    idempotency_key: str
    spec_id: str | None = None
