"""Where an earlier run left a step that has a record and no outcome: which try is next, and which one nobody knows about."""

from __future__ import annotations

import msgspec

from relight.core.failure import Failure
from relight.model import InDoubtPolicy, StepRecord, StepState


class FailedTry(Failure, frozen=True, kw_only=True, omit_defaults=True):
    """A failure as recorded of a try: with when the step's first try began, by which ``total_seconds`` counts."""

    first_at: int = 0


class Stopped(msgspec.Struct, frozen=True):
    """Where an earlier run left a step.

    The next try's number, the try nobody knows about, when to go on (0: now), and when its first try began (0: now).
    """

    next_try: int
    doubtful_try: int | None = None
    resume_at: int = 0
    first_at: int = 0


def where_it_stopped(record: StepRecord, policy: InDoubtPolicy) -> Stopped:
    """Tell how to go on with a step that has a record but no outcome.

    A try that a crash cut keeps its number, whatever was recorded of the tries before it. A step that an operator's retry
    opened again has its tries counted anew; if nobody knows about its last one, that is settled first as ever (only where
    the policy is to fail, the retry was the answer).
    """
    last = msgspec.json.decode(record.error, type=FailedTry) if record.error else None
    begun = record.state in (StepState.RUNNING, StepState.IN_DOUBT)
    first_at = last.first_at if last is not None and last.first_at else record.begun_at
    if begun and (last is None or last.tries < record.try_number):
        return Stopped(record.try_number, record.try_number, 0, first_at)
    uncertain = last is not None and not last.certain
    if record.try_number == 0:
        # Without a failure it was cancelled while it ran.
        asks = (uncertain or last is None) and policy in ("ask", "reconcile")
        return Stopped(1, (last.tries if last is not None else 1) if asks else None)
    doubtful_try = record.try_number if begun or uncertain else None
    return Stopped(record.try_number + 1, doubtful_try, record.until or 0, first_at)
