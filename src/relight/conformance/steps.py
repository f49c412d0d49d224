"""Steps: a finished one never changes again, an unfinished one is written only by its own job's running run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relight.conformance.world import FAILURE, Engine, StoreFactory, World
from relight.core.commands import Command, JobRef
from relight.core.commands import steps as ct
from relight.errors import Conflict
from relight.ids import StepKey
from relight.model import JobState, StepKind, StepState


def refused(error: BaseException | None) -> bool:
    """Tell whether a command was refused by a precondition."""
    return isinstance(error, Conflict) and bool(error.fields.get("op"))


KEY = StepKey("fetch#0")

WRITES: dict[str, Callable[[Engine, JobRef], Command]] = {
    "begin": lambda e, r: e.beginning(r, try_number=2),
    "finish": lambda e, r: e.finishing_step(r, outcome="8"),
    "fail": lambda e, r: e.failing_try(r),
    "back off": lambda e, r: e.failing_try(r, state=StepState.BACKOFF),
    "doubt": lambda e, r: e.failing_try(r, state=StepState.IN_DOUBT),
    "abandon": lambda e, r: ct.AbandonStep(job=r, step_key=KEY, try_number=1, reason="sibling"),
    "end a wait": lambda e, r: ct.EndWait(job=r, step_key=KEY, outcome="null"),
    "reconcile": lambda e, r: ct.ReconcileStep(job=r, step_key=KEY, verdict="not_done", by="f", try_number=1),
    "begin a wait": lambda e, r: ct.BeginWait(
        job=r, step_key=KEY, kind=StepKind.SLEEP, name="sleep", until=1, waits_for=None
    ),
    "record a value": lambda e, r: ct.RecordValue(job=r, step_key=KEY, name="now", outcome="1"),
}
"""Everything a run writes about a step."""

every_write = pytest.mark.parametrize("write", list(WRITES.values()), ids=list(WRITES))

ENDS: dict[str, Callable[[Engine, JobRef], Command]] = {
    "completed": lambda e, r: e.finishing_step(r),
    "failed": lambda e, r: e.failing_try(r),
    "abandoned": lambda e, r: ct.AbandonStep(job=r, step_key=KEY, try_number=1, reason="sibling"),
}


@every_write
@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_a_finished_step_is_never_written_again(
    store_factory: StoreFactory, end: Callable[[Engine, JobRef], Command], write: Callable[[Engine, JobRef], Command]
) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit()
        run = engine.claim(job)
        engine.begin(run)
        engine.do(end(engine, run))
        engine.put_away(run, ready_at=world.clock.now_ms())
        run = engine.claim(job)
        before = world.snapshot(job)
        [error] = engine.outcomes(write(engine, run))
        assert refused(error)
        assert world.snapshot(job) == before


@every_write
@pytest.mark.parametrize("end", ["put away", "finished", "stalled", "cancelled by force"])
def test_a_run_that_has_ended_writes_no_step(
    store_factory: StoreFactory, end: str, write: Callable[[Engine, JobRef], Command]
) -> None:
    with World(store_factory) as world:
        engine, owner = world.open_engine(), world.open_engine("owner")
        run = owner.run_new()
        owner.begin(run)
        match end:
            case "put away":
                owner.put_away(run)
            case "finished":
                owner.finish(run)
            case "stalled":
                engine.recover(owner)
            case _:
                engine.end(run, force=True)
        before = world.snapshot(run)
        [error] = engine.outcomes(write(engine, run))  # a live engine's words: it is the run that refuses
        assert refused(error)
        assert world.snapshot(run) == before


@every_write
def test_another_job_s_run_writes_no_step(
    store_factory: StoreFactory, write: Callable[[Engine, JobRef], Command]
) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run, other = engine.run_new(), engine.run_new()
        engine.begin(run)
        before = world.snapshot(run)
        [error] = engine.outcomes(write(engine, JobRef(run.job_id, run.trace_id, run.kind, other.run_id)))
        assert refused(error)
        assert world.snapshot(run) == before


@pytest.mark.parametrize("name", ["finish", "fail", "back off", "abandon", "end a wait", "reconcile"])
def test_what_never_began_does_not_end(store_factory: StoreFactory, name: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        [error] = engine.outcomes(WRITES[name](engine, run))
        assert refused(error)
        assert world.snapshot(run).steps == []


def test_a_step_s_way_is_recorded_as_it_goes(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.begin(run, policy="ask", until=5)
        step = world.step(run, KEY)
        assert (step.state, step.try_number, step.policy, step.until) == (StepState.RUNNING, 1, "ask", 5)
        engine.fail_try(run, state=StepState.BACKOFF)
        step = world.step(run, KEY)
        assert (step.state, step.until, step.error) == (
            StepState.BACKOFF,
            world.clock.now_ms() + 1000,
            FAILURE.text(),
        )
        world.clock.advance(1000)
        engine.begin(run, try_number=2)
        step = world.step(run, KEY)
        assert (step.state, step.try_number, step.begun_at) == (StepState.RUNNING, 2, world.clock.now_ms())
        engine.finish_step(run, try_number=2)
        step = world.step(run, KEY)
        assert (step.state, step.outcome, step.error) == (StepState.COMPLETED, "7", None)
        assert (step.ended_at, step.run_id) == (world.clock.now_ms(), run.run_id)


def test_a_step_in_doubt_is_settled_only_while_its_job_does_not_run(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, engine = world.open_engine("owner"), world.open_engine()
        run = owner.run_new()
        for key in ("a#0", "b#0", "c#0"):
            owner.begin(run, key)
        owner.begin(run, "done#0")
        owner.finish_step(run, "done#0")
        with pytest.raises(Conflict):
            engine.settle(run, "a#0", "done", "1")
        engine.recover(owner)
        engine.settle(run, "a#0", "done", "1")
        engine.settle(run, "b#0", "not_done")
        engine.settle(run, "c#0", "fail")
        found = {str(step.step_key): (step.state, step.outcome, step.ended_at) for step in world.snapshot(run).steps}
        now = world.clock.now_ms()
        assert found["a#0"] == (StepState.COMPLETED, "1", now)
        assert found["b#0"] == (StepState.BACKOFF, None, None)
        assert found["c#0"] == (StepState.FAILED, None, now)
        for key in ("a#0", "done#0", "never#0"):
            with pytest.raises(Conflict):
                engine.settle(run, key, "not_done")


@pytest.mark.parametrize(
    "end", [JobState.COMPLETED, JobState.FAILED, JobState.POISONED, "put away", "forced cancel", "forced fail"]
)
def test_no_step_stays_in_flight_in_a_job_whose_run_has_ended(store_factory: StoreFactory, end: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run, beside = engine.run_new(), engine.run_new()
        for key in ("cut#0", "failing#0", "done#0"):
            engine.begin(run, key)
        engine.fail_try(run, "failing#0", state=StepState.BACKOFF)
        engine.finish_step(run, "done#0")
        engine.begin(beside, "other#0")
        before = len(world.snapshot(run).events)
        match end:
            case "put away":
                engine.put_away(run, ready_at=world.clock.now_ms())
            case "forced cancel" | "forced fail":
                world.client().end(run, end.removeprefix("forced "), force=True)
            case _:
                engine.finish(run, JobState(end))
        states = {str(step.step_key): (step.state, step.ended_at is None) for step in world.snapshot(run).steps}
        assert states["cut#0"] == (StepState.IN_DOUBT, True)
        assert states["failing#0"] == (StepState.BACKOFF, True) and states["done#0"] == (StepState.COMPLETED, False)
        assert world.step(beside, "other#0").state is StepState.RUNNING
        assert len(world.snapshot(run).events) == before + 1


def test_a_retry_opens_only_what_had_failed(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        for key in ("done#0", "failed#0"):
            engine.begin(run, key)
        engine.finish_step(run, "done#0")
        engine.fail_try(run, "failed#0")
        engine.finish(run, JobState.FAILED)
        with pytest.raises(Conflict):
            engine.retry(run, "failed#0", "done#0")
        assert world.job(run).state is JobState.FAILED
        engine.retry(run, "failed#0")
        states = {step.step_key: step.state for step in world.snapshot(run).steps}
        assert states == {"done#0": StepState.COMPLETED, "failed#0": StepState.BACKOFF}
        run = engine.claim(run)
        engine.begin(run, "failed#0")
        engine.finish_step(run, "failed#0")
        assert world.step(run, "failed#0").run_id == run.run_id


def test_a_late_progress_report_is_dropped(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.put_away(run, ready_at=world.clock.now_ms())
        engine.claim(run)
        engine.do(ct.ReportProgress(job=run, progress='{"done":1}'))
        assert world.job(run).progress is None


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES])
def test_only_a_job_that_completes_publishes(store_factory: StoreFactory, state: JobState) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.finish(run, state, outputs='{"a":1}')
        job = world.job(run)
        assert (job.state, job.outputs, job.completed_at) == (state, '{"a":1}', world.clock.now_ms())
        failed = engine.run_new()
        engine.finish(failed, JobState.FAILED)
        assert (world.job(failed).outputs, world.job(failed).error) == (None, FAILURE.text())
