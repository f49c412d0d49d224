"""From how a job's code ended to the command that records it.

A run that is being put away is put away whatever its frames returned; one that was asked to end ends as asked, if its code
left by exception; everything else is completed or failed. Nothing is recorded of a run that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from relight.core import events as ev
from relight.core.changes import Who
from relight.core.commands import Command
from relight.core.commands.jobs import FinishRun, PutJobAway
from relight.core.failure import Failure, failure_of
from relight.core.flow import INLINE_CHARS, digest
from relight.core.redact import redact
from relight.core.sizes import size_of
from relight.engine.board import Waiter
from relight.engine.run import End, Run
from relight.errors import PayloadError, Suspending
from relight.ids import EngineId, StepKey
from relight.model import Actor, DecisionRecord, JobState, StepKind


class Ended(Protocol):
    """What this module needs of an engine."""

    engine_id: EngineId

    def stow(self, text: str) -> str:
        """Keep a large text by its content."""
        ...

    def decode_result(self, kind: str, text: str | None, version: str | None = None) -> Any:
        """Decode a job's outputs as its workflow's result. Raises ``PayloadError``."""
        ...

    def open_decisions(self, job_id: str) -> Sequence[DecisionRecord]:
        """Return a job's open questions."""
        ...


def command_for(run: Run, engine: Ended, value: Any, error: BaseException | None, now_ms: int, encode: Any) -> Command:
    """Return what records the end of a run. ``encode`` turns the result into canonical JSON."""
    if run.suspending is not None:
        return put_away(run, engine, now_ms)
    if error is None:
        removed, doubts = run.history.left_over()
        if doubts and not run.job.accepting:
            return _never_reached(run, engine, doubts)
        try:
            text = encode(value, what=f"result of {run.ref.kind}").decode()
            engine.decode_result(run.ref.kind, text, run.spec.version)  # or nobody who asks for it could read it
        except PayloadError as refused:
            return _failed(run, engine, failure_of(refused), now_ms)
        return _completed(run, engine, text, tuple(removed), now_ms)
    if run.end is not None:
        return _ended_as_asked(run, engine, run.end, now_ms)
    if isinstance(error, Suspending):
        cancelled = Failure(
            type="asyncio.CancelledError", message="the body raised CancelledError, and nobody had cancelled it"
        )
        return _failed(run, engine, cancelled, now_ms)
    return _failed(run, engine, failure_of(error), now_ms)


def _base(run: Run, engine: Ended, now_ms: int) -> dict[str, Any]:
    return {
        "job": run.ref,
        "engine_id": engine.engine_id,
        "attempt": run.job.attempt,
        "duration_ms": max(now_ms - run.started_ms, 0),
    }


def _completed(run: Run, engine: Ended, text: str, removed: tuple[StepKey, ...], now_ms: int) -> Command:
    stored = text if len(text) <= INLINE_CHARS else engine.stow(text)
    for key in removed:
        run.issues.note(
            f"{key} removed", "step_removed", f"{key} is recorded as finished, and the code no longer calls it"
        )
    issues = run.issues.text()
    state = JobState.COMPLETED if issues is None else JobState.COMPLETED_WITH_ISSUES
    return FinishRun(
        state=state,
        reason=state.value,
        issues=issues,
        outputs=stored,
        outputs_hash=digest(text),
        outputs_bytes=size_of(text),
        removed_steps=removed,
        **_base(run, engine, now_ms),
    )


def _failed(run: Run, engine: Ended, failure: Failure, now_ms: int) -> Command:
    return FinishRun(
        state=JobState.FAILED,
        reason=f"failed:{failure.type}"[:200],
        failure=failure,
        issues=run.issues.text(),
        **_base(run, engine, now_ms),
    )


def _ended_as_asked(run: Run, engine: Ended, end: End, now_ms: int) -> Command:
    base = {**_base(run, engine, now_ms), "issues": run.issues.text()}
    if end.code == "cancel":
        return FinishRun(state=JobState.CANCELLED, reason="cancelled", by=end.by, by_reason=end.reason, **base)
    if end.code == "deadline":
        failure = Failure(type="deadline_exceeded", code="deadline_exceeded", message="the job's deadline passed")
        return FinishRun(
            state=JobState.FAILED,
            reason="deadline_exceeded",
            failure=failure,
            who=Who(Actor.SYSTEM, engine.engine_id),
            **base,
        )
    failure = Failure(type="operator", code="operator", message=end.reason or f"failed by {end.by}")
    who = Who(Actor.HUMAN, end.by or "unknown")
    return FinishRun(state=JobState.FAILED, reason="failed:operator", failure=failure, who=who, **base)


def _never_reached(run: Run, engine: Ended, doubts: Sequence[StepKey]) -> Command:
    detail = f"{', '.join(doubts)} had begun before a crash, and the code no longer reaches it"
    told = ev.HistoryMismatch(step_key=doubts[0], recorded_hash="", now_hash="", detail=detail)
    return PutJobAway(
        job=run.ref,
        engine_id=engine.engine_id,
        state=JobState.AWAITING_USER,
        reason="history_mismatch:never_reached",
        ready_at=None,
        tells=(told,),
    )


def put_away(run: Run, engine: Ended, now_ms: int) -> Command:
    """Return what puts a run away: to wait, to be taken up by another engine, or for a person."""
    reason = run.suspending or "waiting"
    if reason.startswith("history_mismatch"):
        return PutJobAway(
            job=run.ref,
            engine_id=engine.engine_id,
            state=JobState.AWAITING_USER,
            reason=reason,
            ready_at=None,
            tells=run.tells,
        )
    if not run.left_quiet:
        return PutJobAway(
            job=run.ref, engine_id=engine.engine_id, state=JobState.QUEUED, reason=reason, ready_at=now_ms
        )
    if all(waiter.kind == "abandoned" for waiter in run.left_waiting):
        return _never_comes(run, engine)
    until = [waiter.until for waiter in run.left_waiting if waiter.until is not None]
    questions = _questions(run.left_waiting, engine.open_decisions(run.ref.job_id))
    return PutJobAway(
        job=run.ref,
        engine_id=engine.engine_id,
        state=JobState.AWAITING_USER if questions else JobState.QUEUED,
        reason="awaiting_user" if questions else reason,
        ready_at=min(until) if until else None,
        tells=questions,
    )


def _never_comes(run: Run, engine: Ended) -> Command:
    keys = sorted(waiter.waits_for or "" for waiter in run.left_waiting)
    detail = f"{', '.join(keys)} was cancelled when this ran before, and now the code waits for its outcome"
    told = ev.HistoryMismatch(step_key=keys[0], recorded_hash="", now_hash="", detail=detail)
    return PutJobAway(
        job=run.ref,
        engine_id=engine.engine_id,
        state=JobState.AWAITING_USER,
        reason="history_mismatch:abandoned",
        ready_at=None,
        tells=(told,),
    )


def _questions(waiting: Sequence[Waiter], decisions: Sequence[DecisionRecord]) -> tuple[ev.EventPayload, ...]:
    """Return what tells of a job that only a person can move: nothing if any of its lines waits for something else."""
    if any(waiter.kind != StepKind.ASK for waiter in waiting):
        return ()
    ids = {waiter.waits_for for waiter in waiting}
    return tuple(
        ev.JobAwaitingUser(
            decision_id=row.decision_id,
            question_redacted=redact(row.question),
            options=msgspec.json.decode(row.options),
            preview_hash=row.preview_hash or "",
            expires_at=row.expires_at,
        )
        for row in decisions
        if row.decision_id in ids
    )
