"""What happens to stalled jobs after the gate: resume them, hold them, put them on probation, or give them up.

Recovery only states facts; this decides. ``on_stall="resume"`` (default) queues a stalled job again, ``"hold"`` leaves it to
an operator. A job whose engine died again and again while one of its steps was in flight, without a new checkpoint in
between, is a suspect: after ``max_stalls - 1`` such stalls it is resumed *alone* (probation), and one more poisons it.
Bystanders go on. Held jobs (their owner is stopped, not dead) are not touched.
"""

from __future__ import annotations

from relight.core.commands import Command
from relight.core.commands.steering import HoldJob, PoisonJob, ResumeJob, decide_end, ref_of, system
from relight.errors import Conflict
from relight.ids import EngineId
from relight.model import JobRecord, JobState
from relight.store.journal import Journal
from relight.store.reads import EventFilter
from relight.store.store import Store

PAGE = 500


def act_on_stalled(store: Store, journal: Journal, me: EngineId) -> int:
    """Apply each stalled job's policy; return how many were acted on. Whoever is second is refused, and that is well."""
    after, acted = "", 0
    while True:
        with store.reading() as reads:
            page = reads.stalled(after, PAGE)
        if not page:
            return acted
        after = page[-1].job_id
        commands = [command for job in page if (command := _decide(store, job, me)) is not None]
        for error in journal.execute_all(commands):
            acted += error is None
            if error is not None and (not isinstance(error, Conflict) or not error.fields.get("op")):
                raise error


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


def end_orphans(store: Store, journal: Journal, me: EngineId) -> int:
    """Ask the live, attached children of jobs that have ended to end too; return how many were asked."""
    with store.reading() as reads:
        parents = reads.open_parents()
        children = reads.orphans(parents) if parents else []
    commands = [end_of_orphan(child, me) for child in children]
    return sum(error is None for error in journal.execute_all(commands))


def end_of_orphan(child: JobRecord, me: EngineId) -> Command:
    """Return what ends a child whose parent has ended: at once when it never began, by one last run otherwise."""
    return decide_end(child, system(me), code="cancel", reason="its parent ended", force=False, open_decisions=())
