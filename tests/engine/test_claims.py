"""What is claimed, by whom, and in which order: slots, threads, priority, time, kinds and queues."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import in_process, place  # noqa: F401 - fixtures
from tests.process.probes import Probe

from relight import Client, Engine, Queue
from relight.model import JobState

# ruff: noqa: F811 - fixtures are imported by name
Start = Callable[..., Engine]


def most_at_once(place: Place, *, of_engine: str | None = None) -> int:
    """How many jobs ran at the same time, at most, by the order of the record."""
    running, most = set(), 0
    for event in place.events():
        if of_engine is not None and event.writer_id != of_engine:
            continue
        if event.type == "run_started":
            running.add(event.job_id)
        elif event.type in ("job_completed", "job_failed", "job_cancelled", "run_suspended", "workflow_recovery"):
            running.discard(event.job_id)
        most = max(most, len(running))
    return most


class TestSlots:
    def test_an_engine_runs_no_more_jobs_than_it_has_slots(self, in_process: Start, place: Place) -> None:
        engine = in_process(slots=5)
        engine.submit_many([flows.three.bind(n) for n in range(40)])
        flows.doors["hold"].wait_until_inside(5)
        assert engine.health()["running"] == 5
        flows.doors["hold"].open()
        place.ended(40)
        assert most_at_once(place) == 5

    def test_sync_jobs_take_threads_and_async_jobs_do_not(self, in_process: Start, place: Place) -> None:
        engine = in_process(slots=50, threads=3)
        engine.submit_many([flows.three_in_thread.bind(n) for n in range(10)])
        engine.submit_many([flows.three.bind(n) for n in range(10, 20)])
        flows.doors["hold"].wait_until_inside(13)
        running = place.jobs(JobState.RUNNING)
        assert sorted(job.kind for job in running) == ["three"] * 10 + ["three_in_thread"] * 3
        flows.doors["hold"].open()
        place.ended(20)

    def test_a_queues_slots_hold_over_two_engines(self, place: Place) -> None:
        queues = {"narrow": {"slots": 4}}
        both = [place.engine(queues=queues, slots=3) for _ in range(2)]
        both[0]("submit", kind="three", numbers=list(range(60)), queue="narrow")
        place.eventually(lambda: len(place.jobs(JobState.RUNNING)) == 4, "four run: not all in one engine")
        for child in both:
            child("inside", door="hold", count=1)
            child("open", door="hold")
        place.ended(60)
        assert most_at_once(place) == 4
        assert len({event.writer_id for event in place.events("run_started")}) == 2, "both took part"
        place.assert_sound()

    def test_a_slot_that_another_engine_took_in_the_meantime_is_not_taken_twice(
        self, in_process: Start, place: Place
    ) -> None:
        """A claim was decided while the queue's slot was free, and is written when it no longer is."""
        flows.doors["hold"].open()
        probe = Probe()
        slow = in_process(probe=probe, workflows=[flows.three], queues=[Queue("narrow", slots=1)], lease_seconds=0.5)
        place.eventually(lambda: slow.health()["ok"], "the gate opens")
        quick = place.engine(kinds=["side"])
        probe.hold("before_commit")
        probe.wait_held("before_commit")
        with Client(place.store, workflows=flows.ALL) as client:
            decided = client.submit(flows.three, 1, queue="narrow")
            place.eventually(lambda: slow._engine and slow._engine.claiming, "the claim is decided")
            taken = client.submit(flows.side, 2, queue="narrow")
        quick("inside", door="side", count=1)
        probe.let_go()
        place.eventually(lambda: slow._engine and not slow._engine.claiming, "the claim is refused")
        assert [job.job_id for job in place.jobs(JobState.RUNNING)] == [taken.id]
        quick("open", door="side")
        place.ended(2)
        assert most_at_once(place) == 1
        assert [event.job_id for event in place.events("run_started")] == [taken.id, decided.id]
        place.assert_sound()

    def test_a_queues_slots_in_each_engine_hold_in_each(self, place: Place) -> None:
        queues = {"narrow": {"per_engine_slots": 3}}
        both = [place.engine(queues=queues, slots=50) for _ in range(2)]
        both[0]("submit", kind="three", numbers=list(range(20)), queue="narrow")
        for child in both:
            child("inside", door="hold", count=3)
        assert len(place.jobs(JobState.RUNNING)) == 6
        for child in both:
            child("open", door="hold")
        place.ended(20)
        for row in place.engines():
            assert most_at_once(place, of_engine=row.engine_id) == 3
        place.assert_sound()

    def test_a_queue_without_slots_starts_nothing(self, in_process: Start, place: Place) -> None:
        engine = in_process(queues=[Queue("shut", slots=0)])
        shut = engine.submit(flows.count_up, 1, queue="shut")
        assert engine.submit(flows.count_up, 2).result(timeout_seconds=60) == 3
        assert shut.state() is JobState.QUEUED

    def test_slots_freed_by_a_crash_are_free_again_after_recovery(self, place: Place) -> None:
        queues = {"narrow": {"slots": 2}}
        first = place.engine(queues=queues)
        first("submit", kind="three", numbers=list(range(6)), queue="narrow")
        first("inside", door="hold", count=2)
        first.kill()
        place.engine(queues=queues, doors_open=["hold"])
        place.ended(6)
        assert most_at_once(place) == 2
        place.assert_sound()


class TestOrder:
    @pytest.fixture
    def known(self, in_process: Start, place: Place) -> None:
        in_process().stop()

    def started(self, place: Place) -> list[str | None]:
        return [event.job_id for event in place.events("run_started")]

    def test_the_higher_priority_runs_first_and_among_equals_the_earlier(
        self, in_process: Start, place: Place, known: None
    ) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            low = client.submit(flows.count_up, 0, priority=-1)
            usual = [client.submit(flows.count_up, n) for n in range(3)]
            high = client.submit(flows.count_up, 9, priority=7)
            other_queue = client.submit(flows.count_up, 10, priority=3, queue="other")
        in_process(slots=1, threads=1)
        place.ended(6)
        assert self.started(place) == [high.id, other_queue.id, *[job.id for job in usual], low.id]

    def test_a_full_engine_takes_the_urgent_job_that_comes_later_first(self, in_process: Start, place: Place) -> None:
        engine = in_process(slots=1)
        running = engine.submit(flows.three, 0)
        flows.doors["hold"].wait_until_inside(1)
        usual = engine.submit(flows.count_up, 1)
        urgent = engine.submit(flows.count_up, 2, priority=1)
        flows.doors["hold"].open()
        place.ended(3)
        assert self.started(place) == [running.id, urgent.id, usual.id]

    def test_a_job_is_not_started_before_its_time(self, in_process: Start, place: Place) -> None:
        engine = in_process()
        now = datetime.now(UTC)
        delayed = engine.submit(flows.count_up, 1, delay_seconds=0.3)
        later = engine.submit(flows.count_up, 2, run_at=now + timedelta(seconds=0.2))
        past = engine.submit(flows.count_up, 3, run_at=now - timedelta(days=1))
        never = engine.submit(flows.count_up, 4, delay_seconds=3600)
        for job in (delayed, later, past):
            assert job.result(timeout_seconds=60) == 3
        for job in (delayed, later):
            accepted, started = place.events("job_accepted", "run_started", job_id=job.id)
            ready_at = payload(accepted)["ready_at"]
            assert accepted.ts < ready_at <= started.ts
        assert never.state() is JobState.QUEUED and not place.events("run_started", job_id=never.id)

    def test_a_job_whose_time_came_while_nothing_ran_is_started_at_once(
        self, in_process: Start, place: Place, known: None
    ) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            job = client.submit(flows.count_up, 1, delay_seconds=0.05)
            place.eventually(
                lambda: datetime.now(UTC).timestamp() * 1000 > (place.job(job.id).ready_at or 0), "its time"
            )
            assert job.state() is JobState.QUEUED
        assert in_process().job(job.id, type=int).result(timeout_seconds=60) == 3


class TestWho:
    def test_an_engine_takes_only_kinds_that_it_knows_and_queues_that_it_consumes(
        self, in_process: Start, place: Place
    ) -> None:
        in_process(workflows=flows.ALL).stop()
        with Client(place.store, workflows=flows.ALL) as client:
            unknown = client.submit(flows.three, 1)
            elsewhere = client.submit(flows.count_up, 2, queue="elsewhere")
            ours = client.submit(flows.count_up, 3, queue="ours")
        engine = in_process(workflows=[flows.count_up], consume=["ours"])
        assert engine.job(ours.id, type=int).result(timeout_seconds=60) == 3
        assert {job.job_id for job in place.jobs(JobState.QUEUED)} == {unknown.id, elsewhere.id}
        assert engine.health()["ok"]

    def test_two_engines_never_run_one_job_at_once(self, place: Place) -> None:
        both = [place.engine(slots=8, threads=8) for _ in range(2)]
        for child in both:
            child("submit", kind="count_up", numbers=list(range(100)))
        place.ended(200)
        assert len(place.events("run_started")) == 200
        assert all(times == 2 for times in place.witness.counts().values()), "each number was submitted twice"
        place.assert_sound()

    def test_a_claim_that_another_engine_was_quicker_with_costs_that_job_only(
        self, in_process: Start, place: Place
    ) -> None:
        """Both engines read the same candidates; whoever is second is refused, and claims what is left."""
        probe = Probe()
        slow = in_process(probe=probe, slots=4)
        place.eventually(lambda: slow.health()["ok"], "the gate opens")
        other = place.engine(doors_open=["hold"], slots=2)
        probe.hold("before_commit", at=probe.seen["before_commit"] + 1)
        with Client(place.store, workflows=flows.ALL) as client:
            client.submit_many([flows.three.bind(n) for n in range(20)])
            place.eventually(lambda: place.states().get(JobState.COMPLETED, 0) >= 18, "the other one has most")
            flows.doors["hold"].open()
            probe.let_go()
            place.ended(20)
        assert len(place.events("run_started")) == 20
        assert other("health")["ok"] and slow.health()["ok"]
        assert slow.submit(flows.count_up, 1).result(timeout_seconds=60) == 3
        place.assert_sound()

    def test_a_job_that_was_claimed_and_could_not_be_started_is_put_away_and_claimed_again(
        self, in_process: Start, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = in_process(lease_seconds=0.5)
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        incarnation = engine._engine
        assert incarnation is not None
        start_runs = incarnation.start_runs

        def refuse_once(claimed: object) -> None:
            monkeypatch.setattr(incarnation, "start_runs", start_runs)
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(incarnation, "start_runs", refuse_once)
        job = engine.submit(flows.count_up, 1)
        assert job.result(timeout_seconds=60) == 3
        [away] = place.events("run_suspended", job_id=job.id)
        assert payload(away)["reason"] == "lost" and place.job(job.id).attempt == 1
        assert engine.health()["ok"] and engine.health()["fenced_times"] == 0
        place.assert_sound()

    def test_a_claim_lost_to_a_full_journal_is_made_later(
        self, in_process: Start, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = in_process()
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        incarnation = engine._engine
        assert incarnation is not None
        monkeypatch.setattr(incarnation.journal, "_capacity", 0)
        with Client(place.store, workflows=flows.ALL) as client:
            jobs = client.submit_many([flows.count_up.bind(n) for n in range(3)])
        place.eventually(lambda: incarnation.claiming == 0, "the claims came to nothing")
        monkeypatch.undo()
        for job in jobs:
            assert engine.job(job.id, type=int).result(timeout_seconds=60) == 3
