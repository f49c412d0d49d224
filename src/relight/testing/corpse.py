"""An engine that died in this process: what of it runs on, what stands still for ever, and what is closed.

**Promise.** What follows is one of the histories that ``kill -9`` could have made. At a boundary the engine stops: nothing
of it is written from then on. Nothing is unwound: a line of user code that asks the engine for anything stands there for
ever, in its thread or on the loop, and no ``finally`` or ``with`` of it ever ends. User code that is on its way to such a
point at that moment gets there first, and only then the next engine starts: a process whose journal had been held up for so
long, and was killed then, leaves the same.

**How.** The journal's and the watch's threads end where they meet the dead probe (no user code is in them). A thread with
user code stands in the probe, or waits for a journal that is gone; the loop is stopped inside a callback that never returns,
which holds on to its tasks: a coroutine that is collected would run its ``finally``. Such threads are daemons and stay until
the process ends: one for each sync line that was under way, one for the loop.

**Rejected.** Raising something through the frames (``finally`` runs, and the test proves nothing). A child process and
SIGKILL (as real as it gets, and what ``tests/killing`` does; but the fakes of the outside world live in the test's process).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import NoReturn

from relight.authoring.outside import engine_stopped
from relight.engine.facade import Engine
from relight.engine.incarnation import Incarnation
from relight.engine.loop import EngineLoop
from relight.engine.pool import Pool
from relight.engine.runner import Conductor
from relight.errors import WaitTimeout
from relight.store.journal import Latch

PATIENCE_SECONDS = 10.0
"""How long user code may take from the crash to where it next asks the engine for something."""
SERVICES = ("relight-journal-", "relight-watch-")
NOT_DURABLE = frozenset({"watch"})
"""Names that the probe is told of and that are no boundary: nothing is written there."""


class SimulatedCrash(BaseException):
    """The engine's process is gone: raised by whatever a scenario still asks of it after its crash."""


class Bomb:
    """The probe of an engine that dies at the ``at``-th boundary after ``arm``; 0 never."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._armed = False
        self._lock = threading.Lock()
        self.count = 0
        self.boundary: str | None = None
        self.gone_off: Callable[[], None] = lambda: None
        self.kept: list[object] = []
        """What must never be collected; whoever stands still holds on to this bomb."""

    def arm(self) -> None:
        """Count from now on."""
        self._armed = True

    def __call__(self, name: str) -> None:
        """Reach a boundary: go on, or die there."""
        with self._lock:
            if self._armed and self.boundary is None and name not in NOT_DURABLE:
                self.count += 1
                if self.count == self._at:
                    self.boundary = name
                    self.gone_off()
            dead = self.boundary is not None
        if dead:
            self._die()

    def _die(self) -> None:
        if threading.current_thread().name.startswith(SERVICES):
            raise SystemExit  # which ends a thread without a word
        self.stand_still()

    def stand_still(self) -> NoReturn:
        """Never return."""
        while True:
            threading.Event().wait()


class _Gone:
    """Stands for the store and the journal of an engine that died."""

    def __getattr__(self, name: str) -> NoReturn:
        raise SimulatedCrash("this engine has crashed; go on with the one that crash_then_restart() returns")


_STANDING: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (
        Latch.wait,
        Bomb.stand_still,
        Pool._serve,
        Conductor._park,
        EngineLoop.run_blocking,
    )
)
"""Where a thread waits for something that only a living engine would bring."""
_BELOW = frozenset({threading.__file__})


def bury(host: Engine, bomb: Bomb) -> None:
    """Let what is left of a dead engine come to a stand, and leave its store and lock as a kill leaves them.

    Raises ``WaitTimeout`` when user code does not come to a stand.
    """
    inside = host._alive()
    for service in host._services:
        service.stop(patience_seconds=0.5)
    _until_standing(inside, bomb)
    _end_journal(inside)
    core = host.core
    with core.ends._changed:
        core.ends._waiting.clear()  # nobody is called: who waited waits on
    core.ends.stop()
    inside.threads.close()
    inside.arms.close()
    store = inside.store
    core.store = core._journal = _Gone()  # type: ignore[assignment]
    host._engine, host._services = None, []
    bomb.kept += [host, inside, core]
    lock, inside.lock = inside.lock, None
    if lock is not None:
        lock.release()
    store.close()
    engine_stopped(host)


def _end_journal(inside: Incarnation) -> None:
    """Let the journal's thread end by itself: who waits for it is told nothing, and it must not be inside SQLite."""
    journal = inside.journal
    with journal._ready:
        journal._closing = True
        journal._ready.notify_all()
    if journal._thread is not None:
        journal._thread.join(PATIENCE_SECONDS)


def _until_standing(inside: Incarnation, bomb: Bomb) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    before: dict[int, tuple[int, int]] = {}
    while True:
        moving, before = _moving([t for t in threading.enumerate() if _is_of(inside, t)], before)
        if not moving and _loop_stands(inside, bomb):
            return
        if time.monotonic() > deadline:
            names = ", ".join(sorted({*moving, *(str(key) for run in inside.all_runs() for key in run.steps)}))
            raise WaitTimeout(
                f"crash at {bomb.boundary}: after {PATIENCE_SECONDS:g} s this still runs: {names}. A crash in the test's own "
                "process cannot stop code that never asks the engine for anything: let its fake return",
                summary=names,
            )
        threading.Event().wait(0.002)


def _is_of(inside: Incarnation, thread: threading.Thread) -> bool:
    end = inside.engine_id[-6:]
    return thread.name.startswith((f"relight-job-{end}-", f"relight-arm-{end}-"))


def _moving(
    threads: list[threading.Thread], before: dict[int, tuple[int, int]]
) -> tuple[list[str], dict[int, tuple[int, int]]]:
    """Return which threads do not stand where they stood before, and where they are now."""
    frames = sys._current_frames()
    at: dict[int, tuple[int, int]] = {}
    moving = []
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        while frame is not None and frame.f_code.co_filename in _BELOW:
            frame = frame.f_back
        if frame is None:
            continue
        at[thread.ident or 0] = _place(frame)
        if frame.f_code not in _STANDING or before.get(thread.ident or 0) != _place(frame):
            moving.append(thread.name)
    return moving, at


def _place(frame: FrameType) -> tuple[int, int]:
    return id(frame), frame.f_lasti


def _loop_stands(inside: Incarnation, bomb: Bomb) -> bool:
    """Stop the loop once none of its lines would go on by itself; tell whether it has stopped."""
    loop = inside._loop
    if loop is None or bomb.kept:
        return True
    frame = sys._current_frames().get(loop.ident or 0)
    while frame is not None and frame.f_code is not Bomb.stand_still.__code__:
        frame = frame.f_back
    if frame is None:
        if any(run.steps or run.calls for run in inside.all_runs()) or not loop.is_idle():
            return False
        loop.call(bomb.stand_still)
    bomb.kept += loop.left_tasks()
    bomb.kept.append(loop)
    return True
