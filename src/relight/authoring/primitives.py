"""What a job's code may do besides calling steps: wait, ask, start children, fan out, and know where it is.

Each blocking name is callable in sync code and has ``.aio(...)`` for async code. ``now``, ``rng``, ``uuid7``, ``log`` and
``cancelled`` work anywhere; the others raise ``NotInJob`` outside a job.
"""

from __future__ import annotations

import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, TypeVarTuple, overload

from relight.authoring.context import SCOPE, Scope, in_body, refuse_on_loop
from relight.authoring.definitions import AsyncStep, Call, Step, _BaseWorkflow
from relight.authoring.registry import check_text
from relight.clock import to_datetime, to_ms
from relight.core import waits
from relight.core.flow import Flow
from relight.core.keys import Branch, check_name
from relight.errors import InvalidArgument, JobCancelled, JobFailed, JobPoisoned, NotInStep, PayloadError, WaitTimeout
from relight.ids import JobId, derived_uuid7, short
from relight.model import CurrentJob, CurrentStep, Decision, JobState

T = TypeVar("T")
D = TypeVar("D")
A = TypeVar("A")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")


class _Missing:
    def __repr__(self) -> str:
        return "…"


MISSING: Any = _Missing()
MAX_QUESTION = 4000


def _ms(name: str, seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e10:
        raise InvalidArgument(f"{name}={seconds!r}: a number of seconds, 0 or more")
    return int(seconds * 1000)


def _text_of(scope: Scope, value: object, what: str) -> str:
    codec = scope.run.registry_for().for_type(type(value), what=what)
    return str(codec.encode(value, what=what), "utf-8")


class _Sleep:
    """Wait for a duration, in seconds. Nothing runs meanwhile: a million sleeping jobs cost rows only."""

    def _flow(self, seconds: float) -> tuple[Scope, Flow]:
        scope = in_body("sleep")
        ms = _ms("seconds", seconds) or 0
        key = scope.branch.next_key("sleep")
        return scope, waits.sleep_until(scope.run.history, scope.run.ref, key, seconds=ms / 1000, until_ms=None)

    def __call__(self, seconds: float) -> None:
        scope, flow = self._flow(seconds)
        refuse_on_loop(scope, "sleep()", f"await sleep.aio({seconds:g})")
        scope.run.drive(flow)

    async def aio(self, seconds: float) -> None:
        """Wait, in async code."""
        scope, flow = self._flow(seconds)
        await scope.run.drive_async(flow)


class _SleepUntil:
    """Wait until an aware point in time. One that has passed returns at once."""

    def _flow(self, when: datetime) -> tuple[Scope, Flow]:
        scope = in_body("sleep_until")
        try:
            until = to_ms(when)
        except ValueError as error:
            raise InvalidArgument(f"sleep_until: {error}") from None
        key = scope.branch.next_key("sleep")
        return scope, waits.sleep_until(scope.run.history, scope.run.ref, key, seconds=None, until_ms=until)

    def __call__(self, when: datetime) -> None:
        scope, flow = self._flow(when)
        refuse_on_loop(scope, "sleep_until()", "await sleep_until.aio(…)")
        scope.run.drive(flow)

    async def aio(self, when: datetime) -> None:
        """Wait, in async code."""
        scope, flow = self._flow(when)
        await scope.run.drive_async(flow)


class _WaitSignal:
    """Wait for a message of one name: kept in the order sent, each read once, those sent before the wait too.

    ``type`` is what the payload is decoded as. ``timeout_seconds=0`` looks without waiting. At the time limit the result
    is ``default``, or ``WaitTimeout`` is raised; both are recorded.
    """

    def _flow(self, name: str, timeout_seconds: float | None) -> tuple[Scope, Flow]:
        scope = in_body("wait_signal")
        check_name(name, "signal")
        key = scope.branch.next_key(f"signal:{name}")
        timeout_ms = _ms("timeout_seconds", timeout_seconds)
        return scope, waits.wait_signal(scope.run.history, scope.run.ref, key, name=name, timeout_ms=timeout_ms)

    def _read(self, scope: Scope, name: str, type_: Any, got: Any, default: Any) -> Any:
        if got == waits.TIMED_OUT:
            if default is MISSING:
                raise WaitTimeout(
                    f"no signal {name!r} came to {scope.run.ref.kind} {short(scope.run.ref.job_id)} in time",
                    summary=f"waited for signal {name!r}",
                )
            return default
        codec = scope.run.registry_for().for_type(type_, what=f"signal {name!r}")
        return codec.decode((got["payload"] or "null").encode())

    @overload
    def __call__(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None) -> T: ...
    @overload
    def __call__(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None, default: D) -> T | D: ...
    def __call__(self, name: str, /, *, type: Any, timeout_seconds: float | None = None, default: Any = MISSING) -> Any:
        scope, flow = self._flow(name, timeout_seconds)
        refuse_on_loop(scope, "wait_signal()", f"await wait_signal.aio({name!r}, …)")
        return self._read(scope, name, type, scope.run.drive(flow), default)

    @overload
    async def aio(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None) -> T: ...
    @overload
    async def aio(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None, default: D) -> T | D: ...
    async def aio(
        self, name: str, /, *, type: Any, timeout_seconds: float | None = None, default: Any = MISSING
    ) -> Any:
        """Wait, in async code."""
        scope, flow = self._flow(name, timeout_seconds)
        return self._read(scope, name, type, await scope.run.drive_async(flow), default)


class _Ask:
    """Ask a person and wait for the answer.

    ``options`` are the choices (two or more different names); ``preview`` the action being decided on, kept with the
    question and bound to the answer by its hash. At the time limit the answer is ``on_timeout`` (one of the options,
    given by "timeout"), or ``WaitTimeout`` is raised.
    """

    def _flow(
        self,
        question: str,
        options: Sequence[str],
        preview: object,
        timeout_seconds: float | None,
        on_timeout: str | None,
    ) -> tuple[Scope, Flow]:
        scope = in_body("ask")
        check_text("" if question is None else question, "question", MAX_QUESTION)
        listed = isinstance(options, Sequence) and not isinstance(options, str)
        if not listed or len({check_name(option, "option") for option in options}) < max(len(options), 2):
            raise InvalidArgument(f"ask(options={options!r}): two or more different names")
        if on_timeout is not None and on_timeout not in options:
            raise InvalidArgument(f"ask(on_timeout={on_timeout!r}): one of {tuple(options)!r}")
        asked = waits.Question(
            question,
            tuple(options),
            None if preview is None else _text_of(scope, preview, "preview"),
            _ms("timeout_seconds", timeout_seconds),
        )
        key = scope.branch.next_key("ask")
        return scope, waits.ask(scope.run.history, scope.run.ref, key, asked)

    def _read(self, scope: Scope, question: str, got: Any, on_timeout: str | None) -> Decision:
        if "expired_at" in got:
            if on_timeout is None:
                raise WaitTimeout(
                    f"nobody answered {question!r} of {scope.run.ref.kind} {short(scope.run.ref.job_id)} in time",
                    summary=f"waited for a decision {question!r}",
                )
            return Decision(got["id"], on_timeout, "timeout", None, to_datetime(got["expired_at"]))
        return Decision(got["id"], got["choice"], got["by"] or "unknown", got["note"], to_datetime(got["at"]))

    def __call__(
        self,
        question: str,
        *,
        options: Sequence[str] = ("approve", "reject"),
        preview: object = None,
        timeout_seconds: float | None = None,
        on_timeout: str | None = None,
    ) -> Decision:
        scope, flow = self._flow(question, options, preview, timeout_seconds, on_timeout)
        refuse_on_loop(scope, "ask()", "await ask.aio(…)")
        return self._read(scope, question, scope.run.drive(flow), on_timeout)

    async def aio(
        self,
        question: str,
        *,
        options: Sequence[str] = ("approve", "reject"),
        preview: object = None,
        timeout_seconds: float | None = None,
        on_timeout: str | None = None,
    ) -> Decision:
        """Ask, in async code."""
        scope, flow = self._flow(question, options, preview, timeout_seconds, on_timeout)
        return self._read(scope, question, await scope.run.drive_async(flow), on_timeout)


class _Waiter(Generic[R_co]):
    """``child.result(...)`` and ``await child.result.aio(...)``."""

    def __init__(self, child: Child[R_co]) -> None:
        self._child = child

    def _flow(self, timeout_seconds: float | None) -> tuple[Scope, Flow]:
        scope = in_body("result")
        key = scope.branch.next_key(f"result:{short(self._child.id)}")
        timeout_ms = _ms("timeout_seconds", timeout_seconds)
        return scope, waits.child_result(scope.run.history, scope.run.ref, key, JobId(self._child.id), timeout_ms)

    def _read(self, scope: Scope, got: Any) -> R_co:
        if got == waits.TIMED_OUT:
            raise WaitTimeout(
                f"child {short(self._child.id)} did not end in time",
                summary="waited for a child",
                job_id=self._child.id,
            )
        if got["state"] in waits.ENDED_WELL:
            result: R_co = scope.run.decode_result(self._child.kind, got["outputs"])
            return result
        raise job_error(self._child.id, self._child.kind, got["state"], got["error"])

    def __call__(self, *, timeout_seconds: float | None = None) -> R_co:
        scope, flow = self._flow(timeout_seconds)
        refuse_on_loop(scope, "result()", "await child.result.aio()")
        return self._read(scope, scope.run.drive(flow))

    async def aio(self, *, timeout_seconds: float | None = None) -> R_co:
        """Wait for the child's result, in async code."""
        scope, flow = self._flow(timeout_seconds)
        return self._read(scope, await scope.run.drive_async(flow))


@dataclass(frozen=True)
class Child(Generic[R_co]):
    """A job started by this job. ``result`` waits for its end and raises its failure with its id."""

    id: str
    kind: str

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

    def _flow(self, what: Any, args: tuple[Any, ...], detached: bool) -> tuple[Scope, list[Call[Any]], Flow]:
        scope = in_body("start")
        calls = _calls(what, args)
        key = scope.branch.next_key("start")
        commands = [scope.run.child_command(call, key, i, detached) for i, call in enumerate(calls)]
        return scope, calls, waits.start_children(scope.run.history, scope.run.ref, key, commands)

    @staticmethod
    def _children(what: Any, calls: list[Call[Any]], ids: list[str]) -> Any:
        children = [Child[Any](job_id, call.workflow.kind) for call, job_id in zip(calls, ids, strict=True)]
        return children[0] if isinstance(what, (Call, _BaseWorkflow)) else children

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
        scope, calls, flow = self._flow(what, args, detached)
        refuse_on_loop(scope, "start()", "await start.aio(…)")
        return self._children(what, calls, scope.run.drive(flow))

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
        scope, calls, flow = self._flow(what, args, detached)
        return self._children(what, calls, await scope.run.drive_async(flow))


def _calls(what: Any, args: tuple[Any, ...]) -> list[Call[Any]]:
    if isinstance(what, Call):
        return [what]
    if isinstance(what, _BaseWorkflow):
        return [what.bind(*args)]
    calls = list(what) if isinstance(what, Iterable) and not args else None
    if calls is None or not all(isinstance(call, Call) for call in calls):
        raise InvalidArgument("start() takes a workflow and its arguments, workflow.bind(…), or an iterable of those")
    return calls


class _Parallel:
    """Call ``fn`` for each item, up to ``limit`` at once; return the results in the order of the items.

    ``fn`` is a step, or any one-argument callable that may call several; each item is a branch of its own. All items are
    tried; if any failed, one ``ExceptionGroup`` of all failures is raised. ``key`` names each item, so that a changed list
    finds its checkpoints again.
    """

    @staticmethod
    def _arms(
        scope: Scope, fn: Any, items: Iterable[Any], key: Callable[[Any], str] | None
    ) -> list[tuple[Any, Branch, Any]]:
        arms = []
        for item in items:
            call = fn.options(key=key(item)) if key is not None and isinstance(fn, (Step, AsyncStep)) else fn
            branch = scope.branch.child()
            if key is not None and call is fn:
                branch = Branch(f"{scope.branch.path}k{derived_uuid7('0' * 36, key(item))[-12:]}/")
            arms.append((call, branch, item))
        return arms

    @staticmethod
    def _limit(scope: Scope, limit: int | None) -> int:
        if limit is None:
            return scope.run.default_limit()
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument(f"parallel(limit={limit!r}): a whole number, 1 or more, or None")
        return limit

    @staticmethod
    def _raise_failures(fn: Any, outcomes: list[Any]) -> list[Any]:
        failures = [outcome.error for outcome in outcomes if isinstance(outcome, ArmFailed)]
        if failures:
            name = getattr(fn, "name", getattr(fn, "__name__", "fn"))
            raise ExceptionGroup(f"{len(failures)} of {len(outcomes)} items of parallel({name}, …) failed", failures)
        return outcomes

    @overload
    def __call__(
        self,
        fn: AsyncStep[[A], R],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    def __call__(self, fn: Any, items: Any, *, limit: int | None = None, key: Any = None) -> Any:
        scope = in_body("parallel")
        refuse_on_loop(scope, "parallel()", "await parallel.aio(…)")
        call = fn.sync if isinstance(fn, AsyncStep) and key is None else fn

        def arm(branch: Branch, one: Any, item: Any) -> Callable[[], Any]:
            def run() -> Any:
                token = SCOPE.set(Scope(scope.run, branch, None, scope.cleanup))
                try:
                    return one.sync(item) if isinstance(one, AsyncStep) else one(item)
                except Exception as error:  # boundary: a failed arm is an outcome, raised with the others
                    return ArmFailed(error)
                finally:
                    SCOPE.reset(token)

            return run

        arms = [
            arm(branch, one, item) for one, branch, item in self._arms(scope, call if key is None else fn, items, key)
        ]
        return self._raise_failures(fn, scope.run.run_arms(arms, self._limit(scope, limit)))

    @overload
    async def aio(
        self,
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    async def aio(self, fn: Any, items: Any, *, limit: int | None = None, key: Any = None) -> Any:
        """Call for each item, in async code."""
        import asyncio

        scope = in_body("parallel")
        gate = asyncio.Semaphore(self._limit(scope, limit))

        async def arm(branch: Branch, one: Any, item: Any) -> Any:
            SCOPE.set(Scope(scope.run, branch, None, scope.cleanup))
            async with gate:
                try:
                    got = one.aio(item) if isinstance(one, Step) else one(item)
                    return await got if hasattr(got, "__await__") else got
                except Exception as error:  # boundary: a failed arm is an outcome, raised with the others
                    return ArmFailed(error)

        arms = [arm(branch, one, item) for one, branch, item in self._arms(scope, fn, items, key)]
        quiet = SCOPE.set(None)  # the arms' branches were numbered above; their tasks need no number of their own
        try:
            tasks = [asyncio.ensure_future(one) for one in arms]
        finally:
            SCOPE.reset(quiet)
        for task in tasks:
            scope.run.adopt(task)  # type: ignore[attr-defined]
        return self._raise_failures(fn, list(await asyncio.gather(*tasks)))


@dataclass(frozen=True)
class ArmFailed:
    """How an arm of ``parallel`` failed."""

    error: Exception


def job_error(job_id: str, kind: str, state: str, error: str | None) -> Exception:
    """Return the exception that tells how a job ended, from its stored failure."""
    failure = json.loads(error) if error else {}
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


def now() -> datetime:
    """Return the time, aware, in UTC. In a workflow's body it is recorded, and a replay sees the same."""
    scope = SCOPE.get()
    if scope is None or scope.step is not None:
        return datetime.now(UTC)
    key = scope.branch.next_key("now")
    got: int = scope.run.drive_value(waits.recorded_now(scope.run.history, scope.run.ref, key))  # type: ignore[attr-defined]
    return to_datetime(got)


def _seed(name: str) -> str | None:
    scope = SCOPE.get()
    if scope is None or scope.step is not None:
        return None
    return f"{scope.run.ref.job_id}:{scope.branch.next_key(name)}"


def rng() -> random.Random:
    """Return a random generator. In a workflow's body it is derived from the job and this place: nothing to record."""
    seed = _seed("rng")
    return random.Random() if seed is None else random.Random(seed)


def uuid7() -> uuid.UUID:
    """Return a UUIDv7. In a workflow's body it is derived from the job and this place: a replay gets the same."""
    seed = _seed("uuid7")
    if seed is None:
        ms = f"{time.time_ns() // 1_000_000:012x}"
        return uuid.UUID(derived_uuid7(f"{ms[:8]}-{ms[8:]}-7000-8000-000000000000", uuid.uuid4().hex))
    return uuid.UUID(derived_uuid7(seed[:36], seed))


def heartbeat(*, done: float | None = None, total: float | None = None, note: str | None = None) -> None:
    """Tell how far a step or job is; shown by ``info()``, the CLI and ``why``. Outside a job it does nothing."""
    scope = SCOPE.get()
    if scope is not None:
        scope.run.report(done=done, total=total, note=note)


def cancelled() -> bool:
    """Tell whether the job was asked to end, or the present try is past its time: for long sync steps to look at."""
    scope = SCOPE.get()
    return scope is not None and scope.run.is_cancelled()


@contextmanager
def cleanup(*, timeout_seconds: float = 30) -> Iterator[None]:
    """Allow steps although the job was cancelled: for ``finally`` blocks. Not while a run is only being put away.

    After ``timeout_seconds`` steps are refused again.
    """
    scope = in_body("cleanup")
    scope.run.begin_cleanup(_ms("timeout_seconds", timeout_seconds))  # type: ignore[attr-defined]
    token = SCOPE.set(Scope(scope.run, scope.branch, scope.step, True))
    try:
        yield
    finally:
        SCOPE.reset(token)


def current_job() -> CurrentJob:
    """Return the job that this code runs in. Raises ``NotInJob``."""
    scope = SCOPE.get()
    if scope is None:
        in_body("current_job")
        raise AssertionError
    return scope.run.current_job()


def current_step() -> CurrentStep:
    """Return the try that this code runs in. Raises ``NotInStep``."""
    scope = SCOPE.get()
    if scope is None or scope.step is None:
        raise NotInStep("current_step() works only inside a step's function (or its reconciling function)")
    return scope.step


class _Log(logging.LoggerAdapter[logging.Logger]):
    """A standard logger that names the job and step, and is silent while a workflow's body is being replayed."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the ids that records and formatters can use."""
        scope = SCOPE.get()
        if scope is not None:
            job = scope.run.ref
            extra = {"job_id": job.job_id, "job_kind": job.kind, "run_id": job.run_id}
            extra["step_key"] = None if scope.step is None else scope.step.key
            kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return msg, kwargs

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        """Tell whether to log: not while replaying a body."""
        scope = SCOPE.get()
        if scope is not None and scope.step is None and scope.run.current_job().replaying:
            return False
        return super().isEnabledFor(level)


sleep = _Sleep()
sleep_until = _SleepUntil()
wait_signal = _WaitSignal()
ask = _Ask()
start = _Start()
parallel = _Parallel()
log = _Log(logging.getLogger("relight.job"), {})

__all__ = ["PayloadError"]
