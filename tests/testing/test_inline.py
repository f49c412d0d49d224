"""``run_inline``: one call runs a whole job on the real kernel, skips its waits, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relight import (
    Engine,
    Resource,
    Retry,
    ask,
    current_job,
    external,
    now,
    parallel,
    sleep,
    sleep_until,
    start,
    step,
    wait_signal,
    workflow,
)
from relight.errors import (
    BlockingCall,
    InvalidArgument,
    JobFailed,
    NotInJob,
    RegistrationError,
    StepFailed,
    WaitTimeout,
)
from relight.testing import ManualClock, run_inline

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)


@step
def double(n: int) -> int:
    return 2 * n


@step
async def double_async(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


@workflow
def sums(n: int) -> int:
    return double(n) + sum(parallel(double, [1, 2, 3]))


@workflow
async def sums_async(n: int) -> int:
    return sum(await asyncio.gather(double_async(n), *(double_async(i) for i in (1, 2, 3))))


class TestResult:
    @pytest.mark.parametrize("flow", [sums, sums_async], ids=["sync", "async"])
    def test_it_is_what_the_job_returned(self, flow: Any) -> None:
        assert run_inline(flow, 5) == 22

    def test_a_call_with_keyword_arguments_runs_too(self) -> None:
        assert run_inline(sums.bind(n=5)) == 22

    def test_steps_can_be_replaced_in_both_colours(self) -> None:
        async def none(n: int) -> int:
            return 0

        assert run_inline(sums, 5, replace={double: lambda n: 0}) == 0
        assert run_inline(sums_async, 5, replace={double_async: none}) == 0

    def test_resources_can_be_replaced(self) -> None:
        assert run_inline(uses_a_resource, resources={numbers: [7]}) == 7

    def test_the_jobs_failure_is_raised_with_its_traceback(self) -> None:
        with pytest.raises(JobFailed, match=r"breaks .* failed at fails#0: ValueError: no 3") as caught:
            run_inline(breaks, 3)
        assert (caught.value.error_type, caught.value.step_key) == ("ValueError", "fails#0")
        assert any("def fails" in note or "in fails" in note for note in caught.value.__notes__)

    def test_children_run_though_nobody_registered_them(self) -> None:
        assert run_inline(parent, 4) == 0 + 2 + 4 + 6

    def test_a_childs_failure_reaches_its_parent(self) -> None:
        with pytest.raises(JobFailed, match="breaks"):
            run_inline(parent_of_a_broken_child)

    def test_what_is_no_workflow_is_refused(self) -> None:
        with pytest.raises(RegistrationError, match="not a workflow"):
            run_inline(len)
        with pytest.raises(InvalidArgument, match="signals="):
            run_inline(sums, 1, signals=["go"])  # type: ignore[arg-type]


numbers: Resource[list[int]] = Resource(list)


@step
def first_number() -> int:
    return numbers()[0]


@workflow
def uses_a_resource() -> int:
    return first_number()


@step
def fails(n: int) -> int:
    raise ValueError(f"no {n}")


@workflow
def breaks(n: int) -> int:
    return fails(n)


@workflow
def child(n: int) -> int:
    return double(n)


@workflow
def parent(n: int) -> int:
    return sum(each.result() for each in start(child.bind(i) for i in range(n)))


@workflow
def parent_of_a_broken_child() -> int:
    return start(breaks, 1).result()


@workflow
def sleeper(until: datetime) -> datetime:
    sleep_until(until)
    return now()


@workflow
async def sleeper_async(seconds: float) -> float:
    began = now()
    await asyncio.gather(sleep.aio(seconds), sleep.aio(seconds / 2))
    return (now() - began).total_seconds()


@workflow
def weeks(n: int) -> int:
    for _ in range(n):
        sleep(7 * 86_400)
    return n


tries: list[datetime] = []


@step(retry=Retry(tries=4, first_seconds=600, factor=2, jitter=False, max_seconds=3600))
def flaky() -> str:
    tries.append(now())
    if len(tries) < 4:
        raise ConnectionError("not yet")
    return "done"


@workflow
def patient() -> str:
    return flaky()


class TestTime:
    def test_a_sleep_of_years_takes_no_time(self) -> None:
        clock = ManualClock()
        until = clock.now() + timedelta(days=3650)
        woke = run_inline(sleeper, until, clock=clock)
        assert until <= woke < until + timedelta(minutes=1)
        assert clock.now() >= woke

    def test_waits_side_by_side_end_with_the_longest(self) -> None:
        assert 7200 <= run_inline(sleeper_async, 7200) < 7260

    def test_a_moment_that_has_passed_is_not_waited_for(self) -> None:
        assert run_inline(sleeper, LONG_AGO) > LONG_AGO

    def test_waits_of_more_than_a_day_are_put_away_and_replayed(self) -> None:
        assert run_inline(weeks, 5) == 5

    def test_pauses_between_tries_are_skipped_and_seen_by_the_clock_in_steps(self) -> None:
        tries.clear()
        assert run_inline(patient) == "done"
        pauses = [(b - a).total_seconds() for a, b in itertools.pairwise(tries)]
        assert [round(pause, -1) for pause in pauses] == [600, 1200, 2400]

    def test_a_clock_that_does_not_skip_goes_as_it_goes(self) -> None:
        clock = ManualClock(skip=False)
        assert run_inline(sleeper, clock.now() + timedelta(milliseconds=30), clock=clock) <= clock.now()


@workflow
def waits(name: str) -> str:
    return wait_signal(name, type=str)


@workflow
async def waits_async(names: list[str]) -> list[str]:
    return [await wait_signal.aio(name, type=str) for name in names]


@workflow
def looks() -> bool:
    return wait_signal("stop", type=bool, timeout_seconds=0, default=False)


@workflow
def waits_in_a_child() -> list[str]:
    one, two = start(waits, "go"), start(waits, "go")
    return [one.result(), two.result(), wait_signal("go", type=str)]


@workflow
def limited() -> str:
    began = now()
    word = wait_signal("word", type=str, timeout_seconds=3600, default="none")
    return f"{word} after {(now() - began).total_seconds() // 60:g} min"


class TestSignals:
    def test_one_is_there_when_it_is_asked_for(self) -> None:
        assert run_inline(waits, "go", signals={"go": "yes", "other": 1}) == "yes"

    def test_one_is_there_before_the_job_looks(self) -> None:
        assert run_inline(looks, signals={"stop": True}) is True
        assert run_inline(looks) is False

    def test_each_child_gets_one_of_its_own(self) -> None:
        assert run_inline(waits_in_a_child, signals={"go": "yes"}) == ["yes", "yes", "yes"]

    def test_an_iterator_gives_one_for_each_wait(self) -> None:
        words = iter(["a", "b", "c"])
        assert run_inline(waits_async, ["w", "w", "w"], signals={"w": words}) == ["a", "b", "c"]

    def test_one_that_never_comes_runs_into_the_waits_limit(self) -> None:
        assert run_inline(limited) == "none after 60 min"
        assert run_inline(limited, signals={"word": "yes"}) == "yes after 0 min"

    def test_a_wait_that_can_never_end_is_named_with_what_would_end_it(self) -> None:
        with pytest.raises(WaitTimeout, match=r'waits for the signal "paid".*signals=\{"paid": …\} \(given: payed'):
            run_inline(waits, "paid", signals={"payed": 1})
        with pytest.raises(WaitTimeout, match=r'signal "w".*an iterator once for each wait'):
            run_inline(waits_async, ["w", "w"], signals={"w": "once"})


@workflow
def asks(times: int) -> list[str]:
    answers = [ask("Send it?") for _ in range(times)]
    assert all(answer.by == "run_inline" for answer in answers)
    return [answer.choice for answer in answers]


@workflow
async def asks_async() -> str:
    return (await ask.aio("Send it?", timeout_seconds=86_400, on_timeout="reject")).choice


class TestAnswers:
    def test_a_question_is_answered_each_time_it_is_asked(self) -> None:
        assert run_inline(asks, 2, answers={"Send it?": "approve"}) == ["approve", "approve"]

    def test_one_that_nobody_answers_runs_into_its_limit(self) -> None:
        assert run_inline(asks_async) == "reject"
        assert run_inline(asks_async, answers={"Send it?": "approve"}) == "approve"

    def test_one_that_nobody_can_answer_is_named_with_its_choices(self) -> None:
        with pytest.raises(WaitTimeout, match=r"answers=\{'Send it\?': 'approve \| reject'\} \(given: 'Send\?'\)"):
            run_inline(asks, 1, answers={"Send?": "approve"})

    def test_an_answer_that_is_no_choice_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match="approve, reject"):
            run_inline(asks, 1, answers={"Send it?": "yes"})


@workflow
def scans(times: int) -> list[str]:
    return [external("scan", type=str, heartbeat_seconds=300).wait() for _ in range(times)]


@workflow
async def scans_async() -> str:
    try:
        return await external("scan", type=str, timeout_seconds=3600).wait.aio()
    except (StepFailed, WaitTimeout) as error:
        return str(error).partition(". ")[0]


@workflow
def scans_forever() -> str:
    return external("scan", type=str).wait()


@workflow
def scans_in_children() -> list[str]:
    return [child.result() for child in start(scans_async.bind() for _ in range(2))]


class TestTokens:
    def test_a_value_completes_every_token_of_its_name(self) -> None:
        assert run_inline(scans, 2, tokens={"scan": "clean", "other": 1}) == ["clean", "clean"]
        assert run_inline(scans_in_children, tokens={"scan": "clean"}) == ["clean", "clean"]

    def test_an_exception_fails_it(self) -> None:
        assert "no such file" in run_inline(scans_async, tokens={"scan": ValueError("no such file")})

    def test_an_iterator_gives_one_for_each_token(self) -> None:
        assert run_inline(scans, 2, tokens={"scan": iter(["a", "b"])}) == ["a", "b"]

    def test_a_function_says_what_happens_meanwhile(self) -> None:
        clock = ManualClock()
        began = clock.now()

        def scanner(engine: Engine, token: str) -> None:
            for part in range(4):
                clock.advance(200)
                engine.heartbeat(token, f"part {part}")
            engine.complete(token, "late but alive")

        assert run_inline(scans, 1, tokens={"scan": scanner}, clock=clock) == ["late but alive"]
        assert (clock.now() - began).total_seconds() >= 800

    def test_a_function_that_goes_quiet_lets_the_limit_pass(self) -> None:
        with pytest.raises(JobFailed, match="fell silent"):
            run_inline(scans, 1, tokens={"scan": lambda engine, token: engine.heartbeat(token)})

    def test_what_a_function_raises_reaches_the_test(self) -> None:
        def broken(engine: Engine, token: str) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_inline(scans, 1, tokens={"scan": broken})

    def test_one_that_never_comes_runs_into_its_limit(self) -> None:
        assert "in time" in run_inline(scans_async)

    def test_a_token_that_nobody_serves_is_named_with_what_would_serve_it(self) -> None:
        with pytest.raises(WaitTimeout, match=r'"scan".*tokens=\{"scan": …\} \(given: skan; an iterator'):
            run_inline(scans_forever, tokens={"skan": "clean"})
        with pytest.raises(WaitTimeout, match=r'tokens=\{"scan": …\}'):
            run_inline(scans_forever, tokens={"scan": iter(())})

    def test_a_value_of_another_type_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match="scan"):
            run_inline(scans_forever, tokens={"scan": 5})
        with pytest.raises(InvalidArgument, match="tokens="):
            run_inline(scans_forever, tokens=["scan"])  # type: ignore[call-overload]


@workflow
def where() -> tuple[str, int]:
    return current_job().kind, current_job().attempt


class TestAround:
    def test_nothing_is_left_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        before = set(threading.enumerate())
        run_inline(sums, 1)
        run_inline(sums_async, 1)
        with pytest.raises(WaitTimeout):
            run_inline(waits, "go")
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert set(threading.enumerate()) <= before
        assert list(tmp_path.iterdir()) == []

    def test_settings_of_the_environment_are_not_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RELIGHT_CONSUME", "gpu")
        monkeypatch.setenv("RELIGHT_STORE", "postgresql://nowhere/x")
        assert run_inline(where) == ("where", 1)

    def test_on_an_event_loop_it_says_what_to_do(self) -> None:
        async def inside() -> int:
            with pytest.raises(BlockingCall, match=r"await asyncio\.to_thread\(run_inline"):
                run_inline(sums, 1)
            return await asyncio.to_thread(run_inline, sums, 5)

        assert asyncio.run(inside()) == 22

    @pytest.mark.parametrize("call", [lambda: sleep(1), lambda: ask("?"), lambda: start(child, 1), lambda: sums(1)])
    def test_what_works_only_in_a_job_names_it(self, call: Any) -> None:
        with pytest.raises(NotInJob, match=r"In tests: relight\.testing\.run_inline"):
            call()
