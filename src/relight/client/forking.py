"""Forks: a new job of what another one has finished. The other job, in whatever state, is only read.

What is taken over is every step finished before the chosen one *began*, in commit order, so that the new job stands where
the old one stood then: its code finds those outcomes (messages read, answers given, children started and their results
among them) and calls everything after them. Without a chosen step all that finished is taken over, but for the failures
that ended the job: like a retry, beside the job instead of in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from relight.client.submitting import Submitting
from relight.codec import canonical_hash
from relight.core.commands.jobs import ForkJob, SubmitJob
from relight.core.commands.steering import failures_that_ended, ref_of
from relight.core.flow import STOWED
from relight.errors import Conflict, Fenced, InvalidArgument, StorageCorrupt
from relight.ids import JobId, StepKey, short
from relight.model import FINISHED_STEPS, EventRecord, JobRecord, StepRecord
from relight.store.reads import EventFilter

TRIES = 8
"""How often a fork is decided anew when its source keeps moving."""

SHOWN = 20

_BEGIN = ("step_began", "sleep_started", "wait_started")
_END = (
    *("step_finished", "step_failed", "step_reconciled", "step_abandoned"),
    *("signal_consumed", "child_finished", "decision_expired"),
)

Edit = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes new arguments, as JSON values by name, of the recorded ones."""


class Forking(Submitting):
    """A session that forks."""

    def fork(self, job_id: str, *, from_step: str | None, by: str | None, edit: Edit | None = None) -> JobRecord:
        """Make a new job of a job's finished steps; return its row. See the module.

        ``from_step`` is the first step that is called again. ``edit`` changes the arguments: steps taken over that depend on
        them then differ from their record, and the job stops for an operator there. Raises ``NotFound``,
        ``InvalidArgument`` for a step that is not recorded. Events: ``job_accepted``, and ``job_forked`` in the source.
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
            told = reads.events(EventFilter(job_id=job_id, types=(*_BEGIN, *_END), limit=0))
        kept = steps_to_copy(source, steps, told, from_step)
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
        if edit is not None:
            edited = edit(msgspec.json.decode(self._inputs_of(source)))
            inputs = self.registry.codecs.for_type(Any, what="arguments").encode(edited, what="arguments").decode()
            inputs_hash = canonical_hash(inputs.encode())
            if workflow is not None:
                self.registry.signature(workflow.spec.function).load(inputs.encode())
        new = SubmitJob(
            job_id=JobId(self.ids.uuid7(now_ms)),
            trace_id=self.ids.uuid7(now_ms),
            kind=source.kind,
            version=source.version if workflow is None else workflow.spec.version,
            inputs=inputs,
            inputs_hash=inputs_hash,
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

    def _inputs_of(self, source: JobRecord) -> str:
        text = source.inputs or "{}"
        if not text.startswith(STOWED):
            return text
        with self.store.reading() as reads:
            found = reads.blob(text.removeprefix(STOWED))
        if found is None:
            raise StorageCorrupt(
                f"the arguments of {short(source.job_id)} are missing: relight verify", job_id=source.job_id
            )
        return found


def steps_to_copy(
    source: JobRecord, steps: Sequence[StepRecord], told: Sequence[EventRecord], from_step: str | None
) -> list[StepKey]:
    """Return the keys of the steps that a fork takes over, in the order in which they began.

    Raises ``InvalidArgument`` for a step that is not recorded.
    """
    finished = [step for step in steps if step.state in FINISHED_STEPS]
    if from_step is None:
        opened = set(failures_that_ended(source.error, steps))
        return [step.step_key for step in finished if step.step_key not in opened]
    chosen = next((step for step in steps if step.step_key == from_step), None)
    if chosen is None or "?" in from_step:
        keys = [step.step_key for step in steps if "?" not in step.step_key]
        more = f" and {len(keys) - SHOWN:,} more (relight show)" if len(keys) > SHOWN else ""
        raise InvalidArgument(
            f"{source.kind} {short(source.job_id)} has no step {from_step!r:.100}. It has: {', '.join(keys[:SHOWN]) or 'none yet'}{more}",
            job_id=source.job_id,
        )
    began = min((event.seq for event in told if event.step_key == from_step and event.type in _BEGIN), default=None)
    ended: dict[str, int] = {}
    for event in told:
        if event.step_key is not None and event.type in _END:
            ended[event.step_key] = event.seq
    kept = []
    for step in finished:
        if step.step_key == from_step:
            continue
        seq = ended.get(step.step_key)
        if seq is not None and began is not None:
            before = seq < began
        else:  # values and sleeps end without an event, copied steps have none of their own: their times tell
            before = step.ended_at is not None and step.ended_at <= chosen.begun_at
        if before:
            kept.append(step.step_key)
    return kept
