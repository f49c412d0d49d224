"""Daemon threads for sync jobs and arms. Exit never joins them: a thread that cannot be stopped must not stop the exit."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable


class Pool:
    """At most ``size`` threads, started when needed, kept until ``close``. ``start`` queues when all are busy."""

    def __init__(self, name: str, size: int) -> None:
        self.size = size
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0
        self._numbers = itertools.count()

    @property
    def busy(self) -> int:
        """How many calls run or wait."""
        return self._busy

    def start(self, call: Callable[[], None]) -> None:
        """Run a call in a thread, now or when one is free."""
        with self._lock:
            self._busy += 1
            grow = self._busy > self._threads and self._threads < self.size
            if grow:
                self._threads += 1
        self._work.put(call)
        if grow:
            self._grow()

    def try_start(self, call: Callable[[], None]) -> bool:
        """Run a call in a thread if one is free or may be made; tell whether."""
        with self._lock:
            if self._busy >= self.size:
                return False
            self._busy += 1
            grow = self._busy > self._threads
            if grow:
                self._threads += 1
        self._work.put(call)
        if grow:
            self._grow()
        return True

    def _grow(self) -> None:
        threading.Thread(target=self._serve, name=f"relight-{self._name}-{next(self._numbers)}", daemon=True).start()

    def _serve(self) -> None:
        while (call := self._work.get()) is not None:
            try:
                call()
            finally:
                with self._lock:
                    self._busy -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end after their call."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._work.put(None)
