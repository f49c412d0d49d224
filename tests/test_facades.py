"""The sync and the async facade say the same things: methods, parameters, defaults, first lines, and what they do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relight import (
    AsyncClient,
    AsyncEngine,
    AsyncJob,
    Client,
    Engine,
    Job,
    ask,
    parallel,
    sleep,
    start,
    step,
    wait_signal,
    workflow,
)
from relight.errors import JobFailed, WaitTimeout

PAIRS = [(Client, AsyncClient), (Engine, AsyncEngine), (Job, AsyncJob)]
SYNC_ONLY = {"run_forever"}
"""``run_forever`` installs signal handlers and blocks its thread: async programs have their own way."""
NEVER_AWAITED = {"job", "health", "events", "settings", "name", "engine_id", "core", "id", "created"}


def methods(cls: type) -> dict[str, Any]:
    return {
        name: getattr(cls, name)
        for name in dir(cls)
        if not name.startswith("_") and inspect.isfunction(inspect.getattr_static(cls, name))
    }


def first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].partition(". See ``")[0].rstrip(".")


def shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("sync, other", PAIRS, ids=lambda cls: cls.__name__)
def test_both_have_the_same_methods(sync: type, other: type) -> None:
    assert set(methods(sync)) - SYNC_ONLY == set(methods(other))


@pytest.mark.parametrize("sync, other", PAIRS, ids=lambda cls: cls.__name__)
def test_methods_have_the_same_parameters_in_the_same_order_with_the_same_defaults(sync: type, other: type) -> None:
    for name, method in methods(other).items():
        assert shape(method) == shape(methods(sync)[name]), name
    assert shape(sync.__init__) == shape(other.__init__)  # type: ignore[misc]


@pytest.mark.parametrize("sync, other", PAIRS, ids=lambda cls: cls.__name__)
def test_methods_say_the_same_first_sentence(sync: type, other: type) -> None:
    for name, method in methods(other).items():
        one, two = first_line(methods(sync)[name]), first_line(method)
        assert two and (one.startswith(two) or two.startswith(one)), f"{name}: {one!r} / {two!r}"


@pytest.mark.parametrize("_, other", PAIRS, ids=lambda cls: cls.__name__)
def test_what_waits_is_awaited_and_nothing_else_is(_: type, other: type) -> None:
    for name, method in methods(other).items():
        awaited = inspect.iscoroutinefunction(method)
        assert awaited is (name not in NEVER_AWAITED), name


@pytest.mark.parametrize("primitive", [sleep, wait_signal, ask, start, parallel], ids=lambda p: type(p).__name__)
def test_each_blocking_name_has_the_same_parameters_in_async_code(primitive: Any) -> None:
    def rest(function: Any) -> list[tuple[str, Any, Any]]:
        return shape(function)[1:]

    assert rest(type(primitive).__call__) == rest(type(primitive).aio)
    assert inspect.iscoroutinefunction(primitive.aio) and inspect.getdoc(primitive.aio)


# ---------------------------------------------------------------- they do the same


@step
def double(n: int) -> int:
    return 2 * n


@workflow
def doubling(n: int) -> int:
    return double(n)


@workflow
async def adoubling(n: int) -> int:
    return await double.aio(n)


@workflow
def waiting() -> int:
    return wait_signal("go", type=int)


@workflow
def asking() -> str:
    return ask("Send it?").choice


@workflow
def failing() -> None:
    raise ValueError("as ever")


WORKFLOWS = [doubling, adoubling, waiting, asking, failing]
FAST: dict[str, Any] = {"durability": "process", "suspend_after_seconds": 0}


async def told(job: Any) -> list[str]:
    return [event.type async for event in job.events()]


async def until(look: Callable[[], Any], wanted: Any) -> None:
    for _ in range(4000):
        if await look() == wanted:
            return
        await asyncio.sleep(0.005)  # sleep-ok: looks until it is so
    raise AssertionError(wanted)


def test_the_async_facade_does_everything_the_sync_one_does(tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "jobs.db")
        async with AsyncEngine(path, workflows=WORKFLOWS, **FAST) as engine:
            jobs = [
                await engine.submit(doubling, 1),
                await engine.submit(adoubling, 2),
                await engine.submit("doubling", 3),
            ]
            jobs += await engine.submit_many([doubling.bind(n) for n in (4, 5)])
            assert [await job.result(timeout_seconds=10) for job in jobs] == [2, 4, 6, 8, 10]
            assert engine.health()["ok"] is True
            keyed = await engine.submit(doubling, 7, idempotency_key="seven")
            again = await engine.submit(doubling, 7, idempotency_key="seven")
            assert (again.id, keyed.created, again.created) == (keyed.id, True, False)
            assert engine.job(kind="doubling", idempotency_key="seven").id == keyed.id

            failed = await engine.submit(failing)
            with pytest.raises(JobFailed, match="as ever"):
                await failed.result(timeout_seconds=10)
            await failed.retry(by="ada")
            with pytest.raises(JobFailed):
                await failed.result(timeout_seconds=10)

            waits = await engine.submit(waiting)
            with pytest.raises(WaitTimeout, match="waits for the signal"):
                await waits.result(timeout_seconds=0.2)
            assert (await waits.why()).causes[0].code == "waiting_signal"
            async with AsyncClient(path) as client:
                await client.job(waits.id).signal("go", 9, by="ada", idempotency_key="k")
                assert {info.kind for info in await client.jobs(limit=0)} >= {"doubling", "waiting"}
                assert client.health()["role"] == "client"
            assert await waits.result(timeout_seconds=10) == 9
            assert (await waits.info()).state == await waits.state() == "completed"
            assert (await told(waits))[-1] == "job_completed"

            asks = await engine.submit(asking)
            await until(asks.state, "awaiting_user")
            await asks.answer("approve", by="ada")
            assert await asks.result(timeout_seconds=10) == "approve"

            for end, state in (("cancel", "cancelled"), ("fail", "failed")):
                ending = await engine.submit(waiting)
                await getattr(ending, end)("enough", by="ada")
                await until(ending.state, state)

    asyncio.run(main())


def test_an_interrupted_wait_ends_the_wait_and_not_the_job(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncEngine(str(tmp_path / "jobs.db"), workflows=WORKFLOWS, **FAST) as engine:
            job = await engine.submit(waiting)
            wait = asyncio.create_task(job.result())
            await asyncio.sleep(0.05)  # sleep-ok: so that it waits
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            await job.signal("go", 3)
            assert await job.result(timeout_seconds=10) == 3

    asyncio.run(main())


def test_many_waits_for_many_jobs_need_no_thread_each(tmp_path: Path) -> None:
    import threading

    async def main() -> None:
        async with AsyncEngine(str(tmp_path / "jobs.db"), workflows=WORKFLOWS, **FAST) as engine:
            jobs = await engine.submit_many([waiting.bind() for _ in range(200)])
            before = threading.active_count()  # other tests may have left threads behind that stand still
            waits = [asyncio.create_task(job.result(timeout_seconds=30)) for job in jobs]
            await asyncio.sleep(0.1)  # sleep-ok: so that all of them wait
            assert threading.active_count() - before < 100
            for n, job in enumerate(jobs):
                await job.signal("go", n)
            assert await asyncio.gather(*waits) == list(range(200))

    asyncio.run(main())


def test_events_are_followed_until_the_job_has_ended_in_both_colours(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    with Engine(path, workflows=WORKFLOWS, **FAST) as engine:
        job = engine.submit(waiting)
        followed = iter(job.events(follow=True))
        seen = [next(followed).type]
        job.signal("go", 1)
        seen += [event.type for event in followed]
        assert seen[0] == "job_accepted" and seen[-1] == "job_completed"
        assert seen == [event.type for event in job.events()]

        async def follow() -> list[str]:
            async with AsyncClient(path) as client:
                return [event.type async for event in client.job(job.id).events(follow=True)]

        assert asyncio.run(follow()) == seen


def test_handles_are_shown_shortly(tmp_path: Path) -> None:
    with Engine(str(tmp_path / "jobs.db"), workflows=WORKFLOWS, **FAST) as engine:
        job = engine.submit(doubling, 1)
        job.result(timeout_seconds=10)
        assert repr(job) == f"<job doubling {job.id}>"
        assert job.id[-6:] in job._repr_html_()
