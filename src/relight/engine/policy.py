"""What happens to stalled jobs after the gate: resume them, hold them, put them on probation, or give them up.

Recovery only states facts; this decides. ``on_stall="resume"`` (default) queues a stalled job again, ``"hold"`` leaves it to
an operator. A job whose engine died again and again while one of its steps was in flight, without a new checkpoint in
between, is a suspect: after ``max_stalls - 1`` such stalls it is resumed *alone* (probation), and one more poisons it.
Bystanders go on. Held jobs (their owner is silent, not dead) are not touched; when their owner is dead the hold is released
here, because it is seen in the rows, whoever recorded that death and whatever happened to him right after.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from relight.core.commands import Command
from relight.core.commands.steering import (
    PARENT_ENDED,
    HoldJob,
    PoisonJob,
    ReleaseHeld,
    ResumeJob,
    decide_end,
    ref_of,
    system,
)
from relight.engine.claimer import SetAside
from relight.errors import Conflict
from relight.ids import EngineId
from relight.model import EngineState, JobRecord, JobState
from relight.store.journal import Journal
from relight.store.reads import EventFilter, Unreadable
from relight.store.store import Store

PAGE = 500


def act_on_stalled(store: Store, journal: Journal, me: EngineId, *, set_aside: SetAside) -> int:
    """Apply each stalled job's policy; return how many were acted on. Whoever is second is refused, and that is well."""
    after, acted = "", 0
    while True:
        aside: list[Unreadable] = []
        with store.reading() as reads:
            page = reads.stalled(after, PAGE, aside=aside)
            owners = {job.held_by for job in page if job.held_by is not None}
            dead = {owner for owner in owners if (row := reads.engine(owner)) is None or row.state is EngineState.DEAD}
        set_aside("jobs", aside)
        seen = [job.job_id for job in page] + [bad.id for bad in aside]
        if not seen:
            return acted
        after = max(seen)
        released = [
            ReleaseHeld(job=ref_of(job), owner=job.held_by, who=system(me)) for job in page if job.held_by in dead
        ]
        acted += _apply(journal, released)
        free = [msgspec.structs.replace(job, held_by=None) if job.held_by in dead else job for job in page]
        acted += _apply(journal, [command for job in free if (command := _decide(store, job, me)) is not None])


def _apply(journal: Journal, commands: Sequence[Command]) -> int:
    """Apply acts of policy; return how many took effect. One that somebody else was quicker with is refused, and that is well."""
    outcomes = journal.execute_all(commands)
    for error in outcomes:
        if error is not None and (not isinstance(error, Conflict) or not error.fields.get("op")):
            raise error
    return sum(error is None for error in outcomes)


def _decide(store: Store, job: JobRecord, me: EngineId) -> Command | None:
    who = system(me)
    ref = ref_of(job)
    if job.held_by is not None or job.status_reason.startswith("held:"):
        return None
    if job.stalls >= job.max_stalls:
        evidence = _evidence(store, job)
        return PoisonJob(
            job=ref,
            source=JobState.STALLED,
            source_reason=job.status_reason,
            who=who,
            stalls=job.stalls,
            evidence=evidence,
        )
    if job.on_stall == "hold" and job.cancel_code is None:
        return HoldJob(job=ref, source=JobState.STALLED, source_reason=job.status_reason, who=who, code="policy")
    return ResumeJob(
        job=ref,
        source=JobState.STALLED,
        source_reason=job.status_reason,
        who=who,
        probation=0 < job.max_stalls - 1 <= job.stalls,
    )


def _evidence(store: Store, job: JobRecord) -> tuple[str, ...]:
    with store.reading() as reads:
        stalls = reads.events(EventFilter(job_id=job.job_id, types=("workflow_recovery",), limit=100))
    return tuple(event.event_id for event in stalls[-job.stalls :])


def end_orphans(store: Store, journal: Journal, me: EngineId, *, set_aside: SetAside) -> int:
    """Ask the live, attached children of jobs that have ended to end too; return how many were asked."""
    aside: list[Unreadable] = []
    with store.reading() as reads:
        parents = reads.open_parents()
        children = reads.orphans(parents, aside=aside) if parents else []
    set_aside("jobs", aside)
    commands = [end_of_orphan(child, me) for child in children]
    return sum(error is None for error in journal.execute_all(commands))


def end_of_orphan(child: JobRecord, me: EngineId) -> Command:
    """Return what ends a child whose parent has ended: at once when it never began, by one last run otherwise."""
    return decide_end(
        child, system(me), code="cancel", reason=PARENT_ENDED, force=False, open_decisions=(), orphan=True
    )
