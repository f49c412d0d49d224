"""Forks: a new job of what another one has finished. The other job, in whatever state, is only read.

What is taken over is every step finished before the chosen one *began*, in commit order, so that the new job stands where
the old one stood then: its code finds those outcomes (messages read, answers given, children started and their results
among them) and calls everything after them. Without a chosen step all that finished is taken over, but for the failures
that ended the job: like a retry, beside the job instead of in it. The fork has not begun yet: it is claimed under the newest
version of its kind that there is, and replay finds out whether the record fits. What exactly is taken over: ``core/forks.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from relight.client.submitting import Submitting
from relight.codec import canonical_hash
from relight.core.commands.jobs import ForkJob, SubmitJob
from relight.core.commands.steering import ref_of
from relight.core.flow import STOWED
from relight.core.forks import BEGIN, END, Story, steps_to_copy, token_text
from relight.core.sizes import size_of
from relight.errors import Conflict, Fenced
from relight.ids import JobId, StepKey
from relight.model import JobRecord, StepKind
from relight.store.reads import EventFilter

TRIES = 8
"""How often a fork is decided anew when its source keeps moving."""

Edit = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes new arguments, as JSON values by name, of the recorded ones."""


class Forking(Submitting):
    """A session that forks."""

    def fork(self, job_id: str, *, from_step: str | None, by: str | None, edit: Edit | None = None) -> JobRecord:
        """Make a new job of a job's finished steps; return its row. See the module.

        ``from_step`` is the first step that is called again. ``edit`` changes the arguments: steps taken over that depend on
        them then differ from their record, and the job stops for an operator there. Raises ``NotFound``,
        ``InvalidArgument`` for a step that is not recorded, ``Conflict`` when an open token stands before what is taken over.
        Events: ``job_accepted``, and ``job_forked`` in the source.
        """
        self.before_submit()
        for attempt in range(TRIES):
            command = self._decide_fork(job_id, from_step, by, edit)
            try:
                self.journal.execute(command, patience_seconds=self.patience_seconds)
            except Fenced:
                raise
            except Conflict:  # a step of the source was opened again in the same moment
                if attempt == TRIES - 1:
                    raise
            else:
                return self.find(command.new.job_id)
        raise AssertionError("unreachable")

    def _decide_fork(self, job_id: str, from_step: str | None, by: str | None, edit: Edit | None) -> ForkJob:
        source = self.find(job_id)
        with self.store.reading(snapshot=True) as reads:
            steps = reads.steps(job_id)
            told = reads.events(EventFilter(job_id=job_id, types=(*BEGIN, *END), limit=0))
            texts = [token_text(step) for step in steps if step.kind is StepKind.TOKEN and step.outcome]
            tokens = {text: token for text in texts if (token := reads.token(text)) is not None}
        kept = steps_to_copy(source, Story(steps, told, tokens), from_step)
        return ForkJob(
            source=ref_of(source),
            new=self._new_job(source, by, edit),
            from_step=None if from_step is None else StepKey(from_step),
            steps=tuple(kept),
        )

    def _new_job(self, source: JobRecord, by: str | None, edit: Edit | None) -> SubmitJob:
        now_ms = self.clock.now_ms()
        workflow = self.registry.find(source.kind)
        inputs, inputs_hash = source.inputs or "{}", source.inputs_hash
        inputs_bytes = size_of(self._in_full(source.inputs or "{}"))
        if edit is not None:
            edited = edit(msgspec.json.decode(self._in_full(source.inputs or "{}")))
            inputs = self.registry.codecs.for_type(Any, what="arguments").encode(edited, what="arguments").decode()
            inputs_hash, inputs_bytes = canonical_hash(inputs.encode()), size_of(inputs)
            if workflow is not None:
                self.registry.signature(workflow.spec.function).load(inputs.encode())
        new = SubmitJob(
            job_id=JobId(self.ids.uuid7(now_ms)),
            trace_id=self.ids.uuid7(now_ms),
            kind=source.kind,
            version=source.version if workflow is None else workflow.spec.version,
            inputs=inputs,
            inputs_hash=inputs_hash,
            inputs_bytes=inputs_bytes,
            who=self.who(by),
            queue=source.queue,
            priority=source.priority,
            on_stall=source.on_stall,
            max_stalls=source.max_stalls,
            partition_key=source.partition_key,
            tags=source.tags,
            forked_from=source.job_id,
        )
        return new if inputs.startswith(STOWED) else self._stowed(new)
