"""The transition table: which state of a job may follow which, and by whom. The only copy.

The statements' compare-and-set, the picture in the docs, ``why``'s actions, ``verify``'s fold and the property tests
are all made from it. Its row order is the order of the picture. Only recovery makes a job stalled (HSK-WF-003); a
completed or cancelled job is never moved again; failed and poisoned ones only by an operator's retry.
Read next: ``core/flow.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from relight.model import FINAL_STATES, JobState, RunState

_S = JobState


class By(StrEnum):
    """Who may cause a move."""

    SUBMIT = "submit"
    CLAIM = "claim"
    RUN = "run"
    RECOVERY = "recovery"
    POLICY = "policy"
    OPERATOR = "operator"
    DECISION = "decision"
    DEADLINE = "deadline"
    CRASH_LOOP = "crash_loop"
    VALIDATOR = "validator"


class Transition(NamedTuple):
    """One legal move: ``source`` is None for a new job."""

    source: JobState | None
    target: JobState
    by: frozenset[By]


def _rows(source: JobState | None, targets: dict[JobState, tuple[By, ...]]) -> Iterator[Transition]:
    return (Transition(source, target, frozenset(by)) for target, by in targets.items())


TRANSITIONS: tuple[Transition, ...] = (
    *_rows(None, {_S.QUEUED: (By.SUBMIT,)}),
    *_rows(
        _S.QUEUED,
        {
            _S.RUNNING: (By.CLAIM,),
            _S.CANCELLED: (By.OPERATOR,),
            _S.FAILED: (By.OPERATOR, By.DEADLINE, By.CLAIM),
        },
    ),
    *_rows(
        _S.RUNNING,
        {
            _S.COMPLETED: (By.RUN,),
            _S.COMPLETED_WITH_ISSUES: (By.RUN,),
            _S.FAILED: (By.RUN, By.OPERATOR),
            _S.CANCELLED: (By.RUN, By.OPERATOR),
            _S.POISONED: (By.RUN,),
            _S.AWAITING_USER: (By.RUN,),
            _S.AWAITING_VALIDATION: (By.RUN,),
            _S.QUEUED: (By.RUN,),
            _S.STALLED: (By.RECOVERY,),
        },
    ),
    *_rows(
        _S.AWAITING_VALIDATION,
        dict.fromkeys(
            (_S.AWAITING_USER, _S.QUEUED, _S.COMPLETED, _S.COMPLETED_WITH_ISSUES, _S.FAILED, _S.CANCELLED, _S.POISONED),
            (By.VALIDATOR,),
        ),
    ),
    *_rows(
        _S.AWAITING_USER,
        {
            _S.QUEUED: (By.DECISION, By.OPERATOR, By.DEADLINE),
            _S.FAILED: (By.OPERATOR, By.DEADLINE),
            _S.CANCELLED: (By.OPERATOR,),
            _S.POISONED: (By.OPERATOR,),
        },
    ),
    *_rows(
        _S.STALLED,
        {
            _S.QUEUED: (By.POLICY, By.OPERATOR),
            _S.FAILED: (By.OPERATOR, By.DEADLINE),
            _S.CANCELLED: (By.OPERATOR,),
            _S.POISONED: (By.CRASH_LOOP, By.OPERATOR),
        },
    ),
    *_rows(_S.FAILED, {_S.QUEUED: (By.OPERATOR,)}),
    *_rows(_S.POISONED, {_S.QUEUED: (By.OPERATOR,)}),
)

_LEGAL = {(t.source, t.target): t.by for t in TRANSITIONS}

RUN_ENDS: dict[RunState, frozenset[JobState]] = {
    RunState.COMPLETED: frozenset({_S.COMPLETED, _S.COMPLETED_WITH_ISSUES}),
    RunState.FAILED: frozenset({_S.FAILED}),
    RunState.CANCELLED: frozenset({_S.CANCELLED}),
    RunState.SUSPENDED: frozenset({_S.QUEUED, _S.AWAITING_USER, _S.AWAITING_VALIDATION}),
    RunState.STALLED: frozenset({_S.STALLED}),
    RunState.POISONED: frozenset({_S.POISONED}),
}
"""The end of a run, and the states its job may take in the same transaction."""


def is_legal(source: JobState | None, target: JobState, by: By | None = None) -> bool:
    """Tell whether a job may go from ``source`` to ``target``, caused by ``by`` (None: by anybody)."""
    allowed = _LEGAL.get((source, target))
    return allowed is not None and (by is None or by in allowed)


def sources_of(target: JobState, by: By) -> frozenset[JobState]:
    """Return the states from which ``by`` may move a job to ``target``: what a compare-and-set has to expect."""
    return frozenset(t.source for t in TRANSITIONS if t.target is target and by in t.by and t.source is not None)


def targets_of(source: JobState | None) -> frozenset[JobState]:
    """Return the states that may follow ``source``; empty for a state that is never left."""
    return frozenset(t.target for t in TRANSITIONS if t.source is source)


NEVER_LEFT = frozenset(state for state in FINAL_STATES if not targets_of(state))
"""Completed, completed with issues, and cancelled."""
