"""``run_inline``: run one workflow to its end, in this call, on the real kernel.

An engine of its own on a store of its own in a temporary folder: the same journal, flow and runner as in production, with
a clock that skips the time in which everything waits. The job and its signals are there before the engine starts. Then
this thread looks each time the engine is at rest: give what is asked for; else let the next moment come; else nobody ever
will, which is said. Read next: ``resting.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, TypeVarTuple, overload

import msgspec

from relight.authoring.registry import as_call
from relight.authoring.resource import Resource
from relight.authoring.workflows import NO_OPTIONS, Call
from relight.client.blocking import refuse_on_any_loop
from relight.client.core import Core
from relight.client.handles import Job
from relight.engine.facade import Engine
from relight.errors import InvalidArgument, WaitTimeout
from relight.model import FINAL_STATES, DecisionRecord, JobRecord, JobState, StepKind, StepState
from relight.settings import resolve
from relight.store.reads import JobFilter
from relight.testing.clock import ManualClock
from relight.testing.resting import Resting

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

WHO = "run_inline"
"""Who sends signals and gives answers, for the record."""
KEPT_SECONDS = 86_400
"""Waits stay in memory as long as may be: no replay, unless a wait is known to be longer than this."""
_LIVE = tuple(state for state in JobState if state not in FINAL_STATES)


@overload
def run_inline(
    call: Call[R],
    /,
    *,
    replace: Mapping[Any, Callable[..., Any]] | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
    signals: Mapping[str, object] | None = None,
    answers: Mapping[str, str] | None = None,
    clock: ManualClock | None = None,
) -> R: ...
@overload
def run_inline(
    wf: Callable[[*Ts], Coroutine[Any, Any, R]],
    /,
    *args: *Ts,
    replace: Mapping[Any, Callable[..., Any]] | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
    signals: Mapping[str, object] | None = None,
    answers: Mapping[str, str] | None = None,
    clock: ManualClock | None = None,
) -> R: ...
@overload
def run_inline(
    wf: Callable[[*Ts], R],
    /,
    *args: *Ts,
    replace: Mapping[Any, Callable[..., Any]] | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
    signals: Mapping[str, object] | None = None,
    answers: Mapping[str, str] | None = None,
    clock: ManualClock | None = None,
) -> R: ...
def run_inline(  # type: ignore[misc]
    wf: Any,
    /,
    *args: Any,
    replace: Mapping[Any, Callable[..., Any]] | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
    signals: Mapping[str, object] | None = None,
    answers: Mapping[str, str] | None = None,
    clock: ManualClock | None = None,
) -> Any:
    """Run a workflow (or a ``bind`` of one) to its end and return its result, skipping the time in which it waits.

    ``replace`` maps steps to fakes, ``resources`` resources to what stands in for them. ``signals`` maps names to what is
    sent: once to the job, before it begins, and once to each child that waits for it; an iterator gives one payload to
    each wait instead. ``answers`` maps the text of questions to the choice, given each time it is asked. A wait with a time
    limit that nobody ends runs into its limit. ``clock`` is a new ``ManualClock()`` unless given. Nothing is left behind.

    Children that the workflow starts run too; those still running at its end are dropped. For keyword arguments use
    ``wf.bind(…)``.

    Raises what ``Job.result`` raises (``JobFailed`` …), ``WaitTimeout`` for a wait that can never end, naming it, and
    ``BlockingCall`` on an event loop. Cost: some 50 ms.
    """
    refuse_on_any_loop("run_inline()", "In an async test: await asyncio.to_thread(run_inline, …)")
    call = as_call(wf, args, NO_OPTIONS)
    given = _Given(signals or {}, answers or {})
    with scratch_engine(call, clock or ManualClock(), replace=replace, resources=resources) as engine:
        core = engine._new_core(engine._store())
        core.store.open(create=True)
        try:
            core.open_journal()
            job_id, kind, _ = core.submit(call, (), NO_OPTIONS)
            given.before(core, job_id)
        finally:
            core.close()
            core.store.close()
        engine.start()
        return _Driven(engine, Job(engine.core, job_id, kind, created=True), given).result()


@contextmanager
def scratch_engine(
    call: Call[Any],
    clock: ManualClock,
    *,
    replace: Mapping[Any, Callable[..., Any]] | None = None,
    resources: Mapping[Resource[Any], object] | None = None,
) -> Iterator[Engine]:
    """Make an engine, not started yet, on a store that is gone afterwards. The environment's settings are not for it."""
    with TemporaryDirectory(prefix="relight-inline-", ignore_cleanup_errors=True) as folder:
        engine = Engine(workflows=[call.workflow], replace=replace, resources=resources, clock=clock)  # type: ignore[list-item]
        engine._registry.takes_children = True
        said = {
            "store": str(Path(folder) / "inline.db"),
            "durability": "process",
            "suspend_after_seconds": KEPT_SECONDS,
            "name": "inline",
        }
        engine._settings = resolve(said, {})
        try:
            yield engine
        finally:
            engine.stop(drain_seconds=0)


class _Given:
    """What the world outside has for the job: signals and answers."""

    def __init__(self, signals: Mapping[str, object], answers: Mapping[str, str]) -> None:
        for what, mapping in (("signals", signals), ("answers", answers)):
            if not isinstance(mapping, Mapping):
                raise InvalidArgument(f"{what}={mapping!r}: a mapping")
        self.signals = dict(signals)
        self.answers = dict(answers)
        self._sent: set[tuple[str, str]] = set()

    def before(self, core: Core, job_id: str) -> None:
        """Send the job its signals before it begins."""
        for name, payload in self.signals.items():
            if not isinstance(payload, Iterator):
                self._send(core, job_id, name, payload)

    def _send(self, core: Core, job_id: str, name: str, payload: object) -> None:
        self._sent.add((job_id, name))
        core.signal(job_id, name, payload, by=WHO, idempotency_key=None)

    def signal_for(self, core: Core, job_id: str, name: str) -> bool:
        """Send what a wait is for; tell whether there was anything to send."""
        payload = self.signals.get(name)
        if isinstance(payload, Iterator):
            try:
                self._send(core, job_id, name, next(payload))
            except StopIteration:
                return False
            return True
        if name not in self.signals or (job_id, name) in self._sent:
            return False
        self._send(core, job_id, name, payload)
        return True

    def answer(self, core: Core, row: DecisionRecord) -> bool:
        """Answer a question; tell whether there was an answer."""
        choice = self.answers.get(row.question)
        if choice is None:
            return False
        core.answer(row.job_id, choice, decision_id=row.decision_id, note=None, by=WHO)
        return True


class _Driven:
    """One job, driven to its end."""

    def __init__(self, engine: Engine, job: Job[Any], given: _Given) -> None:
        self._engine = engine
        self._core = engine.core
        self._job = job
        self._given = given

    def result(self) -> Any:
        inside = self._engine._alive()
        clock = inside.clock
        assert isinstance(clock, ManualClock)
        with Resting(inside) as resting:
            tell = inside._on_ended

            def ended(job_id: Any) -> None:
                tell(job_id)
                resting.wake()

            inside._on_ended = ended
            while (row := self._core.find(self._job.id)).state not in FINAL_STATES:
                rest = resting.fresh(None)
                if rest is None or self._give():
                    continue
                if rest.moves is None:
                    raise self._never()
                if clock.skip:
                    clock.jump_to(rest.moves)
            return self._job._read_result(row)

    def _open_jobs(self) -> list[JobRecord]:
        with self._core.store.reading() as reads:
            return reads.jobs(JobFilter(states=_LIVE, limit=0))

    def _waits(self) -> Iterator[tuple[JobRecord, str]]:
        for job in self._open_jobs():
            with self._core.store.reading() as reads:
                steps = reads.steps(job.job_id)
            for step in steps:
                if step.kind is StepKind.SIGNAL and step.state is StepState.WAITING:
                    yield job, step.waits_for or ""

    def _questions(self) -> Iterator[DecisionRecord]:
        for job in self._open_jobs():
            yield from (row for row in self._core._decisions(job.job_id) if row.state == "open")

    def _give(self) -> bool:
        """Give what is asked for; tell whether anything was given."""
        sent = [self._given.signal_for(self._core, job.job_id, name) for job, name in self._waits()]
        answered = [self._given.answer(self._core, row) for row in self._questions()]
        return any((*sent, *answered))

    def _never(self) -> WaitTimeout:
        """Say what can never end, and what would end it."""
        summary = self._core.why(self._job.id).summary
        hints = []
        for _, name in self._waits():
            given = ", ".join(self._given.signals) or "none"
            hints.append(f'signals={{"{name}": …}} (given: {given}; each is sent once, an iterator once for each wait)')
        for row in self._questions():
            options = " | ".join(msgspec.json.decode(row.options))
            given = ", ".join(map(repr, self._given.answers)) or "none"
            hints.append(f"answers={{{row.question!r}: {options!r}}} (given: {given})")
        hint = f". Give {' and '.join(hints)}" if hints else ""
        return WaitTimeout(
            f"run_inline: this can never end, because nobody outside will act: {summary.rstrip('.')}{hint}",
            summary=summary,
            job_id=self._job.id,
        )
