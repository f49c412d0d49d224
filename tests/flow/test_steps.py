"""Steps: called once, recorded once, replayed ever after, in every colour."""

from __future__ import annotations

import asyncio
import enum
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.flow.kit import Rig, wait_for
from tests.stores import change_behind

from relight import current_step, sleep, step, wait_signal, workflow
from relight.errors import InvalidArgument, JobFailed, StepFailed
from relight.model import StepState


class Calls:
    """Counts the calls of steps, by name."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, name: str) -> None:
        self.made.append(name)

    def count(self, name: str) -> int:
        return self.made.count(name)


@pytest.fixture
def calls() -> Calls:
    return Calls()


# ---------------------------------------------------------------- colours


def test_a_sync_step_runs_in_a_sync_workflow(rig: Rig) -> None:
    @step
    def double(n: int) -> int:
        return 2 * n

    @workflow
    def job(n: int) -> int:
        return double(n) + double(n=n + 1)

    engine = rig.start(job)
    done = engine.submit(job, 3)
    assert done.result(timeout_seconds=10) == 14
    assert sorted(rig.steps(done)) == ["double#0", "double#1"]


def test_an_async_step_runs_on_the_engines_loop_in_an_async_workflow(rig: Rig) -> None:
    threads: list[str] = []

    @step
    async def where() -> None:
        threads.append(threading.current_thread().name)
        await asyncio.sleep(0)

    @workflow
    async def job() -> None:
        await where()
        threads.append(threading.current_thread().name)

    rig.start(job).submit(job).result(timeout_seconds=10)
    assert len(set(threads)) == 1 and threads[0].startswith("relight-loop")


def test_a_sync_step_runs_in_a_thread_of_an_async_workflow_by_aio(rig: Rig) -> None:
    threads: list[str] = []

    @step
    def where(n: int) -> int:
        threads.append(threading.current_thread().name)
        return n

    @workflow
    async def job() -> int:
        return await where.aio(7)

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 7
    assert threads[0].startswith("relight-arm")


def test_an_async_step_runs_on_the_loop_of_a_sync_workflow_by_sync(rig: Rig) -> None:
    threads: list[str] = []

    @step
    async def where(n: int) -> int:
        await asyncio.sleep(0)
        threads.append(threading.current_thread().name)
        return n

    @workflow
    def job() -> int:
        return where.sync(7)

    assert rig.start(job).submit(job).result(timeout_seconds=10) == 7
    assert threads[0].startswith("relight-loop")


def test_outside_a_job_a_step_is_just_its_function_in_every_colour() -> None:
    @step
    def double(n: int) -> int:
        return 2 * n

    @step
    async def triple(n: int) -> int:
        return 3 * n

    assert double(4) == 8
    assert triple.sync(4) == 12
    assert asyncio.run(triple(4)) == 12
    assert asyncio.run(double.aio(4)) == 8


def test_a_workflow_called_in_a_workflow_is_a_call_in_the_same_job(rig: Rig) -> None:
    @step
    def one() -> int:
        return 1

    @workflow
    def inner() -> int:
        return one() + one()

    @workflow
    def outer() -> int:
        return one() + inner()

    engine = rig.start(outer, inner)
    done = engine.submit(outer)
    assert done.result(timeout_seconds=10) == 3
    assert sorted(rig.steps(done)) == ["one#0", "one#1", "one#2"]
    assert len(engine.jobs()) == 1


def test_a_step_inside_a_step_is_a_plain_call(rig: Rig, calls: Calls) -> None:
    @step
    def inner() -> int:
        calls("inner")
        return current_step().try_number

    @step
    def outer() -> int:
        return inner() + inner()

    @workflow
    def job() -> int:
        return outer()

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == 2
    assert list(rig.steps(done)) == ["outer#0"] and calls.count("inner") == 2


def test_steps_may_be_methods_and_self_is_not_an_argument(rig: Rig) -> None:
    class Mailer:
        def __init__(self, host: str) -> None:
            self.host = host

        @step
        def send(self, to: str) -> str:
            return f"{to} by {self.host}"

        @step
        async def asend(self, to: str) -> str:
            return f"{to} by {self.host}, async"

    @workflow
    def job() -> list[str]:
        return [Mailer("a").send("ada"), Mailer("b").send(to="bob"), Mailer("c").asend.sync("cy")]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == ["ada by a", "bob by b", "cy by c, async"]
    steps = rig.steps(done)
    assert sorted(steps) == ["Mailer.asend#0", "Mailer.send#0", "Mailer.send#1"]
    assert steps["Mailer.send#0"].inputs == '{"to":"ada"}'


def test_partials_closures_and_lambdas_are_steps_too(rig: Rig) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    def adder(n: int) -> Callable[[int], int]:
        @step(name=f"add_{n}")
        def add_n(x: int) -> int:
            return x + n

        return add_n

    added = step(functools.partial(add, 10))
    named = step(name="plus")(functools.partial(add, b=1))
    shown = step(lambda: "shown")
    one, two = adder(1), adder(2)

    @workflow
    def job() -> list[Any]:
        return [added(1), named(1), shown(), one(0), two(0)]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [11, 2, "shown", 1, 2]
    assert sorted(rig.steps(done)) == ["add#0", "add_1#0", "add_2#0", "lambda#0", "plus#0"]


def test_an_explicit_key_names_a_step_whatever_the_order(rig: Rig, calls: Calls) -> None:
    @step
    def fetch(n: int) -> int:
        calls(f"fetch {n}")
        return n

    order = [[1, 2, 3]]

    @workflow
    def job() -> list[int]:
        got = [fetch.options(key=f"d-{n}")(n) for n in order[0]]
        wait_signal("go", type=str)
        return got

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_put_away(done)
    assert sorted(k for k in rig.steps(done) if "fetch" in k) == ["fetch[d-1]", "fetch[d-2]", "fetch[d-3]"]
    order[0] = [3, 1, 2]
    done.signal("go", "on")
    assert done.result(timeout_seconds=10) == [3, 1, 2]
    assert len(calls.made) == 3


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_two_calls_under_one_explicit_key_are_refused_on_first_run_and_replay(rig: Rig, colour: str) -> None:
    seen: list[str] = []

    @step
    def fetch(n: int) -> int:
        return n

    @workflow(name="job")
    def job() -> int:
        first = fetch.options(key="a")(1)
        try:
            fetch.options(key="a")(1)
        except InvalidArgument as error:
            seen.append(str(error))
        sleep(0.1)
        return first

    @workflow(name="job")
    async def ajob() -> int:
        first = await fetch.options(key="a").aio(1)
        try:
            await fetch.options(key="a").aio(1)
        except InvalidArgument as error:
            seen.append(str(error))
        await sleep.aio(0.1)
        return first

    wanted = job if colour == "sync" else ajob
    assert rig.start(wanted).submit(wanted).result(timeout_seconds=10) == 1
    assert len(seen) == 2 and seen[0] == seen[1] and "fetch[a] was called before" in seen[0]


# ---------------------------------------------------------------- replay


def test_a_finished_step_is_not_called_again_after_the_run_was_put_away(rig: Rig, calls: Calls) -> None:
    @step
    def charge(cents: int) -> str:
        calls("charge")
        return f"charged {cents}"

    @step
    async def acharge(cents: int) -> str:
        calls("acharge")
        return f"charged {cents}"

    @workflow
    def job() -> str:
        receipt = charge(5)
        sleep(0.1)
        return receipt

    @workflow
    async def ajob() -> str:
        receipt = await acharge(6)
        await sleep.aio(0.1)
        return receipt

    engine = rig.start(job, ajob)
    one, two = engine.submit(job), engine.submit(ajob)
    assert one.result(timeout_seconds=10) == "charged 5"
    assert two.result(timeout_seconds=10) == "charged 6"
    assert calls.made == ["charge", "acharge"] or calls.made == ["acharge", "charge"]
    assert [run.state for run in rig.runs(one)] == ["suspended", "completed"]
    assert [run.attempt for run in rig.runs(two)] == [1, 1]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_finished_step_is_not_called_again_after_a_crash(rig: Rig, calls: Calls, colour: str) -> None:
    in_second, go = threading.Event(), threading.Event()

    @step
    def first() -> int:
        calls("first")
        return 1

    @step
    def second() -> int:
        calls("second")
        in_second.set()
        if not go.is_set():
            wait_for(go)
        return 2

    @workflow(name="job")
    def job() -> int:
        return first() + second()

    @workflow(name="job")
    async def ajob() -> int:
        return await first.aio() + await second.aio()

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    done = engine.submit(wanted)
    wait_for(in_second)
    rig.until_recorded(done, "second#0", "running")
    rig.crash(engine)
    engine = rig.engine(wanted)
    go.set()
    with engine:
        assert engine.job(done.id, type=int).result(timeout_seconds=10) == 3
    assert calls.count("first") == 1 and calls.count("second") == 2
    assert [run.state for run in rig.runs(done)] == ["stalled", "completed"]
    assert rig.told(done, "workflow_recovery", "step_began", "step_finished").count("step_began") == 3


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: tuple[int, ...]


@pytest.mark.parametrize(
    "value, annotation, back",
    [
        (Point(1, (2, 3)), Point, Point(1, (2, 3))),
        (Colour.RED, Colour, Colour.RED),
        (Path("a/b"), Path, Path("a/b")),
        ({1: "one"}, dict[int, str], {1: "one"}),
        ((1, 2), list[int], [1, 2]),
        ({3, 1}, set[int], {1, 3}),
        (b"\0\xff", bytes, b"\0\xff"),
        (None, None, None),
    ],
)
def test_the_first_run_gets_what_a_replay_gets(rig: Rig, value: Any, annotation: Any, back: Any) -> None:
    def give() -> Any:
        return value

    give.__annotations__["return"] = annotation
    given = step(give)
    seen: list[Any] = []

    @workflow
    def job() -> None:
        seen.append(given())
        sleep(0.1)
        seen.append("woken")

    rig.start(job).submit(job).result(timeout_seconds=10)
    first, second, _ = seen
    assert first == second == back and type(first) is type(second) is type(back)


def test_what_a_step_returned_is_no_longer_the_object_it_returned(rig: Rig) -> None:
    mine: list[int] = [1]

    @step
    def give() -> list[int]:
        return mine

    @workflow
    def job() -> list[int]:
        got = give()
        got.append(2)
        return got

    assert rig.start(job).submit(job).result(timeout_seconds=10) == [1, 2]
    assert mine == [1]


def test_a_result_without_annotation_must_come_back_equal(rig: Rig) -> None:
    @step
    def plain():  # type: ignore[no-untyped-def]
        return {"a": [1, None, "x"]}

    @step
    def lossy():  # type: ignore[no-untyped-def]
        return (1, 2)

    @workflow
    def good() -> Any:
        return plain()

    @workflow
    def bad() -> Any:
        return lossy()

    engine = rig.start(good, bad)
    assert engine.submit(good).result(timeout_seconds=10) == {"a": [1, None, "x"]}
    failed = engine.submit(bad)
    with pytest.raises(JobFailed, match=r"lossy#0.*tuple.*annotate"):
        failed.result(timeout_seconds=10)
    assert rig.steps(failed)["lossy#0"].state is StepState.FAILED


def test_a_result_that_cannot_be_stored_fails_the_step_and_is_not_retried(rig: Rig, calls: Calls) -> None:
    from relight import Retry

    @step(retry=Retry(tries=5, first_seconds=0))
    def totals() -> dict[str, float]:
        calls("totals")
        return {"amount": float("nan")}

    @workflow
    def job() -> str:
        try:
            totals()
        except StepFailed as error:
            return f"{error.error_type}: {error.message}"
        return "stored"

    said = rig.start(job).submit(job).result(timeout_seconds=10)
    assert said.startswith("relight.errors.NotSerializable") and ".amount" in said and "NaN" in said
    assert calls.count("totals") == 1


def test_the_idempotency_key_is_the_same_over_all_tries_and_runs(rig: Rig) -> None:
    from relight import Retry

    keys: list[str] = []
    second, go = threading.Event(), threading.Event()

    @step(retry=Retry(tries=3, first_seconds=0))
    def charge() -> str:
        keys.append(current_step().idempotency_key)
        if len(keys) == 1:
            raise ConnectionError
        if len(keys) == 2:
            second.set()
            wait_for(go)
        return "ok"

    @workflow
    def job() -> str:
        return charge()

    engine = rig.start(job)
    done = engine.submit(job)
    wait_for(second)
    rig.until_recorded(done, "charge#0", "running")
    rig.crash(engine)
    with rig.engine(job) as again:
        assert again.job(done.id).result(timeout_seconds=10) == "ok"
    go.set()
    assert len(keys) == 3 and set(keys) == {f"{done.id}:charge#0"}


def test_a_record_that_is_refused_while_its_run_stands_is_told_to_the_job_and_does_not_strand_it(rig: Rig) -> None:
    """Damage from outside: the step's row says that it is finished, behind the back of the run that executes it."""
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> str:
        inside.set()
        wait_for(go)
        return "worked"

    @workflow
    def job() -> str:
        return work()

    rig.must_verify = False
    failed = rig.start(job).submit(job)
    wait_for(inside)
    rig.until_recorded(failed, "work#0", "running")
    change_behind(rig.path, "UPDATE steps SET state = 'completed', ended_at = 1 WHERE job_id = ?", (failed.id,))
    go.set()
    with pytest.raises(JobFailed, match=r"work#0 was not recorded"):
        failed.result(timeout_seconds=10)
