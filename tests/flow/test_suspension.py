"""Putting away: Python closes the frames, ``finally`` runs, and nothing that is called there counts."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import ask, cleanup, current_job, now, parallel, sleep, start, step, wait_signal, workflow
from relight.engine.operator import fence_engine
from relight.errors import JobFailed, Suspending
from relight.model import JobState, RunState, StepState

DONE: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    DONE.clear()


@step
def note(what: str) -> str:
    DONE.append(what)
    return what


@workflow
def child() -> None: ...


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("how", ["waiting", "shutdown", "fenced", "ended by force"])
def test_the_body_of_cleanup_does_not_run_when_a_run_is_only_put_away_or_lost(rig: Rig, colour: str, how: str) -> None:
    inside, go = threading.Event(), threading.Event()
    bodies: list[int] = []
    seen: list[str] = []

    @step
    def block() -> None:
        inside.set()
        wait_for(go)

    @workflow(name="job")
    def job() -> None:
        try:
            wait_signal("go", type=int) if how == "waiting" else block()
        finally:
            try:
                with cleanup():
                    bodies.append(current_job().attempt)
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

    @workflow(name="job")
    async def ajob() -> None:
        try:
            await (wait_signal.aio("go", type=int) if how == "waiting" else block.aio())
        finally:
            try:
                with cleanup():
                    bodies.append(current_job().attempt)
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    done = engine.submit(wanted)
    if how != "waiting":
        wait_for(inside)
    match how:
        case "waiting":
            rig.until_put_away(done)
        case "shutdown":
            stopping = threading.Thread(target=rig.stop, args=(engine,))
            stopping.start()
            eventually(lambda: engine.health()["draining"])
            go.set()
            stopping.join()
        case "fenced":
            inside_engine = engine._engine
            assert inside_engine is not None
            [run] = inside_engine.all_runs()
            fence_engine(rig.client().core, engine.engine_id, by="ada", force=True)
            eventually(lambda: run.lost)
            go.set()
        case _:
            engine.core.end(done.id, code="cancel", reason=None, by="ada", force=True)
            go.set()
    eventually(lambda: seen)
    # What was fenced is recovered by the next incarnation, and runs again to its end.
    assert set(seen) == {"Suspending"} and 1 not in bodies


@pytest.mark.parametrize("executing", ["async", "in a thread", "in an arm"])
@pytest.mark.parametrize("leaving", ["step", "cleanup"])
def test_a_line_that_has_to_leave_does_not_cut_a_step_that_executes_in_another(
    rig: Rig, executing: str, leaving: str
) -> None:
    begun, left, go = threading.Event(), threading.Event(), threading.Event()

    @step(in_doubt="ask")
    async def apay(n: int) -> str:
        begun.set()
        while not go.is_set():
            await asyncio.sleep(0.01)  # sleep-ok: a step that looks
        return "paid"

    @step(in_doubt="ask")
    def pay(n: int) -> str:
        begun.set()
        wait_for(go)
        return "paid"

    async def tidy() -> None:
        while not (begun.is_set() and current_job().suspending):
            await asyncio.to_thread(threading.Event().wait, 0.01)
        if leaving == "cleanup":
            with cleanup():
                left.set()
                await note.aio("tidied")
        left.set()
        await note.aio("tidied")

    @workflow
    async def job() -> None:
        match executing:
            case "async":
                await asyncio.gather(apay(1), tidy())
            case "in a thread":
                await asyncio.gather(pay.aio(1), tidy())
            case _:
                paying = asyncio.ensure_future(parallel.aio(pay, [1], limit=1))
                await tidy()
                await paying

    engine = rig.start(job)
    done = engine.submit(job)
    wait_for(begun)
    stopping = threading.Thread(target=rig.stop, args=(engine,))
    stopping.start()
    wait_for(left)
    go.set()
    stopping.join()
    [paid] = [record for key, record in rig.steps(done).items() if "pay" in key]
    assert paid.state is StepState.COMPLETED and rig.decisions(done) == [] and DONE == []
    assert rig.row(done).status_reason == "shutdown"


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("call", ["step", "sleep", "ask", "start", "now", "parallel", "cleanup"])
def test_finally_runs_and_every_durable_call_in_it_is_refused_and_records_nothing(
    rig: Rig, colour: str, call: str
) -> None:
    seen: list[str] = []

    def durable() -> None:
        match call:
            case "step":
                note("refused")
            case "sleep":
                sleep(0)
            case "ask":
                ask("Send it?")
            case "start":
                start(child)
            case "now":
                now()
            case "parallel":
                parallel(note, ["refused"])
            case _:
                with cleanup():
                    note("refused")

    async def adurable() -> None:
        match call:
            case "step":
                await note.aio("refused")
            case "sleep":
                await sleep.aio(0)
            case "ask":
                await ask.aio("Send it?")
            case "start":
                await start.aio(child)
            case "now":
                now()
            case "parallel":
                await parallel.aio(note, ["refused"])
            case _:
                with cleanup():
                    await note.aio("refused")

    @workflow(name="job")
    def job() -> None:
        try:
            wait_signal("go", type=int)
        except BaseException:
            if current_job().suspending:
                try:
                    durable()
                except BaseException as error:
                    seen.append(type(error).__name__)
            raise

    @workflow(name="job")
    async def ajob() -> None:
        try:
            await wait_signal.aio("go", type=int)
        except BaseException:
            if current_job().suspending:
                try:
                    await adurable()
                except BaseException as error:
                    seen.append(type(error).__name__)
            raise

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted, child)
    done = engine.submit(wanted)
    rig.until_put_away(done)
    assert seen in (["Suspending"], ["CancelledError"])
    assert DONE == [] and list(rig.steps(done)) == ["signal:go#0"]
    assert rig.decisions(done) == [] and engine.jobs(kind="child") == []
    done.signal("go", 1)
    done.result(timeout_seconds=10)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_swallowing_everything_does_not_help(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> str:
        try:
            got = wait_signal("go", type=int)
        except BaseException:
            got = -1
        try:
            note(str(got))
        except BaseException:
            return "swallowed"
        return f"got {got}"

    @workflow(name="job")
    async def ajob() -> str:
        try:
            got = await wait_signal.aio("go", type=int)
        except BaseException:
            got = -1
        try:
            await note.aio(str(got))
        except BaseException:
            return "swallowed"
        return f"got {got}"

    wanted = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    row = rig.until_put_away(done)
    assert row.state is JobState.QUEUED and row.outputs is None
    done.signal("go", 7)
    assert done.result(timeout_seconds=10) == "got 7"
    assert DONE == ["7"]


def test_an_error_raised_while_being_put_away_does_not_fail_the_job(rig: Rig) -> None:
    @workflow
    def job() -> int:
        try:
            return wait_signal("go", type=int)
        except Suspending:
            raise ValueError("a bug in an except block") from None

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    done.signal("go", 7)
    assert done.result(timeout_seconds=10) == 7


def test_with_blocks_are_left_and_entered_again(rig: Rig) -> None:
    class Manager:
        def __enter__(self) -> None:
            DONE.append("in")

        def __exit__(self, *error: object) -> None:
            DONE.append("out")

    @workflow
    def job() -> None:
        with Manager():
            wait_signal("go", type=int)

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    assert DONE == ["in", "out"]
    done.signal("go", 1)
    done.result(timeout_seconds=10)
    assert DONE == ["in", "out", "in", "out"]


@pytest.mark.parametrize("colour", ["sync", "aio", "async"])
def test_a_graceful_stop_lets_a_running_step_finish_and_puts_its_job_away(rig: Rig, colour: str) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> str:
        inside.set()
        wait_for(go)
        DONE.append("worked")
        return "worked"

    @step
    async def awork() -> str:
        inside.set()
        while not go.is_set():
            await asyncio.sleep(0.001)  # sleep-ok: an async step that looks
        DONE.append("worked")
        return "worked"

    @workflow(name="job")
    def job() -> str:
        return work() + note("!")

    @workflow(name="job")
    async def ajob() -> str:
        return (await work.aio() if colour == "aio" else await awork()) + await note.aio("!")

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    done = engine.submit(wanted)
    wait_for(inside)
    stopping = threading.Thread(target=rig.stop, args=(engine,))
    stopping.start()
    eventually(lambda: engine._engine is None or engine._engine.draining)
    go.set()
    stopping.join(10)
    row = rig.row(done)
    assert (row.state, row.status_reason, row.claimable) == (JobState.QUEUED, "shutdown", True)
    assert [run.state for run in rig.runs(done)] == [RunState.SUSPENDED]
    assert rig.start(wanted).job(done.id).result(timeout_seconds=10) == "worked!"
    assert DONE == ["worked", "!"]


def test_a_step_that_outlives_the_drain_is_held_until_it_has_returned(rig: Rig) -> None:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> str:
        DONE.append("called")
        if len(DONE) == 1:
            inside.set()
            wait_for(go)
        return "worked"

    @workflow
    def job() -> str:
        return work()

    engine = rig.start(job)
    done = engine.submit(job)
    wait_for(inside)
    rig.stop(engine, drain_seconds=0)
    assert rig.row(done).state is JobState.RUNNING
    engine = rig.start(job, lease_seconds=0.5)
    eventually(lambda: rig.probes[engine].reached["watch"] > 3)
    assert DONE == ["called"], "no second try beside the first"
    go.set()
    assert engine.job(done.id).result(timeout_seconds=20) == "worked"
    assert DONE == ["called", "called"]


@pytest.mark.parametrize("lines", [1, 30])
def test_a_run_of_many_lines_is_put_away_however_often_it_is_told_to_leave(rig: Rig, lines: int) -> None:
    async def line(n: int) -> int:
        for _ in range(3):
            await sleep.aio(0.08)
        return n

    @workflow
    async def job() -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(line(n)) for n in range(lines)]
        return sum(task.result() for task in tasks)

    engine = rig.start(job)
    jobs = [engine.submit(job) for _ in range(5)]
    assert [each.result(timeout_seconds=20) for each in jobs] == [sum(range(lines))] * 5


def test_nothing_is_recorded_after_the_put_away_began(rig: Rig) -> None:
    """A line of its own that goes on computing while the job waits: what it calls later is refused."""
    seen: list[str] = []
    computed = threading.Event()

    async def slow_line() -> None:
        await asyncio.to_thread(computed.wait, 10)
        try:
            await note.aio("too late")
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    @workflow
    async def job() -> Any:
        lines = [asyncio.create_task(slow_line())] if not computed.is_set() else []
        got = await wait_signal.aio("go", type=int)
        await asyncio.gather(*lines)
        return got

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    computed.set()
    done.signal("go", 1)
    assert done.result(timeout_seconds=10) == 1
    assert DONE == []


def test_a_wait_in_memory_is_kept_for_as_long_as_was_said(rig: Rig) -> None:
    @workflow
    def job() -> int:
        return wait_signal("go", type=int)

    engine = rig.start(job, suspend_after_seconds=0.3)
    done = engine.submit(job)
    begun = rig.until_recorded(done, "signal:go#0").begun_at
    rig.until_put_away(done)
    [away] = rig.events(done, "run_suspended")
    assert away.ts - begun >= 300
    done.signal("go", 1)
    assert done.result(timeout_seconds=10) == 1


def test_a_result_that_cannot_be_stored_fails_the_job(rig: Rig) -> None:
    @workflow
    def job() -> object:
        return object()

    @workflow
    def wrong() -> int:
        return "seven"  # type: ignore[return-value]

    engine = rig.start(job, wrong)
    with pytest.raises(JobFailed, match="NotSerializable"):
        engine.submit(job).result(timeout_seconds=10)
    with pytest.raises(JobFailed, match=r"does not fit int"):
        engine.submit(wrong).result(timeout_seconds=10)


def test_a_body_that_computes_beside_a_long_sleep_is_not_put_away_for_it(rig: Rig) -> None:
    """Between two durable calls nothing of the body is to be seen, however long it takes: only the loop knows."""

    @workflow
    async def job() -> list[str]:
        background = asyncio.ensure_future(sleep.aio(3600))
        got = [await note.aio("one")]
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass
        got.append(await note.aio("two"))
        background.cancel()
        return got

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == ["one", "two"]
    assert len(rig.runs(done)) == 1
