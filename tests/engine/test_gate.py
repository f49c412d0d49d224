"""Promise P2: what each command does while the gate is shut, while recovery fails, and once it opens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import in_process, place, wreck  # noqa: F401 - fixtures
from tests.process.probes import Probe

from relight import AsyncEngine, Client, Engine
from relight.core.commands.jobs import ClaimJob, fresh_run
from relight.engine import recovery
from relight.errors import Conflict, GateClosed, RecoveryFailed, RecoveryPending, StorageUnavailable
from relight.ids import RandomIds
from relight.model import GateState, JobState

# ruff: noqa: F811 - fixtures are imported by name
T = TypeVar("T")
JOBS = 8
Start = Callable[..., Engine]
Wreck = Callable[[Path, str, int], tuple[Place, list[str]]]


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Run something that waits, and return what will hold its end."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


@pytest.fixture
def ids(place: Place, wreck: Wreck) -> list[str]:
    """Jobs that a killed engine left in the middle of a step, in the test's own store."""
    return wreck(place.folder, "three", JOBS)[1]


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe()
    yield made
    made.let_go()


@pytest.fixture
def shut(in_process: Start, ids: list[str], probe: Probe, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine held open in the middle of recovery: it has stalled 3 runs of 8."""
    monkeypatch.setattr(recovery, "FIRST_CHUNK", 3)
    probe.hold("recovery_chunk", at=2)
    engine = in_process(probe=probe, gate_timeout_seconds=60)
    probe.wait_held("recovery_chunk")
    return engine


class TestWhileRecoveryIsUnderWay:
    def test_start_returns_at_once_and_health_says_how_far_it_is(self, shut: Engine) -> None:
        health = shut.health()
        assert (health["ok"], health["gate"]) == (False, "closed")
        assert health["recovering"] == {"done": 3, "expected": JOBS}
        assert health["gate_closed_ms"] is None

    def test_a_submit_through_the_engine_waits_and_is_accepted_after_the_gate(
        self, shut: Engine, place: Place, probe: Probe
    ) -> None:
        one = in_thread(lambda: shut.submit(flows.count_up, 1))
        many = in_thread(lambda: shut.submit_many([flows.count_up.bind(2), flows.count_up.bind(3)]))
        place.eventually(lambda: shut._engine and shut._engine.gate.waiting == 2, "both submits wait")
        assert not one.done() and not many.done() and not place.jobs(JobState.QUEUED)
        probe.let_go()
        assert one.result(60).result(timeout_seconds=60) == 3
        assert [job.result(timeout_seconds=60) for job in many.result(60)] == [3, 3]
        [gate] = [event for event in place.events("gate_opened") if event.writer_id == shut.engine_id]
        accepted = [event for event in place.events("job_accepted") if event.writer_id == shut.engine_id]
        assert len(accepted) == 3 and all(event.seq > gate.seq for event in accepted)

    def test_a_submit_that_waited_too_long_is_told_how_far_recovery_is(
        self, in_process: Start, ids: list[str], probe: Probe, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recovery, "FIRST_CHUNK", 3)
        probe.hold("recovery_chunk", at=2)
        engine = in_process(probe=probe, gate_timeout_seconds=0.3)
        asked = in_thread(lambda: engine.submit(flows.count_up, 1))
        with pytest.raises(GateClosed, match="3 of 8 runs") as closed:
            asked.result(60)
        assert (closed.value.recovered, closed.value.expected) == (3, JOBS)  # type: ignore[attr-defined]
        assert closed.value.retryable and closed.value.retry_after_seconds >= 1
        assert len(place.jobs()) == JOBS, "nothing was stored"

    def test_a_clients_submit_is_stored_and_starts_after_the_gate(
        self, shut: Engine, place: Place, probe: Probe
    ) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            job = client.submit(flows.count_up, 1)
            assert job.state() is JobState.QUEUED
            probe.let_go()
            assert job.result(timeout_seconds=60) == 3
        [gate] = [event for event in place.events("gate_opened") if event.writer_id == shut.engine_id]
        [started] = place.events("run_started", job_id=job.id)
        assert started.seq > gate.seq

    def test_a_client_that_requires_recovery_is_refused(self, shut: Engine, place: Place, probe: Probe) -> None:
        with Client(place.store, workflows=flows.ALL, require_recovered=True) as client:
            with pytest.raises(RecoveryPending) as pending:
                client.submit(flows.count_up, 1)
            assert pending.value.owed == JOBS - 3  # type: ignore[attr-defined]
            assert len(place.jobs()) == JOBS, "nothing was stored"
            probe.let_go()
            place.eventually(lambda: shut.health()["ok"], "the gate opens")
            assert client.submit(flows.count_up, 1).result(timeout_seconds=60) == 3

    def test_reads_are_served(self, shut: Engine, ids: list[str]) -> None:
        job = shut.job(ids[-1])
        assert job.info().state in (JobState.RUNNING, JobState.STALLED)
        assert len(shut.jobs()) == JOBS
        assert job.why().causes
        assert [event.type for event in job.events()][0] == "job_accepted"

    def test_nothing_is_claimed_not_even_by_a_claim_that_is_already_written(self, shut: Engine, place: Place) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            job = client.submit(flows.count_up, 1)
        row = place.job(job.id)
        run = fresh_run(row.job_id, row.trace_id, row.kind, RandomIds().uuid7(0))
        claim = ClaimJob(job=run, engine_id=shut.engine_id, attempt=row.attempt, replay_steps=0)
        with pytest.raises(Conflict) as refused:
            shut.core.journal.execute(claim)
        assert refused.value.fields["op"] == "start_runs"
        assert place.job(job.id).state is JobState.QUEUED

    def test_stopping_tells_those_who_wait(self, shut: Engine, place: Place, probe: Probe) -> None:
        asked = in_thread(lambda: shut.submit(flows.count_up, 1))
        place.eventually(lambda: shut._engine and shut._engine.gate.waiting == 1, "the submit waits")
        stopped = in_thread(shut.stop)
        with pytest.raises(GateClosed, match="was stopped before"):
            asked.result(60)
        probe.let_go()
        stopped.result(60)


HELD_AT = ["recovery_chunk", "before_gate"]
"""Runs still running under their dead engine, and all of them stalled."""


class TestSteeringBeforeTheGate:
    """Cancel, fail, signal, answer and resume are stored at once and act after the gate, whoever gives them."""

    @pytest.fixture
    def waiting(self, place: Place) -> dict[str, str]:
        """Jobs whose engine was killed while each waited for something."""
        child = place.engine(suspend_after_seconds=600)
        ids: list[str] = [
            child("submit", kind=kind, numbers=[1])[0] for kind in ("three", "three", "listens", "asks", "held_three")
        ]
        child("inside", door="hold", count=3)
        place.eventually(
            lambda: place.events("job_awaiting_user", "wait_started", job_id=ids[3]), "the question is asked"
        )
        place.eventually(lambda: place.events("wait_started", job_id=ids[2]), "the message is waited for")
        child.kill()
        return dict(zip(("cancel", "fail", "signal", "answer", "resume"), ids, strict=True))

    @pytest.mark.parametrize("held_at", HELD_AT)
    @pytest.mark.parametrize("through", ["client", "engine"])
    def test_it_is_stored_and_acts_after_the_gate(
        self, in_process: Start, place: Place, probe: Probe, waiting: dict[str, str], held_at: str, through: str
    ) -> None:
        flows.doors["hold"].open()
        probe.hold(held_at)
        engine = in_process(probe=probe)
        probe.wait_held(held_at)
        with Client(place.store, workflows=flows.ALL) as client:
            by: Any = client if through == "client" else engine
            by.job(waiting["cancel"]).cancel("no longer wanted")
            by.job(waiting["fail"]).fail("by hand")
            by.job(waiting["signal"]).signal("go", 7)
            by.job(waiting["answer"]).answer("approve", by="ann")
            if held_at == "before_gate":
                by.job(waiting["resume"]).resume()
            assert not {job.state for job in place.jobs()} & {JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED}
            probe.let_go()
            place.ended(2)
            if held_at == "recovery_chunk":
                place.eventually(lambda: place.job(waiting["resume"]).status_reason == "held:policy", "it is held")
                by.job(waiting["resume"]).resume()
            place.ended(3)
            assert client.job(waiting["signal"]).result(timeout_seconds=60) == 7
            assert client.job(waiting["answer"]).result(timeout_seconds=60) == "approve"
        place.eventually(lambda: place.job(waiting["cancel"]).state is JobState.CANCELLED, "it is cancelled")
        place.eventually(lambda: place.job(waiting["fail"]).state is JobState.FAILED, "it is failed")
        [gate] = [event for event in place.events("gate_opened") if event.writer_id == engine.engine_id]
        started = [event for event in place.events("run_started") if event.writer_id == engine.engine_id]
        assert started and all(event.seq > gate.seq for event in started)
        place.assert_sound()


class TestWhileRecoveryFails:
    def test_waiters_are_told_health_says_so_and_the_gate_opens_by_itself(
        self, in_process: Start, ids: list[str], place: Place, probe: Probe
    ) -> None:
        flows.doors["hold"].open()
        probe.hold("recovery_engine")
        engine = in_process(probe=probe, gate_timeout_seconds=60)
        probe.wait_held("recovery_engine")
        asked = in_thread(lambda: engine.submit(flows.count_up, 1))
        place.eventually(lambda: engine._engine and engine._engine.gate.waiting == 1, "the submit waits")
        probe.fail("recovery_chunk", OSError("the disk said no"))
        probe.let_go("recovery_engine")
        with pytest.raises(RecoveryFailed, match="the disk said no") as failed:
            asked.result(60)
        assert failed.value.retryable
        health = engine.health()
        assert (health["ok"], health["gate"]) == (False, "failed")
        assert "the disk said no" in str(health["gate_reason"])
        place.eventually(lambda: place.engine_row(engine.engine_id).gate is GateState.FAILED, "its row says so, too")
        probe.wait_seen("recovery_chunk", 3)
        probe.let_go()
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        assert engine.submit(flows.count_up, 1).result(timeout_seconds=60) == 3
        assert payload(place.events("recovery_failed")[0])["code"] == "OSError"
        [gate] = [event for event in place.events("gate_opened") if event.writer_id == engine.engine_id]
        assert all(event.seq < gate.seq for event in place.events("gate_failed", "workflow_recovery"))
        place.ended(JOBS + 1)
        place.assert_sound()

    def test_a_submit_that_comes_after_a_failure_waits_for_the_next_try(
        self, in_process: Start, ids: list[str], place: Place, probe: Probe
    ) -> None:
        probe.fail("recovery_receipt", StorageUnavailable("not now"))
        engine = in_process(probe=probe)
        place.eventually(lambda: engine.health()["gate"] == "failed", "recovery fails")
        probe.hold("watch")
        asked = in_thread(lambda: engine.submit(flows.count_up, 1))
        place.eventually(lambda: engine._engine and engine._engine.gate.waiting == 1, "the submit waits")
        probe.let_go()
        assert asked.result(60).result(timeout_seconds=60) == 3

    def test_trouble_after_the_gate_leaves_it_open_and_is_shown(
        self, in_process: Start, place: Place, probe: Probe
    ) -> None:
        engine = in_process(probe=probe, lease_seconds=0.5)
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        probe.fail("watch", OSError("the watch cannot see"))
        place.eventually(lambda: "the watch cannot see" in str(engine.health()["trouble"]), "health shows it")
        health = engine.health()
        assert (health["ok"], health["gate"]) == (False, "open")
        assert engine.submit(flows.count_up, 1).result(timeout_seconds=60) == 3
        probe.let_go()
        place.eventually(lambda: engine.health()["ok"], "the trouble is over")


def test_an_async_engine_has_the_same_gate(ids: list[str], place: Place, probe: Probe) -> None:
    async def ask() -> None:
        engine = AsyncEngine(place.store, workflows=flows.ALL, gate_timeout_seconds=0.1)
        engine.probe = probe
        async with engine:
            try:
                with pytest.raises(GateClosed):
                    await engine.submit(flows.count_up, 1)
                assert engine.health()["gate"] == "closed"
            finally:
                probe.let_go()

    probe.hold("before_gate")
    flows.doors["hold"].open()
    asyncio.run(ask())
