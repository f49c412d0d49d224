"""``external``: hand out a token that somebody outside completes, and wait for the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from relight.authoring.context import Scope, in_body, refuse_on_loop
from relight.authoring.waiting import milliseconds
from relight.core import external as flows
from relight.core.commands.outside import FAILED_OUTSIDE
from relight.core.flow import Flow
from relight.core.keys import check_name
from relight.core.waits import TIMED_OUT
from relight.errors import InvalidArgument, StepFailed, WaitTimeout
from relight.ids import StepKey, short

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class _Waiter(Generic[R_co]):
    """``answer.wait(...)`` and ``await answer.wait.aio(...)``."""

    def __init__(self, handed: External[R_co]) -> None:
        self._handed = handed

    def _flow(self, timeout_seconds: float | None) -> tuple[Scope, StepKey, Flow]:
        scope = in_body("wait")
        handed = self._handed
        key = scope.branch.next_key(f"wait:{handed.name}")
        timeout_ms = milliseconds("timeout_seconds", timeout_seconds)
        history, ref = scope.run.history, scope.run.ref
        flow = flows.await_token(history, ref, key, name=handed.name, token=handed.token, timeout_ms=timeout_ms)
        return scope, key, flow

    def _read(self, scope: Scope, key: StepKey, got: Any) -> R_co:
        name = self._handed.name
        who = f"{scope.run.ref.kind} {short(scope.run.ref.job_id)}"
        if got == TIMED_OUT:
            raise WaitTimeout(
                f"{name!r} of {who} was not completed in time", summary=f"waited for {name!r}", step_key=key
            )
        match got["state"]:
            case "completed":
                codec = scope.run.registry_for().for_type(self._handed.type, what=f"the answer to {name!r}")
                value: R_co = codec.decode(got["value"].encode(), what=f"the answer to {name!r}")
                return value
            case "failed":
                raise StepFailed(got["error"], step_key=key, error_type=FAILED_OUTSIDE, error_code=FAILED_OUTSIDE)
        silent = got["reason"] == "heartbeat"
        why = "whoever works on it fell silent" if silent else "nobody completed it in time"
        raise WaitTimeout(f"{name!r} of {who}: {why}", summary=f"waited for {name!r}: {why}", reason=got["reason"])

    def __call__(self, *, timeout_seconds: float | None = None) -> R_co:
        scope, key, flow = self._flow(timeout_seconds)
        refuse_on_loop(scope, "wait()", "await answer.wait.aio()")
        return self._read(scope, key, scope.run.drive(flow))

    async def aio(self, *, timeout_seconds: float | None = None) -> R_co:
        """Wait for the answer, in async code."""
        scope, key, flow = self._flow(timeout_seconds)
        return self._read(scope, key, await scope.run.drive_async(flow))


@dataclass(frozen=True)
class External(Generic[R_co]):
    """Something that somebody outside completes. ``token`` is what they need for it: secret, URL-safe, for one answer.

    ``wait`` waits for the answer. ``wait(timeout_seconds=…)`` limits that wait alone: the token stays good.
    """

    token: str
    name: str = field(kw_only=True)
    type: Any = field(kw_only=True, repr=False)

    @property
    def wait(self) -> _Waiter[R_co]:
        """What waits for the answer. Raises ``WaitTimeout`` when there is none, ``StepFailed`` when it is a failure."""
        return _Waiter(self)


def external(
    name: str, *, type: type[T], timeout_seconds: float | None = None, heartbeat_seconds: float | None = None
) -> External[T]:
    """Make a token that somebody outside completes with a value of ``type``, and return what waits for it.

    The token is on disk before the next step is called; a replay gets the same one. ``timeout_seconds`` counts from here.
    With ``heartbeat_seconds`` whoever works on it has to say so at least that often. Completed by
    ``client.complete(token, value)``, ``client.fail(token, error)`` or ``relight complete TOKEN``; once, and until its time
    is up: what comes later changes nothing. In async code, too, it is called without ``await``.

    Raises ``NotInJob`` outside a workflow's body. Events: ``external_created``.
    """
    scope = in_body("external")
    check_name(name, "external")
    scope.run.registry_for().for_type(type, what=f"type of external {name!r}")
    heartbeat_ms = milliseconds("heartbeat_seconds", heartbeat_seconds)
    if heartbeat_ms == 0:
        raise InvalidArgument("heartbeat_seconds=0: more than 0, or None for no limit")
    key = scope.branch.next_key(f"external:{name}")
    flow = flows.make_token(
        scope.run.history,
        scope.run.ref,
        key,
        name=name,
        type_ref=scope.run.type_name(type),
        timeout_ms=milliseconds("timeout_seconds", timeout_seconds),
        heartbeat_ms=heartbeat_ms,
        lazy=scope.run.loop_ident is not None,
    )
    token: str = scope.run.drive_value(flow)  # type: ignore[attr-defined]
    return External(token, name=name, type=type)
