"""Asking a job to end: from every state, through its ``finally``, past ``except Exception``; by force when it is deaf."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import Retry, ask, cancelled, cleanup, sleep, step, wait_signal, workflow
from relight.errors import CancelRequested, Conflict, IllegalTransition, JobCancelled, JobFailed, StepFailed
from relight.model import JobState, RunState, StepState
from relight.proof.lockfile import probe, state_dir_for

DONE: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    DONE.clear()


@step
def note(what: str) -> str:
    DONE.append(what)
    return what


def ended(rig: Rig, job: Any, state: JobState = JobState.CANCELLED) -> Any:
    """Wait until a job has ended so, and check what every such end has in common."""
    row = rig.until(job, state)
    assert row.outputs is None and row.completed_at is not None
    assert not row.claimable and row.ready_at is None
    terminal = {JobState.CANCELLED: "job_cancelled", JobState.FAILED: "job_failed"}[state]
    assert rig.told(job)[-1] == terminal
    assert all(run.state is not RunState.RUNNING for run in rig.runs(job))
    return row


# ---------------------------------------------------------------- from each state


def test_a_job_that_never_began_is_cancelled_at_once_and_never_runs(rig: Rig) -> None:
    @workflow
    def job() -> None:
        note("ran")

    engine = rig.start(job)
    queued = engine.submit(job, delay_seconds=600)
    queued.cancel("not needed", by="ada")
    row = ended(rig, queued)
    assert rig.runs(queued) == [] and row.status_reason == "cancel"
    [told] = rig.events(queued, "job_cancelled")
    assert (told.actor, told.actor_id) == ("human", "ada") and "not needed" in told.payload
    with pytest.raises(JobCancelled):
        queued.result(timeout_seconds=10)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("what", ["sleep", "signal", "ask"])
@pytest.mark.parametrize("where", ["put away", "in memory"])
def test_a_waiting_job_is_cancelled_by_one_last_run_through_its_finally(
    rig: Rig, colour: str, what: str, where: str
) -> None:
    @workflow(name="job")
    def job() -> str:
        try:
            match what:
                case "sleep":
                    sleep(600)
                case "signal":
                    wait_signal("never", type=int)
                case _:
                    ask("Send it?")
            return "woken"
        finally:
            with cleanup():
                note("cleaned up")

    @workflow(name="job")
    async def ajob() -> str:
        try:
            match what:
                case "sleep":
                    await sleep.aio(600)
                case "signal":
                    await wait_signal.aio("never", type=int)
                case _:
                    await ask.aio("Send it?")
            return "woken"
        finally:
            with cleanup():
                await note.aio("cleaned up")

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted, suspend_after_seconds=0 if where == "put away" else 60)
    waiting = engine.submit(wanted)
    if where == "put away":
        rig.until_put_away(waiting)
    else:
        eventually(lambda: any(step.state is StepState.WAITING for step in rig.steps(waiting).values()))
    if what == "sleep" and where == "in memory":
        assert rig.row(waiting).state in (JobState.RUNNING, JobState.QUEUED)
    waiting.cancel("enough", by="ada")
    row = ended(rig, waiting)
    assert row.cancel_by == "ada" and row.cancel_reason == "enough"
    assert DONE == ["cleaned up"]
    assert "job_cancel_requested" in rig.told(waiting)


def test_a_job_in_backoff_is_cancelled(rig: Rig) -> None:
    from relight import Retry

    @step(retry=Retry(tries=5, first_seconds=600))
    def flaky() -> None:
        raise OSError

    @workflow
    def job() -> None:
        flaky()

    waiting = rig.start(job).submit(job)
    rig.until_put_away(waiting)
    waiting.cancel()
    ended(rig, waiting)
    assert rig.told(waiting).count("step_began") == 1


def test_a_job_waiting_for_its_child_is_cancelled(rig: Rig) -> None:
    from relight import start

    @workflow
    def child() -> int:
        return wait_signal("never", type=int)

    @workflow
    def job() -> int:
        return start(child).result()

    engine = rig.start(job, child, lease_seconds=0.5)
    waiting = engine.submit(job)
    rig.until_put_away(waiting)
    waiting.cancel()
    ended(rig, waiting)
    eventually(lambda: all(info.state == "cancelled" for info in engine.jobs(kind="child")))


@pytest.mark.parametrize("colour", ["sync", "aio"])
def test_a_job_in_a_sync_step_leaves_when_the_step_has_returned(rig: Rig, colour: str) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> bool:
        inside.set()
        eventually(cancelled, "cancelled() in the step")
        go.wait(5)
        DONE.append("worked")
        return cancelled()

    @workflow(name="job")
    def job() -> None:
        work()
        note("too late")

    @workflow(name="job")
    async def ajob() -> None:
        await work.aio()
        await note.aio("too late")

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    running = engine.submit(wanted)
    wait_for(inside)
    running.cancel()
    rig.until_asked_to_end(engine, running)
    go.set()
    ended(rig, running)
    eventually(lambda: DONE == ["worked"])


def test_a_job_in_an_async_step_cancels_the_step(rig: Rig) -> None:
    inside = threading.Event()

    @step
    async def work() -> None:
        inside.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            DONE.append("cancelled")
            raise

    @workflow
    async def job() -> None:
        await work()

    running = rig.start(job).submit(job)
    wait_for(inside)
    running.cancel()
    ended(rig, running)
    assert DONE == ["cancelled"]
    assert rig.steps(running)["work#0"].state is StepState.ABANDONED
    assert '"cancelled"' in rig.events(running, "step_abandoned")[0].payload


def test_a_stalled_job_that_is_held_is_cancelled_by_one_last_run(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> None:
        inside.set()
        wait_for(go)

    @workflow(on_stall="hold")
    def job() -> None:
        try:
            work()
        finally:
            with cleanup():
                note("cleaned up")

    engine = rig.start(job)
    held = engine.submit(job)
    wait_for(inside)
    rig.until_recorded(held, "work#0")
    engine = rig.restart(engine, job)
    rig.until(held, JobState.STALLED, "held:policy")
    engine.job(held.id).cancel(by="ada")
    ended(rig, held)
    go.set()
    assert DONE == ["cleaned up"]


def test_a_job_that_waits_after_a_mismatch_is_cancelled(rig: Rig) -> None:
    changed = [1]

    @workflow
    def job() -> None:
        note(str(changed[0]))
        wait_signal("go", type=int)

    engine = rig.start(job)
    waiting = engine.submit(job)
    rig.until_put_away(waiting)
    changed[0] = 2
    waiting.signal("go", 1)
    rig.until(waiting, JobState.AWAITING_USER, "history_mismatch:arguments")
    waiting.cancel()
    ended(rig, waiting)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_what_has_ended_is_not_cancelled(rig: Rig, end: str) -> None:
    @workflow
    def job(how: str) -> str:
        if how == "failed":
            raise ValueError
        return "done"

    engine = rig.start(job)
    over = engine.submit(job, end, delay_seconds=600 if end == "cancelled" else None)
    if end == "cancelled":
        over.cancel()
    row = rig.until(over, end)
    with pytest.raises(IllegalTransition, match=f"is {end}"):
        over.cancel()
    assert rig.row(over) == row


def test_asking_twice_is_well_and_the_first_request_stands(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> None:
        inside.set()
        wait_for(go)

    @workflow
    def job() -> None:
        work()
        note("too late")

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    running.cancel("first", by="ada")
    running.cancel("second", by="bob")
    running.fail("third", by="cy")
    rig.until_asked_to_end(engine, running)
    go.set()
    row = ended(rig, running)
    assert (row.cancel_reason, row.cancel_by) == ("first", "ada")
    assert rig.told(running).count("job_cancel_requested") == 1


def test_fail_ends_a_job_as_failed_through_its_finally(rig: Rig) -> None:
    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            with cleanup():
                note("cleaned up")

    engine = rig.start(job)
    waiting = engine.submit(job)
    never_began = engine.submit(job, delay_seconds=600)
    rig.until_put_away(waiting)
    for each in (waiting, never_began):
        each.fail("the customer left", by="ada")
        ended(rig, each, JobState.FAILED)
        with pytest.raises(JobFailed, match="the customer left"):
            each.result(timeout_seconds=10)
    assert DONE == ["cleaned up"]


# ---------------------------------------------------------------- what the code sees


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_except_exception_does_not_eat_a_cancel(rig: Rig, colour: str) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def tool() -> str:
        inside.set()
        wait_for(go)
        return "out"

    @workflow(name="job")
    def job() -> None:
        for _ in range(100):
            try:
                tool()
            except Exception as error:
                DONE.append(f"eaten {error!r}")

    @workflow(name="job")
    async def ajob() -> None:
        for _ in range(100):
            try:
                await tool.aio()
            except Exception as error:
                DONE.append(f"eaten {error!r}")

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    running = engine.submit(wanted)
    wait_for(inside)
    running.cancel()
    rig.until_asked_to_end(engine, running)
    go.set()
    ended(rig, running)
    assert DONE == [] and rig.told(running).count("step_began") == 1


def test_steps_are_allowed_only_inside_cleanup(rig: Rig) -> None:
    seen: list[str] = []

    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            try:
                note("outside")
            except CancelRequested as error:
                seen.append(str(error))
            with cleanup():
                note("inside")
                sleep(0.01)
            try:
                note("after")
            except CancelRequested:
                seen.append("refused")

    waiting = rig.start(job).submit(job)
    rig.until_put_away(waiting)
    waiting.cancel("enough")
    ended(rig, waiting)
    assert DONE == ["inside"] and len(seen) == 2
    assert "asked to end: enough. Steps that clean up: with cleanup():" in seen[0]


def test_steps_are_refused_again_when_the_time_for_cleaning_up_is_over(rig: Rig) -> None:
    seen: list[str] = []

    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            with cleanup(timeout_seconds=0.1):
                note("in time")
                threading.Event().wait(0.2)
                try:
                    note("too late")
                except CancelRequested:
                    seen.append("refused")

    waiting = rig.start(job).submit(job)
    rig.until_put_away(waiting)
    waiting.cancel()
    ended(rig, waiting)
    assert DONE == ["in time"] and seen == ["refused"]


def test_cleanup_that_is_put_away_goes_on_in_the_next_run(rig: Rig) -> None:
    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            with cleanup(timeout_seconds=60):
                note("first")
                sleep(0.3)
                note("second")

    waiting = rig.start(job).submit(job)
    rig.until_put_away(waiting)
    waiting.cancel()
    ended(rig, waiting)
    assert DONE == ["first", "second"]


def test_steps_of_cleanup_are_not_run_again_after_a_crash(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def second() -> None:
        DONE.append("second")
        if not go.is_set():
            inside.set()
            wait_for(go)

    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            with cleanup():
                note("first")
                second()

    engine = rig.start(job)
    waiting = engine.submit(job)
    rig.until_put_away(waiting)
    waiting.cancel()
    wait_for(inside)
    rig.until_recorded(waiting, "second#0", "running")
    rig.crash(engine)
    again = rig.engine(job)
    go.set()
    with again:
        ended(rig, waiting)
    assert DONE == ["first", "second", "second"]


def test_a_failure_of_cleanup_does_not_change_how_the_job_ends(rig: Rig) -> None:
    @step
    def broken() -> None:
        raise OSError("disk")

    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            with cleanup():
                broken()

    waiting = rig.start(job).submit(job)
    rig.until_put_away(waiting)
    waiting.cancel()
    ended(rig, waiting)


def test_outside_a_cancel_cleanup_is_nothing_special(rig: Rig) -> None:
    @workflow
    def job() -> str:
        with cleanup():
            return note("as ever")

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "as ever"


def test_arms_are_cancelled_with_their_job(rig: Rig) -> None:
    from relight import parallel

    inside, go = threading.Semaphore(0), threading.Event()

    @step
    def work(n: int) -> int:
        inside.release()
        wait_for(go)
        return n

    def arm(n: int) -> int:
        work(n)
        return work(n + 10)

    @workflow
    def job() -> list[int]:
        return parallel(arm, range(6), limit=3)

    engine = rig.start(job)
    running = engine.submit(job)
    for _ in range(3):
        assert inside.acquire(timeout=20)
    running.cancel()
    rig.until_asked_to_end(engine, running)
    go.set()
    ended(rig, running)
    assert rig.told(running).count("step_began") == 3


def test_a_body_that_catches_everything_and_returns_has_completed(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @workflow
    def job() -> str:
        inside.set()
        wait_for(go)
        try:
            note("too late")
        except BaseException:
            return "as asked"
        return "not"

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    running.cancel()
    rig.until_asked_to_end(engine, running)
    go.set()
    assert running.result(timeout_seconds=10) == "as asked"


# ---------------------------------------------------------------- by force


def test_a_deaf_job_is_ended_by_force_and_its_late_finish_is_refused(rig: Rig) -> None:
    inside, go, left = threading.Event(), threading.Event(), threading.Event()

    @step
    def deaf() -> str:
        inside.set()
        go.wait(20)
        return "late"

    @workflow
    def job() -> str:
        try:
            got = deaf()
            DONE.append("recorded")
            return got
        finally:
            left.set()

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    running.cancel()
    eventually(lambda: rig.row(running).cancel_code)
    assert rig.row(running).state is JobState.RUNNING
    engine.core.end(running.id, code="cancel", reason="deaf", by="ada", force=True)
    row = ended(rig, running)
    assert row.status_reason == "forced:cancel"
    assert [run.state for run in rig.runs(running)] == [RunState.CANCELLED]
    go.set()
    wait_for(left)
    eventually(lambda: engine.health()["running"] == 0)
    assert DONE == []
    assert rig.row(running) == row and rig.steps(running)["deaf#0"].outcome is None
    assert "step_finished" not in rig.told(running)


def test_force_ends_a_job_that_waits_for_a_person_and_withdraws_its_question(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Send it?").choice

    engine = rig.start(job)
    waiting = engine.submit(job)
    rig.until(waiting, JobState.AWAITING_USER)
    engine.core.end(waiting.id, code="fail", reason="gone", by="ada", force=True)
    ended(rig, waiting, JobState.FAILED)
    assert rig.decisions(waiting)[0].state == "withdrawn"
    with pytest.raises(Conflict, match="is failed"):
        waiting.answer("approve", by="ada")


@pytest.mark.parametrize("code", ["cancel", "fail"])
def test_by_force_a_step_in_flight_is_in_doubt_and_a_retry_settles_that_first(rig: Rig, code: str) -> None:
    inside, go = threading.Event(), threading.Event()

    @step(in_doubt="ask")
    def pay() -> str:
        inside.set()
        wait_for(go)
        return "paid"

    @workflow
    def job() -> str:
        return pay()

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    engine.core.end(running.id, code=code, reason="deaf", by="ada", force=True)
    ended(rig, running, JobState.CANCELLED if code == "cancel" else JobState.FAILED)
    assert rig.steps(running)["pay#0"].state is StepState.IN_DOUBT
    go.set()
    eventually(lambda: engine.health()["running"] == 0)
    assert rig.steps(running)["pay#0"].state is StepState.IN_DOUBT
    if code == "fail":
        running.retry(by="ada")
        assert "nobody knows whether it happened" in rig.question(running).question
        running.answer("not_done", by="ada")
        assert running.result(timeout_seconds=10) == "paid"


def test_a_doubt_whose_question_was_withdrawn_by_force_is_asked_about_again(rig: Rig) -> None:
    calls: list[int] = []

    @step(in_doubt="ask", retry=Retry(tries=2, first_seconds=0))
    def pay() -> str:
        calls.append(1)
        raise ConnectionError("reset")

    @workflow
    def job() -> str:
        return pay()

    engine = rig.start(job)
    waiting = engine.submit(job)
    first = rig.question(waiting)
    engine.core.end(waiting.id, code="fail", reason="gone", by="ada", force=True)
    ended(rig, waiting, JobState.FAILED)
    waiting.retry(by="ada")
    second = rig.question(waiting)
    assert second.decision_id != first.decision_id and calls == [1]
    engine.core.answer(waiting.id, "done", decision_id=None, note=None, by="ada", value='"paid"')
    assert waiting.result(timeout_seconds=10) == "paid" and calls == [1]


def test_stopping_waits_for_what_was_ended_by_force_and_the_lock_stays_until_it_has_returned(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def deaf() -> None:
        inside.set()
        wait_for(go)

    @workflow
    def job() -> None:
        deaf()

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    engine.core.end(running.id, code="cancel", reason=None, by="ada", force=True)
    with rig.reading() as reads:
        row = reads.engine(engine.engine_id)
    rig.stop(engine, drain_seconds=0.1)  # the deaf one still acts: it may outlive the drain, not the lock

    def locked() -> bool:
        return probe(state_dir_for(rig.path), row.engine_id, row.nonce).locked

    assert locked()
    go.set()
    eventually(lambda: not locked())
    ended(rig, running)


def test_an_engine_still_runs_other_jobs_beside_a_deaf_one(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def deaf() -> None:
        inside.set()
        go.wait(20)

    @workflow
    def job() -> None:
        deaf()

    @workflow
    def other() -> str:
        return note("other")

    engine = rig.start(job, other)
    running = engine.submit(job)
    wait_for(inside)
    engine.core.end(running.id, code="cancel", reason=None, by="ada", force=True)
    assert engine.submit(other).result(timeout_seconds=10) == "other"
    go.set()


# ---------------------------------------------------------------- deadline


def test_a_job_that_never_began_fails_at_its_deadline(rig: Rig) -> None:
    @workflow
    def job() -> None:
        note("ran")

    late = rig.start(job).submit(job, delay_seconds=600, deadline_seconds=0.2)
    row = ended(rig, late, JobState.FAILED)
    assert row.status_reason == "deadline_exceeded" and rig.runs(late) == []
    with pytest.raises(JobFailed, match="deadline_exceeded"):
        late.result(timeout_seconds=10)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("what", ["sleep", "ask", "step", "async step"])
@pytest.mark.parametrize("where", ["put away", "in memory"])
def test_a_job_past_its_deadline_fails_through_its_finally(rig: Rig, colour: str, what: str, where: str) -> None:
    @step
    def work() -> None:
        eventually(cancelled)

    @step
    async def awork() -> None:
        await asyncio.get_running_loop().create_future()

    @workflow(name="job", deadline_seconds=0.4)
    def job() -> None:
        try:
            match what:
                case "sleep":
                    sleep(600)
                case "ask":
                    ask("Send it?")
                case _:
                    work()
            note("too late")
        finally:
            with cleanup():
                note("cleaned up")

    @workflow(name="job", deadline_seconds=0.4)
    async def ajob() -> None:
        try:
            match what:
                case "sleep":
                    await sleep.aio(600)
                case "ask":
                    await ask.aio("Send it?")
                case "async step":
                    await awork()
                case _:
                    await work.aio()
            await note.aio("too late")
        finally:
            with cleanup():
                await note.aio("cleaned up")

    wanted = job if colour == "sync" else ajob
    late = rig.start(wanted, suspend_after_seconds=0 if where == "put away" else 60).submit(wanted)
    row = ended(rig, late, JobState.FAILED)
    assert row.status_reason == "deadline_exceeded"
    assert DONE == ["cleaned up"]


def test_a_stalled_job_past_its_deadline_fails(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> None:
        inside.set()
        wait_for(go)

    @workflow(on_stall="hold", deadline_seconds=1.0)
    def job() -> None:
        work()

    engine = rig.start(job)
    held = engine.submit(job)
    wait_for(inside)
    rig.until_recorded(held, "work#0")
    rig.restart(engine, job)
    row = ended(rig, held, JobState.FAILED)
    go.set()
    assert row.status_reason == "deadline_exceeded"


def test_a_deadline_that_passed_while_nothing_ran_is_kept(rig: Rig) -> None:
    @workflow
    def job() -> None:
        try:
            wait_signal("never", type=int)
        finally:
            with cleanup():
                note("cleaned up")

    engine = rig.start(job)
    late = engine.submit(job, deadline_seconds=0.3)
    rig.until_put_away(late)
    rig.stop(engine)
    deadline = rig.row(late).deadline_at or 0
    client = rig.client()
    eventually(lambda: client.core.clock.now_ms() > deadline)
    rig.start(job)
    ended(rig, late, JobState.FAILED)
    assert DONE == ["cleaned up"]


def test_a_job_that_ended_in_time_is_not_touched_by_its_deadline(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return note("in time")

    engine = rig.start(job)
    done = engine.submit(job, deadline_seconds=0.3)
    assert done.result(timeout_seconds=10) == "in time"
    row = rig.row(done)
    later = engine.submit(job, delay_seconds=0.6)
    later.result(timeout_seconds=10)
    assert rig.row(done) == row


def test_a_job_that_failed_at_its_deadline_may_be_retried_without_one(rig: Rig) -> None:
    waits = [True]

    @workflow
    def job() -> str:
        if waits[0]:
            try:
                sleep(600)
            except BaseException:
                waits[0] = False
                raise
        return note("done")

    late = rig.start(job).submit(job, deadline_seconds=0.3)
    ended(rig, late, JobState.FAILED)
    late.retry(by="ada")
    assert late.result(timeout_seconds=10) == "done"
    assert rig.row(late).deadline_at is None


def test_a_step_cut_by_a_deadline_is_in_doubt_after_a_retry(rig: Rig) -> None:
    inside = threading.Event()
    calls: list[int] = []

    @step(in_doubt="ask")
    async def charge() -> str:
        calls.append(1)
        if len(calls) == 1:
            inside.set()
            await asyncio.get_running_loop().create_future()
        return "charged"

    @workflow
    async def job() -> str:
        return await charge()

    late = rig.start(job).submit(job, deadline_seconds=0.4)
    wait_for(inside)
    ended(rig, late, JobState.FAILED)
    late.retry(by="ada")
    rig.question(late)
    assert len(calls) == 1
    late.answer("not_done", by="ada")
    assert late.result(timeout_seconds=10) == "charged"


def test_a_step_that_fails_after_a_cancel_was_asked_for_does_not_make_it_a_failure(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> None:
        inside.set()
        wait_for(go)
        raise OSError("disk")

    @workflow
    def job() -> None:
        try:
            work()
        except StepFailed:
            DONE.append("caught")
            raise

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    running.cancel()
    rig.until_asked_to_end(engine, running)
    go.set()
    ended(rig, running)
    assert DONE == ["caught"]
