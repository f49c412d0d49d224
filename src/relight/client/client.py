"""``Client`` and ``AsyncClient``: submit, inspect and steer jobs from any process. Thin facades over ``Core``.

A client's submit is always stored as queued: nothing starts before some engine's gate opens.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, overload

from relight.authoring.options import Queue
from relight.authoring.registry import Registry
from relight.authoring.workflows import NO_OPTIONS, AnyWorkflow, Call, SubmitOptions
from relight.client.blocking import in_thread, refuse_on_any_loop
from relight.client.core import Core
from relight.client.handles import AsyncJob, Job
from relight.client.submitting import calls_of
from relight.client.within import prepared, submission
from relight.clock import Clock, SystemClock
from relight.codec import Codec
from relight.errors import InvalidArgument
from relight.ids import Ids, RandomIds
from relight.model import Delivery, JobInfo, JobState, OnStall
from relight.settings import resolve
from relight.store.open import store_at
from relight.store.store import Probe, Store
from relight.store.time import clock_of

R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_INSTEAD = "Here use AsyncEngine or AsyncClient, or a plain def handler"


class _Opened:
    """What both colours share: settings, and a core that exists while the client is open. A constructor does no I/O."""

    probe: Probe | None = None
    """The crash-test seam: called at each durable boundary."""

    def __init__(
        self,
        store: str | None = None,
        *,
        workflows: Sequence[AnyWorkflow | ModuleType] = (),
        codecs: Sequence[Codec[Any]] = (),
        require_recovered: bool = False,
        actor: str | None = None,
    ) -> None:
        self._settings = resolve({"store": store})
        self._registry = Registry(workflows, codecs)
        self._require_recovered = require_recovered
        self._actor = actor
        self._clock: Clock = SystemClock()
        self._ids: Ids = RandomIds()
        self._core: Core | None = None

    def _store(self) -> Store:
        return store_at(self._settings.store, durability=self._settings.durability, probe=self.probe)

    def _open(self) -> None:
        store = self._store()
        store.open(create=False)
        self._core = self._new_core(store)
        self._core.open_journal()

    def _new_core(self, store: Store) -> Core:
        return Core(
            store,
            self._registry,
            clock_of(store, self._clock),
            self._ids,
            actor=self._actor,
            require_recovered=self._require_recovered,
        )

    def _close(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.close()
            core.store.close()

    @property
    def core(self) -> Core:
        """What this facade is over. Raises ``InvalidArgument`` while it is not open."""
        if self._core is None:
            name = type(self).__name__
            raise InvalidArgument(f"this {name} is not open; use: with {name}(…) as client")
        return self._core

    def _health(self) -> dict[str, object]:
        core = self.core
        with core.store.reading() as reads:
            jobs = {str(state): n for state, n in reads.count_in_states().items()}
            engines = [e for e in reads.engines(limit=50) if e.state == "live"]
            owed = reads.count_running_of_dead()
            aside = len(reads.quarantine())
        return {
            **core.store.health(),
            "role": "client",
            "jobs": jobs,
            "engines": [{"engine_id": e.engine_id, "name": e.name, "gate": str(e.gate)} for e in engines],
            "recovery_owed": owed,
            "quarantined": aside,
        }


class Client(_Opened):
    """Submit, inspect and steer jobs. ``store``: a path, ``sqlite:///…``, else ``RELIGHT_STORE``, else ``relight.db``.

    ``workflows`` make their kinds and types known here; kinds that any engine registered in the store are known too.
    ``require_recovered=True`` refuses submits with ``RecoveryPending`` while runs of dead engines are not accounted for.
    ``actor`` is who acts when ``by=`` is not given (default: the user of this process).
    """

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._close()

    @overload
    def submit(self, wf: Call[R], /) -> Job[R]: ...
    @overload
    def submit(
        self,
        wf: str,
        /,
        *args: Any,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Job[Any]: ...
    @overload
    def submit(
        self,
        wf: Callable[[*Ts], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Job[R]: ...
    @overload
    def submit(
        self,
        wf: Callable[[*Ts], R],
        /,
        *args: *Ts,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> Job[R]: ...
    def submit(self, wf: Any, /, *args: Any, **options: Any) -> Job[Any]:  # type: ignore[misc]
        """Submit a job: when this returns, it is on disk.

        The same ``idempotency_key`` with the same arguments gives the same job (``created`` is False), also after it
        ended; with other arguments ``IdempotencyMismatch``. Keys count per kind and store. ``priority``: higher first.
        ``run_at`` is an aware time, ``delay_seconds`` counts by this machine's clock. ``deadline_seconds`` from now, then it
        ends as failed. Keyword arguments of the workflow go through ``workflow.bind(…)``.

        Raises ``GateClosed`` or ``RecoveryFailed`` (through an engine that is still recovering), ``KindUnknown``,
        ``NotSerializable``, ``PayloadTooLarge``, ``InvalidArgument``, ``StorageUnavailable``, ``Overloaded``.
        Events: ``job_accepted``, or ``job_deduplicated``.
        """
        refuse_on_any_loop(f"{type(self).__name__}.submit()", _INSTEAD)
        job_id, kind, created = self.core.submit(wf, args, options_of(options))
        return Job(self.core, job_id, kind, created=created)

    def submit_in(self, connection: Any, wf: Any, /, *args: Any, **options: Any) -> Job[Any]:
        """Submit a job within a transaction of your own: it is there exactly if that transaction commits.

        ``connection`` has that transaction open in the store's database: a ``psycopg.Connection``, or of SQLAlchemy a
        ``Connection`` or ``Session``; nothing is committed here. Arguments, options and errors are those of ``submit``;
        until the commit nobody else sees the job, and its handle knows nothing yet. A refused submit leaves the
        transaction as it was. Keep it short: who follows the log waits for it. PostgreSQL only (``ConfigError``).
        Needs the rights of an engine's role on the store's schema.
        """
        refuse_on_any_loop(f"{type(self).__name__}.submit_in()", _INSTEAD)
        core = self.core
        guest = core.store.guest()
        command = prepared(core, wf, args, options_of(options))
        done = guest.run(connection, submission(core, command))
        return Job(core, done[0], done[1], created=done[2])

    def submit_many(self, calls: Iterable[Call[R]], /) -> list[Job[R]]:
        """Submit many jobs, in as few transactions as they fit into; handles come in the order of the calls.

        Each call is accepted or refused for itself: when one raises, those before and after it may be stored.
        """
        refuse_on_any_loop(f"{type(self).__name__}.submit_many()", _INSTEAD)
        done = self.core.submit_commands([self.core.submit_command(call, (), NO_OPTIONS) for call in calls_of(calls)])
        return [Job(self.core, job_id, kind, created=created) for job_id, kind, created in done]

    @overload
    def job(self, id: str, /, *, type: type[T]) -> Job[T]: ...
    @overload
    def job(self, id: str, /) -> Job[Any]: ...
    @overload
    def job(self, /, *, kind: str, idempotency_key: str) -> Job[Any]: ...
    def job(
        self, id: str | None = None, /, *, type: Any = None, kind: str | None = None, idempotency_key: str | None = None
    ) -> Job[Any]:
        """Return a handle: by id without looking, or by kind and key. ``type`` is what its result is decoded as.

        Raises ``NotFound`` for a key that no job owns.
        """
        return Job(self.core, *_which(self.core, id, kind, idempotency_key), created=False, result_type=type)

    def jobs(
        self,
        *,
        kind: str | None = None,
        state: JobState | Sequence[JobState] | None = None,
        queue: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[JobInfo]:
        """Return jobs, newest first, at most ``limit`` (0: all); ``tags`` must all match."""
        return self.core.list_jobs(kind=kind, state=state, queue=queue, tags=tags, since=since, limit=limit)

    def complete(self, token: str, value: object = None) -> Delivery:
        """Complete what a job waits for from outside (``external``) with a value; also while no engine runs.

        A token takes one answer. One that comes late (second, after its time, after the job's end) changes nothing: the
        ``Delivery`` says so, and what was there first. Of several at once exactly one counts.

        Raises ``NotFound`` for a token that no job handed out, ``InvalidArgument`` for a value of another type than the
        job waits for (where that type is known here; else the job's ``wait`` raises), ``NotSerializable``,
        ``PayloadTooLarge``, ``StorageUnavailable``. Events: ``external_completed``.
        """
        refuse_on_any_loop(f"{type(self).__name__}.complete()", _INSTEAD)
        return self.core.complete(token, value)

    def fail(self, token: str, error: str) -> Delivery:
        """Say that what a job waits for failed: its ``wait`` raises ``StepFailed`` with this message.

        Late and unknown tokens as in ``complete``. Events: ``external_failed``.
        """
        refuse_on_any_loop(f"{type(self).__name__}.fail()", _INSTEAD)
        return self.core.fail_token(token, error)

    def heartbeat(self, token: str, note: str | None = None) -> Delivery:
        """Say that somebody is still at work on a token; ``why`` shows the note. Late and unknown ones as in ``complete``."""
        refuse_on_any_loop(f"{type(self).__name__}.heartbeat()", _INSTEAD)
        return self.core.heartbeat(token, note)

    def health(self) -> Mapping[str, object]:
        """Return how the store is: versions, jobs by state, live engines, what recovery still owes."""
        return self._health()


class AsyncClient(_Opened):
    """``Client`` for async code: the same methods, awaited. Nothing blocks the caller's loop."""

    async def __aenter__(self) -> Self:
        await in_thread(self._open)
        return self

    async def __aexit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        await in_thread(self._close)

    @overload
    async def submit(self, wf: Call[R], /) -> AsyncJob[R]: ...
    @overload
    async def submit(
        self,
        wf: str,
        /,
        *args: Any,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncJob[Any]: ...
    @overload
    async def submit(
        self,
        wf: Callable[[*Ts], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncJob[R]: ...
    @overload
    async def submit(
        self,
        wf: Callable[[*Ts], R],
        /,
        *args: *Ts,
        idempotency_key: str | None = None,
        queue: Queue | str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay_seconds: float | None = None,
        tags: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        on_stall: OnStall | None = None,
        max_stalls: int | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncJob[R]: ...
    async def submit(self, wf: Any, /, *args: Any, **options: Any) -> AsyncJob[Any]:  # type: ignore[misc]
        """Submit a job: when this returns, it is on disk. See ``Client.submit``."""
        job_id, kind, created = await in_thread(self.core.submit, wf, args, options_of(options))
        return AsyncJob(self.core, job_id, kind, created=created)

    async def submit_in(self, connection: Any, wf: Any, /, *args: Any, **options: Any) -> AsyncJob[Any]:
        """Submit a job within a transaction of your own: it is there exactly if that transaction commits.

        ``connection`` is a ``psycopg.AsyncConnection``, or of SQLAlchemy an ``AsyncConnection`` or ``AsyncSession``.
        See ``Client.submit_in``.
        """
        core = self.core
        guest = core.store.guest()
        command = await in_thread(prepared, core, wf, args, options_of(options))
        done = await guest.run_async(connection, submission(core, command))
        return AsyncJob(core, done[0], done[1], created=done[2])

    async def submit_many(self, calls: Iterable[Call[R]], /) -> list[AsyncJob[R]]:
        """Submit many jobs, in as few transactions as they fit into. See ``Client.submit_many``."""
        core = self.core
        commands = [core.submit_command(call, (), NO_OPTIONS) for call in calls_of(calls)]
        done = await in_thread(core.submit_commands, commands)
        return [AsyncJob(core, job_id, kind, created=created) for job_id, kind, created in done]

    @overload
    def job(self, id: str, /, *, type: type[T]) -> AsyncJob[T]: ...
    @overload
    def job(self, id: str, /) -> AsyncJob[Any]: ...
    @overload
    def job(self, /, *, kind: str, idempotency_key: str) -> AsyncJob[Any]: ...
    def job(
        self, id: str | None = None, /, *, type: Any = None, kind: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob[Any]:
        """Return a handle: by id without looking, or by kind and key. See ``Client.job``."""
        return AsyncJob(self.core, *_which(self.core, id, kind, idempotency_key), created=False, result_type=type)

    async def jobs(
        self,
        *,
        kind: str | None = None,
        state: JobState | Sequence[JobState] | None = None,
        queue: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[JobInfo]:
        """Return jobs, newest first, at most ``limit`` (0: all). See ``Client.jobs``."""
        return await in_thread(
            self.core.list_jobs, kind=kind, state=state, queue=queue, tags=tags, since=since, limit=limit
        )

    async def complete(self, token: str, value: object = None) -> Delivery:
        """Complete what a job waits for from outside. See ``Client.complete``."""
        return await in_thread(self.core.complete, token, value)

    async def fail(self, token: str, error: str) -> Delivery:
        """Say that what a job waits for failed. See ``Client.fail``."""
        return await in_thread(self.core.fail_token, token, error)

    async def heartbeat(self, token: str, note: str | None = None) -> Delivery:
        """Say that somebody is still at work on a token. See ``Client.heartbeat``."""
        return await in_thread(self.core.heartbeat, token, note)

    def health(self) -> Mapping[str, object]:
        """Return how the store is. See ``Client.health``."""
        return self._health()


_OPTION_NAMES = frozenset(SubmitOptions.__dataclass_fields__)


def options_of(given: Mapping[str, Any]) -> SubmitOptions:
    """Return the keyword arguments of a submit as options. Raises ``InvalidArgument``."""
    unknown = sorted(set(given) - _OPTION_NAMES)
    if unknown:
        raise InvalidArgument(
            f"submit has no option {', '.join(unknown)}. Options: {', '.join(sorted(_OPTION_NAMES))}; keyword arguments of the "
            "workflow go through workflow.bind(…)"
        )
    return SubmitOptions(**given)


def _which(core: Core, id: str | None, kind: str | None, idempotency_key: str | None) -> tuple[str, str | None]:
    if id is not None and kind is None and idempotency_key is None:
        return id, None
    if id is None and kind is not None and idempotency_key is not None:
        job = core.find_by_key(kind, idempotency_key)
        return job.job_id, job.kind
    raise InvalidArgument("job(id), or job(kind=…, idempotency_key=…)")
