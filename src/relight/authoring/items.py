"""What ``parallel`` keeps of its items: the arms, how each ended, how many may fail, and what is said of it meanwhile.

Sync and async code drive it alike, in rounds; nothing here waits. Read next: ``fanout.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relight.authoring.context import ItemCount, Scope
from relight.authoring.options import check_key
from relight.authoring.steps import AsyncStep, Step
from relight.core import choices
from relight.core.failure import failure_of, is_recorded
from relight.core.flow import Flow
from relight.core.keys import Branch, explicit_key, item_name
from relight.errors import InvalidArgument, StepFailed
from relight.ids import StepKey
from relight.model import Outcomes

TOLD_ISSUES = 100
"""How many failed items of one ``parallel`` are issues of their own; those beyond are counted in one."""
DETAIL_CHARS = 300


@dataclass(frozen=True)
class ArmFailed:
    """How an arm of ``parallel`` failed."""

    error: Exception


class _Skipped:
    """Stands for the outcome of an item that was never begun."""


SKIPPED = _Skipped()


@dataclass(frozen=True)
class Arm:
    """One item: what is called with it, in which branch, and what it is known by in the record."""

    call: Any
    branch: Branch
    item: Any
    index: int
    name: str
    key: StepKey | None


def tolerance(count: int, max_failed: Any, max_failed_share: Any, min_ok: Any) -> int | None:
    """Return how many of ``count`` items may fail; None when no tolerance was given. Raises ``InvalidArgument``."""
    options = {"max_failed": max_failed, "max_failed_share": max_failed_share, "min_ok": min_ok}
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    if len(given) > 1:
        raise InvalidArgument(
            f"parallel({', '.join(f'{name}=' for name in given)}): they say the same in other ways; give one"
        )
    ((name, value),) = given.items()
    if name == "max_failed_share":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InvalidArgument(f"parallel(max_failed_share={value!r}): a share of the items, from 0 to 1")
        return int(value * count + 1e-9)  # 0.29 of 100 is 29, whatever floats make of it
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(f"parallel({name}={value!r}): a whole number of items, 0 or more")
    if name == "max_failed":
        return int(value)
    if value > count:
        raise InvalidArgument(f"parallel(min_ok={value}) of {count} items: so many cannot succeed, and none was tried")
    return int(count - value)


class FanOut:
    """One call of ``parallel``: its arms, what became of them, and what is said of it."""

    def __init__(self, scope: Scope, fn: Any, items: Iterable[Any], key: Callable[[Any], str] | None) -> None:
        self.scope = scope
        self.name = str(getattr(fn, "name", getattr(fn, "__name__", "fn")))
        self.place = scope.branch.next_key("parallel")
        self.arms = list(_arms(scope, fn, items, key))
        self.allowed: int | None = None
        self.outcomes: list[Any] = [SKIPPED] * len(self.arms)
        self._ended = self._failed = self._bugs = self._round = 0
        self._known: frozenset[str] | None = None
        self._lock = threading.Lock()

    def tolerate(self, max_failed: Any, max_failed_share: Any, min_ok: Any) -> FanOut:
        """Set how many items may fail, and say that it begins."""
        self.allowed = tolerance(len(self.arms), max_failed, max_failed_share, min_ok)
        if self.arms:
            self._count()
        return self

    @property
    def is_hopeless(self) -> bool:
        """Whether more items have failed than may, or one in a way that no tolerance is for: by a bug in its own code."""
        return self.allowed is not None and (self._failed > self.allowed or self._bugs > 0)

    # In rounds: ask the record, call the arms that it gives, record what was skipped. One round is all, but for a replay: it
    # passes over what an earlier run skipped, which has its turn once an operator's retry has made good what had failed.

    @property
    def goes_on(self) -> bool:
        """Whether there is a (further) round."""
        if self._round == 0:
            return True
        return self._known is not None and not self.is_hopeless and bool(self._open())

    def ask(self) -> Flow:
        """Begin a round: ask which items an earlier run skipped in it."""
        self._round += 1
        return choices.chosen(self.scope.run.history, self._key_of(self._round - 1), list[str])

    def arms_to_call(self, skipped: list[str] | None) -> list[Arm]:
        """Return the arms of this round."""
        self._known = None if skipped is None else frozenset(skipped)
        passed_over = self._known or frozenset()
        return [arm for arm in self._open() if arm.name not in passed_over]

    def to_record(self) -> Flow | None:
        """Return what records the items that were skipped in this round, if any were."""
        left = [arm.name for arm in self._open()]
        if self._known is not None or not left:
            return None
        return choices.choose_skipped(self.scope.run.ref, self._key_of(self._round - 1), left)

    def _key_of(self, number: int) -> StepKey:
        return self.place if number == 0 else StepKey(f"{self.place}~{number}")

    def _open(self) -> list[Arm]:
        return [arm for arm in self.arms if self.outcomes[arm.index] is SKIPPED]

    def is_to_skip(self, arm: Arm) -> bool:
        """Tell whether an item is not to be begun any more. One that an earlier run began is finished all the same."""
        return self.is_hopeless and not self.has_begun([arm], 0)

    def has_begun(self, arms: Sequence[Arm], number: int) -> bool:
        """Tell whether an earlier run had begun one of some items."""
        history, arm = self.scope.run.history, arms[number]
        return history.has_begun(arm.branch.path) or (arm.key is not None and history.peek(arm.key) is not None)

    def ended(self, arm: Arm, outcome: Any) -> Any:
        """Note what became of an item. Called from any arm's thread."""
        with self._lock:
            self.outcomes[arm.index] = outcome
            self._ended += 1
            if isinstance(outcome, ArmFailed):
                self._failed += 1
                self._bugs += not is_recorded(outcome.error)
            self._count()
        return outcome

    def _count(self) -> None:
        counted = ItemCount(self.place, self.name, self._ended, len(self.arms), self._failed, self.allowed)
        self.scope.run.count_items(counted)

    def result(self) -> Any:
        """Return the results, or the outcomes when failures are tolerated. Raises all failures together when they are not."""
        self.scope.run.stop_counting(self.place)
        failed = [(arm, self.outcomes[arm.index].error) for arm in self.arms if self._has_failed(arm)]
        if self.allowed is None and not failed:
            return self.outcomes
        if self.allowed is None or self.is_hopeless:
            raise self._group([error for _, error in failed])
        told = {arm.index: _as_step_failed(arm, error) for arm, error in failed}
        self._note_issues(list(told.values()))
        return Outcomes([told.get(arm.index, self.outcomes[arm.index]) for arm in self.arms])

    def _has_failed(self, arm: Arm) -> bool:
        return isinstance(self.outcomes[arm.index], ArmFailed)

    def _group(self, errors: list[Exception]) -> ExceptionGroup[Exception]:
        group = ExceptionGroup(f"{len(errors)} of {len(self.arms)} items of parallel({self.name}, …) failed", errors)
        left = len(self._open())
        if left and len(errors) > (self.allowed or 0):
            group.add_note(f"{left} items were not begun, because at most {self.allowed} may fail")
        elif left:
            group.add_note(f"{left} items were not begun")
        bug = next((error for error in errors if self.allowed is not None and not is_recorded(error)), None)
        if bug is not None:
            group.add_note(
                f"{type(bug).__name__} came from the workflow's own code, outside its steps. A tolerance is for items whose "
                "steps failed; raise StepError(…) to say so of an item"
            )
        return group

    def _note_issues(self, failures: Sequence[StepFailed]) -> None:
        note = self.scope.run.note_issue
        for number, failure in enumerate(failures[:TOLD_ISSUES]):
            detail = f"{failure.step_key}: {failure.error_type}: {failure.message}"
            note(f"{self.place}/{number}", "item_failed", detail[:DETAIL_CHARS])
        beyond = len(failures) - TOLD_ISSUES
        if beyond > 0:
            note(
                f"{self.place}/more",
                "items_failed",
                f"{beyond} more of {len(self.arms)} items of parallel({self.name}, …)",
            )


def _arms(scope: Scope, fn: Any, items: Iterable[Any], key: Callable[[Any], str] | None) -> Iterator[Arm]:
    for index, item in enumerate(items):
        branch = scope.branch.child()
        if key is None:
            yield Arm(fn, branch, item, index, str(index), None)
            continue
        mine = check_key(getattr(fn, "__name__", "fn"), key(item))
        if isinstance(fn, (Step, AsyncStep)):
            yield Arm(fn.options(key=mine), branch, item, index, mine, explicit_key(fn.name, mine))
        else:
            named = scope.branch.named(item_name(mine))
            yield Arm(fn, named, item, index, mine, None)


def _as_step_failed(arm: Arm, error: Exception) -> StepFailed:
    """Return an item's failure as one type: an error that is none of a step's names the arm's branch instead."""
    if isinstance(error, StepFailed):
        return error
    return failure_of(error).as_step_failed(arm.key or arm.branch.path)
