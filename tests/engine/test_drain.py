"""Leaving: steps that run are let finish and recorded, jobs are put away, and the next start has nothing to recover."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import in_process, place  # noqa: F401 - fixtures
from tests.process.probes import Probe

from relight import Client, Engine
from relight.errors import StorageUnavailable
from relight.model import EngineState, JobState, RunState, StepState

# ruff: noqa: F811 - fixtures are imported by name
Start = Callable[..., Engine]
COLOURS = ["three", "three_in_thread", "three_mixed", "three_mixed_in_thread"]


def stop_during(engine: Engine, place: Place) -> threading.Thread:
    """Begin to stop an engine, and return once it puts its jobs away."""
    incarnation = engine._engine
    assert incarnation is not None
    stopping = threading.Thread(target=engine.stop, daemon=True)
    stopping.start()
    place.eventually(lambda: all(run.suspending for run in incarnation.all_runs()), "its runs are being put away")
    return stopping


class TestInTime:
    @pytest.mark.parametrize("kind", COLOURS)
    def test_the_step_that_runs_is_recorded_and_the_job_put_away(
        self, in_process: Start, place: Place, kind: str
    ) -> None:
        engine = in_process()
        jobs = engine.submit_many([flows.BY_KIND[kind].bind(n) for n in range(4)])  # type: ignore[attr-defined]
        flows.doors["hold"].wait_until_inside(4)
        me = engine.engine_id
        stopping = stop_during(engine, place)
        flows.doors["hold"].open()
        stopping.join(60)
        assert not stopping.is_alive()
        assert place.engine_row(me).state is EngineState.STOPPED
        [stopped] = place.events("engine_stopped")
        assert payload(stopped) == {"drained": True, "suspended_runs": 4}
        for job in jobs:
            row = place.job(job.id)
            assert (row.state, row.claimable, row.status_reason, row.attempt) == (JobState.QUEUED, True, "shutdown", 1)
            with place.reading() as reads:
                [run] = reads.runs(job.id)
                states = {step.name.removesuffix("_in_thread"): step.state for step in reads.steps(job.id)}
            assert (run.state, run.reason) == (RunState.SUSPENDED, "shutdown")
            assert states == {"first": StepState.COMPLETED, "hold": StepState.COMPLETED}
        engine = in_process()
        for n, job in enumerate(jobs):
            assert engine.job(job.id, type=int).result(timeout_seconds=60) == 3 * n
        ran = place.witness.counts()
        assert len(ran) == 16 and set(ran.values()) == {1}, "no step ran twice"
        assert not place.events("workflow_recovery", "job_resumed")
        assert place.recoveries()[-1].scanned == 0
        place.assert_sound()

    def test_jobs_that_wait_or_are_between_steps_are_put_away_too(self, in_process: Start, place: Place) -> None:
        engine = in_process(suspend_after_seconds=600)
        waits = engine.submit(flows.listens, 1)
        asks = engine.submit(flows.asks, 1)
        place.eventually(lambda: place.events("wait_started", job_id=waits.id), "it waits")
        place.eventually(lambda: place.events("wait_started", "job_awaiting_user", job_id=asks.id), "it asks")
        engine.stop()
        assert place.job(waits.id).state is JobState.QUEUED
        assert place.job(asks.id).state in (JobState.QUEUED, JobState.AWAITING_USER)
        with Client(place.store, workflows=flows.ALL) as client:
            client.job(waits.id).signal("go", 3)
            client.job(asks.id).answer("approve", by="ann")
        engine = in_process()
        assert engine.job(waits.id, type=int).result(timeout_seconds=60) == 3
        assert engine.job(asks.id, type=str).result(timeout_seconds=60) == "approve"
        assert not place.events("workflow_recovery")
        place.assert_sound()

    def test_nothing_new_is_claimed_while_it_drains(self, in_process: Start, place: Place) -> None:
        engine = in_process()
        engine.submit(flows.three_in_thread, 0)
        flows.doors["hold"].wait_until_inside(1)
        stopping = stop_during(engine, place)
        with Client(place.store, workflows=flows.ALL) as client:
            late = client.submit(flows.count_up, 1)
        flows.doors["hold"].open()
        stopping.join(60)
        assert place.job(late.id).state is JobState.QUEUED and not place.events("run_started", job_id=late.id)

    def test_stopping_twice_and_stopping_what_never_started_is_well(self, in_process: Start, place: Place) -> None:
        engine = in_process()
        engine.stop()
        engine.stop()
        Engine(place.store).stop()
        assert engine.start().health()["gate"] in ("closed", "open")

    def test_a_store_that_refuses_does_not_keep_an_engine_from_stopping(self, in_process: Start, place: Place) -> None:
        probe = Probe()
        engine = in_process(probe=probe)
        job = engine.submit(flows.three, 0)
        flows.doors["hold"].wait_until_inside(1)
        probe.fail("before_commit", StorageUnavailable("the disk is full"))
        flows.doors["hold"].open()
        engine.stop(drain_seconds=0.2)
        probe.let_go()
        engine = in_process()
        assert engine.job(job.id, type=int).result(timeout_seconds=60) == 0
        place.assert_sound()


class TestTooLate:
    @pytest.mark.parametrize("kind", ["three_in_thread", "three_mixed", "three_mixed_in_thread"])
    def test_a_step_that_outlives_the_drain_leaves_its_run_to_the_next_start(self, place: Place, kind: str) -> None:
        child = place.engine(drain_seconds=0.1)
        [job_id] = child("submit", kind=kind, numbers=[1])
        child("inside", door="hold", count=1)
        me = child("health")["engine_id"]
        child("stop")
        row = place.engine_row(me)
        assert row.state is EngineState.STOPPED and place.job(job_id).state is JobState.RUNNING
        assert payload(place.events("engine_stopped")[0])["drained"] is False
        child.close()
        place.engine(doors_open=["hold"])
        place.ended(1)
        [event] = place.events("workflow_recovery")
        assert (payload(event)["verdict"], payload(event)["dead_engine_id"]) == ("dead", me)
        assert place.engine_row(me).state is EngineState.DEAD
        ran = place.witness.counts()
        assert {what: times for (what, _), times in ran.items()} == {"first": 1, "hold": 2, "held": 1, "last": 1}
        place.assert_sound()

    def test_while_that_step_still_runs_its_run_is_left_alone(self, place: Place) -> None:
        first = place.engine(drain_seconds=0.1)
        [job_id] = first("submit", kind="three_in_thread", numbers=[1])
        first("inside", door="hold", count=1)
        me = first("health")["engine_id"]
        first("stop")
        second = place.engine(doors_open=["hold"], lease_seconds=0.5)
        assert second("submit", kind="count_up", numbers=[7]) and second("health")["ok"]
        place.ended(1)
        assert place.job(job_id).state is JobState.RUNNING and place.engine_row(me).state is EngineState.STOPPED
        assert not place.events("workflow_recovery")
        first("open", door="hold")
        place.ended(2)
        assert payload(place.events("workflow_recovery")[0])["dead_engine_id"] == me
        place.assert_sound()

    @pytest.mark.parametrize("kind", COLOURS)
    def test_a_new_engine_in_the_same_process_recovers_it_once_the_step_has_returned(
        self, in_process: Start, place: Place, kind: str
    ) -> None:
        engine = in_process()
        job = engine.submit(flows.BY_KIND[kind].bind(1))  # type: ignore[attr-defined]
        flows.doors["hold"].wait_until_inside(1)
        engine.stop(drain_seconds=0.1)
        engine = in_process(lease_seconds=0.5)
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        if kind != "three":
            assert place.job(job.id).state is JobState.RUNNING and not place.events("workflow_recovery")
        flows.doors["hold"].open()
        assert engine.job(job.id, type=int).result(timeout_seconds=60) == 3
        place.assert_sound()

    def test_stops_that_cut_a_long_step_are_no_crash_loop(self, place: Place) -> None:
        """Three deployments in a row during one long step must not poison it: nobody crashed."""
        child = place.engine(drain_seconds=0.05)
        [job_id] = child("submit", kind="three_in_thread", numbers=[1])
        for _ in range(3):
            child("inside", door="hold", count=1)
            child("stop")
            child.close()
            child = place.engine(drain_seconds=0.05)
        child("open", door="hold")
        place.ended(1)
        assert place.job(job_id).stalls == 0 and not place.events("job_probation", "job_poisoned")
