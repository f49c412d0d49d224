"""Open resources of one engine: opened at first use, on the engine's loop, closed in reverse after the drain.

A step on the loop cannot block while a pool connects. So before an async step's function is called, the resources that its
code names are opened (``prepare``). One that is reached only through other functions is opened when it is asked for, if
that needs no waiting, as with most clients.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from relight.authoring.resource import Resource
from relight.errors import BlockingCall

if TYPE_CHECKING:
    from relight.engine.loop import EngineLoop


class Resources:
    """See the module. ``given`` replaces resources, for tests. ``loop`` makes the engine's loop when it is first needed."""

    def __init__(self, given: Mapping[Resource[Any], object], loop: Callable[[], EngineLoop]) -> None:
        self._open: dict[Resource[Any], Any] = dict(given)
        self._loop = loop
        self._stack = AsyncExitStack()
        self._opened = False
        self._lock = threading.Lock()
        self._opening: dict[Resource[Any], Any] = {}
        self._named: dict[Callable[..., Any], tuple[Resource[Any], ...]] = {}

    def get(self, resource: Resource[Any]) -> Any:
        """Return the open thing. Raises what opening it raised; the next use tries again."""
        if resource in self._open:
            return self._open[resource]
        loop = self._loop()
        if loop.ident == threading.get_ident():
            return self._without_waiting(resource)
        return loop.run_blocking(lambda: self._opened_once(resource), contextvars.Context())

    async def prepare(self, function: Callable[..., Any]) -> None:
        """Open, on the loop, what a function's own code names."""
        for resource in self._named_in(function):
            if resource not in self._open:
                await self._opened_once(resource)

    def _named_in(self, function: Callable[..., Any]) -> tuple[Resource[Any], ...]:
        known = self._named.get(function)
        if known is None:
            code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
            found = [names.get(name) for name in (code.co_names if code is not None else ())]
            known = self._named[function] = tuple(each for each in found if isinstance(each, Resource))
        return known

    async def _opened_once(self, resource: Resource[Any]) -> Any:
        """Open a resource on the loop; whoever asks meanwhile waits for the same opening."""
        while resource in self._opening:
            await self._opening[resource]
        if resource not in self._open:
            done = self._opening[resource] = self._loop().future()
            try:
                self._open[resource] = await self._enter(resource.open())
            finally:
                del self._opening[resource]
                done.set_result(None)
        return self._open[resource]

    async def _enter(self, made: Any) -> Any:
        self._opened = True
        if hasattr(made, "__aenter__"):
            return await self._stack.enter_async_context(made)
        if hasattr(made, "__enter__"):
            return self._stack.enter_context(made)
        return made

    def _without_waiting(self, resource: Resource[Any]) -> Any:
        opening = self._opened_once(resource)
        try:
            opening.send(None)
        except StopIteration as done:
            return done.value
        opening.close()
        raise BlockingCall(
            f"resource {resource.name} needs the loop to open, and this code runs on it. Name {resource.name} in the step's own "
            "code (then it is opened before the step is called)"
        )

    def close(self) -> None:
        """Close what was opened, the last first. Raises what closing raised."""
        if self._opened:
            self._opened = False
            self._loop().run_blocking(self._stack.aclose, contextvars.Context())
