"""Tokens that somebody outside completes: handed out for good, answered once, and nothing late changes anything."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually

from relight import AsyncClient, AsyncEngine, cancelled, external, parallel, publish, sleep, step, workflow
from relight.errors import InvalidArgument, JobCancelled, JobFailed, NotFound, NotInJob, StepFailed, WaitTimeout
from relight.model import Delivery, JobState, StepKind
from relight.store.reads import Reads


@dataclass
class Scan:
    clean: bool
    report: str = ""


@step
def hand_over(token: str) -> str:
    return token


@workflow(name="scan")
def scan(limit: float | None = None, beats: float | None = None) -> str:
    answer = external("virus-scan", type=Scan, timeout_seconds=limit, heartbeat_seconds=beats)
    publish("token", hand_over(answer.token))
    try:
        return f"clean: {answer.wait().clean}"
    except WaitTimeout as late:
        return f"late: {late.reason}"
    except StepFailed as failed:
        return f"failed: {failed.error_type} {failed.error_code} {failed.message}"


@workflow(name="scan")
async def ascan(limit: float | None = None, beats: float | None = None) -> str:
    answer = external("virus-scan", type=Scan, timeout_seconds=limit, heartbeat_seconds=beats)
    publish("token", await hand_over.aio(answer.token))
    try:
        return f"clean: {(await answer.wait.aio()).clean}"
    except WaitTimeout as late:
        return f"late: {late.reason}"
    except StepFailed as failed:
        return f"failed: {failed.error_type} {failed.error_code} {failed.message}"


both = pytest.mark.parametrize("flow", [scan, ascan], ids=["sync", "async"])


def token_of(job: Any) -> str:
    token: str = job.published("token", type=str, timeout_seconds=10)
    return token


@both
@pytest.mark.parametrize("keep", [0, 5], ids=["put away", "in memory"])
def test_a_value_from_outside_is_what_the_job_gets(rig: Rig, flow: Any, keep: float) -> None:
    engine = rig.start(flow, suspend_after_seconds=keep)
    job = engine.submit(flow)
    token = token_of(job)
    assert re.fullmatch(r"ext_[0-9a-f]{32}", token)
    rig.until_recorded(job, "wait:virus-scan#0", "waiting")
    if not keep:
        rig.until_put_away(job)
    given = engine.complete(token, Scan(True))
    assert (given.counted, given.state) == (True, "completed") and given.at is not None
    assert job.result(timeout_seconds=10) == "clean: True"
    told = rig.told(job, "external_created", "external_completed", "external_failed", "external_expired")
    assert told == ["external_created", "external_completed"]
    assert token not in "".join(event.payload for event in rig.events(job))


@both
def test_a_failure_from_outside_is_raised_at_the_wait_now_and_on_replay(rig: Rig, flow: Any) -> None:
    engine = rig.start(flow)
    job = engine.submit(flow)
    assert engine.fail(token_of(job), "no licence").counted
    assert job.result(timeout_seconds=10) == "failed: external_failed external_failed no licence"


@both
def test_a_token_outlives_its_engine_and_is_completed_while_none_runs(rig: Rig, flow: Any) -> None:
    engine = rig.start(flow)
    job = engine.submit(flow)
    token = token_of(job)
    rig.crash(engine)
    client = rig.client()
    assert client.heartbeat(token, "half") == Delivery(True, "open")
    assert client.complete(token, {"clean": False}).counted
    assert not client.complete(token, {"clean": True}).counted
    restarted = rig.start(flow)
    assert restarted.job(job.id).result(timeout_seconds=10) == "clean: False"
    assert rig.told(job, "external_created") == ["external_created"]


@both
def test_its_time_runs_out_and_what_comes_later_changes_nothing(rig: Rig, flow: Any) -> None:
    engine = rig.start(flow)
    job = engine.submit(flow, 0.15)
    token = token_of(job)
    assert job.result(timeout_seconds=10) == "late: timeout"
    late = engine.complete(token, Scan(True))
    assert (late.counted, late.state, late.by) == (False, "expired", None) and late.at is not None
    assert rig.told(job, "external_expired", "external_completed") == ["external_expired"]


@both
def test_a_missed_heartbeat_is_a_time_out_and_each_one_that_comes_puts_it_off(rig: Rig, flow: Any) -> None:
    engine = rig.start(flow, suspend_after_seconds=5)
    job = engine.submit(flow, None, 0.6)
    token = token_of(job)
    first = rig.until_recorded(job, "wait:virus-scan#0", "waiting").begun_at
    for n in range(3):
        moment = threading.Event()
        moment.wait(0.3)  # what is tested is time itself
        assert engine.heartbeat(token, f"{n} of 3").counted
    assert job.state() == JobState.RUNNING
    assert job.result(timeout_seconds=10) == "late: heartbeat"
    [expired] = rig.events(job, "external_expired")
    assert expired.ts - first >= 1500
    assert not engine.heartbeat(token).counted


def test_a_token_s_clock_starts_when_it_is_made_and_not_at_the_wait(rig: Rig) -> None:
    @workflow
    def job() -> str:
        answer = external("x", type=int, timeout_seconds=0.1)
        publish("token", answer.token)
        sleep(0.3)
        try:
            return str(answer.wait())
        except WaitTimeout:
            return "late"

    engine = rig.start(job)
    submitted = engine.submit(job)
    token = token_of(submitted)
    rig.until_put_away(submitted)
    eventually(lambda: not engine.complete(token, 1).counted or submitted.state() == JobState.COMPLETED)
    assert submitted.result(timeout_seconds=10) in ("late", "1")


def test_a_wait_s_own_limit_leaves_the_token_good(rig: Rig) -> None:
    @workflow
    async def job() -> list[object]:
        answer = external("x", type=int, timeout_seconds=60)
        publish("token", answer.token)
        try:
            await answer.wait.aio(timeout_seconds=0)
        except WaitTimeout:
            first = "not yet"
        publish("state", first)
        return [first, await answer.wait.aio(), await answer.wait.aio()]

    engine = rig.start(job)
    submitted = engine.submit(job)
    assert submitted.published("state", type=str, timeout_seconds=10) == "not yet"
    engine.complete(token_of(submitted), 7)
    assert submitted.result(timeout_seconds=10) == ["not yet", 7, 7]


@both
def test_a_value_of_another_type_is_refused_where_the_type_is_known(rig: Rig, flow: Any) -> None:
    engine = rig.start(flow)
    job = engine.submit(flow)
    token = token_of(job)
    for knowing in (engine, rig.client()):  # this process has imported Scan
        with pytest.raises(
            InvalidArgument, match=r"does not fit tests\.flow\.test_external\.Scan: .*nothing was delivered"
        ):
            knowing.complete(token, {"clean": "perhaps"})
        with pytest.raises(InvalidArgument, match=r"does not fit .*Scan"):
            knowing.complete(token)
    assert engine.complete(token, {"clean": True, "report": "x"}).counted
    assert job.result(timeout_seconds=10) == "clean: True"


def test_a_value_of_another_type_fails_the_job_at_the_wait_where_nobody_knew(rig: Rig) -> None:
    class Local:
        pass

    @dataclass
    class Answer:
        n: int

    @workflow
    def job() -> int:
        answer = external("x", type=Answer)
        publish("token", answer.token)
        return answer.wait().n

    engine = rig.start(job)
    submitted = engine.submit(job)
    token = token_of(submitted)
    assert rig.client().complete(token, "no Answer").counted  # a class inside a function is known where it was named
    with pytest.raises(JobFailed, match=r"does not fit .*Answer"):
        submitted.result(timeout_seconds=10)
    other = engine.submit(job)
    with pytest.raises(InvalidArgument):
        engine.complete(token_of(other), "no Answer")


def test_an_unknown_token_is_not_found_and_is_not_repeated(rig: Rig) -> None:
    engine = rig.start(scan)
    for act in (engine.complete, lambda token: engine.fail(token, "x"), engine.heartbeat):
        with pytest.raises(NotFound) as refused:
            act("ext_secret")
        assert "secret" not in str(refused.value)


def test_a_job_that_has_ended_takes_no_answer(rig: Rig) -> None:
    engine = rig.start(scan)
    job = engine.submit(scan)
    token = token_of(job)
    rig.until_put_away(job)
    job.cancel("enough")
    with pytest.raises(JobCancelled):
        job.result(timeout_seconds=10)
    assert engine.complete(token, Scan(True)).state == "job_ended"
    assert engine.heartbeat(token).state == "job_ended"


def test_of_many_answers_at_once_exactly_one_counts(rig: Rig) -> None:
    engine = rig.start(scan)
    jobs = [engine.submit(scan) for _ in range(4)]
    tokens = [token_of(job) for job in jobs]
    clients = [rig.client() for _ in range(2)]
    counted: list[tuple[str, int]] = []

    def answer(n: int) -> None:
        client = clients[n % 2]
        counted.extend((token, n) for token in tokens if client.complete(token, Scan(n % 2 == 0)).counted)

    threads = [threading.Thread(target=answer, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(token for token, _ in counted) == sorted(tokens)
    by = dict(counted)
    for job, token in zip(jobs, tokens, strict=True):
        assert job.result(timeout_seconds=10) == f"clean: {by[token] % 2 == 0}"


def test_each_arm_has_tokens_of_its_own(rig: Rig) -> None:
    def one(n: int) -> int:
        answer = external("part", type=int)
        publish(f"token-{n}", answer.token)
        return answer.wait()

    @workflow
    def job() -> list[int]:
        return parallel(one, [1, 2, 3])

    engine = rig.start(job)
    submitted = engine.submit(job)
    tokens = [submitted.published(f"token-{n}", type=str, timeout_seconds=10) for n in (1, 2, 3)]
    for n, token in enumerate(tokens, 1):
        engine.complete(token, n * 10)
    assert submitted.result(timeout_seconds=10) == [10, 20, 30]


def test_a_large_value_comes_whole(rig: Rig) -> None:
    @workflow
    def job() -> int:
        answer = external("x", type=str)
        publish("token", answer.token)
        return len(answer.wait())

    engine = rig.start(job)
    submitted = engine.submit(job)
    assert engine.complete(token_of(submitted), "x" * 300_000).counted
    assert submitted.result(timeout_seconds=10) == 300_000


def test_the_token_is_on_disk_before_the_next_step_is_called(rig: Rig) -> None:
    seen: list[bool] = []

    @step
    async def look(token: str) -> None:
        client = rig.client()
        seen.append(await asyncio.to_thread(lambda: client.heartbeat(token).counted))

    @workflow
    async def job() -> None:
        for _ in range(5):
            await look(external("x", type=int).token)

    rig.start(job).submit(job).result(timeout_seconds=20)
    assert seen == [True] * 5


def test_why_says_who_is_waited_for_and_how_to_answer(rig: Rig) -> None:
    engine = rig.start(scan)
    job = engine.submit(scan, 3600, 300)
    token = token_of(job)
    rig.until_put_away(job)
    engine.heartbeat(token, "page 3")
    why = job.why()
    cause = why.causes[0]
    assert cause.code == "waiting_external"
    assert 'waits for "virus-scan" to be completed from outside' in why.summary
    assert "last heartbeat" in why.summary and "(page 3)" in why.summary
    assert list(cause.actions)[:3] == [
        f"relight complete {token} --json VALUE",
        f"relight fail {token} --reason TEXT",
        f"relight beat {token}",
    ]
    assert rig.events(job, "external_created")[0].event_id in cause.evidence


def test_the_async_facades_do_the_same(rig: Rig) -> None:
    async def main() -> None:
        async with AsyncEngine(rig.path, workflows=[ascan], durability="process", suspend_after_seconds=0) as engine:
            job = await engine.submit(ascan)
            token = await job.published("token", type=str, timeout_seconds=10)
            async with AsyncClient(rig.path) as client:
                assert (await client.heartbeat(token, "x")).counted
                assert (await client.complete(token, Scan(True))).counted
                assert not (await client.fail(token, "too late")).counted
            assert await job.result(timeout_seconds=10) == "clean: True"

    asyncio.run(main())


def test_it_belongs_into_a_body_and_says_what_is_wrong_with_it(rig: Rig) -> None:
    with pytest.raises(NotInJob):
        external("x", type=int)
    refused: list[str] = []

    @workflow
    def job() -> None:
        for options in ({"timeout_seconds": -1}, {"heartbeat_seconds": 0}, {"type": object()}, {"name": "a#b"}):
            try:
                external(**({"name": "x", "type": int} | options))  # type: ignore[arg-type]
            except Exception as error:
                refused.append(type(error).__name__)
        assert not cancelled()

    rig.start(job).submit(job).result(timeout_seconds=10)
    assert refused == ["InvalidArgument", "InvalidArgument", "RegistrationError", "InvalidArgument"]


def test_what_is_recorded_of_it(rig: Rig) -> None:
    engine = rig.start(scan)
    job = engine.submit(scan)
    token = token_of(job)
    rig.until_put_away(job)
    steps = rig.steps(job)
    assert steps["external:virus-scan#0"].kind == StepKind.TOKEN
    assert steps["external:virus-scan#0"].outcome == f'"{token}"'
    assert (steps["wait:virus-scan#0"].kind, steps["wait:virus-scan#0"].waits_for) == (StepKind.EXTERNAL, token)


def test_an_answer_that_comes_as_another_one_ends_the_job_is_told_of_that_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = rig.start(scan)
    job = engine.submit(scan)
    token = token_of(job)
    read_heads = Reads.job_heads
    looks: list[Any] = []

    def beaten(reads: Reads, job_ids: Any) -> Any:
        if threading.current_thread() is second:
            looks.append(job_ids)
        if len(looks) == 2 and not first.ident:  # it looked for the type first, and now looks whether the token is open
            first.start()
            first.join(20)
            job.result(timeout_seconds=20)
        return read_heads(reads, job_ids)

    said: list[Delivery] = []
    first = threading.Thread(target=lambda: said.append(engine.complete(token, Scan(clean=True))))
    second = threading.Thread(target=lambda: said.append(rig.client().complete(token, Scan(clean=False))))
    monkeypatch.setattr(Reads, "job_heads", beaten)
    second.start()
    second.join(40)
    assert [(each.counted, each.state) for each in said] == [(True, "completed"), (False, "completed")]
