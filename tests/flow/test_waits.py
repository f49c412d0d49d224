"""Sleeping, and waiting for signals: what is waited for is kept, whoever runs, and nothing is read twice."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import now, sleep, sleep_until, step, wait_signal, workflow
from relight.errors import IdempotencyMismatch, JobFailed, NotFound, WaitTimeout
from relight.model import JobState

# ---------------------------------------------------------------- sleep


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_sleeping_job_holds_neither_slot_nor_thread_and_wakes_by_itself(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> str:
        sleep(0.4)
        return "woken"

    @workflow(name="job")
    async def ajob() -> str:
        await sleep.aio(0.4)
        return "woken"

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted, slots=1, threads=1)
    jobs = [engine.submit(wanted) for _ in range(3)]
    eventually(lambda: all(not rig.row(each).claimable and rig.row(each).begun for each in jobs))
    eventually(lambda: engine.health()["running"] == 0)
    assert [each.result(timeout_seconds=10) for each in jobs] == ["woken"] * 3
    assert rig.told(jobs[0], "sleep_started", "run_suspended", "run_started") == [
        "run_started",
        "sleep_started",
        "run_suspended",
        "run_started",
    ]


def test_a_sleep_counts_from_when_it_was_first_asked_for(rig: Rig) -> None:
    @workflow
    def job() -> list[datetime]:
        before = now()
        sleep(0.8)
        return [before, now()]

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_put_away(done)
    until = rig.steps(done)["sleep#0"].until
    engine = rig.restart(engine, job)
    before, after = engine.job(done.id, type=list[datetime]).result(timeout_seconds=10)
    assert rig.told(done).count("sleep_started") == 1 and until is not None
    assert timedelta(seconds=0.8) <= after - before < timedelta(seconds=8)


def test_a_sleep_that_ended_while_nothing_ran_is_over_at_once(rig: Rig) -> None:
    @workflow
    def job() -> str:
        sleep(0.1)
        return "woken"

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_put_away(done)
    rig.stop(engine)
    until = rig.steps(done)["sleep#0"].until or 0
    eventually(lambda: datetime.now(UTC).timestamp() * 1000 > until)
    assert rig.start(job).job(done.id).result(timeout_seconds=10) == "woken"


def test_a_short_sleep_stays_in_memory(rig: Rig) -> None:
    @workflow
    async def job() -> str:
        await sleep.aio(0.1)
        return "woken"

    done = rig.start(job, suspend_after_seconds=30).submit(job)
    assert done.result(timeout_seconds=10) == "woken"
    assert "run_suspended" not in rig.told(done)


def test_no_time_at_all_is_slept_without_being_put_away(rig: Rig) -> None:
    @workflow
    def job() -> str:
        sleep(0)
        sleep_until(datetime(1999, 1, 1, tzinfo=UTC))
        return "woken"

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "woken"
    assert "run_suspended" not in rig.told(done)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_sleep_until_waits_for_a_time(rig: Rig, colour: str) -> None:
    zone = datetime.now().astimezone().tzinfo

    @workflow(name="job")
    def job(when: datetime) -> bool:
        sleep_until(when)
        return now() >= when

    @workflow(name="job")
    async def ajob(when: datetime) -> bool:
        await sleep_until.aio(when)
        return now() >= when

    wanted = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted, datetime.now(zone) + timedelta(seconds=0.3))
    assert done.result(timeout_seconds=10) is True


def test_a_long_wait_is_put_away_once_the_steps_beside_it_have_ended(rig: Rig) -> None:
    @step
    async def work() -> str:
        await asyncio.sleep(0.15)  # sleep-ok: a step that takes a while
        return "worked"

    @workflow
    async def job() -> list[Any]:
        return list(await asyncio.gather(sleep.aio(600), work()))

    engine = rig.start(job)
    waiting = engine.submit(job)
    row = rig.until_put_away(waiting)
    assert row.ready_at == rig.steps(waiting)["b0/sleep#0"].until
    assert rig.steps(waiting)["work#0"].state == "completed"
    eventually(lambda: engine.health()["running"] == 0)


def test_a_job_put_away_wakes_at_the_first_of_its_waits_however_slow_the_disk_is(rig: Rig) -> None:
    slow_disk = ["once"]

    async def shorter() -> None:
        if slow_disk:
            slow_disk.clear()
            while not engine._engine.all_runs()[0].parked:
                await asyncio.sleep(0)
            rig.probes[engine].hold("before_commit")
        await sleep.aio(0.6)

    @workflow
    async def job() -> str:
        longer = asyncio.create_task(sleep.aio(600))
        await shorter()
        longer.cancel()
        return "woken"

    engine = rig.start(job)
    done = engine.submit(job)
    rig.probes[engine].wait_held("before_commit")
    asyncio.run(asyncio.sleep(0.15))  # sleep-ok: longer than a quiet run is kept
    rig.probes[engine].let_go()
    assert done.result(timeout_seconds=10) == "woken"
    assert rig.told(done).count("run_suspended") == 1


# ---------------------------------------------------------------- signals


@dataclass
class Paid:
    cents: int
    by: str = "card"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_signal_is_read_with_its_type(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> Paid:
        return wait_signal("paid", type=Paid)

    @workflow(name="job")
    async def ajob() -> Paid:
        return await wait_signal.aio("paid", type=Paid)

    wanted = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    rig.until_put_away(done)
    done.signal("paid", Paid(5), by="ada")
    assert done.result(timeout_seconds=10) == Paid(5)
    [sent] = rig.events(done, "signal_sent")
    [read] = rig.events(done, "signal_consumed")
    assert (sent.actor, sent.actor_id, read.actor) == ("human", "ada", "agent")


def test_signals_sent_before_the_wait_are_kept(rig: Rig) -> None:
    @workflow
    def job() -> list[int]:
        sleep(0.2)
        return [wait_signal("n", type=int), wait_signal("n", type=int)]

    done = rig.start(job).submit(job)
    done.signal("n", 1)
    done.signal("n", 2)
    assert done.result(timeout_seconds=10) == [1, 2]


def test_signals_of_one_name_are_read_in_the_order_sent_each_once(rig: Rig) -> None:
    @workflow
    def job(count: int) -> list[int]:
        return [wait_signal("n", type=int) for _ in range(count)]

    engine = rig.start(job)
    done = engine.submit(job, 20)
    for n in range(20):
        done.signal("n", n)
    assert done.result(timeout_seconds=10) == list(range(20))


def test_signals_of_several_names_do_not_meet(rig: Rig) -> None:
    @workflow
    def job() -> list[str]:
        return [wait_signal("a", type=str), wait_signal("b", type=str)]

    done = rig.start(job).submit(job)
    done.signal("b", "b1")
    done.signal("a", "a1")
    assert done.result(timeout_seconds=10) == ["a1", "b1"]


def test_a_signal_sent_twice_under_one_key_is_one_signal(rig: Rig) -> None:
    @workflow
    def job() -> list[int]:
        first = wait_signal("n", type=int)
        return [first, wait_signal("n", type=int, timeout_seconds=0.2, default=-1)]

    done = rig.start(job).submit(job)
    done.signal("n", 7, idempotency_key="hook-1")
    done.signal("n", 7, idempotency_key="hook-1")
    with pytest.raises(IdempotencyMismatch):
        done.signal("n", 8, idempotency_key="hook-1")
    assert done.result(timeout_seconds=10) == [7, -1]
    assert rig.told(done).count("signal_sent") == 1


def test_a_signal_reaches_a_job_while_no_engine_runs(rig: Rig) -> None:
    @workflow
    def job() -> int:
        return wait_signal("n", type=int)

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_put_away(done)
    rig.stop(engine)
    rig.client().job(done.id).signal("n", 3)
    assert rig.row(done).claimable
    assert rig.start(job).job(done.id).result(timeout_seconds=10) == 3


def test_two_lines_that_wait_for_one_name_read_different_signals(rig: Rig) -> None:
    @workflow
    async def job() -> list[int]:
        got = await asyncio.gather(*(wait_signal.aio("n", type=int) for _ in range(4)))
        return sorted(got)

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    for n in range(4):
        done.signal("n", n)
    assert done.result(timeout_seconds=10) == [0, 1, 2, 3]
    assert rig.told(done).count("signal_consumed") == 4


def test_a_wait_that_ends_without_a_signal_gives_its_default(rig: Rig) -> None:
    @workflow
    def job() -> list[Any]:
        return [wait_signal("n", type=int, timeout_seconds=0.1, default=None), wait_signal("n", type=int)]

    done = rig.start(job).submit(job)
    rig.until_recorded(done, "signal:n#0", "completed")
    done.signal("n", 5)
    assert done.result(timeout_seconds=10) == [None, 5]


def test_a_wait_that_ends_without_a_signal_and_default_raises(rig: Rig) -> None:
    @workflow
    def job() -> str:
        try:
            wait_signal("n", type=int, timeout_seconds=0.1)
        except WaitTimeout as error:
            return f"{isinstance(error, TimeoutError)} {error}"
        return ""

    done = rig.start(job).submit(job)
    assert "True no signal 'n' came to job" in done.result(timeout_seconds=10)


def test_a_time_limit_that_passed_once_has_passed_on_replay_too(rig: Rig) -> None:
    @workflow
    def job() -> list[int]:
        first = wait_signal("n", type=int, timeout_seconds=0.05, default=-1)
        sleep(0.3)
        return [first, wait_signal("n", type=int)]

    done = rig.start(job).submit(job)
    rig.until_recorded(done, "sleep#0")
    done.signal("n", 9)
    assert done.result(timeout_seconds=10) == [-1, 9]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_no_time_at_all_looks_without_waiting(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> list[int]:
        first = wait_signal("n", type=int, timeout_seconds=0, default=-1)
        second = wait_signal("go", type=int)
        return [first, second, wait_signal("n", type=int, timeout_seconds=0, default=-1)]

    @workflow(name="job")
    async def ajob() -> list[int]:
        first = await wait_signal.aio("n", type=int, timeout_seconds=0, default=-1)
        second = await wait_signal.aio("go", type=int)
        return [first, second, await wait_signal.aio("n", type=int, timeout_seconds=0, default=-1)]

    wanted = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    rig.until_put_away(done)
    done.signal("n", 4)
    done.signal("go", 1)
    assert done.result(timeout_seconds=10) == [-1, 1, 4]


def test_a_payload_of_another_type_fails_where_it_is_read_and_can_be_mended(rig: Rig) -> None:
    wanted: list[Any] = [int]
    sent = threading.Event()

    @step
    def until_sent() -> None:
        wait_for(sent)

    @workflow
    def job() -> Any:
        until_sent()  # a message to a wait that is open would be refused where it is sent
        return wait_signal("n", type=wanted[0])

    done = rig.start(job).submit(job)
    done.signal("n", "seven")
    sent.set()
    with pytest.raises(JobFailed, match=r"signal 'n'|stored value"):
        done.result(timeout_seconds=10)
    wanted[0] = str
    done.retry(by="ada")
    assert done.result(timeout_seconds=10) == "seven"


def test_a_signal_to_nobody_is_refused(rig: Rig) -> None:
    @workflow
    def job() -> None: ...

    engine = rig.start(job)
    with pytest.raises(NotFound, match="no job"):
        engine.job("00000000-0000-7000-8000-000000000000").signal("n", 1)


def test_a_signal_that_nobody_reads_stays_and_does_not_stop_the_end(rig: Rig) -> None:
    @workflow
    def job() -> str:
        wait_signal("go", type=int)
        return "ended"

    done = rig.start(job).submit(job)
    done.signal("never", 1)
    done.signal("go", 1)
    assert done.result(timeout_seconds=10) == "ended"
    with rig.reading() as reads:
        assert [(s.name, s.read_by) for s in reads.signals(done.id)] == [("never", None), ("go", "signal:go#0")]


def test_a_signal_for_another_name_does_not_wake_a_job(rig: Rig) -> None:
    @workflow
    def job() -> int:
        return wait_signal("right", type=int)

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_put_away(done)
    done.signal("wrong", 1)
    rig.until(engine.submit(job, idempotency_key="another"), JobState.QUEUED, "waiting")
    assert len(rig.runs(done)) == 1
    done.signal("right", 2)
    assert done.result(timeout_seconds=10) == 2
