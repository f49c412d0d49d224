"""What a job's code decides once and for all, and a replay decides again in the same way: each is a recorded value.

Which branch won a race, whether this place of the code was passed before an edit, which items of a ``parallel`` were never
begun. The record is on disk before, or together with, anything that acts on it. Read next: ``waits.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from relight.core.commands import JobRef
from relight.core.commands.steps import RecordValue
from relight.core.flow import INLINE_CHARS, Enter, Flow, Mismatch, Persist, Stow, Unstow
from relight.core.history import RACE, History
from relight.core.keys import branch_of
from relight.ids import StepKey
from relight.model import StepKind, StepState


class Winner(msgspec.Struct, frozen=True):
    """How a race ended: the number of the branch that was first, and the lines of those that were cut short."""

    winner: int
    lost: tuple[str, ...] = ()


def chosen(history: History, key: StepKey, type_: Any) -> Flow:
    """Return what was decided under a key in an earlier run, or None when nothing was."""
    record = history.call(key)
    if record is None or record.state is not StepState.COMPLETED:
        return None
    if record.kind is not StepKind.VALUE:
        yield Mismatch(key, "other_kind", f"recorded as {record.kind}, now a {StepKind.VALUE}", "", "")
    text: str = yield Unstow(record.outcome or "null")
    return msgspec.json.decode(text, type=type_)


def chosen_winner(history: History, key: StepKey, count: int) -> Flow:
    """Return the recorded ``Winner`` of a race between ``count`` branches, or None."""
    known: Winner | None = yield from chosen(history, key, Winner)
    if known is not None and known.winner >= count:
        yield Mismatch(key, "outcome", f"branch {known.winner} won this race, which now has {count} branches", "", "")
    return known


def choose_winner(job: JobRef, key: StepKey, winner: int, lost: Sequence[str]) -> Flow:
    """Record the winner of a race; it is on disk when this returns."""
    yield Enter(key)
    text = msgspec.json.encode(Winner(winner, tuple(lost))).decode()
    yield Persist(RecordValue(job=job, step_key=key, name=RACE, outcome=text))


def choose_skipped(job: JobRef, key: StepKey, skipped: Collection[str]) -> Flow:
    """Record which items of a ``parallel`` were never begun, because too many had failed."""
    yield Enter(key)
    text = msgspec.json.encode(sorted(skipped)).decode()
    stored = text if len(text) <= INLINE_CHARS else (yield Stow(text))
    yield Persist(RecordValue(job=job, step_key=key, name="skipped", outcome=stored), lazy=True)


def is_patched(history: History, job: JobRef, key: StepKey) -> Flow:
    """Tell whether a place of the code is to run as edited: not when an earlier run had come further than here."""
    known: bool | None = yield from chosen(history, key, bool)
    if known is not None:
        return known
    yield Enter(key)
    fresh = not history.passed(branch_of(key))
    text = "true" if fresh else "false"
    yield Persist(RecordValue(job=job, step_key=key, name="patched", outcome=text), lazy=True)
    return fresh
