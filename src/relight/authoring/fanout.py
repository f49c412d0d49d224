"""``parallel``: the same for many items, up to a limit at once, each item in a branch of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from relight.authoring.context import SCOPE, Scope, in_body, refuse_on_loop
from relight.authoring.options import check_key
from relight.authoring.steps import AsyncStep, Step
from relight.core.keys import Branch
from relight.errors import InvalidArgument
from relight.ids import derived_uuid7

A = TypeVar("A")
R = TypeVar("R")


class _Parallel:
    """Call ``fn`` for each item, up to ``limit`` at once; return the results in the order of the items.

    ``fn`` is a step, or any one-argument callable that may call several; each item is a branch of its own. All items are
    tried; if any failed, one ``ExceptionGroup`` of all failures is raised. ``key`` names each item, so that a changed list
    finds its checkpoints again.
    """

    @staticmethod
    def _arms(
        scope: Scope, fn: Any, items: Iterable[Any], key: Callable[[Any], str] | None
    ) -> list[tuple[Any, Branch, Any]]:
        arms = []
        for item in items:
            branch = scope.branch.child()
            mine = None if key is None else check_key(getattr(fn, "__name__", "fn"), key(item))
            if mine is None:
                arms.append((fn, branch, item))
            elif isinstance(fn, (Step, AsyncStep)):
                arms.append((fn.options(key=mine), branch, item))
            else:
                branch = Branch(f"{scope.branch.path}k{derived_uuid7('0' * 36, mine)[-12:]}/")
                arms.append((fn, branch, item))
        return arms

    @staticmethod
    def _limit(scope: Scope, limit: int | None) -> int:
        if limit is None:
            return scope.run.default_limit()
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument(f"parallel(limit={limit!r}): a whole number, 1 or more, or None")
        return limit

    @staticmethod
    def _raise_failures(fn: Any, outcomes: list[Any]) -> list[Any]:
        failures = [outcome.error for outcome in outcomes if isinstance(outcome, ArmFailed)]
        if failures:
            name = getattr(fn, "name", getattr(fn, "__name__", "fn"))
            raise ExceptionGroup(f"{len(failures)} of {len(outcomes)} items of parallel({name}, …) failed", failures)
        return outcomes

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
    def __call__(self, fn: Any, items: Any, *, limit: int | None = None, key: Any = None) -> Any:
        scope = in_body("parallel")
        refuse_on_loop(scope, "parallel()", "await parallel.aio(…)")
        call = fn.sync if isinstance(fn, AsyncStep) and key is None else fn

        def arm(branch: Branch, one: Any, item: Any) -> Callable[[], Any]:
            def run() -> Any:
                token = SCOPE.set(Scope(scope.run, branch, None, scope.cleanup))
                try:
                    return one.sync(item) if isinstance(one, AsyncStep) else one(item)
                except Exception as error:  # boundary: a failed arm is an outcome, raised with the others
                    return ArmFailed(error)
                finally:
                    SCOPE.reset(token)

            return run

        arms = [
            arm(branch, one, item) for one, branch, item in self._arms(scope, call if key is None else fn, items, key)
        ]
        return self._raise_failures(fn, scope.run.run_arms(arms, self._limit(scope, limit)))

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
    async def aio(self, fn: Any, items: Any, *, limit: int | None = None, key: Any = None) -> Any:
        """Call for each item, in async code."""
        import asyncio

        scope = in_body("parallel")
        gate = asyncio.Semaphore(self._limit(scope, limit))

        async def arm(branch: Branch, one: Any, item: Any) -> Any:
            SCOPE.set(Scope(scope.run, branch, None, scope.cleanup))
            async with gate:
                try:
                    got = one.aio(item) if isinstance(one, Step) else one(item)
                    return await got if hasattr(got, "__await__") else got
                except Exception as error:  # boundary: a failed arm is an outcome, raised with the others
                    return ArmFailed(error)

        arms = [arm(branch, one, item) for one, branch, item in self._arms(scope, fn, items, key)]
        quiet = SCOPE.set(None)  # the arms' branches were numbered above; their tasks need no number of their own
        try:
            tasks = [asyncio.ensure_future(one) for one in arms]
        finally:
            SCOPE.reset(quiet)
        for task in tasks:
            scope.run.adopt(task)  # type: ignore[attr-defined]
        return self._raise_failures(fn, list(await asyncio.gather(*tasks)))


@dataclass(frozen=True)
class ArmFailed:
    """How an arm of ``parallel`` failed."""

    error: Exception


parallel = _Parallel()
