"""A fork: a new job of what another one has finished. What was taken over never runs again, the source is never touched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig
from tests.stores import new_store

from relight import (
    AsyncEngine,
    Job,
    ask,
    branch,
    external,
    issue,
    now,
    parallel,
    publish,
    race,
    sleep,
    start,
    step,
    wait_signal,
    workflow,
)
from relight.errors import Conflict, InvalidArgument, JobFailed, NotFound
from relight.model import JobState, StepState

CALLS: list[str] = []
BROKEN: set[str] = set()


@pytest.fixture(autouse=True)
def forget() -> None:
    CALLS.clear()
    BROKEN.clear()


@step
def note(name: str, n: int = 0) -> int:
    CALLS.append(name)
    if name in BROKEN:
        raise ValueError(name)
    return n + 1


@workflow
def three(n: int) -> int:
    a = note("a", n)
    b = note("b", a)
    return note("c", b)


@workflow
def other(n: int) -> int:
    return note("child", n)


@workflow
def waits(n: int) -> list[Any]:
    at = now()
    sleep(0.001)
    child = start(other, n)
    told = wait_signal("go", type=int)
    answer = ask("really?")
    got = child.result()
    return [at.isoformat(), told, answer.choice, got, note("end")]


@workflow
def caught(n: int) -> int:
    try:
        note("bad", n)
    except Exception:
        note("instead", n)
    return note("last", n)


@workflow
def fans(n: int) -> int:
    found = parallel(lambda i: note(f"arm{i}", i), range(3))
    return note("merge", sum(found))


def forked(rig: Rig, job: Job[Any]) -> dict[str, Any]:
    """Return the event that tells of a job's fork."""
    [told] = rig.events(job, "job_forked")
    return {"by": told.actor_id, "actor": told.actor, **msgspec.json.decode(told.payload)}


def test_steps_finished_before_the_chosen_one_began_are_taken_over(rig: Rig) -> None:
    engine = rig.start(three)
    job = engine.submit(three, 1)
    assert job.result(timeout_seconds=20) == 4
    CALLS.clear()
    fork = job.fork(from_step="note#1", by="ann")
    assert fork.created and fork.id != job.id
    assert fork.result(timeout_seconds=20) == 4
    assert CALLS == ["b", "c"]
    assert forked(rig, job) == {"by": "ann", "actor": "human", "new_job_id": fork.id, "from_step": "note#1"}
    assert rig.told(fork)[:2] == ["job_accepted", "run_started"]
    ours, theirs = rig.steps(fork)["note#0"], rig.steps(job)["note#0"]
    assert (ours.outcome, ours.run_id, ours.ended_at) == (theirs.outcome, theirs.run_id, theirs.ended_at)
    CALLS.clear()
    again = fork.fork(from_step="note#2")
    assert again.result(timeout_seconds=20) == 4
    assert CALLS == ["c"], "of a fork, too, what it took over itself"


def test_without_a_step_everything_but_the_failure_that_ended_it_is_taken_over(rig: Rig) -> None:
    BROKEN.update({"bad", "last"})
    engine = rig.start(caught)
    job = engine.submit(caught, 1)
    with pytest.raises(JobFailed):
        job.result(timeout_seconds=20)
    CALLS.clear()
    BROKEN.clear()
    fork = job.fork()
    assert fork.result(timeout_seconds=20) == 2
    assert CALLS == ["last"], "a failure that the code caught is part of the story"
    assert rig.steps(fork)["note#0"].state is StepState.FAILED
    assert job.state() is JobState.FAILED, "the source stays as it was"


def test_messages_answers_sleeps_and_children_are_taken_over_as_their_outcomes(rig: Rig) -> None:
    engine = rig.start(waits, other)
    job = engine.submit(waits, 5)
    job.signal("go", 7)
    rig.question(job)
    job.answer("approve", by="ann")
    first = job.result(timeout_seconds=20)
    CALLS.clear()
    before = len(engine.jobs(limit=0))
    fork = job.fork(from_step="note#0")
    assert fork.result(timeout_seconds=20) == first
    assert CALLS == ["end"]
    assert len(engine.jobs(limit=0)) == before + 1, "no child was started again"


@pytest.mark.parametrize("where", ["queued", "waiting", "awaiting a person", "cancelled"])
def test_a_job_in_any_state_can_be_forked(rig: Rig, where: str) -> None:
    engine = rig.start(three, waits, other)
    if where == "queued":
        job: Job[Any] = engine.submit(three.bind(1).options(delay_seconds=3600, tags={"t": "1"}, partition_key="p"))
        fork = job.fork()
        assert fork.result(timeout_seconds=20) == 4
        row = rig.row(fork)
        assert (row.tags, row.partition_key, row.idempotency_key, row.begun) == ('{"t":"1"}', "p", None, True)
        assert job.state() is JobState.QUEUED
        return
    job = engine.submit(waits, 5)
    rig.until_put_away(job)
    if where != "waiting":
        job.signal("go", 7)
        rig.question(job)
    if where == "cancelled":
        job.cancel("enough", by="ann")
        rig.until(job, JobState.CANCELLED)
    fork = job.fork()
    if where == "waiting":
        fork.signal("go", 7)
    rig.question(fork)
    fork.answer("approve", by="ann")
    assert fork.result(timeout_seconds=20)[1:4] == [7, "approve", 6]
    assert job.state() is (JobState.CANCELLED if where == "cancelled" else rig.row(job).state)


def test_arms_are_taken_over_with_their_branches(rig: Rig) -> None:
    engine = rig.start(fans)
    job = engine.submit(fans, 0)
    first = job.result(timeout_seconds=20)
    CALLS.clear()
    fork = job.fork(from_step="note#0")
    assert fork.result(timeout_seconds=20) == first
    assert CALLS == ["merge"]


@step
def order(token: str) -> int:
    CALLS.append("order")
    return len(token)


@workflow
def orders_in_arms(n: int) -> int:
    token = external("scan", type=int)
    publish("token", token.token)
    parallel(order, [token.token])
    return token.wait()


def test_an_arm_that_was_given_the_open_token_is_not_taken_over(rig: Rig) -> None:
    job = rig.start(orders_in_arms).submit(orders_in_arms, 1)
    rig.until_put_away(job)
    with pytest.raises(Conflict, match=r"b0/order#0 of .* --from external:scan#0"):
        job.fork()
    fork = job.fork(from_step="external:scan#0")
    rig.until_put_away(fork)
    assert token_of(fork) != token_of(job)


@workflow
def scans(n: int) -> list[Any]:
    first = note("first", n)
    token = external("scan", type=int)
    publish("token", token.token)
    order(token.token)
    clean = token.wait()
    return [first, clean, note("last")]


def token_of(job: Job[Any]) -> str:
    token: str = job.published("token", type=str, timeout_seconds=10)
    return token


def test_a_fork_hands_out_a_token_of_its_own_while_the_source_s_is_open(rig: Rig) -> None:
    engine = rig.start(scans)
    job = engine.submit(scans, 1)
    rig.until_put_away(job)
    for from_step in (None, "wait:scan#0"):
        with pytest.raises(Conflict, match=r"order#0 of scans .* relight fork \S+ --from external:scan#0"):
            job.fork(from_step=from_step)
    CALLS.clear()
    fork = job.fork(from_step="external:scan#0")
    rig.until_put_away(fork)
    assert CALLS == ["order"] and token_of(fork) != token_of(job)
    engine.complete(token_of(job), 7)
    assert job.result(timeout_seconds=20) == [2, 7, 1]
    assert rig.row(fork).state is JobState.QUEUED, "the source's answer is not the fork's"
    engine.complete(token_of(fork), 8)
    assert fork.result(timeout_seconds=20) == [2, 8, 1]


@workflow
def ordering(text: str) -> int:
    return order(text)


@workflow
def scans_inline(n: int) -> int:
    token = external("scan", type=int)
    ordering("no token in it")
    return token.wait()


def test_what_an_inline_workflow_did_after_an_open_token_is_not_taken_over(rig: Rig) -> None:
    job = rig.start(scans_inline).submit(scans_inline, 1)
    rig.until_put_away(job)
    with pytest.raises(Conflict, match=r"ordering#0/order#0 of .* --from external:scan#0"):
        job.fork()


def test_a_token_that_had_its_answer_is_taken_over_with_it(rig: Rig) -> None:
    engine = rig.start(scans)
    job = engine.submit(scans, 1)
    rig.until_put_away(job)
    engine.complete(token_of(job), 7)
    assert job.result(timeout_seconds=20) == [2, 7, 1]
    CALLS.clear()
    fork = job.fork(from_step="note#1")
    assert fork.result(timeout_seconds=20) == [2, 7, 1]
    assert CALLS == ["last"]
    assert token_of(fork) == token_of(job), "its body publishes anew"
    again = fork.fork()
    assert again.result(timeout_seconds=20) == [2, 7, 1]
    with pytest.raises(Conflict, match="--from external:scan#0"):
        job.fork(from_step="wait:scan#0")  # when that began, the token was open


@workflow
def competes(n: int) -> list[Any]:
    first, second = branch(lone, "quick"), branch(slow, "slow")
    winner = race(first, second)
    return [winner, note("after")]


@step
def lone(name: str) -> str:
    CALLS.append(name)
    return name


def slow(name: str) -> str:
    lone(f"{name} begins")
    sleep(3600)
    return lone(name)


def test_a_decided_race_stays_decided_in_a_fork_and_one_that_was_not_is_run_again(rig: Rig) -> None:
    engine = rig.start(competes)
    job = engine.submit(competes, 1)
    assert job.result(timeout_seconds=20) == [0, 1]
    CALLS.clear()
    fork = job.fork(from_step="note#0")
    assert fork.result(timeout_seconds=20) == [0, 1]
    assert CALLS == ["after"]
    CALLS.clear()
    again = job.fork(from_step="b0/lone#0")
    assert again.result(timeout_seconds=20) == [0, 1]
    assert {"quick", "after"} <= set(CALLS)
    CALLS.clear()
    whole = job.fork()
    assert whole.result(timeout_seconds=20) == [0, 1]
    assert CALLS == []


@workflow
def several(n: int) -> list[Any]:
    first = wait_signal("stop", "go")
    failing = parallel(fragile, range(3), max_failed=1)
    issue("odd", "noted in the body")
    return [first.name, len(failing.ok), note("end")]


@step
def fragile(i: int) -> int:
    if i == 1:
        raise ValueError("one")
    return i


def test_waits_for_several_names_tolerated_failures_and_issues_are_the_fork_s_too(rig: Rig) -> None:
    engine = rig.start(several)
    job = engine.submit(several, 1)
    rig.until_put_away(job)
    job.signal("go", 1)
    assert job.result(timeout_seconds=20) == ["go", 2, 1]
    parts = {key for key in rig.steps(job) if "!" in key}
    assert parts, "the second name has a row of its own"
    for from_step, called in (("note#0", ["end"]), (None, [])):
        CALLS.clear()
        fork = job.fork(from_step=from_step)
        assert fork.result(timeout_seconds=20) == ["go", 2, 1]
        assert called == CALLS
        assert parts <= set(rig.steps(fork))
        assert rig.row(fork).state is JobState.COMPLETED_WITH_ISSUES
        assert rig.row(fork).issues == rig.row(job).issues
    early = job.fork(from_step=next(key for key in rig.steps(job) if key.startswith("signal:") and "!" not in key))
    rig.until_put_away(early)
    early.signal("stop", 1)
    assert early.result(timeout_seconds=20) == ["stop", 2, 1], "the wait and all its rows begin anew"
    with pytest.raises(InvalidArgument, match="It has"):
        job.fork(from_step=next(iter(parts)))


def test_a_fork_survives_a_crash_before_its_first_run(rig: Rig) -> None:
    engine = rig.start(three)
    job = engine.submit(three, 1)
    job.result(timeout_seconds=20)
    rig.stop(engine)
    client = rig.client(workflows=[three])
    fork = client.job(job.id).fork(from_step="note#2")
    CALLS.clear()
    engine = rig.start(three)
    assert engine.job(fork.id).result(timeout_seconds=20) == 4
    assert CALLS == ["c"]


@pytest.mark.parametrize("key", ["note#7", "nothing", "", "note#0?0"])
def test_an_unknown_step_is_refused_naming_those_there_are(rig: Rig, key: str) -> None:
    engine = rig.start(three)
    job = engine.submit(three, 1)
    job.result(timeout_seconds=20)
    with pytest.raises(InvalidArgument, match="It has: note#0, note#1, note#2"):
        job.fork(from_step=key)
    with pytest.raises(NotFound):
        engine.job("00000000-0000-7000-8000-000000000000").fork()
    assert len(engine.jobs(limit=0)) == 1


def test_edited_arguments_stop_the_fork_where_a_step_taken_over_gets_them(rig: Rig) -> None:
    engine = rig.start(three)
    job = engine.submit(three, 1)
    job.result(timeout_seconds=20)
    CALLS.clear()
    fresh = engine.core.fork(job.id, from_step="note#0", by="ann", edit=lambda recorded: {**recorded, "n": 10})
    assert engine.job(fresh.job_id).result(timeout_seconds=20) == 13
    assert CALLS == ["a", "b", "c"]
    late = engine.core.fork(job.id, from_step="note#1", by="ann", edit=lambda recorded: {"n": 10})
    handle = engine.job(late.job_id)
    rig.until(handle, JobState.AWAITING_USER, "history_mismatch:arguments")
    CALLS.clear()
    engine.core.resume(handle.id, by="ann", accept=True)
    assert handle.result(timeout_seconds=20) == 4, "the outcome taken over stands"
    assert CALLS == ["b", "c"]
    with pytest.raises(Exception, match="n"):
        engine.core.fork(job.id, from_step=None, by=None, edit=lambda recorded: {"m": 10})


def test_async_handles_fork_too(tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncEngine(new_store(tmp_path), workflows=[three], durability="process") as engine:
            job = await engine.submit(three, 1)
            assert await job.result(timeout_seconds=20) == 4
            fork = await job.fork(from_step="note#2", by="ann")
            assert await fork.result(timeout_seconds=20) == 4

    asyncio.run(use())
