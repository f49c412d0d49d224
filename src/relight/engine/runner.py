"""Two drivers for one flow: what the generators of ``core/flow.py`` request is done here, blocking a thread or on the loop.

``Conductor`` is what the code inside a job talks to (``authoring/context.RunPort``). User code is called in exactly two
places, ``_invoke_here`` and ``_invoke_async``.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from relight.authoring.context import SCOPE, Scope, leave_scope
from relight.authoring.registry import step_signature
from relight.clock import to_datetime
from relight.core import events as ev
from relight.core import flow as f
from relight.core import waits
from relight.core.children import LookOwners
from relight.core.commands.outside import MakeToken
from relight.core.commands.steering import WithdrawQuestion
from relight.core.commands.steps import AbandonStep, BeginTry, NoteOverdue
from relight.core.external import LookToken
from relight.core.flow import Flow, Raised, Returned, StepCall, StepSpec
from relight.core.keys import Branch, explicit_key
from relight.engine.arms import Arms
from relight.engine.board import LEAVE, Waiter
from relight.engine.family import Family, in_cleanup
from relight.engine.port import Port, path_here
from relight.engine.run import Run
from relight.engine.saying import Saying
from relight.engine.threaded import Threaded
from relight.errors import CancelRequested, Conflict, Fenced, StorageUnavailable, Suspending
from relight.ids import StepKey
from relight.model import CurrentJob, CurrentStep, JobState

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation

T = TypeVar("T")
NO_LIMIT: contextlib.nullcontext[None] = contextlib.nullcontext()
"""Stands for ``asyncio.timeout(None)``, which is a tenth of the cost of a trivial step."""


class Conductor(Family, Saying, Threaded, Port):
    """A run, as the code inside it sees it."""

    def __init__(self, run: Run, engine: Incarnation) -> None:
        self.run = run
        self.ref = run.ref
        self.history = run.history
        self.engine = engine
        self._working = {}
        self.loop_ident: int | None = engine.loop.ident if run.spec.is_async else None

    # what primitives ask (RunPort)

    def call_of(
        self, step: Any, key: str | None, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Flow:
        """Take the key of a step's call, record its arguments, and return its flow."""
        spec: StepSpec = step.spec
        signature = step_signature(self.engine.registry, step)
        bound = signature.bind(args if step._owner is None else args[1:], kwargs)
        call = StepCall(
            key=explicit_key(spec.name, key) if key is not None else branch.next_key(spec.name),
            args=args,
            kwargs=kwargs,
            inputs=bound.inputs.decode(),
            hashes=bound.hashes,
            result=signature.result,
            errors=self.engine.registry.codecs,
            kept=0 if step._owner is None else 1,
        )
        return f.run_step(self.history, self.ref, spec, call)

    def current_job(self) -> CurrentJob:
        """Describe the job."""
        return self.run.current_job(path_here())

    def decode_result(self, kind: str, text: str | None, version: str | None) -> Any:
        """Decode a job's outputs as its workflow's result, or as plain JSON when the workflow is not known here."""
        return self.engine.decode_result(kind, text, version)

    def registry_for(self) -> Any:
        """Return the codecs in force."""
        return self.engine.registry.codecs

    def open_resource(self, resource: Any) -> Any:
        """Return the open thing behind a resource."""
        return self.engine.resources.get(resource)

    def wall_ms(self) -> int:
        """Read the engine's clock, for code inside steps."""
        return self.engine.clock.now_ms()

    def default_limit(self) -> int:
        """Return how many arms run at once when nothing is said."""
        return min(32, self.engine.settings.threads)

    def is_cancelled(self) -> bool:
        """Tell whether the job was asked to end, or the present try is past its time."""
        scope = SCOPE.get()
        overdue = scope is not None and scope.step is not None and scope.step.key in self.run.overdue
        return overdue or self.run.end is not None or self.run.lost is not None

    def begin_cleanup(self, timeout_ms: int | None) -> None:
        """Allow steps after a cancel, for a while. Raises ``Suspending`` while the run is only being put away, or was lost."""
        run = self.run
        # Beside an async line whose step still executes nothing is raised: the exception would cancel that step, too. This
        # line leaves at its next durable call, once that step is recorded.
        leaving = run.suspending is not None and not (self.loop_ident is not None and (run.steps or run.invoking))
        if run.lost is not None or leaving:
            run.check_enter(in_cleanup=True, mono_ms=self.engine.clock.mono_ms())
        if self.run.end is not None and timeout_ms is not None and self.run.cleanup_until is None:
            self.run.cleanup_until = self.engine.clock.mono_ms() + timeout_ms
        self.run.cleanup_begins()

    def end_cleanup(self) -> None:
        """Say that a ``with cleanup():`` was left."""
        self.run.cleanup_ends()

    # driving

    def drive(self, flow: Flow) -> Any:
        """Interpret a flow's requests, blocking this thread."""
        value: Any = None
        error: BaseException | None = None
        self.run.flow_begins()
        try:
            while True:
                request = flow.send(value) if error is None else flow.throw(error)
                value, error = None, None
                try:
                    value = self.engine.patiently(self.run, functools.partial(self._do, request))
                except BaseException as raised:  # boundary: thrown into the flow, which decides
                    error = raised
        except StopIteration as stop:
            return stop.value
        finally:
            self.run.flow_ends()
            if self.loop_ident is not None:
                self.run.leave_when_idle()  # this thread may have run the last step of a run whose other lines wait to leave

    drive_value = drive
    """For recorded values, which wait for nothing: callable on the loop too."""

    async def drive_async(self, flow: Flow) -> Any:
        """Interpret a flow's requests on the loop."""
        value: Any = None
        error: BaseException | None = None
        self.run.flow_begins()
        try:
            while True:
                request = flow.send(value) if error is None else flow.throw(error)
                value, error = None, None
                try:
                    match request:
                        case f.Persist(BeginTry() as begin, lazy):
                            await self._begin_async(begin, lazy and not self._must_wait)
                        case f.Invoke():
                            value = await self._invoke_async(request)
                        case f.Persist(command, lazy):
                            await self._persist_async(command, lazy)
                        case f.Now():
                            value = self.engine.clock.now_ms()
                        case f.Park():
                            value = await self._park_async(request)
                        case f.Abandoned(key):
                            while True:
                                await self._park_async(f.Park("abandoned", key, None, key))
                        case f.Enter() | f.Mismatch():
                            await self._enter_async(request)
                        case _:
                            value = await self.engine.patiently_async(self.run, functools.partial(self._do, request))
                except BaseException as raised:  # boundary: thrown into the flow, which decides
                    error = raised
        except StopIteration as stop:
            return stop.value
        finally:
            self.run.flow_ends()
            if self.run.parked:
                # What was waited for here may have kept the whole run in memory; now only long waits may be left.
                self.engine.board.after(self.engine.settle_ms, lambda: self.engine.maybe_put_away(self.run))

    def _do(self, request: Any) -> Any:
        engine = self.engine
        match request:
            case f.Persist(BeginTry() as begin, lazy):
                return self._persist(begin, lazy and not self._must_wait)
            case f.Persist(command, lazy):
                return self._persist(command, lazy)
            case f.Invoke():
                return self._invoke(request)
            case f.Park():
                return self._park(request)
            case f.Now():
                return engine.clock.now_ms()
            case f.NewId():
                return engine.ids.uuid7(engine.clock.now_ms())
            case f.NewToken():
                return engine.ids.token()
            case f.Enter(key):
                self._enter()
                if self._went_nowhere() and threading.get_ident() != self.loop_ident:
                    return self._do(f.Abandoned(key))
            case f.Mismatch():
                self._mismatch(request)
                raise Suspending(request.detail)
            case f.Abandoned(key):
                while True:
                    self._park(f.Park("abandoned", key, None, key))
            case f.Stow(text):
                return engine.stow(text)
            case f.Unstow(text):
                return engine.unstow(text)
            case f.LookDecision(decision_id):
                with engine.store.reading() as reads:
                    return reads.decision(decision_id)
            case waits.LookSignal(names):
                with engine.store.reading() as reads:
                    return reads.first_unread(self.ref.job_id, *names)
            case LookToken(token):
                return engine.look_token(token)
            case waits.LookJob(job_id):
                return engine.look_job(job_id)
            case LookOwners(children):
                return engine.owners_of(children)
            case _:
                raise TypeError(f"nobody knows how to do {request!r}")

        return None

    def _mismatch(self, request: f.Mismatch) -> None:
        self.run.check_enter(in_cleanup=False, mono_ms=self.engine.clock.mono_ms())
        told = ev.HistoryMismatch(
            step_key=request.key, recorded_hash=request.recorded_hash, now_hash=request.now_hash, detail=request.detail
        )
        self.run.suspend(f"history_mismatch:{request.code}", (told,))

    # writing

    def _lost(self, error: BaseException) -> BaseException:
        """Translate a refused write: what the flow handles stays itself, the end of the run becomes leaving."""
        if isinstance(error, Conflict) and error.fields.get("op") in ("begin_steps", "update_steps"):
            if self._runs_by_the_store():
                return error  # the run stands and only this record was refused: its code is told, and the job goes on or fails
            self.run.lose(str(error))
            return Suspending(str(error))
        if isinstance(error, (Fenced, StorageUnavailable)):
            self.run.lose(str(error))
            return Suspending(str(error))
        return error

    def _runs_by_the_store(self) -> bool:
        try:
            with self.engine.store.reading() as reads:
                heads = reads.job_heads([self.ref.job_id])
        except StorageUnavailable:
            return False
        return any(job.state is JobState.RUNNING and job.run_id == self.ref.run_id for job in heads)

    @property
    def _must_wait(self) -> bool:
        """Whether what begins is on disk before it begins, whatever its policy.

        In a job that has stalled before: a step that kills the engine within milliseconds would otherwise leave no trace,
        and its crash loop would never be seen. And while a token is on its way there: the step may give it away.
        """
        handed_out = self.run.handed_out
        return self.run.job.attempt > 1 or (handed_out is not None and not handed_out.done)

    def _persist(self, command: Any, lazy: bool) -> None:
        try:
            if lazy:
                ticket = self.engine.journal.put(command, lazy=True)
                if isinstance(command, MakeToken):
                    self.run.handed_out = ticket
            else:
                self.engine.journal.execute(command)
        except Exception as error:  # boundary: the journal's refusals are sorted in _lost
            raise self._lost(error) from None

    async def _persist_async(self, command: Any, lazy: bool) -> None:
        try:
            if lazy:
                self.engine.journal.put(command, lazy=True)
            else:
                await self.engine.loop.written(self.engine.journal, command)
        except Exception as error:  # boundary: the journal's refusals are sorted in _lost
            raise self._lost(error) from None

    async def _begin_async(self, begin: BeginTry, lazy: bool) -> None:
        """Record that a try begins. From here on it counts as executing: its run is not put away between record and call."""
        try:
            self.run.begin_step(
                begin.step_key,
                begin.try_number,
                in_cleanup=in_cleanup(),
                mono_ms=self.engine.clock.mono_ms(),
            )
        except (CancelRequested, Suspending):
            await self._leave_async()
            raise
        try:
            await self._persist_async(begin, lazy)
        except BaseException:  # boundary: cleaned up after, and raised again
            self._abandon(begin.step_key, begin.try_number)
            self.run.step_ends(begin.step_key, self.engine.clock.mono_ms())
            self.run.leave_when_idle()
            raise

    # calling user code

    def _step_scope(self, request: f.Invoke) -> Scope:
        step, call = request.step, request.call
        now_ms = self.engine.clock.now_ms()
        current = CurrentStep(
            key=call.key,
            name=step.name,
            try_number=request.try_number,
            idempotency_key=f.idempotency_key(self.ref.job_id, call.key),
            deadline=None if step.timeout_ms is None else to_datetime(now_ms + step.timeout_ms),
            last_note=self.last_note(call.key),
        )
        here = SCOPE.get()
        assert here is not None
        return Scope(self, here.branch, current, here.cleanup)

    def _function(self, request: f.Invoke) -> Callable[..., Any]:
        step = request.step
        if request.reconcile:
            assert step.reconcile is not None
            return step.reconcile
        return self.engine.replaced(step.function)

    def _invoke(self, request: f.Invoke) -> Returned | Raised:
        function = self._function(request)
        if request.step.is_async and not request.reconcile:
            return self.on_loop(lambda: self._invoke_async(request))
        return self._invoke_here(request, function)

    def _invoke_here(self, request: f.Invoke, function: Callable[..., Any]) -> Returned | Raised:
        """Call a sync function in this thread; a time limit cannot stop it, but is told and counts when it returns."""
        call, step = request.call, request.step
        self.engine.may_begin_step()
        if self.run.lost is not None:
            raise Suspending(self.run.lost)
        self._leave_if_cut(request)
        token = SCOPE.set(self._step_scope(request))
        self.run.call_begins()
        self.run.step_begins(call.key, request.try_number, path_here())
        if step.timeout_ms is not None and not request.reconcile:
            self.engine.board.after(step.timeout_ms, lambda: self._overdue(request))
        try:
            args, kwargs = call.own_arguments()
            value = function(*args, **kwargs)
            if hasattr(value, "__await__"):
                value = self.on_loop(lambda: value)
            self._leave_if_cut(request)
        except Exception as error:  # boundary: user code
            return self._timed_out(request, Raised(error))
        except (CancelRequested, Suspending):
            raise
        except BaseException as error:
            # boundary: user code may call sys.exit(); a step's failure must not end the engine
            return Raised(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            return self._timed_out(request, Returned(value))
        finally:
            leave_scope(token)
            self.run.step_ends(call.key, self.engine.clock.mono_ms())
            self.run.call_returns()

    def _overdue(self, request: f.Invoke) -> None:
        key = request.call.key
        with self.run.lock:
            if self.run.steps.get(key) != request.try_number:
                return
            self.run.overdue.add(key)
        note = NoteOverdue(
            job=self.ref, step_key=key, try_number=request.try_number, timeout_ms=request.step.timeout_ms or 0
        )
        try:
            self.engine.journal.put(note, lazy=True)
        except (Fenced, StorageUnavailable):
            return  # told by the next durable call

    def _timed_out(self, request: f.Invoke, outcome: Returned | Raised) -> Returned | Raised:
        return outcome if request.call.key not in self.run.overdue else self._too_long(request)

    async def _invoke_async(self, request: f.Invoke) -> Returned | Raised:
        """Call a function from the loop: an async one on it, a sync one in a thread."""
        function = self._function(request)
        call, step = request.call, request.step
        token = SCOPE.set(self._step_scope(request))
        self.run.invoke_begins()
        try:
            if not step.is_async:
                return await self._in_thread_to_its_end(lambda: self._invoke_here(request, function))
            self.run.step_begins(call.key, request.try_number, path_here())
            try:
                return await self._call_async(request, function)
            finally:
                self.run.step_ends(call.key, self.engine.clock.mono_ms())
        except BaseException:  # boundary: cleaned up after, and raised again
            if not request.reconcile:
                self._abandon(call.key, request.try_number)
            self.run.once_returned(self.run.leave_when_idle)  # a thread that this line leaves behind may be the last
            raise
        finally:
            leave_scope(token)
            self.run.invoke_ends()
            # Not before the outcome is here: leaving is a cancellation, which would take it away unrecorded.
            self.run.leave_when_idle()

    async def _call_async(self, request: f.Invoke, function: Callable[..., Any]) -> Returned | Raised:
        import asyncio

        call, step = request.call, request.step
        me = asyncio.current_task()
        assert me is not None
        asked_before = me.cancelling()
        await self.engine.may_begin_step_async()
        limited = step.timeout_ms is not None and not request.reconcile
        try:
            await self.engine.resources.prepare(function)
            async with asyncio.timeout((step.timeout_ms or 0) / 1000) if limited else NO_LIMIT as limit:
                args, kwargs = call.own_arguments()
                if request.reconcile and not inspect.iscoroutinefunction(inspect.unwrap(function)):
                    got = await self.in_thread(lambda: function(*args, **kwargs))
                else:
                    got = function(*args, **kwargs)
                return Returned(await got if hasattr(got, "__await__") else got)
        except TimeoutError as error:
            return self._too_long(request) if limit is not None and limit.expired() else Raised(error)
        except Exception as error:  # boundary: user code
            return Raised(error)
        except (CancelRequested, Suspending, GeneratorExit):
            raise
        except BaseException as error:
            # boundary: user code may call sys.exit(), or let a CancelledError of its own out
            if isinstance(error, asyncio.CancelledError) and me.cancelling() > asked_before:
                raise
            return Raised(RuntimeError(f"{type(error).__name__}: {error}"))

    def _too_long(self, request: f.Invoke) -> Raised:
        seconds = (request.step.timeout_ms or 0) / 1000
        return Raised(TimeoutError(f"{request.call.key} took longer than {seconds:g} s"), certain=False)

    def _abandon(self, key: StepKey, try_number: int, *, reason: str | None = None) -> None:
        """Something was cancelled while it ran or waited, by a sibling or with its job: a replay must not do it again.

        Only an operator's retry opens it anew.
        """
        run = self.run
        if run.lost is not None or run.suspending is not None:
            return
        if reason is None:
            reason = "cancelled" if run.end is not None else run.why_cut(path_here()) or "sibling"
        command = AbandonStep(job=self.ref, step_key=key, try_number=try_number, reason=reason)
        try:
            self.engine.journal.put(command, lazy=True)
        except (Fenced, StorageUnavailable):
            return  # the run is being lost; its step stays in doubt

    def _abandon_wait(self, wait: f.Park, reason: str | None = None) -> None:
        """Abandon a wait with all its parts. A question that nobody waits for any more is withdrawn."""
        for key in (wait.key, *(part for part, _ in wait.also)):
            self._abandon(key, wait.try_number, reason=reason)
        if wait.kind == "ask" and wait.waits_for is not None:
            self._withdraw(wait.waits_for)

    def _withdraw(self, decision_id: str) -> None:
        if self.run.lost is not None or self.run.suspending is not None:
            return
        try:
            self.engine.journal.put(WithdrawQuestion(job=self.ref, decision_ids=(decision_id,)), lazy=True)
        except (Fenced, StorageUnavailable):
            return  # as above

    # waiting

    def _waiter(self, request: f.Park, wake: Callable[[str], None]) -> Waiter | str:
        """Make a waiter, parked and on the board, or say that its time has come already."""
        clock = self.engine.clock
        left = None if request.until is None else request.until - clock.now_ms()
        if left is not None and left <= 0:
            return "due"
        waiter = Waiter(self.run, request, path_here(), wake)
        waiter.until = request.until
        keep_ms = self.engine.settings.suspend_after_ms
        now = clock.mono_ms()
        long = left is not None and left > keep_ms
        waiter.put_away_at = now + (self.engine.settle_ms if long else keep_ms)
        self.run.park(waiter, in_cleanup=in_cleanup(), mono_ms=now)
        self.engine.board.add(waiter)
        if left is not None:
            # One more, because both clocks are read in whole milliseconds: nobody is to wake before the time.
            self.engine.board.after(left + 1, lambda: waiter.wake("due"))
        self.engine.board.after(waiter.put_away_at - now, lambda: self.engine.maybe_put_away(self.run))
        return waiter

    def _leave(self, waiter: Waiter) -> str:
        self.engine.board.remove(waiter)
        now = self.engine.clock.mono_ms()
        self.run.unpark(waiter, now)
        if waiter.outcome == LEAVE or waiter.outcome is None:
            self.run.check_enter(in_cleanup=in_cleanup(), mono_ms=now, line=waiter.line)
            return "arrived"
        return waiter.outcome

    def _park(self, request: f.Park) -> str:
        latch = threading.Lock()
        latch.acquire()
        try:
            waiter = self._waiter(request, lambda _: latch.release())
        except CancelRequested:
            if self.run.is_cut(path_here()) and request.kind != "abandoned":
                self._abandon_wait(request, self.run.why_cut(path_here()))
            raise
        if isinstance(waiter, str):
            return waiter
        latch.acquire()
        return self._leave(waiter)

    async def _park_async(self, request: f.Park) -> str:
        loop = self.engine.loop
        arrival = loop.future()
        waiter = self._waiter(request, lambda outcome: loop.settle(arrival, outcome))
        if isinstance(waiter, str):
            return waiter
        try:
            await arrival
        except BaseException:  # boundary: cleaned up after, and raised again
            self.engine.board.remove(waiter)
            self.run.unpark(waiter, self.engine.clock.mono_ms())
            if request.kind != "abandoned" and self.run.end is None:
                self._abandon_wait(request)
            raise
        try:
            return self._leave(waiter)
        except (CancelRequested, Suspending):
            await self._leave_async()
            raise

    async def _enter_async(self, request: f.Enter | f.Mismatch) -> None:
        if self._working and self.run.end is not None and in_cleanup():
            await self._threads_are_back()
        try:
            if isinstance(request, f.Mismatch):
                self._do(request)
            else:
                self._enter()
        except (CancelRequested, Suspending):
            await self._leave_async()
            raise
        while isinstance(request, f.Enter) and self._went_nowhere():
            await self._park_async(f.Park("abandoned", request.key, None, request.key))

    async def _leave_async(self) -> None:
        """Leave as async code does: by the cancellation of the body's task, which reaches every line that it awaits.

        A run that is put away leaves only once no step executes in any of its lines; whoever records the last one sees to it.
        A line that was cut short leaves alone.
        """
        run = self.run
        out_of_time = in_cleanup() and run.end is not None and run.suspending is None and run.lost is None
        if run.is_cut(path_here()) or out_of_time:
            import asyncio

            raise asyncio.CancelledError
        if self.run.lost is None and self.run.suspending is not None:
            self.run.leave_when_idle()
        else:
            self.run.cancel_tasks()
        await self.engine.loop.future()

    # across colours

    def on_loop(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run something async on the engine's loop, blocking this thread; the scope goes with it."""
        return self.engine.loop.run_blocking(make, contextvars.copy_context())

    def in_thread(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run something blocking in a thread, awaited on the loop; the scope goes with it."""
        return self.engine.loop.in_thread(self.engine.arms, call, contextvars.copy_context())

    def run_arms(
        self, arms: Sequence[Callable[[], Any]], limit: int, begun: Callable[[int], bool] = lambda _: False
    ) -> list[Any]:
        """Run callables in threads, the caller's among them: so that parents in all threads cannot deadlock."""
        return Arms(self, arms, begun).run(limit)
