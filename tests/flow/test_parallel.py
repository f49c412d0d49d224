"""``parallel``: every item once, results in order, failures together, threads shared without deadlock."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import ask, parallel, sleep, step, wait_signal, workflow
from relight.errors import InvalidArgument, JobFailed
from relight.model import JobState


@step
def square(n: int) -> int:
    return n * n


@step
async def asquare(n: int) -> int:
    await asyncio.sleep(0)
    return n * n


@step
def odd_fails(n: int) -> int:
    if n % 2:
        raise ValueError(f"odd {n}")
    return n


@step
async def aodd_fails(n: int) -> int:
    if n % 2:
        raise ValueError(f"odd {n}")
    return n


def both(body: Any, abody: Any) -> list[Any]:
    """Return one workflow in each colour, of the same kind."""
    return [
        pytest.param(workflow(name="job")(body), id="sync"),
        pytest.param(workflow(name="job")(abody), id="async"),
    ]


def squares(count: int) -> list[int]:
    return parallel(square, range(count), limit=3)


async def asquares(count: int) -> list[int]:
    return await parallel.aio(asquare, range(count), limit=3)


@pytest.mark.parametrize("job", both(squares, asquares))
def test_results_come_in_the_order_of_the_items(rig: Rig, job: Any) -> None:
    done = rig.start(job).submit(job, 25)
    assert done.result(timeout_seconds=10) == [n * n for n in range(25)]
    name = "square" if job.kind == "job" and not job.spec.is_async else "asquare"
    assert set(rig.steps(done)) == {f"b{n}/{name}#0" for n in range(25)}


@pytest.mark.parametrize("job", both(squares, asquares))
def test_nothing_at_all_is_an_empty_list(rig: Rig, job: Any) -> None:
    assert rig.start(job).submit(job, 0).result(timeout_seconds=10) == []


def test_an_async_step_is_called_from_sync_code_and_a_sync_one_from_async_code(rig: Rig) -> None:
    @workflow
    def job() -> list[int]:
        return parallel(asquare, [1, 2, 3])

    @workflow
    async def ajob() -> list[int]:
        return await parallel.aio(square, [1, 2, 3])

    engine = rig.start(job, ajob)
    assert engine.submit(job).result(timeout_seconds=10) == [1, 4, 9]
    assert engine.submit(ajob).result(timeout_seconds=10) == [1, 4, 9]


def failures_of(group: BaseExceptionGroup[Any]) -> list[Any]:
    return [group.message, [f"{error.step_key}: {error.message}" for error in group.exceptions]]


def sync_failures(count: int) -> list[Any]:
    try:
        parallel(odd_fails, range(count))
    except ExceptionGroup as group:
        return failures_of(group)
    return []


async def async_failures(count: int) -> list[Any]:
    try:
        await parallel.aio(aodd_fails.options(name="odd_fails"), range(count))
    except ExceptionGroup as group:
        return failures_of(group)
    return []


@pytest.mark.parametrize("job", both(sync_failures, async_failures))
def test_all_items_are_tried_and_all_failures_raised_together(rig: Rig, job: Any) -> None:
    done = rig.start(job).submit(job, 6)
    message, failures = done.result(timeout_seconds=10)
    assert message == "3 of 6 items of parallel(odd_fails, …) failed"
    assert failures == ["b1/odd_fails#0: odd 1", "b3/odd_fails#0: odd 3", "b5/odd_fails#0: odd 5"]
    assert rig.told(done).count("step_finished") == 3


def test_retry_of_a_job_that_failed_so_runs_only_the_failed_arms_again(rig: Rig) -> None:
    calls: list[int] = []
    broken = [True]

    @step
    def fetch(n: int) -> int:
        calls.append(n)
        if broken[0] and n % 2:
            raise ValueError(f"odd {n}")
        return n

    @workflow
    def job() -> list[int]:
        return parallel(fetch, range(6))

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match="3 of 6 items"):
        failed.result(timeout_seconds=10)
    assert sorted(calls) == [0, 1, 2, 3, 4, 5]
    broken[0] = False
    calls.clear()
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == [0, 1, 2, 3, 4, 5]
    assert sorted(calls) == [1, 3, 5]


class Load:
    """How many calls run at once, and how many did at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.now -= 1


def test_no_more_arms_than_the_limit_run_at_once(rig: Rig) -> None:
    load = Load()

    @step
    def work(n: int) -> int:
        with load:
            threading.Event().wait(0.02)
        return n

    @step
    async def awork(n: int) -> int:
        with load:
            await asyncio.sleep(0.02)  # sleep-ok: a step that takes a while
        return n

    @workflow
    def job() -> list[int]:
        return parallel(work, range(12), limit=3)

    @workflow
    async def ajob() -> list[int]:
        return await parallel.aio(awork, range(12), limit=3)

    engine = rig.start(job, ajob, threads=16)
    assert engine.submit(job).result(timeout_seconds=10) == list(range(12))
    assert load.most == 3
    load.most = 0
    assert engine.submit(ajob).result(timeout_seconds=10) == list(range(12))
    assert load.most == 3


def test_the_default_limit_is_the_engines_threads(rig: Rig) -> None:
    load = Load()

    @step
    async def awork(n: int) -> int:
        with load:
            await asyncio.sleep(0.02)  # sleep-ok: a step that takes a while
        return n

    @workflow
    async def ajob() -> list[int]:
        return await parallel.aio(awork, range(12))

    assert rig.start(ajob, threads=4).submit(ajob).result(timeout_seconds=10) == list(range(12))
    assert load.most == 4


def nested() -> list[list[int]]:
    def row(n: int) -> list[int]:
        return parallel(square, range(n, n + 3))

    return parallel(row, [0, 10])


async def anested() -> list[list[int]]:
    async def row(n: int) -> list[int]:
        return await parallel.aio(asquare, range(n, n + 3))

    return await parallel.aio(row, [0, 10])


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("job", both(nested, anested))
def test_arms_may_fan_out_again_whatever_the_number_of_threads(rig: Rig, job: Any, threads: int) -> None:
    engine = rig.start(job, threads=threads)
    jobs = [engine.submit(job) for _ in range(4)]
    assert [each.result(timeout_seconds=20) for each in jobs] == [[[0, 1, 4], [100, 121, 144]]] * 4
    assert {key.rpartition("/")[0] for key in rig.steps(jobs[0])} == {f"b{i}/b{j}" for i in (0, 1) for j in (0, 1, 2)}


def test_parents_in_all_threads_do_not_wait_for_each_others_arms(rig: Rig) -> None:
    together = threading.Barrier(3)

    @step
    def meet(n: int) -> int:
        if n == 0:
            together.wait(20)
        return n

    @workflow
    def job() -> list[int]:
        return parallel(meet, range(5))

    engine = rig.start(job, threads=3)
    jobs = [engine.submit(job) for _ in range(3)]
    assert [each.result(timeout_seconds=20) for each in jobs] == [list(range(5))] * 3


@pytest.mark.parametrize("threads", [1, 4])
def test_arms_that_wait_are_put_away_and_taken_up_again(rig: Rig, threads: int) -> None:
    calls: list[str] = []

    @step
    def before(n: int) -> int:
        calls.append(f"before {n}")
        return n

    @step
    def after(n: int) -> int:
        calls.append(f"after {n}")
        return n

    def arm(n: int) -> int:
        got = before(n)
        sleep(0.2)
        return after(got)

    @workflow
    def job() -> list[int]:
        return parallel(arm, range(3))

    engine = rig.start(job, threads=threads)
    done = engine.submit(job)
    rig.until_put_away(done)
    eventually(lambda: engine.health()["running"] == 0)
    assert done.result(timeout_seconds=20) == [0, 1, 2]
    assert sorted(calls) == sorted(f"{when} {n}" for when in ("before", "after") for n in range(3))


def test_arms_that_ask_make_the_job_wait_for_people(rig: Rig) -> None:
    def arm(name: str) -> str:
        return f"{name} {ask(f'Send {name}?').choice}"

    @workflow
    def job() -> list[str]:
        return parallel(arm, ["a", "b"])

    done = rig.start(job).submit(job)
    eventually(lambda: len(rig.decisions(done)) == 2)
    rig.until(done, JobState.AWAITING_USER)
    for row in rig.decisions(done):
        done.answer("approve" if "a" in row.question else "reject", decision_id=row.decision_id, by="ada")
    assert done.result(timeout_seconds=10) == ["a approve", "b reject"]


def test_a_job_goes_on_with_its_working_arms_while_another_one_waits(rig: Rig) -> None:
    working, go = threading.Event(), threading.Event()

    @step
    def work() -> str:
        working.set()
        wait_for(go)
        return "worked"

    def arm(n: int) -> str:
        return wait_signal("go", type=str) if n == 0 else work()

    @workflow
    def job() -> list[str]:
        return parallel(arm, [0, 1])

    engine = rig.start(job)
    done = engine.submit(job)
    wait_for(working)
    rig.until_recorded(done, "b0/signal:go#0", "waiting")
    assert rig.row(done).state is JobState.RUNNING
    go.set()
    rig.until_put_away(done)
    assert rig.steps(done)["b1/work#0"].state == "completed"
    done.signal("go", "signalled")
    assert done.result(timeout_seconds=10) == ["signalled", "worked"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_items_with_a_key_find_their_checkpoints_in_a_changed_list(rig: Rig, colour: str) -> None:
    calls: list[str] = []
    items = [["a", "b", "c"]]

    @step
    def fetch(name: str) -> str:
        calls.append(name)
        return name.upper()

    def several(name: str) -> str:
        return fetch(name) + fetch(name + name)

    async def aseveral(name: str) -> str:
        return await fetch.aio(name) + await fetch.aio(name + name)

    @workflow(name="job")
    def job() -> list[list[str]]:
        got = [parallel(fetch, items[0], key=str), parallel(several, items[0], key=str)]
        wait_signal("go", type=bool)
        return got

    @workflow(name="job")
    async def ajob() -> list[list[str]]:
        got = [await parallel.aio(fetch, items[0], key=str), await parallel.aio(aseveral, items[0], key=str)]
        await wait_signal.aio("go", type=bool)
        return got

    wanted = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    rig.until_put_away(done)
    assert sorted(calls) == sorted(["a", "b", "c"] * 2 + ["aa", "bb", "cc"])
    calls.clear()
    items[0] = ["c", "new", "a", "b"]
    done.signal("go", True)
    one, two = done.result(timeout_seconds=10)
    assert one == ["C", "NEW", "A", "B"] and two == ["CCC", "NEWNEWNEW", "AAA", "BBB"]
    assert sorted(calls) == ["new", "new", "newnew"]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("plain", [False, True], ids=["step", "function"])
def test_two_items_with_one_key_are_refused_and_the_others_are_not_lost(rig: Rig, colour: str, plain: bool) -> None:
    def several(name: str) -> str:
        return shout(name)

    async def aseveral(name: str) -> str:
        return await shout.aio(name)

    @step
    def shout(name: str) -> str:
        return name.upper()

    @workflow(name="job")
    def job() -> list[str]:
        return parallel(several if plain else shout, ["a", "b", "a"], key=str)

    @workflow(name="job")
    async def ajob() -> list[str]:
        return await parallel.aio(aseveral if plain else shout, ["a", "b", "a"], key=str)

    wanted = job if colour == "sync" else ajob
    failed = rig.start(wanted).submit(wanted)
    with pytest.raises(JobFailed, match="1 of 3 items"):
        failed.result(timeout_seconds=10)
    assert len(rig.steps(failed)) == 2


@pytest.mark.parametrize("bad", ["", "a\0", "\udcff", 7, None])
@pytest.mark.parametrize("plain", [False, True], ids=["step", "function"])
def test_a_key_that_cannot_be_kept_is_refused(rig: Rig, bad: Any, plain: bool) -> None:
    @workflow
    def job() -> str:
        try:
            parallel(square.__wrapped__ if plain else square, [1], key=lambda item: bad)
        except InvalidArgument as error:
            return str(error)
        return ""

    done = rig.start(job).submit(job)
    assert "key" in done.result(timeout_seconds=10)
    assert rig.steps(done) == {}


def test_partials_and_plain_functions_are_arms(rig: Rig) -> None:
    @step
    def add(a: int, b: int) -> int:
        return a + b

    @step
    async def aadd(a: int, b: int) -> int:
        return a + b

    @workflow
    def job() -> list[int]:
        return parallel(functools.partial(add, 10), [1, 2]) + parallel(lambda n: add(n, n), [3])

    @workflow
    async def ajob() -> list[int]:
        return await parallel.aio(functools.partial(aadd, 10), [1, 2]) + await parallel.aio(lambda n: aadd(n, n), [3])

    engine = rig.start(job, ajob)
    assert engine.submit(job).result(timeout_seconds=10) == [11, 12, 6]
    assert engine.submit(ajob).result(timeout_seconds=10) == [11, 12, 6]


def test_steps_in_arms_of_async_jobs_record_under_their_arms(rig: Rig) -> None:
    async def arm(n: int) -> int:
        first = await asquare(n)
        return await asquare(first)

    @workflow
    async def job() -> list[int]:
        return await parallel.aio(arm, [2, 3])

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [16, 81]
    assert set(rig.steps(done)) == {"b0/asquare#0", "b0/asquare#1", "b1/asquare#0", "b1/asquare#1"}


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3"])
def test_a_limit_that_is_none_is_refused(rig: Rig, limit: Any) -> None:
    @workflow
    def job() -> str:
        try:
            parallel(square, [1], limit=limit)
        except InvalidArgument as error:
            return str(error)
        return ""

    assert "limit=" in rig.start(job).submit(job).result(timeout_seconds=10)


def test_a_cut_fan_out_calls_only_the_unfinished_arms_again(rig: Rig) -> None:
    calls: list[int] = []
    others, go = threading.Semaphore(0), threading.Event()

    @step
    def fetch(n: int) -> int:
        calls.append(n)
        if n == 3 and not go.is_set():
            wait_for(go)
        others.release()
        return n

    @workflow
    def job() -> list[int]:
        return parallel(fetch, range(8), limit=4)

    engine = rig.start(job)
    done = engine.submit(job)
    for n in range(8):
        if n != 3:
            rig.until_recorded(done, f"b{n}/fetch#0", "completed")
    rig.crash(engine)
    again = rig.engine(job)
    go.set()
    with again:
        assert again.job(done.id).result(timeout_seconds=10) == list(range(8))
    assert sorted(calls) == [0, 1, 2, 3, 3, 4, 5, 6, 7]
