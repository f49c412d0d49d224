"""Recovery's operations: only the proved dead are stalled, once; a gate opens on nothing left over; bad rows are set aside."""

from __future__ import annotations

import pytest

from relight.conformance.world import Engine, StoreFactory, World
from relight.core import events as ev
from relight.core.commands import JobRef
from relight.core.commands.engines import FailGate, Tell
from relight.core.queue_rows import QueueLimit
from relight.errors import Conflict
from relight.model import EngineState, GateState, JobState, RunState, StepKind, StepState, Verdict


def refused(error: BaseException | None) -> bool:
    """Tell whether a command was refused by a precondition."""
    return isinstance(error, Conflict) and bool(error.fields.get("op"))


def crash(world: World) -> tuple[Engine, JobRef, Engine]:
    """Return an engine that is heard of no more with a step in flight, its run, and the engine that comes after it."""
    dead = world.open_engine("dead")
    run = dead.run_new()
    dead.begin(run)
    return dead, run, world.engine("next")


# stalling


def test_a_live_engine_s_run_is_not_stalled(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        before = world.snapshot(run)
        [error] = engine.outcomes(engine.stalling(run, owner))
        assert refused(error)
        assert world.snapshot(run) == before


def test_a_stopped_engine_s_run_is_stalled_only_after_a_verdict(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        owner.close()
        [error] = engine.outcomes(engine.stalling(run, owner))
        assert refused(error)
        engine.recover(owner)
        assert world.job(run).state is JobState.STALLED


@pytest.mark.parametrize("verdict", [Verdict.DEAD, Verdict.LEASE_EXPIRED, Verdict.SILENT])
def test_run_job_steps_and_event_are_stalled_together(store_factory: StoreFactory, verdict: Verdict) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        engine.recover(owner, verdict)
        job, row, step = world.job(run), world.run(run), world.step(run, "fetch#0")
        assert (job.state, job.status_reason, job.claimable) == (JobState.STALLED, f"stalled:{verdict}", False)
        assert (row.state, row.ended_at) == (RunState.STALLED, world.clock.now_ms())
        assert step.state is StepState.IN_DOUBT
        assert job.held_by == (owner.id if verdict is Verdict.SILENT else None)
        told = world.snapshot(run).events[-1]
        assert (told.type, told.actor, told.trace_id, told.run_id) == (
            "workflow_recovery",
            "system",
            run.trace_id,
            run.run_id,
        )
        payload = ev.parse(told.type, told.payload)
        assert isinstance(payload, ev.WorkflowRecovery)
        assert (payload.verdict, payload.dead_engine_id, payload.in_doubt_steps) == (verdict, owner.id, ["fetch#0"])


def test_no_run_is_stalled_twice(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        second = world.engine("second")
        engine.judge(owner)
        twice = [engine.stalling(run, owner), engine.stalling(run, owner)]
        assert [refused(error) for error in engine.outcomes(*twice)] == [False, True]
        before = world.snapshot(run)
        [error] = second.outcomes(second.stalling(run, owner))
        assert refused(error)
        assert world.snapshot(run) == before
        assert world.event_types(run).count("workflow_recovery") == 1


def test_a_run_is_stalled_only_under_its_own_engine_and_job(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        other = engine.submit()
        bystander = world.open_engine("bystander")
        engine.judge(owner)
        engine.judge(bystander)
        for wrong in (
            engine.stalling(run, bystander),
            engine.stalling(JobRef(other.job_id, other.trace_id, "", run.run_id), owner),
        ):
            [error] = engine.outcomes(wrong)
            assert refused(error)
        assert world.job(run).state is JobState.RUNNING


def test_one_row_that_cannot_be_stalled_leaves_the_others_to_be(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner = world.open_engine("dead")
        runs = [owner.run_new() for _ in range(5)]
        owner.finish(runs[2])
        engine = world.engine("next")
        engine.judge(owner)
        outcomes = engine.outcomes(*(engine.stalling(run, owner) for run in runs))
        assert [refused(error) for error in outcomes] == [False, False, True, False, False]
        states = [world.job(run).state for run in runs]
        assert states == [JobState.STALLED] * 2 + [JobState.COMPLETED] + [JobState.STALLED] * 2


def test_only_steps_in_flight_are_in_doubt(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner = world.open_engine("dead")
        run = owner.run_new()
        for key in ("done#0", "failed#0", "backoff#0", "flight#0"):
            owner.begin(run, key)
        owner.finish_step(run, "done#0")
        owner.fail_try(run, "failed#0")
        owner.fail_try(run, "backoff#0", StepState.BACKOFF)
        owner.wait(run, "go#0", StepKind.SIGNAL, "go")
        engine = world.engine("next")
        engine.judge(owner)
        with engine.store.reading() as reads:
            [found] = reads.running_of(owner.id)
        assert found.in_doubt == ["flight#0"]
        engine.stall_all(owner)
        states = {step.step_key: step.state for step in world.snapshot(run).steps}
        assert states == {
            "done#0": StepState.COMPLETED,
            "failed#0": StepState.FAILED,
            "backoff#0": StepState.BACKOFF,
            "flight#0": StepState.IN_DOUBT,
            "go#0": StepState.WAITING,
        }


# counting crashes


def stall_again(world: World, job: JobRef, *, checkpoint: bool = False, in_flight: bool = True) -> int:
    """Claim a job, let its engine die, recover, resume; return how many stalls are counted."""
    owner = world.open_engine("dead")
    run = owner.claim(job)
    done = len(world.snapshot(job).steps)
    if checkpoint:
        owner.begin(run, f"done#{done}")
        owner.finish_step(run, f"done#{done}")
    if in_flight:
        owner.begin(run, "flight#0")
    engine = world.open_engine("next")
    engine.recover(owner)
    stalls = world.job(job).stalls
    engine.resume_by_policy(job)
    return stalls


def test_crashes_count_while_no_checkpoint_lies_between(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        job = world.client().submit()
        assert [stall_again(world, job) for _ in range(3)] == [1, 2, 3]
        assert stall_again(world, job, checkpoint=True) == 1
        assert stall_again(world, job) == 2
        assert world.job(job).attempt == 6


def test_a_crash_with_no_step_in_flight_does_not_count(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        job = world.client().submit()
        assert stall_again(world, job, in_flight=False) == 0
        assert stall_again(world, job) == 1
        owner, engine = world.open_engine("gone"), world.open_engine("next")
        owner.begin(owner.claim(job), "flight#0")
        engine.recover(owner, Verdict.LEASE_EXPIRED)
        assert world.job(job).stalls == 1


def test_a_retry_counts_anew(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        dead, run, engine = crash(world)
        engine.recover(dead)
        engine.do(engine.poisoning(run))
        assert world.job(run).stalls == 1
        engine.retry(run)
        job = world.job(run)
        assert (job.state, job.stalls, job.attempt, job.error, job.completed_at) == (JobState.QUEUED, 0, 2, None, None)


# holds


def test_a_silent_owner_s_job_is_held_until_it_is_released_by_name(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        engine.recover(owner, Verdict.SILENT)
        engine.end(run)
        job = world.job(run)
        assert (job.state, job.cancel_code, job.held_by) == (JobState.STALLED, "cancel", owner.id)
        with pytest.raises(Conflict):
            engine.release_hold(run, engine)
        assert world.job(run).held_by == owner.id
        engine.release_hold(run, owner)
        assert world.job(run).held_by is None
        with pytest.raises(Conflict):
            engine.release_hold(run, owner)
        engine.resume_by_policy(run)
        assert world.job(run).state is JobState.QUEUED


def test_a_hold_is_left_by_an_operator_and_taken_off_by_nobody_else(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        engine.recover(owner)
        read_before = world.job(run)
        engine.hold(run)
        assert (world.job(run).state, world.job(run).status_reason) == (JobState.STALLED, "held:policy")
        stale = engine.poisoning(run, source_reason=read_before.status_reason)
        [error] = engine.outcomes(stale)
        assert refused(error)
        engine.resume(run)
        assert world.job(run).state is JobState.QUEUED


# the gate


@pytest.mark.parametrize("verdict", [Verdict.DEAD, Verdict.SILENT])
def test_a_gate_stays_shut_while_the_dead_have_a_running_run(store_factory: StoreFactory, verdict: Verdict) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        engine.judge(owner, verdict)
        open_gate = engine.opening_gate()
        [error] = engine.outcomes(open_gate)
        assert refused(error)
        assert world.writer_row(engine).gate is GateState.CLOSED
        assert "gate_opened" not in [event.type for event in world.told_by(engine)]
        engine.do(engine.stalling(run, owner, verdict=verdict))
        engine.open_gate()
        row = world.writer_row(engine)
        assert (row.gate, row.gate_opened_at) == (GateState.OPEN, world.clock.now_ms())


def test_a_gate_does_not_wait_for_the_living_or_the_stopped(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        alive, stopped = world.open_engine(), world.open_engine()
        alive.run_new()
        stopped.run_new()
        stopped.close()
        engine = world.engine("next")
        engine.open_gate()
        assert world.writer_row(engine).gate is GateState.OPEN


def test_recovery_and_gate_in_one_batch_are_in_their_order(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        opening = engine.opening_gate()
        engine.do(engine.judging(owner), engine.stalling(run, owner), opening)
        assert world.writer_row(engine).gate is GateState.OPEN
        kinds = [event.type for event in world.told_by(engine)]
        assert kinds.index("workflow_recovery") < kinds.index("gate_opened")


def test_a_gate_is_a_one_way_latch(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.engine()
        failed = FailGate(engine_id=engine.id, gate_code="storage_corrupt", detail="x")
        engine.do(failed)
        assert world.writer_row(engine).gate is GateState.FAILED
        engine.open_gate()
        for command in (failed, engine.opening_gate()):
            [error] = engine.outcomes(command)
            assert refused(error)
        row = world.writer_row(engine)
        assert (row.gate, row.gate_detail) == (GateState.OPEN, None)


@pytest.mark.parametrize("gate", [GateState.CLOSED, GateState.FAILED])
def test_nothing_is_claimed_behind_a_shut_gate(store_factory: StoreFactory, gate: GateState) -> None:
    with World(store_factory) as world:
        engine = world.engine()
        if gate is GateState.FAILED:
            engine.do(FailGate(engine_id=engine.id, gate_code="x", detail="x"))
        job = world.client().submit()
        [error] = engine.outcomes(engine.claiming(job))
        assert refused(error)
        assert world.job(job).state is JobState.QUEUED
        engine.open_gate()
        engine.claim(job)


# quarantine


def test_a_quarantined_run_keeps_its_state_and_no_gate_shut(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        other = owner.run_new()
        engine.judge(owner)
        engine.do(engine.quarantining(run))
        with engine.store.reading() as reads:
            assert [found.job_id for found in reads.running_of(owner.id)] == [other.job_id]
            assert reads.count_running_of([owner.id]) == 1
        [error] = engine.outcomes(engine.opening_gate())
        assert refused(error)
        engine.do(engine.stalling(other, owner))
        engine.open_gate()
        assert world.job(run).state is JobState.RUNNING
        engine.release_quarantined(run)
        late = world.engine("later")
        [error] = late.outcomes(late.opening_gate())
        assert refused(error)
        late.stall_all(owner)
        late.open_gate()


def test_a_quarantined_job_is_not_claimed_until_it_is_released(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        bad, good = engine.submit(queue="aside"), engine.submit(queue="aside")
        engine.do(engine.quarantining(bad))
        now = world.clock.now_ms()
        with engine.store.reading() as reads:
            assert reads.claimable_ids("aside", ["census"], now, 10) == [good.job_id]
            assert [job.job_id for job in reads.claimable("aside", ["census"], now, 10)] == [good.job_id]
            assert [row.job_id for row in reads.quarantine() if row.job_id == bad.job_id] == [bad.job_id]
        [error] = engine.outcomes(engine.claiming(bad))
        assert refused(error)
        engine.release_quarantined(bad)
        engine.claim(bad)


def test_a_quarantine_and_a_claim_in_one_batch_are_in_their_order(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit()
        outcomes = engine.outcomes(engine.quarantining(job), engine.claiming(job))
        assert [refused(error) for error in outcomes] == [False, True]
        assert world.job(job).state is JobState.QUEUED


def test_a_quarantined_stalled_job_is_left_out_of_policy(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        engine.recover(owner)
        engine.do(engine.quarantining(run))
        with engine.store.reading() as reads:
            assert run.job_id not in [job.job_id for job in reads.stalled(limit=1_000_000)]
        engine.release_quarantined(run)
        with engine.store.reading() as reads:
            assert run.job_id in [job.job_id for job in reads.stalled(limit=1_000_000)]


def test_a_quarantined_run_of_the_dead_holds_no_slot(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner = world.open_engine("dead")
        owner.define_queue("narrow", slots=1)
        run = owner.run_new(queue="narrow")
        engine = world.engine("next")
        engine.judge(owner)
        engine.do(engine.quarantining(run))
        engine.open_gate()
        with engine.store.reading() as reads:
            assert reads.queue_load("narrow") == {}
        engine.claim(engine.submit(queue="narrow"), limits=[QueueLimit("narrow", None, 1)])


def test_a_job_is_quarantined_once_and_released_once(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit()
        engine.do(engine.quarantining(job))
        [twice] = engine.outcomes(engine.quarantining(job))
        assert refused(twice)
        engine.release_quarantined(job)
        with pytest.raises(Conflict):
            engine.release_quarantined(job)
        with engine.store.reading() as reads:
            assert job.job_id not in [row.job_id for row in reads.quarantine()]
            [row] = reads.quarantine(job.job_id)
        assert row.released_at == world.clock.now_ms()
        engine.do(engine.quarantining(job))
        assert world.event_types(job) == ["job_accepted", "row_quarantined", "row_released", "row_quarantined"]


def test_an_operator_may_end_a_quarantined_job(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, run, engine = crash(world)
        engine.judge(owner)
        engine.do(engine.quarantining(run))
        engine.open_gate()
        engine.end(run, "fail", force=True)
        assert (world.job(run).state, world.run(run).state) == (JobState.FAILED, RunState.FAILED)


# receipts


def test_a_receipt_is_what_was_written(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.engine()
        engine.finish_recovery(scanned=3, stalled=2, in_doubt=1, quarantined=1)
        with engine.store.reading() as reads:
            [receipt] = [each for each in reads.recoveries(limit=0) if each.engine_id == engine.id]
        assert (receipt.recovery_id, receipt.scanned, receipt.stalled) == (engine.recovery_id, 3, 2)
        assert (receipt.in_doubt, receipt.quarantined, receipt.duration_ms) == (1, 1, 0)


def test_the_engines_to_judge_are_the_live_the_silent_and_those_with_runs_left(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        alive, silent, judge = world.open_engine(), world.open_engine(), world.open_engine("judge")
        dead_with_runs, dead, stopped, client = (
            world.open_engine(),
            world.open_engine(),
            world.open_engine(),
            world.client(),
        )
        dead_with_runs.run_new()
        client.submit()
        stopped.close()
        judge.judge(silent, Verdict.SILENT)
        judge.judge(dead)
        judge.judge(dead_with_runs)
        with judge.store.reading() as reads:
            found = {row.engine_id: row.state for row in reads.engines_to_judge()}
        mine = {e.id for e in (alive, silent, judge, dead_with_runs, dead, stopped, client)}
        assert {engine_id: state for engine_id, state in found.items() if engine_id in mine} == {
            alive.id: EngineState.LIVE,
            silent.id: EngineState.SILENT,
            judge.id: EngineState.LIVE,
            dead_with_runs.id: EngineState.DEAD,
        }


def test_an_event_alone_changes_nothing_else(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        before = world.snapshot(run)
        engine.do(Tell(payload=ev.EngineLagging(lag_ms=5), who=engine.who))
        assert world.snapshot(run) == before
        assert world.told_by(engine)[-1].type == "engine_lagging"
