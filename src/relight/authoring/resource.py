"""``Resource``: a thing steps need and nobody can serialise. Opened once per engine, closed after the drain, never recorded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, TypeVar, cast, overload

from relight.authoring.context import SCOPE
from relight.errors import InvalidArgument, NotInStep

T = TypeVar("T")


class Resource(Generic[T]):
    """A client, pool or model that steps use.

    ``open`` is a factory, or one that gives a context manager or an async one; it is called at first use in an engine, on
    the engine's loop, and closed after the drain. Call the resource inside a step to get the open thing. Tests replace it
    by ``resources={resource: fake}``. Called elsewhere it raises ``NotInStep``, because a workflow's body is replayed.
    """

    # A client that is its own context manager (httpx.AsyncClient) gives itself, so it is typed as itself, too.
    @overload
    def __init__(self, open: Callable[[], AbstractAsyncContextManager[T]], *, name: str | None = None) -> None: ...
    @overload
    def __init__(self, open: Callable[[], AbstractContextManager[T]], *, name: str | None = None) -> None: ...
    @overload
    def __init__(self, open: Callable[[], T], *, name: str | None = None) -> None: ...
    def __init__(self, open: Callable[[], Any], *, name: str | None = None) -> None:
        if not callable(open) or inspect.iscoroutinefunction(open):
            raise InvalidArgument(
                f"Resource({open!r:.100}): a plain factory, a @contextmanager or an @asynccontextmanager function. One that has "
                "to await something is an @asynccontextmanager"
            )
        self.open = open
        self.name = name or getattr(open, "__qualname__", repr(open))

    def __repr__(self) -> str:
        return f"<resource {self.name}>"

    def __call__(self) -> T:
        """Return the open thing. Raises ``NotInStep`` outside a step, or what opening it raised."""
        scope = SCOPE.get()
        if scope is None or scope.step is None:
            raise NotInStep(f"resource {self.name} is open only inside steps; a workflow's body is replayed")
        return cast(T, scope.run.open_resource(self))


ResourceMap = dict[Resource[Any], object]
