"""How a job ends: nothing waits in it any more, its issues stand in its row, and its clean-up begins after its steps."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import apsw
import psycopg
import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import ask, branch, cleanup, issue, parallel, race, sleep, start, step, wait_signal, workflow
from relight.core.retry import Retry
from relight.errors import JobFailed, StepFailed
from relight.model import JobState
from relight.recorder.verify import verify_store

inside = threading.Event()
go_on = threading.Event()
seen: list[str] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    inside.clear()
    go_on.clear()
    seen.clear()


@workflow
def waits_twice() -> None:
    parallel(_wait, ["ask", "signal", "sleep"])


def _wait(what: str) -> None:
    match what:
        case "ask":
            ask("Go?")
        case "signal":
            wait_signal("a", "b")
        case _:
            sleep(3600)


def end_of(rig: Rig, how: str) -> Any:
    engine = rig.start(waits_twice)
    job = engine.submit(waits_twice, deadline_seconds=0.5 if how == "deadline" else None)
    rig.question(job)
    eventually(lambda: len(rig.steps(job)) == 4)
    match how:
        case "cancel":
            job.cancel()
        case "fail":
            job.fail("no")
        case "force":
            engine.core.end(job.id, code="cancel", reason=None, by="ada", force=True)
    rig.until(job, JobState.CANCELLED if how in ("cancel", "force") else JobState.FAILED)
    return job


@pytest.mark.parametrize("how", ["cancel", "fail", "deadline", "force"])
def test_nothing_waits_in_a_job_that_has_ended(rig: Rig, how: str) -> None:
    job = end_of(rig, how)
    assert {step.state for step in rig.steps(job).values()} == {"abandoned"}
    assert [row.state for row in rig.decisions(job)] == ["withdrawn"]
    assert all(step.ended_at for step in rig.steps(job).values())


def test_a_retry_asks_and_waits_anew(rig: Rig) -> None:
    job = end_of(rig, "fail")
    job.retry()
    row = rig.question(job)
    assert [row.state for row in rig.decisions(job)] == ["withdrawn", "open"]
    job.answer("approve", decision_id=row.decision_id, by="ada")
    rig.until_recorded(job, "b0/ask#0", "completed")


def spoil(address: str, change: str) -> None:
    """Change rows behind Relight's back."""
    if not address.startswith("postgresql://"):
        with apsw.Connection(address) as connection:
            connection.execute(change)
        return
    place, _, schema = address.partition("?schema=")
    with psycopg.connect(place, options=f"-c search_path={schema or 'relight'}") as server:
        server.execute(change.encode())


@pytest.mark.parametrize("table", ["steps", "decisions"])
def test_verify_finds_what_waits_in_an_ended_job(rig: Rig, table: str) -> None:
    job = end_of(rig, "cancel")
    for engine in list(rig._engines):
        rig.stop(engine)
    rig.must_verify = False
    damage = {
        "steps": "UPDATE steps SET state = 'waiting', ended_at = NULL WHERE job_id = ?",
        "decisions": "UPDATE decisions SET state = 'open' WHERE job_id = ?",
    }
    rig.close()
    spoil(rig.path, damage[table].replace("?", f"'{job.id}'"))
    found = {finding.invariant for finding in verify_store(rig.path).findings}
    assert "S-2" in found


@workflow
def fails_with_issue() -> None:
    issue("odd", "was odd")
    wait_signal("go", type=int)
    raise ValueError("no")


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_the_issues_of_a_job_that_did_not_complete_stand_in_its_row(rig: Rig, how: str) -> None:
    job = rig.start(fails_with_issue).submit(fails_with_issue)
    rig.until_recorded(job, "signal:go#0", "waiting")
    if how == "cancelled":
        job.cancel()
    else:
        job.signal("go", 1)
    row = rig.until(job, how)
    assert row.issues == '[{"code":"odd","detail":"was odd"}]'
    if how == "failed":
        rig.stop(rig._engines[0])
        rig.client().job(job.id).retry()
        assert rig.row(job).issues is None, "the next run tells its own"


@step(in_doubt="fail", retry=Retry(tries=3))
def uncertain() -> None:
    seen.append("called")
    raise ConnectionError("reset")


@workflow
def calls_uncertain() -> str:
    try:
        uncertain()
    except StepFailed as error:
        return f"{error.error_type} {error.error_code} {error.tries}"
    return "never"


def test_a_doubt_that_fails_does_so_at_once(rig: Rig) -> None:
    job = rig.start(calls_uncertain).submit(calls_uncertain)
    assert job.result(timeout_seconds=10) == "ConnectionError in_doubt 1"
    assert seen == ["called"]
    [told] = rig.events(job, "step_failed")
    assert '"final":true' in str(told.payload)
    assert rig.told(job, "step_in_doubt", "step_retry_scheduled", "run_suspended") == []


@step
def blocks() -> str:
    seen.append("began")
    inside.set()
    wait_for(go_on)
    seen.append("returned")
    return "done"


@step
async def tidies() -> None:
    seen.append("tidied")


@workflow
async def awaits_a_thread() -> str:
    try:
        return await blocks.aio()
    finally:
        with cleanup():
            await tidies()


@workflow
async def awaits_two() -> list[str]:
    try:
        return await asyncio.gather(blocks.aio(), _signal())
    finally:
        with cleanup():
            await tidies()


async def _signal() -> str:
    return await wait_signal.aio("never", type=str)


@pytest.mark.parametrize("kind", [awaits_a_thread, awaits_two], ids=lambda kind: kind.kind)
def test_clean_up_begins_after_the_thread_of_an_awaited_step_is_back(rig: Rig, kind: Any) -> None:
    engine = rig.start(kind)
    job = engine.submit(kind)
    wait_for(inside)
    job.cancel()
    rig.until_asked_to_end(engine, job)
    assert engine._engine is not None
    for _ in range(5):
        engine._engine.loop.is_idle()
    assert seen == ["began"]
    go_on.set()
    rig.until(job, JobState.CANCELLED)
    assert seen == ["began", "returned", "tidied"]


def test_an_engine_that_leaves_waits_for_it_as_long_as_it_drains(rig: Rig) -> None:
    engine = rig.start(awaits_a_thread)
    job = engine.submit(awaits_a_thread)
    wait_for(inside)
    job.cancel()
    rig.until_asked_to_end(engine, job)
    rig.stop(engine, drain_seconds=0.1)
    assert seen == ["began"]
    go_on.set()
    eventually(lambda: "returned" in seen)


@workflow
async def left_to_itself() -> str:
    left = asyncio.ensure_future(blocks.aio())
    await wait_signal.aio("go", type=str)
    return "over" if not left.done() else "never"


@workflow
def left_in_a_branch() -> str:
    branch(blocks)
    return wait_signal("go", type=str)


@workflow
def lost_in_a_race() -> int:
    return race(branch(blocks), branch(wait_signal, "go"))


@pytest.mark.parametrize(("kind", "reason"), [(left_in_a_branch, "left_behind"), (left_to_itself, "left_behind")])
def test_a_step_that_returns_after_its_branch_was_left_behind_says_so(rig: Rig, kind: Any, reason: str) -> None:
    job = rig.start(kind).submit(kind)
    wait_for(inside)
    job.signal("go", "x")
    eventually(lambda: rig.events(job, "step_abandoned"))
    go_on.set()
    job.result(timeout_seconds=10)
    assert {reason in str(event.payload) for event in rig.events(job, "step_abandoned")} == {True}


@workflow
def one_child() -> str:
    return start(fails_with_issue).result()  # type: ignore[return-value]


def test_an_operator_s_retry_of_a_child_stands_although_its_parent_has_ended(rig: Rig) -> None:
    engine = rig.start(one_child, fails_with_issue)
    job = engine.submit(one_child)
    child = eventually(lambda: [info for info in engine.jobs() if info.kind == "fails_with_issue"])[0]
    engine.job(child.id).signal("go", 1)
    rig.until(job, JobState.FAILED)
    engine.job(child.id).retry()
    assert engine._services
    for service in engine._services:
        if service.name == "watch":
            service.run_once()
    row = rig.row(child.id)
    assert (row.cancel_code, row.detached) == (None, True)
    with pytest.raises(JobFailed):
        job.result(timeout_seconds=1)
