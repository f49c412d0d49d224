"""Cells: jobs spread over several stores that know nothing of each other, through one client.

A cell is a store with engines of its own. A job lives in one cell for ever: its steps, signals, timers and children are there,
so nothing ever spans two cells, and one that is down stops only its own jobs. Where a *new* job goes is decided here, by
rendezvous hashing of its cell key: each cell's name and the key are hashed together, and the highest hash wins. So each client
with the same names decides the same, and of the keys a cell that is added takes its own share and moves no other.

Where a job *is* never depends on the hash: ids, keys and tokens are looked up in all cells. Must not write anything by itself.
Not part of ``relight``'s front door: ``from relight.cells import Cells``. Read next: ``client/client.py``.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from relight.authoring.registry import as_call, check_text
from relight.authoring.workflows import AnyWorkflow, Call, SubmitOptions
from relight.client.blocking import in_thread, refuse_on_any_loop
from relight.client.client import Client, options_of
from relight.client.core import Core
from relight.client.handles import AsyncJob, Job
from relight.client.submitting import calls_of
from relight.codec import Codec
from relight.errors import ConfigError, InvalidArgument, NotFound, StorageUnavailable
from relight.model import Delivery, JobInfo, JobState
from relight.store.open import store_at

R = TypeVar("R")
T = TypeVar("T")
_INSTEAD = "Here use AsyncCells"
CellKey = str | Callable[[Call[Any]], str | None] | None
_Submitted = tuple[Core, str, str, bool]
"""Where a job is, its id, its kind, and whether it is new."""


class _Cell:
    """One cell, connected at its first use and, when that failed, at the next."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self._client = client
        self._opened = False
        self._lock = threading.Lock()

    def core(self) -> Core:
        """Return what acts on its store. Raises ``StorageUnavailable`` while that cannot be reached."""
        with self._lock:
            if not self._opened:
                self._client.__enter__()
                self._opened = True
            return self._client.core

    def health(self) -> Mapping[str, object]:
        """Return how its store is, or why that cannot be said."""
        try:
            self.core()
            return self._client.health()
        except StorageUnavailable as error:
            return {"error": str(error)}

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._opened:
                self._opened = False
                self._client.__exit__(None, None, None)

    def weight(self, cell_key: str) -> bytes:
        """Return what a key weighs here."""
        return hashlib.sha256(f"{self.name}\0{cell_key}".encode()).digest()


class _Cells:
    """What both colours share; a constructor does no I/O."""

    def __init__(
        self,
        stores: Sequence[str] | Mapping[str, str],
        *,
        workflows: Sequence[AnyWorkflow | ModuleType] = (),
        codecs: Sequence[Codec[Any]] = (),
        actor: str | None = None,
        fixed: bool = False,
    ) -> None:
        if isinstance(stores, str) or not stores:
            raise ConfigError("Cells takes several stores: [address, …] or {name: address, …}")
        named = stores if isinstance(stores, Mapping) else {store_at(each).place: each for each in stores}
        if len(named) != len(stores):
            raise ConfigError("two cells have the same store; each store is one cell", cells=sorted(named))
        self._cells = tuple(
            _Cell(name, Client(address, workflows=workflows, codecs=codecs, actor=actor))
            for name, address in named.items()
        )
        self._fixed = fixed
        self._threads: ThreadPoolExecutor | None = None

    @property
    def names(self) -> list[str]:
        """The cells' names, as they were given."""
        return [cell.name for cell in self._cells]

    def cell_of(self, cell_key: str) -> str:
        """Return the name of the cell where new jobs with this key go. Asks nobody."""
        return self._cell_for(cell_key).name

    def _open(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=4 * len(self._cells), thread_name_prefix="relight-cells")

    def _close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        for cell in self._cells:
            cell.close()

    def _cell_for(self, cell_key: str | None) -> _Cell:
        key = check_text(cell_key, "cell_key", 1000) or secrets.token_hex(16)
        return max(self._cells, key=lambda cell: cell.weight(key))

    # asking all of them

    def _ask(self, do: Callable[[_Cell], T]) -> tuple[list[T], list[StorageUnavailable]]:
        """Do something in all cells at once; return what each gave, and the errors of those that are down."""
        if self._threads is None:
            name = type(self).__name__
            raise InvalidArgument(f"this {name} is not open; use: with {name}([…]) as cells")

        def one(cell: _Cell) -> T | StorageUnavailable:
            try:
                return do(cell)
            except StorageUnavailable as error:
                return error

        told = list(self._threads.map(one, self._cells))
        down = [each for each in told if isinstance(each, StorageUnavailable)]
        return [each for each in told if not isinstance(each, StorageUnavailable)], down

    def _first(self, do: Callable[[Core], T], missing: str) -> tuple[Core, T]:
        """Return what the cell says that knows it. Raises ``NotFound``; ``StorageUnavailable`` where that is not certain."""

        def here(cell: _Cell) -> tuple[Core, T] | None:
            try:
                return cell.core(), do(cell.core())
            except NotFound:
                return None

        found, down = self._ask(here)
        for each in found:
            if each is not None:
                return each
        if down:
            raise self._unavailable(f"{missing} in the cells that answer", down)
        raise NotFound(f"{missing} in {', '.join(self.names)}")

    def _unavailable(self, what: str, down: Sequence[StorageUnavailable]) -> StorageUnavailable:
        count = f"{len(down)} of {len(self._cells)} cells do not answer"
        return StorageUnavailable(f"{what}; {count}: {'; '.join(map(str, down))}")

    # what the facades do

    def _submit(self, what: Any, args: Sequence[Any], cell_key: str | None, options: SubmitOptions) -> _Submitted:
        if isinstance(what, str):
            kind, key = what, options.idempotency_key
        else:
            call = as_call(what, args, options)
            kind, key = call.workflow.kind, call.submit_options.idempotency_key
        [home] = self._homes([(kind, key, cell_key)])
        return (home.core(), *home.core().submit(what, args, options))

    def _submit_many(self, calls: Sequence[Call[Any]], cell_key: CellKey) -> list[_Submitted]:
        keys = [cell_key(call) if callable(cell_key) else cell_key for call in calls]
        homes = self._homes(
            [(c.workflow.kind, c.submit_options.idempotency_key, key) for c, key in zip(calls, keys, strict=True)]
        )

        def of(cell: _Cell) -> list[tuple[int, _Submitted]]:
            mine = [n for n, home in enumerate(homes) if home is cell]
            if not mine:
                return []
            core = cell.core()
            done = core.submit_commands([core.submit_command(calls[n], (), SubmitOptions()) for n in mine])
            return [(n, (core, *each)) for n, each in zip(mine, done, strict=True)]

        found, down = self._ask(of)
        done = dict(each for some in found for each in some)
        if len(done) < len(calls):
            raise self._unavailable(f"{len(done)} of {len(calls)} jobs were surely stored", down)
        return [done[n] for n in range(len(calls))]

    def _homes(self, wanted: Sequence[tuple[str, str | None, str | None]]) -> list[_Cell]:
        """Return where jobs are to go, by kind, key and cell key: where the key is already, else where the hash says."""
        keys: dict[str, list[str]] = {}
        for kind, key, _ in wanted:
            if key is not None and not self._fixed:
                keys.setdefault(kind, []).append(key)

        def owners(cell: _Cell) -> dict[tuple[str, str | None], _Cell]:
            with cell.core().store.reading() as reads:
                jobs = [job for kind, some in keys.items() for job in reads.jobs_by_keys(kind, some)]
            return {(job.kind, job.idempotency_key): cell for job in jobs}

        found, down = self._ask(owners) if keys else ([], [])
        owned = {of: cell for some in found for of, cell in some.items()}
        new = {(kind, key) for kind, some in keys.items() for key in some} - owned.keys()
        if down and new:
            known = (
                "whether a new job's idempotency key is used in them is not known (fixed=True asks its own cell alone)"
            )
            raise self._unavailable(known, down)
        return [
            owned.get((kind, key)) or self._cell_for(cell_key if cell_key is not None else key)
            for kind, key, cell_key in wanted
        ]

    def _find(self, id: str | None, kind: str | None, idempotency_key: str | None) -> tuple[Core, str, str]:
        if id is not None and kind is None and idempotency_key is None:
            core, job = self._first(lambda each: each.find(id), f"there is no job {id!r:.100}")
        elif id is None and kind is not None and idempotency_key is not None:
            core, job = self._first(
                lambda each: each.find_by_key(kind, idempotency_key), f'no {kind} has the key "{idempotency_key}"'
            )
        else:
            raise InvalidArgument("job(id), or job(kind=…, idempotency_key=…)")
        return core, job.job_id, job.kind

    def _jobs(self, partial: bool, limit: int, wanted: Mapping[str, Any]) -> list[JobInfo]:
        found, down = self._ask(lambda cell: cell.core().list_jobs(limit=limit, **wanted))
        if down and not partial:
            raise self._unavailable("not all jobs can be listed (partial=True lists those of the others)", down)
        jobs = sorted((job for some in found for job in some), key=lambda job: job.id, reverse=True)
        return jobs[:limit] if limit else jobs

    def _deliver(self, do: Callable[[Core], Delivery]) -> Delivery:
        return self._first(do, "no job handed out this token")[1]

    def _health(self) -> dict[str, Mapping[str, object]]:
        found, _ = self._ask(_Cell.health)
        return dict(zip(self.names, found, strict=True))


class Cells(_Cells):
    """Submit, inspect and steer jobs in several stores. ``stores``: addresses, or names and addresses.

    The names decide where new jobs go, so they have to stay; an address alone is its own name. Names of one's own let a cell
    move to another host. ``workflows``, ``codecs`` and ``actor`` are as in ``Client``. A cell that is down is told by
    ``StorageUnavailable`` where it is needed, and connected again when it is needed next.

    A key (``idempotency_key``) counts in all cells: before a job with a new one is stored, all of them are asked, and all
    have to answer. ``fixed=True`` asks only the cell where the job goes, and so does not wait for the others: for cells of
    which none was ever added, and keys that always come with the same ``cell_key``.
    """

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect from all cells. Idempotent."""
        self._close()

    def submit(self, wf: Any, /, *args: Any, cell_key: str | None = None, **options: Any) -> Job[Any]:
        """Submit a job to the cell of its key: ``cell_key``, else its ``idempotency_key``, else a random one.

        Everything else is as in ``Client.submit``; a call of ``bind`` is taken, too. Raises ``StorageUnavailable`` when that
        cell is down, or one that has to be asked for the key.
        """
        refuse_on_any_loop("Cells.submit()", _INSTEAD)
        core, job_id, kind, created = self._submit(wf, args, cell_key, options_of(options))
        return Job(core, job_id, kind, created=created)

    def submit_many(self, calls: Iterable[Call[R]], /, *, cell_key: CellKey = None) -> list[Job[R]]:
        """Submit many jobs, each cell's in as few transactions as they fit into; handles come in the order of the calls.

        ``cell_key`` is one for all of them, or a function of the call. When it raises, some may be stored, those of cells
        that are down are not.
        """
        refuse_on_any_loop("Cells.submit_many()", _INSTEAD)
        done = self._submit_many(calls_of(calls), cell_key)
        return [Job(core, job_id, kind, created=created) for core, job_id, kind, created in done]

    def job(
        self, id: str | None = None, /, *, type: Any = None, kind: str | None = None, idempotency_key: str | None = None
    ) -> Job[Any]:
        """Find a job, by id or by kind and key, in whatever cell it is. See ``Client.job``.

        Raises ``NotFound`` when no cell has it, ``StorageUnavailable`` when one that is down may have it.
        """
        core, job_id, found_kind = self._find(id, kind, idempotency_key)
        return Job(core, job_id, found_kind, created=False, result_type=type)

    def jobs(
        self,
        *,
        kind: str | None = None,
        state: JobState | Sequence[JobState] | None = None,
        queue: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
        partial: bool = False,
    ) -> list[JobInfo]:
        """Return jobs of all cells, newest first, at most ``limit`` (0: all). ``partial`` leaves out cells that are down."""
        wanted = {"kind": kind, "state": state, "queue": queue, "tags": tags, "since": since}
        return self._jobs(partial, limit, wanted)

    def complete(self, token: str, value: object = None) -> Delivery:
        """Complete what some job waits for, in whatever cell it is. See ``Client.complete``."""
        return self._deliver(lambda core: core.complete(token, value))

    def fail(self, token: str, error: str) -> Delivery:
        """Say that what some job waits for failed. See ``Client.fail``."""
        return self._deliver(lambda core: core.fail_token(token, error))

    def health(self) -> dict[str, Mapping[str, object]]:
        """Return each cell's health by name; of one that is down ``{"error": …}``."""
        return self._health()


class AsyncCells(_Cells):
    """``Cells`` for async code: the same methods, awaited."""

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect from all cells. Idempotent."""
        await in_thread(self._close)

    async def submit(self, wf: Any, /, *args: Any, cell_key: str | None = None, **options: Any) -> AsyncJob[Any]:
        """Submit a job to the cell of its key. See ``Cells.submit``."""
        core, job_id, kind, created = await in_thread(self._submit, wf, args, cell_key, options_of(options))
        return AsyncJob(core, job_id, kind, created=created)

    async def submit_many(self, calls: Iterable[Call[R]], /, *, cell_key: CellKey = None) -> list[AsyncJob[R]]:
        """Submit many jobs. See ``Cells.submit_many``."""
        done = await in_thread(self._submit_many, calls_of(calls), cell_key)
        return [AsyncJob(core, job_id, kind, created=created) for core, job_id, kind, created in done]

    async def job(
        self, id: str | None = None, /, *, type: Any = None, kind: str | None = None, idempotency_key: str | None = None
    ) -> AsyncJob[Any]:
        """Find a job in whatever cell it is. See ``Cells.job``."""
        core, job_id, found_kind = await in_thread(self._find, id, kind, idempotency_key)
        return AsyncJob(core, job_id, found_kind, created=False, result_type=type)

    async def jobs(
        self,
        *,
        kind: str | None = None,
        state: JobState | Sequence[JobState] | None = None,
        queue: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: datetime | None = None,
        limit: int = 100,
        partial: bool = False,
    ) -> list[JobInfo]:
        """Return jobs of all cells, newest first. See ``Cells.jobs``."""
        wanted = {"kind": kind, "state": state, "queue": queue, "tags": tags, "since": since}
        return await in_thread(self._jobs, partial, limit, wanted)

    async def complete(self, token: str, value: object = None) -> Delivery:
        """Complete what some job waits for. See ``Cells.complete``."""
        return await in_thread(self._deliver, lambda core: core.complete(token, value))

    async def fail(self, token: str, error: str) -> Delivery:
        """Say that what some job waits for failed. See ``Cells.fail``."""
        return await in_thread(self._deliver, lambda core: core.fail_token(token, error))

    async def health(self) -> dict[str, Mapping[str, object]]:
        """Return each cell's health by name. See ``Cells.health``."""
        return await in_thread(self._health)
