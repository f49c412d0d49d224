"""``ManualClock`` on engines, and ``drain``: time moves when a test says so, and all comes to rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.flow.kit import eventually
from tests.stores import new_store

from relight import AsyncEngine, Client, Engine, Queue, Rate, ask, now, sleep, start, step, wait_signal, workflow
from relight.errors import BlockingCall, InvalidArgument, WaitTimeout
from relight.model import JobState
from relight.recorder.verify import verify_store
from relight.testing import ManualClock, drain, run_inline

Start = Callable[..., Engine]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Start]:
    engines: list[Engine] = []

    def begin(*workflows: Any, **options: Any) -> Engine:
        started = Engine(new_store(tmp_path), workflows=workflows, durability="process", **options).start()
        engines.append(started)
        return started

    yield begin
    for each in engines:
        each.stop(drain_seconds=2)
    assert verify_store(new_store(tmp_path)).findings == ()


@workflow
def naps(seconds: float) -> float:
    began = now()
    sleep(seconds)
    return (now() - began).total_seconds()


@workflow
async def naps_async(seconds: float) -> float:
    began = now()
    await sleep.aio(seconds)
    return (now() - began).total_seconds()


@workflow
def waits() -> str:
    return wait_signal("go", type=str, timeout_seconds=60, default="nothing came")


@workflow
async def waits_for_ever() -> str:
    return await wait_signal.aio("go", type=str)


@workflow
def asks() -> str:
    return ask("Go?").choice


@workflow
def leaves_a_child() -> None:
    start(waits_for_ever)


doors: dict[str, threading.Event] = {}


@step
def held(name: str) -> None:
    assert doors[name].wait(20)


@workflow
def holds(name: str) -> None:
    held(name)


@pytest.fixture
def door() -> Iterator[threading.Event]:
    doors["a"] = threading.Event()
    yield doors["a"]
    doors["a"].set()


class TestClock:
    def test_it_never_goes_back(self) -> None:
        clock = ManualClock()
        before = clock.now()
        clock.advance(60)
        assert timedelta(seconds=60) <= clock.now() - before < timedelta(seconds=70)
        for wrong in (-1, float("nan"), float("inf"), True, "1"):
            with pytest.raises(InvalidArgument, match="never goes back"):
                clock.advance(wrong)  # type: ignore[arg-type]
        assert "s ahead" in repr(clock)

    def test_a_jump_ends_the_waits_that_it_passes_and_no_others(self) -> None:
        clock = ManualClock()
        ended: dict[int, bool] = {}
        conditions = {ms: threading.Condition() for ms in (60_000, 6_000_000)}

        def wait(ms: int) -> None:
            deadline = clock.mono_ms() + ms
            with conditions[ms]:
                while clock.mono_ms() < deadline and ms not in ended:
                    heard = clock.wait(conditions[ms], deadline - clock.mono_ms())
                ended.setdefault(ms, heard)

        threads = {ms: threading.Thread(target=wait, args=(ms,), daemon=True) for ms in conditions}
        for thread in threads.values():
            thread.start()
        eventually(lambda: len(clock._waiting) == 2)
        clock.advance(61)
        threads[60_000].join(10)
        assert ended == {60_000: False}
        clock.advance(6000)
        threads[6_000_000].join(10)
        assert ended == {60_000: False, 6_000_000: False}

    @pytest.mark.parametrize("flow", [naps, naps_async], ids=["sync", "async"])
    def test_who_waits_for_a_result_has_time_skipped(self, engine: Start, flow: Any) -> None:
        job = engine(flow, clock=ManualClock()).submit(flow, 30 * 86_400)
        assert 30 * 86_400 <= job.result(timeout_seconds=20) < 30 * 86_400 + 60

    def test_a_signal_is_not_overtaken_by_its_time_limit(self, engine: Start) -> None:
        clock = ManualClock()
        running = engine(waits, clock=clock)
        job = running.submit(waits)
        eventually(lambda: job.why().causes[0].code == "waiting_signal")
        job.signal("go", "it came")
        assert job.result(timeout_seconds=20) == "it came"
        assert running.submit(waits).result(timeout_seconds=20) == "nothing came"

    def test_two_engines_on_one_clock_skip_together(self, engine: Start) -> None:
        clock = ManualClock()
        one, two = engine(naps, clock=clock, slots=1), engine(naps, clock=clock, slots=1)
        jobs = [one.submit(naps, 3600), two.submit(naps, 7200)]
        assert [job.result(timeout_seconds=20) // 3600 for job in jobs] == [1, 2]

    def test_without_skip_only_the_test_moves_time(self, engine: Start) -> None:
        clock = ManualClock(skip=False)
        job = engine(naps, clock=clock).submit(naps, 3600)
        with pytest.raises(WaitTimeout):
            job.result(timeout_seconds=0.1)
        clock.advance(3600)
        assert job.result(timeout_seconds=20) >= 3600

    def test_a_step_that_runs_is_not_skipped_over(self, engine: Start, door: threading.Event) -> None:
        clock = ManualClock()
        running = engine(holds, naps, clock=clock)
        jobs = [running.submit(holds, "a"), running.submit(naps, 3600)]
        with pytest.raises(WaitTimeout):
            jobs[1].result(timeout_seconds=0.1)
        door.set()
        assert jobs[1].result(timeout_seconds=20) >= 3600


class TestDrain:
    @pytest.mark.parametrize("clock", [None, ManualClock(), ManualClock(skip=False)], ids=["real", "skips", "stands"])
    def test_what_waits_for_somebody_outside_says_so(self, engine: Start, clock: ManualClock | None) -> None:
        running = engine(waits_for_ever, asks, clock=clock)
        jobs = [running.submit(waits_for_ever), running.submit(asks)]
        drain(running)
        assert [job.state() for job in jobs] == [JobState.QUEUED, JobState.AWAITING_USER]
        jobs[1].answer("approve", by="ann")
        jobs[0].signal("go", "x")
        drain(running)
        assert [job.state() for job in jobs] == [JobState.COMPLETED] * 2

    def test_sleeps_are_waited_for_on_a_real_clock(self, engine: Start) -> None:
        running = engine(naps)
        job = running.submit(naps, 0.2)
        drain(running)
        assert job.state() is JobState.COMPLETED

    def test_sleeps_and_time_limits_are_skipped_on_a_skipping_one(self, engine: Start) -> None:
        clock = ManualClock()
        running = engine(naps, waits, clock=clock)
        jobs = [running.submit(naps, 86_400), running.submit(waits)]
        drain(running)
        assert [job.state() for job in jobs] == [JobState.COMPLETED] * 2

    @pytest.mark.parametrize(("clock", "seconds"), [(None, 0.2), (ManualClock(), 3600)], ids=["real", "skips"])
    def test_a_rate_is_waited_for_and_a_paused_queue_is_not(
        self, engine: Start, clock: ManualClock | None, seconds: float
    ) -> None:
        queues = [Queue("paced", rate=Rate(1, seconds)), Queue("shut")]
        running = engine(naps, clock=clock, queues=queues)
        running.core.pause_queue("shut", by="ann")
        jobs = [running.submit(naps.bind(0).options(queue=name)) for name in ("paced", "paced", "paced", "shut")]
        drain(running)
        assert [job.state() for job in jobs] == [*[JobState.COMPLETED] * 3, JobState.QUEUED]

    def test_on_a_clock_that_the_test_moves_sleepers_are_left_asleep(self, engine: Start) -> None:
        clock = ManualClock(skip=False)
        running = engine(naps, clock=clock)
        job = running.submit(naps, 3600)
        drain(running)
        assert job.state() is JobState.QUEUED
        clock.advance(3600)
        drain(running)
        assert job.state() is JobState.COMPLETED

    def test_children_left_behind_are_ended_first(self, engine: Start) -> None:
        running = engine(leaves_a_child, waits_for_ever)
        running.submit(leaves_a_child)
        drain(running)
        assert {job.kind: job.state for job in running.jobs()} == {
            "leaves_a_child": JobState.COMPLETED,
            "waits_for_ever": JobState.CANCELLED,
        }

    def test_jobs_that_another_client_submits_are_seen(self, engine: Start, tmp_path: Path) -> None:
        running = engine(naps)
        with Client(new_store(tmp_path), workflows=[naps]) as client:
            job = client.submit(naps, 0)
            drain(running)
            assert job.state() is JobState.COMPLETED

    def test_after_its_time_it_names_what_still_moves(self, engine: Start, door: threading.Event) -> None:
        running = engine(holds, naps)
        running.submit(holds, "a")
        began = time.monotonic()
        with pytest.raises(WaitTimeout, match=r"drain: after 0\.2 s this still moves: holds .*held#0"):
            drain(running, timeout_seconds=0.2)
        assert time.monotonic() - began < 10
        door.set()
        drain(running)
        running.submit(naps, 3600)
        with pytest.raises(WaitTimeout, match="naps .* sleeps until"):
            drain(running, timeout_seconds=0.2)

    def test_an_engine_that_is_not_started_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="not started"):
            drain(Engine(new_store(tmp_path, "x.db")))
        with pytest.raises(InvalidArgument, match="timeout_seconds="):
            drain(Engine(new_store(tmp_path, "x.db")), timeout_seconds=-1)

    def test_async_engines_are_drained_in_a_thread(self, tmp_path: Path) -> None:
        async def inside() -> JobState:
            async with AsyncEngine(new_store(tmp_path, "a.db"), workflows=[naps_async], clock=ManualClock()) as running:
                job = await running.submit(naps_async, 3600)
                with pytest.raises(BlockingCall, match=r"to_thread\(drain"):
                    drain(running)
                await asyncio.to_thread(drain, running)
                return await job.state()

        assert asyncio.run(inside()) is JobState.COMPLETED


def test_now_in_a_step_is_the_engines_time() -> None:
    clock = ManualClock()
    clock.advance(86_400)

    @step
    def look() -> float:
        return now().timestamp()

    @workflow
    def looks() -> float:
        return look()

    assert run_inline(looks, clock=clock) > time.time() + 86_000


def test_time_is_skipped_until_a_rate_leaves_room(tmp_path: Path) -> None:
    @workflow
    def limited() -> int:
        return 1

    clock = ManualClock()
    queue = Queue("slow", rate=Rate(1, per_seconds=3600))
    with Engine(new_store(tmp_path), workflows=[limited], queues=[queue], clock=clock) as engine:
        began = clock.now()
        jobs = [engine.submit(limited, queue="slow") for _ in range(3)]
        drain(engine)
        assert [job.state() for job in jobs] == [JobState.COMPLETED] * 3
        assert clock.now() >= began + timedelta(hours=2)
