"""Promise P11: a row that cannot be used harms only itself. It is set aside with evidence, and everything else goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import in_process, place, wreck  # noqa: F401 - fixtures

from relight import Client, Engine
from relight.engine.operator import release_job
from relight.errors import StorageError
from relight.ids import JobId
from relight.model import JobState, QuarantineRecord, RunState

# ruff: noqa: F811 - fixtures are imported by name
JOBS = 8
Start = Callable[..., Engine]
Wreck = Callable[[Path, str, int], tuple[Place, list[str]]]


@pytest.fixture
def ids(place: Place, wreck: Wreck) -> list[str]:
    """Jobs that a killed engine left in the middle of a step. Whoever runs them again finds the door open."""
    flows.doors["hold"].open()
    return wreck(place.folder, "three", JOBS)[1]


def set_aside(place: Place) -> list[QuarantineRecord]:
    with place.reading() as reads:
        return reads.quarantine()


def bad_row(place: Place, job_id: str) -> QuarantineRecord:
    """Wait until exactly this job is in quarantine."""
    place.eventually(lambda: set_aside(place), f"{job_id} is set aside")
    [row] = set_aside(place)
    assert row.job_id == job_id
    return row


class TestAtRecovery:
    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE jobs SET state = 'no such state' WHERE job_id = ?",
            "UPDATE jobs SET state = 'completed', completed_at = 1 WHERE job_id = ?",
            "UPDATE jobs SET run_id = NULL WHERE job_id = ?",
            "DELETE FROM jobs WHERE job_id = ?",
        ],
    )
    def test_a_run_that_cannot_be_stalled_is_set_aside_and_the_others_go_on(
        self, in_process: Start, place: Place, ids: list[str], damage: str
    ) -> None:
        place.damage(damage, ids[3])
        engine = in_process()
        for job_id in ids[:3] + ids[4:]:
            assert engine.job(job_id, type=int).result(timeout_seconds=60) == 3 * ids.index(job_id)
        row = bad_row(place, ids[3])
        assert row.code == "cannot_be_stalled" and row.recovery_id is not None
        [told] = place.events("row_quarantined")
        assert payload(told)["row_id"] == ids[3] and payload(told)["code"] == "cannot_be_stalled"
        [receipt] = [each for each in place.recoveries() if each.engine_id == engine.engine_id]
        assert (receipt.scanned, receipt.stalled, receipt.quarantined) == (JOBS, JOBS - 1, 1)
        assert len(place.events("workflow_recovery")) == JOBS - 1
        with place.reading() as reads:
            assert [run.state for run in reads.runs(ids[3])] == [RunState.RUNNING], "it keeps its state"
        assert engine.submit(flows.count_up, 1).result(timeout_seconds=60) == 3

    def test_the_next_start_is_not_held_up_by_what_lies_in_quarantine(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        place.damage("UPDATE jobs SET state = 'no such state' WHERE job_id = ?", ids[3])
        for _ in range(3):
            engine = in_process()
            place.eventually(lambda e=engine: e.health()["ok"], "the gate opens")  # type: ignore[misc]
            engine.stop()
        assert len(place.events("row_quarantined")) == 1

    def test_what_an_operator_mended_and_released_is_recovered_like_any_other(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        place.damage("UPDATE jobs SET state = 'no such state' WHERE job_id = ?", ids[3])
        engine = in_process(lease_seconds=0.5)
        bad_row(place, ids[3])
        place.damage("UPDATE jobs SET state = 'running' WHERE job_id = ?", ids[3])
        with Client(place.store) as client:
            release_job(client.core, JobId(ids[3]), by="ann")
        assert engine.job(ids[3], type=int).result(timeout_seconds=60) == 9
        [told] = place.events("row_released")
        assert (told.actor_id, payload(told)["row_id"]) == ("ann", ids[3])
        assert not set_aside(place)

    def test_what_was_released_and_is_still_bad_is_set_aside_again(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        place.damage("UPDATE jobs SET state = 'no such state' WHERE job_id = ?", ids[3])
        engine = in_process(lease_seconds=0.5)
        bad_row(place, ids[3])
        with Client(place.store) as client:
            release_job(client.core, JobId(ids[3]), by="ann")
        place.eventually(lambda: len(place.events("row_quarantined")) == 2, "it is set aside again")
        assert engine.health()["ok"]

    def test_an_engine_whose_row_cannot_be_read_is_set_aside_with_its_jobs(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        place.damage("UPDATE engines SET gate = 'ajar' WHERE state = 'live'")
        engine = in_process()
        place.eventually(lambda: engine.health()["ok"], "the gate opens")
        place.eventually(lambda: len(set_aside(place)) == JOBS, "its jobs are set aside")
        assert {row.table_name for row in set_aside(place)} == {"engines"}
        assert engine.submit(flows.count_up, 1).result(timeout_seconds=60) == 3

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE runs SET state = 'no such state' WHERE job_id = ?",
            "UPDATE runs SET state = 'completed', ended_at = 1 WHERE job_id = ?",
            "UPDATE runs SET engine_id = 'nobody' WHERE job_id = ?",
            "DELETE FROM runs WHERE job_id = ?",
        ],
    )
    def test_a_job_that_says_it_runs_while_no_run_of_it_does_is_set_aside(
        self, in_process: Start, place: Place, ids: list[str], damage: str
    ) -> None:
        place.damage(damage, ids[3])
        engine = in_process()
        for job_id in ids[:3] + ids[4:]:
            assert engine.job(job_id, type=int).result(timeout_seconds=60) == 3 * ids.index(job_id)
        assert bad_row(place, ids[3]).code == "no_run"

    @pytest.mark.parametrize(
        "column", ["trace_id = ''", "attempt = -7", "begun = false", "max_stalls = 0", "metrics = '{'"]
    )
    def test_whatever_else_is_wrong_with_a_row_the_others_go_on(
        self, in_process: Start, place: Place, ids: list[str], column: str
    ) -> None:
        place.damage(f"UPDATE jobs SET {column} WHERE job_id = ?", ids[3])  # noqa: S608 - a test's own text
        engine = in_process(lease_seconds=0.5)
        for job_id in ids[:3] + ids[4:]:
            assert engine.job(job_id, type=int).result(timeout_seconds=60) == 3 * ids.index(job_id)
        place.eventually(
            lambda: set_aside(place) or not place.jobs(JobState.RUNNING, JobState.QUEUED, JobState.STALLED),
            "it is set aside, or has ended",
        )
        place.eventually(lambda: engine.health()["ok"], "all is well otherwise")
        assert engine.health()["fenced_times"] == 0


class TestAtPolicy:
    @pytest.mark.parametrize("column", ["on_stall = 'perhaps'", "held_by = NULL, cancel_code = 'x', on_stall = ''"])
    def test_a_stalled_job_that_cannot_be_read_is_set_aside_and_the_others_are_resumed(
        self, in_process: Start, place: Place, ids: list[str], column: str
    ) -> None:
        place.damage(f"UPDATE jobs SET {column} WHERE job_id = ?", ids[3])  # noqa: S608 - a test's own text
        engine = in_process()
        for job_id in ids[:3] + ids[4:]:
            assert engine.job(job_id, type=int).result(timeout_seconds=60) == 3 * ids.index(job_id)
        assert bad_row(place, ids[3]).code == "unreadable"
        place.eventually(lambda: engine.health()["ok"], "all is well otherwise")


class TestAtClaim:
    def queued(self, place: Place) -> list[str]:
        """Jobs that wait in line, stored while no engine runs."""
        with Client(place.store, workflows=flows.ALL) as client:
            return [job.id for job in client.submit_many([flows.count_up.bind(n) for n in range(JOBS)])]

    @pytest.fixture
    def line(self, in_process: Start, place: Place) -> list[str]:
        in_process().stop()
        return self.queued(place)

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE jobs SET on_stall = 'perhaps' WHERE job_id = ?",
            "UPDATE jobs SET tags = '{not json' WHERE job_id = ?",
            "UPDATE jobs SET tags = '[1, 2]' WHERE job_id = ?",
        ],
    )
    def test_a_job_that_cannot_be_read_is_set_aside_and_the_others_run(
        self, in_process: Start, place: Place, line: list[str], damage: str
    ) -> None:
        place.damage(damage, line[3])
        engine = in_process()
        for job_id in line[:3] + line[4:]:
            assert engine.job(job_id, type=int).result(timeout_seconds=60) == 3
        row = bad_row(place, line[3])
        assert (row.table_name, row.code) == ("jobs", "unreadable")
        [told] = place.events("row_quarantined")
        assert told.trace_id == place.events("job_accepted", job_id=line[3])[0].trace_id
        assert engine.health()["ok"] and engine.health()["fenced_times"] == 0

    def test_inputs_that_cannot_be_read_fail_their_job_alone(
        self, in_process: Start, place: Place, line: list[str]
    ) -> None:
        place.damage("UPDATE jobs SET inputs = '{\"n\": ' WHERE job_id = ?", line[3])
        place.damage("UPDATE jobs SET inputs = '@blob:0000' WHERE job_id = ?", line[4])
        in_process()
        place.ended(JOBS - 2)
        place.eventually(lambda: place.states().get(JobState.FAILED) == 2, "the two have failed")
        assert {job.job_id for job in place.jobs(JobState.FAILED)} == {line[3], line[4]}

    @pytest.mark.parametrize("column", ["state = 'no such state'", "policy = 'perhaps'", "kind = 'dance'"])
    def test_a_step_that_cannot_be_read_stops_its_own_job_only(
        self, in_process: Start, place: Place, ids: list[str], column: str
    ) -> None:
        place.damage(f"UPDATE steps SET {column} WHERE job_id = ? AND name = 'first'", ids[3])  # noqa: S608
        engine = in_process()
        for job_id in ids[:3] + ids[4:]:
            assert engine.job(job_id, type=int).result(timeout_seconds=60) == 3 * ids.index(job_id)
        row = bad_row(place, ids[3])
        assert (row.table_name, row.code) == ("steps", "unreadable")
        place.eventually(lambda: engine.health()["ok"], "all is well otherwise")

    def test_a_step_whose_record_is_garbled_fails_its_own_job_only(
        self, in_process: Start, place: Place, ids: list[str]
    ) -> None:
        place.damage("UPDATE steps SET outcome = '{' WHERE job_id = ? AND name = 'first'", ids[3])
        place.damage("UPDATE steps SET args_hashes = '{' WHERE job_id = ? AND name = 'first'", ids[4])
        place.damage("UPDATE steps SET error = '{' WHERE job_id = ? AND name = 'hold'", ids[5])
        engine = in_process()
        place.ended(JOBS - 3)
        place.eventually(
            lambda: len(place.jobs(JobState.FAILED, JobState.AWAITING_USER)) + len(set_aside(place)) == 3,
            "the three have ended, or wait for an operator",
        )
        assert engine.health()["ok"] and engine.health()["fenced_times"] == 0

    def test_released_by_an_operator_it_runs(self, in_process: Start, place: Place, line: list[str]) -> None:
        place.damage("UPDATE jobs SET on_stall = 'perhaps' WHERE job_id = ?", line[3])
        engine = in_process()
        bad_row(place, line[3])
        place.damage("UPDATE jobs SET on_stall = 'hold' WHERE job_id = ?", line[3])
        with Client(place.store) as client:
            release_job(client.core, JobId(line[3]), by="ann")
        assert engine.job(line[3], type=int).result(timeout_seconds=60) == 3
        place.assert_sound()


class TestWhileItRuns:
    def test_a_running_job_whose_row_goes_bad_does_not_keep_others_from_being_cancelled(
        self, in_process: Start, place: Place
    ) -> None:
        engine = in_process()
        jobs = [engine.submit(flows.three, n) for n in range(3)]
        flows.doors["hold"].wait_until_inside(3)
        place.damage("UPDATE jobs SET state = 'no such state' WHERE job_id = ?", jobs[1].id)
        jobs[2].cancel()
        place.eventually(lambda: jobs[2].state() is JobState.CANCELLED, "it is cancelled")
        flows.doors["hold"].open()
        assert jobs[0].result(timeout_seconds=60) == 0
        with pytest.raises((StorageError, ValueError)):
            jobs[1].info()
        assert bad_row(place, jobs[1].id).table_name == "jobs"

    def test_a_deadline_that_cannot_be_acted_on_does_not_keep_others_from_theirs(
        self, in_process: Start, place: Place
    ) -> None:
        in_process().stop()
        with Client(place.store, workflows=flows.ALL) as client:
            calls = [flows.count_up.bind(n).options(delay_seconds=3600, deadline_seconds=0.001) for n in range(3)]
            ids = [job.id for job in client.submit_many(calls)]
        place.damage("UPDATE jobs SET on_stall = 'perhaps' WHERE job_id = ?", ids[1])
        engine = in_process()
        for job_id in (ids[0], ids[2]):
            place.eventually(lambda i=job_id: place.job(i).state is JobState.FAILED, "its deadline has passed")  # type: ignore[misc]
        assert bad_row(place, ids[1]).code == "unreadable"
        assert engine.submit(flows.count_up, 9).result(timeout_seconds=60) == 3
