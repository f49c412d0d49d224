"""``parallel``: the same for many items, up to a limit at once, each item in a branch of its own.

How many items may fail is a matter of the call: without a tolerance all are tried and all failures raised together; with one
the result is ``Outcomes``, and an item that failed within it is an issue of the job. Once more have failed than may, no
further item is begun, which is recorded; what has begun is finished. Read next: ``items.py``, ``branches.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, overload

from relight.authoring.context import SCOPE, Scope, in_body, refuse_on_loop
from relight.authoring.items import SKIPPED, Arm, ArmFailed, FanOut
from relight.authoring.steps import AsyncStep, Step
from relight.errors import InvalidArgument
from relight.model import Outcomes

A = TypeVar("A")
R = TypeVar("R")


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
    no further item is begun, and the same group is raised. An item has failed when what is on record has (a step, a child, a
    wait's limit) or ``fn`` raises ``StepError``; any other error of its code is a bug, which no tolerance is for: it ends the
    whole as one failure too many does, so that ``relight retry`` goes on after its fix. Raises ``InvalidArgument`` when ``min_ok`` is more than the items.
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
