"""The retry schedule as data: when the next try is, and whether there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from relight.errors import InvalidArgument, NotSerializable, PayloadError, StepError


@dataclass(frozen=True)
class Retry:
    """How often and how soon a failed step is tried again. A crash is not a failed try.

    ``tries`` counts all calls (1 or more). The pause before try n+1 is ``first_seconds * factor**(n-1)``, at most
    ``max_seconds``; with ``jitter`` a fixed share of 50 to 100 % of it, drawn from job, step and try. ``on`` says which
    failures are retried: exception types, or a predicate; ``not_on`` types never are. ``total_seconds`` ends the tries
    when the next one would begin later than that after the first. A ``StepError`` overrides all this for its own failure.
    """

    tries: int = 3
    first_seconds: float = field(default=1, kw_only=True)
    factor: float = field(default=2, kw_only=True)
    max_seconds: float = field(default=60, kw_only=True)
    jitter: bool = field(default=True, kw_only=True)
    on: tuple[type[Exception], ...] | Callable[[Exception], bool] = field(default=(Exception,), kw_only=True)
    not_on: tuple[type[Exception], ...] = field(default=(), kw_only=True)
    total_seconds: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        tries: object = self.tries
        if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
            raise InvalidArgument(f"Retry(tries={self.tries!r}): tries is a whole number, 1 or more")
        for name in ("first_seconds", "max_seconds", "factor", "total_seconds"):
            value = getattr(self, name)
            if value is None and name == "total_seconds":
                continue
            if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 <= value < 1e9):
                raise InvalidArgument(f"Retry({name}={value!r}): a number from 0 to 1e9")
        if not isinstance(self.jitter, bool):
            raise InvalidArgument(f"Retry(jitter={self.jitter!r}): True or False")
        if isinstance(self.on, type) or not callable(self.on):
            _check_types("on", self.on)
        _check_types("not_on", self.not_on)

    def allows(self, error: Exception) -> bool:
        """Tell whether this kind of failure is retried at all."""
        if isinstance(error, StepError):
            return error.retryable
        if isinstance(error, (*self.not_on, PayloadError, NotSerializable)):
            return False
        return isinstance(error, self.on) if isinstance(self.on, tuple) else bool(self.on(error))

    def pause_ms(self, failed_try: int, error: Exception, seed: str) -> int:
        """Return the pause after a failed try in ms. ``seed`` fixes the jitter."""
        if isinstance(error, StepError) and error.retry_after_seconds is not None:
            return int(max(error.retry_after_seconds, 0) * 1000)
        try:
            seconds = min(self.first_seconds * float(self.factor) ** (failed_try - 1), self.max_seconds)
        except OverflowError:
            seconds = self.max_seconds
        if self.jitter:
            digest = hashlib.sha256(f"{seed}:{failed_try}".encode()).digest()
            seconds *= 0.5 + int.from_bytes(digest[:4], "big") / 2**33
        return int(seconds * 1000)

    def next_try_at(self, failed_try: int, error: Exception, seed: str, *, now_ms: int, first_ms: int) -> int | None:
        """Return when to try again, or None when this failure is final."""
        if failed_try >= self.tries or not self.allows(error):
            return None
        at = now_ms + self.pause_ms(failed_try, error, seed)
        if self.total_seconds is not None and at - first_ms > self.total_seconds * 1000:
            return None
        return at


def _check_types(name: str, given: object) -> None:
    if not isinstance(given, tuple) or not all(isinstance(t, type) and issubclass(t, Exception) for t in given):
        raise InvalidArgument(f"Retry({name}={given!r}): a tuple of exception types")


ONE_TRY = Retry(tries=1)
"""A bare ``@step`` has one try; a crash still runs it again (``in_doubt="retry"``)."""
