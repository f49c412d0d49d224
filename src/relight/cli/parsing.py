"""From what is typed to values: durations, moments, ``k=v`` pairs. Raises ``InvalidArgument`` saying what would do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from relight.errors import InvalidArgument

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_DURATION = "a duration like 90s, 15m, 2h, 1d or 1h30m"
_MOMENT = "a time with its zone, like 2026-02-03T08:15:00+01:00 or 2026-02-03T07:15Z"


def seconds(text: str, what: str) -> float:
    """Read a duration: ``90`` and ``90s``, ``15m``, ``2h``, ``1h30m``."""
    rest, total = text.strip().lower(), 0.0
    if not rest:
        raise InvalidArgument(f"{what} {text!r}: give {_DURATION}")
    while rest:
        part = _PART.match(rest)
        if part is None or (part[2] or "s") not in _UNITS:
            raise InvalidArgument(f"{what} {text!r}: give {_DURATION}")
        total += float(part[1]) * _UNITS[part[2] or "s"]
        rest = rest[part.end() :].strip()
    return total


def moment(text: str, what: str) -> datetime:
    """Read an aware time in ISO form; one without a zone is refused, since it means another moment on another machine."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidArgument(f"{what} {text!r}: give {_MOMENT}") from None
    if at.tzinfo is None:
        local = at.astimezone().isoformat(timespec="minutes")
        raise InvalidArgument(f"{what} {text!r} has no time zone. Here it would be {local}; give {_MOMENT}")
    return at


def moment_or_ago(text: str, what: str) -> datetime:
    """Read a time, or a duration before now."""
    if _PART.match(text.strip()) and "-" not in text:
        try:
            return datetime.now(UTC) - timedelta(seconds=seconds(text, what))
        except OverflowError:
            raise InvalidArgument(f"{what} {text!r}: longer ago than any calendar goes back") from None
    return moment(text, what)


def pairs(texts: Iterable[str], what: str) -> dict[str, str]:
    """Read ``k=v`` pairs, in order; the same name twice is refused."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{what} {text!r}: write {what} NAME=VALUE")
        if name in found:
            raise InvalidArgument(f"{what} {name} is given twice")
        found[name] = value
    return found


def text_or_stdin(text: str) -> str:
    """Return a text, or what stands on stdin for ``-``."""
    return sys.stdin.read() if text == "-" else text
