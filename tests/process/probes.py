"""The crash-test seam, in the test's own process: hold an engine at a boundary, or make it fail there."""

from __future__ import annotations

import threading
from collections import Counter

PATIENCE_SECONDS = 60


class Probe:
    """Given to an engine before it starts. ``hold(name)`` blocks there from its n-th time on, until ``let_go``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[str, int] = {}
        self._failing: dict[str, Exception] = {}
        self._waiting: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def hold(self, name: str, at: int = 1) -> None:
        with self._changed:
            self._held[name] = at

    def fail(self, name: str, error: Exception) -> None:
        with self._changed:
            self._failing[name] = error

    def let_go(self, name: str | None = None) -> None:
        """Let one boundary go, or all."""
        with self._changed:
            for some in (self._held, self._failing):
                for each in [name] if name is not None else [*some]:
                    some.pop(each, None)  # type: ignore[attr-defined]
            self._changed.notify_all()

    def wait_held(self, name: str) -> None:
        """Return once an engine is held at this boundary."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting[name] > 0, PATIENCE_SECONDS), f"{name} was not reached"

    def wait_seen(self, name: str, times: int = 1) -> None:
        """Return once a boundary was passed so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen[name] >= times, PATIENCE_SECONDS), f"{name} was not reached"

    def __call__(self, name: str) -> None:
        with self._changed:
            self.seen[name] += 1
            self._changed.notify_all()
            if (error := self._failing.get(name)) is not None:
                raise error
            at = self._held.get(name)
            if at is None or self.seen[name] < at:
                return
            self._waiting[name] += 1
            self._changed.notify_all()
            gone = self._changed.wait_for(lambda: name not in self._held, PATIENCE_SECONDS)
            self._waiting[name] -= 1
        assert gone, f"nobody let {name} go"
