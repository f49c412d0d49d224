"""A workflow called in another's body: a call like any other, in the same job, its steps in a branch of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import branch, current_job, parallel, patched, race, sleep, step, wait_signal, workflow
from relight.errors import JobFailed
from relight.model import JobState

made: list[str] = []
code = {"version": 1}


@pytest.fixture(autouse=True)
def afresh() -> None:
    made.clear()
    code["version"] = 1


@step
def fetch(word: str) -> str:
    made.append(word)
    return word.upper()


@workflow
def digest(word: str) -> str:
    first = fetch(word)
    return fetch(first + "!")


@workflow
async def digest_aio(word: str) -> str:
    return await fetch.aio(await fetch.aio(word) + "!")


@workflow
def twice(word: str) -> list[str]:
    return [fetch("own"), digest(word), digest(word + word), fetch("own again")]


@workflow
def nested(word: str) -> str:
    return outer(word)


@workflow
def outer(word: str) -> str:
    return digest(word)


def keys(rig: Rig, job: Any) -> list[str]:
    return sorted(rig.steps(job))


def test_its_steps_stand_in_a_branch_of_its_own(rig: Rig) -> None:
    job = rig.start(twice).submit(twice, "a")
    assert job.result(timeout_seconds=10) == ["OWN", "A!", "AA!", "OWN AGAIN"]
    inline = ["digest#0/fetch#0", "digest#0/fetch#1", "digest#1/fetch#0", "digest#1/fetch#1"]
    assert keys(rig, job) == [*inline, "fetch#0", "fetch#1"]


def test_one_inside_another_stands_in_the_other_s_branch(rig: Rig) -> None:
    job = rig.start(nested).submit(nested, "a")
    assert job.result(timeout_seconds=10) == "A!"
    assert keys(rig, job) == ["outer#0/digest#0/fetch#0", "outer#0/digest#0/fetch#1"]


@workflow
async def gathers() -> list[str]:
    return [await digest_aio("a"), *await asyncio.gather(digest_aio("b"), digest_aio("c"))]


def test_in_async_code_its_branch_is_opened_in_the_line_that_runs_it(rig: Rig) -> None:
    job = rig.start(gathers).submit(gathers)
    assert job.result(timeout_seconds=10) == ["A!", "B!", "C!"]
    lines = sorted({key.rpartition("/")[0] for key in keys(rig, job)})
    assert lines == ["b0/digest_aio#0", "b1/digest_aio#0", "digest_aio#0"]


@workflow
def fans_out() -> list[str]:
    beside = branch(digest, "beside")
    return [*parallel(digest, ["a", "b"]), beside.result()]


def test_arms_and_branches_open_it_in_theirs(rig: Rig) -> None:
    job = rig.start(fans_out).submit(fans_out)
    assert job.result(timeout_seconds=10) == ["A!", "B!", "BESIDE!"]
    lines = {key.rpartition("/")[0] for key in keys(rig, job) if "digest" in key}
    assert len(lines) == 3 and all(line.endswith("/digest#0") for line in lines)


@workflow
def in_a_loop(n: int) -> list[str]:
    out = []
    for i in range(n):
        out.append(digest(f"w{i}"))
        sleep(0.001)
    return out


def test_a_loop_of_calls_replays_what_is_done(rig: Rig) -> None:
    job = rig.start(in_a_loop).submit(in_a_loop, 3)
    assert job.result(timeout_seconds=10) == ["W0!", "W1!", "W2!"]
    assert len(made) == 6, made
    assert {key.partition("/")[0] for key in keys(rig, job)} == {
        *(f"digest#{i}" for i in range(3)),
        *(f"sleep#{i}" for i in range(3)),
    }


@workflow
def edited(word: str) -> str:
    return inner(word) + fetch("after")


@workflow
def inner(word: str) -> str:
    got = fetch(word)
    if code["version"] == 2:
        got += fetch("new at the end")
    return got


@workflow
def waits_after(word: str) -> str:
    got = edited(word)
    wait_signal("go", type=int, timeout_seconds=3600)
    return got


def test_a_step_new_at_its_end_does_not_run_after_what_the_caller_did_next(rig: Rig) -> None:
    engine = rig.start(waits_after)
    job = engine.submit(waits_after, "a")
    rig.until_put_away(job)
    code["version"] = 2
    job.signal("go", 1)
    rig.until(job, JobState.AWAITING_USER)
    row = rig.until(job, JobState.AWAITING_USER)
    assert row.status_reason == "history_mismatch:step_inserted"
    detail = rig.events(job, "history_mismatch")[0].payload
    assert "edited#0/inner#0/fetch#1 is new, but edited#0/fetch#0 after it is already done" in str(detail)
    assert "new at the end" not in made


@workflow
def patches_inside() -> str:
    got = behind_a_patch()
    fetch("after")
    wait_signal("go", type=int, timeout_seconds=3600)
    return got


@workflow
def behind_a_patch() -> str:
    got = fetch("a")
    return got if code["version"] == 1 or not patched("more") else got + fetch("more")


def test_a_patch_at_its_end_was_passed_when_its_caller_went_on(rig: Rig) -> None:
    engine = rig.start(patches_inside)
    job = engine.submit(patches_inside)
    rig.until_put_away(job)
    code["version"] = 2
    job.signal("go", 1)
    rig.until(job, JobState.COMPLETED)
    assert "more" not in made
    assert rig.steps(job)["behind_a_patch#0/patched:more#0"].outcome == "false"


@workflow
def removed_inline() -> str:
    if code["version"] == 1:
        digest("gone")
    got = fetch("kept")
    wait_signal("go", type=int)
    return got


def test_a_removed_call_is_no_stop(rig: Rig) -> None:
    engine = rig.start(removed_inline, suspend_after_seconds=0)
    job = engine.submit(removed_inline)
    rig.until_put_away(job)
    code["version"] = 2
    job.signal("go", 1)
    assert job.result(timeout_seconds=10) == "KEPT"
    told = [event.step_key for event in rig.events(job, "step_removed")]
    assert told == ["digest#0/fetch#0", "digest#0/fetch#1"]


@workflow
def races_inline() -> int:
    won = race(branch(digest, "quick"), branch(sleepy, "slow"))
    sleep(0.001)
    return won


@workflow
def sleepy(word: str) -> str:
    sleep(3600)
    return fetch(word)


def test_one_that_loses_a_race_goes_nowhere(rig: Rig) -> None:
    job = rig.start(races_inline).submit(races_inline)
    assert job.result(timeout_seconds=10) == 0
    assert rig.steps(job)["b1/sleepy#0/sleep#0"].state == "abandoned"


@step
def calls_inside(word: str) -> str:
    return digest(word)


@workflow
def in_a_step(word: str) -> str:
    return calls_inside(word)


def test_in_a_step_and_outside_a_job_it_is_its_function(rig: Rig) -> None:
    assert digest("a") == "A!"
    assert asyncio.run(digest_aio("a")) == "A!"
    job = rig.start(in_a_step).submit(in_a_step, "a")
    assert job.result(timeout_seconds=10) == "A!"
    assert keys(rig, job) == ["calls_inside#0"]


def _another() -> Callable[[str], str]:
    @workflow(name="digest")
    def other(word: str) -> str:
        return fetch(word)

    return other


other = _another()


@workflow
def two_of_one_name() -> list[str]:
    return [digest("a"), other("b")]


def test_two_under_one_name_are_refused(rig: Rig) -> None:
    job = rig.start(two_of_one_name).submit(two_of_one_name)
    with pytest.raises(JobFailed, match='two different workflows are called "digest"'):
        job.result(timeout_seconds=10)


failing = threading.Event()


@step
def breaks() -> str:
    if not failing.is_set():
        raise ValueError("no")
    return "mended"


@workflow
def broken() -> str:
    return breaks()


@workflow
def calls_broken() -> str:
    return broken()


def test_its_failure_is_named_by_its_whole_key_and_retried(rig: Rig) -> None:
    failing.clear()
    job = rig.start(calls_broken).submit(calls_broken)
    with pytest.raises(JobFailed, match="failed at broken#0/breaks#0"):
        job.result(timeout_seconds=10)
    failing.set()
    job.retry()
    assert job.result(timeout_seconds=10) == "mended"


said: list[bool] = []


@workflow
def says() -> None:
    fetch("a")
    says_inside()
    fetch("b")
    wait_signal("go", type=int)


@workflow
def says_inside() -> None:
    fetch("c")
    said.append(current_job().replaying)


def test_it_replays_as_long_as_its_caller_does(rig: Rig) -> None:
    said.clear()
    job = rig.start(says).submit(says)
    rig.until_put_away(job)
    job.signal("go", 1)
    job.result(timeout_seconds=10)
    assert said[0] is False and said[1:] == [True]
