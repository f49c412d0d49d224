"""``poll``: check again and again until the result will do. Durable between checks; only the last state is kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from relight.authoring.context import Scope, in_body, refuse_on_loop
from relight.authoring.options import code_ref, own_name
from relight.authoring.steps import AsyncStep, BaseStep, Step
from relight.authoring.waiting import milliseconds
from relight.core.flow import Flow, StepSpec
from relight.core.keys import check_name
from relight.core.polling import OUT_OF_TIME
from relight.errors import InvalidArgument, WaitTimeout
from relight.ids import short
from relight.signature import refuse_generators

S = TypeVar("S")


def _as_step(check: Any) -> BaseStep[..., Any]:
    """Return a check as a step: itself, or one made of a plain function (one try, no time limit)."""
    if isinstance(check, BaseStep):
        if check.spec.policy != "retry":
            raise InvalidArgument(
                f'poll({check.name}, …): a check is made again and again, so a crash makes it again too: in_doubt="retry"'
            )
        return check
    if not callable(check):
        raise InvalidArgument(f"poll({check!r}, …): a step or a function that takes a state and returns the next one")
    name = check_name(own_name(check), "check")
    refuse_generators(check, name)
    is_async = inspect.iscoroutinefunction(inspect.unwrap(check))
    spec = StepSpec(name=name, function=check, code_ref=code_ref(check), is_async=is_async)
    return AsyncStep(spec) if is_async else Step(spec)


class _Poll:
    """Call ``check(first)``, then ``check`` with what it returned, until ``until(state)`` is true; return that state.

    ``check`` is a step or a function of one argument that returns the next state. There are ``every_seconds`` between two
    checks; nothing runs meanwhile, and a crash goes on from the last state and time. A check that fails is tried again by
    its own ``Retry``; without one its failure is raised. After ``timeout_seconds`` it raises ``WaitTimeout``; the first
    check is always made.
    """

    def _flow(
        self, check: Any, first: Any, until: Any, every_seconds: float, timeout_seconds: float | None
    ) -> tuple[Scope, str, Flow]:
        scope = in_body("poll")
        step = _as_step(check)
        if not callable(until):
            raise InvalidArgument(f"poll(until={until!r}): a function that tells whether a state will do")
        every_ms = milliseconds("every_seconds", every_seconds)
        if not every_ms:
            raise InvalidArgument(f"poll(every_seconds={every_seconds!r}): more than 0")
        timeout_ms = milliseconds("timeout_seconds", timeout_seconds)
        key = scope.branch.next_key(f"poll:{step.name}")
        flow = scope.run.poll_of(step, key, first, until, every_ms=every_ms, timeout_ms=timeout_ms)
        return scope, step.name, flow

    @staticmethod
    def _read(scope: Scope, name: str, got: Any) -> Any:
        if got is OUT_OF_TIME:
            raise WaitTimeout(
                f"poll({name}, …) of {scope.run.ref.kind} {short(scope.run.ref.job_id)} ran out of time",
                summary=f"polled {name}",
            )
        return got

    def __call__(
        self,
        check: Callable[[S], S],
        first: S,
        *,
        until: Callable[[S], bool],
        every_seconds: float,
        timeout_seconds: float | None = None,
    ) -> S:
        scope, name, flow = self._flow(check, first, until, every_seconds, timeout_seconds)
        refuse_on_loop(scope, "poll()", "await poll.aio(…)")
        state: S = self._read(scope, name, scope.run.drive(flow))
        return state

    async def aio(
        self,
        check: Callable[[S], S] | Callable[[S], Coroutine[Any, Any, S]],
        first: S,
        *,
        until: Callable[[S], bool],
        every_seconds: float,
        timeout_seconds: float | None = None,
    ) -> S:
        """Poll, in async code."""
        scope, name, flow = self._flow(check, first, until, every_seconds, timeout_seconds)
        state: S = self._read(scope, name, await scope.run.drive_async(flow))
        return state


poll = _Poll()
