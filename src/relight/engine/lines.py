"""The branches of a sync body: each a call in a thread of its own, which others wait for, and which may be cut short.

A line that ends hands its being busy on to whoever waits for it, under the run's lock: in no moment between the two does
the run look quiet. A line that is cut (it lost a race, or the body ended without it) leaves by ``CancelRequested`` at its
next durable call; a step that its thread is inside of cannot be stopped, is recorded as abandoned, and is not waited for.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from relight.engine.run import Run
from relight.store.tickets import Latch

if TYPE_CHECKING:
    from relight.engine.port import Port


class _Wait:
    """One thread that waits for the first of some lines to end."""

    def __init__(self) -> None:
        self.latch = Latch()
        self.woken = False


class Line:
    """One branch: ``value`` or ``error`` once it has ended, or ``left``, what made it leave the run."""

    def __init__(self, conductor: Port, call: Callable[[], Any], path: str) -> None:
        self.path = path
        self.ended = False
        self.value: Any = None
        self.error: Exception | None = None
        self.left: BaseException | None = None
        self._conductor = conductor
        self._call = call
        self._waits: list[_Wait] = []

    @property
    def is_cut(self) -> bool:
        """Whether it was cut short: it has no result, whatever its thread still does."""
        return self._conductor.run.is_cut(self.path)

    def start(self) -> None:
        """Begin, in a thread of the arms' pool, or in a new one if none is free: waiting for a line can never deadlock."""
        run = self._conductor.run
        with run.lock:
            run.busy += 1
            run.open_lines.add(self)
        work = functools.partial(contextvars.copy_context().run, self._work)
        if not self._conductor.engine.arms.try_start(work):
            threading.Thread(target=work, name=f"relight-branch-{self.path}", daemon=True).start()

    def _work(self) -> None:
        run = self._conductor.run
        try:
            self.value = self._call()
        except Exception as error:  # boundary: the error of a branch is raised to whoever asks for its result
            self.error = error
        except BaseException as error:  # boundary: leaving by exception is handed on to whoever waits
            self.left = error
        with run.lock:
            self.ended = True
            run.open_lines.discard(self)
            run.busy -= 1
            woken = [wait for wait in self._waits if not wait.woken]
            for wait in woken:
                wait.woken = True
                run.busy += 1
        for wait in woken:
            wait.latch.skip()
        self._conductor.engine.maybe_put_away(run)

    def result(self) -> Any:
        """Wait for the end and return the value, or raise."""
        first_of(self._conductor, [self])
        if self.left is not None:
            raise self.left
        if self.error is not None:
            raise self.error
        return self.value


def first_of(conductor: Port, lines: Sequence[Line]) -> int:
    """Wait until one of some lines has ended, and return which; of several the first in order. Raises what made it leave."""
    run, wait = conductor.run, _Wait()
    with run.lock:
        at_once = any(line.ended for line in lines)
        if not at_once:
            run.busy -= 1
            for line in lines:
                line._waits.append(wait)
    if not at_once:
        conductor.engine.maybe_put_away(run)
        wait.latch.wait(None)
        with run.lock:
            for line in lines:
                line._waits.remove(wait)
    left = next((line.left for line in lines if line.left is not None), None)
    if left is not None:
        raise left
    return next(n for n, line in enumerate(lines) if line.ended)


def leave_behind(conductor: Port) -> None:
    """End the lines that a body leaves behind, as the tasks of an async body end with it; then nothing of them is recorded."""
    run = conductor.run
    with run.lock:
        lines = list(run.open_lines)
    if not lines:
        return
    if goes_on(run):
        conductor.cut_left_behind([line.path for line in lines])
    with run.lock:
        inside = set(run.lines.values())
    for line in lines:
        stuck = line.is_cut and any(path.startswith(line.path) for path in inside)
        if not stuck and run.lost is None:
            _join(run, line)


def goes_on(run: Run) -> bool:
    """Tell whether a run is neither put away, nor asked to end, nor lost."""
    return run.suspending is None and run.end is None and run.lost is None


def _join(run: Run, line: Line) -> None:
    wait = _Wait()
    with run.lock:
        if line.ended:
            return
        line._waits.append(wait)
        run.busy -= 1
    wait.latch.wait(None)
