"""One incarnation of an engine: an id that is new at each start, its lock, its lease, its gate, its journal, its runs.

Everything that dies with the incarnation is held here, so that a fenced engine can start anew as another one while the
last tries of the old one still return. Its threads: the journal, the loop (once something async runs), the beat, the
watch (recovery, gate, policy), the supervisor (timers, claims, deliveries), and those that run sync jobs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from relight.authoring.registry import Registry
from relight.clock import Clock
from relight.core import events as ev
from relight.core.changes import OpenWriter
from relight.core.commands import Command
from relight.core.commands.engines import CloseWriterNow, OpenWriterNow, QuarantineRow, RegisterKinds, Tell
from relight.core.commands.steering import system
from relight.engine.board import Board
from relight.engine.claimer import Served
from relight.engine.gate import Gate
from relight.engine.lease import Lease
from relight.engine.pool import Pool
from relight.engine.queues import define_queues
from relight.engine.resources import Resources
from relight.engine.rest import Attention
from relight.engine.run import Run
from relight.engine.runs import SETTLE_MS, Runs
from relight.errors import (
    Conflict,
    RelightError,
    StorageUnavailable,
)
from relight.ids import EngineId, Ids, JobId
from relight.model import GateState, QueueRecord, Role
from relight.proof.lockfile import LockFile, lock_path, remove, state_dir_for
from relight.proof.procfs import Host, this_host
from relight.settings import Settings
from relight.store.journal import Journal
from relight.store.reads import EventFilter, Unreadable
from relight.store.store import Store
from relight.version import VERSION

if TYPE_CHECKING:
    from relight.engine.loop import EngineLoop

START_PATIENCE_SECONDS = 10.0
"""How long a start waits for a store that refuses to take the engine's row."""
LEAVE_MS = 2000
"""How long a stop waits for async runs that outlived the drain to leave by cancellation."""


T = TypeVar("T")


@dataclass(frozen=True)
class Ports:
    """What an engine is given: its store, time, ids, and the crash-test seam."""

    store: Store
    clock: Clock
    ids: Ids
    reached: Callable[[str], None]


class Incarnation(Lease, Runs):
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
    def _whole(self) -> Incarnation:
        return self

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
