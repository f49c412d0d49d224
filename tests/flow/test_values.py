"""What a job's code may ask about: time, chance, ids, itself, its progress; the same on every replay."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import (
    cancelled,
    cleanup,
    current_job,
    current_step,
    heartbeat,
    log,
    now,
    parallel,
    rng,
    sleep,
    start,
    step,
    uuid7,
    wait_signal,
    workflow,
)
from relight.errors import NotInJob, NotInStep
from relight.logs import JobFilter


@step
def one() -> int:
    return 1


def test_now_is_recorded_and_rng_and_uuid7_are_derived(rig: Rig) -> None:
    seen: list[tuple[datetime, float, uuid.UUID]] = []

    @workflow
    def job() -> None:
        seen.append((now(), rng().random(), uuid7()))
        seen.append((now(), rng().random(), uuid7()))
        sleep(0.1)

    done = rig.start(job).submit(job)
    done.result(timeout_seconds=10)
    assert seen[:2] == seen[2:] and len(seen) == 4
    assert seen[0] != seen[1] and seen[0][1] != seen[1][1] and seen[0][2] != seen[1][2]
    assert all(when.tzinfo is not None for when, _, _ in seen)
    assert sorted(rig.steps(done)) == ["now#0", "now#1", "sleep#0"]
    assert seen[0][2].version == 7 and str(seen[0][2])[:13] == done.id[:13]


def test_now_works_in_async_bodies_and_in_arms(rig: Rig) -> None:
    seen: list[list[Any]] = []

    async def line() -> Any:
        return [now(), uuid7()]

    @workflow
    async def job() -> None:
        seen.append(list(await asyncio.gather(line(), line())))
        await sleep.aio(0.1)

    @workflow
    def sync_job() -> None:
        seen.append(parallel(lambda n: [now(), uuid7()], [1, 2]))
        sleep(0.1)

    engine = rig.start(job, sync_job)
    for each in (job, sync_job):
        seen.clear()
        engine.submit(each).result(timeout_seconds=10)
        assert seen[0] == seen[1] and seen[0][0] != seen[0][1]


def test_two_jobs_draw_differently(rig: Rig) -> None:
    @workflow
    def job() -> list[Any]:
        return [rng().random(), str(uuid7())]

    engine = rig.start(job)
    one, two = engine.submit(job), engine.submit(job)
    assert one.result(timeout_seconds=10) != two.result(timeout_seconds=10)


def test_now_is_durable_before_the_next_step_is_called(rig: Rig) -> None:
    seen: list[str] = []

    @step
    def look(job_id: str) -> None:
        seen.extend(sorted(rig.steps(job_id)))

    @step(in_doubt="ask")
    def matters(job_id: str) -> None:
        look.__wrapped__(job_id)

    @workflow
    def job() -> None:
        now()
        matters(current_job().id)

    rig.start(job).submit(job).result(timeout_seconds=10)
    assert seen == ["matters#0", "now#0"]


def test_outside_a_job_time_and_chance_are_plain() -> None:
    before = datetime.now(UTC)
    assert before - timedelta(seconds=1) <= now() <= before + timedelta(seconds=60)
    assert rng().random() != rng().random()
    assert uuid7() != uuid7() and uuid7().version == 7
    assert cancelled() is False
    heartbeat(done=1)
    log.info("nothing happens")


@pytest.mark.parametrize(
    "call",
    [
        lambda: sleep(1),
        lambda: asyncio.run(sleep.aio(1)),
        lambda: wait_signal("x", type=int),
        lambda: start(workflow(lambda: None)),
        lambda: parallel(one, [1]),
        lambda: current_job(),
        lambda: cleanup().__enter__(),
    ],
    ids=["sleep", "sleep.aio", "wait_signal", "start", "parallel", "current_job", "cleanup"],
)
def test_outside_a_job_what_belongs_inside_is_refused(call: Any) -> None:
    with pytest.raises(NotInJob, match=r"only inside a job.*run_inline"):
        call()


def test_current_step_is_for_steps_only(rig: Rig) -> None:
    with pytest.raises(NotInStep):
        current_step()

    @workflow
    def job() -> str:
        try:
            current_step()
        except NotInStep as error:
            return error.code
        return ""

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "not_in_step"


@pytest.mark.parametrize("name", ["sleep", "wait_signal", "parallel", "start"])
def test_what_belongs_in_the_workflow_is_refused_in_a_step(rig: Rig, name: str) -> None:
    @step
    def wrong() -> str:
        try:
            match name:
                case "sleep":
                    sleep(1)
                case "wait_signal":
                    wait_signal("x", type=int)
                case "parallel":
                    parallel(one, [1])
                case _:
                    start(job)
        except NotInJob as error:
            return str(error)
        return ""

    @workflow
    def job() -> str:
        return wrong()

    assert "belongs in the workflow, not in step wrong#0" in rig.start(job).submit(job).result(timeout_seconds=10)


def test_a_job_knows_itself(rig: Rig) -> None:
    seen: list[Any] = []

    @step
    def look() -> None:
        seen.append((current_job(), current_step()))

    @workflow
    def job() -> None:
        seen.append(current_job())
        look()
        sleep(0.1)

    done = rig.start(job).submit(job, tags={"order": "o-17"}, deadline_seconds=600)
    done.result(timeout_seconds=10)
    first, (in_step, its_step), second = seen
    row = rig.row(done)
    assert (first.id, first.kind, first.attempt, first.tags) == (done.id, "job", 1, {"order": "o-17"})
    assert first.trace_id == row.trace_id and first.deadline is not None
    assert first.replaying is False and second.replaying is True
    assert first.run_id != second.run_id and in_step.id == done.id
    assert (its_step.key, its_step.name, its_step.try_number) == ("look#0", "look", 1)


@contextlib.contextmanager
def heard(name: str = "relight.job") -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger(name)
    ear, level = Ear(), logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)


@pytest.mark.parametrize("key", [None, "k"], ids=["ordinal", "explicit key"])
def test_log_is_silent_while_a_body_is_replayed(rig: Rig, key: str | None) -> None:
    @step
    def noisy(n: int) -> int:
        log.info("in step %d", n)
        return n

    @workflow
    def job() -> None:
        log.info("before")
        noisy.options(key=key)(1)
        log.info("between")
        wait_signal("go", type=int)
        log.info("after")

    with heard() as records:
        done = rig.start(job).submit(job)
        rig.until_put_away(done)
        done.signal("go", 1)
        done.result(timeout_seconds=10)
    assert [record.getMessage() for record in records] == ["before", "in step 1", "between", "after"]
    assert {record.job_id for record in records} == {done.id}  # type: ignore[attr-defined]
    assert [record.step_key for record in records][1] == ("noisy[k]" if key else "noisy#0")  # type: ignore[attr-defined]


def test_a_filter_does_the_same_for_a_logger_of_ones_own(rig: Rig) -> None:
    mine = logging.getLogger("somebody.else")
    watched = JobFilter()

    @step
    def noisy() -> None:
        mine.info("in a step")

    @workflow
    def job() -> None:
        mine.info("before")
        noisy()
        wait_signal("go", type=int)
        mine.info("after", extra={"job_kind": "mine"})

    with heard("somebody.else") as records:
        logging.getLogger("somebody.else").addFilter(watched)
        try:
            mine.info("outside")
            done = rig.start(job).submit(job)
            rig.until_put_away(done)
            done.signal("go", 1)
            done.result(timeout_seconds=10)
        finally:
            mine.removeFilter(watched)
    told = [(r.getMessage(), r.job_id, r.job_kind, r.step_key) for r in records]  # type: ignore[attr-defined]
    assert told == [
        ("outside", None, None, None),
        ("before", done.id, "job", None),
        ("in a step", done.id, "job", "noisy#0"),
        ("after", done.id, "mine", None),
    ]


def test_log_is_silent_in_each_arm_until_that_arm_comes_to_something_new(rig: Rig) -> None:
    def arm(n: int) -> int:
        log.info("before %d", n)
        one()
        log.info("after %d", n)
        return wait_signal("go", type=int) if n == 0 else n

    @workflow
    def job() -> list[int]:
        log.info("start")
        got = parallel(arm, range(3), limit=1)
        log.info("end")
        return got

    with heard() as records:
        done = rig.start(job).submit(job)
        rig.until_put_away(done)
        done.signal("go", 7)
        assert done.result(timeout_seconds=10) == [7, 1, 2]
    said = [record.getMessage() for record in records]
    assert said == ["start", "before 0", "after 0", "before 1", "after 1", "before 2", "after 2", "end"]


def test_a_heartbeat_is_the_jobs_progress(rig: Rig) -> None:
    told, go = threading.Event(), threading.Event()

    @step
    def work() -> None:
        heartbeat(done=3, total=10, note="three of ten")
        told.set()
        wait_for(go)
        heartbeat(done=10, total=10)

    @workflow
    def job() -> None:
        work()

    done = rig.start(job).submit(job)
    wait_for(told)
    progress = eventually(lambda: done.info().progress)
    assert (progress.done, progress.total, progress.note) == (3, 10, "three of ten")
    assert progress.at.tzinfo is not None
    go.set()
    done.result(timeout_seconds=10)


def test_the_note_of_a_failed_try_is_there_for_the_next_one(rig: Rig) -> None:
    from relight import Retry

    @step(retry=Retry(tries=2, first_seconds=0))
    def work() -> str | None:
        if current_step().try_number == 1:
            heartbeat(note="at row 17")
            raise OSError
        return current_step().last_note

    @workflow
    def job() -> str | None:
        return work()

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "at row 17"


def test_cancelled_is_false_until_the_job_is_asked_to_end(rig: Rig) -> None:
    seen: list[bool] = []
    looked = threading.Event()

    @step
    def work() -> None:
        seen.append(cancelled())
        looked.set()
        eventually(cancelled)
        seen.append(cancelled())

    @workflow
    def job() -> None:
        work()
        one()

    done = rig.start(job).submit(job)
    wait_for(looked)
    done.cancel()
    rig.until(done, "cancelled")
    assert seen == [False, True]
