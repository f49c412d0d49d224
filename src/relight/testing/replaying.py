"""``assert_replays``: does today's code still agree with a history that was recorded before?

The workflow is driven through the records by the real runner, on an engine that claims nothing. Whatever is recorded is
given back and compared as ever; at the first thing that is not, the replay ends: no step's function is called, no signal
read, no child started, nothing written. Read next: ``recorder/exported.py``.
"""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from relight.authoring.registry import as_call
from relight.authoring.workflows import NO_OPTIONS
from relight.client.blocking import refuse_on_any_loop
from relight.core import flow as f
from relight.core.flow import Flow
from relight.core.history import differing_arguments
from relight.core.keys import Branch
from relight.engine.claimer import Candidate
from relight.engine.run import Run
from relight.engine.runner import Conductor
from relight.errors import InvalidArgument, Suspending, WaitTimeout
from relight.model import FINAL_STATES, JobState, StepRecord
from relight.recorder.exported import ExportedHistory, read_history
from relight.testing.clock import ManualClock
from relight.testing.inline import scratch_engine

PATIENCE_SECONDS = 60.0
SHOWN = 300
ENDED_BY_CODE = frozenset({JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES})
_GO_ON = (f.Enter, f.Now, f.NewId, f.NewToken, f.Unstow)
"""Requests that begin nothing: a flow may still find that it does not agree with the record."""


class _Seen:
    """How far a replay came."""

    def __init__(self) -> None:
        self.inputs: dict[str, str] = {}
        self.mismatch: f.Mismatch | None = None
        self.new: str | None = None
        self.over = threading.Event()
        self.run: Run | None = None
        self.error: BaseException | None = None

    @property
    def stopped(self) -> bool:
        """Whether the replay has come to its end somewhere, so that nothing further begins."""
        return self.mismatch is not None or self.new is not None

    def replayer(self) -> type[Conductor]:
        """Return the conductor that notes what it sees here."""
        return type("Replayer", (_Replayer,), {"seen": self})


class _Replayer(Conductor):
    """A conductor that only replays."""

    seen: _Seen

    def call_of(
        self, step: Any, key: str | None, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Flow:
        flow = super().call_of(step, key, branch, args, kwargs)
        call: f.StepCall = flow.gi_frame.f_locals["call"]  # type: ignore[attr-defined] # a generator, not begun
        self.seen.inputs[call.key] = call.inputs
        return flow

    def _do(self, request: Any) -> Any:
        if self.seen.stopped:
            raise Suspending("the replay is over")
        if isinstance(request, f.Mismatch):
            self.seen.mismatch = request
            raise Suspending(request.detail)
        if isinstance(request, f.Enter):
            self._entered = request.key
            return None
        if isinstance(request, _GO_ON):
            return super()._do(request)
        return self._end(request)

    _entered = ""

    def _end(self, request: Any) -> NoReturn:
        key = getattr(request, "key", None) or getattr(getattr(request, "command", None), "step_key", None)
        self.seen.new = self.seen.new or str(key or self._entered)
        raise Suspending("the record ends here")

    async def _end_async(self, request: Any) -> None:
        try:
            self._end(request)
        except Suspending:
            await self._leave_async()

    async def _begin_async(self, begin: Any, lazy: bool) -> None:
        await self._end_async(f.Persist(begin, lazy))

    async def _persist_async(self, command: Any, lazy: bool) -> None:
        await self._end_async(f.Persist(command, lazy))

    async def _park_async(self, request: f.Park) -> str:
        await self._end_async(request)
        return ""

    def _park(self, request: f.Park) -> str:
        return self._end(request)

    def report(self, *, done: float | None, total: float | None, note: str | None) -> None:
        """Progress of a replay is nobody's."""

    def cancel_child(self, job_id: str, reason: str | None) -> None:
        """A replay cancels nothing."""


def assert_replays(workflow: Any, file: str | os.PathLike[str]) -> None:
    """Check that a workflow agrees with an exported history: jobs that began as it did would go on under this code.

    ``file`` was written by ``relight export JOB -o FILE``. The history of a job that had ended must be replayed to its end;
    one of a job that had not, as far as it goes. No step is called and nothing is written; the body runs.

    Raises ``AssertionError`` naming the step, what was recorded and what is now, and for code that raises where the
    recorded job completed; ``InvalidArgument`` for a file that is no history. Warns (``UserWarning``) of recorded steps that
    are called no more: jobs go on without them.
    """
    refuse_on_any_loop("assert_replays()", "In an async test: await asyncio.to_thread(assert_replays, …)")
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    history = read_history(data, str(path))
    call = as_call(workflow, (), NO_OPTIONS)
    if call.workflow.kind != history.kind:
        raise InvalidArgument(f"{path} is the history of a {history.kind}, and this workflow is {call.workflow.kind}")
    seen = _Seen()
    with scratch_engine(call, ManualClock()) as engine:
        engine.conductor = seen.replayer()
        engine.start()
        inside = engine._alive()

        def settled(run: Run, value: Any, error: BaseException | None) -> None:  # noqa: ARG001 - as the kernel calls it
            seen.run, seen.error = run, error
            inside._forget(run)
            seen.over.set()

        inside._settle = settled  # type: ignore[method-assign]
        version = call.workflow.spec.version
        candidate = Candidate(history.as_job(), version, history.as_steps(), limits=(), rate=None, turn=None, terms=0)
        inside.start_runs([(candidate, inside.ids.uuid7(inside.clock.now_ms()))])
        if not seen.over.wait(PATIENCE_SECONDS):
            raise WaitTimeout(f"{history.kind} still replays {path} after {PATIENCE_SECONDS:g} s", summary="replaying")
    _judge(seen, history, path)


def _judge(seen: _Seen, history: ExportedHistory, path: Path) -> None:
    ended = history.state in FINAL_STATES and history.state is not JobState.CANCELLED
    if seen.mismatch is not None:
        record = next((step for step in history.as_steps() if step.step_key == seen.mismatch.key), None)
        _fail(seen.mismatch.detail, history, path, *_both_sides(record, seen, seen.mismatch.key), at=seen.mismatch.key)
    if seen.new is not None and ended:
        _fail(
            f"the recorded job {history.state} without it, and now the code goes on to it", history, path, at=seen.new
        )
    if isinstance(seen.error, Exception) and history.state in ENDED_BY_CODE:
        told = f"the recorded job {history.state}, and now the code raises {type(seen.error).__name__}: {seen.error}"
        _fail(told, history, path, cause=seen.error)
    if not seen.stopped and seen.run is not None:
        removed = seen.run.history.left_over()[0]
        if removed:
            said = f"{path}: recorded and called no more: {', '.join(removed)} (jobs go on without: step_removed)"
            warnings.warn(said, UserWarning, stacklevel=3)


def _both_sides(record: StepRecord | None, seen: _Seen, key: str) -> list[str]:
    """Return the differing arguments as they were recorded and as they are now, where the record has them."""
    if record is None or key not in seen.inputs or seen.mismatch is None or seen.mismatch.code != "arguments":
        return []
    now: dict[str, Any] = msgspec.json.decode(seen.inputs[key])
    then: dict[str, Any] = msgspec.json.decode(record.inputs or "null") or {}
    lines = []
    for name in differing_arguments(record.args_hashes, msgspec.json.decode(seen.mismatch.now_hash)):
        was = _shown(then, name) if record.inputs else "(only its hash)"
        lines += [f"  recorded  {name} = {was}", f"  now       {name} = {_shown(now, name)}"]
    return lines


def _shown(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return "(its default)"
    text = msgspec.json.encode(values[name]).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _fail(
    what: str, history: ExportedHistory, path: Path, *lines: str, at: str = "", cause: BaseException | None = None
) -> NoReturn:
    where = f" at {at}" if at else ""
    told = [f"{history.kind} does not replay {path}{where}: {what}", *lines]
    matters = [where for where in history.redacted if not where.startswith("inputs of ")]
    if matters:
        told.append(f"  (secrets were replaced in that file, which may be why: {', '.join(matters)})")
    told.append("  What stops live jobs, and what to do: docs/howto/code-changes.md")
    raise AssertionError("\n".join(told)) from cause
