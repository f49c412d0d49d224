"""The arms of one sync ``parallel``: threads that take turns, the caller's among them.

So parents in all threads cannot deadlock: whoever waits for arms runs arms. A line that leaves by exception (a cancel, a
putting away) ends them all, and is raised to the caller once each has left. After a cancel those that an earlier run had
begun still have their turn: they are replayed to where they were, and clean up.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from relight.errors import CancelRequested
from relight.store.tickets import Latch

if TYPE_CHECKING:
    from relight.engine.runner import Conductor


class Arms:
    """The arms of one sync ``parallel``: taken in order by whoever is free."""

    def __init__(self, conductor: Conductor, arms: Sequence[Callable[[], Any]], begun: Callable[[int], bool]) -> None:
        self._conductor = conductor
        self._begun = begun
        self._arms = arms
        self._next = 0
        self._lock = threading.Lock()
        self._outcomes: list[Any] = [None] * len(arms)
        self._left: BaseException | None = None

    def _take(self) -> int | None:
        with self._lock:
            while self._next < len(self._arms):
                self._next += 1
                if self._left is None or (isinstance(self._left, CancelRequested) and self._begun(self._next - 1)):
                    return self._next - 1
            return None

    def _work(self) -> None:
        while (index := self._take()) is not None:
            try:
                self._outcomes[index] = self._arms[index]()
            except BaseException as error:  # boundary: leaving by exception ends all arms, and is raised to the caller
                with self._lock:
                    self._left = self._left or error

    def run(self, limit: int) -> list[Any]:
        """Run all arms, up to ``limit`` at once; return their outcomes in order, or raise what made a line leave."""
        run, engine = self._conductor.run, self._conductor.engine
        latches: list[Latch] = []
        for _ in range(min(limit, len(self._arms)) - 1):
            latch = Latch()
            with run.lock:
                run.busy += 1
            context = contextvars.copy_context()
            if not engine.arms.try_start(functools.partial(context.run, self._helper, latch)):
                with run.lock:
                    run.busy -= 1
                break
            latches.append(latch)
        self._work()
        with run.lock:
            run.busy -= 1
        engine.maybe_put_away(run)
        for latch in latches:
            latch.wait(None)
        with run.lock:
            run.busy += 1
        if self._left is not None:
            raise self._left
        return self._outcomes

    def _helper(self, done: Latch) -> None:
        try:
            self._work()
        finally:
            with self._conductor.run.lock:
                self._conductor.run.busy -= 1
            self._conductor.engine.maybe_put_away(self._conductor.run)
            done.skip()
