"""The engine's own event loop, in its own thread: where async jobs and async steps run, whatever facade is used.

Its task factory numbers branches: a task made in a workflow's body is a branch of the line that made it, in order of
creation; one made inside a step is none of ours. Its timers refuse a workflow's body, because a plain timer dies when the
run is put away, and the job would wait for ever. asyncio is imported when the first loop is made, not with relight.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from relight.authoring.context import SCOPE, Scope
from relight.core.commands import Command
from relight.engine.pool import Pool
from relight.errors import BlockingCall, NonDurableWait
from relight.store.journal import Journal
from relight.store.tickets import Ticket

T = TypeVar("T")

IDLE_SECONDS = 0.05
"""A loop that does not answer for so long is busy."""


class _Loop(asyncio.SelectorEventLoop):
    def call_at(  # type: ignore[override] # mypy asks for a TypeVarTuple that adds nothing here
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        scope = SCOPE.get()
        if scope is not None and scope.step is None and scope.run.loop_ident == threading.get_ident():
            ref = scope.run.ref
            raise NonDurableWait(
                f"a plain timer (asyncio.sleep, wait_for, timeout) in the body of {ref.kind}: it would be lost when the job is "
                "put away. Use: await sleep.aio(…), or timeout_seconds= of the wait; inside steps anything goes",
                job_id=ref.job_id,
            )
        return super().call_at(when, callback, *args, context=context)


def _task_factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    scope = SCOPE.get()
    context = options.pop("context", None)
    if scope is None or scope.step is not None:
        return asyncio.Task(coro, loop=loop, context=context, **options)
    if context is None:
        context = contextvars.copy_context()
    branch = scope.branch.child()
    context.run(SCOPE.set, Scope(scope.run, branch, None, scope.cleanup))
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context, **options)
    scope.run.adopt(task, branch.path)
    return task


def _resolve(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        done: asyncio.Future[None] = ticket.tag
        if done.done():
            continue
        if ticket.error is None:
            done.set_result(None)
        else:
            done.set_exception(ticket.error)


class EngineLoop:
    """One loop in one daemon thread. ``alive_mono`` is told each second, for the engine's sign of life."""

    def __init__(self, name: str) -> None:
        self._loop = _Loop()
        self._loop.set_task_factory(_task_factory)
        self._ready = threading.Event()
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False
        self._stopped = False
        self.ident: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"relight-loop-{name}", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        self.ident = threading.get_ident()
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._ready.set)
        while not self._stopped:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                continue  # raised in user code: its task has kept it, and the other jobs go on
        self._drop_what_is_left()
        self._loop.close()

    def _drop_what_is_left(self) -> None:
        """Let go of lines that stand where they are, as a stop without a drain leaves them: nothing of them runs on."""
        for left in asyncio.all_tasks(self._loop):
            left._log_destroy_pending = False  # type: ignore[attr-defined] # it is left on purpose, and recovered later
            coroutine = left.get_coro()
            if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()

    def call(self, call: Callable[[], object]) -> None:
        """Call something on the loop, soon. Does nothing when the loop is closed."""
        self._calls.append(call)
        if self._woken:
            return  # one wake-up serves all: each writes to a socket and gives up the GIL, which a busy thread then keeps
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._take_calls)
        except RuntimeError:
            return  # closed: nothing of ours runs there any more

    def _take_calls(self) -> None:
        self._woken = False  # before looking: what is put from now on wakes again
        while self._calls:
            self._loop.call_soon(self._calls.popleft())

    def is_idle(self) -> bool:
        """Tell whether nothing is about to run: every line waits for something. Blocks for a turn of the loop."""
        looked = threading.Event()
        seen: list[bool] = []

        def look() -> None:
            seen.append(not self._loop._ready)  # type: ignore[attr-defined] # nothing public tells
            looked.set()

        self.call(look)
        looked.wait(IDLE_SECONDS)
        return seen == [True]

    def left_tasks(self) -> list[asyncio.Task[Any]]:  # word-ok: asyncio's
        """Return what has not ended on this loop."""
        return list(asyncio.all_tasks(self._loop))

    def future(self) -> asyncio.Future[Any]:
        """Return a new future of this loop."""
        return self._loop.create_future()

    def settle(self, arrival: asyncio.Future[Any], value: object) -> None:
        """Give a future of this loop its result, from any thread; one that is done stays as it is."""

        def give() -> None:
            if not arrival.done():
                arrival.set_result(value)

        self.call(give)

    def spawn(self, make: Callable[[], Any], context: contextvars.Context) -> asyncio.Task[Any]:
        """Start a task that is no branch of anything, on the loop's own thread."""
        return asyncio.Task(make(), loop=self._loop, context=context)

    # writing: one wake-up of the loop for each batch, however many tasks wait for it

    def written(self, journal: Journal, command: Command) -> asyncio.Future[None]:
        """Return what is done once a command is on disk; awaiting it raises the command's own error."""
        done: asyncio.Future[None] = self._loop.create_future()
        journal.put(command, waker=self._written, tag=done)
        return done

    def _written(self, tickets: list[Ticket]) -> None:
        self.call(lambda: _resolve(tickets))

    # across threads

    def run_blocking(self, make: Callable[[], Awaitable[T]], context: contextvars.Context) -> T:
        """Run an awaitable here while another thread blocks. Raises what it raised."""
        if threading.get_ident() == self.ident:
            raise BlockingCall("a sync call to async code was made on the engine's loop; await it instead")
        done = threading.Event()
        box: list[Any] = [None, None]

        async def work() -> None:
            try:
                box[0] = await make()
            except BaseException as error:  # boundary: carried to the thread that waits
                box[1] = error
            finally:
                done.set()

        self.call(lambda: self.spawn(work, context))
        done.wait()
        if box[1] is not None:
            raise box[1]
        result: T = box[0]
        return result

    def in_thread(self, pool: Pool, call: Callable[[], T], context: contextvars.Context) -> Awaitable[T]:
        """Run a blocking call in a pool's thread; the future is this loop's."""
        arrival: asyncio.Future[T] = self._loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if arrival.done():
                return
            if error is None:
                arrival.set_result(value)
            elif isinstance(error, StopIteration):
                arrival.set_exception(RuntimeError("StopIteration was raised in a thread"))
            else:
                arrival.set_exception(error)

        def work() -> None:
            if arrival.cancelled():
                return  # whoever wanted it is gone: it must not begin now
            value, error = None, None
            try:
                value = context.run(call)
            except BaseException as raised:  # boundary: carried to the loop
                error = raised
            self.call(lambda: settle(value, error))

        pool.start(work)
        return arrival

    def stop(self, *, timeout_seconds: float = 2) -> None:
        """End the loop and its thread; tasks that are left are dropped where they stand."""

        def finish() -> None:
            self._stopped = True
            self._loop.stop()

        self.call(finish)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
