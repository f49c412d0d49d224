"""Durable waits as user code writes them: sleep, signals, questions. Each also as ``.aio(...)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, overload

from relight.authoring.context import Scope, in_body, refuse_on_loop
from relight.authoring.registry import check_moment, check_text
from relight.clock import to_datetime
from relight.core import waits
from relight.core.flow import Flow
from relight.core.keys import check_name
from relight.errors import InvalidArgument, WaitTimeout
from relight.ids import StepKey, short
from relight.model import Decision, Signal

T = TypeVar("T")
D = TypeVar("D")


class _Missing:
    def __repr__(self) -> str:
        return "…"


MISSING: Any = _Missing()
MAX_QUESTION = 4000


def milliseconds(name: str, seconds: float | None) -> int | None:
    """Return a duration in ms, or None for none. Raises ``InvalidArgument``."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e10:
        raise InvalidArgument(f"{name}={seconds!r}: a number of seconds, 0 or more")
    return int(seconds * 1000)


def _text_of(scope: Scope, value: object, what: str) -> str:
    return str(scope.run.registry_for().encode_any(value, what=what), "utf-8")


class _Sleep:
    """Wait for a duration, in seconds. Nothing runs meanwhile: a million sleeping jobs cost rows only."""

    def _flow(self, seconds: float) -> tuple[Scope, Flow]:
        scope = in_body("sleep")
        ms = milliseconds("seconds", seconds) or 0
        key = scope.branch.next_key("sleep")
        return scope, waits.sleep_until(scope.run.history, scope.run.ref, key, seconds=ms / 1000, until_ms=None)

    def __call__(self, seconds: float) -> None:
        scope, flow = self._flow(seconds)
        refuse_on_loop(scope, "sleep()", f"await sleep.aio({seconds:g})")
        scope.run.drive(flow)

    async def aio(self, seconds: float) -> None:
        """Wait, in async code."""
        scope, flow = self._flow(seconds)
        await scope.run.drive_async(flow)


class _SleepUntil:
    """Wait until an aware point in time. One that has passed returns at once."""

    def _flow(self, when: datetime) -> tuple[Scope, Flow]:
        scope = in_body("sleep_until")
        until = check_moment(when, "sleep_until")
        key = scope.branch.next_key("sleep")
        return scope, waits.sleep_until(scope.run.history, scope.run.ref, key, seconds=None, until_ms=until)

    def __call__(self, when: datetime) -> None:
        scope, flow = self._flow(when)
        refuse_on_loop(scope, "sleep_until()", "await sleep_until.aio(…)")
        scope.run.drive(flow)

    async def aio(self, when: datetime) -> None:
        """Wait, in async code."""
        scope, flow = self._flow(when)
        await scope.run.drive_async(flow)


@dataclass(frozen=True)
class _Received(Signal):
    """A message as a job gets it: its payload is decoded by the engine's codecs."""

    codecs: Any = field(default=None, repr=False, compare=False)

    def payload(self, type: type[T]) -> T:
        """Decode the message's content as ``type``. Raises ``PayloadError`` when it is something else."""
        what = f"payload of signal {self.name!r}"
        value: T = self.codecs.for_type(type, what=what).decode(self.raw, what=what)
        return value


class _WaitSignal:
    """Wait for a message of a name, or of one of several: kept in the order sent, each read once, also those sent before.

    ``type`` is what the payload of a single name is decoded as; whoever sends one that does not fit is refused, where that
    type is known. Of several names the result is a ``Signal``: which came, its ``payload(type)``, and by whom.
    ``timeout_seconds=0`` looks without waiting. At the time limit the result is ``default``, or ``WaitTimeout`` is raised;
    both are recorded.
    """

    def _flow(
        self, names: tuple[str, ...], type_: Any, timeout_seconds: float | None, default: Any
    ) -> tuple[Scope, StepKey, Flow]:
        scope = in_body("wait_signal")
        if not names:
            raise InvalidArgument("wait_signal() waits for a name, or for one of several")
        for name in names:
            check_name(name, "signal")
        if len(set(names)) < len(names):
            raise InvalidArgument(f"wait_signal{names!r}: each name once")
        if (type_ is MISSING) is not (len(names) > 1):
            raise InvalidArgument(
                f"wait_signal{names!r}: "
                + (
                    "give type=, what its payload is decoded as"
                    if len(names) == 1
                    else "of several names, without type=: use signal.payload(type)"
                )
            )
        key = scope.branch.next_key(f"signal:{'|'.join(names)}")
        timeout_ms = milliseconds("timeout_seconds", timeout_seconds)
        type_ref = None if type_ is MISSING else scope.run.type_name(type_)
        flow = waits.wait_signal(
            scope.run.history,
            scope.run.ref,
            key,
            names=names,
            timeout_ms=timeout_ms,
            type_ref=type_ref,
            has_default=default is not MISSING,
        )
        return scope, key, flow

    def _read(self, scope: Scope, key: StepKey, names: tuple[str, ...], type_: Any, got: Any, default: Any) -> Any:
        if got == waits.TIMED_OUT:
            if default is MISSING:
                told = " or ".join(map(repr, names))
                raise WaitTimeout(
                    f"no signal {told} came to {scope.run.ref.kind} {short(scope.run.ref.job_id)} in time",
                    summary=f"waited for signal {told}",
                    step_key=key,
                )
            return default
        raw = (got["payload"] or "null").encode()
        codecs = scope.run.registry_for()
        if type_ is MISSING:
            return _Received(got["name"], got["by"], raw, codecs)
        return codecs.for_type(type_, what=f"signal {names[0]!r}").decode(raw)

    @overload
    def __call__(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None) -> T: ...
    @overload
    def __call__(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None, default: D) -> T | D: ...
    @overload
    def __call__(self, name: str, name2: str, /, *names: str, timeout_seconds: float | None = None) -> Signal: ...
    @overload
    def __call__(
        self, name: str, name2: str, /, *names: str, timeout_seconds: float | None = None, default: D
    ) -> Signal | D: ...
    def __call__(
        self, /, *names: str, type: Any = MISSING, timeout_seconds: float | None = None, default: Any = MISSING
    ) -> Any:
        scope, key, flow = self._flow(names, type, timeout_seconds, default)
        refuse_on_loop(scope, "wait_signal()", f"await wait_signal.aio({names[0]!r}, …)")
        return self._read(scope, key, names, type, scope.run.drive(flow), default)

    @overload
    async def aio(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None) -> T: ...
    @overload
    async def aio(self, name: str, /, *, type: type[T], timeout_seconds: float | None = None, default: D) -> T | D: ...
    @overload
    async def aio(self, name: str, name2: str, /, *names: str, timeout_seconds: float | None = None) -> Signal: ...
    @overload
    async def aio(
        self, name: str, name2: str, /, *names: str, timeout_seconds: float | None = None, default: D
    ) -> Signal | D: ...
    async def aio(
        self, /, *names: str, type: Any = MISSING, timeout_seconds: float | None = None, default: Any = MISSING
    ) -> Any:
        """Wait, in async code."""
        scope, key, flow = self._flow(names, type, timeout_seconds, default)
        return self._read(scope, key, names, type, await scope.run.drive_async(flow), default)


class _Ask:
    """Ask a person and wait for the answer.

    ``options`` are the choices (two or more different names); ``preview`` the action being decided on, kept with the
    question and bound to the answer by its hash. At the time limit the answer is ``on_timeout`` (one of the options,
    given by "timeout"), or ``WaitTimeout`` is raised.
    """

    def _flow(
        self,
        question: str,
        options: Sequence[str],
        preview: object,
        timeout_seconds: float | None,
        on_timeout: str | None,
    ) -> tuple[Scope, StepKey, Flow]:
        scope = in_body("ask")
        check_text("" if question is None else question, "question", MAX_QUESTION)
        listed = isinstance(options, Sequence) and not isinstance(options, str)
        if not listed or len({check_name(option, "option") for option in options}) < max(len(options), 2):
            raise InvalidArgument(f"ask(options={options!r}): two or more different names")
        if on_timeout is not None and on_timeout not in options:
            raise InvalidArgument(f"ask(on_timeout={on_timeout!r}): one of {tuple(options)!r}")
        asked = waits.Question(
            question,
            tuple(options),
            None if preview is None else _text_of(scope, preview, "preview"),
            milliseconds("timeout_seconds", timeout_seconds),
        )
        key = scope.branch.next_key("ask")
        return scope, key, waits.ask(scope.run.history, scope.run.ref, key, asked)

    def _read(self, scope: Scope, key: StepKey, question: str, got: Any, on_timeout: str | None) -> Decision:
        if "expired_at" in got:
            if on_timeout is None:
                raise WaitTimeout(
                    f"nobody answered {question!r} of {scope.run.ref.kind} {short(scope.run.ref.job_id)} in time",
                    summary=f"waited for a decision {question!r}",
                    step_key=key,
                )
            return Decision(got["id"], on_timeout, "timeout", None, to_datetime(got["expired_at"]))
        return Decision(got["id"], got["choice"], got["by"] or "unknown", got["note"], to_datetime(got["at"]))

    def __call__(
        self,
        question: str,
        *,
        options: Sequence[str] = ("approve", "reject"),
        preview: object = None,
        timeout_seconds: float | None = None,
        on_timeout: str | None = None,
    ) -> Decision:
        scope, key, flow = self._flow(question, options, preview, timeout_seconds, on_timeout)
        refuse_on_loop(scope, "ask()", "await ask.aio(…)")
        return self._read(scope, key, question, scope.run.drive(flow), on_timeout)

    async def aio(
        self,
        question: str,
        *,
        options: Sequence[str] = ("approve", "reject"),
        preview: object = None,
        timeout_seconds: float | None = None,
        on_timeout: str | None = None,
    ) -> Decision:
        """Ask, in async code."""
        scope, key, flow = self._flow(question, options, preview, timeout_seconds, on_timeout)
        return self._read(scope, key, question, await scope.run.drive_async(flow), on_timeout)


sleep = _Sleep()
sleep_until = _SleepUntil()
wait_signal = _WaitSignal()
ask = _Ask()
