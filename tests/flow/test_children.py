"""Child jobs: started once, found again, waited for, failing into their parent, ending with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually

from relight import Child, parallel, sleep, start, step, wait_signal, workflow
from relight.errors import IdempotencyMismatch, JobCancelled, JobFailed, KindUnknown, WaitTimeout
from relight.ids import derived_uuid7
from relight.model import JobState

CALLS: list[int] = []


@workflow
def square(n: int) -> int:
    return n * n


@workflow
async def asquare(n: int) -> int:
    return n * n


@workflow
def failing(n: int) -> int:
    raise ValueError(f"not {n}")


@workflow
def waiting() -> int:
    return wait_signal("go", type=int)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("child", [square, asquare], ids=["sync child", "async child"])
def test_a_child_is_a_job_of_its_own_with_a_derived_id(rig: Rig, colour: str, child: Any) -> None:
    @workflow(name="parent")
    def parent(n: int) -> list[Any]:
        one = start(child, n)
        return [one.id, one.result()]

    @workflow(name="parent")
    async def aparent(n: int) -> list[Any]:
        one = await start.aio(child, n)
        return [one.id, await one.result.aio()]

    wanted = parent if colour == "sync" else aparent
    engine = rig.start(wanted, child)
    done = engine.submit(wanted, 7)
    child_id, result = done.result(timeout_seconds=10)
    assert result == 49
    assert child_id == derived_uuid7(done.id, "start#0", "0")
    row = rig.row(child_id)
    assert (row.parent_job_id, row.parent_step_key, row.trace_id) == (done.id, "start#0", rig.row(done).trace_id)
    assert rig.told(done, "child_started", "child_finished") == ["child_started", "child_finished"]


def test_a_replayed_start_finds_its_child_and_starts_no_other(rig: Rig) -> None:
    @workflow
    def parent() -> list[str]:
        first = start(square, 2)
        sleep(0.1)
        second = start(square.bind(3))
        sleep(0.1)
        return [first.id, second.id]

    engine = rig.start(parent, square)
    done = engine.submit(parent)
    assert len(set(done.result(timeout_seconds=10))) == 2
    assert len(engine.jobs(kind="square")) == 2


def test_a_crash_between_start_and_result_loses_no_child(rig: Rig) -> None:
    @workflow
    def parent() -> int:
        return start(waiting).result()

    engine = rig.start(parent, waiting)
    done = engine.submit(parent)
    child_id = eventually(lambda: [info.id for info in engine.jobs(kind="waiting")])[0]
    rig.until_put_away(done)
    engine = rig.restart(engine, parent, waiting)
    engine.job(child_id).signal("go", 5)
    assert engine.job(done.id).result(timeout_seconds=10) == 5
    assert len(engine.jobs(kind="waiting")) == 1


def test_many_children_are_started_in_one_transaction(rig: Rig) -> None:
    @workflow
    def parent(count: int) -> int:
        children = start(square.bind(n) for n in range(count))
        return sum(child.result() for child in children)

    engine = rig.start(parent, square)
    done = engine.submit(parent, 40)
    assert done.result(timeout_seconds=20) == sum(n * n for n in range(40))
    started = [e.ts for e in rig.events(done, "child_started")]
    assert len(started) == 40 and len(set(started)) == 1


def test_a_child_with_a_key_of_an_existing_job_is_that_job(rig: Rig) -> None:
    @workflow
    def parent() -> list[Any]:
        one = start(square.bind(4).options(idempotency_key="four"))
        sleep(0.1)
        return [one.id, one.result()]

    engine = rig.start(parent, square)
    known = engine.submit(square, 4, idempotency_key="four")
    assert engine.submit(parent).result(timeout_seconds=10) == [known.id, 16]
    assert len(engine.jobs(kind="square")) == 1


def test_a_child_with_a_key_of_another_call_is_refused(rig: Rig) -> None:
    @workflow
    def parent() -> str:
        try:
            start(square.bind(5).options(idempotency_key="four"))
        except IdempotencyMismatch as error:
            return error.job_id
        return ""

    engine = rig.start(parent, square)
    known = engine.submit(square, 4, idempotency_key="four")
    assert engine.submit(parent).result(timeout_seconds=10) == known.id


def test_two_children_under_one_key_are_one_job(rig: Rig) -> None:
    @workflow
    def parent() -> list[Any]:
        one, two = start([square.bind(4).options(idempotency_key="k"), square.bind(4).options(idempotency_key="k")])
        return [one.id == two.id, one.result(), two.result()]

    engine = rig.start(parent, square)
    assert engine.submit(parent).result(timeout_seconds=10) == [True, 16, 16]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_childs_failure_is_raised_in_its_parent_with_its_id(rig: Rig, colour: str) -> None:
    @workflow(name="parent")
    def parent() -> list[Any]:
        one = start(failing, 3)
        try:
            one.result()
        except JobFailed as error:
            return [error.fields["job_id"] == one.id, error.fields["error_type"], error.fields["message"]]
        return []

    @workflow(name="parent")
    async def aparent() -> list[Any]:
        one = await start.aio(failing, 3)
        try:
            await one.result.aio()
        except JobFailed as error:
            return [error.fields["job_id"] == one.id, error.fields["error_type"], error.fields["message"]]
        return []

    wanted = parent if colour == "sync" else aparent
    done = rig.start(wanted, failing).submit(wanted)
    assert done.result(timeout_seconds=10) == [True, "ValueError", "not 3"]


def test_a_childs_failure_that_nobody_catches_fails_the_parent(rig: Rig) -> None:
    @workflow
    def parent() -> int:
        return start(failing, 3).result()

    failed = rig.start(parent, failing).submit(parent)
    with pytest.raises(JobFailed, match="not 3"):
        failed.result(timeout_seconds=10)


def test_a_child_that_does_not_end_in_time_is_a_timeout(rig: Rig) -> None:
    @workflow
    def parent() -> list[Any]:
        one = start(waiting)
        try:
            one.result(timeout_seconds=0.2)
        except WaitTimeout as error:
            return [one.id, error.fields["job_id"] == one.id]
        return []

    engine = rig.start(parent, waiting)
    child_id, same = engine.submit(parent).result(timeout_seconds=10)
    assert same
    engine.job(child_id).signal("go", 1)


def test_a_cancelled_child_is_told_to_its_parent(rig: Rig) -> None:
    @workflow
    def parent() -> str:
        one = start(waiting)
        try:
            one.result()
        except JobCancelled as error:
            return f"cancelled {error.fields['job_id'] == one.id}"
        return ""

    engine = rig.start(parent, waiting)
    done = engine.submit(parent)
    child_id = eventually(lambda: [info.id for info in engine.jobs(kind="waiting")])[0]
    rig.until_put_away(done)
    engine.job(child_id).cancel(by="ada")
    assert done.result(timeout_seconds=10) == "cancelled True"


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "never begun"])
def test_a_parent_may_cancel_its_child(rig: Rig, begun: bool) -> None:
    @workflow
    def parent() -> str:
        one = start(waiting.bind() if begun else waiting.bind().options(delay_seconds=600))
        if begun:
            wait_signal("child has begun", type=bool)
        one.cancel("no longer needed")
        try:
            one.result()
        except JobCancelled:
            return "cancelled"
        return ""

    engine = rig.start(parent, waiting)
    done = engine.submit(parent)
    if begun:
        child_id = eventually(lambda: [info.id for info in engine.jobs(kind="waiting")])[0]
        rig.until_put_away(engine.job(child_id))
        done.signal("child has begun", True)
    assert done.result(timeout_seconds=10) == "cancelled"


def test_putting_the_parent_away_does_not_cancel_a_child_in_its_finally(rig: Rig) -> None:
    @workflow
    def parent() -> int:
        one = start(waiting)
        try:
            return one.result()
        finally:
            one.cancel("the parent is done with it")

    engine = rig.start(parent, waiting)
    done = engine.submit(parent)
    child_id = eventually(lambda: [info.id for info in engine.jobs(kind="waiting")])[0]
    rig.until_put_away(done)
    rig.until_put_away(engine.job(child_id))
    assert rig.row(child_id).cancel_code is None
    engine.job(child_id).signal("go", 9)
    assert done.result(timeout_seconds=10) == 9


@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
def test_a_child_is_cancelled_with_its_parent_unless_detached(rig: Rig, detached: bool) -> None:
    @workflow
    def parent() -> int:
        return start(waiting, detached=detached).result()

    engine = rig.start(parent, waiting, lease_seconds=0.5)
    done = engine.submit(parent)
    child_id = eventually(lambda: [info.id for info in engine.jobs(kind="waiting")])[0]
    rig.until_put_away(done)
    child = engine.job(child_id)
    rig.until_put_away(child)
    done.cancel(by="ada")
    rig.until(done, JobState.CANCELLED)
    if not detached:
        row = rig.until(child, JobState.CANCELLED)
        assert row.cancel_reason == "its parent ended"
    else:
        eventually(lambda: rig.probes[engine].reached["watch"] > 5)
        assert rig.row(child_id).state is JobState.QUEUED
        child.signal("go", 1)
        assert child.result(timeout_seconds=10) == 1


def test_a_child_of_an_unknown_kind_is_refused_and_not_stored(rig: Rig) -> None:
    @workflow
    def parent() -> str:
        try:
            start(square, 1)
        except KindUnknown as error:
            return str(error)
        return ""

    engine = rig.start(parent)
    assert '"square"' in engine.submit(parent).result(timeout_seconds=10)
    assert engine.jobs(kind="square") == []


def test_children_of_arms_are_each_arms_own(rig: Rig) -> None:
    @step
    def listed() -> list[int]:
        return [1, 2, 3]

    def arm(n: int) -> int:
        return start(square, n).result()

    @workflow
    def parent() -> list[int]:
        return parallel(arm, listed())

    @workflow
    async def aparent() -> list[int]:
        async def aarm(n: int) -> int:
            one: Child[int] = await start.aio(square, n)
            return await one.result.aio()

        return list(await asyncio.gather(*(aarm(n) for n in listed_now)))

    listed_now = [1, 2, 3]
    engine = rig.start(parent, aparent, square)
    one, two = engine.submit(parent), engine.submit(aparent)
    assert one.result(timeout_seconds=10) == two.result(timeout_seconds=10) == [1, 4, 9]
    assert {"b0/start#0", "b1/start#0", "b2/start#0"} <= set(rig.steps(one)) & set(rig.steps(two))


def test_a_child_that_fails_is_retried_and_the_parent_goes_on_waiting(rig: Rig) -> None:
    broken = [True]

    @workflow
    def fragile() -> int:
        wait_signal("go", type=int)
        if broken[0]:
            raise ValueError("not yet")
        return 8

    @workflow
    def parent() -> list[Any]:
        one = start(fragile)
        said: list[Any] = []
        try:
            said.append(one.result())
        except JobFailed:
            said.append("failed")
        wait_signal("again", type=bool)
        said.append(one.result())
        return said

    engine = rig.start(parent, fragile)
    done = engine.submit(parent)
    child_id = eventually(lambda: [info.id for info in engine.jobs(kind="fragile")])[0]
    rig.until_put_away(done)
    engine.job(child_id).signal("go", 1)
    rig.until(engine.job(child_id), JobState.FAILED)
    eventually(lambda: "result:" + child_id[-6:] in str(rig.steps(done)) or len(rig.steps(done)) >= 3)
    broken[0] = False
    engine.job(child_id).retry(by="ada")
    rig.until(engine.job(child_id), JobState.COMPLETED)
    done.signal("again", True)
    assert done.result(timeout_seconds=10) == ["failed", 8]
