"""A stalled job that is held for its silent owner goes on as soon as the hold is off: nobody waits for the watch's turn."""

from __future__ import annotations

import threading

from tests.flow.kit import Rig, eventually, wait_for

from relight import Engine, Job, step, workflow
from relight.clock import rfc3339
from relight.core.commands.engines import JudgeEngineNow
from relight.engine.operator import fence_engine
from relight.engine.watch import Watch
from relight.model import EngineState, JobState, Verdict

LONG_LEASE = 90
"""Seconds: the watch's turn comes each thirty, longer than any of these tests waits."""

begun, go = threading.Event(), threading.Event()


@step
def hold() -> str:
    begun.set()
    wait_for(go)
    return "done"


@workflow
def job() -> str:
    return hold()


def held(rig: Rig) -> tuple[Engine, Engine, Job[str]]:
    """Return an engine that another one called silent in the middle of a job, that other one, and the job."""
    begun.clear()
    go.clear()
    owner = rig.start(job, lease_seconds=LONG_LEASE)
    done = owner.submit(job)
    wait_for(begun)
    judge = rig.start(job, lease_seconds=LONG_LEASE)
    eventually(lambda: judge.health()["gate"] == "open")
    with rig.reading() as reads:
        row = reads.engine(owner.engine_id)
    judge.core.journal.execute(
        JudgeEngineNow(
            judge=judge.engine_id,
            engine_id=row.engine_id,
            source=EngineState.LIVE,
            target=EngineState.SILENT,
            beat_at=row.beat_at,
            last_heartbeat_ts=rfc3339(row.beat_at),
            verdict=Verdict.SILENT,
            evidence={"reason": "test"},
        )
    )
    rig.until(done, JobState.STALLED)
    assert rig.row(done).held_by == row.engine_id
    return owner, judge, done


def test_a_job_goes_on_at_once_when_its_owner_woke_and_its_last_try_has_returned(rig: Rig) -> None:
    owner, _, done = held(rig)
    eventually(lambda: owner.fenced_times == 1 and owner.health()["gate"] == "open")
    assert rig.row(done).state is JobState.STALLED
    go.set()
    assert done.result(timeout_seconds=15) == "done"
    assert rig.told(done).count("hold_released") == 1


def test_a_job_goes_on_at_once_when_an_operator_vouches_for_its_owner_s_death_here(rig: Rig) -> None:
    _, judge, done = held(rig)
    silent = rig.row(done).held_by
    assert silent is not None
    begun.clear()
    fence_engine(judge.core, silent, by="ada", force=True)
    wait_for(begun)  # called again, while the first call of it is still under way: as the operator wanted it
    go.set()
    assert judge.job(done.id).result(timeout_seconds=15) == "done"


def test_a_nudge_while_the_watch_looks_makes_it_look_once_more(rig: Rig) -> None:
    engine = rig.start(job, lease_seconds=LONG_LEASE)
    eventually(lambda: engine.health()["gate"] == "open")
    watch = next(service for service in engine._services if isinstance(service, Watch))
    looks: list[int] = []
    look = watch.run_once

    def looking() -> None:
        look()
        looks.append(1)
        if len(looks) == 1:
            watch.nudge()

    watch.run_once = looking  # type: ignore[method-assign]
    watch.nudge()
    eventually(lambda: len(looks) == 2, seconds=15)
