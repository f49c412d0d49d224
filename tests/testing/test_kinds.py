"""The test kit on each thing a job can do: crashed at every boundary, and replayed from its exported history."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.testing.kinds import FLOWS, KINDS, Kind, hands_out, hands_out_async

from relight import Engine, external, step, workflow
from relight.model import FINAL_STATES
from relight.recorder.exported import export_history, write_history
from relight.testing import CrashRun, ManualClock, assert_replays, crash_points, drain
from relight.testing.crashing import crash_at


def name_of(kind: Kind) -> str:
    return str(kind.flow.kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_crashed_at_every_boundary_it_ends_as_ever(tmp_path: Path, kind: Kind) -> None:
    runs = crash_points(kind.play, store=str(tmp_path / "jobs.db"), workflows=FLOWS, suspend_after_seconds=0)
    assert {"before_commit", "after_commit", "at_rest"} <= ended_as_ever(kind, runs)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_crashed_at_some_boundaries_it_ends_as_ever(tmp_path: Path, kind: Kind) -> None:
    some = random.Random(name_of(kind)).sample(range(1, 20), 4)
    ended_as_ever(kind, crash_at(kind.play, some, store=str(tmp_path / "jobs.db"), workflows=FLOWS))


def ended_as_ever(kind: Kind, runs: Iterator[CrashRun]) -> set[str]:
    """Check that a job ends the same after each crash; return the kinds of boundaries that it crashed at."""
    seen = set()
    for run in runs:
        engine = run.crash_then_restart()
        drain(engine)
        job = engine.job(kind=kind.flow.kind, idempotency_key="one")
        assert job.info().state in FINAL_STATES, (run.boundary, job.why().summary)
        assert job.result(timeout_seconds=0) == kind.result, run.boundary
        seen.add(run.boundary.partition(" ")[0])
    return seen


def exported(tmp_path: Path, kind: Kind, *, to_its_end: bool = True) -> tuple[Path, list[str]]:
    """Run a job and export it; return the file, and the tokens that the job handed out."""
    store, file = str(tmp_path / "jobs.db"), tmp_path / "history.json"
    with Engine(store, workflows=FLOWS, durability="process", clock=ManualClock()) as engine:
        if to_its_end:
            job = kind.play(engine)
        else:
            job = engine.submit(kind.flow, kind.arg)
        drain(engine)
        assert not to_its_end or job.result(timeout_seconds=0) == kind.result
        with engine.core.store.reading(snapshot=True) as reads:
            tokens = [msgspec.json.decode(s.outcome or "") for s in reads.steps(job.id) if s.kind == "token"]
            file.write_bytes(write_history(export_history(reads, job.id)))
    return file, tokens


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_its_history_replays(tmp_path: Path, kind: Kind) -> None:
    file, _ = exported(tmp_path, kind)
    assert_replays(kind.flow, file)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.world is not Kind.world], ids=name_of)
def test_its_history_replays_as_far_as_it_goes(tmp_path: Path, kind: Kind) -> None:
    file, _ = exported(tmp_path, kind, to_its_end=False)
    assert_replays(kind.flow, file)


class TestTokens:
    """A token is a secret that opens a job; a history that is committed must not hold it."""

    kinds = {kind.flow: kind for kind in KINDS}

    @pytest.mark.parametrize("flow", [hands_out, hands_out_async], ids=lambda flow: flow.kind)
    @pytest.mark.parametrize("to_its_end", [True, False])
    def test_no_token_leaves_with_a_history(self, tmp_path: Path, flow: Any, to_its_end: bool) -> None:
        file, tokens = exported(tmp_path, self.kinds[flow], to_its_end=to_its_end)
        assert tokens
        text = file.read_text()
        for token in tokens:
            assert token not in text
            assert token.removeprefix("ext_")[:12] not in text

    def test_each_token_has_a_stand_in_of_its_own(self, tmp_path: Path) -> None:
        file, tokens = exported(tmp_path, self.kinds[hands_out_async])
        steps = msgspec.json.decode(file.read_bytes())["steps"]
        made = [step["outcome"] for step in steps if step["kind"] == "token"]
        waited = [step["waits_for"] for step in steps if step["kind"] == "external"]
        assert len(set(made)) == len(tokens) == 2
        assert waited == made

    def test_an_argument_that_holds_a_token_is_compared_without_it(self, tmp_path: Path) -> None:
        @step(name="order")
        def order(what: str, hook: str) -> str:
            return what

        @workflow(name="hands_out")
        def elsewhere(name: str) -> str:
            scan = external("scan", type=str)
            order(name, f"https://elsewhere/{scan.token}")
            return scan.wait()

        file, _ = exported(tmp_path, self.kinds[hands_out])
        with pytest.raises(
            AssertionError, match=r'at order#0: argument "hook" differs(.|\n)*app/hooks(.|\n)*elsewhere'
        ):
            assert_replays(elsewhere, file)
