"""Jobs in an engine that is really killed with SIGKILL, in the middle of a step, and taken up by the next one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.flow import killed
from tests.flow.kit import Rig, eventually

from relight import AsyncClient, Engine, Job
from relight.cli.main import cli
from relight.model import JobState, RunState, StepState, Why

ROOT = Path(__file__).parents[2]


class Child:
    """An engine in a process of its own."""

    def __init__(self, rig: Rig, hangs: str) -> None:
        self.rig = rig
        self.hangs = hangs
        self.log = str(rig.folder / "done.txt")
        environment = {**os.environ, killed.HANGS: hangs}
        command = [sys.executable, "-m", "tests.flow.killed", rig.path, self.log]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def submit(self, workflow: Any) -> Job[Any]:
        client = self.rig.client(workflows=killed.WORKFLOWS)
        return client.submit(workflow, self.log)

    def until(self, what: str) -> None:
        eventually(lambda: what in killed.done(self.log), what)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def restart(self, job: Job[Any]) -> Job[Any]:
        self.kill()
        engine: Engine = self.rig.start(*killed.WORKFLOWS)
        return engine.job(job.id)


@pytest.fixture
def child(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Child]:
    made = Child(rig, request.param)
    yield made
    if made.process.poll() is None:
        made.kill()


@pytest.mark.parametrize("child", ["one", "two", "three"], indirect=True)
@pytest.mark.parametrize("wanted", [killed.line, killed.aline], ids=["sync", "async"])
def test_finished_steps_are_not_run_again_and_the_cut_one_is(rig: Rig, child: Child, wanted: Any) -> None:
    job = child.submit(wanted)
    child.until(child.hangs)
    eventually(lambda: any(each.state is StepState.RUNNING for each in rig.steps(job).values()))
    finished = [each.outcome for each in rig.steps(job).values() if each.state is StepState.COMPLETED]
    job = child.restart(job)
    assert job.result(timeout_seconds=20) == ["one", "two", "three"]
    done = killed.done(child.log)
    assert all(done.count(str(outcome).strip('"')) == 1 for outcome in finished)
    assert done.count(child.hangs) == 2 and set(done) == {"one", "two", "three"}
    assert [run.state for run in rig.runs(job)] == [RunState.STALLED, RunState.COMPLETED]


@pytest.mark.parametrize("child", ["two"], indirect=True)
def test_before_anybody_recovered_a_killed_engine_why_is_the_same_wherever_it_is_asked(rig: Rig, child: Child) -> None:
    job = child.submit(killed.line)
    child.until("two")
    rig.until_recorded(job, "plain#1", "running")
    assert [cause.code for cause in job.why().causes] == ["running"]
    child.kill()
    assert rig.row(job).state is JobState.RUNNING
    from_a_client, from_a_shell = answer(job.why()), asked_in_a_shell(rig, job)
    assert from_a_client[0] == ["owner_silent"]
    assert from_a_client == from_a_shell == answer(asyncio.run(asked_async(rig, job)))
    engine = rig.engine(*killed.WORKFLOWS)
    rig.probes[engine].hold("watch")
    rig.start_made(engine)
    assert rig.row(job).state is JobState.RUNNING
    from_an_engine = answer(engine.job(job.id).why())
    assert from_an_engine == answer(job.why()) == asked_in_a_shell(rig, job)
    rig.probes[engine].let_go()
    assert engine.job(job.id).result(timeout_seconds=20) == ["one", "two", "three"]


def answer(why: Why) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Return what does not depend on the moment of asking."""
    causes = why.causes
    return [c.code for c in causes], [list(c.evidence) for c in causes], [list(c.actions) for c in causes]


async def asked_async(rig: Rig, job: Job[Any]) -> Why:
    async with AsyncClient(rig.path) as client:
        return await client.job(job.id).why()


def asked_in_a_shell(rig: Rig, job: Job[Any]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    done = CliRunner().invoke(cli, ["why", job.id, "--json", "--store", rig.path])
    causes = msgspec.json.decode(done.output)["causes"]
    return tuple([cause[name] for cause in causes] for name in ("code", "evidence", "actions"))  # type: ignore[return-value]


@pytest.mark.parametrize("child", ["c"], indirect=True)
def test_only_the_cut_arms_are_run_again(rig: Rig, child: Child) -> None:
    job = child.submit(killed.fan)
    for n in (0, 1, 3):
        rig.until_recorded(job, f"b{n}/plain#0", "completed")
    job = child.restart(job)
    assert job.result(timeout_seconds=20) == ["a", "b", "c", "d"]
    assert sorted(killed.done(child.log)) == ["a", "b", "c", "c", "d"]


@pytest.mark.parametrize("child", ["charge"], indirect=True)
def test_a_cut_step_is_reconciled(rig: Rig, child: Child) -> None:
    job = child.submit(killed.doubts)
    child.until("charge")
    job = child.restart(job)
    assert job.result(timeout_seconds=20) == ["charge found", "mail"]
    assert killed.done(child.log) == ["charge", "mail"]


@pytest.mark.parametrize("child", ["mail"], indirect=True)
def test_a_person_is_asked_about_a_cut_step(rig: Rig, child: Child) -> None:
    job = child.submit(killed.doubts)
    child.until("mail")
    job = child.restart(job)
    rig.until(job, JobState.AWAITING_USER)
    assert killed.done(child.log) == ["charge", "mail"]
    job._core.settle(job.id, "asked#0", verdict="done", value='"mailed"', by="ada")
    assert job.result(timeout_seconds=20) == ["charge", "mailed"]


@pytest.mark.parametrize("child", ["nothing"], indirect=True)
def test_a_kill_in_a_backoff_does_not_restart_the_schedule(rig: Rig, child: Child) -> None:
    job = child.submit(killed.backoff)
    until = rig.until_recorded(job, "flaky#0", "backoff").until or 0
    job = child.restart(job)
    assert job.result(timeout_seconds=20) == "try"
    assert killed.done(child.log) == ["try 1", "try 2"]
    assert rig.events(job, "step_began")[-1].ts >= until


@pytest.mark.parametrize("child", ["after"], indirect=True)
def test_waits_that_are_over_stay_over(rig: Rig, child: Child) -> None:
    job = child.submit(killed.waits)
    job.signal("go", 7)
    rig.question(job)
    rig.until(job, JobState.AWAITING_USER)
    job.answer("approve", by="ada")
    child.until("after")
    job = child.restart(job)
    assert job.result(timeout_seconds=20) == ["before", 7, "approve", "after"]
    assert killed.done(child.log) == ["before", "after", "after"]
    assert rig.told(job).count("signal_consumed") == 1 and len(rig.decisions(job)) == 1


@pytest.mark.parametrize("child", ["child y"], indirect=True)
def test_a_killed_engine_s_children_are_found_again(rig: Rig, child: Child) -> None:
    job = child.submit(killed.family)
    child.until("child y")
    one, _ = msgspec.json.decode(rig.steps(job)["start#0"].outcome or "[]")
    rig.until(rig.client().job(one), JobState.COMPLETED)
    job = child.restart(job)
    assert job.result(timeout_seconds=20) == ["child x", "child y"]
    assert sorted(killed.done(child.log)) == ["child x", "child y", "child y"]


@pytest.mark.parametrize("child", ["two"], indirect=True)
def test_killed_again_and_again_a_job_comes_to_its_end(rig: Rig, child: Child) -> None:
    job = child.submit(killed.line)
    child.until("two")
    rig.until_recorded(job, "plain#1", "running")
    child.kill()
    for hangs in ("two", "three"):
        before = len(killed.done(child.log))
        again = Child(rig, hangs)
        eventually(lambda n=before, what=hangs: killed.done(child.log)[n:][-1:] == [what], hangs)
        again.kill()
    engine = rig.start(*killed.WORKFLOWS)
    assert engine.job(job.id).result(timeout_seconds=20) == ["one", "two", "three"]
    assert killed.done(child.log) == ["one", "two", "two", "two", "three", "three"]
    assert rig.row(job).attempt >= 3
