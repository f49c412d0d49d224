"""One script of 500 commands on both databases: the same story, word for word, and the same rows at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.postgres import new_schema
from tests.recorder.build import World
from tests.recorder.chaos import Chaos

from relight.core.chain import START
from relight.recorder.verify import verify
from relight.store.reads import EventFilter, JobFilter

COMMANDS = 500


def played(address: str, seed: int) -> tuple[World, Chaos]:
    """Play the script on an empty store. Ids and times come from the seed, so nothing else may differ."""
    world = World(address)
    chaos = Chaos(world, seed, crowd=True)
    while chaos.applied < COMMANDS:
        chaos.play(10)
    return world, chaos


def told(world: World) -> list[dict[str, Any]]:
    """Return every event. Its number is the database's own: it may leave one out, and then later ones differ."""
    with world.store.reading() as reads:
        events = [msgspec.structs.asdict(event) for event in reads.events(EventFilter(limit=0))]
    for number, event in enumerate(events):
        event["seq"] = number
    return events


def rows(world: World) -> dict[str, Any]:
    """Return every job with what hangs on it, and every engine."""
    with world.store.reading() as reads:
        ids = sorted(job.job_id for job in reads.jobs(JobFilter(limit=0)))
        found: dict[str, Any] = {"engines": reads.engines(limit=0)}
        for job_id in ids:
            steps = sorted(reads.steps(job_id), key=lambda step: step.step_key)
            signals = [msgspec.structs.replace(signal, seq=0) for signal in reads.signals(job_id)]
            found[job_id] = (reads.job(job_id), reads.runs(job_id), steps, signals, reads.decisions(job_id))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_databases_tell_the_same_story_of_the_same_acts(tmp_path: Path, seed: int) -> None:
    (one, its), (other, others) = played(str(tmp_path / "jobs.db"), seed), played(new_schema(), seed)
    assert (its.applied, its.refused) == (others.applied, others.refused)
    assert its.refused, "something was refused, too"
    mine, theirs = told(one), told(other)
    for ours, its_twin in zip(mine, theirs, strict=False):
        assert ours == its_twin
    assert len(mine) == len(theirs) and mine[0]["prev_hash"] == START
    assert rows(one) == rows(other)
    assert verify(other.store).ok
    one.close()
    other.close()
