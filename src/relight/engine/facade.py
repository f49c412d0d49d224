"""``Engine`` and ``AsyncEngine``: what users hold. Thin over one ``_Host``, which keeps an incarnation alive.

A constructor does no I/O; ``start`` opens the store and returns at once, while recovery runs behind the closed gate. A
fenced incarnation is replaced by a new one, which goes through the gate like any other.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, ModuleType, TracebackType
from typing import Any, Literal, Self

import msgspec

from relight.authoring.options import Queue
from relight.authoring.outside import engine_started, engine_stopped
from relight.authoring.registry import Registry
from relight.authoring.resource import Resource
from relight.authoring.workflows import AnyWorkflow
from relight.client.blocking import in_thread, refuse_on_any_loop
from relight.client.client import AsyncClient, Client, _Opened
from relight.client.core import Core
from relight.clock import Clock, SystemClock
from relight.codec import Codec
from relight.core import events as ev
from relight.core.commands.engines import Tell
from relight.core.commands.steering import ReleaseHeld, ref_of, system
from relight.engine.incarnation import Incarnation, Ports
from relight.engine.recovery import describe
from relight.engine.rest import Listener
from relight.engine.runner import Conductor
from relight.engine.supervisor import Supervisor
from relight.engine.watch import Beat, Watch
from relight.errors import GateClosed, GateError, InvalidArgument, RelightError
from relight.ids import EngineId, Ids, JobId, RandomIds
from relight.model import GateState, QueueRecord
from relight.settings import Settings, resolve
from relight.store.store import Store

START_ANEW_AGAIN_MS = 500
"""How long a fenced engine waits between two attempts to start anew, when the store refuses."""


_LOOK_FOR_SIGNALS_SECONDS = 0.1


class _Host(_Opened):
    """An engine's settings and definitions, and the incarnation that is alive now."""

    conductor: type[Conductor] = Conductor

    def __init__(
        self,
        store: str | None = None,
        *,
        workflows: Sequence[AnyWorkflow | ModuleType] = (),
        queues: Sequence[Queue | str] = (),
        consume: Sequence[str] | None = None,
        slots: int | None = None,
        threads: int | None = None,
        lease_seconds: float | None = None,
        gate_timeout_seconds: float | None = None,
        drain_seconds: float | None = None,
        suspend_after_seconds: float | None = None,
        durability: Literal["power", "process"] | None = None,
        resources: Mapping[Resource[Any], object] | None = None,
        replace: Mapping[Any, Callable[..., Any]] | None = None,
        codecs: Sequence[Codec[Any]] = (),
        name: str | None = None,
        clock: object = None,
        ids: object = None,
    ) -> None:
        self._settings: Settings = resolve(
            {
                "store": store,
                "consume": consume,
                "slots": slots,
                "threads": threads,
                "lease_seconds": lease_seconds,
                "gate_timeout_seconds": gate_timeout_seconds,
                "drain_seconds": drain_seconds,
                "suspend_after_seconds": suspend_after_seconds,
                "durability": durability,
                "name": name,
            }
        )
        self._registry = Registry(workflows, codecs)
        self._queues = tuple(_queue_record(queue) for queue in queues)
        self._resources = dict(resources or {})
        self._replace = dict(replace or {})
        self._clock: Clock = clock if clock is not None else SystemClock()  # type: ignore[assignment]
        self._ids: Ids = ids if ids is not None else RandomIds()  # type: ignore[assignment]
        self._require_recovered = False
        self._actor = None
        self._core: Core | None = None
        self._engine: Incarnation | None = None
        self._services: list[Any] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self.fenced_times = 0

    @property
    def settings(self) -> Settings:
        """The settings in force, with where each came from."""
        return self._settings

    @property
    def name(self) -> str:
        """The engine's name, as events and messages show it."""
        return self._engine.name if self._engine is not None else self._settings.name or "engine"

    @property
    def engine_id(self) -> EngineId:
        """The present incarnation's id. Raises ``InvalidArgument`` while the engine is not started."""
        return self._alive().engine_id

    def _alive(self) -> Incarnation:
        if self._engine is None:
            raise InvalidArgument("this engine is not started; use: with Engine(…) as engine, or engine.start()")
        return self._engine

    def _override(self, arguments: Mapping[str, Any]) -> None:
        """Let a command line say other settings, before the start. None as a value means that nothing was said."""
        own = {
            name: self._settings.values[name] for name, origin in self._settings.origins.items() if origin == "argument"
        }
        self._settings = resolve({**own, **{name: value for name, value in arguments.items() if value is not None}})

    # one incarnation after the other

    def _start(self) -> None:
        with self._lock:
            if self._engine is not None:
                return
            store = self._store()
            store.open(create=True)
            try:
                self._core = self._new_core(store)
                self._core.before_submit = self._wait_for_gate
                self._core.patience_seconds = 30.0
                self._begin_incarnation(store)
            except BaseException:  # boundary: cleaned up after, and raised again
                store.close()
                self._core = None
                raise
        engine_started(self)

    def _begin_incarnation(self, store: Store) -> None:
        core = self.core
        ports = Ports(store, core.clock, self._ids, self.probe or (lambda name: None))
        engine = Incarnation(
            ports,
            self._settings,
            self._registry,
            resources=self._resources,
            replace=self._replace,
            on_ended=core.ends.ended,
            on_fenced=self._on_fenced,
        )
        engine.queues = self._queues
        engine.attention.awaited = lambda: core.ends.awaited
        engine.conductor = self.conductor
        if isinstance(self._clock, Listener):
            engine.attention.listeners.append(self._clock)
        supervisor, watch, beat = Supervisor(engine), Watch(engine), Beat(engine)
        supervisor.owed_hook = watch.nudge
        engine.open()
        core.use_journal(engine.journal)
        self._engine = engine
        self._services = [beat, watch, supervisor]
        with self._changed:
            self._changed.notify_all()
        for service in (supervisor, watch, beat):
            service.start()

    def _on_fenced(self) -> None:
        """Another engine declared this one dead: start anew, as another incarnation, in a thread of its own."""
        threading.Thread(target=self._start_anew, name="relight-anew", daemon=True).start()

    def _start_anew(self) -> None:
        with self._lock:
            old = self._engine
            if old is None or not old.journal.fenced:
                return
            for service in self._services:
                service.stop()
            self.fenced_times += 1
        while not self._succeed(old):
            with self._changed:
                self._clock.wait(self._changed, START_ANEW_AGAIN_MS)
        old.close(drained=False, suspended=0)

    def _succeed(self, old: Incarnation) -> bool:
        """Begin the next incarnation; tell whether there is nothing left to try."""
        with self._lock:
            if self._engine is not old:
                return True  # stopped in the meantime
            try:
                self._begin_incarnation(self.core.store)
            except RelightError as error:
                old.trouble["start"] = describe(error)
                return False
            self._tell_of(old)
            old.released = lambda run: self._release_job(old, run.ref.job_id)
        for job_id in old.lost_jobs():
            self._release_job(old, job_id)
        return True

    def _tell_of(self, old: Incarnation) -> None:
        reason = f"incarnation {old.engine_id} was fenced; {old.journal.refused_writes} writes were refused"
        told = ev.EngineFenced(reason=reason)
        self._alive().journal.put(Tell(payload=told, who=system(old.engine_id)))

    def _release_job(self, old: Incarnation, job_id: JobId) -> None:
        """A job's last try in a fenced incarnation has returned: it need not be held any longer."""
        engine = self._engine
        if engine is None:
            return
        try:
            with engine.store.reading() as reads:
                heads = reads.job_heads([job_id])
            for job in heads:
                if job.held_by == old.engine_id:
                    engine.journal.put(ReleaseHeld(job=ref_of(job), owner=old.engine_id, who=system(engine.engine_id)))
        except (RelightError, msgspec.ValidationError):
            return  # stopping, or in trouble: the hold ends with the lock of the old incarnation

    # gate, health, leaving

    def _wait_for_gate(self) -> None:
        """Wait for the gate of this incarnation, or of its successor when it is fenced."""
        deadline = self._clock.mono_ms() + self._settings.gate_timeout_ms
        while True:
            engine = self._alive()
            left = deadline - self._clock.mono_ms()
            try:
                engine.gate.wait(max(left, 0))
            except GateError:
                if not engine.journal.fenced or left <= 0:
                    raise
            if not engine.journal.fenced:
                return
            if left <= 0:
                raise GateClosed(
                    f"engine {engine.name} was declared dead by another one and is starting anew; nothing was accepted. Try again",
                    recovered=0,
                    expected=0,
                    retry_after_seconds=1.0,
                )
            with self._changed:
                if self._engine is engine:
                    self._clock.wait(self._changed, min(left, START_ANEW_AGAIN_MS))

    def _stop(self, drain_seconds: float | None) -> None:
        with self._lock:
            engine = self._engine
            if engine is None:
                return
            drain_ms = self._settings.drain_ms if drain_seconds is None else int(drain_seconds * 1000)
            before = len(engine.all_runs())
            drained = engine.drain(drain_ms)
            engine.gate.abandon("was stopped")
            for service in reversed(self._services):
                service.stop(patience_seconds=engine.patience_seconds)
            core, self._core = self._core, None
            self._engine = None
            self._services = []
            try:
                engine.close(drained=drained, suspended=max(before - len(engine.all_runs()), 0))
            finally:
                if core is not None:
                    core.ends.stop()
                    core.store.close()
        with self._changed:
            self._changed.notify_all()
        engine_stopped(self)

    def _engine_health(self) -> dict[str, object]:
        engine = self._alive()
        done, expected = self._services[1].progress()
        gate: dict[str, object] = {"gate": str(engine.gate.state), "gate_closed_ms": engine.gate.closed_ms}
        if engine.gate.state is not GateState.OPEN:
            gate["recovering"] = {"done": done, "expected": expected}
            gate["gate_reason"] = engine.gate.reason
        ok = engine.gate.is_open and engine.degraded is None and not engine.journal.fenced and not engine.trouble
        return {
            **engine.store.health(),
            "role": "engine",
            "engine_id": engine.engine_id,
            "name": engine.name,
            "ok": ok,
            **gate,
            "degraded": None if engine.degraded is None else str(engine.degraded),
            "trouble": dict(engine.trouble) or None,
            "draining": engine.draining,
            "running": len(engine.all_runs()),
            "slots": self._settings.slots,
            "journal_waiting": engine.journal.waiting,
            "abandoned_threads": sum(len(run.overdue) for run in engine.all_runs()),
            "fenced_times": self.fenced_times,
            "kinds": self._registry.kinds,
        }


def _queue_record(queue: Queue | str) -> QueueRecord:
    if isinstance(queue, str):
        queue = Queue(queue)
    rate = (
        None
        if queue.rate is None
        else msgspec.json.encode({"n": queue.rate.n, "per_seconds": queue.rate.per_seconds}).decode()
    )
    return QueueRecord(
        queue=queue.name, slots=queue.slots, per_engine_slots=queue.per_engine_slots, priority=queue.priority, rate=rate
    )


class Engine(_Host, Client):
    """Run jobs, and everything a ``Client`` does.

    ``workflows``: what it can run (workflows, or modules). ``queues`` define, ``consume`` says from which this engine takes
    (default: all). ``slots``: jobs running at once (100); ``threads``: sync ones among them (32). ``lease_seconds``: how long
    others wait for a silent owner of another host (30). ``gate_timeout_seconds``: how long a submit waits for recovery
    (30). ``drain_seconds``: how long ``stop`` waits for running steps (20). ``suspend_after_seconds``: how long a wait stays in
    memory (5). ``durability``: ``"power"`` (default) or ``"process"``. Each also as ``RELIGHT_<NAME>``; argument over
    environment over default. ``resources`` and ``replace`` give fakes in tests; ``clock`` and ``ids`` are ports for simulation.

    The constructor does no I/O and installs no signal handlers. Use it as a context manager, or ``start`` and ``stop``.
    """

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> Self:
        """Open the store and begin; returns at once, while recovery runs behind the closed gate. Idempotent.

        Raises ``ConfigError``, ``StorageUnavailable`` or ``StorageCorrupt`` with nothing changed.
        """
        refuse_on_any_loop("Engine.start()", "Here use: async with AsyncEngine(…)")
        self._start()
        return self

    def stop(self, *, drain_seconds: float | None = None) -> None:
        """Stop claiming, let steps that run finish and be recorded, put their jobs away, and leave. Idempotent.

        A step that outlives ``drain_seconds`` is left behind; its job is recovered by the next start.
        """
        self._stop(drain_seconds)

    def run_forever(self) -> None:
        """Run until SIGTERM or SIGINT, then stop. Only here (and in the CLI) signal handlers are installed."""
        heard: list[int] = []

        def leave(number: int, _frame: FrameType | None) -> None:
            heard.append(number)  # no lock here: the main thread may hold it between two instructions

        before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with self:
                while not heard:
                    threading.Event().wait(_LOOK_FOR_SIGNALS_SECONDS)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def health(self) -> Mapping[str, object]:
        """Return how this engine is: gate (and how far recovery is), degradation, what runs, the store."""
        return self._engine_health()


class AsyncEngine(_Host, AsyncClient):
    """``Engine`` for async code. Jobs run on the engine's own loop in its own thread, never on the caller's."""

    async def __aenter__(self) -> Self:
        await in_thread(self._start)
        return self

    async def __aexit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        await in_thread(self._stop, None)

    async def start(self) -> Self:
        """Open the store and begin. See ``Engine.start``."""
        return await self.__aenter__()

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Stop. See ``Engine.stop``."""
        await in_thread(self._stop, drain_seconds)

    def health(self) -> Mapping[str, object]:
        """Return how this engine is. See ``Engine.health``."""
        return self._engine_health()
