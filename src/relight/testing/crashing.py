"""``crash_points``: play a scenario once for each durable boundary it reaches, crash there, restart, and check the promises.

The N-th pass plays the scenario on an empty store and lets the engine die at its N-th boundary, as ``corpse.py`` says; the
passes end when three in a row came to rest, and died there. Then a new engine starts on what was left, the scenario is called again (as a
caller does whose call never came back), and the test looks at what it wants. At the end of each pass the kernel's own
promises are checked: what was acknowledged is there (P1), no finished step ran again (P6), and ``relight verify`` finds
nothing (P2, P4, P5, P9, P10 …). Read next: ``corpse.py``.
"""

from __future__ import annotations

import inspect
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from relight.client.blocking import refuse_on_any_loop
from relight.client.core import Core
from relight.clock import SystemClock
from relight.core.commands.jobs import SubmitJob
from relight.core.commands.steps import FinishStep
from relight.core.flow import Invoke
from relight.engine.facade import Engine
from relight.engine.runner import Conductor
from relight.errors import InvalidArgument
from relight.ids import RandomIds, derived_uuid7
from relight.model import StepState
from relight.proof.lockfile import state_dir_for
from relight.recorder.verify import verify_store
from relight.store.reads import EventFilter, JobFilter
from relight.store.sqlite.store import SqliteStore
from relight.store.tickets import Ticket
from relight.testing.clock import ManualClock
from relight.testing.corpse import Bomb, bury, prepare
from relight.testing.draining import drain

AT_REST = "at_rest"
"""The boundary of a pass that reached no further one: the engine dies when nothing moves any more."""
SURE = 3
"""So many passes in a row come to rest before there is no further boundary: how commits are grouped differs a little from
pass to pass, by which thread was quicker, and so does how many boundaries there are."""
Scenario = Callable[[Engine], Any]
StepAt = tuple[str, str]
"""A job's id and a step's key."""


class CrashRun:
    """One pass: an engine that died at ``boundary``, the ``ordinal``-th (from 1) that the scenario reached.

    ``boundary`` names the place and what was being written there: ``before_commit (FinishStep)``.
    """

    def __init__(self, boundary: str, ordinal: int, restart: Callable[[dict[str, Any]], Engine]) -> None:
        self.boundary = boundary
        self.ordinal = ordinal
        self._restart = restart
        self._restarted = False

    def __repr__(self) -> str:
        return f"<crash {self.ordinal} at {self.boundary}>"

    def crash_then_restart(self, **engine_kwargs: Any) -> Engine:
        """Start another engine on what the crash left, call the scenario again, and return the engine, its gate open.

        Keyword arguments are ``Engine``'s, over those of ``crash_points``. Once a pass; the engine is drained, stopped and
        audited when the loop goes on.
        """
        if self._restarted:
            raise InvalidArgument(f"{self!r} was restarted already; a pass has one crash and one restart")
        self._restarted = True
        return self._restart(engine_kwargs)


def crash_points(scenario: Scenario, *, store: str, **engine_kwargs: Any) -> Iterator[CrashRun]:
    """Yield one pass for each durable boundary that the scenario reaches, crashed there.

    ``scenario`` gets a running engine and does what the world outside does: it submits, signals, answers. It is called
    again after each restart, so it says ``idempotency_key=`` where it signals (a repeated submit is the same job by itself).
    It need not wait: each pass goes on until nothing moves. ``store`` is a path at which nothing is yet; it is empty at the
    start of each pass, and gone at the end. Further keyword arguments are ``Engine``'s; ``clock`` is a skipping
    ``ManualClock`` and ``durability`` ``"process"`` unless given.

    The crash leaves what ``kill -9`` leaves: nothing more is written, no ``finally`` runs. Fakes of the outside world live
    on, as the world does. A boundary is where something is about to be, or has just been, on disk, and before each step; the last passes
    die at rest, when nothing moves.

    Raises ``AssertionError`` when a promise is broken, naming the boundary; ``InvalidArgument`` when something is at
    ``store``; ``WaitTimeout`` for user code that never comes to a stand, and for jobs that never come to rest.
    """
    return _checked(scenario, store, engine_kwargs, count(1), SURE)


def crash_at(scenario: Scenario, ordinals: Iterable[int], *, store: str, **engine_kwargs: Any) -> Iterator[CrashRun]:
    """As ``crash_points``, but crash only at these boundaries, counted from 1, until a pass comes to rest before its own.

    For suites of many scenarios, whose short form crashes each a few times. Not part of ``relight.testing``.
    """
    return _checked(scenario, store, engine_kwargs, ordinals, 1)


def _checked(
    scenario: Scenario, store: str, kwargs: dict[str, Any], ordinals: Iterable[int], sure: int
) -> Iterator[CrashRun]:
    refuse_on_any_loop("crash_points()", "Use it in a plain def test")
    if inspect.iscoroutinefunction(scenario):
        raise InvalidArgument("crash_points: the scenario is async; give it a plain function, which gets an Engine")
    files = _files_of(store)
    present = [path.name for path in files if path.exists()]
    if present:
        raise InvalidArgument(f"crash_points(store={store!r}): there is {present[0]} already. Name a path of its own")
    return _passes(scenario, store, files, {"durability": "process", **kwargs}, ordinals, sure)


def _passes(
    scenario: Scenario,
    store: str,
    files: Sequence[Path],
    kwargs: dict[str, Any],
    ordinals: Iterable[int],
    sure: int,
) -> Iterator[CrashRun]:
    same_ids = RandomIds().uuid7(SystemClock().now_ms())
    rests = 0
    for ordinal in ordinals:
        this = _Pass(scenario, store, {"clock": ManualClock(), **kwargs}, ordinal, same_ids)
        try:
            boundary = this.play()
            rests = rests + 1 if boundary == AT_REST else 0
            run = CrashRun(boundary, ordinal, this.restart)
            yield run
            if not run._restarted:
                run.crash_then_restart()
            this.finish()
        finally:
            this.stop()
            _remove(files)
        if rests == sure:
            return


def _files_of(store: str) -> list[Path]:
    path = Path(store)
    return [path, *(Path(f"{path}{end}") for end in ("-wal", "-shm", "-journal")), state_dir_for(path)]


def _remove(files: Sequence[Path]) -> None:
    for path in files:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@dataclass
class _Told:
    """What an engine told its callers before it died, and what it called after its start."""

    jobs: set[str] = field(default_factory=set)
    finished: set[StepAt] = field(default_factory=set)
    called: list[StepAt] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """What the store held when the engine had died."""

    jobs: frozenset[str]
    finished: frozenset[StepAt]
    seq: int


class _Pass:
    """One pass of a scenario: played until it crashes, restarted, and audited."""

    def __init__(self, scenario: Scenario, store: str, kwargs: dict[str, Any], ordinal: int, same_ids: str) -> None:
        self._scenario = scenario
        self._path = store
        self._kwargs = kwargs
        self._ordinal = ordinal
        self._same_ids = same_ids
        self._engine: Engine | None = None
        self._boundary = ""
        self._found: _Found | None = None
        self._told = _Told()

    # the two engines

    def play(self) -> str:
        """Play the scenario until its engine dies, at rest at the latest; return where."""
        bomb = Bomb(self._ordinal)
        self._told = _Told()
        engine = self._start(self._kwargs, bomb)
        prepare(engine, bomb)
        over = threading.Event()
        raised: list[BaseException] = []

        def outside() -> None:
            try:
                bomb.arm()
                self._scenario(engine)
                drain(engine)
            except BaseException as error:  # boundary: raised again where the test is, unless its engine is dead
                raised.append(error)
            finally:
                over.set()

        bomb.gone_off = over.set
        threading.Thread(target=outside, name="relight-scenario", daemon=True).start()
        over.wait()
        if raised and bomb.disarm() is None:
            raise raised[0]
        self._boundary = bomb.set_off(AT_REST)
        bury(engine, bomb)
        self._engine = None
        self._found = self._look()
        self._check_acknowledged(self._found)
        return self._boundary

    def restart(self, kwargs: dict[str, Any]) -> Engine:
        """Start another engine, and call the scenario again."""
        self._told = _Told()
        engine = self._start({**self._kwargs, **kwargs}, None)
        self._scenario(engine)
        return engine

    def _start(self, kwargs: dict[str, Any], bomb: Bomb | None) -> Engine:
        engine = self._engine = Engine(self._path, **kwargs)
        engine.probe = bomb
        told, counted = self._told, bomb or Bomb(0)

        class Noting(Conductor):
            """Notes which steps are called, and how many run on the loop."""

            def _function(self, request: Invoke) -> Callable[..., Any]:
                if not request.reconcile:
                    told.called.append((self.ref.job_id, request.call.key))
                return super()._function(request)

            async def _call_async(self, request: Invoke, function: Callable[..., Any]) -> Any:
                counted.on_loop += 1
                try:
                    return await super()._call_async(request, function)
                finally:
                    counted.on_loop -= 1

        engine.conductor = Noting
        engine.start()
        engine._wait_for_gate()
        _repeatable(engine.core, self._same_ids, told)
        _note_finished(engine, told)
        return engine

    def stop(self) -> None:
        """Stop the engine that lives."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop(drain_seconds=5)

    # the promises

    def finish(self) -> None:
        """Let everything come to rest, and check what was promised."""
        if self._engine is not None and self._engine._engine is not None:
            drain(self._engine)
        self.stop()
        self.audit()

    def _look(self) -> _Found:
        store = SqliteStore(self._path)
        store.open(create=False)
        try:
            with store.reading(snapshot=True) as reads:
                jobs = [job.job_id for job in reads.jobs(JobFilter(limit=0))]
                steps = [step for job_id in jobs for step in reads.steps(job_id)]
                finished = {(s.job_id, s.step_key) for s in steps if s.state is StepState.COMPLETED}
                return _Found(frozenset(jobs), frozenset(finished), reads.last_seq())
        finally:
            store.close()

    def _check_acknowledged(self, found: _Found) -> None:
        for job_id in sorted(self._told.jobs - found.jobs):
            self._broken(f"P1: submit had returned job {job_id}, and it is not in the store")
        for job_id, key in sorted(self._told.finished - found.finished):
            self._broken(f"P1: {key} of job {job_id} had been told to be recorded, and it is not in the store")

    def audit(self) -> None:
        """Raise ``AssertionError`` for a promise that was broken."""
        if self._found is not None:
            self._check_acknowledged(self._look())
            again = self._found.finished.intersection(self._told.called) | self._begun_again(self._found)
            for job_id, key in sorted(again):
                self._broken(f"P6: {key} of job {job_id} was finished before the crash, and ran again")
        report = verify_store(self._path)
        if not report.ok:
            self._broken("; ".join(map(str, report.findings)))

    def _begun_again(self, found: _Found) -> set[StepAt]:
        store = SqliteStore(self._path)
        store.open(create=False)
        try:
            with store.reading() as reads:
                events = reads.events(EventFilter(types=("step_began",), after=found.seq, limit=0))
        finally:
            store.close()
        return {(e.job_id or "", e.step_key or "") for e in events} & found.finished

    def _broken(self, what: str) -> None:
        raise AssertionError(f"crash {self._ordinal} at {self._boundary}: {what}")


def _repeatable(core: Core, same_ids: str, told: _Told) -> None:
    """Give each submit of a scenario the id it has whenever the scenario is called, and note what was acknowledged."""
    command_of, submit = core.submit_command, core.submit_commands
    numbers = iter(range(1 << 30))

    def submit_command(*args: Any) -> SubmitJob:
        job_id = derived_uuid7(same_ids, str(next(numbers)))
        return msgspec.structs.replace(command_of(*args), job_id=job_id)

    def submit_commands(commands: Sequence[SubmitJob]) -> list[tuple[str, str, bool]]:
        with core.store.reading() as reads:
            known = {job.job_id for job in reads.job_heads([c.job_id for c in commands])}
        fresh = iter(submit([c for c in commands if c.job_id not in known]))
        done = [(c.job_id, c.kind, False) if c.job_id in known else next(fresh) for c in commands]
        told.jobs.update(job_id for job_id, _, _ in done)
        return done

    core.submit_command = submit_command  # type: ignore[method-assign,assignment]
    core.submit_commands = submit_commands  # type: ignore[method-assign]


def _note_finished(engine: Engine, told: _Told) -> None:
    """Note which outcomes of steps the journal says are recorded."""
    journal = engine._alive().journal
    finish = journal._finish

    def noting(part: list[Ticket], error: BaseException | None) -> None:
        commands = [ticket.command for ticket in part if error is None]
        told.finished.update((c.job.job_id, c.step_key) for c in commands if isinstance(c, FinishStep))
        finish(part, error)

    journal._finish = noting  # type: ignore[method-assign]
