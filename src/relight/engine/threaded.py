"""Sync steps that async lines await: threads execute them, and what cleans up waits for these threads. Part of the ``Conductor``.

A thread cannot be stopped, and what cleans up must not run beside what it cleans up after. A line that was cut short, or
given up by a sibling, leaves at once all the same, and so does one whose run was lost; an engine that leaves waits as long
as it drains.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from relight.engine.family import in_cleanup
from relight.engine.port import path_here
from relight.engine.run import Run
from relight.errors import CancelRequested

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation

T = TypeVar("T")


class Once:
    """A call that begins in a thread, unless whoever wanted it has given it up before."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._claimed = threading.Lock()

    def __call__(self) -> Any:
        """Begin; raises ``CancelRequested`` when it was given up before."""
        if not self._claimed.acquire(blocking=False):
            raise CancelRequested("given up before it began")
        return self._call()

    def give_up(self) -> bool:
        """Let it not begin; tell whether it had not."""
        return self._claimed.acquire(blocking=False)


def _look_at(ended: Any) -> None:
    if not ended.cancelled():
        ended.exception()


class Threaded:
    """See the module."""

    run: Run
    engine: Incarnation
    _working: dict[Any, str]
    """Steps that threads execute for async lines, each with its line: no clean-up begins before they are back."""

    def in_thread(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run something blocking in a thread, awaited on the loop."""
        raise NotImplementedError

    async def _in_thread_to_its_end(self, call: Callable[[], T]) -> T:
        """Run a step in a thread. After a request to end its line leaves once the thread is back: then it cleans up.

        A thread cannot be stopped, and what cleans up must not run beside what it cleans up after. A line that was cut short
        or given up by a sibling leaves at once, and so does one whose run was lost.
        """
        import asyncio

        once = Once(call)
        working = asyncio.ensure_future(self.in_thread(once))
        if not in_cleanup():
            self._working[working] = path_here()
            working.add_done_callback(lambda back: self._working.pop(back, None))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            if once.give_up():
                self._working.pop(working, None)
            else:
                while self._waits_for_thread() and not working.done():
                    with contextlib.suppress(asyncio.CancelledError):  # another line that leaves asks again
                        await asyncio.wait([working])
            working.add_done_callback(_look_at)
            raise

    async def _threads_are_back(self) -> None:
        """Wait, before something that cleans up begins, for steps of other lines that threads still execute.

        The time that this takes is not taken from that of the clean-up.
        """
        import asyncio

        run, since = self.run, self.engine.clock.mono_ms()
        while run.lost is None and (left := [w for w, line in self._working.items() if not run.is_cut(line)]):
            await asyncio.wait(left)
        if run.cleanup_until is not None:
            run.cleanup_until += self.engine.clock.mono_ms() - since

    def _waits_for_thread(self) -> bool:
        run = self.run
        return run.end is not None and run.lost is None and not run.is_cut(path_here()) and not self.engine.closed
