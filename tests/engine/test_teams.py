"""Rates, turns and pauses as engines keep them: several processes on one file, restarts, and an operator's word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import pytest
from tests.process import flows
from tests.process.children import Place
from tests.process.fixtures import in_process, place  # noqa: F401 - fixtures

from relight import Client, Engine, Queue, Rate
from relight.errors import InvalidArgument
from relight.model import JobState

# ruff: noqa: F811 - fixtures are imported by name
Start = Callable[..., Engine]


def most_in_window(times: Sequence[int], window_ms: int) -> int:
    """Return how many times lie in any window of this length, at most."""
    ordered = sorted(times)
    return max(sum(start <= at < start + window_ms for at in ordered) for start in ordered)


def started(place: Place) -> list[int]:
    return [event.ts for event in place.events("run_started")]


class TestRates:
    def test_two_engines_never_start_more_than_the_rate_allows(self, place: Place) -> None:
        queues = {"paced": {"rate": [4, 0.5]}}
        both = [place.engine(queues=queues, slots=50, doors_open=["hold"]) for _ in range(2)]
        both[0]("submit", kind="three", numbers=list(range(14)), queue="paced")
        place.ended(14)
        times = started(place)
        assert most_in_window(times, 500) <= 4
        assert max(times) - min(times) < 20_000, "and it does not stand still either"
        place.assert_sound()

    def test_a_rate_survives_a_restart(self, in_process: Start, place: Place) -> None:
        flows.doors["hold"].open()
        queues = [Queue("paced", rate=Rate(2, 3600))]
        engine = in_process(queues=queues)
        engine.submit_many([flows.three.bind(n).options(queue="paced") for n in range(4)])
        place.ended(2)
        engine.stop()
        engine = in_process(queues=queues)
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        [waiting, _] = place.jobs(JobState.QUEUED)
        cause = engine.job(waiting.job_id).why().causes[0]
        assert cause.code == "rate_limited"
        assert cause.next_check_at is not None and "2/3600s" in cause.detail
        assert engine.submit(flows.three, 9).result(timeout_seconds=60), "other queues go on"
        assert len(place.jobs(JobState.QUEUED)) == 2
        engine.core.set_queue("paced", {"rate": None}, by="ann")
        place.ended(5)
        place.assert_sound()

    def test_what_waits_for_a_rate_starts_when_it_may_without_any_other_news(
        self, in_process: Start, place: Place
    ) -> None:
        flows.doors["hold"].open()
        engine = in_process(queues=[Queue("paced", rate=Rate(1, 0.3))])
        engine.submit_many([flows.three.bind(n).options(queue="paced") for n in range(4)])
        place.ended(4)
        assert all(after - before >= 300 for before, after in pairwise(sorted(started(place))))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Rate(0, 1),
            lambda: Rate(True, 1),
            lambda: Rate(1.5, 1),  # type: ignore[arg-type]
            lambda: Rate(1, 0),
            lambda: Rate(1, float("nan")),
            lambda: Queue("q", rate=3),  # type: ignore[arg-type]
            lambda: Queue("q", priority=1.5),  # type: ignore[arg-type]
        ],
    )
    def test_what_is_no_rate_is_refused_at_once(self, make: Callable[[], object]) -> None:
        with pytest.raises(InvalidArgument):
            make()


class TestTurns:
    @pytest.fixture
    def known(self, in_process: Start) -> None:
        in_process().stop()

    def keys_in_order(self, place: Place) -> list[str | None]:
        keys = {job.job_id: job.partition_key for job in place.jobs()}
        return [keys[event.job_id] for event in place.events("run_started") if event.job_id]  # type: ignore[index]

    def test_no_partition_key_starves_another(self, in_process: Start, place: Place, known: None) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            many = [flows.count_up.bind(n).options(partition_key="many") for n in range(30)]
            few = [flows.count_up.bind(n).options(partition_key=key) for key in ("few", "one") for n in range(2)]
            client.submit_many([*many, *few[:-1], flows.count_up.bind(1)])
        in_process(slots=1, threads=1)
        place.ended(34)
        order = self.keys_in_order(place)
        assert Counter(order[:4]) == {"many": 1, "few": 1, "one": 1, None: 1}
        assert Counter(order[4:6]) == {"many": 1, "few": 1}
        assert set(order[6:]) == {"many"}
        place.assert_sound()

    def test_turns_are_those_of_the_store_not_of_one_engine(self, in_process: Start, place: Place, known: None) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            keyed = [flows.three.bind(n).options(partition_key=key) for key in ("a", "b", "c") for n in range(3)]
            client.submit_many(keyed)
        for number in range(1, 4):
            in_process(slots=1)
            flows.doors["hold"].wait_until_inside(number)
        assert sorted(job.partition_key or "" for job in place.jobs(JobState.RUNNING)) == ["a", "b", "c"]
        flows.doors["hold"].open()
        place.ended(9)
        assert self.keys_in_order(place)[:3] == ["a", "b", "c"]
        place.assert_sound()

    def test_priority_comes_before_turns_and_the_queue_s_before_the_job_s(
        self, in_process: Start, place: Place, known: None
    ) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            last = client.submit(flows.count_up, 0, priority=9, queue="low", partition_key="x")
            usual = [client.submit(flows.count_up, n, partition_key="a") for n in range(2)]
            turn = client.submit(flows.count_up, 3, partition_key="b")
            urgent = client.submit(flows.count_up, 4, partition_key="a", priority=1)
            first = client.submit(flows.count_up, 5, queue="high", priority=-5)
        in_process(slots=1, threads=1, queues=[Queue("high", priority=2), Queue("low", priority=-1)])
        place.ended(6)
        order = [event.job_id for event in place.events("run_started")]
        assert order == [first.id, urgent.id, turn.id, usual[0].id, usual[1].id, last.id] or order == [
            first.id,
            urgent.id,
            usual[0].id,
            turn.id,
            usual[1].id,
            last.id,
        ]

    def test_slots_and_turns_hold_over_two_processes(self, place: Place) -> None:
        queues = {"fair": {"slots": 2}}
        both = [place.engine(queues=queues, slots=2) for _ in range(2)]
        both[0]("submit", kind="three", numbers=list(range(10)), queue="fair", partition_key="many")
        place.eventually(lambda: len(place.jobs(JobState.RUNNING)) == 2, "two run")
        [late] = both[1]("submit", kind="three", numbers=[99], queue="fair", partition_key="late")
        for child in both:
            child("open", door="hold")
        place.ended(11)
        order = [event.job_id for event in place.events("run_started")]
        assert order.index(late) <= 4, "it did not wait for those that were there before it"
        place.assert_sound()


class TestSteering:
    def test_a_paused_queue_starts_nothing_in_any_engine_and_running_jobs_go_on(self, place: Place) -> None:
        both = [place.engine(slots=2) for _ in range(2)]
        both[0]("submit", kind="three", numbers=[0, 1, 2, 3], queue="gpu")
        place.eventually(lambda: len(place.jobs(JobState.RUNNING)) == 4, "all run")
        with Client(place.store, workflows=flows.ALL) as client:
            client.core.pause_queue("gpu", by="ann")
            held = [client.submit(flows.count_up, n, queue="gpu") for n in range(3)]
            free = client.submit(flows.count_up, 9)
            for child in both:
                child("open", door="hold")
            assert free.result(timeout_seconds=60)
            place.ended(5)
            assert {job.state() for job in held} == {JobState.QUEUED}
            cause = held[0].why().causes[0]
            assert (cause.code, cause.actions[0]) == ("queue_paused", "relight queues resume gpu")
            assert "paused by ann" in held[0].why().summary
            client.core.resume_queue("gpu", by="ben")
            place.ended(8)
        told = [
            (event.actor, event.actor_id, msgspec.json.decode(event.payload)) for event in place.events("queue_changed")
        ]
        assert told == [
            ("human", "ann", {"queue": "gpu", "changes": {"paused": True}}),
            ("human", "ben", {"queue": "gpu", "changes": {"paused": False}}),
        ]
        place.assert_sound()

    def test_a_claim_that_was_decided_before_a_pause_does_not_start_after_it(
        self, in_process: Start, place: Place
    ) -> None:
        from tests.process.probes import Probe

        probe = Probe()
        slow = in_process(probe=probe, lease_seconds=0.5)
        place.eventually(lambda: slow.health()["ok"], "the gate opens")
        probe.hold("before_commit")
        probe.wait_held("before_commit")
        with Client(place.store, workflows=flows.ALL) as client:
            job = client.submit(flows.count_up, 1, queue="gpu")
            place.eventually(lambda: slow._engine and slow._engine.claiming, "the claim is decided")
            client.core.pause_queue("gpu", by="ann")
            probe.let_go()
            place.eventually(lambda: slow._engine and not slow._engine.claiming, "the claim is refused")
            assert job.state() is JobState.QUEUED
            client.core.resume_queue("gpu", by="ann")
            assert job.result(timeout_seconds=60)

    def test_the_last_start_wins_aloud_and_an_override_stays(
        self, in_process: Start, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        in_process(name="gpu-1", queues=[Queue("gpu", slots=3)]).stop()
        assert not caplog.records
        in_process(name="gpu-1", queues=[Queue("gpu", slots=3)]).stop()
        assert not caplog.records, "the same again is no news"
        engine = in_process(name="gpu-2", queues=[Queue("gpu", slots=2)])
        [said] = [record.getMessage() for record in caplog.records]
        assert said.startswith("QueueChanged: gpu had slots=3 (engine gpu-1, ")
        assert said.endswith("now slots=2 (gpu-2). The last start wins; relight queues shows both")
        [_, told] = [msgspec.json.decode(event.payload) for event in place.events("queue_changed")]
        assert told == {"queue": "gpu", "changes": {"slots": 2}, "before": {"slots": 3}, "before_by": "gpu-1"}
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        engine.core.set_queue("gpu", {"slots": 0}, by="ann")
        engine.stop()
        engine = in_process(name="gpu-3", queues=[Queue("gpu", slots=9)])
        job = engine.submit(flows.count_up, 1, queue="gpu")
        assert engine.submit(flows.count_up, 2).result(timeout_seconds=60)
        assert job.state() is JobState.QUEUED
        assert "0 of 0 slots" in job.why().summary
        engine.core.clear_queue("gpu", by="ann")
        assert job.result(timeout_seconds=60)
