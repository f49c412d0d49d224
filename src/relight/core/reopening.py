"""What an operator's retry of a job opens again: failed steps, waits that timed out, children that ended with their parent.

Finished records stay. What the job's code had caught stays, too: its code went another way, and its record with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from relight.core.commands.steering import ended_with_parent
from relight.core.keys import is_part
from relight.ids import JobId, StepKey, short
from relight.model import JobRecord, JobState, StepKind, StepRecord, StepState


def failures_that_ended(error: str | None, steps: Sequence[StepRecord], *, all_failed: bool = False) -> list[StepKey]:
    """Return what a retry opens: the failed steps whose failure reached the end of the job, or all failed ones.

    ``error`` is the job's failure as stored. Steps that were cancelled by such a failure (siblings in a group) had no chance,
    and are opened with them. The end of a child that reached the end of the job is looked at anew: the child may have been
    retried since.
    """
    failed = [step for step in steps if step.state is StepState.FAILED]
    failure = msgspec.json.decode(error) if error else {}
    key, kind = failure.get("step_key"), failure.get("type")
    if not all_failed and key is not None:
        failed = [step for step in failed if step.step_key == key]
    elif not all_failed and kind not in ("ExceptionGroup", "BaseExceptionGroup"):
        failed = [s for s in failed if s.error and msgspec.json.decode(s.error).get("type") == kind]
    told = "" if all_failed or kind in ("ExceptionGroup", "BaseExceptionGroup") else str(failure.get("message", ""))
    children = [s for s in steps if _ended_badly(s) and (not told or short(s.waits_for or "") in told)]
    abandoned = [s for s in steps if s.state is StepState.ABANDONED]
    return [step.step_key for step in (*failed, *children, *abandoned)] + _timed_out(steps, failure, all_failed)


def _timed_out(steps: Sequence[StepRecord], failure: Mapping[str, Any], all_failed: bool) -> list[StepKey]:
    """Return the waits whose time-out reached the end of the job: they begin anew, with all their time."""
    every = all_failed or failure.get("type") in ("ExceptionGroup", "BaseExceptionGroup")
    late = [
        step.step_key
        for step in steps
        if step.kind in (StepKind.SIGNAL, StepKind.CHILD_RESULT, StepKind.EXTERNAL)
        and step.state is StepState.COMPLETED
        and step.outcome == TIMED_OUT
        and not is_part(step.step_key)
        and (step.step_key == failure.get("step_key") or (every and not _has_default(step)))
    ]
    late += [s.step_key for s in steps if s.step_key == failure.get("step_key") and _expired(s)]
    parts = [s.step_key for s in steps if is_part(s.step_key) and s.step_key.rpartition("!")[0] in late]
    return [*late, *parts]


def _expired(step: StepRecord) -> bool:
    """Tell whether a step is a question that nobody answered in time."""
    asked = step.kind is StepKind.ASK and step.state is StepState.COMPLETED and (step.outcome or "").startswith("{")
    return asked and "expired_at" in msgspec.json.decode(step.outcome or "{}")


def _has_default(step: StepRecord) -> bool:
    return step.inputs is not None and bool(msgspec.json.decode(step.inputs).get("default"))


TIMED_OUT = '"timeout"'
"""The outcome of a wait whose time was up."""


def children_of(steps: Iterable[StepRecord]) -> dict[StepKey, list[JobId]]:
    """Return the ids that each start of children in a job returned."""
    return {
        step.step_key: msgspec.json.decode(step.outcome or "[]")
        for step in steps
        if step.kind is StepKind.CHILD and step.state is StepState.COMPLETED
    }


def starts_to_reopen(
    job: JobRecord, started: Mapping[StepKey, Sequence[JobId]], heads: Iterable[JobRecord]
) -> list[StepKey]:
    """Return the starts of children that a retry opens: of those that still live, or that ended for want of their parent."""
    anew = {
        child.job_id
        for child in heads
        if child.parent_job_id == job.job_id
        and not child.detached
        and (child.completed_at is None or ended_with_parent(child))
    }
    return [key for key, ids in started.items() if not anew.isdisjoint(ids)]


def _ended_badly(step: StepRecord) -> bool:
    """Tell whether a row is the end of a child that did not complete, as its parent has read it."""
    if step.kind is not StepKind.CHILD_RESULT or step.state is not StepState.COMPLETED:
        return False
    outcome = step.outcome or ""  # a time-out is no object
    return outcome.startswith("{") and not msgspec.json.decode(outcome)["state"].startswith(JobState.COMPLETED)
