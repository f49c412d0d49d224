"""What a scenario is: a workflow, its arguments, and what the world outside does meanwhile, as data.

An act waits for its moment (a wait recorded, a question open, the job put away), does one thing, and does nothing when
that thing was done already: a script is played again after a crash, as callers do whose call never came back. Scripts do
not skip time; whoever plays one drains the engine afterwards, and then everything that only waits for time comes due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from relight import Engine, Job
from relight.errors import Conflict
from relight.ids import short
from relight.model import FINAL_STATES, DecisionRecord, JobRecord, JobState, StepKind, StepRecord, StepState
from relight.store.reads import EventFilter, JobFilter
from relight.testing import ManualClock, SimulatedCrash, drain

PATIENCE_SECONDS = 20.0


class World:
    """The world outside of the engine: it lives on when an engine dies, and is new for each play of a scenario."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.code = 1
        """Which version of the code is deployed: workflows of ``versions.py`` read it where a deploy would change them."""
        self.books: dict[str, Any] = {}
        """What happened outside, by idempotency key."""
        self.calls: list[str] = []

    def renew(self, engine: Engine) -> None:
        """Begin anew."""
        self.__init__()  # type: ignore[misc]
        self.engine = engine


WORLD = World()


class Stage:
    """A play of a scenario: the engine, the job, and how to look at them."""

    def __init__(self, engine: Engine, job: Job[Any]) -> None:
        self.engine = engine
        self.job = job

    def record(self) -> JobRecord:
        """Return the job's row."""
        return self.engine.core.find(self.job.id)

    def steps(self, job_id: str | None = None) -> dict[str, StepRecord]:
        """Return its steps' rows by key."""
        with self.engine.core.store.reading() as reads:
            return {step.step_key: step for step in reads.steps(job_id or self.job.id)}

    def questions(self) -> list[DecisionRecord]:
        """Return its questions, oldest first."""
        with self.engine.core.store.reading() as reads:
            return reads.decisions(self.job.id)

    def count(self, event_type: str) -> int:
        """Count its events of a kind."""
        with self.engine.core.store.reading() as reads:
            return len(reads.events(EventFilter(job_id=self.job.id, types=(event_type,), limit=0)))

    def children(self) -> dict[str, JobRecord]:
        """Return its children's rows by the key that started them."""
        with self.engine.core.store.reading() as reads:
            jobs = reads.jobs(JobFilter(limit=0))
        return {job.parent_step_key or "": job for job in jobs if job.parent_job_id == self.job.id}

    def ended(self) -> bool:
        """Tell whether the job has ended."""
        return self.record().state in FINAL_STATES

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """Look until what is found is true, and return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := look()):
            if time.monotonic() > deadline:
                raise AssertionError(f"never came: {what}. {self.job.why().summary}")
            threading.Event().wait(0.001)
        return found


@dataclass(frozen=True)
class Act:
    """Something that somebody outside does."""

    def do(self, stage: Stage, number: int) -> None:
        """Wait for its moment and do it, unless it was done. ``number`` is its place in the script."""
        raise NotImplementedError


def _child_key(stage: Stage) -> str:
    """Return how the key of a wait for the only child names it."""
    return next((short(child.job_id) for child in stage.children().values()), "-")


@dataclass(frozen=True)
class Waits(Act):
    """Nobody does anything before a wait is recorded, and the job put away (unless ``running``).

    ``CHILD`` in a key is the only child. With ``child`` it is a wait of the child that this key started.
    """

    key: str
    running: bool = False
    child: str | None = None

    def do(self, stage: Stage, number: int) -> None:
        stage.until(lambda: self._there(stage), f"the wait {self.key}")

    def _there(self, stage: Stage) -> bool:
        job_id: str | None = stage.job.id
        if self.child is not None:
            job_id = next((child.job_id for key, child in stage.children().items() if key == self.child), None)
        if job_id is None:
            return stage.ended()
        row = stage.steps(job_id).get(self.key.replace("CHILD", _child_key(stage)))
        state = stage.engine.core.find(job_id).state  # after the step: a job that waits has begun
        if row is None or row.state is StepState.RUNNING:
            return state in FINAL_STATES
        pending = row.state in (StepState.WAITING, StepState.BACKOFF)
        return not pending or self.running or state is not JobState.RUNNING


@dataclass(frozen=True)
class Reaches(Act):
    """Nobody does anything before the job is in one of some states (or has ended)."""

    states: tuple[JobState, ...]

    def do(self, stage: Stage, number: int) -> None:
        stage.until(lambda: stage.record().state in self.states or stage.ended(), f"one of {self.states}")


@dataclass(frozen=True)
class Send(Act):
    """A signal to the job, or to the child that a key started."""

    name: str
    payload: Any = None
    key: str | None = None
    child: str | None = None

    def do(self, stage: Stage, number: int) -> None:
        job: Job[Any] = stage.job
        if self.child is not None:
            job = stage.engine.job(stage.until(lambda: stage.children().get(self.child or ""), self.child).job_id)
        with suppress(Conflict):  # it has ended: the signal was read before the crash
            job.signal(self.name, self.payload, by="ada", idempotency_key=self.key or f"act-{number}")


@dataclass(frozen=True)
class SendToNewest(Act):
    """A signal to the newest child, once it waits for it: what a retry starts again has an id of its own."""

    name: str
    payload: Any = None

    def do(self, stage: Stage, number: int) -> None:
        def sent() -> bool:
            with stage.engine.core.store.reading() as reads:
                jobs = [job for job in reads.jobs(JobFilter(limit=0)) if job.parent_job_id == stage.job.id]
            for job in jobs:
                wait = stage.steps(job.job_id).get(f"signal:{self.name}#0")
                waits = wait is not None and wait.state is StepState.WAITING and job.state is not JobState.RUNNING
                if waits and job.completed_at is None:
                    with suppress(Conflict):
                        stage.engine.job(job.job_id).signal(
                            self.name, self.payload, by="ada", idempotency_key=f"act-{number}"
                        )
            return stage.ended()

        stage.until(sent, "the end, after a signal to the newest child")


@dataclass(frozen=True)
class Answer(Act):
    """A person's answer to the ``n``-th question (from 0)."""

    choice: str
    n: int = 0
    by: str = "ada"
    note: str | None = None

    def do(self, stage: Stage, number: int) -> None:
        def asked() -> DecisionRecord | bool:
            found = stage.questions()
            return found[self.n] if len(found) > self.n else stage.ended()

        row = stage.until(asked, f"question {self.n}")
        if not isinstance(row, DecisionRecord):
            return
        if row.state == "open":
            stage.until(lambda: stage.record().state is not JobState.RUNNING, "the job put away")
            with suppress(Conflict):
                stage.job.answer(self.choice, decision_id=row.decision_id, by=self.by, note=self.note)


@dataclass(frozen=True)
class AnswerAll(Act):
    """A person's answer to every question, until the job has ended: a crash may make questions of its own."""

    choice: str
    by: str = "ada"

    def do(self, stage: Stage, number: int) -> None:
        def answered() -> bool:
            for row in stage.questions():
                if row.state == "open" and stage.record().state is not JobState.RUNNING:
                    with suppress(Conflict):
                        stage.job.answer(self.choice, decision_id=row.decision_id, by=self.by)
            return stage.ended()

        stage.until(answered, "the end, after answers")


def _token(stage: Stage, name: str) -> str | None:
    for row in stage.steps().values():
        if row.kind is StepKind.TOKEN and row.name == name and row.outcome is not None:
            return str(msgspec.json.decode(row.outcome))
    return None


@dataclass(frozen=True)
class Complete(Act):
    """Somebody completes a token."""

    name: str
    value: Any = None

    def do(self, stage: Stage, number: int) -> None:
        token = stage.until(lambda: _token(stage, self.name), f"the token {self.name}")
        stage.engine.complete(token, self.value)


@dataclass(frozen=True)
class FailToken(Act):
    """Somebody says that what a token stands for failed."""

    name: str
    error: str

    def do(self, stage: Stage, number: int) -> None:
        stage.engine.fail(stage.until(lambda: _token(stage, self.name), f"the token {self.name}"), self.error)


@dataclass(frozen=True)
class Beat(Act):
    """Somebody says that they are still at work on a token."""

    name: str
    note: str | None = None

    def do(self, stage: Stage, number: int) -> None:
        stage.engine.heartbeat(stage.until(lambda: _token(stage, self.name), f"the token {self.name}"), self.note)


@dataclass(frozen=True)
class End(Act):
    """A person cancels or fails the job, once; with ``again`` whatever was done before."""

    how: str = "cancel"
    reason: str | None = None
    by: str = "ada"
    again: bool = False

    def do(self, stage: Stage, number: int) -> None:
        if self.again or not (stage.ended() or stage.count("job_cancel_requested")):
            with suppress(Conflict):
                (stage.job.cancel if self.how == "cancel" else stage.job.fail)(self.reason, by=self.by)


@dataclass(frozen=True)
class After(Act):
    """The clock is set to so many seconds after the job's submit, if it is not later already."""

    seconds: float

    def do(self, stage: Stage, number: int) -> None:
        clock = stage.engine._alive().clock
        assert isinstance(clock, ManualClock)
        due_ms = stage.record().created_at + int(self.seconds * 1000)
        clock.advance(max(due_ms - clock.now_ms(), 0) / 1000)


@dataclass(frozen=True)
class Settles(Act):
    """Nobody does anything before nothing moves any more."""

    def do(self, stage: Stage, number: int) -> None:
        drain(stage.engine)


@dataclass(frozen=True)
class TryAgain(Act):
    """An operator retries the failed job, after putting right what was wrong: the ``n``-th time."""

    n: int = 1

    def do(self, stage: Stage, number: int) -> None:
        stage.until(
            lambda: stage.count("job_retried") >= self.n or stage.record().state is JobState.FAILED, "the job failed"
        )
        if stage.count("job_retried") < self.n:
            WORLD.books["mended"] = self.n
            stage.job.retry(by="ada")


@dataclass(frozen=True)
class TryChildAgain(Act):
    """An operator retries the failed child of a key (once), after putting right what was wrong, and waits for its end."""

    key: str

    def do(self, stage: Stage, number: int) -> None:
        def failed() -> bool:
            child = stage.children().get(self.key)
            return child is not None and (child.state is JobState.FAILED or child.attempt > 1)

        stage.until(failed, f"the child {self.key} failed")
        WORLD.books["mended"] = 1
        child = stage.children()[self.key]
        if child.state is JobState.FAILED:
            stage.engine.job(child.job_id).retry(by="ada")
        stage.until(lambda: stage.children()[self.key].state in FINAL_STATES, "the child's end")


@dataclass(frozen=True)
class Resume(Act):
    """An operator resumes the job that waits for one."""

    def do(self, stage: Stage, number: int) -> None:
        held = (JobState.AWAITING_USER, JobState.STALLED)
        stage.until(
            lambda: stage.count("job_resumed") or stage.record().state in held or stage.ended(), "a job to resume"
        )
        if stage.record().state in held:
            stage.job.resume(by="ada")


@dataclass(frozen=True)
class Deploy(Act):
    """New code is there from now on."""

    code: int

    def do(self, stage: Stage, number: int) -> None:
        WORLD.code = self.code


@dataclass(frozen=True)
class Publishes(Act):
    """Somebody waits for a published value, and keeps it."""

    name: str

    def do(self, stage: Stage, number: int) -> None:
        WORLD.books[f"seen {self.name}"] = stage.job.published(self.name, type=Any, timeout_seconds=PATIENCE_SECONDS)


@dataclass(frozen=True)
class Submit(Act):
    """Somebody submits another job."""

    workflow: Any
    args: tuple[Any, ...] = ()
    key: str | None = None

    def do(self, stage: Stage, number: int) -> None:
        stage.engine.submit(self.workflow, *self.args, idempotency_key=self.key or f"act-{number}")


@dataclass(frozen=True)
class Scenario:
    """One row of the table.

    ``says`` is what must happen, in one sentence; ``bug`` is why it does not, yet;
    ``crash_bug`` why it may not after a crash. With ``early`` the job begins a second after its submit, and the acts
    of ``early`` come before. ``lines``: concurrent lines are recorded one by one, because their order is free; ``"keys"``
    takes each key for a line, for steps of one line that run at once (a bare ``gather``).
    ``free``: keys whose end a crash may change, because what was in flight is given up rather than called again.
    """

    name: str
    workflow: Any
    args: tuple[Any, ...] = ()
    script: Sequence[Act] = ()
    early: Sequence[Act] = ()
    says: str = ""
    submit: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[Any, ...] = ()
    lines: bool | str = False
    free: tuple[str, ...] = ()
    bug: str | None = None
    crash_bug: str | None = None

    @property
    def workflows(self) -> list[Any]:
        """Return what the engine must know."""
        return [self.workflow, *self.also]

    def play(self, engine: Engine) -> Stage:
        """Do what the world outside does: submit, then each act in its turn."""
        with engine.core.store.reading() as reads:
            if not reads.jobs(JobFilter(limit=1)):
                WORLD.renew(engine)
        WORLD.engine = engine
        options: dict[str, Any] = {"idempotency_key": "main", **self.submit}
        if self.early:
            options["delay_seconds"] = 1
        stage = Stage(engine, engine.submit(self.workflow, *self.args, **options))
        for number, act in enumerate((*self.early, *self.script)):
            act.do(stage, number)
        return stage


def during(act: Callable[[Job[Any]], None]) -> None:
    """Let somebody outside act on the job while one of its steps runs: called inside the step.

    An engine that has just been restarted may come to the step before the world has turned to it.
    """
    from relight import current_job

    engine = WORLD.engine
    assert engine is not None
    try:
        act(engine.job(current_job().id))
    except SimulatedCrash:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while WORLD.engine is engine and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        act(WORLD.engine.job(current_job().id))


def named(scenarios: Iterator[Scenario] | Sequence[Scenario]) -> list[Scenario]:
    """Return scenarios, each name once."""
    found = list(scenarios)
    names = [each.name for each in found]
    assert len(set(names)) == len(names), names
    return found
