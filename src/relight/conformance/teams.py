"""What many share: rates, turns of partition keys, queues that are defined and steered, forks, accepted mismatches."""

from __future__ import annotations

import pytest

from relight.conformance.world import ANN, Engine, StoreFactory, World
from relight.core.commands import Command, JobRef
from relight.core.commands import jobs as cj
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.queue_rows import TakeTurn
from relight.core.terms import RateTerms, is_ahead, rate_room, terms_of
from relight.errors import Conflict, IllegalTransition
from relight.ids import JobId, StepKey
from relight.model import JobState, QueueRecord, StepState

RATE = RateTerms(3, 1000)


def starts(engine: Engine, queue: str, count: int, rate: RateTerms = RATE) -> list[bool]:
    """Claim so many new jobs in one batch; tell which were started."""
    commands = [engine.claiming(engine.submit(queue=queue), rate=(queue, rate)) for _ in range(count)]
    return [error is None for error in engine.outcomes(*commands)]


def room(world: World, queue: str, rate: RateTerms = RATE) -> tuple[int, int | None]:
    """Return what a claimer would find."""
    with world.store.reading() as reads:
        return rate_room(rate, reads.rate_window(queue, rate.n, 10), world.clock.now_ms(), 10)


# rates


def test_a_rate_holds_over_all_engines_in_any_window(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, other = world.open_engine(), world.open_engine("other")
        begin = world.clock.now_ms()
        assert room(world, "paced") == (3, None) or room(world, "paced")[0] == 3
        assert starts(engine, "paced", 2) == [True, True]
        world.clock.advance(600)
        assert starts(other, "paced", 3) == [True, False, False]
        assert room(world, "paced") == (0, begin + 1000)
        world.clock.advance(399)
        assert starts(engine, "paced", 1) == [False]
        world.clock.advance(1)
        assert room(world, "paced") == (2, begin + 1600)
        assert starts(engine, "paced", 3) == [True, True, False]
        assert starts(engine, "free", 1) == [True], "another queue has a rate of its own"
        world.clock.advance(600)
        assert starts(other, "paced", 2) == [True, False]


def test_what_a_rate_refuses_leaves_its_job_queued(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        one = RateTerms(1, 50)
        assert starts(engine, "one", 1, one) == [True]
        job = engine.submit(queue="one")
        before = world.snapshot(job)
        [error] = engine.outcomes(engine.claiming(job, rate=("one", one)))
        assert isinstance(error, Conflict) and error.fields["op"] == "rate_limits"
        assert world.snapshot(job) == before
        world.clock.advance(50)
        engine.claim(job, rate=("one", one))


@pytest.mark.parametrize("back_ms", [1, 500, 1000, 86_400_000])
def test_a_clock_set_back_neither_breaks_a_rate_nor_freezes_it(store_factory: StoreFactory, back_ms: int) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        assert starts(engine, "paced", 3) == [True] * 3
        world.clock.advance(-back_ms)
        assert starts(engine, "paced", 1) == [False], "the window is still full"
        most = min(back_ms, RATE.per_ms) + RATE.per_ms
        free, until = room(world, "paced")
        assert free == 0 and until is not None and until <= world.clock.now_ms() + most
        with world.store.reading() as reads:
            ahead = is_ahead(RATE, reads.rate_window("paced", RATE.n, 1), world.clock.now_ms())
        assert ahead == (back_ms > RATE.per_ms)
        if ahead:
            engine.do(cq.RewindRates(queues=("paced", "none")))
            assert starts(engine, "paced", 1) == [False], "nothing is forgotten"
        world.clock.advance(most)
        assert starts(engine, "paced", 4) == [True] * 3 + [False]


def test_a_rate_that_is_wider_now_counts_what_it_knows(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        assert starts(engine, "paced", 3) == [True] * 3
        wide = RateTerms(5, 1000)
        assert room(world, "paced", wide)[0] == 2
        assert starts(engine, "paced", 3, wide) == [True, True, False]
        narrow = RateTerms(1, 1000)
        assert room(world, "paced", narrow)[0] == 0
        assert starts(engine, "paced", 1, narrow) == [False]
        world.clock.advance(1000)
        assert starts(engine, "paced", 2, narrow) == [True, False]


# turns


def parts(world: World, queue: str, limit: int = 10) -> list[str]:
    """Return whose turn it is, in order."""
    with world.store.reading() as reads:
        return reads.partitions_in_turn(queue, 0, ["census"], limit)


def test_partition_keys_take_turns_from_behind_the_one_served_last(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        jobs = {key: [engine.submit(queue="fair", partition_key=key) for _ in range(2)] for key in ("a", "b", "c")}
        loose = engine.submit(queue="fair")
        hidden = engine.submit("unknown", queue="fair", partition_key="aa")
        with world.store.reading() as reads:
            assert "fair" in reads.partitioned_queues()
            assert reads.priority_below("fair", ["census"], 1 << 31) == 0
            assert reads.priority_below("fair", ["census"], 0) is None
            assert reads.priority_below("fair", ["none"], 1 << 31) is None
        assert parts(world, "fair") == ["a", "b", "c", ""]
        assert parts(world, "fair", 2) == ["a", "b"]
        engine.claim(jobs["a"][0], turn=TakeTurn("fair", 0, "a"))
        assert parts(world, "fair") == ["b", "c", "", "a"]
        engine.do(
            engine.claiming(jobs["b"][0], turn=TakeTurn("fair", 0, "b")),
            engine.claiming(jobs["c"][0], turn=TakeTurn("fair", 0, "c")),
        )
        assert parts(world, "fair") == ["", "a", "b", "c"], "of two turns in one batch the last stands"
        engine.claim(loose, turn=TakeTurn("fair", 0, ""))
        assert parts(world, "fair") == ["a", "b", "c"]
        with world.store.reading() as reads:
            found = reads.claimable_of("fair", 0, ["c", "a"], ["census"], 9)
            assert [job.job_id for job in found] == [jobs["c"][1].job_id, jobs["a"][1].job_id]
            line = [world.job(jobs[key][1]) for key in ("a", "c")]
            assert [reads.ahead_in_line(job) for job in line] == [0, 0], "keys do not stand in each other's line"
            assert hidden.job_id in reads.claimable_ids("fair", ["unknown"], 0, 10)


def test_what_is_set_aside_takes_no_turn(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        bad = engine.submit(queue="fair", partition_key="a")
        good = engine.submit(queue="fair", partition_key="b")
        engine.do(engine.quarantining(bad))
        assert parts(world, "fair") == ["b"]
        engine.claim(good)
        assert parts(world, "fair") == []


# queues


def seen_queue(world: World, queue: str) -> QueueRecord | None:
    """Return a queue's row."""
    with world.store.reading() as reads:
        return next((each for each in reads.queues() if each.queue == queue), None)


def steering(world: World, queue: str, *, paused: bool = False, **override: object) -> Command:
    """Return an operator's act on a queue as it is now."""
    seen = seen_queue(world, queue)
    return cq.SteerQueue(queue=queue, seen=seen, paused=paused, override=override, who=ANN)


def test_an_override_stays_whoever_defines_the_queue_until_it_is_cleared(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        first, second = world.open_engine("first"), world.open_engine("second")
        first.define_queue("gpu", slots=3, rate='{"n":2,"per_seconds":1}')
        world.client().do(steering(world, "gpu", slots=1))
        second.define_queue("gpu", slots=5)
        found = seen_queue(world, "gpu")
        assert found is not None
        assert (found.slots, found.rate, found.defined_by, found.override_by) == (5, None, "second", "ann")
        assert (terms_of(found).slots, terms_of(found).rate) == (1, None)
        assert found.previous is not None and '"slots":3' in found.previous and '"by":"first"' in found.previous
        world.client().do(steering(world, "gpu"))
        assert terms_of(seen_queue(world, "gpu")).slots == 5


def test_a_queue_nobody_defined_can_be_paused(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        world.client().do(steering(world, "bare", paused=True))
        found = seen_queue(world, "bare")
        assert found is not None and (found.paused, found.defined_by, found.revision) == (True, None, 1)
        engine.define_queue("bare", slots=2)
        found = seen_queue(world, "bare")
        assert found is not None and (found.paused, found.defined_by, found.previous) == (True, "engine", None)


def test_what_follows_another_revision_than_the_present_one_is_refused(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        for _ in range(2):
            defined, steered = engine.defining_queue("gpu", slots=1), steering(world, "gpu", paused=True)
            engine.do(engine.defining_queue("gpu", slots=2))
            before = seen_queue(world, "gpu")
            for late in (defined, steered):
                [error] = engine.outcomes(late)
                assert isinstance(error, Conflict)
            assert seen_queue(world, "gpu") == before


def test_a_claim_decided_under_other_terms_is_refused(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        for queue in ("bare", "gpu"):
            if queue == "gpu":
                engine.define_queue("gpu", slots=5)
            seen = terms_of(seen_queue(world, queue)).revision
            job = engine.submit(queue=queue)
            late = engine.claiming(job, terms=seen)
            world.client().do(steering(world, queue, paused=True))
            [error] = engine.outcomes(late)
            assert isinstance(error, Conflict) and error.fields["op"] == "start_runs"
            engine.claim(job, terms=seen + 1)


# forks


def forking(world: World, source: JobRef, *keys: str) -> cj.ForkJob:
    """Return the command that forks a job with some of its steps."""
    new = world.client().submission(inputs=world.job(source).inputs or "{}", forked_from=source.job_id)
    steps = tuple(StepKey(key) for key in keys)
    return cj.ForkJob(source=source, new=new, from_step=None, steps=steps)


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.COMPLETED, JobState.FAILED])
def test_a_fork_takes_over_finished_steps_and_leaves_its_source_as_it_is(
    store_factory: StoreFactory, state: JobState
) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        for key in ("a#0", "b#0"):
            engine.begin(run, key)
            engine.finish_step(run, key)
        engine.begin(run, "c#0")
        if state is not JobState.RUNNING:
            engine.finish(run, state)
        before = world.snapshot(run)
        command = forking(world, run, "b#0", "a#0")
        world.client().do(command)
        fork = world.snapshot(command.new.job_id)
        assert fork.job is not None
        assert (fork.job.state, fork.job.status_reason, fork.job.begun) == (JobState.QUEUED, "forked", False)
        copies = {step.step_key: step for step in fork.steps}
        assert sorted(copies) == ["a#0", "b#0"]
        for key, copy in copies.items():
            source = world.step(run, key)
            assert copy.job_id == command.new.job_id
            assert (copy.run_id, copy.outcome, copy.args_hashes) == (source.run_id, source.outcome, source.args_hashes)
        after = world.snapshot(run)
        assert (after.job, after.steps, after.runs) == (before.job, before.steps, before.runs)
        assert [event.type for event in after.events[len(before.events) :]] == ["job_forked"]
        assert world.event_types(command.new.job_id) == ["job_accepted"]
        mine = JobRef(JobId(command.new.job_id), command.new.trace_id, "census")
        again = engine.claim(mine)
        [error] = engine.outcomes(engine.beginning(again, "a#0"))
        assert isinstance(error, Conflict), "what was taken over is finished"
        engine.begin(again, "c#0")


@pytest.mark.parametrize("key", ["open#0", "none#0"])
def test_what_is_not_finished_is_not_taken_over(store_factory: StoreFactory, key: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.begin(run, "open#0")
        command = forking(world, run, key)
        [error] = world.client().outcomes(command)
        assert isinstance(error, Conflict) and error.fields["op"] == "copy_steps"
        assert world.find(command.new.job_id) is None


# accepted mismatches


def accepted(world: World, engine: Engine, run: JobRef, *abandoned: str) -> None:
    """Accept the mismatch that stopped a job."""
    world.client().do(cs.decide_accept(world.job(run), ANN, [StepKey(key) for key in abandoned]))


def accepting(run: JobRef, key: str, hashes: str | None = '{"n":"2"}') -> ct.AcceptMismatch:
    """Return the command that goes on over a mismatch."""
    return ct.AcceptMismatch(job=run, step_key=StepKey(key), args_hashes=hashes, hashes=("1", "2"), detail="x")


def stopped(engine: Engine, code: str = "arguments") -> JobRef:
    """Return a job that a mismatch stopped, with one finished step."""
    run = engine.run_new()
    engine.begin(run, "a#0")
    engine.finish_step(run, "a#0")
    mismatch = engine.mismatching(run)
    engine.do(
        cj.PutJobAway(
            job=run,
            engine_id=engine.id,
            state=mismatch.state,
            reason=f"history_mismatch:{code}",
            ready_at=None,
            tells=mismatch.tells,
        )
    )
    return run


def test_only_a_run_that_may_accepts_and_only_for_finished_steps(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        other = engine.run_new()
        engine.begin(other, "a#0")
        engine.finish_step(other, "a#0")
        [error] = engine.outcomes(accepting(other, "a#0"))
        assert isinstance(error, Conflict) and error.fields["op"] == "accept_arguments"
        job = stopped(engine)
        accepted(world, engine, job)
        assert world.job(job).accepting
        run = engine.claim(job)
        assert world.job(run).accepting
        engine.begin(run, "b#0")
        [error] = engine.outcomes(accepting(run, "b#0"))
        assert isinstance(error, Conflict)
        before = world.step(run, "a#0")
        engine.do(accepting(run, "a#0"))
        after = world.step(run, "a#0")
        assert after.args_hashes == '{"n":"2"}'
        assert (after.outcome, after.run_id, after.state) == (before.outcome, before.run_id, StepState.COMPLETED)
        told = world.snapshot(run).events
        assert [event.type for event in told if event.type in ("job_resumed", "mismatch_accepted")] == [
            "job_resumed",
            "mismatch_accepted",
        ]
        assert next(event for event in told if event.type == "job_resumed").actor == "human"


def test_an_acceptance_lasts_until_the_run_waits_and_survives_a_crash(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, engine = world.open_engine("owner"), world.open_engine()
        job = stopped(owner)
        accepted(world, owner, job)
        owner.claim(job)
        engine.recover(owner)
        assert world.job(job).accepting
        engine.resume_by_policy(job)
        run = engine.claim(job)
        engine.put_away(run, reason="shutdown", ready_at=world.clock.now_ms())
        assert world.job(job).accepting
        run = engine.claim(job)
        engine.put_away(run, reason="waiting", ready_at=world.clock.now_ms())
        assert not world.job(job).accepting


@pytest.mark.parametrize("code", ["other_kind", "outcome", "something_new"])
def test_a_mismatch_without_a_way_on_is_not_accepted(store_factory: StoreFactory, code: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = stopped(engine, code)
        with pytest.raises(IllegalTransition, match="relight fork"):
            accepted(world, engine, job)


def test_accepting_an_abandoned_step_opens_it_again(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.begin(run, "a#0")
        engine.do(ct.AbandonStep(job=run, step_key=StepKey("a#0"), try_number=1, reason="sibling"))
        mismatch = engine.mismatching(run)
        engine.do(
            cj.PutJobAway(
                job=run,
                engine_id=engine.id,
                state=mismatch.state,
                reason="history_mismatch:abandoned",
                ready_at=None,
                tells=mismatch.tells,
            )
        )
        accepted(world, engine, run, "a#0")
        assert world.step(run, "a#0").state is StepState.BACKOFF
