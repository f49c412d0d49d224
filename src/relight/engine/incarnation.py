"""One incarnation of an engine: an id that is new at each start, its lock, its lease, its gate, its journal, its runs.

Everything that dies with the incarnation is held here, so that a fenced engine can start anew as another one while the
last tries of the old one still return. Its threads: the journal, the loop (once something async runs), the beat, the
watch (recovery, gate, policy), the supervisor (timers, claims, deliveries), and those that run sync jobs.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from relight.authoring.context import SCOPE, Scope
from relight.authoring.registry import Registry
from relight.clock import Clock
from relight.core import events as ev
from relight.core.changes import OpenWriter
from relight.core.commands import Command
from relight.core.commands.engines import CloseWriterNow, OpenWriterNow, QuarantineRow, RegisterKinds, Tell
from relight.core.commands.jobs import PutJobAway, fresh_run
from relight.core.commands.steering import system
from relight.engine.board import Board
from relight.engine.claimer import Candidate, Served
from relight.engine.gate import Gate
from relight.engine.lease import Lease
from relight.engine.lines import leave_behind
from relight.engine.outcome import command_for
from relight.engine.pool import Pool
from relight.engine.queues import define_queues
from relight.engine.resources import Resources
from relight.engine.rest import Attention
from relight.engine.run import End, Run
from relight.engine.shelf import Shelf
from relight.errors import (
    CancelRequested,
    Conflict,
    Fenced,
    Overloaded,
    RelightError,
    StorageUnavailable,
    Suspending,
)
from relight.ids import EngineId, Ids, JobId
from relight.model import GateState, JobState, QueueRecord, Role
from relight.proof.lockfile import LockFile, lock_path, remove, state_dir_for
from relight.proof.procfs import Host, this_host
from relight.settings import Settings
from relight.store.journal import Journal
from relight.store.reads import EventFilter, Unreadable
from relight.store.store import Store
from relight.store.tickets import Ticket
from relight.version import VERSION

if TYPE_CHECKING:
    from relight.engine.loop import EngineLoop

START_PATIENCE_SECONDS = 10.0
"""How long a start waits for a store that refuses to take the engine's row."""
LEAVE_MS = 2000
"""How long a stop waits for async runs that outlived the drain to leave by cancellation."""
AGAIN_MS = 250
"""How long a run waits before it asks a store again that refused."""


def _nothing() -> None:
    pass


T = TypeVar("T")

SETTLE_MS = 25
"""How long a run must have been quiet before it is put away for a wait that is known to be long."""
STILL_HOPS = 8
"""How often the loop goes round, twice each, before a quiet async run is put away: as far as a wake-up is handed on."""


@dataclass(frozen=True)
class Ports:
    """What an engine is given: its store, time, ids, and the crash-test seam."""

    store: Store
    clock: Clock
    ids: Ids
    reached: Callable[[str], None]


class Incarnation(Lease, Shelf):
    """See the module. Made by the facade; ``open`` writes its row with the gate closed."""

    def __init__(
        self,
        ports: Ports,
        settings: Settings,
        registry: Registry,
        *,
        resources: Mapping[Any, object],
        replace: Mapping[Any, Callable[..., Any]],
        on_ended: Callable[[JobId], None],
        on_fenced: Callable[[], None],
    ) -> None:
        self.store, self.clock, self.ids, self.reached = ports.store, ports.clock, ports.ids, ports.reached
        self.settings = settings
        self.registry = registry
        self.engine_id = EngineId(self.ids.uuid7(self.clock.now_ms()))
        self.name = settings.name or f"engine-{self.engine_id[-6:]}"
        self.host: Host = this_host()
        self.state_dir: Path = state_dir_for(self.store.place)
        self.nonce = self.ids.token()
        self.lock: LockFile | None = None
        self.gate = Gate(self.clock, self.name)
        self.board = Board(self.clock, self.nudge)
        self.journal = Journal(self.store, self.engine_id, self._opening, clock=self.clock, ids=self.ids)
        self.journal.on_applied = self._applied
        self.journal.on_fenced = lambda: self._fenced(on_fenced)
        self.journal.on_trouble = self._trouble
        self._given = resources
        self.resources = Resources(resources, lambda: self.loop)
        self._replace = {getattr(step, "__wrapped__", step): fake for step, fake in replace.items()}
        self.threads = Pool(f"job-{self.engine_id[-6:]}", settings.threads)
        self.arms = Pool(f"arm-{self.engine_id[-6:]}", settings.threads)
        self._loop: EngineLoop | None = None
        self._loop_lock = threading.Lock()
        self.runs: dict[JobId, Run] = {}
        self._lost_jobs: set[JobId] = set()
        self.claiming = 0
        self.runs_lock = threading.Lock()
        self.no_runs = threading.Condition(self.runs_lock)
        self.draining = False
        self.renewed_at = self.clock.mono_ms()
        self.degraded: RelightError | None = None
        self.outages = 0
        self._pause = threading.Condition()
        self.trouble: dict[str, str] = {}
        """What keeps failing in which service, for health; empty when all is well."""
        self._on_ended = on_ended
        self.on_news: Callable[[frozenset[str]], None] = lambda ops: None
        self.nudge_hook: Callable[[], None] = lambda: None
        self.released: Callable[[Run], None] = lambda run: None
        self.settle_ms = SETTLE_MS
        self.attention = Attention()

    # opening

    def open(self) -> None:
        """Take the lock, then write this incarnation's row with the gate closed, and what it can do."""
        self.lock = LockFile.create(self.state_dir, self.engine_id, self.nonce, self.clock)
        self.lock.beat(self.clock.now_ms())
        try:
            self.journal.start()
            with self.store.reading() as reads:
                known = {kind for kind, _ in reads.kinds()}
            self.journal.execute(self._registration(known), patience_seconds=START_PATIENCE_SECONDS)
            define_queues(
                self.store,
                self.journal,
                self.queues,
                by=self.name,
                engine_id=self.engine_id,
                patience_seconds=START_PATIENCE_SECONDS,
            )
        except BaseException:  # boundary: cleaned up after, and raised again
            self.journal.close(timeout_seconds=1)
            self._left_behind = self.journal.opened
            self._release_lock()
            raise

    def _opening(self) -> Command:
        now_ms = self.clock.now_ms()
        with self.store.reading() as reads:
            heads = tuple(reads.unnamed_heads())
        consume = self.settings.consume
        row = OpenWriter(
            self.engine_id,
            Role.ENGINE,
            self.name,
            GateState.CLOSED,
            self.nonce,
            self.host.host_id,
            self.host.boot_id,
            os.getpid(),
            VERSION,
            self.settings.lease_ms,
            now_ms + self.settings.lease_ms,
            now_ms,
            msgspec.json.encode([(w.kind, w.spec.version) for w in self.registry.workflows]).decode(),
            None if consume is None else msgspec.json.encode(consume).decode(),
        )
        started = ev.EngineStarted(
            host_id=self.host.host_id,
            boot_id=self.host.boot_id,
            pid=os.getpid(),
            version=VERSION,
            store=self.store.place,
            durability=self.settings.durability,
            heads={writer: digest for writer, _, digest in heads},
        )
        return OpenWriterNow(row=row, heads=heads, who=system(self.engine_id), started=started)

    queues: tuple[QueueRecord, ...] = ()

    @property
    def served(self) -> Served:
        """What jobs this engine can run."""
        return Served(
            {(w.kind, w.spec.version): not w.spec.is_async for w in self.registry.workflows},
            {kind: found.spec.version for kind in self.registry.kinds if (found := self.registry.find(kind))},
        )

    def _registration(self, known: set[str]) -> Command:
        return RegisterKinds(
            who=system(self.engine_id),
            kinds=tuple((w.kind, w.spec.version) for w in self.registry.workflows),
            new_kinds=tuple(kind for kind in self.registry.kinds if kind not in known),
        )

    @property
    def loop(self) -> EngineLoop:
        """The engine's own loop, made when something async first needs it."""
        if self._loop is None:
            with self._loop_lock:
                if self._loop is None:
                    from relight.engine.loop import EngineLoop

                    self._loop = EngineLoop(self.engine_id[-6:])
        return self._loop

    # what happens to the journal

    def nudge(self) -> None:
        """Let the supervisor look now."""
        self.nudge_hook()

    def _applied(self, ops: frozenset[str]) -> None:
        if self.lock is not None:
            self.lock.journal_alive(self.clock.mono_ms())
        self.on_news(ops)

    def _trouble(self, error: RelightError | None, outage_ms: int) -> None:
        self.degraded = error
        code = getattr(error, "code", "unknown")
        if error is not None:
            self._trouble_code = code
            return
        self.outages += 1
        for payload in (
            ev.EngineDegraded(code=self._trouble_code),
            ev.EngineRecovered(outage_ms=outage_ms),
        ):
            try:
                self.journal.put(Tell(payload=payload, who=system(self.engine_id)))
            except RelightError:
                return  # fenced or closing

    _trouble_code = "unknown"

    def _fenced(self, on_fenced: Callable[[], None]) -> None:
        self.draining = True
        self.gate.abandon("was declared dead by another engine")
        for run in self.all_runs():
            run.lose("its engine was declared dead by another one")
        on_fenced()

    def lost_jobs(self) -> list[JobId]:
        """Jobs whose run was lost here and has ended: if this incarnation was fenced, they need not be held any longer."""
        with self.runs_lock:
            return list(self._lost_jobs)

    def set_aside(self, table_name: str, aside: Sequence[Unreadable]) -> None:
        """Put jobs into quarantine one of whose rows cannot be read, so that they harm only themselves."""
        for bad in aside:
            with self.store.reading() as reads:
                told = reads.events(EventFilter(job_id=bad.id, limit=1))
            command = QuarantineRow(
                job_id=JobId(bad.id),
                trace_id=told[0].trace_id if told else None,
                table_name=table_name,
                code="unreadable",
                detail=bad.detail,
                recovery_id=None,
                judge=self.engine_id,
            )
            try:
                self.journal.put(command)
            except RelightError:
                return  # whoever meets it next sets it aside

    def all_runs(self) -> list[Run]:
        """The runs in memory."""
        with self.runs_lock:
            return list(self.runs.values())

    # running jobs

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
        conductor = self.conductor(run, self)
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
        context.run(SCOPE.set, Scope(self.conductor(run, self), run.branch))

        def cancel() -> None:
            if run.main is not None and not run.main.done():
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
        for each in left:
            each.cancel()
        if left:
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
            return command_for(run, self, value, error, self.clock.now_ms(), encode)
        except (StorageUnavailable, Fenced):
            raise
        except Exception as broken:  # boundary: a result that nobody can encode fails its own job
            return command_for(run, self, None, broken, self.clock.now_ms(), encode)

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

    # leaving

    closed = False

    @property
    def patience_seconds(self) -> float:
        """How long leaving waits at each point for the store: not long for one that has been refusing."""
        return 5 if self.degraded is None else 0.5

    def drain(self, timeout_ms: int) -> bool:
        """Put every run away at its next step boundary; tell whether all had left in time."""
        self.draining = True
        for run in self.all_runs():
            run.suspend("shutdown")
        deadline = self.clock.mono_ms() + timeout_ms
        with self.runs_lock:
            while self.runs or self.claiming:
                left = deadline - self.clock.mono_ms()
                if left <= 0:
                    return False
                self.clock.wait(self.no_runs, min(left, 100))
        return True

    def close(self, *, drained: bool, suspended: int) -> None:
        """Close resources, say goodbye, and let the lock go once the last try has ended."""
        try:
            self.resources.close()
        finally:
            self._say_goodbye(drained, suspended)
            for run in self.all_runs():
                self._left_behind = True
                run.lose("its engine was stopped")
            self._wait_for_async_runs()
            with self.runs_lock:
                self.closed = True
                empty = not self.runs
            if empty:
                self._finish()

    _left_behind = False
    """Whether a run of this incarnation may still be running by the store."""

    def _wait_for_async_runs(self) -> None:
        """Async runs leave by cancellation as soon as their code lets them; a sync step cannot be made to return."""
        deadline = self.clock.mono_ms() + LEAVE_MS
        with self.runs_lock:
            while any(run.spec.is_async and not run.calls for run in self.runs.values()):
                left = deadline - self.clock.mono_ms()
                if left <= 0:
                    return
                self.clock.wait(self.no_runs, min(left, 20))

    def _say_goodbye(self, drained: bool, suspended: int) -> None:
        if self.journal.fenced or not self.journal.opened:
            self.journal.close()
            return
        stopped = ev.EngineStopped(drained=drained, suspended_runs=suspended)
        try:
            self.journal.execute(
                CloseWriterNow(engine_id=self.engine_id, stopped=stopped), patience_seconds=self.patience_seconds
            )
        except (Conflict, StorageUnavailable):
            self._left_behind = True  # the next start finds the lock free, and does what is owed
        self.journal.close(timeout_seconds=self.patience_seconds)

    def _finish(self) -> None:
        """The last run has left: nothing of this incarnation acts any more, and everyone may see that."""
        if self._loop is not None:
            self._loop.stop()
        self.threads.close()
        self.arms.close()
        self._release_lock()

    def _release_lock(self) -> None:
        with self.runs_lock:
            lock, self.lock = self.lock, None
        if lock is not None:
            lock.release()
            # While its row may have runs, or does not say that it stopped, the file is the proof of its death.
            if not self.journal.fenced and not self._left_behind:
                remove(lock_path(self.state_dir, self.engine_id))
