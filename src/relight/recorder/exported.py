"""A job's history as a file: what ``relight export`` writes and ``relight.testing.assert_replays`` drives code through again.

**Format** (JSON, one object; ``relight_history`` is its version, 1)::

    relight_history  kind  version  job_id  state  attempt  tags  inputs  outputs  error  redacted  steps

``steps`` are the job's records in order of beginning, waits and recorded values among them: ``step_key``, ``kind``, ``name``,
``state``, ``try_number``, ``policy``, ``args_hashes`` (a short hash for each parameter), ``inputs``, ``outcome``, ``error``,
``waits_for``, ``code_ref``. Payloads stand in it as the JSON that was stored, kept-apart ones brought back.

**What is left out.** Times, engines, runs, tracebacks, messages and questions not yet read: no replay asks for them. A
``Secret`` is stored as the name of its place and stands here so. A token of ``external`` is a secret that opens its job: a
stand-in (``ext_hidden_1`` …, the same wherever the same token stood) takes its place, and arguments that hold one are
compared without it. Text in payloads and errors that looks like a secret is
replaced, as in the flight recorder, and ``redacted`` names where: a replay of such a history may differ there. Other
personal data is *not* replaced, because a replay needs it: look at what you commit. Read next: ``testing/replaying.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from relight.core.external import PREFIX
from relight.core.flow import STOWED
from relight.core.redact import redact_value
from relight.errors import InvalidArgument, NotFound
from relight.ids import JobId, RunId, StepKey
from relight.model import InDoubtPolicy, JobRecord, JobState, StepKind, StepRecord, StepState
from relight.store.reads import Reads

FORMAT = 1
_SECRET_TOKEN = "[REDACTED:secret:"
_REFERENCE = "$secret"
_NO_LIMIT = 1 << 40
_TOKEN = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")
STAND_IN = "ext_hidden_"
"""What takes the place of a token begins so."""

Payload = Any
"""A JSON value, None for none; stored JSON text as it is (``msgspec.Raw``) on its way into a file."""


class ExportedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One record of a job."""

    step_key: StepKey
    kind: StepKind
    name: str
    state: StepState
    try_number: int = 1
    policy: InDoubtPolicy = "retry"
    args_hashes: Payload = None
    inputs: Payload = None
    outcome: Payload = None
    error: Payload = None
    waits_for: str | None = None
    code_ref: str | None = None

    def as_record(self, job_id: JobId) -> StepRecord:
        """Return it as a row of ``steps``."""
        return StepRecord(
            job_id=job_id,
            step_key=self.step_key,
            run_id=RunId("exported"),
            kind=self.kind,
            name=self.name,
            state=self.state,
            try_number=self.try_number,
            policy=self.policy,
            args_hashes=_text(self.args_hashes),
            inputs=_text(self.inputs),
            outcome=_text(self.outcome),
            error=_text(self.error),
            waits_for=self.waits_for,
            code_ref=self.code_ref,
        )


class ExportedHistory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A job with everything recorded in it. ``redacted`` names what was replaced: ``inputs``, ``outcome of fetch#0``."""

    relight_history: int
    kind: str
    job_id: JobId
    state: JobState
    version: str | None = None
    attempt: int = 1
    tags: Payload = None
    inputs: Payload = None
    outputs: Payload = None
    error: Payload = None
    redacted: tuple[str, ...] = ()
    steps: tuple[ExportedStep, ...] = ()

    def as_job(self) -> JobRecord:
        """Return the job as a row, running."""
        return JobRecord(
            job_id=self.job_id,
            kind=self.kind,
            version=self.version,
            state=JobState.RUNNING,
            begun=True,
            attempt=self.attempt,
            inputs=_text(self.inputs) or "{}",
            tags=_text(self.tags),
            trace_id=self.job_id,
        )

    def as_steps(self) -> tuple[StepRecord, ...]:
        """Return what is recorded in it as rows."""
        return tuple(step.as_record(self.job_id) for step in self.steps)


def _text(payload: Payload) -> str | None:
    return None if payload is None else msgspec.json.encode(payload).decode()


def export_history(reads: Reads, job_id: str) -> ExportedHistory:
    """Return a job's history. ``reads`` see one state of the store. Raises ``NotFound``."""
    job = reads.job(job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r:.100} here", job_id=job_id)
    clean = _Cleaner(reads.blob)
    steps = tuple(_exported(step, clean) for step in reads.steps(job_id))
    return ExportedHistory(
        relight_history=FORMAT,
        kind=job.kind,
        job_id=job.job_id,
        state=job.state,
        version=job.version,
        attempt=max(job.attempt, 1),
        tags=clean(job.tags, "tags"),
        inputs=clean(job.inputs, "inputs"),
        outputs=clean(job.outputs, "outputs"),
        error=clean(_without_traceback(job.error), "error"),
        redacted=tuple(clean.replaced),
        steps=steps,
    )


def _exported(step: StepRecord, clean: _Cleaner) -> ExportedStep:
    return ExportedStep(
        step_key=step.step_key,
        kind=step.kind,
        name=step.name,
        state=step.state,
        try_number=step.try_number,
        policy=step.policy,
        args_hashes=None if step.args_hashes is None else msgspec.Raw(step.args_hashes.encode()),
        inputs=clean(step.inputs, f"inputs of {step.step_key}"),
        outcome=clean(step.outcome, f"outcome of {step.step_key}"),
        error=clean(_without_traceback(step.error), f"error of {step.step_key}"),
        waits_for=None if step.waits_for is None else clean.without_tokens(step.waits_for),
        code_ref=step.code_ref,
    )


def _without_traceback(error: str | None) -> str | None:
    failure = None if error is None else msgspec.json.decode(error)
    if not isinstance(failure, dict):
        return error
    return msgspec.json.encode({name: value for name, value in failure.items() if name != "traceback"}).decode()


class _Cleaner:
    """Brings payloads back from where they are kept, and replaces tokens and what looks like a secret."""

    def __init__(self, blob: Callable[[str], str | None]) -> None:
        self._blob = blob
        self._stand_ins: dict[str, str] = {}
        self.replaced: list[str] = []

    def without_tokens(self, text: str) -> str:
        """Return a text with a stand-in for each token in it."""
        return _TOKEN.sub(
            lambda found: self._stand_ins.setdefault(found[0], f"{STAND_IN}{len(self._stand_ins) + 1}"), text
        )

    def _in_full(self, text: str) -> str:
        if text.startswith(STOWED):
            return self._blob(text.removeprefix(STOWED)) or "null"
        if STOWED not in text:
            return text
        # a message that was read, whose payload is kept apart
        value = msgspec.json.decode(text)
        payload = value.get("payload") if isinstance(value, dict) else None
        if not isinstance(payload, str) or not payload.startswith(STOWED):
            return text
        kept = self._blob(payload.removeprefix(STOWED))
        return text if kept is None else msgspec.json.encode({**value, "payload": kept}).decode()

    def __call__(self, text: str | None, where: str) -> Payload:
        if text is None:
            return None
        text = self.without_tokens(self._in_full(text))
        value = msgspec.json.decode(text)
        cleaned = _cleaned(value, redact_value(value, limit=_NO_LIMIT))
        if cleaned == value:
            return msgspec.Raw(text.encode())
        self.replaced.append(where)
        return msgspec.Raw(msgspec.json.encode(cleaned))


def _cleaned(value: Any, hidden: Any) -> Any:
    """Return a value with those of its texts hidden that hold a secret; ``hidden`` is its copy with everything hidden."""
    if isinstance(value, dict) and isinstance(hidden, dict):
        if value.keys() == {_REFERENCE}:
            return value
        return {key: _cleaned(item, other) for (key, item), other in zip(value.items(), hidden.values(), strict=True)}
    if isinstance(value, list) and isinstance(hidden, list):
        return [_cleaned(item, other) for item, other in zip(value, hidden, strict=True)]
    if isinstance(hidden, str) and hidden != value and _SECRET_TOKEN in hidden:
        return hidden
    return value


def write_history(history: ExportedHistory) -> bytes:
    """Return the file's bytes: indented, one line for each value, so that a diff shows what changed."""
    return msgspec.json.format(msgspec.json.encode(history), indent=2) + b"\n"


def read_history(data: bytes, where: str) -> ExportedHistory:
    """Read a file's bytes. Raises ``InvalidArgument`` when it is none, or of a format that this version does not know."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{where} is no exported history ({error}). relight export JOB makes one") from None
    if head.relight_history != FORMAT:
        raise InvalidArgument(
            f"{where} has format {head.relight_history}; this Relight reads {FORMAT}. Export it again, or use a newer Relight"
        )
    try:
        return msgspec.json.decode(data, type=ExportedHistory)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{where} is damaged: {error}") from None


class _Head(msgspec.Struct, frozen=True):
    relight_history: int
