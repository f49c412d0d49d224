"""Steps that change their arguments in place: the workflow does not see it, on the first run as on a replay."""

from __future__ import annotations

from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import Done, NotDone, Retry, poll, step, wait_signal, workflow
from relight.errors import StepFailed


@step
def greedy(words: list[str], more: dict[str, list[int]]) -> list[str]:
    words.append("mine")
    more["a"].append(9)
    return words


@step(name="greedy")
async def agreedy(words: list[str], more: dict[str, list[int]]) -> list[str]:
    words.append("mine")
    more["a"].append(9)
    return words


@workflow(name="job")
def job() -> list[Any]:
    words, more = ["yours"], {"a": [1]}
    first = greedy(words, more=more)
    word = wait_signal("go", type=str)
    return [first, words, more, greedy(words, more), word]


@workflow(name="job")
async def ajob() -> list[Any]:
    words, more = ["yours"], {"a": [1]}
    first = await agreedy(words, more=more)
    word = await wait_signal.aio("go", type=str)
    return [first, words, more, await agreedy(words, more), word]


@workflow(name="job")
async def mixed() -> list[Any]:
    words, more = ["yours"], {"a": [1]}
    first = await greedy.aio(words, more=more)
    word = await wait_signal.aio("go", type=str)
    return [first, words, more, await greedy.aio(words, more), word]


@pytest.mark.parametrize("flow", [job, ajob, mixed], ids=["sync", "async", "mixed"])
@pytest.mark.parametrize("put_away", [True, False])
def test_the_workflow_keeps_what_it_had(rig: Rig, flow: Any, put_away: bool) -> None:
    engine = rig.start(flow, suspend_after_seconds=0 if put_away else 60)
    done = engine.submit(flow)
    if put_away:
        rig.until_put_away(done)
    done.signal("go", "on")
    wanted = [["yours", "mine"], ["yours"], {"a": [1]}, ["yours", "mine"], "on"]
    assert done.result(timeout_seconds=10) == wanted
    assert len(rig.runs(done)) == (2 if put_away else 1)


def test_each_try_and_the_reconciling_function_gets_what_was_passed(rig: Rig) -> None:
    seen: list[list[int]] = []

    def happened(items: list[int]) -> Done[int] | NotDone:
        seen.append(list(items))
        items.clear()
        return NotDone()

    @step(in_doubt=happened, retry=Retry(tries=2, first_seconds=0.001))
    def takes(items: list[int]) -> int:
        seen.append(list(items))
        items.pop()
        if len(seen) == 1:
            raise ConnectionError("lost")
        return len(items)

    @workflow
    def tries() -> list[int]:
        items = [1, 2, 3]
        return [takes(items), len(items)]

    assert rig.start(tries).submit(tries).result(timeout_seconds=10) == [2, 3]
    assert seen == [[1, 2, 3]] * 3


def test_a_poll_that_changes_its_state_is_no_other_on_replay(rig: Rig) -> None:
    def look(state: list[int]) -> list[int]:
        state.append(1)
        if len(state) == 2:
            raise ValueError("once")
        return state

    @workflow
    def polls() -> list[int]:
        first: list[int] = []
        try:
            poll(look, first, until=lambda s: len(s) > 3, every_seconds=0.001)
        except StepFailed:
            pass
        return first

    assert rig.start(polls).submit(polls).result(timeout_seconds=10) == []


class Counter:
    def __init__(self) -> None:
        self.calls: list[int] = []

    @step
    def count(self, n: int) -> int:
        self.calls.append(n)
        return len(self.calls)


counter = Counter()


def test_the_object_of_a_method_is_itself(rig: Rig) -> None:
    @workflow
    def counts() -> list[int]:
        return [counter.count(1), counter.count(2)]

    counter.calls.clear()
    assert rig.start(counts).submit(counts).result(timeout_seconds=10) == [1, 2]
    assert counter.calls == [1, 2]
