"""Every cell of the transition table, legal and illegal, against a real store.

For each way to come into each state (a **scene**, built by real commands) and each target state, every command that would
move the job there is tried. Where the table has the move, it succeeds with exactly one event that moves the job; where it
has not, the command is refused and *nothing* of the job has changed: row, runs, steps, signals, questions and events are
compared. A refused command leaves the scene as it was, so the next one is tried on the same job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from relight.conformance.world import ANN, FAILURE, Engine, Snapshot, StoreFactory, World, Writer
from relight.core import events as ev
from relight.core.commands import Command, JobRef
from relight.core.commands import steering as cs
from relight.core.transitions import By, is_legal, sources_of
from relight.errors import Conflict, Fenced, IllegalTransition, NotFound
from relight.ids import JobId, RunId
from relight.model import FINAL_STATES, JobRecord, JobState, StepState

_S = JobState


@dataclass
class Scene:
    """A job in some state. ``run`` is its last run (made up when there was none), ``owner`` that run's engine."""

    world: World
    client: Writer
    engine: Engine
    owner: Engine
    job: JobRef
    run: JobRef
    decision_id: str = "no-question"

    @property
    def state(self) -> JobState | None:
        """The job's state by its row."""
        row = self.world.find(self.job)
        return None if row is None else row.state

    @property
    def row(self) -> JobRecord:
        """The job's row. Raises ``NotFound``, as whoever decides on a job would."""
        row = self.world.find(self.job)
        if row is None:
            raise NotFound("there is no such job")
        return row


def _blank(world: World) -> Scene:
    engine = world.open_engine()
    client = world.client()
    job_id = JobId(world.new_id())
    job = JobRef(job_id, f"trace-{job_id}", "census")
    return Scene(world, client, engine, engine, job, JobRef(job_id, job.trace_id, "census", RunId(world.new_id())))


def _queued(world: World) -> Scene:
    scene = _blank(world)
    scene.client.do(scene.client.submission(job_id=scene.job.job_id))
    return scene


def _running(world: World) -> Scene:
    scene = _queued(world)
    scene.run = scene.engine.claim(scene.job)
    scene.engine.begin(scene.run)
    return scene


def _put_away(world: World) -> Scene:
    scene = _running(world)
    scene.engine.put_away(scene.run, ready_at=world.clock.now_ms() + 1000)
    return scene


def _asked_to_end(world: World) -> Scene:
    scene = _running(world)
    scene.client.end(scene.job)
    return scene


def _awaiting_user(world: World) -> Scene:
    scene = _running(world)
    scene.decision_id = scene.engine.ask(scene.run)
    scene.engine.await_user(scene.run, scene.decision_id)
    return scene


def _mismatched(world: World) -> Scene:
    scene = _running(world)
    scene.engine.mismatch(scene.run)
    return scene


def _awaiting_validation(world: World) -> Scene:
    scene = _running(world)
    scene.engine.put_away(scene.run, state=_S.AWAITING_VALIDATION)
    return scene


def _stalled(world: World) -> Scene:
    scene = _running(world)
    scene.engine = world.engine("second")
    scene.engine.recover(scene.owner)
    scene.engine.finish_recovery()
    scene.engine.open_gate()
    return scene


def _poisoned(world: World) -> Scene:
    scene = _stalled(world)
    scene.engine.do(scene.engine.poisoning(scene.job))
    return scene


def _never_begun_and_ended(code: str) -> Callable[[World], Scene]:
    def build(world: World) -> Scene:
        scene = _queued(world)
        scene.client.end(scene.job, code)
        return scene

    return build


def _ended_as(state: JobState) -> Callable[[World], Scene]:
    def build(world: World) -> Scene:
        scene = _running(world)
        scene.engine.fail_try(scene.run)
        scene.engine.finish(scene.run, state)
        return scene

    return build


SCENES: dict[str, tuple[JobState | None, Callable[[World], Scene]]] = {
    "new": (None, _blank),
    "queued": (_S.QUEUED, _queued),
    "put away": (_S.QUEUED, _put_away),
    "running": (_S.RUNNING, _running),
    "running, asked to end": (_S.RUNNING, _asked_to_end),
    "awaiting_user": (_S.AWAITING_USER, _awaiting_user),
    "awaiting_user, history mismatch": (_S.AWAITING_USER, _mismatched),
    "awaiting_validation": (_S.AWAITING_VALIDATION, _awaiting_validation),
    "stalled": (_S.STALLED, _stalled),
    "completed": (_S.COMPLETED, _ended_as(_S.COMPLETED)),
    "completed_with_issues": (_S.COMPLETED_WITH_ISSUES, _ended_as(_S.COMPLETED_WITH_ISSUES)),
    "failed": (_S.FAILED, _ended_as(_S.FAILED)),
    "failed, never begun": (_S.FAILED, _never_begun_and_ended("fail")),
    "cancelled": (_S.CANCELLED, _ended_as(_S.CANCELLED)),
    "cancelled, never begun": (_S.CANCELLED, _never_begun_and_ended("cancel")),
    "poisoned": (_S.POISONED, _poisoned),
}
"""Every state, by every way into it that leaves other rows behind."""


@dataclass(frozen=True)
class Attempt:
    """A command that would move a job to a target. ``notes_in``: states where it is accepted and moves nothing."""

    name: str
    by: frozenset[By]
    make: Callable[[Scene], tuple[Writer, Command]]
    notes_in: frozenset[JobState] = frozenset()
    only_from: frozenset[JobState] | None = None


def _attempt(name: str, by: By, make: Callable[[Scene], tuple[Writer, Command]]) -> Attempt:
    return Attempt(name, frozenset({by}), make)


def _end(code: str, by: By) -> Attempt:
    def make(s: Scene) -> tuple[Writer, Command]:
        who = s.engine.who if code == "deadline" else ANN
        return s.client, cs.decide_end(s.row, who, code=code, reason="enough", force=True, open_decisions=())

    return _attempt(f"decide_end({code}, force)", by, make)


def _end_expecting(source: JobState, target: JobState, by: By) -> Attempt:
    def make(s: Scene) -> tuple[Writer, Command]:
        who = ANN if by is By.OPERATOR else s.engine.who
        failure = FAILURE if target is _S.FAILED else None
        return s.client, cs.EndNow(job=s.run, source=source, who=who, target=target, reason="forced", failure=failure)

    return _attempt(f"EndNow(source={source})", by, make)


def _ends(target: JobState, code: str, by: By) -> list[Attempt]:
    return [_end(code, by), *(_end_expecting(source, target, by) for source in sorted(sources_of(target, by)))]


def _finish(target: JobState) -> Attempt:
    # Written by an engine that lives, in the name of the run's own: it is the job's state that refuses, not the fence.
    def make(s: Scene) -> tuple[Writer, Command]:
        return s.engine, s.owner.finishing(s.run, target)

    return _attempt(f"FinishRun({target})", By.RUN, make)


def _away(target: JobState) -> Attempt:
    def make(s: Scene) -> tuple[Writer, Command]:
        if target is _S.AWAITING_USER:
            return s.engine, s.owner.awaiting_user(s.run, s.decision_id)
        return s.engine, s.owner.putting_away(s.run, state=target)

    return _attempt(f"PutJobAway({target})", By.RUN, make)


def _stall(s: Scene) -> tuple[Writer, Command]:
    judge = s.engine
    if s.owner is s.engine:
        judge = s.world.open_engine("judge")
        judge.judge(s.owner)
    return judge, judge.stalling(s.run, s.owner)


def _move(
    make: type[cs.ResumeJob] | type[cs.RetryJob] | type[cs.PoisonJob], by: By, source: JobState | None, **more: object
) -> Attempt:
    """A move that expects ``source``, or (None) whatever state the job is in."""

    def build(s: Scene) -> tuple[Writer, Command]:
        who = s.engine.who if by in (By.POLICY, By.CRASH_LOOP) else ANN
        expected = source or s.row.state
        return s.engine, make(job=s.run, source=expected, who=who, **more)  # type: ignore[arg-type]

    # By its own name a retry is no resume: each moves to queued, from its own states.
    own = {cs.ResumeJob: frozenset({_S.STALLED, _S.AWAITING_USER}), cs.RetryJob: frozenset({_S.FAILED, _S.POISONED})}
    name = f"{make.__name__}(source={source or 'as it is'})"
    return Attempt(name, frozenset({by}), build, only_from=own.get(make))


def _request(code: str, *by: By) -> Attempt:
    def make(s: Scene) -> tuple[Writer, Command]:
        who = s.engine.who if code == "deadline" else ANN
        return s.client, cs.RequestEnd(job=s.job, code=code, reason=None, who=who)

    # A job that runs or is queued again is only told; it comes to its end by its own last run.
    told = frozenset({_S.QUEUED, _S.RUNNING})
    return Attempt(
        f"RequestEnd({code})", frozenset(by), make, told, only_from=frozenset({_S.AWAITING_USER, _S.STALLED})
    )


def _decide(name: str, decide: Callable[[Scene], Command], only_from: Sequence[JobState]) -> Attempt:
    return Attempt(name, frozenset({By.OPERATOR}), lambda s: (s.client, decide(s)), only_from=frozenset(only_from))


def _expire(s: Scene) -> tuple[Writer, Command]:
    return s.engine, cs.QuestionTimedOut(job=s.job, decision_id=s.decision_id, who=s.engine.who)


ATTEMPTS: dict[JobState, list[Attempt]] = {
    _S.QUEUED: [
        _attempt("SubmitJob", By.SUBMIT, lambda s: (s.client, s.client.submission(job_id=s.job.job_id))),
        _away(_S.QUEUED),
        _move(cs.ResumeJob, By.POLICY, _S.STALLED),
        _move(cs.ResumeJob, By.POLICY, None),
        _move(cs.ResumeJob, By.OPERATOR, _S.STALLED, policy="operator"),
        _move(cs.ResumeJob, By.OPERATOR, _S.AWAITING_USER, policy="operator"),
        _move(cs.ResumeJob, By.OPERATOR, None, policy="operator"),
        _move(cs.RetryJob, By.OPERATOR, _S.FAILED),
        _move(cs.RetryJob, By.OPERATOR, _S.POISONED),
        _move(cs.RetryJob, By.OPERATOR, None),
        _decide("decide_resume", lambda s: cs.decide_resume(s.row, ANN), (_S.STALLED, _S.AWAITING_USER)),
        _decide("decide_retry", lambda s: cs.decide_retry(s.row, ANN, ()), (_S.FAILED, _S.POISONED)),
        _request("cancel", By.OPERATOR),
        _request("fail", By.OPERATOR),
        _request("deadline", By.DEADLINE, By.POLICY),
        Attempt(
            "GiveDecision",
            frozenset({By.DECISION}),
            lambda s: (s.client, s.client.answer_command(s.job, s.decision_id)),
        ),
        Attempt("QuestionTimedOut", frozenset({By.DEADLINE}), _expire),
    ],
    _S.RUNNING: [_attempt("ClaimJob", By.CLAIM, lambda s: (s.engine, s.engine.claiming(s.job)))],
    _S.STALLED: [_attempt("StallRunNow", By.RECOVERY, _stall)],
    _S.AWAITING_USER: [_away(_S.AWAITING_USER)],
    _S.AWAITING_VALIDATION: [_away(_S.AWAITING_VALIDATION)],
    _S.COMPLETED: [_finish(_S.COMPLETED)],
    _S.COMPLETED_WITH_ISSUES: [_finish(_S.COMPLETED_WITH_ISSUES)],
    _S.FAILED: [
        _finish(_S.FAILED),
        *_ends(_S.FAILED, "fail", By.OPERATOR),
        *_ends(_S.FAILED, "deadline", By.DEADLINE),
        _end_expecting(_S.QUEUED, _S.FAILED, By.CLAIM),
    ],
    _S.CANCELLED: [_finish(_S.CANCELLED), *_ends(_S.CANCELLED, "cancel", By.OPERATOR)],
    _S.POISONED: [
        _finish(_S.POISONED),
        _move(cs.PoisonJob, By.CRASH_LOOP, _S.STALLED, stalls=2, evidence=("event",)),
        _move(cs.PoisonJob, By.CRASH_LOOP, None, stalls=2, evidence=("event",)),
        _move(cs.PoisonJob, By.OPERATOR, _S.STALLED, stalls=2, evidence=("event",)),
        _move(cs.PoisonJob, By.OPERATOR, _S.AWAITING_USER, stalls=2, evidence=("event",)),
    ],
}
"""What would move a job to each state."""

NOT_YET = frozenset((_S.AWAITING_VALIDATION, target, By.VALIDATOR) for target in JobState)
"""Moves of the table that no command of this version makes: those of validators."""


def _refusal(attempt: Attempt, scene: Scene) -> BaseException | None:
    """Try; return how the command was refused, or None when it was done."""
    try:
        writer, command = attempt.make(scene)
        [error] = writer.outcomes(command)
    except (Conflict, NotFound) as refused:
        return refused
    assert error is None or (isinstance(error, Conflict) and not isinstance(error, Fenced)), (
        f"{attempt.name}: {error!r}"
    )
    return error


def _moves(before: Snapshot, after: Snapshot) -> list[str]:
    """Return which of the new events move the job, by the fold that ``verify`` goes by."""
    state = None if before.job is None else before.job.state
    moved = []
    for event in after.events[len(before.events) :]:
        then = ev.fold(state, event.type, ev.parse(event.type, event.payload))
        if then is not state:
            moved.append(event.type)
        state = then
    return moved


def _try_on(
    build: Callable[[World], Scene], scene: Scene, attempt: Attempt, source: JobState | None, target: JobState
) -> tuple[Scene, bool]:
    """Try one command on a scene; return a scene for the next, and whether the job moved."""
    cell = f"{source} → {target} by {'/'.join(sorted(attempt.by))}: {attempt.name}"
    legal = any(is_legal(source, target, by) for by in attempt.by)
    before = scene.world.snapshot(scene.job)
    refused = _refusal(attempt, scene)
    after = scene.world.snapshot(scene.job)
    if refused is not None:
        assert after == before, f"{cell}: refused ({refused}), and yet something changed"
        return scene, False
    assert after.job is not None
    if before.job is not None and before.job.state in attempt.notes_in:
        assert after.job.state is before.job.state, cell
        assert _moves(before, after) == [], cell
        return build(scene.world), False
    assert legal, f"{cell}: the table has no such move, and yet it was made"
    assert attempt.only_from is None or source in attempt.only_from, f"{cell}: this command makes no such move"
    assert after.job.state is target, cell
    if target is not _S.AWAITING_VALIDATION:  # validators come later, and with them what tells of this state
        assert len(_moves(before, after)) == 1, f"{cell}: told by {_moves(before, after)}"
    return build(scene.world), True


@pytest.mark.parametrize("target", list(JobState))
@pytest.mark.parametrize("scene_name", list(SCENES))
def test_a_job_moves_as_the_table_says_and_not_otherwise(
    store_factory: StoreFactory, scene_name: str, target: JobState
) -> None:
    source, build = SCENES[scene_name]
    with World(store_factory) as world:
        scene = build(world)
        assert scene.state is source
        moved: set[By] = set()
        for attempt in ATTEMPTS[target]:
            scene, did = _try_on(build, scene, attempt, source, target)
            if did:
                moved |= {by for by in attempt.by if is_legal(source, target, by)}
        narrower = {"put away", "awaiting_user", "awaiting_user, history mismatch", "running, asked to end"}
        if scene_name not in narrower:
            owed = {by for by in By if is_legal(source, target, by) and (source, target, by) not in NOT_YET}
            # A question's answer and its time limit are tried where a question is open.
            owed -= {By.DECISION, By.DEADLINE} if target is _S.QUEUED else set()
            assert moved == owed, f"{source} → {target}: moved by {moved}, the table says {owed}"


def test_every_legal_move_is_made_by_some_command_or_named_as_missing(store_factory: StoreFactory) -> None:
    made: set[tuple[JobState | None, JobState, By]] = set()
    with World(store_factory) as world:
        for source, build in SCENES.values():
            scene = build(world)
            for target, attempt in ((wanted, each) for wanted in ATTEMPTS for each in ATTEMPTS[wanted]):
                refused = _refusal(attempt, scene)
                if refused is None and scene.state is target is not source:
                    made |= {(source, target, by) for by in attempt.by if is_legal(source, target, by)}
                if refused is None or target is _S.STALLED:  # for which the engine was declared dead
                    scene = build(world)
    table = {(s, t, by) for s in (None, *JobState) for t in JobState for by in By if is_legal(s, t, by)}
    assert table - made == NOT_YET & table


@pytest.mark.parametrize("scene_name", [name for name, (state, _) in SCENES.items() if state in FINAL_STATES])
def test_what_has_ended_takes_no_signal_no_step_no_answer_and_no_child(
    store_factory: StoreFactory, scene_name: str
) -> None:
    with World(store_factory) as world:
        scene = SCENES[scene_name][1](world)
        before = world.snapshot(scene.job)
        owner = scene.owner if scene.owner is scene.engine else scene.engine
        for command in (
            owner.signal_command(scene.job, "go"),
            owner.beginning(scene.run, "late#0"),
            owner.finishing_step(scene.run),
            owner.failing_try(scene.run, state=StepState.BACKOFF),
            owner.answer_command(scene.job, scene.decision_id),
            owner.submission("child", parent_job_id=scene.job.job_id),
        ):
            [error] = owner.outcomes(command)
            assert isinstance(error, Conflict), type(command).__name__
        assert world.snapshot(scene.job) == before


@pytest.mark.parametrize("code", ["cancel", "fail", "deadline"])
@pytest.mark.parametrize("scene_name", ["put away", "awaiting_user", "stalled"])
def test_a_job_at_rest_that_is_asked_to_end_gives_that_as_its_reason(
    store_factory: StoreFactory, scene_name: str, code: str
) -> None:
    with World(store_factory) as world:
        scene = SCENES[scene_name][1](world)
        scene.client.end(scene.job, code)
        row = world.job(scene.job)
        assert (row.state, row.status_reason, row.claimable) == (_S.QUEUED, f"asked_to_end:{code}", True)


@pytest.mark.parametrize("scene_name", ["running", "running, asked to end"])
def test_a_retry_forgets_that_the_job_was_asked_to_end(store_factory: StoreFactory, scene_name: str) -> None:
    with World(store_factory) as world:
        scene = SCENES[scene_name][1](world)
        if scene_name == "running":
            scene.client.end(scene.job, "fail")
        scene.engine.finish(scene.run, _S.FAILED)
        assert world.job(scene.job).cancel_by == "ann"
        scene.client.retry(scene.job)
        row = world.job(scene.job)
        assert (row.state, row.status_reason) == (_S.QUEUED, "retried")
        assert (row.cancel_code, row.cancel_reason, row.cancel_by, row.deadline_at) == (None, None, None, None)


@pytest.mark.parametrize("state", sorted({*JobState} - {*FINAL_STATES}))
def test_no_run_ends_its_job_in_a_state_that_is_no_end(store_factory: StoreFactory, state: JobState) -> None:
    with World(store_factory) as world:
        scene = _running(world)
        with pytest.raises(IllegalTransition, match=f"no run ends its job as {state}"):
            scene.engine.outcomes(scene.engine.finishing(scene.run, state))
