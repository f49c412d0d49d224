"""``Resource``: a thing steps need and nobody can serialise. Opened once per engine, closed after the drain, never recorded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, TypeVar, cast

from relight.authoring.context import SCOPE
from relight.errors import NotInStep

T = TypeVar("T")


class Resource(Generic[T]):
    """A client, pool or model that steps use.

    ``open`` is a factory, or one that gives a context manager or an async one; it is called at first use in an engine, on
    the engine's loop, and closed after the drain. Call the resource inside a step to get the open thing. Tests replace it
    by ``resources={resource: fake}``. Called elsewhere it raises ``NotInStep``, because a workflow's body is replayed.
    """

    def __init__(
        self,
        open: Callable[[], T | AbstractContextManager[T] | AbstractAsyncContextManager[T]],
        *,
        name: str | None = None,
    ) -> None:
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
