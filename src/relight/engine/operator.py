"""What only an operator does: vouch for an engine's death, take a job out of quarantine. Over ``Core``, like all acts.

**An operator's word.** The engine's own lock is better proof than anybody's word, so an engine that provably lives (its
lock is held, its lease runs) is fenced only by force. What is fenced writes nothing any more; its running jobs are stalled
by the next recovery like those of any dead engine, and jobs that were held for it are released here.
"""

from __future__ import annotations

import os

from relight.client.core import Core
from relight.client.steering import TRIES
from relight.clock import rfc3339
from relight.core.changes import Who
from relight.core.commands.base import JobRef
from relight.core.commands.engines import JudgeEngineNow
from relight.core.commands.steering import ReleaseHeld, ReleaseQuarantined, ref_of
from relight.errors import Conflict, Fenced, NotFound
from relight.ids import EngineId, JobId, short
from relight.model import EngineRecord, EngineState, QuarantineRecord, Verdict
from relight.proof.lockfile import probe, state_dir_for
from relight.store.reads import EventFilter

_HELD_AT_ONCE = 1_000_000


def fence_engine(core: Core, engine_id: str, *, by: str | None, force: bool = False) -> int:
    """Hold an engine dead on an operator's word; return how many held jobs that released. Again changes nothing more.

    Raises ``NotFound``, ``Conflict`` for an engine that has stopped, or that provably lives (unless by force).
    Events: ``engine_fenced``, ``hold_released``.
    """
    who = core.who(by)
    for attempt in range(TRIES):
        row = _engine(core, engine_id)
        if row.state is EngineState.DEAD:
            break
        if row.state is EngineState.STOPPED:
            raise Conflict(
                f"engine {row.name} {short(row.engine_id)} has stopped by itself; there is nothing to fence",
                engine_id=engine_id,
            )
        if not force:
            _refuse_living(core, row)
        try:
            core.journal.execute(_verdict(core, row, who), patience_seconds=core.patience_seconds)
        except Fenced:
            raise
        except Conflict:  # it beat in the same moment, or another engine was faster
            if attempt == TRIES - 1:
                raise
        else:
            break
    return _release_holds(core, EngineId(engine_id), who)


def _engine(core: Core, engine_id: str) -> EngineRecord:
    with core.store.reading() as reads:
        row = reads.engine(engine_id)
    if row is None:
        raise NotFound(
            f"there is no engine {engine_id} in {core.store.place}. relight engines lists them", engine_id=engine_id
        )
    return row


def _refuse_living(core: Core, row: EngineRecord) -> None:
    lock = probe(state_dir_for(core.store.place), row.engine_id, row.nonce)
    if row.state is EngineState.LIVE and lock.decides and lock.locked and row.lease_until > core.clock.now_ms():
        raise Conflict(
            f"engine {row.name} {short(row.engine_id)} lives: process {row.pid} holds its lock, and its lease runs. End that "
            "process; or, if you know better, fence it with --force",
            engine_id=row.engine_id,
            pid=row.pid,
        )


def _verdict(core: Core, row: EngineRecord, who: Who) -> JudgeEngineNow:
    return JudgeEngineNow(
        judge=core.journal.engine_id,
        engine_id=row.engine_id,
        source=row.state,
        target=EngineState.DEAD,
        beat_at=row.beat_at,
        last_heartbeat_ts=rfc3339(row.beat_at),
        verdict=Verdict.DEAD,
        evidence={"reason": "operator", "operator": who.id, "by_pid": os.getpid()},
        operator=who,
    )


def _release_holds(core: Core, owner: EngineId, who: Who) -> int:
    with core.store.reading() as reads:
        held = [job for job in reads.stalled(limit=_HELD_AT_ONCE) if job.held_by == owner]
    outcomes = (
        core.journal.execute_all([ReleaseHeld(job=ref_of(job), owner=owner, who=who) for job in held]) if held else []
    )
    for error in outcomes:
        if error is not None and (isinstance(error, Fenced) or not isinstance(error, Conflict)):
            raise error
    return sum(error is None for error in outcomes)


def release_job(core: Core, job_id: JobId, *, by: str | None) -> QuarantineRecord:
    """Take a job out of quarantine: recovery and claims meet it again. Return what it had been set aside for.

    Raises ``Conflict`` when it is not in quarantine. Events: ``row_released``.
    """
    with core.store.reading() as reads:
        rows = [row for row in reads.quarantine(job_id) if row.released_at is None]
        told = reads.events(EventFilter(job_id=job_id, limit=1))
    if not rows:
        raise Conflict(
            f"job {short(job_id)} is not in quarantine. relight why {short(job_id)} says what it waits for",
            job_id=job_id,
        )
    # The job's own row may be the one that cannot be read; its trace stands in its first event.
    job = JobRef(job_id, told[0].trace_id if told else job_id, "")
    command = ReleaseQuarantined(job=job, table_name=rows[0].table_name, who=core.who(by))
    core.journal.execute(command, patience_seconds=core.patience_seconds)
    return rows[0]
