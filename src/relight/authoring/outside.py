"""Which engines live in this process: so that a step called in a foreign thread can warn. Nothing else may use it."""

from __future__ import annotations

import weakref
from typing import Protocol


class Named(Protocol):
    """A running engine."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...


_running: weakref.WeakSet[Named] = weakref.WeakSet()


def engine_started(engine: Named) -> None:
    """Note that an engine runs in this process."""
    _running.add(engine)


def engine_stopped(engine: Named) -> None:
    """Note that it no longer does."""
    _running.discard(engine)


def engine_running() -> str | None:
    """Return the name of an engine that runs in this process, or None."""
    for engine in list(_running):
        return engine.name
    return None
