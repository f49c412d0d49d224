"""Large values go by their content's hash, both ways; too large ones are refused and nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from tests.flow.kit import Rig, eventually

from relight import Call, sleep, start, step, wait_signal, workflow
from relight.core.flow import INLINE_CHARS, STOWED
from relight.errors import IdempotencyMismatch, JobFailed, PayloadTooLarge
from relight.model import StepState
from relight.recorder.exported import export_history, write_history

LARGE = "x" * (INLINE_CHARS + 100)


def test_large_arguments_and_results_are_stowed_and_brought_back(rig: Rig) -> None:
    lengths: list[int] = []

    @step
    def double(text: str) -> str:
        lengths.append(len(text))
        return text + text

    @workflow
    def job(text: str) -> str:
        got = double(text)
        sleep(0.1)
        return got + "!"

    engine = rig.start(job)
    done = engine.submit(job, LARGE)
    assert done.result(timeout_seconds=10) == LARGE + LARGE + "!"
    assert lengths == [len(LARGE)]
    row, recorded = rig.row(done), rig.steps(done)["double#0"]
    assert all((text or "").startswith(STOWED) for text in (row.inputs, row.outputs, recorded.inputs, recorded.outcome))
    with rig.client(workflows=[job]) as client:
        assert client.job(done.id, type=str).result(timeout_seconds=10) == LARGE + LARGE + "!"


@pytest.mark.parametrize("length", [INLINE_CHARS - 2, INLINE_CHARS - 1])
def test_the_border_is_where_it_says(rig: Rig, length: int) -> None:
    @step
    def give(n: int) -> str:
        return "x" * n

    @workflow
    def job(n: int) -> int:
        return len(give(n))

    done = rig.start(job).submit(job, length)
    assert done.result(timeout_seconds=10) == length
    outcome = rig.steps(done)["give#0"].outcome or ""
    assert outcome.startswith(STOWED) is (length + 2 > INLINE_CHARS)


def test_equal_large_values_are_kept_once(rig: Rig) -> None:
    @step
    def give(n: int) -> str:
        return LARGE

    @workflow
    def job() -> int:
        return len(give(1)) + len(give(2))

    done = rig.start(job).submit(job)
    done.result(timeout_seconds=10)
    assert len({step.outcome for step in rig.steps(done).values()}) == 1


def test_large_values_cross_children_and_signals(rig: Rig) -> None:
    @workflow
    def child(text: str) -> str:
        return text + wait_signal("more", type=str)

    @workflow
    def job() -> int:
        return len(start(child, LARGE).result())

    engine = rig.start(job, child)
    done = engine.submit(job)
    rig.until_put_away(done)
    [info] = engine.jobs(kind="child")
    engine.job(info.id).signal("more", LARGE)
    assert done.result(timeout_seconds=10) == 2 * len(LARGE)


def test_inputs_hash_keeps_only_hashes_of_the_arguments(rig: Rig) -> None:
    @step(inputs="hash")
    def count(text: str) -> int:
        return len(text)

    @workflow
    def job() -> int:
        got = count(LARGE)
        sleep(0.1)
        return got

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == len(LARGE)
    recorded = rig.steps(done)["count#0"]
    assert recorded.inputs is None and '"text"' in (recorded.args_hashes or "")


def test_a_value_above_the_limit_is_refused_and_nothing_is_written(rig: Rig) -> None:
    @step
    def give() -> bytes:
        return b"x" * (64 * 2**20)

    @workflow
    def job(data: bytes) -> int:
        return len(give())

    engine = rig.start(job)
    with pytest.raises(PayloadTooLarge, match=r"MiB.*Path"):
        engine.submit(job, b"x" * (64 * 2**20))
    assert engine.jobs() == []
    failed = engine.submit(job, b"")
    with pytest.raises(JobFailed, match="PayloadTooLarge"):
        failed.result(timeout_seconds=30)
    assert rig.steps(failed)["give#0"].state is StepState.FAILED


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_child_s_large_inputs_are_kept_by_their_content(rig: Rig, colour: str) -> None:
    large, calls = "y" * 2**20, []

    @workflow
    def child(text: str, n: int) -> int:
        return len(text) + n

    @workflow(name="job")
    def job() -> int:
        calls.append(1)
        one = start(child, large, 0)
        many = start(child.bind(large, n) for n in (1, 2))
        sleep(0.1)
        return one.result() + sum(each.result() for each in many)

    @workflow(name="job")
    async def ajob() -> int:
        calls.append(1)
        one = await start.aio(child, large, 0)
        many = await start.aio([child.bind(large, n) for n in (1, 2)])
        await sleep.aio(0.1)
        return await one.result.aio() + sum([await each.result.aio() for each in many])

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted, child)
    done = engine.submit(wanted)
    assert done.result(timeout_seconds=20) == 3 * 2**20 + 3
    assert len(calls) > 1
    children = [rig.row(info.id) for info in engine.jobs(kind="child")]
    assert len(children) == 3 and all((row.inputs or "").startswith(STOWED) for row in children)
    assert rig.steps(done)["start#0"].state is StepState.COMPLETED


def test_a_child_s_large_inputs_count_under_its_key_as_the_same(rig: Rig) -> None:
    large = "y" * 2**20

    @workflow
    def child(text: str) -> int:
        return len(text)

    @workflow
    def job() -> list[str]:
        call = child.bind(large).options(idempotency_key="once")
        return [start(call).id, start(call).id]

    engine = rig.start(job, child)
    first, second = engine.submit(job).result(timeout_seconds=20)
    assert first == second and engine.submit(child, large, idempotency_key="once").id == first


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_child_s_inputs_above_the_limit_are_refused_and_nothing_is_written(rig: Rig, colour: str) -> None:
    @workflow
    def child(data: bytes) -> int:
        return len(data)

    def calls() -> list[Call[int]]:
        return [child.bind(b"small"), child.bind(b"x" * (64 * 2**20))]

    @workflow(name="job")
    def job() -> str:
        try:
            start(calls())
        except PayloadTooLarge as error:
            return str(error)
        return ""

    @workflow(name="job")
    async def ajob() -> str:
        try:
            await start.aio(calls())
        except PayloadTooLarge as error:
            return str(error)
        return ""

    wanted = job if colour == "sync" else ajob
    engine = rig.start(wanted, child)
    done = engine.submit(wanted)
    assert 'argument "data" of child has' in done.result(timeout_seconds=60)
    assert rig.steps(done) == {} and engine.jobs(kind="child") == []


@workflow
def hears(times: int) -> list[int]:
    return [len(wait_signal("go", type=str)) for _ in range(times)]


@workflow
async def hears_async(times: int) -> list[int]:
    got = [await wait_signal.aio("go", "stop") for _ in range(times)]
    return [len(signal.payload(str)) for signal in got]


@pytest.mark.parametrize("flow", [hears, hears_async], ids=lambda flow: flow.kind)
def test_a_large_message_is_kept_apart_and_comes_back_on_replay(rig: Rig, flow: Any) -> None:
    engine = rig.start(flow)
    job = engine.submit(flow, 2)
    text = "x" * (INLINE_CHARS + 10)
    for _ in range(2):
        job.signal("go", text, idempotency_key="first")
    with pytest.raises(IdempotencyMismatch):
        job.signal("go", text + "y", idempotency_key="first")
    eventually(lambda: any(s.state is StepState.COMPLETED for s in rig.steps(job).values()))
    with engine.core.store.reading() as reads:
        [signal] = reads.signals(job.id)
        assert len(signal.payload or "") < 100
        [step] = [s for s in reads.steps(job.id) if s.state is StepState.COMPLETED and "!" not in s.step_key]
        assert len(step.outcome or "") < 300
        assert text in write_history(export_history(reads, job.id)).decode()
    sent, read = (e for e in job.events() if e.type in ("signal_sent", "signal_consumed"))
    assert sent.payload["payload_hash"] == read.payload["payload_hash"]
    job.signal("go", "small")
    assert job.result(timeout_seconds=20) == [len(text), 5]
