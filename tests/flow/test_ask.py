"""Asking a person: the question is durable, its preview bound to the answer, and every way it can end is one of ours."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import pytest
from tests.flow.kit import Rig, eventually

from relight import ask, sleep, step, wait_signal, workflow
from relight.clock import to_datetime
from relight.errors import Conflict, InvalidArgument, JobFailed, WaitTimeout
from relight.model import Decision, JobState


@workflow(name="job")
def asking() -> list[str]:
    got = ask("Send it?")
    return [got.choice, got.by, got.note or ""]


@workflow(name="job")
async def aasking() -> list[str]:
    got = await ask.aio("Send it?")
    return [got.choice, got.by, got.note or ""]


@pytest.mark.parametrize("job", [asking, aasking], ids=["sync", "async"])
def test_a_question_waits_for_a_person_and_gives_the_decision(rig: Rig, job: object) -> None:
    done = rig.start(job).submit(job)  # type: ignore[call-overload]
    row = rig.until(done, JobState.AWAITING_USER)
    assert row.status_reason == "awaiting_user"
    [told] = rig.events(done, "job_awaiting_user")
    assert '"Send it?"' in told.payload and '"approve"' in told.payload
    done.answer("approve", note="looks fine", by="ada")
    assert done.result(timeout_seconds=10) == ["approve", "ada", "looks fine"]
    [given] = rig.events(done, "decision_given")
    assert (given.actor, given.actor_id) == ("human", "ada")


def test_the_decision_is_the_same_on_replay(rig: Rig) -> None:
    seen: list[Decision] = []

    @workflow
    def job() -> None:
        seen.append(ask("Send it?", options=("yes", "no", "later")))
        sleep(0.1)

    done = rig.start(job).submit(job)
    rig.question(done)
    done.answer("later", by="ada")
    done.result(timeout_seconds=10)
    assert len(seen) == 2 and seen[0] == seen[1]
    assert seen[0].choice == "later" and seen[0].at.tzinfo is not None
    assert seen[0].id == rig.decisions(done)[0].decision_id


@dataclass
class Draft:
    to: str
    cents: int


def test_the_preview_is_kept_and_bound_to_the_answer_by_its_hash(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Pay?", preview=Draft("ada", 5)).choice

    done = rig.start(job).submit(job)
    question = rig.question(done)
    assert question.preview == '{"to":"ada","cents":5}'
    assert question.preview_hash == hashlib.sha256(question.preview.encode()).hexdigest()[:16]
    done.answer("approve", by="ada")
    assert done.result(timeout_seconds=10) == "approve"
    [given] = rig.events(done, "decision_given")
    assert question.preview_hash in given.payload


def test_a_question_that_nobody_answers_in_time_gives_on_timeout(rig: Rig) -> None:
    @workflow
    def job() -> list[str]:
        got = ask("Send it?", timeout_seconds=0.3, on_timeout="reject")
        return [got.choice, got.by, got.id, str(int(got.at.timestamp() * 1000))]

    done = rig.start(job).submit(job)
    rig.until(done, JobState.AWAITING_USER)
    question = rig.question(done)
    assert done.result(timeout_seconds=10) == ["reject", "timeout", question.decision_id, str(question.expires_at)]
    assert rig.told(done).count("decision_expired") == 1
    assert rig.decisions(done)[0].state == "expired"


@pytest.mark.parametrize("suspend", [0, 30], ids=["put away", "in memory"])
def test_a_question_that_nobody_answers_in_time_raises(rig: Rig, suspend: int) -> None:
    @workflow
    def job() -> str:
        try:
            ask("Send it?", timeout_seconds=0.2)
        except WaitTimeout as error:
            return str(error)
        return ""

    done = rig.start(job, suspend_after_seconds=suspend).submit(job)
    assert "nobody answered 'Send it?'" in done.result(timeout_seconds=10)
    assert rig.told(done).count("decision_expired") == 1


def test_an_answer_after_the_time_limit_is_refused(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Send it?", timeout_seconds=0.3, on_timeout="reject").choice

    engine = rig.start(job)
    done = engine.submit(job)
    question = rig.question(done)
    rig.until(done, JobState.AWAITING_USER)
    rig.stop(engine)
    client = rig.client()
    eventually(lambda: client.core.clock.now_ms() > (question.expires_at or 0))
    with pytest.raises(Conflict, match="expired"):
        client.job(done.id).answer("approve", by="ada")
    assert rig.start(job).job(done.id).result(timeout_seconds=10) == "reject"


def test_an_answer_while_no_engine_runs_is_kept(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Send it?").choice

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until(done, JobState.AWAITING_USER)
    rig.stop(engine)
    rig.client().job(done.id).answer("reject", by="ada")
    assert rig.row(done).state is JobState.QUEUED and rig.row(done).claimable
    assert rig.start(job).job(done.id).result(timeout_seconds=10) == "reject"


def test_a_question_outlives_a_crash_and_is_asked_once(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Send it?").choice

    engine = rig.start(job, suspend_after_seconds=30)
    done = engine.submit(job)
    rig.question(done)
    engine = rig.restart(engine, job)
    rig.until(done, JobState.AWAITING_USER)
    assert len(rig.decisions(done)) == 1
    engine.job(done.id).answer("approve", by="ada")
    assert engine.job(done.id).result(timeout_seconds=10) == "approve"


def test_one_answer_counts(rig: Rig) -> None:
    @workflow
    def job() -> str:
        got = ask("Send it?").choice
        sleep(30)
        return got

    engine = rig.start(job)
    done = engine.submit(job)
    rig.question(done)
    done.answer("approve", by="ada")
    with pytest.raises(Conflict, match="no open question"):
        done.answer("reject", by="bob")
    assert rig.decisions(done)[0].choice == "approve"


def test_what_is_not_one_of_the_choices_is_refused(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Send it?", options=("yes", "no")).choice

    done = rig.start(job).submit(job)
    rig.question(done)
    with pytest.raises(InvalidArgument, match="yes, no"):
        done.answer("approve", by="ada")
    done.answer("no", by="ada")
    assert done.result(timeout_seconds=10) == "no"


def test_two_open_questions_are_told_apart(rig: Rig) -> None:
    @workflow
    async def job() -> list[str]:
        return [d.choice for d in await asyncio.gather(ask.aio("First?"), ask.aio("Second?"))]

    done = rig.start(job).submit(job)
    eventually(lambda: len(rig.decisions(done)) == 2)
    rig.until(done, JobState.AWAITING_USER)
    first, second = sorted(rig.decisions(done), key=lambda row: row.question)
    with pytest.raises(InvalidArgument, match="2 open questions"):
        done.answer("approve", by="ada")
    done.answer("reject", decision_id=second.decision_id, by="ada")
    done.answer("approve", decision_id=first.decision_id, by="ada")
    assert done.result(timeout_seconds=10) == ["approve", "reject"]


def test_a_job_of_which_another_line_waits_for_something_else_is_not_a_persons_alone(rig: Rig) -> None:
    @workflow
    async def job() -> str:
        got, _ = await asyncio.gather(ask.aio("Send it?"), sleep.aio(0.5))
        return got.choice

    done = rig.start(job).submit(job)
    rig.question(done)
    row = rig.until_put_away(done)
    assert row.state is JobState.QUEUED and row.ready_at is not None
    done.answer("approve", by="ada")
    assert done.result(timeout_seconds=10) == "approve"


def test_an_answer_is_recorded_once_however_often_the_job_runs_afterwards(rig: Rig) -> None:
    calls: list[str] = []

    @step
    def send(choice: str) -> None:
        calls.append(choice)
        if len(calls) == 1:
            raise OSError("mail server")

    @workflow
    def job() -> str:
        got = ask("Send it?").choice
        send(got)
        return got

    done = rig.start(job).submit(job)
    rig.question(done)
    done.answer("approve", by="ada")
    with pytest.raises(JobFailed):
        done.result(timeout_seconds=10)
    done.retry(by="ada")
    assert done.result(timeout_seconds=10) == "approve"
    assert calls == ["approve", "approve"] and len(rig.decisions(done)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"question": ""},
        {"question": "Q?", "options": ("one",)},
        {"question": "Q?", "options": ("a", "a")},
        {"question": "Q?", "options": ("a", "b\0")},
        {"question": "Q?", "on_timeout": "maybe"},
        {"question": "Q?", "timeout_seconds": -1},
        {"question": "Q?", "timeout_seconds": float("nan")},
        {"question": 5},
        {"question": None},
        {"question": "Q?", "options": "yes"},
        {"question": "Q?", "options": ({}, "b")},
        {"question": "Q?", "options": 5},
        {"question": "Q\ud800?"},
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_at_once(rig: Rig, arguments: dict[str, object]) -> None:
    @workflow
    def job() -> str:
        try:
            ask(**arguments)  # type: ignore[arg-type]
        except InvalidArgument as error:
            return error.code
        return "asked"

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "invalid_argument"
    assert rig.steps(done) == {}


@pytest.mark.parametrize("suspend", [0, 30])
def test_what_is_decided_by_the_time_limit_is_the_same_on_replay(rig: Rig, suspend: int) -> None:
    seen: list[Decision] = []

    @workflow
    def job() -> None:
        seen.append(ask("Send it?", timeout_seconds=0.2, on_timeout="reject"))
        wait_signal("go", type=int)

    engine = rig.start(job, suspend_after_seconds=suspend)
    done = engine.submit(job)
    rig.until_recorded(done, "signal:go#0")
    engine = rig.restart(engine, job)
    engine.job(done.id).signal("go", 1)
    done = engine.job(done.id)
    done.result(timeout_seconds=10)
    [row] = rig.decisions(done)
    decided = Decision(row.decision_id, "reject", "timeout", None, to_datetime(row.expires_at or 0))
    assert len(seen) >= 2 and all(decision == decided for decision in seen)


@pytest.mark.parametrize("suspend", [0, 30])
@pytest.mark.parametrize("limit", [None, 0.2])
def test_a_question_withdrawn_by_force_is_asked_anew_when_its_job_is_retried(
    rig: Rig, suspend: int, limit: float | None
) -> None:
    @workflow
    def job() -> list[str]:
        got = ask("Send it?", timeout_seconds=limit and 600, on_timeout="reject")
        return [got.choice, got.by, got.id]

    engine = rig.start(job, suspend_after_seconds=suspend)
    done = engine.submit(job)
    first = rig.question(done)
    engine.core.end(done.id, code="fail", reason="gone", by="ada", force=True)
    rig.until(done, JobState.FAILED)
    done.retry(by="ada")
    second = rig.question(done)
    assert second.decision_id != first.decision_id and second.question == first.question
    assert [row.state for row in rig.decisions(done)] == ["withdrawn", "open"]
    done.answer("approve", by="bob")
    assert done.result(timeout_seconds=10) == ["approve", "bob", second.decision_id]
