"""Submits and claims: one job for each key, one run at a time, in line, within the limits, and only what is due."""

from __future__ import annotations

import pytest

from relight.conformance.world import ANN, Engine, StoreFactory, World
from relight.core.commands import JobRef
from relight.core.commands import steering as cs
from relight.core.queue_rows import QueueLimit
from relight.errors import Conflict
from relight.model import JobState, RunState
from relight.store.reads import EventFilter


def refused(error: BaseException | None) -> bool:
    """Tell whether a command was refused by a precondition."""
    return isinstance(error, Conflict) and bool(error.fields.get("op"))


# submits


def test_a_submitted_job_is_queued_and_told(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        job = world.client().submit("census", queue="q", priority=3, tags='{"a":"b"}', deadline_at=9)
        row = world.job(job)
        assert (row.state, row.status_reason, row.queue, row.priority) == (JobState.QUEUED, "submitted", "q", 3)
        assert (row.claimable, row.begun, row.attempt, row.run_id, row.tags) == (True, False, 1, None, '{"a":"b"}')
        assert (row.created_at, row.updated_at, row.completed_at) == (world.clock.now_ms(), world.clock.now_ms(), None)
        assert row.metrics.startswith('{"duration_ms":0')
        assert (row.access_mode, row.safety_mode, row.entity_refs) == ("analysis_only", "normal", "[]")
        assert world.event_types(job) == ["job_accepted"]


def test_a_key_belongs_to_one_job_of_a_kind(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        first, second = world.client(), world.client()
        job = first.submit("census", idempotency_key="k")
        again = second.submission("census", idempotency_key="k")
        [error] = second.outcomes(again)
        assert refused(error)
        assert world.find(again.job_id) is None
        other = second.submit("other", idempotency_key="k")
        without = [second.submit("census"), second.submit("census")]
        assert len({job.job_id, other.job_id, *(each.job_id for each in without)}) == 4
        with world.store.reading() as reads:
            owner = reads.job_by_key("census", "k")
            assert owner is not None and owner.job_id == job.job_id
            assert [row.job_id for row in reads.jobs_by_keys("census", ["k", "none"])] == [job.job_id]
            assert reads.job_by_key("census", "none") is None


def test_of_one_key_twice_in_a_batch_the_first_wins(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        commands = [client.submission("census", idempotency_key=key) for key in ("a", "k", "k", "b", "k")]
        assert [refused(error) for error in client.outcomes(*commands)] == [False, False, True, False, True]


def test_a_key_stays_its_job_s_after_the_end(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        engine.finish(engine.run_new(idempotency_key="k"))
        [error] = engine.outcomes(engine.submission(idempotency_key="k"))
        assert refused(error)


def test_a_child_is_taken_while_its_parent_lives_and_not_after(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        parent = engine.run_new()
        child = engine.start_child(parent)
        assert world.job(child).parent_job_id == parent.job_id
        engine.finish(parent)
        [error] = engine.outcomes(engine.submission("child", parent_job_id=parent.job_id))
        assert refused(error)
        with world.store.reading() as reads:
            assert [row.job_id for row in reads.orphans([parent.job_id])] == [child.job_id]
            assert parent.job_id in reads.open_parents()
        engine.end(child)
        with world.store.reading() as reads:
            assert reads.orphans([parent.job_id]) == []


# claims


def test_a_claim_starts_one_run(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, other = world.open_engine(), world.open_engine("other")
        job = engine.submit()
        late = other.claiming(job)
        run = engine.claim(job)
        row = world.job(job)
        assert (row.state, row.status_reason, row.run_id, row.begun) == (JobState.RUNNING, "claimed", run.run_id, True)
        assert (row.claimable, row.ready_at) == (False, None)
        started = world.run(run)
        assert (started.engine_id, started.attempt, started.state) == (engine.id, 1, RunState.RUNNING)
        before = world.snapshot(job)
        for writer, command in ((other, late), (engine, engine.claiming(job))):
            [error] = writer.outcomes(command)
            assert refused(error)
        assert world.snapshot(job) == before


def test_two_claims_of_one_job_in_one_batch_start_one_run(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job, other = engine.submit(), engine.submit()
        commands = [engine.claiming(job), engine.claiming(job), engine.claiming(other)]
        assert [refused(error) for error in engine.outcomes(*commands)] == [False, True, False]
        assert len(world.snapshot(job).runs) == 1


@pytest.mark.parametrize("early_ms", [1, 1000])
def test_a_job_is_claimed_when_it_is_due_and_not_before(store_factory: StoreFactory, early_ms: int) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        due = world.clock.now_ms() + early_ms
        job = engine.submit(queue="due", ready_at=due)
        with world.store.reading() as reads:
            assert reads.claimable("due", ["census"], due - 1, 9) == []
        [error] = engine.outcomes(engine.claiming(job))
        assert refused(error)
        with world.store.reading() as reads:
            first, _ = reads.next_due()
        assert first is not None and first <= due
        world.clock.advance(early_ms)
        engine.wake_due()
        with world.store.reading() as reads:
            assert [row.job_id for row in reads.claimable("due", ["census"], due, 9)] == [job.job_id]
        engine.claim(job)


def test_a_claim_expects_the_attempt_it_was_decided_on(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit()
        for attempt in (2, 3):
            [error] = engine.outcomes(engine.claiming(job, attempt=attempt))
            assert refused(error)
        engine.claim(job)


def test_an_attempt_is_a_stall_or_a_retry_and_not_a_sleep(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        owner, engine = world.open_engine("dead"), world.open_engine()
        job = owner.submit()
        owner.put_away(owner.claim(job), ready_at=world.clock.now_ms())
        run = owner.claim(job)
        assert (world.job(job).attempt, world.run(run).attempt) == (1, 1)
        engine.recover(owner)
        engine.resume_by_policy(job)
        run = engine.claim(job)
        assert (world.job(job).attempt, world.run(run).attempt) == (2, 2)
        engine.finish(run, JobState.FAILED)
        engine.retry(run)
        assert world.run(engine.claim(job)).attempt == 3
        assert [each.attempt for each in world.snapshot(job).runs] == [1, 1, 2, 3]


def test_jobs_wait_in_line_by_priority_then_time_then_id(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        now = world.clock.now_ms()
        late = client.submit(queue="line", ready_at=now)
        first_id = client.submit(queue="line", ready_at=now - 5)
        second_id = client.submit(queue="line", ready_at=now - 5)
        urgent = client.submit(queue="line", priority=1)
        idle = client.submit(queue="line", priority=-1, ready_at=now - 9)
        elsewhere = client.submit(queue="elsewhere", priority=9)
        unknown = client.submit("unknown", queue="line", priority=9)
        with world.store.reading() as reads:
            line = [job.job_id for job in reads.claimable("line", ["census", "none"], now, 10)]
            assert line == [job.job_id for job in (urgent, first_id, second_id, late, idle)]
            assert reads.claimable_ids("line", ["census"], now, 10) == line
            assert [job.job_id for job in reads.claimable("line", ["census"], now, 2)] == line[:2]
            assert [reads.ahead_in_line(world.job(job_id)) for job_id in line] == [1, 2, 3, 4, 5]
            assert reads.ahead_in_line(world.job(unknown)) == 0
            assert reads.claimable("line", [], now, 10) == []
            assert {"line", "elsewhere"} <= set(reads.claimable_queues())
            assert reads.claimable_queues() == sorted(reads.claimable_queues())
            assert reads.claimable_ids("elsewhere", ["census"], now, 10) == [elsewhere.job_id]


# versions


def test_a_job_that_has_begun_is_left_to_its_own_version(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit(queue="versions", version="1")
        now = world.clock.now_ms()
        engine.put_away(engine.claim(job), ready_at=now)
        assert world.job(job).version == "1"

        def found(*versions: tuple[str, str | None]) -> list[str]:
            with world.store.reading() as reads:
                return [each.job_id for each in reads.claimable("versions", ["census"], now, 9, versions=versions)]

        assert found(("census", "2"), ("census", None), ("other", "1")) == []
        assert found(("census", "2"), ("census", "1")) == [job.job_id]
        for other in ("2", None):
            [error] = engine.outcomes(engine.claiming(job, version=other))
            assert refused(error)
        engine.claim(job)


def test_a_job_goes_on_under_another_version_only_by_an_operator_s_word(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        now = world.clock.now_ms()
        fresh = engine.submit(queue="versions", version="1")
        job = engine.submit(queue="versions", version="1")
        run = engine.claim(job)

        def route(ref: JobRef, seen: str | None, version: str | None) -> BaseException | None:
            [error] = world.client().outcomes(cs.AcceptVersion(job=ref, seen=seen, version=version, who=ANN))
            return error

        assert refused(route(run, "1", "2")), "not while it runs"
        engine.put_away(run, ready_at=now)
        assert refused(route(fresh, "1", "2")), "one that has not begun has no version yet"
        assert refused(route(job, None, "2")) and refused(route(job, "2", "3")), "it has another version"
        assert route(job, "1", None) is None and world.job(job).version is None
        assert route(job, None, "2") is None and world.job(job).version == "2"
        with world.store.reading() as reads:
            of_job = EventFilter(job_id=job.job_id, types=("version_accepted",))
            told = [event.payload for event in reads.events(of_job)]
        assert told == [
            '{"recorded_version":"1","now_version":null}',
            '{"recorded_version":null,"now_version":"2"}',
        ]
        [error] = engine.outcomes(engine.claiming(job, version="1"))
        assert refused(error)
        engine.claim(job, version="2")


def test_keys_take_turns_among_the_versions_that_an_engine_has(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        now = world.clock.now_ms()
        begun = {
            version: engine.submit(queue="turns", version=version, partition_key=f"k{version}", priority=int(version))
            for version in ("1", "2")
        }
        for version, job in begun.items():
            engine.put_away(engine.claim(job, version=version), ready_at=now)
        fresh = engine.submit(queue="turns", version="1", partition_key="k1")

        def found(*versions: tuple[str, str | None]) -> list[tuple[int, list[str], list[str]]]:
            """Walk a queue as a claim does: each priority, its keys, their jobs."""
            walk: list[tuple[int, list[str], list[str]]] = []
            kinds = ["census"]
            with world.store.reading() as reads:
                below = reads.priority_below("turns", kinds, 1 << 31, versions=versions)
                while below is not None:
                    parts = reads.partitions_in_turn("turns", below, kinds, 9, versions=versions)
                    jobs = reads.claimable_of("turns", below, parts, kinds, 9, versions=versions)
                    walk.append((below, parts, [job.job_id for job in jobs]))
                    below = reads.priority_below("turns", kinds, below, versions=versions)
            return walk

        new = (0, ["k1"], [fresh.job_id])
        assert found(("census", "2")) == [(2, ["k2"], [begun["2"].job_id]), new]
        assert found(("census", "1")) == [(1, ["k1"], [begun["1"].job_id]), new]
        assert found(("census", None)) == [new]
        assert len(found(("census", "1"), ("census", "2"))) == 3


def test_a_job_that_has_not_begun_takes_the_version_that_it_is_claimed_under(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        now = world.clock.now_ms()
        for submitted, claimed in (("1", "2"), (None, "2"), ("2", None), ('a"b\\ é', 'a"b\\ é')):
            job = engine.submit(queue="versions", version=submitted)
            with world.store.reading() as reads:
                assert [each.job_id for each in reads.claimable("versions", ["census"], now, 9, versions=[])] == [
                    job.job_id
                ]
            run = engine.claim(job, version=claimed)
            assert world.job(job).version == claimed
            engine.put_away(run, ready_at=now)
            with world.store.reading() as reads:
                mine = reads.claimable("versions", ["census"], now, 9, versions=[("census", claimed)])
                assert [each.job_id for each in mine] == [job.job_id]
            engine.finish(engine.claim(job))


def test_jobs_under_way_are_counted_by_version(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        for version in ("1", "1", "2", None):
            engine.claim(engine.submit("counted", version=version), version=version)
        engine.submit("counted", version="3")
        engine.finish(engine.claim(engine.submit("counted", version="1")))
        with world.store.reading() as reads:
            found = [each for each in reads.begun_versions() if each[0] == "counted"]
        assert found == [("counted", None, 1), ("counted", "1", 2), ("counted", "2", 1)]


# limits


def limited(engine: Engine, queue: str, *, slots: int | None = None, mine: int | None = None) -> list[QueueLimit]:
    """Return the limits that a claimer puts into its claims."""
    found = [] if slots is None else [QueueLimit(queue, None, slots)]
    return found if mine is None else [*found, QueueLimit(queue, engine.id, mine)]


def claims(engine: Engine, jobs: list[JobRef], limits: list[QueueLimit]) -> list[bool]:
    """Claim jobs in one batch; tell which were claimed."""
    return [error is None for error in engine.outcomes(*(engine.claiming(job, limits=limits) for job in jobs))]


def test_a_queue_s_slots_hold_over_all_engines(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, other = world.open_engine(), world.open_engine("other")
        jobs = [engine.submit(queue="two") for _ in range(6)]
        limits = limited(engine, "two", slots=2)
        assert claims(engine, jobs[:1], limits) == [True]
        assert claims(other, jobs[1:4], limits) == [True, False, False]
        assert claims(engine, jobs[2:3], limits) == [False]
        with world.store.reading() as reads:
            assert reads.queue_load("two") == {engine.id: 1, other.id: 1}
            assert [job_id for job_id, _ in reads.slot_holders("two")] == [jobs[0].job_id, jobs[1].job_id]
        assert claims(engine, [engine.submit(queue="free")], limited(engine, "free", slots=1)) == [True]


@pytest.mark.parametrize("how", ["finish", "put away", "await a person", "stall"])
def test_a_slot_is_free_once_its_run_has_ended(store_factory: StoreFactory, how: str) -> None:
    with World(store_factory) as world:
        engine, owner = world.open_engine(), world.open_engine("owner")
        run = owner.run_new(queue="one")
        waiting = engine.submit(queue="one")
        limits = limited(engine, "one", slots=1)
        assert claims(engine, [waiting], limits) == [False]
        match how:
            case "finish":
                owner.finish(run)
            case "put away":
                owner.put_away(run)
            case "await a person":
                owner.await_user(run, owner.ask(run))
            case _:
                engine.recover(owner)
        assert claims(engine, [waiting], limits) == [True]


def test_an_engine_s_own_slots_are_its_own(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine, other = world.open_engine(), world.open_engine("other")
        jobs = [engine.submit(queue="each") for _ in range(5)]
        assert claims(engine, jobs[:3], limited(engine, "each", slots=3, mine=1)) == [True, False, False]
        assert claims(other, jobs[1:], limited(other, "each", slots=3, mine=2)) == [True, True, False, False]
        assert claims(engine, jobs[3:], limited(engine, "each", slots=3, mine=9)) == [False, False]


def test_a_queue_s_definition_is_the_last_one_given(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        engine.define_queue("defined", slots=3)
        engine.define_queue("defined", slots=5, per_engine_slots=2)
        with world.store.reading() as reads:
            [found] = [queue for queue in reads.queues() if queue.queue == "defined"]
        assert (found.slots, found.per_engine_slots, found.paused) == (5, 2, False)
