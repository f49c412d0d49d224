"""``parallel``: the same for many items, up to a limit at once, each item in a branch of its own.

How many items may fail is a matter of the call: without a tolerance all are tried and all failures raised together; with one
the result is ``Outcomes``, and an item that failed within it is an issue of the job. Once more have failed than may, no
further item is begun, which is recorded; what has begun is finished. Read next: ``branches.py``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from relight.authoring.context import SCOPE, ItemCount, Scope, in_body, refuse_on_loop
from relight.authoring.options import check_key
from relight.authoring.steps import AsyncStep, Step
from relight.core import choices
from relight.core.failure import failure_of
from relight.core.flow import Flow
from relight.core.keys import Branch, explicit_key
from relight.errors import InvalidArgument, StepFailed
from relight.ids import StepKey, derived_uuid7
from relight.model import Outcomes

A = TypeVar("A")
R = TypeVar("R")

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
        self._ended = self._failed = self._round = 0
        self._known: frozenset[str] | None = None
        self._lock = threading.Lock()

    def tolerate(self, max_failed: Any, max_failed_share: Any, min_ok: Any) -> FanOut:
        """Set how many items may fail, and say that it begins."""
        self.allowed = tolerance(len(self.arms), max_failed, max_failed_share, min_ok)
        if self.arms:
            self._count()
        return self

    @property
    def has_too_many_failed(self) -> bool:
        """Whether more items have failed than may."""
        return self.allowed is not None and self._failed > self.allowed

    # In rounds: ask the record, call the arms that it gives, record what was skipped. One round is all, but for a replay: it
    # passes over what an earlier run skipped, which has its turn once an operator's retry has made good what had failed.

    @property
    def goes_on(self) -> bool:
        """Whether there is a (further) round."""
        if self._round == 0:
            return True
        return self._known is not None and not self.has_too_many_failed and bool(self._open())

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
        return self.has_too_many_failed and not self.has_begun([arm], 0)

    def has_begun(self, arms: Sequence[Arm], number: int) -> bool:
        """Tell whether an earlier run had begun one of some items."""
        history, arm = self.scope.run.history, arms[number]
        return history.has_begun(arm.branch.path) or (arm.key is not None and history.peek(arm.key) is not None)

    def ended(self, arm: Arm, outcome: Any) -> Any:
        """Note what became of an item. Called from any arm's thread."""
        with self._lock:
            self.outcomes[arm.index] = outcome
            self._ended += 1
            self._failed += isinstance(outcome, ArmFailed)
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
        if self.allowed is None or len(failed) > self.allowed:
            raise self._group([error for _, error in failed])
        told = {arm.index: _as_step_failed(arm, error) for arm, error in failed}
        self._note_issues(list(told.values()))
        return Outcomes([told.get(arm.index, self.outcomes[arm.index]) for arm in self.arms])

    def _has_failed(self, arm: Arm) -> bool:
        return isinstance(self.outcomes[arm.index], ArmFailed)

    def _group(self, errors: list[Exception]) -> ExceptionGroup[Exception]:
        group = ExceptionGroup(f"{len(errors)} of {len(self.arms)} items of parallel({self.name}, …) failed", errors)
        left = len(self._open())
        if left:
            group.add_note(f"{left} items were not begun, because at most {self.allowed} may fail")
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
            named = scope.branch.named(derived_uuid7("0" * 36, mine)[-12:])
            yield Arm(fn, named, item, index, mine, None)


def _as_step_failed(arm: Arm, error: Exception) -> StepFailed:
    """Return an item's failure as one type: an error that is none of a step's names the arm's branch instead."""
    if isinstance(error, StepFailed):
        return error
    return failure_of(error).as_step_failed(arm.key or arm.branch.path)


def _limit(scope: Scope, limit: int | None) -> int:
    if limit is None:
        return scope.run.default_limit()
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"parallel(limit={limit!r}): a whole number, 1 or more, or None")
    return limit


class _Parallel:
    """Call ``fn`` for each item, up to ``limit`` at once; return the results in the order of the items.

    ``fn`` is a step, or any one-argument callable that may call several; each item is a branch of its own. ``key`` names each
    item, so that a changed list finds its checkpoints again. Without a tolerance all items are tried; if any failed, one
    ``ExceptionGroup`` of all failures is raised.

    With one of ``max_failed`` (so many), ``max_failed_share`` (so many of all, 0 to 1) and ``min_ok`` (all but so many) the
    result is ``Outcomes``, and items that failed are issues: the job ends ``completed_with_issues``. When more have failed,
    no further item is begun, and the same group is raised. Raises ``InvalidArgument`` when ``min_ok`` is more than the items.
    """

    @overload
    def __call__(
        self,
        fn: AsyncStep[[A], R],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    @overload
    def __call__(
        self,
        fn: AsyncStep[[A], R],
        items: Iterable[A],
        *,
        max_failed: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        max_failed: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    def __call__(
        self,
        fn: AsyncStep[[A], R],
        items: Iterable[A],
        *,
        max_failed_share: float,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        max_failed_share: float,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    def __call__(
        self,
        fn: AsyncStep[[A], R],
        items: Iterable[A],
        *,
        min_ok: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        min_ok: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    def __call__(
        self,
        fn: Any,
        items: Any,
        *,
        max_failed: Any = None,
        max_failed_share: Any = None,
        min_ok: Any = None,
        limit: int | None = None,
        key: Any = None,
    ) -> Any:
        scope = in_body("parallel")
        refuse_on_loop(scope, "parallel()", "await parallel.aio(…)")
        at_once = _limit(scope, limit)
        fan = FanOut(scope, fn, items, key).tolerate(max_failed, max_failed_share, min_ok)
        while fan.goes_on:
            arms = fan.arms_to_call(scope.run.drive(fan.ask()))
            begun = functools.partial(fan.has_begun, arms)
            scope.run.run_arms([_in_thread(fan, arm) for arm in arms], at_once, begun)
            record = fan.to_record()
            if record is not None:
                scope.run.drive(record)
        return fan.result()

    @overload
    async def aio(
        self,
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> list[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A],
        *,
        max_failed: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        max_failed: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A],
        *,
        max_failed_share: float,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        max_failed_share: float,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], Coroutine[Any, Any, R]],
        items: Iterable[A],
        *,
        min_ok: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    @overload
    async def aio(
        self,
        fn: Callable[[A], R],
        items: Iterable[A],
        *,
        min_ok: int,
        limit: int | None = None,
        key: Callable[[A], str] | None = None,
    ) -> Outcomes[R]: ...
    async def aio(
        self,
        fn: Any,
        items: Any,
        *,
        max_failed: Any = None,
        max_failed_share: Any = None,
        min_ok: Any = None,
        limit: int | None = None,
        key: Any = None,
    ) -> Any:
        """Call for each item, in async code."""
        import asyncio

        scope = in_body("parallel")
        gate = asyncio.Semaphore(_limit(scope, limit))
        fan = FanOut(scope, fn, items, key).tolerate(max_failed, max_failed_share, min_ok)
        while fan.goes_on:
            arms = fan.arms_to_call(await scope.run.drive_async(fan.ask()))
            quiet = SCOPE.set(None)  # the arms' branches are numbered already; their tasks need no number of their own
            try:
                tasks = [asyncio.ensure_future(_on_loop(fan, arm, gate)) for arm in arms]
            finally:
                SCOPE.reset(quiet)
            for task, arm in zip(tasks, arms, strict=True):
                scope.run.adopt(task, arm.branch.path)
            await asyncio.gather(*tasks)
            record = fan.to_record()
            if record is not None:
                await scope.run.drive_async(record)
        return fan.result()


def _in_thread(fan: FanOut, arm: Arm) -> Callable[[], Any]:
    scope = fan.scope

    def run() -> Any:
        if fan.is_to_skip(arm):
            return SKIPPED
        token = SCOPE.set(Scope(scope.run, arm.branch, None, scope.cleanup))
        try:
            got = arm.call.sync(arm.item) if isinstance(arm.call, AsyncStep) else arm.call(arm.item)
        except Exception as error:  # boundary: a failed arm is an outcome, raised with the others
            got = ArmFailed(error)
        finally:
            SCOPE.reset(token)
        return fan.ended(arm, got)

    return run


async def _on_loop(fan: FanOut, arm: Arm, gate: Any) -> Any:
    async with gate:
        if fan.is_to_skip(arm):
            return SKIPPED
        token = SCOPE.set(Scope(fan.scope.run, arm.branch, None, fan.scope.cleanup))
        try:
            got = arm.call.aio(arm.item) if isinstance(arm.call, Step) else arm.call(arm.item)
            got = await got if hasattr(got, "__await__") else got
        except Exception as error:  # boundary: a failed arm is an outcome, raised with the others
            got = ArmFailed(error)
        finally:
            SCOPE.reset(token)
        return fan.ended(arm, got)


parallel = _Parallel()
