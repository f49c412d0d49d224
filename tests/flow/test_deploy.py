"""New code under 200 jobs in flight, after the engine was killed: each ends as the docs say, and none is stranded silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually
from tests.process import deployed

from relight import Engine, Job
from relight.model import JobState

ROOT = Path(__file__).parents[2]
JOBS = 204


@pytest.fixture
def in_flight(rig: Rig) -> dict[str, list[str]]:
    """Leave jobs of six kinds in flight under a killed engine that had the old code; return their ids by kind."""
    command = [sys.executable, "-m", "tests.process.deployed", rig.path]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        client = rig.client(workflows=deployed.OLD)
        each = JOBS // len(deployed.OLD)
        jobs = {old.kind: client.submit_many([old.bind(n) for n in range(each)]) for old in deployed.OLD}
        ids = {kind: [job.id for job in them] for kind, them in jobs.items()}
        eventually(lambda: len(rig.events(None, "wait_started")) == JOBS, "all wait", seconds=60)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return ids


def go_on(engine: Engine, ids: list[str]) -> list[Job[Any]]:
    jobs = [engine.job(job_id) for job_id in ids]
    for job in jobs:
        job.signal("go", True)
    return jobs


def results(engine: Engine, ids: list[str]) -> list[Any]:
    return [job.result(timeout_seconds=60) for job in go_on(engine, ids)]


def test_each_job_ends_as_the_docs_say_and_why_and_doctor_name_the_others(
    rig: Rig, in_flight: dict[str, list[str]]
) -> None:
    engine = rig.start(*deployed.NEW, slots=500, threads=64)
    each = list(range(JOBS // len(deployed.OLD)))
    assert results(engine, in_flight["guarded"]) == each
    assert results(engine, in_flight["removed"]) == each
    assert results(engine, in_flight["widened"]) == each
    for job_id in in_flight["guarded"]:
        assert rig.row(job_id).state is JobState.COMPLETED
        assert "check#0" not in rig.steps(job_id)
    for job_id in in_flight["removed"]:
        row = rig.row(job_id)
        assert row.state is JobState.COMPLETED_WITH_ISSUES
        assert [issue["code"] for issue in msgspec.json.decode(row.issues or "")] == ["step_removed"]
    assert len(rig.events(None, "step_removed")) == len(each)

    for kind, code, said in (
        ("inserted", "step_inserted", "check#0 is new, but work#0 after it is already done"),
        ("renamed", "history_mismatch", 'argument "name", "title" differs'),
    ):
        for job in go_on(engine, in_flight[kind]):
            rig.until(job, JobState.AWAITING_USER)
            why = job.why()
            assert [cause.code for cause in why.causes] == [code] and said in why.summary
    assert not any("check#0" in rig.steps(job_id) for job_id in in_flight["inserted"])

    for job in go_on(engine, in_flight["versioned"]):
        rig.until(job, JobState.QUEUED)
        assert "it began under version 1, and the 1 live engine has version 2" in job.why().summary
    fresh = engine.submit(deployed.new_versioned, 7)
    fresh.signal("go", True)
    assert fresh.result(timeout_seconds=20) == "2: 7"

    command = [sys.executable, "-m", "relight", "doctor", "--json", "--store", rig.path]
    found = msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    assert {"kind": "versioned", "version": "1", "jobs": len(each)} in found["stranded"]
    assert found["mismatched"] >= 2 * len(each)
    assert any("began under version 1" in problem for problem in found["problems"])
    assert any("history_mismatch" in problem for problem in found["problems"])

    # What was stopped goes on with code that agrees with the record; what was left goes on with its own version.
    rig.stop(engine)
    both = [deployed.old_inserted, deployed.old_renamed, deployed.old_versioned, deployed.new_versioned]
    engine = rig.start(*both, slots=500, threads=64)
    for kind in ("inserted", "renamed"):
        for job_id in in_flight[kind]:
            engine.job(job_id).resume(by="ada")
    assert [engine.job(i).result(timeout_seconds=60) for i in in_flight["inserted"]] == each
    assert [engine.job(i).result(timeout_seconds=60) for i in in_flight["renamed"]] == [f"n{n}" for n in each]
    assert [engine.job(i).result(timeout_seconds=60) for i in in_flight["versioned"]] == [f"1: {n}" for n in each]
    open_states = {state for state in JobState if state not in (JobState.COMPLETED, JobState.COMPLETED_WITH_ISSUES)}
    left = engine.jobs(state=sorted(open_states), limit=1000)
    assert left == []
