"""An engine that died in this process: what of it runs on, what stands still for ever, and what is closed.

**Promise.** What follows is one of the histories that ``kill -9`` could have made. At a boundary the engine stops: nothing
of it is written from then on. Nothing is unwound: a line of user code that asks the engine for anything stands there for
ever, in its thread or on the loop, and no ``finally`` or ``with`` of it ever ends. User code that is on its way to such a
point at that moment gets there first, and only then the next engine starts: a process whose journal had been held up for so
long, and was killed then, leaves the same.

**How.** The journal's and the watch's threads wait in the dead probe and end after the rest has come to a stand (no user code
is in them). A thread with user code stands in the probe, or waits for a journal that is gone; the loop is stopped inside a callback that never returns,
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
from contextlib import suppress
from types import CodeType, FrameType
from typing import NoReturn

from relight.authoring.outside import engine_stopped
from relight.engine.facade import Engine
from relight.engine.incarnation import Incarnation
from relight.engine.loop import EngineLoop
from relight.engine.pool import Pool
from relight.engine.runner import Conductor
from relight.engine.watch import Watch
from relight.errors import WaitTimeout
from relight.store.journal import Journal
from relight.store.tickets import Latch

PATIENCE_SECONDS = 10.0
"""How long user code may take from the crash to where it next asks the engine for something."""
SOON_SECONDS = 1.0
SERVICES = ("relight-journal-", "relight-watch-")
COMMITS = frozenset({"before_commit", "after_commit"})
NOT_DURABLE = frozenset({"watch"})
"""Names that the probe is told of and that are no boundary: nothing is written there."""
UPKEEP = frozenset({"RenewLease", "Tell"})
"""What an engine writes for itself: a commit of nothing else belongs to no scenario."""


class SimulatedCrash(BaseException):
    """The engine's process is gone: raised by whatever a scenario still asks of it after its crash."""


class _Ended(BaseException):
    """Takes a service's thread out of what it was doing, to its end."""


class Bomb:
    """The probe of an engine that dies at the ``at``-th boundary after ``arm``; 0 never."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._armed = False
        self._lock = threading.Lock()
        self.count = 0
        self.boundary: str | None = None
        self.gone_off: Callable[[], None] = lambda: None
        self.written: Callable[[], set[str]] = set
        """Returns what the batch under way holds: the names of its commands."""
        self.on_loop = 0
        """How many steps run on the engine's loop."""
        self.buried = threading.Event()
        self.kept: list[object] = []
        """What must never be collected; whoever stands still holds on to this bomb."""

    def arm(self) -> None:
        """Count from now on."""
        self._armed = True

    def disarm(self) -> str | None:
        """Count no more; return where it had gone off before, if it had."""
        with self._lock:
            self._armed = False
            return self.boundary

    def set_off(self, boundary: str) -> str:
        """Let the engine die now, if it has not; return where it died."""
        with self._lock:
            self.boundary = self.boundary or boundary
            return self.boundary

    def __call__(self, name: str) -> None:
        """Reach a boundary: go on, or die there."""
        with self._lock:
            if self._armed and self.boundary is None and name not in NOT_DURABLE:
                self._count(name)
            dead = self.boundary is not None
        if dead:
            self._die()

    def _count(self, name: str) -> None:
        written = self.written() if name in COMMITS else set()
        if written and written <= UPKEEP:
            return
        self.count += 1
        if self.count == self._at:
            self.boundary = f"{name} ({', '.join(sorted(written - UPKEEP))})" if written else name
            self.gone_off()

    def _die(self) -> NoReturn:
        if threading.current_thread().name.startswith(SERVICES):
            self.buried.wait()
            raise _Ended
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


def prepare(host: Engine, bomb: Bomb) -> None:
    """Let a bomb see what is written, and the services end by ``_Ended``, quietly. Called before the engine may die."""
    journal = host._alive().journal
    bomb.written = lambda: {type(ticket.command).__name__ for ticket in journal._under_way}
    watch = _watch_of(host)
    pump, run_once = journal.pump, watch.run_once

    def last_pump() -> bool:
        try:
            return pump()
        except _Ended:
            _forget_waiting(journal)
            return False

    def last_run() -> None:
        with suppress(_Ended):
            run_once()

    journal.pump = last_pump  # type: ignore[method-assign]
    watch.run_once = last_run  # type: ignore[method-assign]


def bury(host: Engine, bomb: Bomb) -> None:
    """Let what is left of a dead engine come to a stand, and leave its store and lock as a kill leaves them.

    Raises ``WaitTimeout`` when user code does not come to a stand.
    """
    inside, core, watch = host._alive(), host.core, _watch_of(host)
    with watch._wake:
        watch._stopping = True
        watch._wake.notify()
    for service in host._services:
        if service is not watch:
            service.stop(patience_seconds=PATIENCE_SECONDS)
    _until_standing(inside, bomb)
    bomb.buried.set()
    _forget_waiting(inside.journal)
    for thread in (inside.journal._thread, watch._thread):
        if thread is not None:
            thread.join(SOON_SECONDS)
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


def _watch_of(host: Engine) -> Watch:
    return next(service for service in host._services if isinstance(service, Watch))


def _forget_waiting(journal: Journal) -> None:
    """Let the journal's thread end with nobody told. Called once nothing that could still put a command moves."""
    with journal._ready:
        journal._closing = True
        journal._open = None
        journal._queue.clear()
        journal._ready.notify_all()


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
        if bomb.on_loop or not loop.is_idle():
            return False
        loop.call(bomb.stand_still)
    bomb.kept += loop.left_tasks()
    bomb.kept.append(loop)
    return True
