"""Child jobs as user code writes them: start them, wait for their results, and how a job's end is told."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, TypeVarTuple, overload

import msgspec

from relight.authoring.context import Scope, in_body, refuse_on_loop
from relight.authoring.waiting import milliseconds
from relight.authoring.workflows import BaseWorkflow, Call
from relight.core import children, waits
from relight.core.flow import Flow
from relight.errors import InvalidArgument, JobCancelled, JobFailed, JobPoisoned, WaitTimeout
from relight.ids import JobId, StepKey, short
from relight.model import JobState

A = TypeVar("A")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")


class _Waiter(Generic[R_co]):
    """``child.result(...)`` and ``await child.result.aio(...)``."""

    def __init__(self, child: Child[R_co]) -> None:
        self._child = child

    def _flow(self, timeout_seconds: float | None) -> tuple[Scope, StepKey, Flow]:
        scope = in_body("result")
        key = scope.branch.next_key(f"result:{short(self._child._first or self._child.id)}")
        timeout_ms = milliseconds("timeout_seconds", timeout_seconds)
        child_id = JobId(self._child.id)
        return scope, key, children.child_result(scope.run.history, scope.run.ref, key, child_id, timeout_ms)

    def _read(self, scope: Scope, key: StepKey, got: Any) -> R_co:
        if got == waits.TIMED_OUT:
            raise WaitTimeout(
                f"child {short(self._child.id)} did not end in time",
                summary="waited for a child",
                job_id=self._child.id,
                step_key=key,
            )
        if got["state"] in children.ENDED_WELL:
            result: R_co = scope.run.decode_result(self._child.kind, got["outputs"], got["version"])
            return result
        raise job_error(self._child.id, self._child.kind, got["state"], got["error"])

    def __call__(self, *, timeout_seconds: float | None = None) -> R_co:
        scope, key, flow = self._flow(timeout_seconds)
        refuse_on_loop(scope, "result()", "await child.result.aio()")
        return self._read(scope, key, scope.run.drive(flow))

    async def aio(self, *, timeout_seconds: float | None = None) -> R_co:
        """Wait for the child's result, in async code."""
        scope, key, flow = self._flow(timeout_seconds)
        return self._read(scope, key, await scope.run.drive_async(flow))


@dataclass(frozen=True)
class Child(Generic[R_co]):
    """A job started by this job. ``result`` waits for its end and raises its failure with its id."""

    id: str
    kind: str
    _first: str | None = field(default=None, repr=False, compare=False)

    @property
    def result(self) -> _Waiter[R_co]:
        """What waits for the child's result."""
        return _Waiter(self)

    def cancel(self, reason: str | None = None) -> None:
        """Ask the child to end."""
        in_body("cancel").run.cancel_child(self.id, reason)  # type: ignore[attr-defined]


class _Start:
    """Start a child job (or many, in one transaction): queued on its own, cancelled with its parent unless ``detached``.

    Its id is derived from the parent and the place of this call, so that a replay finds the same child.
    """

    def _flow(self, what: Any, args: tuple[Any, ...], detached: bool) -> tuple[Scope, Callable[[list[str]], Any], Flow]:
        scope = in_body("start")
        calls = _calls(what, args)
        key = scope.branch.next_key("start")
        commands = [scope.run.child_command(call, key, i, detached) for i, call in enumerate(calls)]

        def handles(ids: list[str]) -> Any:
            started = [
                Child[Any](job_id, call.workflow.kind, scope.run.first_child_id(key, i, job_id))
                for i, (call, job_id) in enumerate(zip(calls, ids, strict=True))
            ]
            return started[0] if isinstance(what, (Call, BaseWorkflow)) else started

        return scope, handles, children.start_children(scope.run.history, scope.run.ref, key, commands)

    @overload
    def __call__(self, call: Call[R], /, *, detached: bool = False) -> Child[R]: ...
    @overload
    def __call__(self, calls: Iterable[Call[R]], /, *, detached: bool = False) -> list[Child[R]]: ...
    @overload
    def __call__(
        self, wf: Callable[[*Ts], Coroutine[Any, Any, R]], /, *args: *Ts, detached: bool = False
    ) -> Child[R]: ...
    @overload
    def __call__(self, wf: Callable[[*Ts], R], /, *args: *Ts, detached: bool = False) -> Child[R]: ...
    def __call__(self, what: Any, /, *args: Any, detached: bool = False) -> Any:  # type: ignore[misc]
        scope, handles, flow = self._flow(what, args, detached)
        refuse_on_loop(scope, "start()", "await start.aio(…)")
        return handles(scope.run.drive(flow))

    @overload
    async def aio(self, call: Call[R], /, *, detached: bool = False) -> Child[R]: ...
    @overload
    async def aio(self, calls: Iterable[Call[R]], /, *, detached: bool = False) -> list[Child[R]]: ...
    @overload
    async def aio(
        self, wf: Callable[[*Ts], Coroutine[Any, Any, R]], /, *args: *Ts, detached: bool = False
    ) -> Child[R]: ...
    @overload
    async def aio(self, wf: Callable[[*Ts], R], /, *args: *Ts, detached: bool = False) -> Child[R]: ...
    async def aio(self, what: Any, /, *args: Any, detached: bool = False) -> Any:  # type: ignore[misc]
        """Start, in async code."""
        scope, handles, flow = self._flow(what, args, detached)
        return handles(await scope.run.drive_async(flow))


def _calls(what: Any, args: tuple[Any, ...]) -> list[Call[Any]]:
    if isinstance(what, Call):
        return [what]
    if isinstance(what, BaseWorkflow):
        return [what.bind(*args)]
    calls = list(what) if isinstance(what, Iterable) and not args else None
    if calls is None or not all(isinstance(call, Call) for call in calls):
        raise InvalidArgument("start() takes a workflow and its arguments, workflow.bind(…), or an iterable of those")
    return calls


def job_error(job_id: str, kind: str, state: str, error: str | None) -> Exception:
    """Return the exception that tells how a job ended, from its stored failure."""
    failure = msgspec.json.decode(error) if error else {}
    who = f"{kind} {short(job_id)}"
    message = failure.get("message") or ""
    fields = {
        "job_id": job_id,
        "error_type": failure.get("type"),
        "error_code": failure.get("code"),
        "step_key": failure.get("step_key"),
        "tries": failure.get("tries", 1),
        "details": failure.get("details"),
        "message": message,
    }
    if state == JobState.CANCELLED:
        return JobCancelled(f"{who} was cancelled", job_id=job_id)
    if state == JobState.POISONED:
        return JobPoisoned(
            f"{who} is poisoned: {message}. After the cause is fixed: relight retry {short(job_id)}", **fields
        )
    where = f" at {failure['step_key']}" if failure.get("step_key") else ""
    raised = JobFailed(
        f"{who} failed{where}: {failure.get('type', 'error')}: {message}. After a fix: relight retry {short(job_id)}",
        **fields,
    )
    if failure.get("traceback"):
        raised.add_note(failure["traceback"])
    return raised


start = _Start()
