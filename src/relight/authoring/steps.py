"""``@step``: plain objects around functions. Outside a job a step is just its function.

One colour rule everywhere: a blocking name is called in sync code and has ``.aio(...)`` for async code; an async step has
``.sync(...)`` for sync code. Read next: ``workflows.py``.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, cast, overload

from relight.authoring.context import SCOPE, Scope, refuse_on_loop
from relight.authoring.options import (
    Definition,
    check_key,
    check_timeout,
    code_ref,
    own_name,
    refuse_unknown,
)
from relight.core.flow import StepSpec
from relight.core.keys import check_name
from relight.core.retry import ONE_TRY, Retry
from relight.errors import BlockingCall, InvalidArgument, NotInJob, RegistrationError
from relight.signature import refuse_generators

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
InDoubt = Literal["retry", "ask", "fail"]
Outside = Literal["call", "error"]
_warned: set[str] = set()


@dataclass(frozen=True)
class Done(Generic[R_co]):
    """A reconciling function's answer: the try did happen, and this was its result."""

    value: R_co


@dataclass(frozen=True)
class NotDone:
    """A reconciling function's answer: the try did not happen; call the step again."""


class BaseStep(Definition, Generic[P, R]):
    """What sync and async steps share: their declaration, and how a call finds its job."""

    def __init__(self, spec: StepSpec, *, owner: object = None, key: str | None = None) -> None:
        self._spec = spec
        self._owner = owner
        self._key = key
        self.name = spec.name
        functools.update_wrapper(cast(Any, self), spec.function)
        self.__wrapped__ = spec.function

    def __repr__(self) -> str:
        return f"<step {self.name} ({self._spec.code_ref})>"

    def __reduce__(self) -> str:
        return str(self.__wrapped__.__qualname__)

    @property
    def spec(self) -> StepSpec:
        """The declaration."""
        return self._spec

    def _copy(self, spec: StepSpec, *, key: str | None, owner: object) -> Self:
        return type(self)(spec, owner=owner, key=key)

    def options(
        self,
        *,
        name: str | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        timeout_seconds: float | None = None,
        in_doubt: InDoubt | None = None,
    ) -> Self:
        """Return a copy with other options; None leaves one as it is. ``key`` names this call among others."""
        changed: dict[str, Any] = {}
        if name is not None:
            changed["name"] = check_name(name, "step")
        if retry is not None:
            changed["retry"] = _check_retry(retry)
        if timeout_seconds is not None:
            changed["timeout_ms"] = check_timeout("timeout_seconds", timeout_seconds)
        if in_doubt is not None:
            changed["policy"] = _check_in_doubt(in_doubt)
            changed["reconcile"] = None
        mine = self._key if key is None else check_key(self.name, key)
        return self._copy(replace(self._spec, **changed), key=mine, owner=self._owner)

    def __set_name__(self, owner: type, name: str) -> None:
        if self._spec.name == own_name(self._spec.function):
            self._spec = replace(self._spec, name=f"{owner.__name__}.{self._spec.name}")
            self.name = self._spec.name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else self._copy(self._spec, key=self._key, owner=obj)

    def _args(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args if self._owner is None else (self._owner, *args)

    def _scope(self) -> Scope | None:
        """Return the scope that records this call, or None for a plain call (outside a job, or inside a step)."""
        scope = SCOPE.get()
        if scope is None:
            self._outside()
            return None
        return None if scope.step is not None else scope

    def _outside(self) -> None:
        from relight.authoring.outside import engine_running

        running = engine_running()
        if running is None:
            return
        thread = threading.current_thread()
        where = f"{self.name} ran outside any job, in thread {thread.name}, while engine {running} is running"
        if self._spec.outside == "error":
            raise NotInJob(f"{where}: refused. Call it in a workflow, or use parallel({self.name}, …)")
        if thread is threading.main_thread():
            return  # a plain call, as tests and scripts make them
        if self.name not in _warned:
            _warned.add(self.name)
            warnings.warn(f"{where}: not recorded. Use parallel({self.name}, …).", RuntimeWarning, stacklevel=4)


class Step(BaseStep[P, R]):
    """A sync step. Called in a job's body its outcome is recorded once; called anywhere else it is its function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step, or return its checkpoint. Raises ``StepFailed`` or a declared error."""
        scope = self._scope()
        if scope is None:
            result: R = self._spec.function(*self._args(args), **kwargs)
            return result
        refuse_on_loop(scope, f"{self.name}()", f"await {self.name}.aio(…)")
        flow = scope.run.call_of(self, self._key, scope.branch, self._args(args), kwargs)
        value: R = scope.run.drive(flow)
        return value

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the step in a thread, awaited: for async workflows."""
        scope = self._scope()
        if scope is None:
            return _in_thread(lambda: self._spec.function(*self._args(args), **kwargs))
        return scope.run.drive_async(scope.run.call_of(self, self._key, scope.branch, self._args(args), kwargs))


class AsyncStep(BaseStep[P, R]):
    """An async step. Its key is taken when it is called, not when it is awaited."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return what runs the step, or returns its checkpoint, when awaited."""
        scope = self._scope()
        if scope is None:
            plain: Coroutine[Any, Any, R] = self._spec.function(*self._args(args), **kwargs)
            return plain
        if scope.run.loop_ident is None:
            raise BlockingCall(
                f"{self.name} is async but {scope.run.ref.kind} is not. Make {scope.run.ref.kind} async, or call {self.name}.sync(…)"
            )
        return scope.run.drive_async(scope.run.call_of(self, self._key, scope.branch, self._args(args), kwargs))

    def sync(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step on the engine's loop and wait for it: for sync workflows."""
        scope = self._scope()
        if scope is None:
            import asyncio

            result: R = asyncio.run(self._spec.function(*self._args(args), **kwargs))
            return result
        refuse_on_loop(scope, f"{self.name}.sync()", f"await {self.name}(…)")
        flow = scope.run.call_of(self, self._key, scope.branch, self._args(args), kwargs)
        value: R = scope.run.drive(flow)
        return value


async def _in_thread(call: Callable[[], R]) -> R:
    import asyncio

    return await asyncio.to_thread(call)


def _check_in_doubt(in_doubt: object) -> Any:
    if in_doubt in ("retry", "ask", "fail"):
        return in_doubt
    raise InvalidArgument(
        f'in_doubt={in_doubt!r}: "retry", "ask", "fail", or a function that tells Done(value) from NotDone()'
    )


def _check_retry(retry: object) -> Retry:
    if not isinstance(retry, Retry):
        raise InvalidArgument(f"retry={retry!r}: a Retry, such as Retry(tries=3)")
    return retry


class _StepDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...


class _ReconciledDecorator(Protocol[P, R]):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...


Co = Coroutine[Any, Any, R]


@overload
def step(fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]
@overload
def step(fn: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    in_doubt: Callable[P, Co[Done[R] | NotDone]] | Callable[P, Done[R] | NotDone],
    name: str | None = None,
    retry: Retry | None = None,
    timeout_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
    raises: tuple[type[Exception], ...] = (),
    inputs: Literal["full", "hash"] = "full",
    isolate: bool = False,
    outside: Outside = "call",
    check_args: bool = True,
) -> _ReconciledDecorator[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
    in_doubt: InDoubt = "retry",
    raises: tuple[type[Exception], ...] = (),
    inputs: Literal["full", "hash"] = "full",
    isolate: bool = False,
    outside: Outside = "call",
    check_args: bool = True,
) -> _StepDecorator: ...
def step(fn: Any = None, /, **options: Any) -> Any:
    """Declare a step: a named unit whose outcome is recorded once.

    A bare ``@step`` has **one** try; a crash runs it again all the same (``in_doubt="retry"``), because a crash is not a
    failed try. ``retry`` adds tries; ``timeout_seconds`` limits each try; with ``heartbeat_seconds`` one that calls ``heartbeat`` less often
    is told to be silent by ``why``. ``in_doubt`` says what happens before the next
    try when nobody knows whether the last one happened: ``"retry"`` calls again, ``"ask"`` asks a person, ``"fail"`` fails
    the step, a function with the step's parameters returns ``Done(value)`` or ``NotDone()``. ``raises`` are error types
    that come back as themselves, on first run and replay alike; all others become ``StepFailed``. ``inputs="hash"``
    keeps only hashes of the arguments; ``check_args=False`` does not compare them on replay. ``outside="error"`` refuses
    calls outside a job while an engine lives in the process.

    Raises ``RegistrationError`` for generators, ``InvalidArgument`` for options out of range.
    """
    if fn is not None:
        return _make_step(fn)
    refuse_unknown(options, _make_step, "step")
    return lambda function: _make_step(function, **options)


def _make_step(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
    in_doubt: Any = "retry",
    raises: tuple[type[Exception], ...] = (),
    inputs: Literal["full", "hash"] = "full",
    isolate: bool = False,
    outside: Outside = "call",
    check_args: bool = True,
) -> Any:
    if not callable(fn) or isinstance(fn, Definition):
        raise RegistrationError(f"@step goes on a function, not on {fn!r}")
    refuse_generators(fn, own_name(fn))
    if isolate:
        raise RegistrationError(
            f"{own_name(fn)}: isolate=True is reserved; this version cannot run a step in a child process"
        )
    if inputs not in ("full", "hash"):
        raise InvalidArgument(f'inputs={inputs!r}: "full" or "hash"')
    if outside not in ("call", "error"):
        raise InvalidArgument(f'outside={outside!r}: "call" or "error"')
    if not isinstance(raises, tuple) or not all(isinstance(t, type) and issubclass(t, Exception) for t in raises):
        raise InvalidArgument(f"raises={raises!r}: a tuple of exception types")
    reconcile = in_doubt if callable(in_doubt) else None
    is_async = inspect.iscoroutinefunction(fn)
    spec = StepSpec(
        name=check_name(own_name(fn) if name is None else name, "step"),
        function=fn,
        code_ref=code_ref(fn),
        is_async=is_async,
        policy="reconcile" if reconcile is not None else _check_in_doubt(in_doubt),
        reconcile=reconcile,
        retry=ONE_TRY if retry is None else _check_retry(retry),
        timeout_ms=check_timeout("timeout_seconds", timeout_seconds),
        heartbeat_ms=check_timeout("heartbeat_seconds", heartbeat_seconds),
        raises=tuple(raises),
        inputs=inputs,
        check_args=check_args,
        outside=outside,
    )
    return AsyncStep(spec) if is_async else Step(spec)
