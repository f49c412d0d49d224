"""What all commands share."""

from __future__ import annotations

import msgspec

from relight.core.changes import Changes, Who
from relight.core.events import Draft, EventPayload, draft
from relight.errors import Conflict, RelightError
from relight.ids import Ids, JobId, RunId
from relight.model import Actor


class JobRef(msgspec.Struct, frozen=True, gc=False):
    """A job as events name it: its id, its own trace, its kind, and the run that acts."""

    job_id: JobId
    trace_id: str
    kind: str
    run_id: RunId | None = None

    @property
    def agent(self) -> Who:
        """The job itself as an actor: its code caused the event."""
        return Who(Actor.AGENT, self.kind)


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A durable change that somebody wants."""

    def changes(self, now_ms: int, ids: Ids) -> Changes:
        """Return the rows to write and the events that tell of them."""
        raise TypeError(f"{type(self).__name__} does not say what it changes")

    def refused(self, op: str) -> RelightError:
        """Return what to raise when a precondition of ``op`` did not hold."""
        return Conflict(f"{type(self).__name__} was refused at {op}: the state on disk is another one", op=op)


def event(
    payload: EventPayload, who: Who, now_ms: int, ids: Ids, *, job: JobRef | None = None, step_key: str | None = None
) -> Draft:
    """Draft an event of a command. One that belongs to no job is its own trace."""
    event_id = ids.uuid7(now_ms)
    return draft(
        payload,
        event_id=event_id,
        ts=now_ms,
        actor=who.actor,
        actor_id=who.id,
        trace_id=event_id if job is None else job.trace_id,
        job_id=None if job is None else job.job_id,
        run_id=None if job is None else job.run_id,
        step_key=step_key,
    )
