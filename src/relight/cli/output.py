"""What the command line prints: text that a terminal cannot be tricked with, JSON that stays JSON, columns.

Stored text was written by others: control and direction characters in it are shown as escapes, never sent to a
terminal. No colour anywhere. Results go to stdout, everything said beside them to stderr. Read next: ``records.py``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import click
import msgspec

from relight.clock import rfc3339
from relight.core.why_words import when

_HARMFUL = re.compile(
    "[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|[\U000e0000-\U000e0fff]"
)
"""Inside JSON text: C0 is escaped by every JSON writer, these are not (C1, invisible, and direction characters)."""


def visible(text: str) -> str:
    """Return stored text on one line, with everything unprintable as an escape."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)


def visible_lines(text: str) -> list[str]:
    """Return stored text line by line, each made visible."""
    return [visible(line) for line in text.splitlines()]


def json_text(value: object) -> str:
    """Return a value as JSON on one line, what a terminal would obey escaped the JSON way."""
    return _HARMFUL.sub(_json_escape, msgspec.json.encode(value).decode())


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def say(text: str) -> None:
    """Print a line of what was asked for, to stdout. What goes to a file or a pipe is written in blocks."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    """Print one object on one line, to stdout."""
    say(json_text(value))


def tell(text: str) -> None:
    """Print a line about what happens, to stderr, behind everything that was printed before."""
    sys.stdout.flush()
    click.echo(text, err=True)


def on_terminal() -> bool:
    """Tell whether stderr, where progress is shown, is a terminal."""
    return sys.stderr.isatty()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns, each as wide as its widest value, under a head; nothing when there are none."""
    shown = [[visible(value) for value in row] for row in rows]
    if not shown:
        return
    lines = [list(head), *shown]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        say("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


def local(ms: int | None) -> str:
    """Show a stored time in this machine's time zone; empty for none."""
    if ms is None:
        return ""
    return f"{when(ms).astimezone():%Y-%m-%d %H:%M:%S}"


def local_now() -> datetime:
    """Return the time now, in this machine's time zone."""
    return datetime.now().astimezone()


def wire_time(ms: int | None) -> str | None:
    """Write a stored time as RFC 3339; a figure that no calendar knows (a damaged row) as it is."""
    if ms is None:
        return None
    try:
        return rfc3339(ms)
    except (OverflowError, ValueError):
        return str(ms)


def shortened(text: str, limit: int = 200) -> str:
    """Return text cut at a length, saying how long it is."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def make_output_safe() -> None:
    """Let nothing that is printed fail for the terminal's encoding: what it cannot show is escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
