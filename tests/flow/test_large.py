"""Large values go by their content's hash, both ways; too large ones are refused and nothing is written."""

from __future__ import annotations

import pytest
from tests.flow.kit import Rig

from relight import sleep, start, step, wait_signal, workflow
from relight.core.flow import INLINE_CHARS, STOWED
from relight.errors import JobFailed, PayloadTooLarge
from relight.model import StepState

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
