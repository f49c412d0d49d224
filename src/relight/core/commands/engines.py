"""Writers and recovery: who opens, beats, judges, stalls, opens the gate, leaves; and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from relight.core import events as ev
from relight.core.changes import (
    Beat,
    Changes,
    CloseWriter,
    JudgeEngine,
    NameHead,
    NewRecovery,
    OpenWriter,
    PutKind,
    Quarantine,
    SetGate,
    StallRun,
    WakeDue,
    Who,
)
from relight.core.commands.base import Command, JobRef, event
from relight.core.redact import redact
from relight.core.row import Row
from relight.ids import EngineId, Ids, JobId, StepKey
from relight.model import Actor, EngineState, GateState, Verdict


class OpenWriterNow(Command, frozen=True, kw_only=True):
    """A writer's first words: its row, the chain heads that nobody has named yet, and for an engine how it started."""

    row: OpenWriter
    heads: tuple[tuple[EngineId, int, str], ...]
    who: Who
    started: ev.EngineStarted | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the rows, ``writer_opened``, and ``engine_started``."""
        rows: list[Row] = [self.row, *(NameHead(writer, seq) for writer, seq, _ in self.heads)]
        opened = ev.WriterOpened(heads={writer: digest for writer, _, digest in self.heads})
        told = [event(opened, self.who, now_ms, ids)]
        if self.started is not None:
            told.append(event(self.started, self.who, now_ms, ids))
        return Changes(rows, told)


class CloseWriterNow(Command, frozen=True, kw_only=True):
    """A writer's last words. An engine says what it left."""

    engine_id: EngineId
    stopped: ev.EngineStopped | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the end, and ``engine_stopped`` of an engine."""
        told = [] if self.stopped is None else [event(self.stopped, _system(self.engine_id), now_ms, ids)]
        return Changes([CloseWriter(self.engine_id, now_ms)], told)


class Tell(Command, frozen=True, kw_only=True):
    """An event without a change: an engine degraded, lagging, fenced, a recovery started or failed."""

    payload: ev.EventPayload
    who: Who
    job: JobRef | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the event."""
        return Changes([], [event(self.payload, self.who, now_ms, ids, job=self.job)])


class RenewLease(Command, frozen=True, kw_only=True):
    """A heartbeat. No event: it is no fact about a job."""

    engine_id: EngineId
    lease_ms: int

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the beat."""
        return Changes([Beat(self.engine_id, now_ms, now_ms + self.lease_ms)], [])


class JudgeEngineNow(Command, frozen=True, kw_only=True):
    """A verdict takes effect: the other engine's row is fenced, if it is still as it was judged.

    ``operator``: whose word it is, when no engine judged.
    """

    judge: EngineId
    engine_id: EngineId
    source: EngineState
    target: EngineState
    beat_at: int
    last_heartbeat_ts: str
    verdict: Verdict
    evidence: Mapping[str, object]
    operator: Who | None = None

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the fence; of a silent engine also ``engine_silent``; on an operator's word ``engine_fenced``."""
        row = JudgeEngine(
            self.engine_id,
            self.source,
            self.target,
            self.beat_at,
            self.verdict,
            msgspec.json.encode(self.evidence).decode(),
            now_ms,
        )
        told = []
        if self.target is EngineState.SILENT:
            silent = ev.EngineSilent(engine_id=self.engine_id, last_heartbeat_ts=self.last_heartbeat_ts)
            told.append(event(silent, _system(self.judge), now_ms, ids))
        if self.operator is not None:
            reason = f"engine {self.engine_id} is held dead on an operator's word"
            told.append(event(ev.EngineFenced(by=self.operator.id, reason=reason), self.operator, now_ms, ids))
        return Changes([row], told)


class StallRunNow(Command, frozen=True, kw_only=True):
    """Recovery moves one run of a dead or silent engine, and its job, from running to stalled, and says so.

    Source: HSK-WF-003, FR-EVT-WF-RECOVERY. ``held``: the owner is silent, the job waits for it. ``crashed`` is False of an
    owner that had stopped in good order and left this run behind: that counts towards no crash loop.
    """

    job: JobRef
    owner: EngineId
    verdict: Verdict
    evidence: Mapping[str, object]
    recovery_id: str
    judge: EngineId
    last_heartbeat_ts: str
    threshold_secs: float
    in_doubt: tuple[StepKey, ...]
    held: bool
    crashed: bool = True

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return both moves and ``workflow_recovery``."""
        assert self.job.run_id is not None
        row = StallRun(
            self.job.job_id,
            self.job.run_id,
            self.owner,
            f"stalled:{self.verdict}",
            self.owner if self.held else None,
            self.crashed and self.verdict is Verdict.DEAD and bool(self.in_doubt),
            now_ms,
        )
        told = ev.WorkflowRecovery(
            workflow_run_id=self.job.run_id,
            job_id=self.job.job_id,
            from_state="running",
            to_state="stalled",
            reason=f"engine_{self.verdict}",
            last_heartbeat_ts=self.last_heartbeat_ts,
            threshold_secs=self.threshold_secs,
            verdict=self.verdict,
            evidence=dict(self.evidence),
            dead_engine_id=self.owner,
            recovery_id=self.recovery_id,
            in_doubt_steps=list(self.in_doubt),
        )
        return Changes([row], [event(told, _system(self.judge), now_ms, ids, job=self.job)])


class QuarantineRow(Command, frozen=True, kw_only=True):
    """Set aside what recovery or a claim could not handle, with evidence. Recovery repairs nothing it did not expect."""

    job_id: JobId
    trace_id: str | None
    table_name: str
    code: str
    detail: str
    recovery_id: str | None
    judge: EngineId

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the quarantine and ``row_quarantined``."""
        detail = redact(self.detail)
        row = Quarantine(self.job_id, self.table_name, self.code, detail, self.recovery_id, now_ms)
        told = ev.RowQuarantined(table=self.table_name, row_id=self.job_id, code=self.code, detail=detail)
        ref = None if self.trace_id is None else JobRef(self.job_id, self.trace_id, "")
        return Changes([row], [event(told, _system(self.judge), now_ms, ids, job=ref)])


class FinishRecovery(Command, frozen=True, kw_only=True):
    """A recovery's receipt."""

    recovery_id: str
    engine_id: EngineId
    engines: Sequence[ev.JudgedEngine]
    scanned: int
    stalled: int
    in_doubt: int
    quarantined: int
    started_at: int

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the receipt and ``recovery_finished``."""
        duration_ms = max(now_ms - self.started_at, 0)
        row = NewRecovery(
            self.recovery_id,
            self.engine_id,
            msgspec.json.encode(self.engines).decode(),
            self.scanned,
            self.stalled,
            self.in_doubt,
            self.quarantined,
            self.started_at,
            duration_ms,
        )
        told = ev.RecoveryFinished(
            recovery_id=self.recovery_id,
            engines=list(self.engines),
            scanned=self.scanned,
            stalled=self.stalled,
            in_doubt=self.in_doubt,
            quarantined=self.quarantined,
            duration_ms=duration_ms,
        )
        return Changes([row], [event(told, _system(self.engine_id), now_ms, ids)])


class OpenGate(Command, frozen=True, kw_only=True):
    """Open the gate, if a fresh query finds no unquarantined run running under an engine held dead or silent."""

    engine_id: EngineId
    recovery_id: str
    closed_ms: int

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the latch and ``gate_opened``, whose place in the log proves that recovery came first."""
        told = ev.GateOpened(recovery_id=self.recovery_id, closed_ms=self.closed_ms)
        return Changes(
            [SetGate(self.engine_id, GateState.OPEN, None, now_ms)], [event(told, _system(self.engine_id), now_ms, ids)]
        )


class FailGate(Command, frozen=True, kw_only=True):
    """Say why the gate stays shut for now."""

    engine_id: EngineId
    gate_code: str
    detail: str

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the reason and ``gate_failed``."""
        detail = redact(self.detail)
        told = ev.GateFailed(code=self.gate_code, detail=detail)
        row = SetGate(self.engine_id, GateState.FAILED, f"{self.gate_code}: {detail}", now_ms)
        return Changes([row], [event(told, _system(self.engine_id), now_ms, ids)])


class RegisterKinds(Command, frozen=True, kw_only=True):
    """Make kinds known to the store, so that clients may submit them. Only news is told."""

    who: Who
    kinds: tuple[tuple[str, str | None], ...]
    new_kinds: tuple[str, ...]

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the rows, and ``kind_registered`` for each new kind."""
        rows: list[Row] = [PutKind(kind, version, now_ms) for kind, version in self.kinds]
        told = [event(ev.KindRegistered(job_kind=kind), self.who, now_ms, ids) for kind in self.new_kinds]
        return Changes(rows, told)


class WakeDueJobs(Command, frozen=True, kw_only=True):
    """Make every job claimable whose timer has run out. No event: it was queued and is queued."""

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the one row for all of them."""
        return Changes([WakeDue(now_ms)], [])


def _system(engine_id: str) -> Who:
    return Who(Actor.SYSTEM, engine_id)
