"""``branch`` and ``race``: different things at once, and the first of them.

A branch is a line of its own: in sync code a call in a thread, in async code a task. Which branch won a race is recorded
before ``race`` returns, so a replay gives the same winner whichever comes first then; those that had not ended are cut
short and have no result. Read next: ``engine/lines.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar, TypeVarTuple, overload

from relight.authoring.context import SCOPE, Scope, in_body, refuse_on_loop
from relight.authoring.steps import AsyncStep, Step
from relight.core import choices
from relight.core.keys import Branch as Path
from relight.errors import Conflict, InvalidArgument

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ts = TypeVarTuple("Ts")


class Branch(Generic[R_co]):
    """A line of a job that runs beside the one that made it. Made by ``branch``."""

    def __init__(self, scope: Scope, path: str, running: Any) -> None:
        self._scope = scope
        self._path = path
        self._running = running

    def result(self) -> R_co:
        """Wait for the end of the branch; return its value, or raise its error. In async code: ``await branch``.

        Raises ``Conflict`` for a branch that lost a race before it had ended.
        """
        refuse_on_loop(self._scope, "result()", "await the branch")
        self._refuse_cut()
        value: R_co = self._running.result()
        return value

    def __await__(self) -> Generator[Any, None, R_co]:
        self._refuse_cut()
        value: R_co = yield from self._running.__await__()
        return value

    def _refuse_cut(self) -> None:
        if self._scope.run.is_cut(self._path):
            raise Conflict(f"branch {self._path} lost a race before it had ended, and was cancelled: it has no result")


@overload
def branch(fn: Callable[[*Ts], Coroutine[Any, Any, R]], *args: *Ts) -> Branch[R]: ...
@overload
def branch(fn: Callable[[*Ts], R], *args: *Ts) -> Branch[R]: ...
def branch(fn: Any, *args: Any) -> Any:  # type: ignore[misc]
    """Begin ``fn(*args)`` beside the code that follows: for several *different* things at once.

    ``fn`` is a step, a wait, or any callable that may call several. In sync code it runs in a thread, and ``result()`` waits
    for it; in async code it is a task, which is awaited. Branches that have not ended when the workflow returns are
    cancelled. For the same with many items: ``parallel``. Raises ``NotInJob``.
    """
    scope = in_body("branch")
    if not callable(fn):
        raise InvalidArgument(f"branch({fn!r}): a callable and its arguments, such as branch(fetch, url)")
    path = scope.branch.child()
    mine = Scope(scope.run, path, None, scope.cleanup)
    if scope.run.loop_ident is not None and scope.run.loop_ident == threading.get_ident():
        return Branch(scope, path.path, _task(mine, path, fn, args))

    def call() -> Any:
        SCOPE.set(mine)  # the thread has a context of its own
        return fn.sync(*args) if isinstance(fn, AsyncStep) else fn(*args)

    return Branch(scope, path.path, scope.run.open_line(call, path.path))


def _task(mine: Scope, path: Path, fn: Any, args: tuple[Any, ...]) -> Any:
    import asyncio

    async def call() -> Any:
        SCOPE.set(mine)  # a task has a context of its own
        got = fn.aio(*args) if isinstance(fn, Step) else fn(*args)
        return await got if hasattr(got, "__await__") else got

    quiet = SCOPE.set(None)  # its branch is numbered already
    try:
        task = asyncio.ensure_future(call())
    finally:
        SCOPE.reset(quiet)
    mine.run.adopt(task, path.path)
    return task


class _Race:
    """Wait until the first of some branches has ended, and return its number; the others are cancelled.

    The winner is on disk when this returns. Of several that have ended already the first in order wins. What won may have
    failed: its error is raised by its ``result()``. In async code: ``await race.aio(…)``, which takes branches, tasks and
    bare awaitables; the error of a bare awaitable that wins is raised there. Raises ``InvalidArgument``, ``Conflict`` for a
    branch that lost an earlier race.
    """

    def __call__(self, *branches: Branch[Any] | Awaitable[Any]) -> int:
        scope = in_body("race")
        refuse_on_loop(scope, "race()", "await race.aio(…)")
        lines = [_line(each) for each in _some(branches)]
        key = scope.branch.next_key("race")
        known = scope.run.drive(choices.chosen_winner(scope.run.history, key, len(lines)))
        if known is None:
            winner: int = scope.run.first_of(lines)
            lost = [line.path for line in lines if not line.ended]
            scope.run.drive(choices.choose_winner(scope.run.ref, key, winner, lost))
            scope.run.cut_losers(lost, again=False)
            return winner
        scope.run.cut_losers(known.lost, again=True)
        scope.run.first_of([lines[known.winner]])
        return int(known.winner)

    async def aio(self, *branches: Branch[Any] | Awaitable[Any]) -> int:
        """Wait for the first, in async code."""
        import asyncio

        scope = in_body("race")
        key = scope.branch.next_key("race")
        tasks: list[Any] = [_future(each) for each in _some(branches)]
        known = await scope.run.drive_async(choices.chosen_winner(scope.run.history, key, len(tasks)))
        if known is None:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            winner = next(n for n, task in enumerate(tasks) if task.done())
            _hand_on_what_left(tasks[winner])
            losers = [task for task in tasks if not task.done()]
            lost = [line for task in losers if (line := scope.run.line_of(task))]
            await scope.run.drive_async(choices.choose_winner(scope.run.ref, key, winner, lost))
        else:
            winner, lost = known.winner, list(known.lost)
            await asyncio.sleep(0)  # each has taken its keys, and is past what it may replay at once
            losers = [task for task in tasks if scope.run.line_of(task) in lost]
        scope.run.cut_losers(lost, again=known is not None)
        for task in losers:
            task.cancel()
            task.add_done_callback(_look_at)
        await asyncio.wait([tasks[winner]])
        _hand_on_what_left(tasks[winner])
        if asyncio.iscoroutine(branches[winner]):
            tasks[winner].result()
        return winner


def _some(branches: Sequence[Any]) -> Sequence[Any]:
    if not branches:
        raise InvalidArgument(
            "race() of nothing: give it branches, such as race(branch(fetch, url), branch(sleep, 60))"
        )
    for each in branches:
        if isinstance(each, Branch):
            each._refuse_cut()
    return branches


def _line(each: Any) -> Any:
    if not isinstance(each, Branch):
        raise InvalidArgument(f"race({each!r}): in sync code a race is between branches, such as branch(fetch, url)")
    return each._running


def _future(each: Any) -> Any:
    import asyncio

    if isinstance(each, Branch):
        return each._running
    if not hasattr(each, "__await__"):
        raise InvalidArgument(f"race.aio({each!r}): a branch, a task, or something else to await")
    return asyncio.ensure_future(each)


def _hand_on_what_left(task: Any) -> None:
    """Leave as a line left that did not end by itself: its run is being put away, or was cancelled or lost."""
    if not task.done() or task.cancelled():
        return
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise error


def _look_at(task: Any) -> None:
    if not task.cancelled():
        task.exception()  # nobody asks a loser for its error


race = _Race()
