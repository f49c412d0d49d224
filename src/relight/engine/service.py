"""A service of an incarnation: one thread around a look that is taken again and again, or at once when it is nudged."""

from __future__ import annotations

import threading

from relight.engine.incarnation import Incarnation

RETRY_MS = (100, 250, 500, 1000, 2000, 5000)
"""How long a service waits after a look that failed, the longer the more often it did."""


class Service:
    """See the module. A subclass names itself, and does its looks in ``_run`` until ``_stopping``."""

    name = "service"

    def __init__(self, engine: Incarnation) -> None:
        self._engine = engine
        self._wake = threading.Condition()
        self._stopping = False
        self._nudged = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run in a thread."""
        name = f"relight-{self.name}-{self._engine.engine_id[-6:]}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self, *, patience_seconds: float = 5) -> None:
        """End the thread, and wait for it for a while: it may be waiting for a store that refuses."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(patience_seconds)

    def nudge(self) -> None:
        """Look now; and once more, if it is looking just now."""
        with self._wake:
            self._nudged = True
            self._wake.notify()

    def _sleep(self, ms: int) -> None:
        """Wait until the next look is due, or somebody nudges."""
        with self._wake:
            if not self._nudged and not self._stopping and ms > 0:
                self._engine.clock.wait(self._wake, ms)
            self._nudged = False

    def _run(self) -> None:
        raise NotImplementedError
