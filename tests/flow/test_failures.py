"""Failures of steps: one story on the first run and on every replay; tries, their schedule, and what a crash does to it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import Retry, current_step, sleep, step, wait_signal, workflow
from relight.errors import JobFailed, StepError, StepFailed
from relight.model import JobState, StepState


class CardDeclined(Exception):
    """A business error, as users write them."""


@dataclass
class OverLimit(Exception):
    """One with fields."""

    limit: int
    asked: int


class Weird(Exception):
    """One that cannot be stored."""

    def __init__(self) -> None:
        super().__init__(object())


def facts(error: StepFailed) -> dict[str, Any]:
    return {
        "text": str(error),
        **{
            name: getattr(error, name)
            for name in ("step_key", "error_type", "error_code", "message", "tries", "details")
        },
        "cause": error.__cause__,
        "context": error.__context__,
        "is": (error.is_a(ValueError), error.is_a(LookupError), error.is_a(Exception), error.is_a(KeyError)),
        "remote": error.fields["remote_traceback"],
    }


# ---------------------------------------------------------------- StepFailed


@pytest.mark.parametrize("colour", ["sync", "async", "aio"])
def test_a_failure_is_stepfailed_the_same_on_first_run_and_replay(rig: Rig, colour: str) -> None:
    seen: list[dict[str, Any]] = []

    @step
    def boom() -> None:
        raise ValueError("no such file")

    @step(name="boom")
    async def aboom() -> None:
        raise ValueError("no such file")

    @workflow(name="job")
    def job() -> None:
        try:
            boom()
        except StepFailed as error:
            seen.append(facts(error))
        wait_signal("go", type=str)

    @workflow(name="job")
    async def ajob() -> None:
        try:
            await (aboom() if colour == "async" else boom.aio())
        except StepFailed as error:
            seen.append(facts(error))
        await wait_signal.aio("go", type=str)

    wanted = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    rig.until_put_away(done)
    done.signal("go", "on")
    done.result(timeout_seconds=10)
    first, second = seen
    assert first == second
    assert first["cause"] is None and first["context"] is None
    assert first["step_key"] == "boom#0" and first["error_type"] == "ValueError" and first["tries"] == 1
    assert first["is"] == (True, False, True, False)
    assert "no such file" in first["remote"] and "boom" in first["remote"]


def test_a_failure_that_nobody_catches_fails_the_job_and_result_says_where(rig: Rig) -> None:
    @step
    def boom() -> None:
        raise LookupError("gone")

    @workflow
    def job() -> None:
        boom()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed) as caught:
        failed.result(timeout_seconds=10)
    error = caught.value
    assert (error.fields["step_key"], error.fields["error_type"], error.fields["tries"]) == ("boom#0", "LookupError", 1)
    assert any("in boom" in note for note in error.__notes__)
    assert rig.row(failed).status_reason == "failed:LookupError"
    assert [e.type for e in rig.events(failed)][-2:] == ["step_failed", "job_failed"]


def test_a_bare_step_has_one_try(rig: Rig) -> None:
    calls: list[int] = []

    @step
    def boom() -> None:
        calls.append(1)
        raise OSError

    @workflow
    def job() -> None:
        boom()

    with pytest.raises(JobFailed):
        rig.start(job).submit(job).result(timeout_seconds=10)
    assert len(calls) == 1


def test_a_step_that_exits_fails_and_the_engine_goes_on(rig: Rig) -> None:
    @step
    def leave() -> None:
        raise SystemExit(3)

    @workflow
    def job() -> str:
        try:
            leave()
        except StepFailed as error:
            return error.message
        return ""

    engine = rig.start(job)
    assert engine.submit(job).result(timeout_seconds=10) == "SystemExit: 3"
    assert engine.submit(job).result(timeout_seconds=10) == "SystemExit: 3"


def test_an_async_step_that_exits_fails_and_the_engine_goes_on(rig: Rig) -> None:
    @step
    async def leave() -> None:
        raise SystemExit(3)

    @workflow
    async def job() -> str:
        try:
            await leave()
        except StepFailed as error:
            return error.message
        return ""

    engine = rig.start(job)
    assert engine.submit(job).result(timeout_seconds=10) == "SystemExit: 3"
    assert engine.submit(job).result(timeout_seconds=10) == "SystemExit: 3"


def test_a_workflow_that_exits_fails_and_the_engine_goes_on(rig: Rig) -> None:
    @workflow
    def job() -> None:
        raise SystemExit("enough")

    @workflow
    async def ajob() -> None:
        raise KeyboardInterrupt("enough")

    @workflow
    async def cancelled_itself() -> None:
        raise asyncio.CancelledError("enough")

    @workflow
    def good() -> str:
        return "good"

    engine = rig.start(job, ajob, cancelled_itself, good)
    for bad, name in ((job, "SystemExit"), (ajob, "KeyboardInterrupt"), (cancelled_itself, "CancelledError")):
        with pytest.raises(JobFailed, match=name):
            engine.submit(bad).result(timeout_seconds=10)
    assert engine.submit(good).result(timeout_seconds=10) == "good"


def test_an_error_whose_text_cannot_be_made_is_still_a_failure(rig: Rig) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    @step
    def boom() -> None:
        raise Mute

    @step
    def surrogate() -> None:
        raise ValueError("bad \udcff name \0")

    @workflow
    def job() -> list[str]:
        said = []
        for each in (boom, surrogate):
            try:
                each()
            except StepFailed as error:
                said.append(error.message)
        return said

    one, two = rig.start(job).submit(job).result(timeout_seconds=10)
    assert "__str__ raised RuntimeError" in one
    assert "name" in two


# ---------------------------------------------------------------- declared errors


def test_declared_errors_come_back_as_themselves_both_times(rig: Rig) -> None:
    seen: list[Exception] = []

    @step(raises=(CardDeclined, OverLimit))
    def charge(cents: int) -> str:
        raise CardDeclined("no money", cents) if cents < 100 else OverLimit(100, cents)

    @workflow
    def job() -> None:
        for cents in (5, 500):
            try:
                charge(cents)
            except (CardDeclined, OverLimit) as error:
                seen.append(error)
        wait_signal("go", type=str)

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    done.signal("go", "on")
    done.result(timeout_seconds=10)
    assert [type(e) for e in seen] == [CardDeclined, OverLimit] * 2
    assert seen[0].args == seen[2].args == ("no money", 5)
    assert seen[1] == seen[3] == OverLimit(100, 500)
    assert all(error.__cause__ is None for error in seen)


def test_a_declared_error_is_final_and_fails_the_job_as_itself(rig: Rig) -> None:
    calls: list[int] = []

    @step(raises=(CardDeclined,), retry=Retry(tries=5, first_seconds=0))
    def charge() -> str:
        calls.append(1)
        raise CardDeclined("no money")

    @workflow
    def job() -> str:
        return charge()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match=r"CardDeclined: no money"):
        failed.result(timeout_seconds=10)
    assert len(calls) == 1


def test_a_subclass_of_a_declared_error_comes_back_as_stepfailed_both_times(rig: Rig) -> None:
    class Expired(CardDeclined):
        pass

    seen: list[tuple[type, str]] = []

    @step(raises=(CardDeclined,))
    def charge() -> str:
        raise Expired("2019")

    @workflow
    def job() -> None:
        try:
            charge()
        except (CardDeclined, StepFailed) as error:
            seen.append((type(error), str(error)))
        wait_signal("go", type=str)

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    done.signal("go", "on")
    done.result(timeout_seconds=10)
    assert seen[0] == seen[1]


def test_a_declared_error_that_cannot_be_stored_is_a_stepfailed(rig: Rig) -> None:
    @step(raises=(Weird,))
    def boom() -> None:
        raise Weird

    @workflow
    def job() -> str:
        try:
            boom()
        except StepFailed as error:
            return error.error_type
        return ""

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10).endswith("Weird")
    assert rig.steps(done)["boom#0"].state is StepState.FAILED


# ---------------------------------------------------------------- StepError


def test_steperror_says_what_a_failure_means(rig: Rig) -> None:
    calls: list[int] = []

    @step(retry=Retry(tries=5, first_seconds=0))
    def boom() -> None:
        calls.append(1)
        raise StepError("quota", code="E429", retryable=False, details={"left": 0, "per": "day"})

    @workflow
    def job() -> list[Any]:
        try:
            boom()
        except StepFailed as error:
            return [error.error_code, error.details, error.message, error.tries]
        return []

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == ["E429", {"left": 0, "per": "day"}, "quota", 1]
    assert len(calls) == 1


def test_retry_after_replaces_the_schedules_next_pause(rig: Rig) -> None:
    @step(retry=Retry(tries=2, first_seconds=3000))
    def boom() -> str:
        if current_step().try_number == 1:
            raise StepError("later", retry_after_seconds=0.05)
        return "done"

    @workflow
    def job() -> str:
        return boom()

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "done"
    [told] = rig.events(done, "step_retry_scheduled")
    assert '"try":2' in told.payload


def test_details_of_any_kind_do_not_break_the_failure(rig: Rig) -> None:
    loop: list[Any] = []
    loop.append(loop)
    given = [object(), float("nan"), "\udcff", loop, {1: 2}, b"x"]

    @step
    def boom(n: int) -> None:
        raise StepError(f"number {n}", details=given[n])

    @workflow
    def job() -> list[str]:
        said = []
        for n in range(len(given)):
            try:
                boom(n)
            except StepFailed as error:
                said.append(error.message)
        return said

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == [f"number {n}" for n in range(len(given))]


# ---------------------------------------------------------------- tries


def test_a_failed_step_is_tried_again_on_its_schedule(rig: Rig) -> None:
    tries: list[int] = []

    @step(retry=Retry(tries=3, first_seconds=0.01, jitter=False))
    def flaky() -> int:
        tries.append(current_step().try_number)
        if len(tries) < 3:
            raise ConnectionError("again")
        return len(tries)

    @workflow
    def job() -> int:
        return flaky()

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == 3
    assert tries == [1, 2, 3]
    told = ["step_began", "step_failed", "step_retry_scheduled"] * 2 + ["step_began", "step_finished"]
    assert [t for t in rig.told(done) if t.startswith("step_")] == told
    assert rig.steps(done)["flaky#0"].try_number == 3


def test_the_last_failure_is_the_one_that_is_told(rig: Rig) -> None:
    @step(retry=Retry(tries=2, first_seconds=0))
    def flaky() -> int:
        raise (ConnectionError("first") if current_step().try_number == 1 else LookupError("second"))

    @workflow
    def job() -> list[Any]:
        try:
            flaky()
        except StepFailed as error:
            return [error.message, error.tries, error.error_type]
        return []

    assert rig.start(job).submit(job).result(timeout_seconds=10) == ["second", 2, "LookupError"]


@pytest.mark.parametrize(
    "retry, calls_made",
    [
        (Retry(tries=3, first_seconds=0, on=(ValueError,)), 1),
        (Retry(tries=3, first_seconds=0, not_on=(ConnectionError,)), 1),
        (Retry(tries=3, first_seconds=0, on=lambda error: "reset" in str(error)), 3),
        (Retry(tries=3, first_seconds=0, on=lambda error: error.response.status == 503), 1),
        (Retry(tries=5, first_seconds=1, total_seconds=0.5, jitter=False), 1),
    ],
    ids=["other type", "not_on", "predicate", "predicate that raises", "total"],
)
def test_what_is_retried_is_said_by_the_schedule(rig: Rig, retry: Retry, calls_made: int) -> None:
    calls: list[int] = []

    @step(retry=retry)
    def flaky() -> None:
        calls.append(1)
        raise ConnectionError("reset by peer")

    @workflow
    def job() -> str:
        try:
            flaky()
        except StepFailed as error:
            return error.error_type
        return ""

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "ConnectionError"
    assert len(calls) == calls_made
    assert rig.steps(done)["flaky#0"].state is StepState.FAILED


def test_a_long_backoff_is_put_away_and_a_crash_does_not_restart_it(rig: Rig) -> None:
    tries: list[int] = []

    @step(retry=Retry(tries=3, first_seconds=1.2, factor=1, jitter=False))
    def flaky() -> str:
        tries.append(current_step().try_number)
        if len(tries) == 1:
            raise ConnectionError("again")
        return "done"

    @workflow
    def job() -> str:
        return flaky()

    engine = rig.start(job)
    done = engine.submit(job)
    before = rig.until_put_away(done)
    until = rig.steps(done)["flaky#0"].until
    assert before.ready_at == until
    rig.crash(engine)
    engine = rig.start(job)
    assert rig.steps(done)["flaky#0"].until == until
    assert engine.job(done.id).result(timeout_seconds=10) == "done"
    assert tries == [1, 2]
    began = rig.events(done, "step_began")[-1]
    assert until is not None and began.ts >= until


def test_a_crash_in_a_backoff_that_is_kept_in_memory_does_not_restart_it(rig: Rig) -> None:
    tries: list[int] = []

    @step(retry=Retry(tries=3, first_seconds=0.6, factor=1, jitter=False))
    def flaky() -> str:
        tries.append(current_step().try_number)
        if len(tries) == 1:
            raise ConnectionError("again")
        return "done"

    @workflow
    def job() -> str:
        return flaky()

    engine = rig.start(job, suspend_after_seconds=30)
    done = engine.submit(job)
    until = rig.until_recorded(done, "flaky#0", "backoff").until
    engine = rig.restart(engine, job, suspend_after_seconds=30)
    assert engine.job(done.id).result(timeout_seconds=10) == "done"
    assert tries == [1, 2]
    assert rig.steps(done)["flaky#0"].try_number == 2
    assert until is not None and rig.events(done, "step_began")[-1].ts >= until


def test_a_try_cut_by_a_crash_keeps_its_number(rig: Rig) -> None:
    tries: list[int] = []
    in_second, go = threading.Event(), threading.Event()

    @step(retry=Retry(tries=2, first_seconds=0))
    def flaky() -> str:
        tries.append(current_step().try_number)
        if len(tries) == 1:
            raise ConnectionError("again")
        if len(tries) == 2:
            in_second.set()
            wait_for(go)
        return "done"

    @workflow
    def job() -> str:
        return flaky()

    engine = rig.start(job)
    done = engine.submit(job)
    wait_for(in_second)
    eventually(lambda: rig.steps(done)["flaky#0"].try_number == 2)
    engine = rig.restart(engine, job)
    assert engine.job(done.id).result(timeout_seconds=10) == "done"
    go.set()
    assert tries == [1, 2, 2]


def test_retry_of_a_failed_job_runs_only_the_failed_step_again(rig: Rig) -> None:
    calls: list[str] = []
    broken = [True]

    @step
    def first() -> int:
        calls.append("first")
        return 1

    @step(retry=Retry(tries=2, first_seconds=0))
    def second() -> int:
        calls.append("second")
        if broken[0]:
            raise LookupError("a bug")
        return 2

    @step
    def caught() -> int:
        calls.append("caught")
        raise ValueError("as ever")

    @workflow
    def job() -> int:
        try:
            caught()
        except StepFailed:
            calls.append("went on")
        return first() + second()

    engine = rig.start(job)
    failed = engine.submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    assert calls == ["caught", "went on", "first", "second", "second"]
    broken[0] = False
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == 3
    assert calls[5:] == ["went on", "second"]
    row = rig.row(failed)
    assert row.state is JobState.COMPLETED and row.attempt == 2 and row.error is None
    [retried] = rig.events(failed, "job_retried")
    assert (retried.actor, retried.actor_id) == ("human", "ada")


def test_a_bug_in_the_body_is_fixed_and_the_job_goes_on_where_it_stopped(rig: Rig) -> None:
    calls: list[str] = []
    broken = [True]

    @step
    def charge() -> int:
        calls.append("charge")
        return 5

    @workflow
    def job() -> int:
        got = charge()
        if broken[0]:
            raise NameError("a typo")
        return got

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match="NameError: a typo"):
        failed.result(timeout_seconds=10)
    broken[0] = False
    failed.retry()
    assert failed.result(timeout_seconds=10) == 5
    assert calls == ["charge"]


def test_a_declared_error_that_ended_the_job_is_retried_too(rig: Rig) -> None:
    broken = [True]

    @step(raises=(CardDeclined,))
    def charge() -> int:
        if broken[0]:
            raise CardDeclined("no money")
        return 5

    @workflow
    def job() -> int:
        return charge()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    broken[0] = False
    failed.retry()
    assert failed.result(timeout_seconds=10) == 5


def test_a_job_waits_in_backoff_while_other_arms_and_signals_go_on(rig: Rig) -> None:
    @step(retry=Retry(tries=2, first_seconds=0.3, jitter=False))
    async def flaky() -> str:
        if current_step().try_number == 1:
            raise ConnectionError("again")
        return "done"

    @workflow
    async def job() -> list[Any]:
        return list(await asyncio.gather(flaky(), wait_signal.aio("news", type=int), sleep.aio(0.1)))

    done = rig.start(job).submit(job)
    done.signal("news", 7)
    assert done.result(timeout_seconds=10) == ["done", 7, None]


def test_steps_in_finally_run_when_a_job_fails_and_are_not_run_again_by_a_retry(rig: Rig) -> None:
    calls: list[str] = []
    broken = [True]

    @step
    def charge() -> None:
        calls.append("charge")
        if broken[0]:
            raise OSError("no route")

    @step
    def release() -> None:
        calls.append("release")

    @workflow
    def job() -> str:
        try:
            charge()
        finally:
            release()
        return "done"

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed, match="no route"):
        failed.result(timeout_seconds=10)
    assert calls == ["charge", "release"]
    broken[0] = False
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == "done"
    assert calls == ["charge", "release", "charge"]


def test_total_seconds_counts_from_the_first_try_also_after_a_crash(rig: Rig) -> None:
    tries: list[int] = []

    @step(retry=Retry(tries=50, first_seconds=0.4, factor=1, jitter=False, total_seconds=1.0))
    def flaky() -> None:
        tries.append(current_step().try_number)
        raise ConnectionError

    @workflow
    def job() -> None:
        flaky()

    engine = rig.start(job)
    failing = engine.submit(job)
    eventually(lambda: len(tries) == 2)
    engine = rig.restart(engine, job)
    with pytest.raises(JobFailed):
        engine.job(failing.id).result(timeout_seconds=10)
    assert len(tries) <= 4, "0, 0.4, 0.8 s; the one after would be beyond a second"
