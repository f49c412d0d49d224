"""One script of 500 commands on both databases: the same story, word for word, and the same rows at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.postgres import new_schema
from tests.recorder.build import World
from tests.recorder.chaos import Chaos

from relight.recorder.verify import verify
from relight.store.reads import EventFilter, JobFilter

COMMANDS = 500


@contextmanager
def played(address: str, seed: int) -> Iterator[Chaos]:
    """Play the script on an empty store. Ids and times come from the seed, so nothing else may differ."""
    world = World(address)
    chaos = Chaos(world, seed, crowd=True)
    try:
        while chaos.applied < COMMANDS:
            chaos.play(10)
        yield chaos
    finally:
        world.close()


def told(world: World) -> list[dict[str, Any]]:
    """Return every event. Its number is the database's own: it may leave one out, and then later ones differ."""
    with world.store.reading() as reads:
        events = [msgspec.structs.asdict(event) for event in reads.events(EventFilter(limit=0))]
    for number, event in enumerate(events):
        event["seq"] = number
    return events


def rows(world: World) -> dict[str, Any]:
    """Return every job with what hangs on it, and every engine, in however many batches it wrote (refused ones are split)."""
    with world.store.reading() as reads:
        ids = sorted(job.job_id for job in reads.jobs(JobFilter(limit=0)))
        found: dict[str, Any] = {"engines": [msgspec.structs.replace(e, batch_seq=0) for e in reads.engines(limit=0)]}
        for job_id in ids:
            steps = sorted(reads.steps(job_id), key=lambda step: step.step_key)
            signals = [msgspec.structs.replace(signal, seq=0) for signal in reads.signals(job_id)]
            found[job_id] = (reads.job(job_id), reads.runs(job_id), steps, signals, reads.decisions(job_id))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_databases_tell_the_same_story_of_the_same_acts(tmp_path: Path, seed: int) -> None:
    with played(str(tmp_path / "jobs.db"), seed) as one, played(new_schema(), seed) as other:
        assert (one.applied, one.refused) == (other.applied, other.refused)
        assert one.refused, "something was refused, too"
        mine, theirs = told(one.world), told(other.world)
        for ours, its_twin in zip(mine, theirs, strict=False):
            assert ours == its_twin
        assert len(mine) == len(theirs)
        assert rows(one.world) == rows(other.world)
        assert verify(other.world.store).ok
