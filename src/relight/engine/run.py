"""One run in memory: what is known of it, who waits in it, and how it leaves.

A run's lines (its body, its arms) are **busy** while they compute or execute a step, and parked while they wait durably.
The run is *quiet* when no line is busy and at least one is parked. Three things make its lines leave by exception, each
a flag that every durable call looks at (``enter``):

- **cancel**: the job was asked to end; steps are allowed only in ``cleanup()``;
- **suspending**: the run is being put away (a long wait, a shutdown, a mismatch); nothing more is recorded, but a step
  that is executing is let finish and is recorded;
- **lost**: the engine was fenced or the run was ended from outside; nothing can be recorded any more.

The lock guards these flags and counts; it is held for a few statements only, never during user code or I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.clock import to_datetime
from relight.core.commands import JobRef
from relight.core.events import EventPayload
from relight.core.history import History
from relight.core.issues import Issues
from relight.core.keys import Branch, lines_to
from relight.engine.board import LEAVE, Waiter
from relight.engine.telling import Telling
from relight.errors import CancelRequested, Suspending
from relight.ids import StepKey, short
from relight.model import CurrentJob, JobRecord, StepRecord

if TYPE_CHECKING:
    import asyncio

    from relight.authoring.workflows import WorkflowSpec
    from relight.engine.lines import Line
    from relight.store.tickets import Ticket


@dataclass(frozen=True)
class End:
    """A request to end: ``code`` is cancel, fail or deadline."""

    code: str
    reason: str | None
    by: str | None


class Run:
    """See the module."""

    def __init__(
        self,
        job: JobRecord,
        ref: JobRef,
        spec: WorkflowSpec,
        steps: Sequence[StepRecord],
        tags: dict[str, str],
    ) -> None:
        self.job = job
        self.ref = ref
        self.spec = spec
        self.branch = Branch()
        self.history = History(steps, self.branch.opened, accepting=job.accepting)
        self.issues = Issues()
        self.progress = Telling(job.progress)
        self.tags = tags
        self.lock = threading.Lock()
        self.end: End | None = None
        self.suspending: str | None = None
        self.lost: str | None = None
        self.tells: tuple[EventPayload, ...] = ()
        self.left_quiet = False
        self.left_waiting: list[Waiter] = []
        self.busy = 0
        self.driving = 0
        """Durable calls under way in async lines: between their first request and their end, those parked left out."""
        self.steps: dict[StepKey, int] = {}
        """Steps that are executing, each with the number of its try."""
        self.invoking = 0
        """Async lines that called a step and have not got its outcome back yet; a thread's part of it may be over."""
        self.lines: dict[StepKey, str] = {}
        """In which line each of them executes."""
        self.cut: dict[str, str] = {}
        """Lines that lost a race, or that the body left behind, each with why: nothing begins in them any more."""
        self.open_lines: set[Line] = set()
        """Branches of a sync body that have not ended."""
        self.calls = 0
        """Step functions that threads are inside of; a thread may be left behind by the line that called it."""
        self._when_returned: list[Callable[[], None]] = []
        self.parked: set[Waiter] = set()
        self.moved_at = 0
        self.moves = 0
        """Counts what happens in the run: while it stands still, nothing has."""
        self.cleanup_until: int | None = None
        self._cleaning = 0
        self._cancel_later = False
        self.overdue: set[StepKey] = set()
        self.notes: dict[StepKey, str] = {}
        self.reporter: Any = None
        self.handed_out: Ticket | None = None
        """The making of the last token, until it is on disk: no step is called before, for it may give the token away."""
        self._main: asyncio.Task[object] | None = None
        self.tasks: dict[asyncio.Task[object], str] = {}
        """Tasks of an async body, each with its line."""
        self.cancel_tasks: Callable[[], None] = lambda: None
        self.started_ms = 0

    @property
    def main(self) -> asyncio.Task[object] | None:
        """The body's own task: what is cancelled when the run has to leave. What tidies up after it is never cancelled."""
        return self._main

    @main.setter
    def main(self, task: asyncio.Task[object]) -> None:
        self._main = self._main or task

    def current_job(self, path: str) -> CurrentJob:
        """Describe the job to the code in one of its branches."""
        return CurrentJob(
            self.job.job_id,
            self.ref.run_id or "",
            self.job.kind,
            self.job.attempt,
            self.tags,
            self.job.trace_id,
            self.history.replaying(path),
            None if self.job.deadline_at is None else to_datetime(self.job.deadline_at),
            self.suspending is not None,
        )

    # entering

    def check_enter(self, *, in_cleanup: bool, mono_ms: int, line: str = "") -> None:
        """Raise ``Suspending`` or ``CancelRequested`` when nothing may begin here now."""
        if self.lost is not None:
            raise Suspending(f"{self.ref.kind} no longer runs here: {self.lost}")
        if self.suspending is not None:
            raise Suspending(
                "nothing was run, because the run is only being put away. Steps for clean-up after a cancel: with cleanup():"
            )
        if self.end is not None:
            in_time = self.cleanup_until is None or mono_ms < self.cleanup_until
            if not (in_cleanup and in_time):
                raise CancelRequested(
                    f"{self.ref.kind} {short(self.ref.job_id)} was asked to end: {self.end.reason or self.end.code}. "
                    "Steps that clean up: with cleanup():"
                )
        if not in_cleanup and self.is_cut(line):
            raise CancelRequested("this branch was cut short")

    # parking

    def park(self, waiter: Waiter, *, in_cleanup: bool, mono_ms: int) -> None:
        """Note that a line waits. Raises as ``check_enter`` when it must leave instead."""
        with self.lock:
            self.check_enter(in_cleanup=in_cleanup, mono_ms=mono_ms, line=waiter.line)
            self.parked.add(waiter)
            self.busy -= 1
            self.driving -= 1
            self.moved_at = mono_ms
            self.moves += 1

    def unpark(self, waiter: Waiter, mono_ms: int) -> None:
        """Note that a line goes on."""
        with self.lock:
            self.parked.discard(waiter)
            self.busy += 1
            self.driving += 1
            self.moved_at = mono_ms
            self.moves += 1

    def flow_begins(self) -> None:
        """Note that a durable call is under way."""
        with self.lock:
            self.driving += 1
            self.moves += 1

    def flow_ends(self) -> None:
        """Note that it has returned."""
        with self.lock:
            self.driving -= 1
            self.moves += 1

    def begin_step(self, key: StepKey, try_number: int, *, in_cleanup: bool, mono_ms: int) -> None:
        """Note that a step is about to be called, unless nothing may begin any more. Raises as ``check_enter``."""
        with self.lock:
            self.check_enter(in_cleanup=in_cleanup, mono_ms=mono_ms)
            self.steps[key] = try_number

    def step_begins(self, key: StepKey, try_number: int, line: str) -> None:
        """Note that a step's function is being called, in which line of the job."""
        with self.lock:
            self.steps[key] = try_number
            self.lines[key] = line

    def step_ends(self, key: StepKey, mono_ms: int) -> None:
        """Note that it returned."""
        with self.lock:
            self.steps.pop(key, None)
            self.lines.pop(key, None)
            self.overdue.discard(key)
            self.moved_at = mono_ms

    def invoke_begins(self) -> None:
        """Note that an async line calls a step."""
        with self.lock:
            self.invoking += 1

    def invoke_ends(self) -> None:
        """Note that it has the outcome in its hands."""
        with self.lock:
            self.invoking -= 1

    def _is_idle(self) -> bool:
        return not self.steps and not self.invoking

    def leave_when_idle(self) -> None:
        """A run that is being put away leaves once no step executes. Called when a line has got its step's outcome."""
        with self.lock:
            leave = self.suspending is not None and self._is_idle()
        if leave:
            self.cancel_tasks()

    def call_begins(self) -> None:
        """Note that a thread enters a step's function."""
        with self.lock:
            self.calls += 1

    def call_returns(self) -> None:
        """Note that a thread has come back."""
        with self.lock:
            self.calls -= 1
            due: list[Callable[[], None]] = []
            if self.calls == 0:
                due, self._when_returned = self._when_returned, due
        for then in due:
            then()

    def once_returned(self, then: Callable[[], None]) -> None:
        """Do something once no thread is inside a step of this run any more: at once, if none is."""
        with self.lock:
            if self.calls:
                self._when_returned.append(then)
                return
        then()

    # cutting lines short

    def cut_lines(self, lines: Iterable[str], reason: str) -> tuple[list[tuple[StepKey, int]], list[Waiter]]:
        """Let nothing begin any more in these lines; return what executes in them, and who waits in them."""
        with self.lock:
            for cut in lines:
                self.cut.setdefault(cut, reason)
            executing = [(key, self.steps[key]) for key, line in self.lines.items() if self.is_cut(line)]
            return executing, [waiter for waiter in self.parked if self.is_cut(waiter.line)]

    def is_cut(self, line: str) -> bool:
        """Tell whether a line was cut short, or is a branch of one that was."""
        return bool(self.cut) and not self.cut.keys().isdisjoint(lines_to(line))

    def why_cut(self, line: str) -> str | None:
        """Return why a line, or one that it is a branch of, was cut short; None: it was not."""
        return next((self.cut[each] for each in lines_to(line) if each in self.cut), None) if self.cut else None

    # resting

    def rests(self) -> bool:
        """Tell whether no line of it goes on by itself: all are parked, and what they wait for has not come."""
        with self.lock:
            at_rest = self.driving <= 0 if self.spec.is_async else self.busy <= 0
            waits = all(waiter.looked and waiter.outcome is None for waiter in self.parked)
            return at_rest and waits and bool(self.parked) and not self.steps and not self.calls

    def waiting(self) -> list[Waiter]:
        """Return the waits of its parked lines."""
        with self.lock:
            return list(self.parked)

    # leaving

    def wants_to_be_put_away(self, mono_ms: int, settle_ms: int) -> bool | None:
        """Tell whether the whole run is quiet and every wait in it is long and not over; None: ask again soon."""
        with self.lock:
            if self.suspending or self.end or self.lost or self.steps or not self.parked:
                return False
            if not all(waiter.put_away_at <= mono_ms for waiter in self.parked):
                return False
            if self.busy > 0 and not self.spec.is_async:
                return False
            settled = not self.spec.is_async or (self.driving <= 0 and mono_ms - self.moved_at >= settle_ms)
            return True if settled and all(waiter.looked for waiter in self.parked) else None

    def suspend(self, reason: str, tells: tuple[EventPayload, ...] = ()) -> bool:
        """Begin to put the run away; tell whether this call began it."""
        with self.lock:
            if self.suspending is not None or self.lost is not None:
                return False
            waiters = list(self.parked)
            woken = any(waiter.outcome is not None for waiter in waiters)
            if woken and reason == "waiting":
                return False  # what one of its lines waits for has just come
            self.suspending = reason
            self.tells = tells
            self.left_waiting = waiters
            idle = self._is_idle()
            at_rest = self.driving <= 0 if self.spec.is_async else self.busy <= 0
            self.left_quiet = idle and bool(waiters) and at_rest and not woken
            leaving = [waiter for waiter in waiters if waiter.settle(LEAVE)]
        for waiter in leaving:
            waiter.tell()
        if idle:
            self.cancel_tasks()
        return True

    def request_end(self, end: End) -> None:
        """Ask the job to end; the first request stands."""
        with self.lock:
            if self.end is not None:
                return
            self.end = end
            waiters = list(self.parked)
        for waiter in waiters:
            waiter.wake(LEAVE)
        self.cancel_tasks()

    def cleanup_begins(self) -> None:
        """Note that a line is inside of ``with cleanup():``."""
        with self.lock:
            self._cleaning += 1

    def cleanup_ends(self) -> None:
        """Note that one has left it; a cancellation that was put off has its turn."""
        with self.lock:
            self._cleaning -= 1
            now = self._cancel_later and not self._cleaning
            self._cancel_later = self._cancel_later and not now
        if now:
            self.cancel_tasks()

    def puts_cancellation_off(self) -> bool:
        """Tell whether the body's task must not be cancelled now: a line of it cleans up, and would be torn out of it.

        A cancellation reaches every line that the body awaits, also one that an earlier one has reached, and each line that
        leaves asks for one.
        """
        with self.lock:
            leaves = self.end is not None and self.suspending is None and self.lost is None
            put_off = leaves and self._cleaning > 0
            self._cancel_later = self._cancel_later or put_off
            return put_off

    def cancel_lines(self, left: Sequence[asyncio.Task[object]]) -> None:
        """Cancel tasks that a body left behind; not again what cleans up: a ``gather`` does not wait for what it cancels."""
        cleans_up = self.puts_cancellation_off()
        for each in left:
            if not each.done() and not (cleans_up and each.cancelling()):
                each.cancel()

    def lose(self, why: str) -> None:
        """The run is no longer ours to record: every line leaves."""
        with self.lock:
            if self.lost is not None:
                return
            self.lost = why
            waiters = list(self.parked)
        for waiter in waiters:
            waiter.wake(LEAVE)
        self.cancel_tasks()
