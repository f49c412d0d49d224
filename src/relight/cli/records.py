"""Rows as the JSON objects that ``--json`` prints: the fields of the records, times as RFC 3339, stored JSON as JSON.

A field that holds a nonce, or a payload in a list, is not among them. Read next: ``lists.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from relight.cli.output import wire_time
from relight.core.flow import STOWED
from relight.model import (
    DecisionRecord,
    EngineRecord,
    EventRecord,
    JobRecord,
    QuarantineRecord,
    QueueRecord,
    RecoveryRecord,
    RunRecord,
    SignalRecord,
    StepRecord,
    TokenRecord,
    Why,
)

Object = dict[str, Any]

_TIMES = frozenset({"lease_until", "until", "ts"})
_STORED_JSON = frozenset(
    {
        "args_hashes",
        "engines",
        "entity_refs",
        "error",
        "evidence",
        "inputs",
        "issues",
        "kinds",
        "metrics",
        "options",
        "outcome",
        "outputs",
        "payload",
        "planned_operations",
        "preview",
        "progress",
        "queues",
        "override",
        "previous",
        "rate",
        "tags",
        "value",
    }
)


def stored_json(text: str | None, unstow: Callable[[str], str | None] | None = None) -> Any:
    """Return stored JSON text as a value; damaged text as it is, and one kept apart as its reference, or unstowed."""
    if text is None:
        return None
    if text.startswith(STOWED):
        kept = None if unstow is None else unstow(text.removeprefix(STOWED))
        if kept is None:
            return {"blob": text.removeprefix(STOWED)}
        text = kept
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text


def _object(
    row: msgspec.Struct, left_out: frozenset[str] = frozenset(), unstow: Callable[[str], str | None] | None = None
) -> Object:
    made: Object = {}
    for name in row.__struct_fields__:
        if name in left_out:
            continue
        value = getattr(row, name)
        if name.endswith("_at") or name in _TIMES:
            value = wire_time(value) if isinstance(value, int) else value
        elif name in _STORED_JSON and isinstance(value, str):
            value = stored_json(value, unstow)
        made[name] = value
    return made


_PAYLOADS = frozenset({"inputs", "outputs", "stalled_at_checkpoint"})


def job_object(job: JobRecord) -> Object:
    """Return a job as lists show it: everything but its payloads."""
    return _object(job, _PAYLOADS) | {"tags": stored_json(job.tags) or {}}


def whole_job_object(job: JobRecord, unstow: Callable[[str], str | None]) -> Object:
    """Return a job with its inputs and outputs."""
    return _object(job, frozenset({"stalled_at_checkpoint"}), unstow) | {"tags": stored_json(job.tags) or {}}


def run_object(run: RunRecord) -> Object:
    """Return a run."""
    return _object(run)


def step_object(step: StepRecord) -> Object:
    """Return a step, with its inputs and outcome; large ones as references."""
    return _object(step, frozenset({"job_id"}))


def signal_object(signal: SignalRecord) -> Object:
    """Return a message."""
    return _object(signal, frozenset({"job_id"}))


def decision_object(decision: DecisionRecord) -> Object:
    """Return a question and its answer."""
    return _object(decision, frozenset({"job_id"}))


def token_object(token: TokenRecord) -> Object:
    """Return a token and its answer."""
    return _object(token, frozenset({"job_id", "type"}))


def quarantine_object(row: QuarantineRecord) -> Object:
    """Return what is known of a row set aside."""
    return _object(row)


def event_object(event: EventRecord) -> Object:
    """Return an event in its wire form, with its place in its writer's chain."""
    made: Object = {}
    for name, value in _object(event).items():
        made["timestamp" if name == "ts" else name] = value
    return made


def engine_object(engine: EngineRecord) -> Object:
    """Return an engine. Its nonce, which proves who owns the lock, is nobody's business."""
    made = _object(engine, frozenset({"nonce", "lease_ms"}))
    return made | {"lease_seconds": engine.lease_ms / 1000}


def recovery_object(recovery: RecoveryRecord) -> Object:
    """Return a recovery's receipt."""
    return _object(recovery)


def queue_object(queue: QueueRecord) -> Object:
    """Return a queue's definition."""
    return _object(queue)


def why_object(job_id: str, why: Why) -> Object:
    """Return an explanation."""
    return {
        "job_id": job_id,
        "summary": why.summary,
        "causes": [
            {
                "code": cause.code,
                "since": wire_time(int(cause.since.timestamp() * 1000)),
                "detail": cause.detail,
                "evidence": list(cause.evidence),
                "next_check_at": None
                if cause.next_check_at is None
                else wire_time(int(cause.next_check_at.timestamp() * 1000)),
                "actions": list(cause.actions),
            }
            for cause in why.causes
        ],
    }
