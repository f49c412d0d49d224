"""Where code runs: in which job, which branch, which step.

One context variable, inherited by tasks and copied by hand into threads that Relight starts; a foreign thread has none, so
a step called there is just its function.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from relight.core.commands import JobRef
from relight.core.flow import Flow
from relight.core.history import History
from relight.core.keys import Branch
from relight.errors import BlockingCall, NotInJob
from relight.ids import StepKey, short
from relight.model import CurrentJob, CurrentStep

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ItemCount:
    """How far a ``parallel`` is: of ``total`` items ``ended`` have ended, ``failed`` of them badly, ``allowed`` may.

    ``place`` is its key in the job, ``name`` what it calls.
    """

    place: str
    name: str
    ended: int
    total: int
    failed: int
    allowed: int | None


class RunPort(Protocol):
    """What the code inside a job asks of the run it belongs to."""

    ref: JobRef
    history: History
    loop_ident: int | None
    """The thread of the loop that an async body runs on; None for a sync one."""

    def drive(self, flow: Flow) -> Any:
        """Interpret a flow's requests, blocking this thread."""
        ...

    def drive_async(self, flow: Flow) -> Coroutine[Any, Any, Any]:
        """Interpret a flow's requests on the loop."""
        ...

    def call_of(
        self, step: Any, key: str | None, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Flow:
        """Take the key of a step's call, record its arguments, and return its flow."""
        ...

    def on_loop(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run something async on the engine's loop, blocking this thread."""
        ...

    def in_thread(self, call: Callable[[], T]) -> Awaitable[T]:
        """Run something blocking in a thread, awaited on the loop."""
        ...

    def run_arms(self, arms: Sequence[Callable[[], Any]], limit: int, begun: Callable[[int], bool] = ...) -> list[Any]:
        """Run callables in threads, the caller's among them; return results or exceptions in order.

        ``begun`` tells of each, by its number, whether an earlier run had begun it: those clean up after a cancel.
        """
        ...

    def adopt(self, running: Any, line: str) -> None:
        """Remember a task of the job and its line, to be ended with it."""
        ...

    def line_of(self, running: Any) -> str:
        """Return the line of a task of the job; empty for any other one."""
        ...

    def open_line(self, call: Callable[[], Any], path: str) -> Any:
        """Begin a branch of a sync body in a thread of its own."""
        ...

    def first_of(self, lines: Sequence[Any]) -> int:
        """Wait until one of some branches has ended, and return which."""
        ...

    def is_cut(self, line: str) -> bool:
        """Tell whether a branch was cut short."""
        ...

    def cut(self, lines: Sequence[str], reason: str) -> None:
        """Cut branches short."""
        ...

    def cut_losers(self, lines: Sequence[str], *, again: bool) -> None:
        """Cut the lines short that lost a race; ``again``: in a replay of it."""
        ...

    def count_items(self, items: ItemCount) -> None:
        """Note how many items of a ``parallel`` have ended, if that is news."""
        ...

    def stop_counting(self, place: str) -> None:
        """Note that a ``parallel`` is over: another one may count."""
        ...

    def note_issue(self, place: str, code: str, detail: str | None) -> None:
        """Note an issue of the job, once for each place of its code."""
        ...

    def current_job(self) -> CurrentJob:
        """Describe the job."""
        ...

    def child_command(self, call: Any, parent_key: str, index: int, detached: bool) -> Any:
        """Make the command that submits a child."""
        ...

    def first_child_id(self, parent_key: str, index: int, started: str) -> str:
        """Return under which id a place started its child first."""
        ...

    def decode_result(self, kind: str, text: str | None, version: str | None) -> Any:
        """Decode a job's outputs as the result of its workflow in the version that made them."""
        ...

    def registry_for(self) -> Any:
        """Return the codecs in force."""
        ...

    def type_name(self, annotation: Any) -> str | None:
        """Name the type that a wait is for, so that whoever delivers a value may check it."""
        ...

    def poll_of(
        self,
        step: Any,
        key: StepKey,
        first: Any,
        until: Callable[[Any], bool],
        *,
        every_ms: int,
        timeout_ms: int | None,
    ) -> Flow:
        """Return the flow of a poll whose check is a step."""
        ...

    def publish(self, name: str, value: object) -> None:
        """Make a value readable from outside."""
        ...

    def open_resource(self, resource: Any) -> Any:
        """Return the open thing behind a resource."""
        ...

    def report(self, *, done: float | None, total: float | None, note: str | None) -> None:
        """Note progress."""
        ...

    def is_cancelled(self) -> bool:
        """Tell whether the job was asked to end, or the present try is past its time."""
        ...

    def wall_ms(self) -> int:
        """Read the engine's clock, for code inside steps."""
        ...

    def default_limit(self) -> int:
        """Return how many arms run at once when nothing is said."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """The place of some code: its run, its branch, the step it is in (None in a workflow's body), and clean-up."""

    run: RunPort
    branch: Branch
    step: CurrentStep | None = None
    cleanup: bool = False
    engine_step: Any = None


SCOPE: ContextVar[Scope | None] = ContextVar("relight_scope", default=None)


def leave_scope(before: Token[Scope | None]) -> None:
    """Go back to the scope before.

    A coroutine that a stopped loop left standing is thrown away by the garbage collector, in whatever context that runs:
    there is nothing to go back to then.
    """
    with contextlib.suppress(ValueError):
        SCOPE.reset(before)


def in_body(what: str) -> Scope:
    """Return the scope of a workflow's body. Raises ``NotInJob`` outside of one, and in steps."""
    scope = SCOPE.get()
    if scope is None:
        raise NotInJob(f"{what}() works only inside a job. In tests: relight.testing.run_inline(…)")
    if scope.step is not None:
        raise NotInJob(
            f"{what}() belongs in the workflow, not in step {scope.step.key}: a step's inside is not replayed"
        )
    return scope


def refuse_on_loop(scope: Scope, what: str, instead: str) -> None:
    """Raise ``BlockingCall`` when a blocking name is used on the loop that the job runs on."""
    if scope.run.loop_ident is not None and scope.run.loop_ident == threading.get_ident():
        ref = scope.run.ref
        raise BlockingCall(
            f"{what} would block the event loop inside job {ref.kind} {short(ref.job_id)}. Use: {instead}",
            job_id=ref.job_id,
        )
