"""Misuse that would lose durability or stop a loop is refused at once, and says what to write instead."""

from __future__ import annotations

import asyncio
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import AsyncEngine, Engine, ask, parallel, sleep, sleep_until, start, step, wait_signal, workflow
from relight.authoring import outside, steps
from relight.errors import BlockingCall, InvalidArgument, NotInJob


@pytest.fixture(autouse=True)
def only_engines_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process leave engines behind that died where they stood."""
    monkeypatch.setattr(outside, "_running", weakref.WeakSet())


@step
def plain(n: int) -> int:
    return n


@step
async def aplain(n: int) -> int:
    return n


@workflow
def child() -> int:
    return 1


# ---------------------------------------------------------------- BlockingCall


@pytest.mark.parametrize(
    "name, call, instead",
    [
        ("step", lambda: plain(1), "await plain.aio(…)"),
        ("async step's sync", lambda: aplain.sync(1), "await aplain(…)"),
        ("sleep", lambda: sleep(5), "await sleep.aio(5)"),
        ("sleep_until", lambda: sleep_until(__import__("datetime").datetime.now().astimezone()), "sleep_until.aio"),
        ("wait_signal", lambda: wait_signal("x", type=int), "wait_signal.aio"),
        ("ask", lambda: ask("Q?"), "ask.aio"),
        ("start", lambda: start(child), "start.aio"),
        ("parallel", lambda: parallel(plain, [1]), "parallel.aio"),
    ],
)
def test_a_sync_name_on_the_loop_is_refused_and_the_async_one_named(
    rig: Rig, name: str, call: Any, instead: str
) -> None:
    @workflow
    async def job() -> str:
        try:
            call()
        except BlockingCall as error:
            return str(error)
        return ""

    done = rig.start(job, child).submit(job)
    said = done.result(timeout_seconds=10)
    assert instead in said and "would block the event loop inside job job" in said
    assert rig.steps(done) == {}


def test_an_async_step_in_a_sync_workflow_is_refused_and_sync_named(rig: Rig) -> None:
    @workflow
    def job() -> str:
        try:
            aplain(1)
        except BlockingCall as error:
            return str(error)
        return ""

    said = rig.start(job).submit(job).result(timeout_seconds=10)
    assert said == "aplain is async but job is not. Make job async, or call aplain.sync(…)"


@pytest.mark.parametrize("call", ["start", "submit", "submit_many", "result"])
def test_the_sync_facade_is_refused_in_async_code(rig: Rig, call: str) -> None:
    engine = rig.start(child)
    job = engine.submit(child)
    job.result(timeout_seconds=10)
    other = rig.engine(child)

    async def handler() -> None:
        match call:
            case "start":
                other.start()
            case "submit":
                engine.submit(child)
            case "submit_many":
                engine.submit_many([child.bind()])
            case _:
                job.result(timeout_seconds=1)

    with pytest.raises(BlockingCall, match=r"Async(Engine|Client)"):
        asyncio.run(handler())
    assert len(engine.jobs()) == 1


def test_the_async_facade_is_fine_in_async_code(rig: Rig) -> None:
    async def main() -> Any:
        async with AsyncEngine(rig.path, workflows=[child], durability="process") as engine:
            job = await engine.submit(child)
            return await job.result(timeout_seconds=10)

    assert asyncio.run(main()) == 1


# ---------------------------------------------------------------- unrecorded calls


@pytest.fixture(autouse=True)
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was warned of yet, and no engine of another test counts as running."""
    monkeypatch.setattr(steps, "_warned", set())
    monkeypatch.setattr(outside, "_running", weakref.WeakSet())


def test_a_step_in_a_foreign_thread_warns_once_while_an_engine_runs(rig: Rig) -> None:
    @step
    def total(n: int) -> int:
        return 2 * n

    @workflow
    def job() -> list[int]:
        with ThreadPoolExecutor(2, thread_name_prefix="users") as pool:
            return list(pool.map(total, [1, 2, 3]))

    engine = rig.start(job, name="etl-1")
    with pytest.warns(RuntimeWarning) as caught:
        done = engine.submit(job)
        assert done.result(timeout_seconds=10) == [2, 4, 6]
    [said] = [str(each.message) for each in caught]
    assert "total ran outside any job, in thread users" in said and "engine etl-1" in said and "parallel(total" in said
    assert rig.steps(done) == {}


@pytest.mark.parametrize("where", ["foreign thread", "main thread"])
def test_outside_error_refuses_calls_outside_a_job_while_an_engine_runs(rig: Rig, where: str) -> None:
    calls: list[int] = []

    @step(outside="error")
    def charge() -> int:
        calls.append(1)
        return 1

    @workflow
    def job() -> int:
        return charge()

    def call() -> int:
        if where == "main thread":
            return charge()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(charge).result()

    assert call() == 1
    engine = rig.start(job)
    with pytest.raises(NotInJob, match=r"charge ran outside any job.*refused"):
        call()
    assert engine.submit(job).result(timeout_seconds=10) == 1
    rig.stop(engine)
    assert call() == 1
    assert len(calls) == 3


def test_nobody_is_warned_where_no_engine_runs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(plain, 3).result() == 3


def test_asyncio_to_thread_carries_the_job_with_it(rig: Rig) -> None:
    @workflow
    async def job() -> int:
        return await asyncio.to_thread(plain, 7)

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == 7
    assert list(rig.steps(done)) == ["plain#0"]


def test_a_forgotten_await_is_python_s_own_warning_and_the_job_goes_on(rig: Rig) -> None:
    @workflow
    async def job() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aplain(1).close()
        return "done"

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "done"


def test_two_engines_live_in_one_process_and_on_one_store(rig: Rig) -> None:
    seen: set[str] = set()
    both = threading.Barrier(2)

    @step
    def meet() -> None:
        both.wait(20)
        seen.add(threading.current_thread().name)

    @workflow
    def job() -> None:
        meet()

    one, two = rig.start(job, slots=1), rig.start(job, slots=1)
    jobs = [one.submit(job), two.submit(job)]
    for each in jobs:
        each.result(timeout_seconds=20)
    engines = {run.engine_id for each in jobs for run in rig.runs(each)}
    assert engines == {one.engine_id, two.engine_id} and len(seen) == 2


def test_an_engine_that_is_not_started_says_so(rig: Rig) -> None:
    engine = Engine(rig.path, workflows=[child])
    with pytest.raises(InvalidArgument, match="not open|not started"):
        engine.submit(child)
    with pytest.raises(InvalidArgument, match="not started"):
        engine.health()
