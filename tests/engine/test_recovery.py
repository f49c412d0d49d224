"""Recovery itself: whom it judges and how, what it needs and what it does not, and what it leaves as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import in_process, place, wreck  # noqa: F401 - fixtures
from tests.process.probes import Probe

from relight import Client, Engine
from relight.engine import recovery
from relight.engine.operator import fence_engine
from relight.ids import EngineId
from relight.model import EngineState, JobState, StepState, Verdict
from relight.proof.lockfile import lock_path, state_dir_for

# ruff: noqa: F811 - fixtures are imported by name
JOBS = 8
Start = Callable[..., Engine]
Wreck = Callable[[Path, str, int], tuple[Place, list[str]]]


@pytest.fixture
def ids(place: Place, wreck: Wreck) -> list[str]:
    """Jobs that a killed engine left in the middle of a step. Whoever runs them again finds the door open."""
    flows.doors["hold"].open()
    return wreck(place.folder, "three", JOBS)[1]


def gate_open(place: Place, engine: Engine) -> None:
    place.eventually(lambda: engine.health()["gate"] == "open", "the gate opens")


class TestWhatItNeeds:
    def test_it_needs_none_of_the_workflows_whose_runs_it_stalls(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        gate_open(place, in_process(workflows=[]))
        place.eventually(lambda: place.states() == {JobState.QUEUED: JOBS}, "all are resumed, for somebody else to run")
        assert len(place.events("workflow_recovery")) == JOBS

    def test_it_decodes_no_payload(self, in_process: Start, place: Place, ids: list[str]) -> None:
        place.damage("UPDATE jobs SET inputs = 'not json', tags = NULL")
        place.damage(
            "UPDATE steps SET inputs = '{', args_hashes = '{', outcome = CASE WHEN outcome IS NULL THEN NULL ELSE '{' END"
        )
        gate_open(place, in_process(workflows=[]))
        [receipt] = [row for row in place.recoveries() if row.scanned]
        assert (receipt.scanned, receipt.stalled, receipt.quarantined) == (JOBS, JOBS, 0)

    def test_its_start_does_not_wait_for_it(self, in_process: Start, place: Place, ids: list[str]) -> None:
        probe = Probe()
        probe.hold("recovery_engine")
        engine = in_process(probe=probe)
        probe.wait_held("recovery_engine")
        assert engine.health()["recovering"] == {"done": 0, "expected": JOBS}
        probe.let_go()
        place.ended(JOBS)


class TestWhatItFinds:
    def test_the_receipt_names_the_engine_the_verdict_and_its_evidence(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        [dead] = place.engines()
        engine = in_process()
        place.ended(JOBS)
        [receipt] = [row for row in place.recoveries() if row.engine_id == engine.engine_id]
        [judged] = msgspec.json.decode(receipt.engines)
        assert (judged["engine_id"], judged["verdict"]) == (dead.engine_id, "dead")
        assert (judged["evidence"]["reason"], judged["evidence"]["pid"]) == ("lock_free", dead.pid)
        assert (receipt.scanned, receipt.stalled, receipt.in_doubt, receipt.quarantined) == (JOBS, JOBS, JOBS, 0)
        row = place.engine_row(dead.engine_id)
        assert msgspec.json.decode(row.evidence or "") == judged["evidence"]
        [finished] = [event for event in place.events("recovery_finished") if event.writer_id == engine.engine_id]
        assert payload(finished)["engines"] == [judged]

    def test_steps_in_flight_are_in_doubt_and_finished_ones_and_waits_stay_as_they_are(
        self, in_process: Start, place: Place
    ) -> None:
        child = place.engine(suspend_after_seconds=600)
        [held] = child("submit", kind="three", numbers=[1])
        [waits] = child("submit", kind="listens", numbers=[2])
        child("inside", door="hold", count=1)
        place.eventually(lambda: place.events("wait_started", job_id=waits), "it waits")
        child.kill()
        probe = Probe()
        probe.hold("before_gate")
        in_process(probe=probe)
        probe.wait_held("before_gate")
        with place.reading() as reads:
            states = {step.name: step.state for job_id in (held, waits) for step in reads.steps(job_id)}
        probe.let_go()
        assert states.pop("first") is StepState.COMPLETED and states.pop("hold") is StepState.IN_DOUBT
        assert set(states.values()) == {StepState.WAITING}
        doubts = {event.job_id: payload(event)["in_doubt_steps"] for event in place.events("workflow_recovery")}
        assert doubts == {held: ["hold#0"], waits: []}

    def test_clients_are_not_judged(self, in_process: Start, place: Place, ids: list[str]) -> None:
        with Client(place.store, workflows=flows.ALL) as client:
            client.submit(flows.count_up, 1)
            in_process()
            place.ended(JOBS + 1)
            assert client.submit(flows.count_up, 2).result(timeout_seconds=60) == 3
        [receipt] = [row for row in place.recoveries() if row.scanned]
        assert len(msgspec.json.decode(receipt.engines)) == 1

    def test_work_of_many_dead_engines_is_recovered_at_once(self, in_process: Start, place: Place) -> None:
        children = [place.engine(slots=2) for _ in range(3)]
        for child in children:
            child("submit", kind="three", numbers=[1, 2])
        for child in children:
            child("inside", door="hold", count=2)
        for child in children:
            child.kill()
        flows.doors["hold"].open()
        in_process()
        place.ended(6)
        assert len({payload(event)["dead_engine_id"] for event in place.events("workflow_recovery")}) == 3
        place.assert_sound()

    def test_progress_counts_what_is_done_over_all_chunks(
        self, in_process: Start, place: Place, ids: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recovery, "FIRST_CHUNK", 3)
        probe = Probe()
        probe.hold("recovery_receipt")
        engine = in_process(probe=probe)
        probe.wait_held("recovery_receipt")
        assert probe.seen["recovery_chunk"] == 2
        assert engine.health()["recovering"] == {"done": JOBS, "expected": JOBS}
        probe.let_go()
        place.ended(JOBS)


class TestWithoutTheLockFile:
    """Somebody removed the files, or copied the store without them: other proof is needed."""

    def test_a_process_that_is_gone_is_dead(self, in_process: Start, place: Place, ids: list[str]) -> None:
        shutil.rmtree(state_dir_for(place.store))
        in_process()
        place.ended(JOBS)
        assert payload(place.events("workflow_recovery")[0])["evidence"]["reason"] == "pid_gone"

    def test_another_boot_is_dead(self, in_process: Start, place: Place, ids: list[str]) -> None:
        shutil.rmtree(state_dir_for(place.store))
        place.damage("UPDATE engines SET boot_id = 'another boot', pid = 1")
        in_process()
        place.ended(JOBS)
        assert payload(place.events("workflow_recovery")[0])["evidence"]["reason"] == "other_boot"

    def test_a_process_that_lives_keeps_its_work(self, in_process: Start, place: Place, ids: list[str]) -> None:
        """Whether it is still that engine nobody can tell: it is not taken from."""
        shutil.rmtree(state_dir_for(place.store))
        place.damage("UPDATE engines SET pid = 1")
        engine = in_process(lease_seconds=0.5)
        gate_open(place, engine)
        assert engine.submit(flows.count_up, 1).result(timeout_seconds=60) == 3
        assert not place.events("workflow_recovery")
        assert place.states()[JobState.RUNNING] == JOBS

    def test_a_file_with_another_nonce_proves_nothing(self, in_process: Start, place: Place, ids: list[str]) -> None:
        [dead] = place.engines()
        place.damage("UPDATE engines SET nonce = ?, pid = 1", "f" * 32)
        engine = in_process()
        gate_open(place, engine)
        assert lock_path(state_dir_for(place.store), dead.engine_id).exists()
        assert not place.events("workflow_recovery")


class TestAnOperatorsWord:
    def test_a_living_engine_fenced_by_force_loses_its_work_and_starts_anew(
        self, in_process: Start, place: Place
    ) -> None:
        living = place.engine(lease_seconds=0.5, kinds=["three"])
        ids = living("submit", kind="three", numbers=[0, 1])
        living("inside", door="hold", count=2)
        owner = living("health")["engine_id"]
        flows.doors["hold"].open()
        in_process(lease_seconds=0.5)
        with Client(place.store) as client:
            fence_engine(client.core, EngineId(owner), by="ann", force=True)
        place.eventually(lambda: living("health")["fenced_times"] == 1, "it learns")
        living("open", door="hold")
        place.ended(2)
        row = place.engine_row(owner)
        assert (row.state, row.verdict) == (EngineState.DEAD, Verdict.DEAD)
        for event in place.events("workflow_recovery"):
            assert payload(event)["evidence"]["operator"] == "ann"
        assert {place.job(job_id).attempt for job_id in ids} == {2}
        fence = [event.seq for event in place.events("engine_fenced")][0]
        assert all(event.seq < fence for event in place.events() if event.writer_id == owner)
        place.assert_sound()


@pytest.mark.sqlite_file("copies the file")
def test_a_store_copied_while_an_engine_lives_is_nobodys(in_process: Start, place: Place, tmp_path: Path) -> None:
    """The copy's rows name an engine that lives elsewhere: with the lock files copied too, their locks are free."""
    living = place.engine()
    ids: Any = living("submit", kind="three", numbers=[1])
    living("inside", door="hold", count=1)
    copy = Place(tmp_path / "copy")
    copy.folder.mkdir()
    for path in place.folder.glob("relight.db*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy.folder / path.name)
    flows.doors["hold"].open()
    with Engine(str(copy.store), workflows=flows.ALL) as engine:
        assert engine.job(ids[0], type=int).result(timeout_seconds=60) == 3
    copy.assert_sound()
    living("open", door="hold")
    place.ended(1)
    assert not place.events("workflow_recovery")
