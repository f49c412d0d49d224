"""``branch`` and ``race``: different things at once, the first of them recorded, the others abandoned; the same on replay."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually

from relight import ask, branch, parallel, race, sleep, step, wait_signal, workflow
from relight.authoring.branches import Branch
from relight.errors import InvalidArgument, JobFailed
from relight.model import JobState, StepState


@step
def add(a: int, b: int) -> int:
    return a + b


@step
def shout(text: str) -> str:
    return text.upper()


@step
async def ashout(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


# ---------------------------------------------------------------- branches


def test_branches_run_different_things_at_once(rig: Rig) -> None:
    together = threading.Barrier(2)

    @step
    def meet(n: int) -> int:
        together.wait(10)
        return n

    @workflow
    def job() -> list[Any]:
        a, b, c = branch(meet, 1), branch(meet, 2), branch(ashout, "x")
        return [b.result(), a.result(), c.result(), a.result()]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [2, 1, "X", 1]
    assert set(rig.steps(done)) == {"b0/meet#0", "b1/meet#0", "b2/ashout#0"}


def test_branches_of_async_code_are_awaited(rig: Rig) -> None:
    async def two(text: str) -> str:
        return await ashout(text) + await ashout(text)

    @workflow
    async def job() -> list[Any]:
        a: Branch[int] = branch(add, 1, 2)
        b: Branch[str] = branch(two, "x")
        return [await b, await a, await a]

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == ["XX", 3, 3]
    assert set(rig.steps(done)) == {"b0/add#0", "b1/ashout#0", "b1/ashout#1"}


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_error_of_a_branch_is_raised_by_its_result(rig: Rig, colour: str) -> None:
    @step
    def bad() -> None:
        raise ValueError("no")

    @workflow(name="job")
    def job() -> str:
        failing = branch(bad)
        add(1, 1)
        try:
            failing.result()
        except Exception as error:
            return str(error)
        return ""

    @workflow(name="job")
    async def ajob() -> str:
        failing = branch(bad)
        await add.aio(1, 1)
        try:
            await failing
        except Exception as error:
            return str(error)
        return ""

    wanted: Any = job if colour == "sync" else ajob
    assert "no" in rig.start(wanted).submit(wanted).result(timeout_seconds=10)


def test_more_branches_than_threads_do_not_block_each_other(rig: Rig) -> None:
    together = threading.Barrier(6)

    @step
    def meet(n: int) -> int:
        together.wait(10)
        return n

    @workflow
    def job() -> int:
        return sum(each.result() for each in [branch(meet, n) for n in range(6)])

    assert rig.start(job, threads=1).submit(job).result(timeout_seconds=15) == 15


def test_a_run_whose_branches_all_wait_long_is_put_away_and_goes_on(rig: Rig) -> None:
    @workflow
    def job() -> list[str]:
        one, two = branch(lambda: wait_signal("one", type=str)), branch(lambda: wait_signal("two", type=str))
        return [one.result(), two.result()]

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    done.signal("two", "b")
    rig.until_recorded(done, "b1/signal:two#0", "completed")
    rig.until_put_away(done)
    done.signal("one", "a")
    assert done.result(timeout_seconds=10) == ["a", "b"]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_a_body_leaves_behind_is_abandoned_with_it(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> str:
        branch(sleep, 3600)
        rig.until_recorded(eventually(lambda: done)[0], "b0/sleep#0", "waiting")
        return "gone"

    @workflow(name="job")
    async def ajob() -> str:
        branch(sleep.aio, 3600)
        await ashout("x")
        return "gone"

    wanted: Any = job if colour == "sync" else ajob
    engine = rig.start(wanted, suspend_after_seconds=30)
    done: list[Any] = []
    with rig.reading():
        done.append(engine.submit(wanted))
    assert done[0].result(timeout_seconds=10) == "gone"
    assert rig.steps(done[0])["b0/sleep#0"].state is StepState.ABANDONED


def test_a_cancel_reaches_every_branch(rig: Rig) -> None:
    left: list[str] = []

    def waits(name: str) -> None:
        try:
            sleep(3600)
        finally:
            left.append(name)

    @workflow
    def job() -> None:
        one, two = branch(waits, "one"), branch(waits, "two")
        one.result()
        two.result()

    done = rig.start(job, suspend_after_seconds=30).submit(job)
    rig.until_recorded(done, "b1/sleep#0", "waiting")
    done.cancel("enough", by="ada")
    rig.until(done, JobState.CANCELLED)
    assert set(left) == {"one", "two"}


# ---------------------------------------------------------------- races


def racing(colour: str) -> Any:
    """Return a workflow that races a signal against a question."""

    def by_signal() -> str:
        return wait_signal("go", type=str)

    def by_person() -> str:
        return ask("Go?").choice

    async def aby_signal() -> str:
        return await wait_signal.aio("go", type=str)

    async def aby_person() -> str:
        return (await ask.aio("Go?")).choice

    @workflow(name="job")
    def job() -> list[Any]:
        lines = [branch(by_person), branch(by_signal)]
        first = race(*lines)
        try:
            other = lines[1 - first].result()
        except Exception as error:
            other = type(error).__name__
        return [first, lines[first].result(), other, wait_signal("end", type=int)]

    @workflow(name="job")
    async def ajob() -> list[Any]:
        lines = [branch(aby_person), branch(aby_signal)]
        first = await race.aio(*lines)
        try:
            other = await lines[1 - first]
        except Exception as error:
            other = type(error).__name__
        return [first, await lines[first], other, await wait_signal.aio("end", type=int)]

    return job if colour == "sync" else ajob


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("suspend", [0, 30], ids=["put away", "in memory"])
def test_the_first_wins_and_the_others_are_abandoned_and_a_replay_tells_the_same(
    rig: Rig, colour: str, suspend: float
) -> None:
    job = racing(colour)
    engine = rig.start(job, suspend_after_seconds=suspend)
    done = engine.submit(job)
    question = rig.question(done)
    rig.until_recorded(done, "b1/signal:go#0", "waiting")
    done.signal("go", "on")
    rig.until_recorded(done, "signal:end#0", "waiting")
    steps = rig.steps(done)
    assert msgspec.json.decode(steps["race#0"].outcome or "") == {"winner": 1, "lost": ["b0/"]}
    assert steps["b0/ask#0"].state is StepState.ABANDONED
    assert [event.payload for event in rig.events(done, "step_abandoned")] == ['{"try":1,"reason":"race"}']
    assert [row.state for row in rig.decisions(done) if row.decision_id == question.decision_id] == ["withdrawn"]
    engine = rig.restart(engine, job)
    engine.job(done.id).signal("end", 7)
    assert engine.job(done.id).result(timeout_seconds=10) == [1, "on", "Conflict", 7]
    assert rig.row(done).state is JobState.COMPLETED


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_replay_gives_the_recorded_winner_although_another_is_first_now(rig: Rig, colour: str) -> None:
    slow_may_go = threading.Event()
    calls: list[str] = []

    @step
    def slow() -> str:
        calls.append("slow")
        assert slow_may_go.wait(20)
        return "slow"

    @step
    def fast() -> str:
        calls.append("fast")
        return "fast"

    @workflow(name="job")
    def job() -> list[Any]:
        lines = [branch(slow), branch(fast)]
        return [race(*lines), wait_signal("end", type=int)]

    @workflow(name="job")
    async def ajob() -> list[Any]:
        return [await race.aio(slow.aio(), fast.aio()), await wait_signal.aio("end", type=int)]

    wanted: Any = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    done = engine.submit(wanted)
    rig.until_recorded(done, "signal:end#0", "waiting")
    key = next(key for key in rig.steps(done) if "slow" in key)
    rig.until_recorded(done, key, "abandoned")
    rig.crash(engine)
    slow_may_go.set()
    again = rig.start(wanted).job(done.id)
    again.signal("end", 1)
    assert again.result(timeout_seconds=10) == [1, 1]
    assert sorted(calls) == ["fast", "slow"]
    assert rig.told(done, "step_removed") == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_nothing_of_a_loser_begins_on_replay(rig: Rig, colour: str) -> None:
    """The loser was between two steps when it lost: nothing but the race's record keeps the second from being called."""
    calls: list[str] = []
    lost = threading.Event()

    @step
    def first() -> None:
        calls.append("first")

    @step
    def second() -> None:
        calls.append("second")

    def loses() -> None:
        first()
        assert lost.wait(20)
        second()

    async def aloses() -> None:
        await first.aio()
        await asyncio.get_running_loop().create_future()
        await second.aio()

    def wins() -> None:
        eventually(lambda: "first" in calls and rig.told(None, "step_finished"))

    @workflow(name="job")
    def job() -> list[Any]:
        got = [race(branch(loses), branch(wins))]
        lost.set()
        return [*got, wait_signal("end", type=int)]

    @workflow(name="job")
    async def ajob() -> list[Any]:
        waits = branch(lambda: wait_signal.aio("won", type=int))
        got = [await race.aio(branch(aloses), waits)]
        return [*got, await wait_signal.aio("end", type=int)]

    wanted: Any = job if colour == "sync" else ajob
    engine = rig.start(wanted)
    with rig.reading():
        done = engine.submit(wanted)
    if colour == "async":
        rig.until_recorded(done, "b1/first#0", "completed")
        done.signal("won", 1)
    rig.until_recorded(done, "signal:end#0", "waiting")
    engine = rig.restart(engine, wanted)
    engine.job(done.id).signal("end", 1)
    assert engine.job(done.id).result(timeout_seconds=10)[1] == 1
    assert calls == ["first"]
    assert rig.row(done).state is JobState.COMPLETED


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_branches_that_have_ended_already_the_first_in_order_wins(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> list[Any]:
        lines = [branch(shout, "a"), branch(shout, "b")]
        lines[1].result()
        lines[0].result()
        return [race(*lines), [line.result() for line in lines]]

    @workflow(name="job")
    async def ajob() -> list[Any]:
        lines = [branch(ashout, "a"), branch(ashout, "b")]
        await lines[1]
        await lines[0]
        return [await race.aio(*lines), [await line for line in lines]]

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    assert done.result(timeout_seconds=10) == [0, ["A", "B"]]
    assert rig.told(done, "step_abandoned") == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_wins_may_have_failed(rig: Rig, colour: str) -> None:
    @step
    def bad() -> None:
        raise ValueError("no")

    @workflow(name="job")
    def job() -> list[Any]:
        lines: list[Branch[Any]] = [branch(sleep, 3600), branch(bad)]
        first = race(*lines)
        try:
            lines[first].result()
        except Exception as error:
            return [first, str(error)]
        return []

    @workflow(name="job")
    async def ajob() -> list[Any]:
        try:
            await race.aio(sleep.aio(3600), bad.aio())
        except Exception as error:
            return [1, str(error)]
        return []

    wanted: Any = job if colour == "sync" else ajob
    first, said = rig.start(wanted).submit(wanted).result(timeout_seconds=10)
    assert first == 1 and "no" in said


def test_a_step_with_a_time_limit_from_outside(rig: Rig) -> None:
    go = threading.Event()

    @step
    def endless() -> None:
        assert go.wait(20)

    @workflow
    def job() -> str:
        lines = [branch(endless), branch(sleep, 0.05)]
        return ["done", "late"][race(*lines)]

    done = rig.start(job, suspend_after_seconds=30).submit(job)
    assert done.result(timeout_seconds=10) == "late"
    assert rig.steps(done)["b0/endless#0"].state is StepState.ABANDONED
    go.set()


def test_everything_inside_a_loser_is_cut_short_too(rig: Rig) -> None:
    def inner(n: int) -> None:
        sleep(3600)

    @workflow
    def job() -> int:
        lines: list[Branch[Any]] = [
            branch(lambda: parallel(inner, [1, 2])),
            branch(lambda: wait_signal("go", type=int)),
        ]
        return race(*lines)

    done = rig.start(job, suspend_after_seconds=30).submit(job)
    rig.until_recorded(done, "b0/b0/sleep#0", "waiting")
    rig.until_recorded(done, "b0/b1/sleep#0", "waiting")
    done.signal("go", 1)
    assert done.result(timeout_seconds=10) == 1
    assert {key: each.state for key, each in rig.steps(done).items() if "sleep" in key} == {
        "b0/b0/sleep#0": StepState.ABANDONED,
        "b0/b1/sleep#0": StepState.ABANDONED,
    }


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_bad_races_are_refused(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> list[str]:
        return [_refusal(lambda: race()), _refusal(lambda: race(add)), _refusal(lambda: branch(7))]  # type: ignore[arg-type]

    @workflow(name="job")
    async def ajob() -> list[str]:
        said = [_refusal(lambda: branch(7))]  # type: ignore[arg-type]
        for what in ((), (7,)):
            try:
                await race.aio(*what)  # type: ignore[arg-type]
            except InvalidArgument as error:
                said.append(str(error))
        return said

    wanted: Any = job if colour == "sync" else ajob
    said = rig.start(wanted).submit(wanted).result(timeout_seconds=10)
    assert len(said) == 3 and all(said)


def _refusal(call: Any) -> str:
    try:
        call()
    except InvalidArgument as error:
        return str(error)
    return ""


def test_blocking_names_are_refused_on_the_loop(rig: Rig) -> None:
    @workflow
    async def job() -> None:
        race(branch(ashout, "x"))

    with pytest.raises(JobFailed, match=r"await race\.aio"):
        rig.start(job).submit(job).result(timeout_seconds=10)


def test_fewer_branches_than_the_winners_number_are_a_mismatch(rig: Rig) -> None:
    short = threading.Event()

    @workflow
    def job() -> int:
        lines: list[Branch[Any]] = [branch(sleep, 3600), branch(shout, "x")]
        return race(*(lines[:1] if short.is_set() else lines)) + wait_signal("end", type=int)

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_recorded(done, "signal:end#0", "waiting")
    short.set()
    rig.restart(engine, job).job(done.id).signal("end", 1)
    rig.until(done, JobState.AWAITING_USER, "history_mismatch:outcome")
