"""What definitions and submissions are given: queues, and the checks of names, keys, priorities and the like.

Each check returns what it was given, or raises ``InvalidArgument`` saying what is wanted. Read next: ``steps.py``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relight.core.keys import check_name, explicit_key
from relight.errors import InvalidArgument
from relight.model import OnStall


@dataclass(frozen=True)
class Rate:
    """At most ``n`` starts in any ``per_seconds`` seconds, over all engines on the store and over restarts.

    What counts is the claim: a job that is put away and taken up again starts again.
    """

    n: int
    per_seconds: float

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or not 1 <= self.n <= 1_000_000:
            raise InvalidArgument(f"Rate(n={self.n!r}): a whole number of starts, 1 to 1,000,000")
        seconds = self.per_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.001 <= seconds <= 1e8:
            raise InvalidArgument(f"Rate(per_seconds={seconds!r}): a number of seconds, 0.001 or more")


@dataclass(frozen=True)
class Queue:
    """A named line with limits. Defining it writes it to the store at start; ``consume=`` says who takes from it.

    ``slots``: running jobs over all engines; ``per_engine_slots``: in each one; ``rate``: starts in a time, over all
    engines. None: no limit of its own. ``priority``: jobs of a queue with a higher one are taken first, whatever their own.
    Of two definitions that differ the one of the last start holds (event ``queue_changed``); an operator's override stays.
    """

    name: str
    slots: int | None = field(default=None, kw_only=True)
    per_engine_slots: int | None = field(default=None, kw_only=True)
    rate: Rate | None = field(default=None, kw_only=True)
    priority: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_name(self.name, "queue")
        for name in ("slots", "per_engine_slots"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise InvalidArgument(f"Queue({self.name!r}, {name}={value!r}): a whole number, 0 or more, or None")
        if self.rate is not None and not isinstance(self.rate, Rate):
            raise InvalidArgument(f"Queue({self.name!r}, rate={self.rate!r}): a Rate(n, per_seconds), or None")
        check_priority(self.priority)


class Definition:
    """What a decorator made of a function."""


def code_ref(fn: Callable[..., Any]) -> str:
    """Return where a function is written: ``file.py:12``."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if code is None:
        return getattr(fn, "__qualname__", repr(fn))
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"


def own_name(fn: Callable[..., Any]) -> str:
    """Return what a function is called: a partial as the function in it, a callable object as its class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return str(name).replace("<lambda>", "lambda")


def refuse_unknown(given: Mapping[str, Any], make: Callable[..., Any], what: str) -> None:
    """Refuse options that ``make`` has no keyword for, with ``InvalidArgument``."""
    known = inspect.getfullargspec(make).kwonlyargs
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidArgument(f"{what} has no option {', '.join(unknown)}. Options: {', '.join(known)}")


def check_key(name: str, key: object) -> str:
    """Return an explicit key that can be stored. Raises ``InvalidArgument``."""
    try:
        if not isinstance(key, str):
            raise InvalidArgument(f"key {key!r:.100} of {name}: a key is text, such as str(item.id)")
        explicit_key(name, key).encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"key {key!r:.100} of {name}: a lone surrogate is not valid Unicode") from None
    return key


def check_timeout(name: str, value: object) -> int | None:
    """Return seconds as milliseconds, or None. Raises ``InvalidArgument``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise InvalidArgument(f"{name}={value!r}: a number of seconds above 0")
    return max(int(value * 1000), 1)


def queue_name(queue: Queue | str | None) -> str | None:
    """Return a queue's name. Raises ``InvalidArgument``."""
    if queue is None:
        return None
    return queue.name if isinstance(queue, Queue) else check_name(queue, "queue")


def check_priority(priority: object) -> int:
    """Return a priority: higher first, 0 is usual."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -(2**31) <= priority < 2**31:
        raise InvalidArgument(f"priority={priority!r}: a whole number, higher first")
    return priority


def check_on_stall(on_stall: OnStall) -> OnStall:
    """Return a stall policy. Raises ``InvalidArgument``."""
    if on_stall not in ("resume", "hold"):
        raise InvalidArgument(f'on_stall={on_stall!r}: "resume" or "hold"')
    return on_stall


def check_max_stalls(max_stalls: object) -> int:
    """Return a crash-loop limit. Raises ``InvalidArgument``."""
    if isinstance(max_stalls, bool) or not isinstance(max_stalls, int) or not 1 <= max_stalls < 1_000_000:
        raise InvalidArgument(f"max_stalls={max_stalls!r}: a whole number, 1 or more")
    return max_stalls
