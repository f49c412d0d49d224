"""``@workflow(version=)``: what has begun under one version is never run by another; what has not takes the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually

from relight import Client, start, step, wait_signal, workflow
from relight.authoring.registry import Registry, version_order
from relight.errors import IllegalTransition, KindDuplicate
from relight.ids import short
from relight.model import JobState


def version(number: str | None, *, is_async: bool = False) -> Any:
    """Return one version of a workflow: it waits, and says which it was."""

    @workflow(name="index", version=number)
    def index(doc: str) -> str:
        return f"{doc} by {number}: {wait_signal('go', type=str)}"

    @workflow(name="index", version=number)
    async def aindex(doc: str) -> str:
        return f"{doc} by {number}: {await wait_signal.aio('go', type=str)}"

    return aindex if is_async else index


COLOURS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@COLOURS
def test_one_engine_serves_two_versions_and_new_jobs_take_the_newest(rig: Rig, is_async: bool) -> None:
    old, new = version("9"), version("10", is_async=is_async)
    engine = rig.start(old)
    begun = engine.submit(old, "a")
    rig.until_put_away(begun)
    rig.stop(engine)
    engine = rig.start(old, new)
    engine.job(begun.id).signal("go", "on")
    assert engine.job(begun.id).result(timeout_seconds=10) == "a by 9: on"
    for asked in (old, new):
        fresh = engine.submit(asked, "b")
        fresh.signal("go", "on")
        assert fresh.result(timeout_seconds=10) == "b by 10: on"
        assert rig.row(fresh).version == "10"
    assert engine.submit(new, "c").info().kind == "index"


@pytest.mark.parametrize(("began", "now"), [("1", "2"), (None, "2"), ("2", None)], ids=str)
def test_an_engine_without_its_version_leaves_a_job_alone_and_why_says_so(
    rig: Rig, began: str | None, now: str | None
) -> None:
    old, new = version(began), version(now)
    engine = rig.start(old)
    job = engine.submit(old, "a")
    rig.until_put_away(job)
    rig.stop(engine)
    engine = rig.start(new)
    engine.job(job.id).signal("go", "on")
    fresh = engine.submit(new, "b")
    fresh.signal("go", "on")
    assert fresh.result(timeout_seconds=10) == f"b by {now}: on"
    assert rig.row(job).state is JobState.QUEUED and rig.row(job).claimable
    why = engine.job(job.id).why()
    assert [cause.code for cause in why.causes] == ["kind_version_not_registered"]
    under = f"under version {began}" if began else "without a version"
    has = f"version {now}" if now else "one without a version"
    assert f"it began {under}, and the 1 live engine has {has}" in why.summary
    back = rig.start(old, name="old")
    assert back.job(job.id).result(timeout_seconds=10) == f"a by {began}: on"


def test_a_stalled_job_too_goes_on_under_its_own_version(rig: Rig) -> None:
    old, new = version("1"), version("2")
    engine = rig.start(old, suspend_after_seconds=30)
    job = engine.submit(old, "a")
    rig.until_recorded(job, "signal:go#0", "waiting")
    rig.crash(engine)
    engine = rig.start(new)
    rig.until(job, JobState.QUEUED)
    engine.job(job.id).signal("go", "on")
    other = rig.start(old, name="old")
    assert other.job(job.id).result(timeout_seconds=10) == "a by 1: on"


@pytest.mark.parametrize(("began", "now"), [("1", "2"), (None, "2"), ("2", None)], ids=str)
def test_an_operator_may_let_another_version_take_a_job(rig: Rig, began: str | None, now: str | None) -> None:
    old, new = version(began), version(now)
    engine = rig.start(old)
    job = engine.submit(old, "a")
    rig.until_put_away(job)
    with pytest.raises(IllegalTransition, match="nothing to accept"):
        engine.core.resume(job.id, by="ann", accept=True)  # there is an engine that has its version
    rig.stop(engine)
    with rig.client() as client, pytest.raises(IllegalTransition, match="nothing to accept"):
        client.core.resume(job.id, by="ann", accept=True)  # there is none at all, so no version to choose
    engine = rig.start(new, *([version("0")] if now else []))  # of several, the newest takes it
    job = engine.job(job.id)
    [resume] = [act for cause in job.why().causes for act in cause.actions if "--accept" in act]
    assert resume == f"relight resume {short(job.id)} --accept"
    engine.core.resume(job.id, by="ann", accept=True)
    job.signal("go", "on")
    assert job.result(timeout_seconds=10) == f"a by {now}: on"
    assert rig.row(job).version == now
    [told] = rig.events(job, "version_accepted")
    assert (told.actor, told.actor_id) == ("human", "ann")
    assert msgspec.json.decode(told.payload) == {"recorded_version": began, "now_version": now}


def test_under_another_version_a_difference_still_stops_the_job_until_it_is_accepted_too(rig: Rig) -> None:
    @step
    def say(text: str) -> str:
        return text

    @workflow(name="index", version="1")
    def old() -> str:
        first = say("a")
        wait_signal("go", type=str)
        return first

    @workflow(name="index", version="2")
    def new() -> str:
        first = say("b")
        wait_signal("go", type=str)
        return first

    engine = rig.start(old)
    job = engine.submit(old)
    rig.until_put_away(job)
    rig.stop(engine)
    engine = rig.start(new)
    job = engine.job(job.id)
    engine.core.resume(job.id, by="ann", accept=True)
    job.signal("go", "on")
    rig.until(job, JobState.AWAITING_USER, "history_mismatch:arguments")
    engine.core.resume(job.id, by="ann", accept=True)
    assert job.result(timeout_seconds=10) == "a"


def test_keys_that_take_turns_leave_what_began_under_another_version_alone(rig: Rig) -> None:
    old, new = version("1"), version("2")
    engine = rig.start(old)
    begun = [engine.submit(old.bind("a").options(partition_key=key)) for key in ("p", "q")]
    for job in begun:
        rig.until_put_away(job)
    rig.stop(engine)
    engine = rig.start(new)
    for job in begun:
        engine.job(job.id).signal("go", "on")
    for key in ("p", "q", "r"):
        fresh = engine.submit(new.bind("b").options(partition_key=key))
        fresh.signal("go", "on")
        assert fresh.result(timeout_seconds=10) == "b by 2: on"
    assert {rig.row(job).state for job in begun} == {JobState.QUEUED}
    back = rig.start(old, name="old")
    assert [back.job(job.id).result(timeout_seconds=10) for job in begun] == ["a by 1: on"] * 2


def test_a_fork_has_not_begun_and_takes_the_newest_version(rig: Rig) -> None:
    old, new = version("1"), version("2")
    engine = rig.start(old)
    job = engine.submit(old, "a")
    job.signal("go", "on")
    assert job.result(timeout_seconds=10) == "a by 1: on"
    rig.stop(engine)
    with rig.client() as client:
        fork = client.job(job.id).fork()
    engine = rig.start(old, new)
    assert engine.job(fork.id).result(timeout_seconds=10) == "a by 2: on", "and what was taken over is not done again"
    assert rig.row(fork).version == "2"


def test_a_job_submitted_by_other_code_takes_the_version_of_the_engine_that_begins_it(rig: Rig) -> None:
    old, new = version("1"), version("2")
    engine = rig.start(old)
    with Client(rig.path, workflows=[new]) as client:
        job = client.submit(new, "a")
    rig.until_put_away(job := engine.job(job.id))
    assert rig.row(job).version == "1"
    job.signal("go", "on")
    assert job.result(timeout_seconds=10) == "a by 1: on"


def test_engines_say_which_versions_they_have(rig: Rig) -> None:
    rig.start(version("1"), version("2"), version(None))
    with rig.reading() as reads:
        (engine,) = reads.engines_to_judge(aside=[])
    assert msgspec.json.decode(engine.kinds) == [["index", "2"], ["index", "1"], ["index", None]]


def test_one_version_of_one_kind_twice_is_refused() -> None:
    with pytest.raises(KindDuplicate, match="version of its own"):
        Registry([version("1"), version("1")])


def test_the_newest_is_found_by_the_numbers_in_it_whatever_the_order_given() -> None:
    order = [None, "1", "2", "9", "10", "2024-06-01", "2024-11-01", "beta", "v2", "v10"]
    assert sorted([*order[5:], *order[:5]], key=version_order) == [None, "beta", "v2", "v10", *order[1:7]]
    for workflows in ([version("9"), version("10")], [version("10"), version("9")], [version(None), version("10")]):
        newest = Registry(workflows).find("index")
        assert newest is not None and newest.spec.version == "10"


def test_results_are_read_as_the_version_that_made_them_says(rig: Rig) -> None:
    @step
    def pair() -> tuple[int, int]:
        return (1, 2)

    @workflow(name="index", version="1")
    def old() -> tuple[int, int]:
        return pair()

    @workflow(name="index", version="2")
    def new() -> dict[str, int]:
        return {"a": 1}

    engine = rig.start(old)
    first = engine.submit(old)
    assert first.result(timeout_seconds=10) == (1, 2)
    rig.stop(engine)
    engine = rig.start(new, old)
    assert engine.submit(new).result(timeout_seconds=10) == {"a": 1}
    assert engine.job(first.id).result(timeout_seconds=10) == (1, 2)


@dataclass
class Old:
    name: str


@dataclass
class New:
    title: str


@COLOURS
def test_a_childs_result_is_of_its_own_version(rig: Rig, is_async: bool) -> None:
    @workflow(name="child", version="1")
    def old() -> Old:
        return Old(wait_signal("go", type=str))

    @workflow(name="child", version="2")
    def new() -> New:
        return New(wait_signal("go", type=str))

    @workflow(name="parent")
    def parent() -> list[str]:
        got: Any = start(old).result()
        return [type(got).__name__, got.name]

    @workflow(name="parent")
    async def aparent() -> list[str]:
        got: Any = await (await start.aio(old)).result.aio()
        return [type(got).__name__, got.name]

    flow: Any = aparent if is_async else parent
    engine = rig.start(flow, old)
    job = engine.submit(flow)
    rig.until_recorded(
        job, next(k for k in eventually(lambda: [k for k in rig.steps(job) if "result" in k])), "waiting"
    )
    [child] = [info for info in engine.jobs() if info.kind == "child"]
    rig.until_put_away(engine.job(child.id))
    rig.stop(engine)
    engine = rig.start(flow, old, new)
    engine.job(child.id).signal("go", "on")
    assert engine.job(job.id).result(timeout_seconds=10) == ["Old", "on"]
