"""What the code inside a job asks of its run besides steps, waits, children and what it says: branches.

The part of ``authoring/context.RunPort`` that drives nothing. Read next: ``runner.py``, which does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from relight.authoring.context import SCOPE
from relight.core import flow as f
from relight.core.commands import JobRef
from relight.core.history import History
from relight.engine.board import LEAVE
from relight.engine.family import in_cleanup
from relight.engine.lines import Line, first_of
from relight.engine.run import Run
from relight.errors import CancelRequested
from relight.ids import StepKey
from relight.model import StepKind

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation


def path_here() -> str:
    """Return the line that this code runs in."""
    scope = SCOPE.get()
    return "" if scope is None else scope.branch.path


class Port:
    """See the module."""

    run: Run
    ref: JobRef
    history: History
    engine: Incarnation
    loop_ident: int | None

    def _abandon(self, key: StepKey, try_number: int, *, reason: str | None = None) -> None:
        raise NotImplementedError

    def _abandon_wait(self, wait: f.Park, reason: str | None = None) -> None:
        raise NotImplementedError

    def _withdraw(self, decision_id: str) -> None:
        """Withdraw a question that nobody waits for any more."""
        raise NotImplementedError

    # branches

    def adopt(self, running: Any, line: str) -> None:
        """Remember a task of this run and its line, to be ended with it."""
        self.run.tasks[running] = line
        running.add_done_callback(lambda ended: self.run.tasks.pop(ended, None))

    def line_of(self, running: Any) -> str:
        """Return the line of a task of this run; empty for any other one."""
        return self.run.tasks.get(running, "")

    def open_line(self, call: Callable[[], Any], path: str) -> Line:
        """Begin a branch of a sync body in a thread of its own."""
        line = Line(self, call, path)
        line.start()
        return line

    def first_of(self, lines: Sequence[Line]) -> int:
        """Wait until one of some branches has ended, and return which."""
        return first_of(self, lines)

    def is_cut(self, line: str) -> bool:
        """Tell whether a branch was cut short."""
        return self.run.is_cut(line)

    def cut(self, lines: Sequence[str], reason: str) -> None:
        """Cut branches short: what waits or executes in them is recorded as abandoned; an async one's task is cancelled, too."""
        executing, waiting = self.run.cut_lines(lines, reason)
        if self.loop_ident is not None:
            return
        for key, try_number in executing:
            self._abandon(key, try_number, reason=reason)
        for waiter in waiting:
            if waiter.kind != "abandoned":
                self._abandon_wait(waiter.wait, reason)
            waiter.wake(LEAVE)

    def cut_losers(self, lines: Sequence[str], *, again: bool) -> None:
        """Cut the lines short that lost a race, ``again`` in a replay of it; what an earlier run left open in them is abandoned.

        An earlier run may have died between recording the winner and recording that, or have been put away before the race
        was decided; then this one's lines may not have come again to where they waited.
        """
        self._cut_with_records(lines, "race", uncalled=not again)

    def cut_left_behind(self, lines: Sequence[str]) -> None:
        """Cut the lines short that a body left behind; what an earlier run left open in them is abandoned, too."""
        self._cut_with_records(lines, "left_behind", uncalled=True)

    def _cut_with_records(self, lines: Sequence[str], reason: str, *, uncalled: bool) -> None:
        self.cut(lines, reason)
        for record in self.history.cut_short(lines, uncalled=uncalled):
            self._abandon(record.step_key, record.try_number, reason=reason)
            if record.kind is StepKind.ASK and record.waits_for is not None:
                self._withdraw(record.waits_for)

    # entering, and lines that were cut short

    def _enter(self) -> None:
        line = path_here()
        self.run.check_enter(in_cleanup=in_cleanup(), mono_ms=self.engine.clock.mono_ms(), line=line)
        self.history.enter(line)

    def _went_nowhere(self) -> bool:
        """Whether this line lost a race in an earlier run: it waits here to be cut short again, and begins nothing."""
        return not in_cleanup() and self.history.has_lost(path_here())

    def _leave_if_cut(self, request: f.Invoke) -> None:
        """Leave with a step whose line was cut short when it began, or while its function ran: it is given up."""
        reason = self.run.why_cut(path_here())
        if reason is not None and not in_cleanup():
            self._abandon(request.call.key, request.try_number, reason=reason)
            raise CancelRequested("this branch was cut short")
