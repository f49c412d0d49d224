"""What a job says while it runs: published values, issues, progress, notes of its tries; and one of several signals."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import (
    AsyncEngine,
    Job,
    Retry,
    Secret,
    current_step,
    heartbeat,
    issue,
    parallel,
    publish,
    sleep,
    step,
    wait_signal,
    workflow,
)
from relight.errors import InvalidArgument, JobFailed, NotFound, NotInJob, PayloadError, StepError, WaitTimeout
from relight.model import JobState, StepState

# ---------------------------------------------------------------- publish


@dataclass
class Part:
    text: str
    key: Secret | None = None


def test_the_latest_value_is_read_while_the_job_runs_and_after(rig: Rig) -> None:
    go = threading.Event()

    @step
    def pause() -> None:
        go.wait(20)

    @workflow
    def job() -> None:
        publish("part", Part("a"))
        publish("part", Part("b", Secret("env:X")))
        pause()
        publish("part", Part("c"))

    engine = rig.start(job)
    submitted = engine.submit(job)
    eventually(lambda: submitted.published("part", type=Part, timeout_seconds=10) == Part("b", Secret("env:X")))
    assert rig.client().job(submitted.id).published("part", type=dict, timeout_seconds=1)["key"] == {"$secret": "env:X"}
    go.set()
    submitted.result(timeout_seconds=10)
    assert submitted.published("part", type=Part) == Part("c")
    payloads = [msgspec.json.decode(event.payload) for event in rig.events(submitted, "published")]
    assert [sorted(payload) for payload in payloads] == [["name", "value_bytes", "value_hash"]] * 3


def test_a_replay_does_not_bring_an_older_value_back(rig: Rig) -> None:
    @workflow
    async def job() -> None:
        publish("n", 1)
        await sleep.aio(0.05)
        publish("n", 2)
        await wait_signal.aio("go", type=None)

    engine = rig.start(job)
    submitted = engine.submit(job)
    eventually(lambda: submitted.published("n", type=int, timeout_seconds=10) == 2)
    rig.until_put_away(submitted)
    engine = rig.restart(engine, job)
    submitted = engine.job(submitted.id)
    submitted.signal("go")
    submitted.result(timeout_seconds=10)
    with rig.reading() as reads:
        assert reads.published(submitted.id, "n") == "2"
    assert len(rig.events(submitted, "published")) == 2


def test_a_step_publishes_as_it_goes(rig: Rig) -> None:
    go = threading.Event()

    @step
    def write() -> str:
        said = ""
        for word in ("once", " upon", " a time"):
            said += word
            publish("text", said)
        go.wait(20)
        return said

    @workflow
    def job() -> str:
        return write()

    engine = rig.start(job)
    submitted = engine.submit(job)
    eventually(lambda: submitted.published("text", type=str, timeout_seconds=10) == "once upon a time")
    go.set()
    assert submitted.result(timeout_seconds=10) == "once upon a time"
    assert [event.step_key for event in rig.events(submitted, "published")] == ["write#0"] * 3


def test_what_is_not_there_is_waited_for_and_then_told(rig: Rig) -> None:
    @workflow
    def job() -> None:
        wait_signal("go", type=None)
        publish("late", 1)

    engine = rig.start(job)
    submitted = engine.submit(job)
    rig.until_put_away(submitted)
    with pytest.raises(WaitTimeout, match="waits for the signal"):
        submitted.published("late", type=int, timeout_seconds=0)
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(submitted.published("late", type=int)))
    waiting.start()
    submitted.signal("go")
    waiting.join(20)
    assert found == [1]
    submitted.result(timeout_seconds=10)
    with pytest.raises(NotFound, match="never published"):
        submitted.published("other", type=int, timeout_seconds=60)
    with pytest.raises(NotFound):
        engine.job("no-such-job").published("late", type=int, timeout_seconds=60)
    with pytest.raises(PayloadError):
        submitted.published("late", type=str)


def test_the_async_handle_waits_without_blocking_its_loop(rig: Rig) -> None:
    @workflow
    async def job() -> None:
        await wait_signal.aio("go", type=None)
        publish("late", "x" * 300_000)

    async def main() -> None:
        async with AsyncEngine(rig.path, workflows=[job], durability="process") as engine:
            submitted = await engine.submit(job)
            with pytest.raises(WaitTimeout):
                await submitted.published("late", type=str, timeout_seconds=0.05)
            waiting = asyncio.create_task(submitted.published("late", type=str))
            await submitted.signal("go")
            assert len(await waiting) == 300_000
            await submitted.result(timeout_seconds=10)

    asyncio.run(main())


def test_what_cannot_be_stored_is_refused_at_once(rig: Rig) -> None:
    with pytest.raises(NotInJob):
        publish("x", 1)

    @workflow
    def job() -> None:
        publish("x", object())

    with pytest.raises(JobFailed, match="published 'x'"):
        rig.start(job).submit(job).result(timeout_seconds=10)


# ---------------------------------------------------------------- issue


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_job_with_issues_completes_with_them_once_whatever_is_replayed(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> str:
        issue("no_ocr", "page 17 is an image")
        sleep(0.05)
        issue("no_ocr")
        return "done"

    @workflow(name="job")
    async def ajob() -> str:
        issue("no_ocr", "page 17 is an image")
        await sleep.aio(0.05)
        issue("no_ocr")
        return "done"

    wanted = job if colour == "sync" else ajob
    submitted = rig.start(wanted).submit(wanted)
    assert submitted.result(timeout_seconds=10) == "done"
    assert submitted.state() == JobState.COMPLETED_WITH_ISSUES
    assert msgspec.json.decode(rig.row(submitted).issues or "") == [
        {"code": "no_ocr", "detail": "page 17 is an image"},
        {"code": "no_ocr"},
    ]
    assert "completed with 2 issues" in submitted.info().summary
    why = submitted.why()
    assert why.causes[0].code == "issues" and "no_ocr (page 17 is an image)" in why.causes[0].detail
    assert rig.told(submitted, "job_completed", "job_completed_with_issues") == ["job_completed_with_issues"]


def test_issues_of_arms_all_count_and_a_step_has_none(rig: Rig) -> None:
    @step
    def wrong() -> None:
        issue("inside")

    def arm(n: int) -> int:
        issue("odd", str(n))
        return n

    @workflow
    def job() -> None:
        parallel(arm, [1, 2, 3])

    @workflow
    def fails() -> None:
        issue("first")
        wrong()

    engine = rig.start(job, fails)
    submitted = engine.submit(job)
    submitted.result(timeout_seconds=10)
    found = msgspec.json.decode(rig.row(submitted).issues or "")
    assert sorted(each["detail"] for each in found) == ["1", "2", "3"]
    failed = engine.submit(fails)
    with pytest.raises(JobFailed, match="belongs in the workflow"):
        failed.result(timeout_seconds=10)
    assert failed.state() == JobState.FAILED


# ---------------------------------------------------------------- progress and notes


def test_progress_is_shown_with_how_long_the_rest_takes(rig: Rig) -> None:
    go, told = threading.Event(), threading.Event()

    @step
    def extract() -> None:
        for n in range(3001):
            heartbeat(done=n, total=5000, note="extract")
            if n == 0:
                threading.Event().wait(0.05)  # a pace needs two moments
        told.set()
        go.wait(20)

    @workflow
    def job() -> None:
        extract()

    engine = rig.start(job)
    submitted = engine.submit(job)
    wait_for(told)
    progress = eventually(lambda: (p := submitted.info().progress) is not None and p.done == 3000 and p)
    assert (progress.done, progress.total, progress.note) == (3000, 5000, "extract")
    summary = submitted.why().summary
    assert "runs: extract 3,000 of 5,000, last progress" in summary
    assert "ago, engine engine-" in summary
    told_by_row = msgspec.json.decode(rig.row(submitted).progress or "")
    assert told_by_row["from_done"] == 0 and told_by_row["at"] > told_by_row["from_at"]
    go.set()
    submitted.result(timeout_seconds=10)
    assert submitted.info().progress is not None


def test_the_last_word_before_the_end_is_kept(rig: Rig) -> None:
    @step
    def quick() -> None:
        for n in range(1, 500):
            heartbeat(done=n, total=499)

    @workflow
    def job() -> None:
        quick()

    submitted = rig.start(job).submit(job)
    submitted.result(timeout_seconds=10)
    progress = submitted.info().progress
    assert progress is not None and progress.done == 499


def test_a_try_reads_what_the_one_before_it_said(rig: Rig) -> None:
    seen: list[str | None] = []

    @step(retry=Retry(tries=3, first_seconds=0.01))
    def pages() -> None:
        seen.append(current_step().last_note)
        heartbeat(note=f"page {len(seen)}")
        heartbeat()
        if len(seen) < 3:
            raise StepError("again")

    @workflow
    def job() -> None:
        pages()

    submitted = rig.start(job).submit(job)
    submitted.result(timeout_seconds=10)
    assert seen == [None, "page 1", "page 2"]


def test_what_a_try_said_outlives_a_crash(rig: Rig) -> None:
    seen: list[str | None] = []
    said, dead = threading.Event(), threading.Event()

    @step
    def pages() -> None:
        seen.append(current_step().last_note)
        if len(seen) == 1:
            heartbeat(note="page 17")
            said.set()
            dead.wait(20)

    @workflow
    def job() -> None:
        pages()

    engine = rig.start(job)
    submitted = engine.submit(job)
    wait_for(said)
    eventually(lambda: rig.steps(submitted).get("pages#0") and rig.steps(submitted)["pages#0"].note == "page 17")
    engine = rig.restart(engine, job)
    dead.set()
    engine.job(submitted.id).result(timeout_seconds=10)
    assert seen == [None, "page 17"]


def test_a_step_that_promised_signs_of_life_and_gives_none_is_told(rig: Rig) -> None:
    go = threading.Event()

    @step(heartbeat_seconds=0.05)
    def quiet() -> None:
        heartbeat(note="page 1")
        go.wait(20)

    @workflow
    def job() -> None:
        quiet()

    submitted = rig.start(job).submit(job)
    why = eventually(lambda: (w := submitted.why()).causes[0].code == "silent_step" and w)
    assert "makes no progress: quiet#0 has been silent for" in why.summary
    assert "it was to give a sign of life every 50 ms" in why.summary
    go.set()
    submitted.result(timeout_seconds=10)


# ---------------------------------------------------------------- one of several signals


@dataclass
class Paid:
    cents: int


@workflow(name="either")
def either() -> list[Any]:
    found = []
    for _ in range(3):
        got = wait_signal("paid", "cancelled")
        found.append([got.name, got.by, got.payload(Paid).cents if got.name == "paid" else got.payload(str)])
    return found


@workflow(name="either")
async def aeither() -> list[Any]:
    found = []
    for _ in range(3):
        got = await wait_signal.aio("paid", "cancelled")
        found.append([got.name, got.by, got.payload(Paid).cents if got.name == "paid" else got.payload(str)])
    return found


@pytest.mark.parametrize("flow", [either, aeither], ids=["sync", "async"])
@pytest.mark.parametrize("keep", [0, 5], ids=["put away", "in memory"])
def test_the_first_of_several_signals_is_read_whatever_its_name(rig: Rig, flow: Any, keep: float) -> None:
    engine = rig.start(flow, suspend_after_seconds=keep)
    submitted: Job[Any] = engine.submit(flow)
    submitted.signal("cancelled", "late", by="ann")
    submitted.signal("paid", Paid(7), by="bank")
    key = "signal:paid|cancelled#2"
    rig.until_recorded(submitted, key, "waiting")
    if not keep:
        rig.until_put_away(submitted)
    why = submitted.why()
    assert len(why.causes) == 1
    assert 'waits for the signal "paid" or "cancelled"' in why.summary
    submitted.signal("cancelled", "again", by="ben")
    assert submitted.result(timeout_seconds=10) == [
        ["cancelled", "ann", "late"],
        ["paid", "bank", 7],
        ["cancelled", "ben", "again"],
    ]
    assert {step.state for step in rig.steps(submitted).values()} == {StepState.COMPLETED}


def test_a_look_at_several_signals_does_not_wait(rig: Rig) -> None:
    @workflow
    def job() -> list[object]:
        first = wait_signal("a", "b", timeout_seconds=0, default=None)
        sleep(0.05)
        second = wait_signal("a", "b", timeout_seconds=0, default=None)
        return [first, second.name if second else None]

    engine = rig.start(job)
    submitted = engine.submit(job)
    rig.until_recorded(submitted, "sleep#0")
    submitted.signal("b")
    assert submitted.result(timeout_seconds=10) == [None, "b"]


def test_several_signals_run_out_of_time_together(rig: Rig) -> None:
    @workflow
    async def job() -> str:
        try:
            await wait_signal.aio("a", "b", timeout_seconds=0.05)
        except WaitTimeout as late:
            return late.summary
        return "came"

    submitted = rig.start(job).submit(job)
    assert submitted.result(timeout_seconds=10) == "waited for signal 'a' or 'b'"
    submitted_steps = rig.steps(submitted)
    assert {s.state for s in submitted_steps.values()} == {StepState.COMPLETED}


def test_a_wait_that_a_sibling_ends_leaves_no_row_that_wakes_it(rig: Rig) -> None:
    @workflow
    async def job() -> str:
        async def fails() -> None:
            await sleep.aio(0.05)
            raise ValueError("enough")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(wait_signal.aio("a", "b"))  # type: ignore[arg-type]
        except* ValueError:
            pass
        return await wait_signal.aio("go", type=str)

    engine = rig.start(job)
    submitted = engine.submit(job)
    rig.until_recorded(submitted, "signal:go#0", "waiting")
    rig.until_put_away(submitted)
    waits = {key: s.state for key, s in rig.steps(submitted).items() if "a|b" in key}
    assert len(waits) == 2 and set(waits.values()) == {StepState.ABANDONED}
    submitted.signal("b")
    submitted.signal("go", "on")
    assert submitted.result(timeout_seconds=10) == "on"
    assert '1 signal was never read: "b"' in submitted.why().summary


def test_a_payload_is_checked_by_its_sender_while_a_wait_for_it_is_open(rig: Rig) -> None:
    @workflow
    def job() -> int:
        return wait_signal("paid", type=Paid).cents

    engine = rig.start(job)
    submitted = engine.submit(job)
    rig.until_recorded(submitted, "signal:paid#0", "waiting")
    for handle in (submitted, rig.client().job(submitted.id)):
        with pytest.raises(InvalidArgument, match="payload of signal 'paid' .*does not fit .*Paid"):
            handle.signal("paid", {"cents": "many"})
    submitted.signal("paid", {"cents": 3})
    assert submitted.result(timeout_seconds=10) == 3
    assert len(rig.events(submitted, "signal_sent")) == 1


def test_it_says_what_is_wrong_with_it(rig: Rig) -> None:
    refused: list[str] = []

    @workflow
    def job() -> None:
        for names, more in ((("a",), {}), (("a", "b"), {"type": int}), (("a", "a"), {}), ((), {"type": int})):
            try:
                wait_signal(*names, **more)  # type: ignore[call-overload]
            except InvalidArgument as error:
                refused.append(str(error))

    rig.start(job).submit(job).result(timeout_seconds=10)
    assert len(refused) == 4
