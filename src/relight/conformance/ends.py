"""What an end leaves behind, and what a retry opens again: waits, questions, children."""

from __future__ import annotations

import pytest

from relight.conformance.world import StoreFactory, World
from relight.conformance.writers import Engine
from relight.core.changes import Who
from relight.core.commands import JobRef
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.errors import Conflict
from relight.ids import StepKey
from relight.model import Actor, JobState, StepKind, StepState


def _cancel_of_orphan(world: World, engine: Engine, child: JobRef) -> cs.EndNow | cs.RequestEnd:
    return cs.decide_end(
        world.job(child),
        Who(Actor.SYSTEM, engine.id),
        code="cancel",
        reason=cs.PARENT_ENDED,
        force=False,
        open_decisions=(),
        orphan=True,
    )


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "force"])
def test_nothing_waits_in_a_job_that_has_ended(store_factory: StoreFactory, how: str) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        run, beside = engine.run_new(), engine.run_new()
        for job in (run, beside):
            engine.wait(job, "signal#0", StepKind.SIGNAL, "go")
        question = engine.ask(run)
        if how == "force":
            client.end(run, force=True)
        else:
            engine.finish(run, JobState(how))
        assert {step.state for step in world.snapshot(run).steps} == {StepState.ABANDONED}
        assert world.step(run, "signal#0").ended_at == world.clock.now_ms()
        with world.store.reading() as reads:
            asked = {row.decision_id: row.state for row in reads.decisions(run.job_id)}
        assert asked == {question: "withdrawn"}
        assert world.step(beside, "signal#0").state is StepState.WAITING


def test_a_retry_opens_waits_that_are_over(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        kinds = {"signal#0": StepKind.SIGNAL, "child#0": StepKind.CHILD_RESULT, "token#0": StepKind.EXTERNAL}
        for key, kind in kinds.items():
            engine.wait(run, key, kind, "x")
            engine.do(ct.EndWait(job=run, step_key=StepKey(key), outcome='"timeout"'))
        engine.finish(run, JobState.FAILED)
        engine.retry(run, *kinds)
        for step in world.snapshot(run).steps:
            assert (step.state, step.outcome, step.ended_at) == (StepState.BACKOFF, None, None)
        run = engine.claim(run)
        for key, kind in kinds.items():
            engine.wait(run, key, kind, "y")
        assert {step.state for step in world.snapshot(run).steps} == {StepState.WAITING}


def test_the_next_run_of_a_retried_job_tells_its_own_issues(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.finish(run, JobState.FAILED, issues='[{"code":"odd"}]')
        assert world.job(run).issues == '[{"code":"odd"}]'
        engine.retry(run)
        assert world.job(run).issues is None


@pytest.mark.parametrize("begun", [True, False])
def test_a_child_is_cancelled_for_its_parent_s_end_only_while_that_has_ended(
    store_factory: StoreFactory, begun: bool
) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        parent = engine.run_new()
        child = engine.start_child(parent)
        if begun:
            child = engine.claim(child)
        late = _cancel_of_orphan(world, engine, child)
        [error] = engine.outcomes(late)
        assert isinstance(error, Conflict)
        engine.finish(parent, JobState.FAILED)
        retry = cs.decide_retry(world.job(parent), engine.who, [])
        assert [type(error) for error in engine.outcomes(retry, late)] == [type(None), Conflict]
        assert (world.job(child).cancel_code, world.job(child).completed_at) == (None, None)
        again = engine.claim(parent)
        engine.finish(again, JobState.FAILED)
        engine.do(late)
        assert cs.ended_with_parent(world.job(child))


@pytest.mark.parametrize("parent_ended", [True, False])
def test_a_child_that_is_retried_after_its_parent_s_end_lives_on_its_own(
    store_factory: StoreFactory, parent_ended: bool
) -> None:
    with World(store_factory) as world:
        engine, client = world.open_engine(), world.client()
        parent = engine.run_new()
        child = engine.claim(engine.start_child(parent))
        engine.finish(child, JobState.FAILED)
        if parent_ended:
            engine.finish(parent, JobState.FAILED)
        client.retry(child)
        assert world.job(child).detached is parent_ended
