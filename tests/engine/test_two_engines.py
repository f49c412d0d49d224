"""Promises P2 and P3 with several engines on one store: whoever recovers, it happens once, and no gate opens before it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.process import flows
from tests.process.children import Child, Place, payload
from tests.process.fixtures import in_process, place, wreck  # noqa: F401 - fixtures
from tests.process.probes import Probe

from relight import Engine
from relight.engine import recovery
from relight.model import EngineState, JobState

# ruff: noqa: F811 - fixtures are imported by name
Start = Callable[..., Engine]
Wreck = Callable[[Path, str, int], tuple[Place, list[str]]]
JOBS = 40


@pytest.fixture
def ids(place: Place, wreck: Wreck) -> list[str]:
    """Jobs that a killed engine left in the middle of a step."""
    return wreck(place.folder, "three", JOBS)[1]


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe()
    yield made
    made.let_go()


def each_stalled_once(place: Place, ids: list[str], *, times: int = 1) -> None:
    told = [event.job_id for event in place.events("workflow_recovery")]
    assert sorted(told) == sorted(ids * times)  # type: ignore[type-var]


def each_gate_after_all_stalls(place: Place) -> None:
    """No gate but the first one opened while anything that recovery owed was still to come."""
    stalls = [event.seq for event in place.events("workflow_recovery")]
    gates = [event.seq for event in place.events("gate_opened")][1:]
    assert gates and all(gate > max(stalls) for gate in gates)


def start_together(children: list[Child]) -> None:
    for child, number in [(child, child.order("start")) for child in children]:
        child.answer(number)
    for child in children:
        assert child("gate")["ok"]


def test_two_engines_that_start_together_recover_a_third_once(place: Place, ids: list[str]) -> None:
    both = [place.child(doors_open=["hold"], slots=JOBS) for _ in range(2)]
    start_together(both)
    place.ended(JOBS)
    each_stalled_once(place, ids)
    each_gate_after_all_stalls(place)
    ran = place.witness.counts()
    assert all(times == (2 if what == "hold" else 1) for (what, _), times in ran.items()) and len(ran) == 4 * JOBS
    place.assert_sound()


@pytest.mark.slow
@pytest.mark.parametrize("engines", [2, 4])
def test_many_engines_and_many_jobs(place: Place, wreck: Wreck, engines: int) -> None:
    ids = wreck(place.folder, "three", 2_000)[1]
    children = [place.child(doors_open=["hold"], slots=1_000) for _ in range(engines)]
    start_together(children)
    print("gate_ms", [child("gate")["gate_closed_ms"] for child in children])
    place.ended(2_000)
    each_stalled_once(place, ids)
    each_gate_after_all_stalls(place)
    place.assert_sound()


@pytest.mark.parametrize("held_at", ["recovery_engine", "recovery_chunk"])
def test_an_engine_finishes_what_another_one_has_begun_to_recover(
    in_process: Start, place: Place, ids: list[str], probe: Probe, held_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "FIRST_CHUNK", 10)
    flows.doors["hold"].open()  # once its gate is open the slow one may be quicker to claim
    probe.hold(held_at, at=2 if held_at == "recovery_chunk" else 1)
    slow = in_process(probe=probe)
    probe.wait_held(held_at)
    quick = place.engine(doors_open=["hold"], slots=JOBS)
    each_stalled_once(place, ids)
    assert slow.health()["gate"] == "closed" and slow.engine_id != quick("health")["engine_id"]
    probe.let_go()
    place.eventually(lambda: slow.health()["ok"], "the slow one's gate opens, too")
    place.ended(JOBS)
    each_stalled_once(place, ids)
    each_gate_after_all_stalls(place)
    assert not place.events("row_quarantined")
    place.assert_sound()


def test_a_gate_waits_for_an_engine_that_died_while_another_one_was_being_recovered(
    in_process: Start, place: Place, ids: list[str], probe: Probe
) -> None:
    flows.doors["hold"].open()
    neighbour = place.engine(lease_seconds=60, slots=JOBS, threads=1)
    neighbour("inside", door="hold", count=JOBS)
    each_stalled_once(place, ids)
    probe.hold("recovery_receipt")
    engine = in_process(probe=probe, slots=JOBS)
    probe.wait_held("recovery_receipt")
    neighbour.kill()
    probe.let_go()
    place.eventually(lambda: engine.health()["ok"], "the gate opens")
    each_stalled_once(place, ids, times=2)
    [gate] = [event for event in place.events("gate_opened") if event.writer_id == engine.engine_id]
    assert max(event.seq for event in place.events("workflow_recovery")) < gate.seq
    place.ended(JOBS)
    place.assert_sound()


class TestTheWatch:
    def test_an_engine_that_dies_while_another_runs_is_recovered_by_its_watch(
        self, in_process: Start, place: Place
    ) -> None:
        flows.doors["hold"].open()
        engine = in_process(lease_seconds=0.5, consume=["default"])
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        other = place.engine(kinds=["three"], lease_seconds=3600)
        with_door = other("submit", kind="three", numbers=[1, 2, 3], queue="theirs")
        other("inside", door="hold", count=3)
        dead = other("health")["engine_id"]
        other.kill()
        place.eventually(lambda: any(row.stalled for row in place.recoveries()), "there is a receipt")
        [receipt] = [row for row in place.recoveries() if row.engine_id == engine.engine_id and row.stalled]
        assert (receipt.scanned, receipt.stalled, receipt.in_doubt) == (3, 3, 3)
        for event in place.events("workflow_recovery"):
            assert payload(event)["dead_engine_id"] == dead and event.writer_id == engine.engine_id
            assert payload(event)["threshold_secs"] == 3600, "the threshold is the owner's, not the judge's"
        assert place.engine_row(dead).state is EngineState.DEAD
        place.eventually(lambda: {place.job(job).state for job in with_door} == {JobState.QUEUED}, "they are resumed")
        engine.stop()
        in_process()
        place.ended(3)
        place.assert_sound()

    def test_it_leaves_no_receipt_when_it_finds_nothing(self, in_process: Start, place: Place, probe: Probe) -> None:
        engine = in_process(probe=probe, lease_seconds=0.5)
        other = place.engine(lease_seconds=0.5)
        seen = len(place.recoveries()), len(place.events("recovery_started"))
        probe.wait_seen("watch", probe.seen["watch"] + 4)
        assert (len(place.recoveries()), len(place.events("recovery_started"))) == seen
        assert engine.health()["ok"] and other("health")["ok"]

    def test_two_watches_that_see_one_death_tell_it_once(self, place: Place) -> None:
        victim = place.engine(slots=JOBS)
        ids = victim("submit", kind="three", numbers=list(range(JOBS)))
        victim("inside", door="hold", count=JOBS)
        watchers = [place.engine(lease_seconds=0.5, doors_open=["hold"]) for _ in range(2)]
        victim.kill()
        place.ended(JOBS)
        each_stalled_once(place, ids)
        assert all(child("health")["ok"] for child in watchers)
        place.assert_sound()


BOUNDARIES = ["watch", "recovery_engine", "recovery_chunk", "recovery_receipt", "before_gate"]
COMMITS = [f"{name}:{at}" for at in range(1, 7) for name in ("before_commit", "after_commit")] + ["before_commit:7"]


def killed_at(place: Place, boundary: str) -> bool:
    """Start an engine that is killed at a boundary of its start; tell whether there was anything left to be done there."""
    name, _, at = boundary.partition(":")
    gates = len(place.events("gate_opened"))
    at_once = ["kill", int(at or 1)]
    child = place.child(probes={name: at_once}, lease_seconds=600, first_chunk=5, consume=["nobody's"])  # stalls none
    child.order("start")
    place.eventually(lambda: child.process.poll() is not None or len(place.events("gate_opened")) > gates, "an end")
    reached = child.process.poll() is not None
    child.kill()
    return reached


def recovers(place: Place, ids: list[str]) -> None:
    """The state in the end is the same as after one recovery that nobody disturbed."""
    place.engine(doors_open=["hold"], slots=JOBS, lease_seconds=0.5)
    place.ended(JOBS)
    each_stalled_once(place, ids)
    gates = [event.seq for event in place.events("gate_opened")]
    assert gates[-1] > max(event.seq for event in place.events("workflow_recovery"))
    assert {job.stalls for job in place.jobs()} == {1}
    place.assert_sound()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_recovery_killed_at_a_boundary_is_finished_by_the_next(place: Place, ids: list[str], boundary: str) -> None:
    assert killed_at(place, boundary), f"{boundary} was not reached"
    recovers(place, ids)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", COMMITS)
def test_a_recovery_killed_around_any_commit_is_finished_by_the_next(
    place: Place, ids: list[str], boundary: str
) -> None:
    assert killed_at(place, boundary), f"{boundary} was not reached"
    recovers(place, ids)


@pytest.mark.slow
@pytest.mark.parametrize("second", ["recovery_engine", "recovery_chunk", "before_commit:4", "after_commit:4"])
@pytest.mark.parametrize("first", ["recovery_engine", "recovery_chunk", "after_commit:4", "after_commit:5"])
def test_recoveries_killed_one_in_the_other_come_to_the_same_end(
    place: Place, ids: list[str], first: str, second: str
) -> None:
    assert killed_at(place, first)
    for boundary in (second, first):
        killed_at(place, boundary)
    recovers(place, ids)
