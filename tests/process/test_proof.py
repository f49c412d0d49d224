"""Promises P3 and P4 on real processes: work is taken from an engine on proof only, and who lost it writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.process import flows
from tests.process.children import Child, Place, payload
from tests.process.fixtures import place  # noqa: F401 - a fixture

from relight import Client
from relight.errors import IllegalTransition
from relight.model import EngineState, JobState
from relight.proof.lockfile import lock_path, state_dir_for

# ruff: noqa: F811 - fixtures are imported by name
HOUR_MS = 3_600_000


def with_jobs(place: Place, kind: str = "three", jobs: int = 3, **options: object) -> tuple[Child, str, list[str]]:
    """Start an engine whose jobs wait in the middle of a step; return it, its id, and theirs."""
    child = place.engine(**options)
    ids = child("submit", kind=kind, numbers=list(range(jobs)))
    child("inside", door="hold", count=jobs)
    return child, child("health")["engine_id"], ids


def rounds(place: Place, child: Child, count: int = 4) -> None:
    """Wait until a child's watch has looked so many times more."""
    seen = child("seen", name="watch")
    place.eventually(lambda: child("seen", name="watch") >= seen + count, "its watch looks")


class TestAlive:
    def test_an_engine_that_hogs_the_gil_longer_than_its_lease_keeps_its_work(self, place: Place) -> None:
        busy, me, ids = with_jobs(place, lease_seconds=0.5)
        judge = place.child(lease_seconds=0.5)
        enough = place.folder / "enough"
        hogging = busy.order("hog", seconds=0.8, until=str(enough))
        judge("start")
        judge("gate")
        rounds(place, judge, 6)
        assert place.engine_row(me).state is EngineState.LIVE
        enough.touch()
        assert busy.answer(hogging) >= 1
        busy("open", door="hold")
        place.ended(3)
        assert busy("health")["fenced_times"] == 0
        assert {event.writer_id for event in place.events("job_completed")} == {me}
        assert not place.events("workflow_recovery", "engine_silent", "engine_fenced")
        assert set(place.witness.counts().values()) == {1} and len(ids) == 3
        place.assert_sound()

    @pytest.mark.parametrize("shift_ms", [HOUR_MS, -HOUR_MS])
    def test_a_clock_set_wrong_takes_nothing_from_the_living(self, place: Place, shift_ms: int) -> None:
        living, me, _ = with_jobs(place, lease_seconds=0.5)
        judge = place.engine(lease_seconds=0.5, shift_ms=shift_ms, doors_open=["hold"])
        rounds(place, judge)
        assert place.engine_row(me).state is EngineState.LIVE and not place.events("workflow_recovery")
        living("open", door="hold")
        place.ended(3)
        assert {event.writer_id for event in place.events("job_completed")} == {me}

    @pytest.mark.parametrize("shift_ms", [HOUR_MS, -HOUR_MS])
    def test_an_engine_whose_own_clock_is_wrong_is_left_alone_while_it_lives(self, place: Place, shift_ms: int) -> None:
        living, me, _ = with_jobs(place, lease_seconds=0.5, shift_ms=shift_ms)
        judge = place.engine(lease_seconds=0.5)
        rounds(place, judge)
        assert place.engine_row(me).state is EngineState.LIVE and not place.events("workflow_recovery")
        living("open", door="hold")
        place.ended(3)


class TestDead:
    @pytest.mark.parametrize("shift_ms", [HOUR_MS, -HOUR_MS])
    def test_a_clock_set_wrong_saves_nobody_who_is_dead(self, place: Place, shift_ms: int) -> None:
        dead, me, ids = with_jobs(place, slots=3, lease_seconds=3600)
        waiting = dead("submit", kind="count_up", numbers=[7])
        dead.kill()
        place.engine(shift_ms=shift_ms, doors_open=["hold"])
        place.ended(4)
        assert place.engine_row(me).verdict == "dead"
        assert {event.job_id for event in place.events("workflow_recovery")} == set(ids)
        assert place.job(waiting[0]).attempt == 1
        place.assert_sound()

    def test_a_child_forked_in_a_step_does_not_keep_its_parents_lock(self, place: Place) -> None:
        parent = place.engine(lease_seconds=3600)
        [job_id] = parent("submit", kind="forks", numbers=[1])
        parent("inside", door="hold", count=1)
        [heir] = [int(pid) for pid in (place.folder / "heirs").read_text().split()]
        parent.kill()
        place.engine(doors_open=["hold"])
        place.ended(1)
        assert payload(place.events("workflow_recovery")[0])["verdict"] == "dead"
        assert Path(f"/proc/{heir}").exists(), "the heir lived all the while"
        assert place.job(job_id).attempt == 2

    def test_its_lock_file_is_removed_once_its_death_is_on_record(self, place: Place) -> None:
        dead, me, _ = with_jobs(place)
        lock = lock_path(state_dir_for(place.store), me)
        assert lock.exists()
        dead.kill()
        successor = place.engine(doors_open=["hold"])
        place.ended(3)
        place.eventually(lambda: not lock.exists(), "the file is gone")
        successor("stop")
        left = [lock_path(state_dir_for(place.store), row.engine_id) for row in place.engines()]
        assert not any(path.exists() for path in left), "a stopped engine takes its own away"


class TestSilent:
    """An engine stopped by a signal may still act: it is fenced, and its jobs wait for it."""

    def held(self, place: Place, owner: str, ids: list[str]) -> bool:
        jobs = [place.job(job_id) for job_id in ids]
        return all(job.state is JobState.STALLED and job.held_by == owner for job in jobs)

    def test_its_jobs_are_held_and_not_run_by_others(self, place: Place) -> None:
        stopped, owner, ids = with_jobs(place, lease_seconds=0.5)
        stopped.freeze()
        other = place.engine(lease_seconds=0.5, doors_open=["hold"])
        assert self.held(place, owner, ids)
        rounds(place, other)
        assert self.held(place, owner, ids), "the watch does not resume them either"
        row = place.engine_row(owner)
        assert (row.state, row.verdict) == (EngineState.SILENT, "silent")
        [silent] = place.events("engine_silent")
        assert payload(silent)["engine_id"] == owner
        for event in place.events("workflow_recovery"):
            said = payload(event)
            assert (said["verdict"], said["reason"], said["evidence"]["process"]) == ("silent", "engine_silent", "T")
        assert {job.stalls for job in place.jobs()} == {0}, "no crash"
        with Client(place.store, workflows=flows.ALL) as client:
            assert client.submit(flows.count_up, 9).result(timeout_seconds=60) == 3, "everything else goes on"
            assert "held" in client.job(ids[0]).why().causes[0].code
            with pytest.raises(IllegalTransition, match="held"):
                client.job(ids[0]).resume()
        place.assert_sound()

    @pytest.mark.parametrize("kind", ["three", "three_in_thread", "three_mixed", "three_mixed_in_thread"])
    def test_continued_it_writes_nothing_starts_anew_and_lets_go_when_its_last_tries_end(
        self, place: Place, kind: str
    ) -> None:
        stopped, owner, ids = with_jobs(place, kind, lease_seconds=0.5, probes={"watch": ["count", 1]})
        stopped.freeze()
        other = place.engine(lease_seconds=0.5, doors_open=["hold"], kinds=[kind])
        assert self.held(place, owner, ids)
        before = place.engine_row(owner)
        stopped.thaw()
        place.eventually(lambda: stopped("health")["fenced_times"] == 1, "it learns that it was fenced")
        place.eventually(lambda: stopped("health")["ok"], "it has begun anew")
        successor = stopped("health")["engine_id"]
        assert successor != owner
        if kind != "three":
            rounds(place, other)
            assert self.held(place, owner, ids), "a thread of it is still inside a step"
        stopped("open", door="hold")
        place.ended(3)
        [fenced] = place.events("engine_fenced")
        assert (fenced.writer_id, fenced.actor_id) == (successor, owner)
        refused = re.search(r"(\d+) writes were refused", payload(fenced)["reason"])
        assert refused and int(refused[1]) >= 1
        after = place.engine_row(owner)
        assert (after.batch_seq, after.head_seq, after.head_hash) == (
            before.batch_seq,
            before.head_seq,
            before.head_hash,
        )
        assert len(place.events("hold_released")) == 3
        assert all(place.job(job_id).attempt == 2 and place.job(job_id).held_by is None for job_id in ids)
        place.eventually(lambda: place.engine_row(owner).state is EngineState.DEAD, "the old incarnation is over")
        assert {what: n for (what, _), n in place.witness.counts().items() if what != "held"} == {
            "first": 1, "hold": 2, "last": 1,
        }  # fmt: skip
        place.assert_sound()

    def test_each_job_is_let_go_when_its_own_last_try_ends(self, place: Place) -> None:
        """One async job leaves at once; the sync one whose thread is inside a step keeps only itself."""
        stopped, owner, slow = with_jobs(place, "three_in_thread", jobs=1, lease_seconds=0.5)
        quick = stopped("submit", kind="side", numbers=[1, 2])
        stopped("inside", door="side", count=2)
        stopped.freeze()
        other = place.engine(lease_seconds=0.5, doors_open=["hold", "side"])
        assert self.held(place, owner, slow + quick)
        stopped.thaw()
        place.eventually(lambda: {place.job(job_id).attempt for job_id in quick} == {2}, "the quick ones run again")
        rounds(place, other)
        assert self.held(place, owner, slow)
        stopped("open", door="side")
        stopped("open", door="hold")
        place.ended(3)
        place.assert_sound()

    def test_killed_while_it_is_stopped_its_jobs_are_let_go(self, place: Place) -> None:
        stopped, owner, ids = with_jobs(place, lease_seconds=0.5)
        stopped.freeze()
        place.engine(lease_seconds=0.5, doors_open=["hold"])
        assert self.held(place, owner, ids)
        stopped.kill()
        place.ended(3)
        assert place.engine_row(owner).state is EngineState.DEAD
        assert len(place.events("hold_released")) == 3 and len(place.events("workflow_recovery")) == 3
        assert len(place.events("engine_silent")) == 1
        place.assert_sound()

    @pytest.mark.parametrize("boundary", ["recovery_receipt", "before_gate", "watch:2"])
    def test_a_hold_whose_owner_died_is_let_go_even_if_whoever_saw_it_died_right_after(
        self, place: Place, boundary: str
    ) -> None:
        stopped, owner, ids = with_jobs(place, lease_seconds=0.5)
        stopped.freeze()
        first = place.engine(lease_seconds=0.5)
        assert self.held(place, owner, ids)
        first.kill()
        stopped.kill()
        name, _, at = boundary.partition(":")
        second = place.child(lease_seconds=0.5, probes={name: ["kill", int(at or 1)]}, kinds=["side"])
        second.order("start")
        second.wait()
        assert place.engine_row(owner).state is EngineState.DEAD
        place.engine(lease_seconds=0.5, doors_open=["hold"])
        place.ended(3)
        place.assert_sound()

    def test_a_stopped_engine_that_held_nothing_is_fenced_and_comes_back(self, place: Place) -> None:
        stopped = place.engine(lease_seconds=0.5)
        owner = stopped("health")["engine_id"]
        stopped.freeze()
        place.engine(lease_seconds=0.5)
        assert place.engine_row(owner).state is EngineState.SILENT
        stopped.thaw()
        place.eventually(lambda: stopped("health")["fenced_times"] == 1 and stopped("health")["ok"], "it begins anew")
        assert stopped("results", ids=stopped("submit", kind="count_up", numbers=[1])) == [3]
        place.assert_sound()

    def test_a_submit_through_an_engine_that_was_fenced_goes_through_its_successor(self, place: Place) -> None:
        stopped = place.engine(lease_seconds=0.5)
        owner = stopped("health")["engine_id"]
        stopped.freeze()
        place.engine(lease_seconds=0.5, kinds=["side"])
        assert place.engine_row(owner).state is EngineState.SILENT
        orders = [stopped.order("submit", kind="count_up", numbers=[n]) for n in range(5)]
        stopped.thaw()
        ids = [job_id for number in orders for job_id in stopped.answer(number)]
        place.ended(5)
        assert len(set(ids)) == 5
        accepted = place.events("job_accepted")
        assert len(accepted) == 5 and owner not in {event.writer_id for event in accepted}
        place.assert_sound()
