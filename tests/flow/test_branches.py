"""Concurrent lines of async jobs: tasks are branches, keys are taken at the call, and a cancelled sibling stays cancelled."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually

from relight import Retry, ask, sleep, start, step, wait_signal, workflow
from relight.errors import Conflict, JobFailed, NonDurableWait, StepFailed
from relight.model import JobState, StepState


@step
async def fetch(n: int) -> int:
    await asyncio.sleep(0)
    return n


def test_a_key_is_taken_when_a_step_is_called_not_when_it_is_awaited(rig: Rig) -> None:
    @workflow
    async def job() -> list[int]:
        later = [fetch(n) for n in range(3)]
        last = await fetch(3)
        return [await each for each in reversed(later)] + [last]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [2, 1, 0, 3]
    inputs = {key: step.inputs for key, step in rig.steps(done).items()}
    assert inputs == {f"fetch#{n}": f'{{"n":{n}}}' for n in range(4)}


def test_gathered_steps_have_the_keys_of_the_line_that_called_them(rig: Rig) -> None:
    @workflow
    async def job() -> list[int]:
        return list(await asyncio.gather(*(fetch(n) for n in range(4))))

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [0, 1, 2, 3]
    assert set(rig.steps(done)) == {f"fetch#{n}" for n in range(4)}


def test_tasks_are_branches_numbered_in_order_of_creation(rig: Rig) -> None:
    async def line(n: int) -> int:
        return await fetch(n) + await fetch(n)

    @workflow
    async def job() -> list[int]:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(line(1))
            two = group.create_task(line(2))
        inner = await asyncio.gather(line(3), asyncio.create_task(line(4)))
        return [one.result(), two.result(), *inner]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [2, 4, 6, 8]
    first = {key: step.inputs for key, step in rig.steps(done).items() if key.endswith("#0")}
    # gather makes its own tasks after create_task has made one
    assert first == {"b0/fetch#0": '{"n":1}', "b1/fetch#0": '{"n":2}', "b2/fetch#0": '{"n":4}', "b3/fetch#0": '{"n":3}'}


def test_tasks_of_tasks_are_branches_of_branches_and_those_inside_steps_are_none(rig: Rig) -> None:
    @step
    async def busy() -> int:
        return sum(await asyncio.gather(*(asyncio.create_task(asyncio.sleep(0, n)) for n in range(3))))

    async def outer() -> int:
        return sum(await asyncio.gather(asyncio.create_task(inner()), asyncio.create_task(inner())))

    async def inner() -> int:
        return await busy()

    @workflow
    async def job() -> int:
        return await asyncio.create_task(outer()) + await asyncio.create_task(inner())

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == 9
    assert set(rig.steps(done)) == {"b0/b0/busy#0", "b0/b1/busy#0", "b1/busy#0"}


def test_keys_are_the_same_on_replay_whatever_ended_first(rig: Rig) -> None:
    calls: list[int] = []

    @step
    async def work(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0.01 * (5 - n))  # sleep-ok: the last one called is the first to end
        return n

    async def line(n: int) -> int:
        got = await work(n)
        await sleep.aio(0.1)
        return got + await work(n + 10)

    @workflow
    async def job() -> list[int]:
        async with asyncio.TaskGroup() as group:
            lines = [group.create_task(line(n)) for n in range(4)]
        return [each.result() for each in lines]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [10, 12, 14, 16]
    assert sorted(calls) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_semaphores_and_locks_between_lines_are_allowed(rig: Rig) -> None:
    async def line(gate: asyncio.Semaphore, n: int) -> int:
        async with gate:
            await sleep.aio(0.05)
            return await fetch(n)

    @workflow
    async def job() -> list[int]:
        gate = asyncio.Semaphore(1)
        return list(await asyncio.gather(*(line(gate, n) for n in range(3))))

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [0, 1, 2]


# ---------------------------------------------------------------- siblings


class Siblings:
    """A step that fails, and one that runs until it is cancelled."""

    def __init__(self) -> None:
        self.broken = True
        self.calls: list[str] = []
        self.running = asyncio.Event()

    def steps(self) -> tuple[Any, Any]:
        running = threading.Event()

        @step
        async def failing() -> str:
            self.calls.append("failing")
            while not running.is_set():
                await asyncio.sleep(0)
            if self.broken:
                raise ValueError("no")
            return "mended"

        @step
        async def endless() -> str:
            self.calls.append("endless")
            running.set()
            if self.broken:
                await asyncio.get_running_loop().create_future()
            return "ended"

        return failing, endless


def test_a_step_cancelled_by_a_siblings_failure_is_abandoned_and_never_run_again(rig: Rig) -> None:
    siblings = Siblings()
    failing, endless = siblings.steps()
    seen: list[str] = []

    @workflow
    async def job() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(failing())
                group.create_task(endless())
        except* StepFailed as failed:
            seen.append(str(failed.exceptions[0]))
        await wait_signal.aio("go", type=bool)
        return "went on"

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    assert rig.steps(done)["endless#0"].state is StepState.ABANDONED
    [told] = rig.events(done, "step_abandoned")
    assert '"sibling"' in told.payload
    done.signal("go", True)
    assert done.result(timeout_seconds=10) == "went on"
    assert siblings.calls == ["failing", "endless"]
    assert len(seen) == 2 and seen[0] == seen[1]


def test_a_task_that_its_body_cancelled_is_cancelled_on_replay_too(rig: Rig) -> None:
    calls: list[str] = []
    running = threading.Event()

    @step
    async def endless() -> None:
        calls.append("endless")
        running.set()
        await asyncio.get_running_loop().create_future()

    @workflow
    async def job() -> str:
        background = asyncio.create_task(endless())
        while not running.is_set():
            await asyncio.sleep(0)
        await fetch(1)
        background.cancel()
        try:
            await background
        except asyncio.CancelledError:
            said = "cancelled"
        await sleep.aio(0.1)
        return f"{said} {await fetch(2)}"

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "cancelled 2"
    assert calls == ["endless"]


@pytest.mark.parametrize("how", ["gather", "task left behind"])
def test_a_retry_runs_a_step_again_that_was_cut_by_the_end_of_its_job(rig: Rig, how: str) -> None:
    siblings = Siblings()
    failing, endless = siblings.steps()

    @workflow
    async def job() -> list[str]:
        if how == "gather":
            return list(await asyncio.gather(failing(), endless()))
        behind = asyncio.create_task(endless())
        got = await failing()
        return [got, await behind]

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match="no"):
        failed.result(timeout_seconds=10)
    siblings.broken = False
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == ["mended", "ended"]
    assert sorted(siblings.calls) == ["endless", "endless", "failing", "failing"]


def test_a_retry_runs_a_step_again_that_was_cancelled_by_the_failure_that_ended_its_job(rig: Rig) -> None:
    siblings = Siblings()
    failing, endless = siblings.steps()

    @workflow
    async def job() -> list[str]:
        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(failing()), group.create_task(endless())
        return [one.result(), two.result()]

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    siblings.broken = False
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == ["mended", "ended"]


def test_a_cancelled_sibling_that_matters_is_in_doubt_after_a_retry(rig: Rig) -> None:
    broken = [True]
    calls: list[int] = []
    running = threading.Event()

    @step
    async def fails_later() -> None:
        while not running.is_set():
            await asyncio.sleep(0)
        if broken[0]:
            raise ValueError("no")

    @step(in_doubt="ask")
    async def charge() -> str:
        calls.append(1)
        running.set()
        if broken[0]:
            await asyncio.get_running_loop().create_future()
        return "charged"

    @workflow
    async def job() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_later())
            charged = group.create_task(charge())
        return charged.result()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    broken[0] = False
    failed.retry(by="ada")
    rig.question(failed)
    assert len(calls) == 1
    failed.answer("not_done", by="ada")
    assert failed.result(timeout_seconds=10) == "charged"


def test_a_task_that_outlives_its_body_ends_with_it(rig: Rig) -> None:
    ended: list[str] = []

    async def line() -> None:
        try:
            await wait_signal.aio("never", type=bool)
        finally:
            ended.append("ended")

    behind: list[asyncio.Task[None]] = []

    @workflow
    async def job() -> str:
        behind.append(asyncio.create_task(line()))
        await fetch(1)
        return "body ended"

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "body ended"
    eventually(lambda: ended == ["ended"])


def test_a_cancelled_error_of_a_steps_own_is_a_failure(rig: Rig) -> None:
    @step
    async def own() -> None:
        raise asyncio.CancelledError("a library's own")

    @workflow
    async def job() -> str:
        try:
            await own()
        except StepFailed as error:
            return error.message
        return ""

    done = rig.start(job).submit(job)
    assert "CancelledError: a library's own" in done.result(timeout_seconds=10)
    assert rig.steps(done)["own#0"].state is StepState.FAILED


# ---------------------------------------------------------------- waits of cancelled lines


@step
async def failing() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("what", ["ask", "signal", "sleep", "child"])
def test_a_wait_cancelled_by_a_siblings_failure_is_over_for_good(rig: Rig, what: str) -> None:
    """A question nobody waits for any more is withdrawn, and what comes late does not wake the job again and again."""

    @workflow
    def child() -> int:
        return wait_signal("go", type=int)

    async def waiting() -> Any:
        match what:
            case "ask":
                return await ask.aio("Send it?")
            case "signal":
                return await wait_signal.aio("news", type=int)
            case "sleep":
                return await sleep.aio(0.8)
            case _:
                return await (await start.aio(child)).result.aio()

    @workflow
    async def job() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(waiting())
                await sleep.aio(0.2)
                group.create_task(failing())
        except* StepFailed:
            pass
        return await wait_signal.aio("end", type=str)

    engine = rig.start(job, child, lease_seconds=0.6)
    done = engine.submit(job)
    rig.until_recorded(done, "signal:end#0")
    rig.until_put_away(done)
    assert {s.state for s in rig.steps(done).values() if s.step_key.startswith("b0/") and s.kind != "child"} == {
        "abandoned"
    }
    runs = len(rig.runs(done))
    match what:
        case "ask":
            assert rig.decisions(done)[0].state == "withdrawn"
            with pytest.raises(Conflict, match="no open question"):
                done.answer("approve", by="ada")
        case "signal":
            done.signal("news", 1)
        case "child":
            [info] = engine.jobs(kind="child")
            engine.job(info.id).signal("go", 1)
            rig.until(engine.job(info.id), JobState.COMPLETED)
    eventually(lambda: rig.probes[engine].reached["watch"] > 6)
    assert len(rig.runs(done)) <= runs + 1
    done.signal("end", "ended")
    assert done.result(timeout_seconds=10) == "ended"


def test_a_step_in_backoff_that_is_cancelled_is_not_tried_again(rig: Rig) -> None:
    tries: list[int] = []

    @step(retry=Retry(tries=5, first_seconds=0.5, jitter=False))
    async def flaky() -> None:
        tries.append(1)
        raise OSError

    @workflow
    async def job() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(flaky())
                await sleep.aio(0.2)
                group.create_task(failing())
        except* StepFailed:
            pass
        await sleep.aio(0.6)
        return "went on"

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "went on"
    assert len(tries) == 1 and rig.steps(done)["flaky#0"].state is StepState.ABANDONED


def test_the_first_of_two_waits_is_the_first_on_replay_too(rig: Rig) -> None:
    @workflow
    async def job() -> str:
        news = asyncio.create_task(wait_signal.aio("news", type=str))
        limit = asyncio.create_task(sleep.aio(600))
        await asyncio.wait([news, limit], return_when=asyncio.FIRST_COMPLETED)
        limit.cancel()
        got = news.result()
        await sleep.aio(0.1)
        return got

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    done.signal("news", "first")
    assert done.result(timeout_seconds=10) == "first"


def test_code_that_waits_for_what_was_cancelled_stops_for_an_operator(rig: Rig) -> None:
    fails = [True]

    async def other() -> None:
        if fails[0]:
            await failing()

    @workflow
    async def job() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait_signal.aio("news", type=int))
                await sleep.aio(0.2)
                group.create_task(other())
        except* StepFailed:
            pass
        return await wait_signal.aio("end", type=str)

    done = rig.start(job).submit(job)
    rig.until_recorded(done, "signal:end#0")
    rig.until_put_away(done)
    fails[0] = False
    done.signal("end", "ended")
    row = rig.until(done, JobState.AWAITING_USER)
    assert row.status_reason == "history_mismatch:abandoned"
    assert "b0/signal:news#0 was cancelled" in rig.events(done, "history_mismatch")[0].payload
    fails[0] = True
    done.resume(by="ada")
    assert done.result(timeout_seconds=10) == "ended"


def test_a_retry_begins_a_cancelled_wait_anew(rig: Rig) -> None:
    fails = [True]

    async def other() -> str:
        if fails[0]:
            await failing()
        return "other"

    @workflow
    async def job() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ask.aio("Send it?"))
            news = group.create_task(wait_signal.aio("news", type=int, timeout_seconds=60))
            await sleep.aio(0.2)
            more = group.create_task(other())
        return [asked.result().choice, news.result(), more.result()]

    failed = rig.start(job).submit(job)
    rig.until(failed, JobState.FAILED)
    fails[0] = False
    failed.retry(by="ada")
    rig.question(failed)
    failed.answer("approve", by="ada")
    failed.signal("news", 7)
    assert failed.result(timeout_seconds=10) == ["approve", 7, "other"]
    assert [row.state for row in rig.decisions(failed)] == ["withdrawn", "given"]


# ---------------------------------------------------------------- plain timers


@pytest.mark.parametrize("how", ["sleep", "timeout", "wait_for", "wait", "call_later"])
def test_a_plain_timer_in_a_body_is_refused(rig: Rig, how: str) -> None:
    @workflow
    async def job() -> str:
        try:
            match how:
                case "sleep":
                    await asyncio.sleep(5)  # sleep-ok: what the test is about
                case "timeout":
                    async with asyncio.timeout(5):
                        await fetch(1)
                case "wait_for":
                    nothing = asyncio.get_running_loop().create_future()
                    await asyncio.wait_for(nothing, 5)
                case "wait":
                    await asyncio.wait([asyncio.create_task(fetch(1))], timeout=5)
                case _:
                    asyncio.get_running_loop().call_later(5, print)
        except NonDurableWait as error:
            return str(error)
        return "allowed"

    done = rig.start(job).submit(job)
    said = done.result(timeout_seconds=10)
    assert "sleep.aio" in said and "body of job" in said


def test_inside_a_step_anything_goes(rig: Rig) -> None:
    @step
    async def busy() -> int:
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)  # sleep-ok: what the test is about
        return await asyncio.wait_for(asyncio.to_thread(lambda: 7), 5)

    @workflow
    async def job() -> int:
        return await busy()

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 7


def test_giving_way_is_no_timer(rig: Rig) -> None:
    @workflow
    async def job() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return await fetch(3)

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 3


def test_a_thousand_lines_are_no_trouble(rig: Rig) -> None:
    @workflow
    async def job() -> int:
        return sum(await asyncio.gather(*(fetch(n) for n in range(1000))))

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=30) == sum(range(1000))
    assert rig.row(done).state is JobState.COMPLETED
