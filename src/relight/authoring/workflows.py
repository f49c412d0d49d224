"""``@workflow``, and a call of one with its options. Calling a workflow is a call (inline, same job); ``start`` makes a job."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from relight.authoring.options import (
    Definition,
    Queue,
    check_max_stalls,
    check_on_stall,
    check_priority,
    check_timeout,
    code_ref,
    own_name,
    queue_name,
    refuse_unknown,
)
from relight.core.keys import check_name
from relight.errors import RegistrationError
from relight.model import OnStall
from relight.signature import refuse_generators

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class WorkflowSpec:
    """A workflow as its author declared it."""

    kind: str
    function: Callable[..., Any]
    code_ref: str
    is_async: bool
    version: str | None = None
    queue: str = "default"
    priority: int = 0
    on_stall: OnStall = "resume"
    max_stalls: int = 3
    deadline_seconds: float | None = None


class BaseWorkflow(Definition, Generic[P, R]):
    """What workflows of both colours share."""

    def __init__(self, spec: WorkflowSpec) -> None:
        self._spec = spec
        self.kind = spec.kind
        functools.update_wrapper(cast(Any, self), spec.function)
        self.__wrapped__ = spec.function

    def __repr__(self) -> str:
        return f"<workflow {self.kind} ({self._spec.code_ref})>"

    def __reduce__(self) -> str:
        return str(self.__wrapped__.__qualname__)

    @property
    def spec(self) -> WorkflowSpec:
        """The declaration."""
        return self._spec

    def __set_name__(self, owner: type, name: str) -> None:
        raise RegistrationError(
            f"{owner.__name__}.{name}: a workflow is a plain function, because nobody could bring its object back after a "
            "crash. Steps may be methods"
        )

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return this workflow with its arguments, as a value that ``submit``, ``submit_many`` and ``start`` take."""
        return Call(self, args, dict(kwargs))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function: inline, in the same job if in one. ``start`` or ``submit`` make a job."""
        return self._spec.function(*args, **kwargs)


class Workflow(BaseWorkflow[P, R]):
    """A sync workflow: the function that a job executes, in a thread."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, inline."""
        result: R = self._spec.function(*args, **kwargs)
        return result


class AsyncWorkflow(BaseWorkflow[P, R]):
    """An async workflow: the function that a job executes, on the engine's own loop."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function, inline."""
        result: Coroutine[Any, Any, R] = self._spec.function(*args, **kwargs)
        return result


AnyWorkflow = Workflow[..., Any] | AsyncWorkflow[..., Any]


@dataclass(frozen=True)
class SubmitOptions:
    """What may be said of a submit besides the arguments; None leaves it to the workflow."""

    idempotency_key: str | None = None
    queue: Queue | str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    tags: Mapping[str, str] | None = None
    partition_key: str | None = None
    on_stall: OnStall | None = None
    max_stalls: int | None = None
    deadline_seconds: float | None = None


NO_OPTIONS = SubmitOptions()


@dataclass(frozen=True)
class Call(Generic[R_co]):
    """A workflow with its arguments, as a value (what ``bind`` returns)."""

    workflow: BaseWorkflow[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    submit_options: SubmitOptions = NO_OPTIONS

    def options(
        self,
        *,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Self:
        """Return a copy with options of the submit; None leaves one as it is."""
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        return replace(self, submit_options=replace(self.submit_options, **given))


class _WorkflowDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Workflow[P, R]: ...


@overload
def workflow(fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
@overload
def workflow(fn: Callable[P, R], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    version: str | None = None,
    queue: Queue | str | None = None,
    priority: int = 0,
    on_stall: OnStall = "resume",
    max_stalls: int = 3,
    deadline_seconds: float | None = None,
) -> _WorkflowDecorator: ...
def workflow(fn: Any = None, /, **options: Any) -> Any:
    """Declare a workflow: the function that a job executes. Its name is the job kind.

    ``queue``, ``priority`` (higher first), ``on_stall`` (``"resume"``, or ``"hold"`` for an operator), ``max_stalls`` (this
    many crashes in a row without a new checkpoint poison the job) and ``deadline_seconds`` (from submit; then it ends as
    failed) are defaults of its jobs. ``version`` names the code's version. Raises ``RegistrationError``,
    ``InvalidArgument``.
    """
    if fn is not None:
        return _make_workflow(fn)
    refuse_unknown(options, _make_workflow, "workflow")
    return lambda function: _make_workflow(function, **options)


def _make_workflow(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    version: str | None = None,
    queue: Queue | str | None = None,
    priority: int = 0,
    on_stall: OnStall = "resume",
    max_stalls: int = 3,
    deadline_seconds: float | None = None,
) -> Any:
    if not callable(fn) or isinstance(fn, Definition):
        raise RegistrationError(f"@workflow goes on a function, not on {fn!r}")
    refuse_generators(fn, own_name(fn), "workflow")
    is_async = inspect.iscoroutinefunction(fn)
    spec = WorkflowSpec(
        kind=check_name(own_name(fn) if name is None else name, "workflow"),
        function=fn,
        code_ref=code_ref(fn),
        is_async=is_async,
        version=None if version is None else check_name(version, "version"),
        queue=queue_name(queue) or "default",
        priority=check_priority(priority),
        on_stall=check_on_stall(on_stall),
        max_stalls=check_max_stalls(max_stalls),
        deadline_seconds=None if check_timeout("deadline_seconds", deadline_seconds) is None else deadline_seconds,
    )
    return AsyncWorkflow(spec) if is_async else Workflow(spec)
