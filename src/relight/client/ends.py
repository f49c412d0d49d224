"""Who waits for which job to end: one thread for all of them, however many.

Ends of jobs that run in this process are told at once (``ended``); others are noticed by the store's change token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from relight.clock import Clock
from relight.errors import RelightError
from relight.ids import JobId
from relight.store.store import Store

POLL_MS = 5
LOOK_ANYWAY_MS = 1000
STOP_SECONDS = 2.0


class Ends:
    """See the module. ``wait_for`` calls back once, from any thread; the job's row says how it ended.

    Or that it runs again: a retry may come between the look that saw the end and whoever is called. Then one waits again.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: dict[JobId, list[Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def stopped(self) -> bool:
        """Whether nobody is called any more."""
        return self._stopping

    @property
    def awaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def wait_for(self, job_id: JobId, call: Callable[[], None]) -> None:
        """Call back once the job has ended; at once if it has."""
        with self._changed:
            self._waiting.setdefault(job_id, []).append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="relight-ends", daemon=True)
                self._thread.start()
            self._changed.notify()
        self._look([job_id])

    def forget(self, job_id: JobId, call: Callable[[], None]) -> None:
        """Wait no longer."""
        with self._changed:
            calls = self._waiting.get(job_id, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._waiting.pop(job_id, None)

    def ended(self, job_id: JobId) -> None:
        """Hear that a job may have ended here."""
        if job_id in self._waiting:
            self._look([job_id])

    def _look(self, job_ids: list[JobId]) -> None:
        with self._store.reading() as reads:
            over = [job.job_id for job in reads.job_heads(job_ids) if job.completed_at is not None]
        with self._changed:
            calls = [call for job_id in over for call in self._waiting.pop(job_id, [])]
        for call in calls:
            call()

    def _run(self) -> None:
        token, last, looked_at = self._store.watch(), -1, 0
        while True:
            with self._changed:
                if self._stopping:
                    return
                self._clock.wait(self._changed, POLL_MS if self._waiting else None)
                ids = list(self._waiting)
            if not ids or self._stopping:
                continue
            try:
                now, seen = self._clock.mono_ms(), token()
                if seen != last or now - looked_at > LOOK_ANYWAY_MS:
                    last, looked_at = seen, now
                    self._look(ids)
            except RelightError:  # the store refuses for the moment: whoever waits has a time limit of its own
                with self._changed:
                    self._clock.wait(self._changed, 100)

    def stop(self) -> None:
        """End the thread; whoever still waits is called, and finds its job not ended."""
        with self._changed:
            self._stopping = True
            calls = [call for waiting in self._waiting.values() for call in waiting]
            self._waiting.clear()
            self._changed.notify()
            thread = self._thread
        for call in calls:
            call()
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_SECONDS)  # its connection is closed next, which must not happen while it reads
