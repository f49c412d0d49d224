"""Ctrl-C and SIGTERM of a command that runs an engine: once asks it to drain, twice leaves at once.

A handler only sets a flag: it runs between two instructions of the main thread, which may just then hold the lock of
whatever it would notify. So the main thread looks at the flag between short waits (``PATIENCE_SECONDS``).
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from relight.cli.output import tell
from relight.core.why_words import count
from relight.engine.facade import _Host

PATIENCE_SECONDS = 0.1
"""How long a wait lasts between two looks at the flag."""


class Leaving:
    """While the ``with`` block lasts, the signals are heard here."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.draining = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or self.draining:
            os._exit(128 + number)  # nothing is lost: what runs is recovered by the next start
        self.signal = number

    @property
    def asked(self) -> bool:
        """Whether to leave."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a program that was ended by the signal that was heard."""
        return 128 + (self.signal or signal.SIGINT)


def pause(seconds: float = PATIENCE_SECONDS) -> None:
    """Let other threads go on for a moment."""
    threading.Event().wait(seconds)


def drain(host: _Host, leaving: Leaving) -> int:
    """Stop an engine, saying what that waits for; return how many jobs were left running."""
    engine = host._alive()
    running = len(engine.all_runs())
    leaving.draining = True
    if leaving.asked or running:
        seconds = host.settings.drain_ms / 1000
        tell(f"draining {count(running, 'job')}, up to {seconds:g} s (again: leave now; nothing is lost)")
    host._stop(None)
    left = len(engine.all_runs())
    if left:
        tell(f"left in the middle of a step: {count(left, 'job')}; the next engine to start recovers what was left")
    return left
