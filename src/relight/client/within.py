"""Submitting within the caller's own transaction: the job is there exactly if that transaction commits.

Whoever submits so is a writer of its own, which opens, speaks and closes in one batch: a rollback takes its whole chain
away, and no other writer waits for the caller's commit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from relight.authoring.workflows import SubmitOptions
from relight.client.core import Core
from relight.core.chain import START
from relight.core.commands import Command
from relight.core.commands.engines import CloseWriterNow
from relight.core.commands.jobs import NoteDuplicate, SubmitJob
from relight.core.commands.steering import ref_of
from relight.ids import EngineId
from relight.model import JobRecord
from relight.store.store import Batch, Refused
from relight.store.tickets import Ticket, batch_of

Submitted = tuple[str, str, bool]
"""A job's id, its kind, and whether it is new."""


def prepared(core: Core, what: Any, args: Sequence[Any], options: SubmitOptions) -> SubmitJob:
    """Return the command for one submit, once the gate lets it through. May wait and read; writes no job."""
    core.before_submit()
    if core.require_recovered:
        core.refuse_while_owed()
    return core.submit_command(what, args, options)


def submission(core: Core, command: SubmitJob) -> Generator[Any, Any, Submitted]:
    """Ask for what one submit needs: batches to be written, and who owns its key. See ``store.Talk``."""
    owner = yield from _owner(command)
    if owner is None:
        try:
            yield _batch(core, command)
        except Refused as refused:
            owner = yield from _owner(command)
            if owner is None:
                raise command.refused(refused.op) from None
        else:
            return command.job_id, command.kind, True
    core.refuse_other_inputs(command, owner)
    told = NoteDuplicate(job=ref_of(owner), idempotency_key=command.idempotency_key or "", who=command.who)
    yield _batch(core, told)
    return owner.job_id, owner.kind, False


def _owner(command: SubmitJob) -> Generator[Any, Any, JobRecord | None]:
    if command.idempotency_key is None:
        return None
    owner: JobRecord | None = yield command.kind, command.idempotency_key
    return owner


def _batch(core: Core, command: Command) -> Batch:
    """Return a whole writer's life around one command."""
    now_ms = core.clock.now_ms()
    writer = EngineId(core.ids.uuid7(now_ms))
    life = (core.opening(writer, heads=()), command, CloseWriterNow(engine_id=writer))
    return batch_of(writer, 1, START, [Ticket(each, each.changes(now_ms, core.ids), 0, None) for each in life])
