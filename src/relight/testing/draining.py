"""``drain``: let an engine work until nothing can move any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from relight.client.blocking import refuse_on_any_loop
from relight.engine.facade import AsyncEngine, Engine
from relight.engine.incarnation import Incarnation
from relight.engine.rest import Rest
from relight.engine.run import Run
from relight.engine.watch import Watch
from relight.errors import InvalidArgument, WaitTimeout
from relight.ids import short
from relight.model import FINAL_STATES, JobRecord, JobState, StepRecord, StepState
from relight.store.reads import JobFilter
from relight.testing.clock import ManualClock
from relight.testing.resting import Resting

NAMED_AT_MOST = 10
PAUSE_SECONDS = 0.002
SOON_MS = 100
"""What the engine itself means to do within this time is waited for, whoever moves the clock: it is about to settle."""
LIVE = tuple(state for state in JobState if state not in FINAL_STATES)


def drain(engine: Engine | AsyncEngine, *, timeout_seconds: float = 30) -> None:
    """Wait until nothing moves: every job has ended, or waits for somebody outside (a signal, an answer, an operator).

    Runs that only wait are put away at once, so that their jobs' states say so. Sleeps, pauses between tries, delayed jobs
    and queues' rates are waited for; on a skipping ``ManualClock`` they are jumped over, and time limits of waits run out too. On one
    that does not skip the test is who moves time: it is not waited for.

    Raises ``WaitTimeout`` after ``timeout_seconds`` of real time, naming what still moves; ``InvalidArgument`` for an engine
    that is not started; ``BlockingCall`` on an event loop (there: ``await asyncio.to_thread(drain, engine)``).
    """
    refuse_on_any_loop("drain()", "Here: await asyncio.to_thread(drain, engine)")
    if isinstance(timeout_seconds, bool) or not isinstance(timeout_seconds, (int, float)) or timeout_seconds < 0:
        raise InvalidArgument(f"timeout_seconds={timeout_seconds!r}: a number of seconds, 0 or more")
    _Drain(engine, timeout_seconds).run()


class _Drain:
    def __init__(self, engine: Engine | AsyncEngine, timeout_seconds: float) -> None:
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._watched_at = -1

    def run(self) -> None:
        while True:
            inside = self._engine._alive()
            with Resting(inside) as resting:
                while inside is self._engine._alive():
                    rest = resting.fresh(self._left())
                    if rest is not None and self._is_over(inside, rest):
                        return
                    if self._left() <= 0:
                        raise self._too_long()

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def _is_over(self, inside: Incarnation, rest: Rest) -> bool:
        """Take one step towards the end, or tell that there is none left to take."""
        if inside.journal.batches != self._watched_at:
            self._let_watch_look(inside)
            return False
        if self._put_away(inside):
            return False
        clock = inside.clock
        if isinstance(clock, ManualClock):
            if clock.skip and rest.until is not None:
                clock.jump_to(rest.until)
                return False
        elif rest.claims is not None or any(self._moving()):
            threading.Event().wait(min(PAUSE_SECONDS * 10, self._left()))
            return False
        if rest.until is not None and rest.until - clock.mono_ms() <= SOON_MS:
            threading.Event().wait(PAUSE_SECONDS)
            return False
        return True

    def _let_watch_look(self, inside: Incarnation) -> None:
        """Recovery on behalf of others, policy and orphans act each third of a lease: now is sooner."""
        watches = [service for service in self._engine._services if isinstance(service, Watch)]
        before = inside.attention.watch_passes
        for watch in watches:
            watch.nudge()
        while watches and inside.attention.watch_passes < before + 2 and self._left() > 0:
            threading.Event().wait(PAUSE_SECONDS)
        self._watched_at = inside.journal.batches

    def _put_away(self, inside: Incarnation) -> bool:
        """Put runs away that wait for nothing but the outside; tell whether there are any."""
        found = [run for run in inside.all_runs() if _waits_outside(run)]
        for run in found:
            for waiter in run.waiting():
                waiter.put_away_at = inside.clock.mono_ms()
            inside.maybe_put_away(run)
        if found:
            threading.Event().wait(PAUSE_SECONDS)
        return bool(found)

    # what still moves

    def _moving(self) -> Iterator[str]:
        core = self._engine.core
        with core.store.reading() as reads:
            jobs = reads.jobs(JobFilter(states=LIVE, limit=0))
            aside = {row.job_id for row in reads.quarantine() if row.released_at is None}
            steps = {job.job_id: reads.steps(job.job_id) for job in jobs if job.job_id not in aside}
        for job in jobs:
            if job.job_id in steps and _moves_by_itself(job, steps[job.job_id]):
                yield job.job_id

    def _too_long(self) -> WaitTimeout:
        core = self._engine.core
        moving = list(self._moving()) or [run.ref.job_id for run in self._engine._alive().all_runs()]
        told = [core.why(job_id).summary for job_id in moving[:NAMED_AT_MOST]]
        more = f" (and {len(moving) - NAMED_AT_MOST} more)" if len(moving) > NAMED_AT_MOST else ""
        inside = self._engine._alive()
        if not inside.gate.is_open:
            told.insert(0, f"engine {inside.name} is still recovering")
        if not told:
            told = [f"engine {inside.name} {short(inside.engine_id)} is busy: {inside.trouble or 'no job moves'}"]
        summary = "; ".join(text.rstrip(".") for text in told)
        return WaitTimeout(
            f"drain: after {self._timeout_seconds:g} s this still moves: {summary}{more}", summary=summary
        )


def _waits_outside(run: Run) -> bool:
    waiters = run.waiting()
    return bool(waiters) and all(waiter.waits_for is not None for waiter in waiters) and run.rests()


def _moves_by_itself(job: JobRecord, steps: list[StepRecord]) -> bool:
    """Tell whether a job goes on without anybody outside: it runs somewhere, or only time is missing."""
    if job.state is JobState.RUNNING:
        return True
    if job.state is not JobState.QUEUED:
        return False
    if not job.begun:
        return job.ready_at is not None and not job.claimable
    sleeps = any(step.state is StepState.WAITING and step.waits_for is None for step in steps)
    again = any(step.until is not None and step.state in (StepState.BACKOFF, StepState.IN_DOUBT) for step in steps)
    return sleeps or again
