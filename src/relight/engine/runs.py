"""The runs in memory: begun in a thread or on the loop, driven to an end or a wait, and recorded.

User code is entered in two places here, ``_run_sync`` and ``_body_async``; what steps do is in ``runner.py``. A run is
forgotten only when no thread is inside one of its steps any more. Read next: ``outcome.py``.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from relight.authoring.context import SCOPE, Scope
from relight.authoring.registry import Registry
from relight.clock import Clock
from relight.core.commands import Command
from relight.core.commands.jobs import PutJobAway, fresh_run
from relight.engine.board import Board
from relight.engine.claimer import Candidate
from relight.engine.lines import goes_on, leave_behind
from relight.engine.outcome import command_for
from relight.engine.pool import Pool
from relight.engine.run import End, Run
from relight.engine.shelf import Shelf
from relight.errors import CancelRequested, Fenced, Overloaded, RelightError, StorageUnavailable, Suspending
from relight.ids import EngineId, JobId
from relight.model import JobState
from relight.store.journal import Journal
from relight.store.tickets import Ticket

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation
    from relight.engine.loop import EngineLoop

T = TypeVar("T")
AGAIN_MS = 250
"""How long a run waits before it asks a store again that refused."""
SETTLE_MS = 25
"""How long a run must have been quiet before it is put away for a wait that is known to be long."""
STILL_HOPS = 8
"""How often the loop goes round, twice each, before a quiet async run is put away: as far as a wake-up is handed on."""


def _nothing() -> None:
    pass


class Runs(Shelf):
    """The part of an incarnation that runs jobs."""

    engine_id: EngineId
    clock: Clock
    registry: Registry
    journal: Journal
    board: Board
    threads: Pool
    draining: bool
    closed: bool
    settle_ms: int
    runs: dict[JobId, Run]
    runs_lock: threading.Lock
    no_runs: threading.Condition
    released: Callable[[Run], None]
    _on_ended: Callable[[JobId], None]
    _lost_jobs: set[JobId]
    _pause: threading.Condition

    if TYPE_CHECKING:

        @property
        def loop(self) -> EngineLoop: ...  # noqa: D102
        @property
        def _whole(self) -> Incarnation: ...
        def nudge(self) -> None: ...  # noqa: D102
        def _finish(self) -> None: ...

    def all_runs(self) -> list[Run]:
        """The runs in memory."""
        with self.runs_lock:
            return list(self.runs.values())

    def start_runs(self, claimed: Sequence[tuple[Candidate, str]]) -> None:
        """Run jobs that were claimed, each under its run id: their code in threads, or on the loop."""
        runs = [self._new_run(candidate, run_id) for candidate, run_id in claimed]
        on_loop = [run for run in runs if run.spec.is_async]
        if on_loop:
            self.loop.call(lambda: self._begin_all_async(on_loop))
        for run in runs:
            if not run.spec.is_async:
                self.threads.start(functools.partial(contextvars.Context().run, self._run_sync, run))
            if self.draining:
                run.suspend("shutdown")

    def _new_run(self, candidate: Candidate, run_id: str) -> Run:
        job = candidate.job
        workflow = self.registry.find_version(job.kind, candidate.version)
        assert workflow is not None
        ref = fresh_run(job.job_id, job.trace_id, job.kind, run_id)
        tags: dict[str, str] = msgspec.json.decode(job.tags) if job.tags else {}
        run = Run(job, ref, workflow.spec, candidate.steps, tags)
        run.started_ms = self.clock.now_ms()
        run.busy = 1
        if job.cancel_code is not None:
            run.end = End(job.cancel_code, job.cancel_reason, job.cancel_by)
        with self.runs_lock:
            self.runs[job.job_id] = run
        if job.deadline_at is not None:
            self.board.after(job.deadline_at - run.started_ms, lambda: run.request_end(End("deadline", None, None)))
        return run

    def patiently(self, run: Run, call: Callable[[], T]) -> T:
        """Do something for a run that needs the store, again and again while the store refuses: no job fails for that."""
        while True:
            try:
                return call()
            except StorageUnavailable as error:
                self._leave_if_lost(run, error)
                with self._pause:
                    self.clock.wait(self._pause, AGAIN_MS)

    async def patiently_async(self, run: Run, call: Callable[[], T]) -> T:
        """As ``patiently``, on the loop."""
        while True:
            try:
                return call()
            except StorageUnavailable as error:
                self._leave_if_lost(run, error)
                pause = self.loop.future()
                self.board.after(AGAIN_MS, functools.partial(self.loop.settle, pause, None))
                await pause

    def _leave_if_lost(self, run: Run, error: StorageUnavailable) -> None:
        if run.lost is not None or self.closed:
            raise Suspending(str(error)) from None

    def _function_and_arguments(self, run: Run) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        signature = self.registry.signature(run.spec.function)
        args, kwargs = signature.load(self.unstow(run.job.inputs or "{}").encode())
        return run.spec.function, args, kwargs

    def _run_sync(self, run: Run) -> None:
        conductor = self.conductor(run, self._whole)
        SCOPE.set(Scope(conductor, run.branch))
        value, error = None, None
        try:
            function, args, kwargs = self.patiently(run, lambda: self._function_and_arguments(run))
            value = function(*args, **kwargs)
        except BaseException as raised:  # boundary: user code, and leaving by exception
            error = raised
        leave_behind(conductor)
        self._settle(run, value, error)

    def _begin_all_async(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._begin_async(run)

    def _begin_async(self, run: Run) -> None:
        context = contextvars.Context()
        context.run(SCOPE.set, Scope(self.conductor(run, self._whole), run.branch))

        def cancel() -> None:
            if run.main is not None and not run.main.done() and not run.puts_cancellation_off():
                run.main.cancel()

        run.cancel_tasks = lambda: self.loop.call(cancel)
        run.main = body = self.loop.spawn(lambda: self._body_async(run), context)
        body.add_done_callback(lambda body: self._async_ended(run, body, context), context=contextvars.Context())

    async def _body_async(self, run: Run) -> Any:
        function, args, kwargs = await self.patiently_async(run, lambda: self._function_and_arguments(run))
        return await function(*args, **kwargs)

    def _async_ended(self, run: Run, body: Any, context: contextvars.Context) -> None:
        """A body ended: its other lines end with it, then it is recorded."""
        context.run(
            SCOPE.set, None
        )  # a run and its tasks know each other; this frees them without the garbage collector
        left = [each for each in run.tasks if not each.done()]
        if left and goes_on(run) and not body.cancelled() and body.exception() is None:
            self.conductor(run, self._whole).cut_left_behind([run.tasks[each] for each in left if each in run.tasks])
        if left:
            run.cancel_tasks = lambda: self.loop.call(lambda: run.cancel_lines(left))
            run.cancel_lines(left)
            context = contextvars.Context()
            run.main = self.loop.spawn(lambda: self._after_lines(run, body, left), context)
        else:
            self._record_async(run, body)

    async def _after_lines(self, run: Run, body: Any, left: list[Any]) -> None:
        for each in left:
            try:
                await each
            except BaseException:  # boundary: a line that was ended with its body
                continue
        self._record_async(run, body)

    def _record_async(self, run: Run, body: Any) -> None:
        value, error = None, None
        if body.cancelled():
            error = Suspending("the body was cancelled") if run.end is None else CancelRequested(run.end.code)
        else:
            error = body.exception()
            value = None if error is not None else body.result()
        self._settle(run, value, error)

    def _settle(self, run: Run, value: Any, error: BaseException | None) -> None:
        """Record how a run ended, or nothing when it was lost."""
        if run.lost is not None:
            self._gone(run)
            return
        if run.reporter is not None:
            run.reporter.last_word()
        try:
            command = self._end_of(run, value, error)
            self.journal.put(command, waker=self._recorded, tag=run)
        except (StorageUnavailable, Overloaded):
            if self.closed or self.journal.fenced:
                self._gone(run)
                return
            # The run has ended but is not recorded: to forget it now would leave its job running, without anyone to end it.
            self.board.after(AGAIN_MS, lambda: self._settle(run, value, error))
        except RelightError as refused:
            run.lose(str(refused))
            self._gone(run)

    def _end_of(self, run: Run, value: Any, error: BaseException | None) -> Command:
        encode = self.registry.signature(run.spec.function).result.encode
        try:
            return command_for(run, self._whole, value, error, self.clock.now_ms(), encode)
        except (StorageUnavailable, Fenced):
            raise
        except Exception as broken:  # boundary: a result that nobody can encode fails its own job
            return command_for(run, self._whole, None, broken, self.clock.now_ms(), encode)

    def _recorded(self, tickets: list[Ticket]) -> None:
        """Ends of runs are on disk; or were refused, because what a person was waited for has come in the meantime."""
        for ticket in tickets:
            command = ticket.command
            if isinstance(command, PutJobAway) and command.state is not JobState.QUEUED and ticket.error is not None:
                self._put_away_again(ticket.tag)
            else:
                self._gone(ticket.tag)

    def _put_away_again(self, run: Run) -> None:
        again = PutJobAway(
            job=run.ref, engine_id=self.engine_id, state=JobState.QUEUED, reason="decided", ready_at=self.clock.now_ms()
        )
        try:
            self.journal.put(again, waker=lambda tickets: self._gone(run))
        except RelightError:
            self._gone(run)

    def _gone(self, run: Run) -> None:
        """Nothing more is recorded of a run. It is forgotten once no thread is inside one of its steps any more."""
        try:
            self._on_ended(run.ref.job_id)
        except (RelightError, msgspec.DecodeError):
            pass  # called by the journal's thread, which must not end: who waits for this job looks for itself, too
        run.once_returned(lambda: self._forget(run))

    def _forget(self, run: Run) -> None:
        run.cancel_tasks = _nothing  # it knows the run, which knows it
        with self.runs_lock:
            if run.lost is not None:
                self._lost_jobs.add(run.ref.job_id)
            if self.runs.get(run.ref.job_id) is run:
                del self.runs[run.ref.job_id]
            if not self.runs:
                self.no_runs.notify_all()
            empty = not self.runs
        self.released(run)
        self.nudge()
        if empty and self.closed:
            self._finish()

    def maybe_put_away(self, run: Run) -> None:
        """Put a run away if it is quiet and every wait in it is long."""
        moves = run.moves
        wants = run.wants_to_be_put_away(self.clock.mono_ms(), self.settle_ms - 5)
        if wants and run.spec.is_async:
            self.loop.call(functools.partial(self._put_away_if_still, run, moves, STILL_HOPS))
        elif wants:
            run.suspend("waiting")
        elif wants is None:
            self.board.after(self.settle_ms, lambda: self.maybe_put_away(run))

    def _put_away_if_still(self, run: Run, moves: int, hops: int) -> None:
        """Put an async run away if nothing has happened in it since, on its loop: a line that is about to go on has by now.

        Between two durable calls a line is nowhere to be seen; only the loop knows that it is ready to run.
        """
        if run.moves != moves:
            self.board.after(self.settle_ms, lambda: self.maybe_put_away(run))
        elif hops > 0:
            self.loop.call(functools.partial(self._put_away_if_still, run, moves, hops - 1))
        else:
            run.suspend("waiting")
