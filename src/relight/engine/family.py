"""A run and its child jobs: the commands that submit them, and how they are asked to end. Part of the ``Conductor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.authoring.context import SCOPE
from relight.authoring.workflows import BaseWorkflow, Call
from relight.core.changes import Who
from relight.core.children import child_id, first_id
from relight.core.commands import JobRef
from relight.core.commands.steering import decide_end, system
from relight.engine.run import Run
from relight.errors import Conflict, Fenced
from relight.model import Actor
from relight.store.tickets import Ticket

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation


def in_cleanup() -> bool:
    """Tell whether the code that runs here is inside ``with cleanup():``."""
    scope = SCOPE.get()
    return scope is not None and scope.cleanup


class Family:
    """See the module."""

    run: Run
    ref: JobRef
    engine: Incarnation

    def child_command(self, call: Call[Any], parent_key: str, index: int, detached: bool) -> Any:
        """Make the command that submits a child: its id is fixed by the parent and the place of the call."""
        job = self.run.job
        self._must_be_known(call.workflow)
        return self.engine.registry.submit_command(
            call,
            job_id=child_id(job.job_id, parent_key, index),
            trace_id=job.trace_id,
            who=Who(Actor.AGENT, job.kind),
            now_ms=self.engine.clock.now_ms(),
            parent=(job.job_id, parent_key, detached),
        )

    def _must_be_known(self, workflow: BaseWorkflow[..., Any]) -> None:
        registry, store, kind = self.engine.registry, self.engine.store, workflow.kind
        if not registry.knows(workflow):
            with store.reading() as reads:
                known = {name for name, _ in reads.kinds()}
            if kind not in known:
                raise registry.unknown(kind, {*known, *registry.kinds}, store.place)

    def first_child_id(self, parent_key: str, index: int, started: str) -> str:
        """Return under which id a place started its child first: by that, waits for the child are named."""
        return first_id(self.run.job.job_id, parent_key, index, started, self.run.job.attempt)

    def cancel_child(self, job_id: str, reason: str | None) -> None:
        """Ask a child to end: at once when it never began. Not while the run is being put away."""
        self.run.check_enter(in_cleanup=in_cleanup(), mono_ms=self.engine.clock.mono_ms())
        self._end_child(job_id, reason, tries=8)

    def _end_child(self, job_id: str, reason: str | None, tries: int) -> None:
        """Decide on the child as it is, and again when it has moved meanwhile. Waits for nothing."""
        with self.engine.store.reading() as reads:
            child = reads.job(job_id)
        if child is None or child.completed_at is not None or child.cancel_code is not None:
            return
        ends = decide_end(
            child, system(self.engine.engine_id), code="cancel", reason=reason, force=False, open_decisions=()
        )

        def told(tickets: list[Ticket]) -> None:
            error = tickets[0].error
            if isinstance(error, Conflict) and not isinstance(error, Fenced) and tries > 0:
                self._end_child(job_id, reason, tries - 1)

        self.engine.journal.put(ends, waker=told)
