"""What is typed is read as it was meant, or refused with what would do; what is printed cannot trick a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.cli.output import json_text, visible, wire_time
from relight.cli.parsing import moment, moment_or_ago, pairs, seconds
from relight.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("15min", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (" 2 H ", 7200),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text, "--in") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "x", "-5s", "5y", "1h-2m", "h", "1,5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="a duration like 90s"):
        seconds(text, "--in")


def test_a_moment_has_a_zone() -> None:
    assert moment("2026-02-03T08:15Z", "--at") == datetime(2026, 2, 3, 8, 15, tzinfo=UTC)
    assert moment("2026-02-03 08:15:00+01:00", "--at") == datetime(2026, 2, 3, 7, 15, tzinfo=UTC)
    with pytest.raises(InvalidArgument, match="has no time zone"):
        moment("2026-02-03T08:15", "--at")
    with pytest.raises(InvalidArgument, match="give a time"):
        moment("tomorrow", "--at")


def test_since_takes_a_moment_or_how_long_ago() -> None:
    then = moment_or_ago("2h", "--since")
    ago = datetime.now(UTC) - then
    assert timedelta(hours=2) <= ago < timedelta(hours=2, minutes=1)
    assert moment_or_ago("2026-02-03T08:15Z", "--since").day == 3
    with pytest.raises(InvalidArgument):
        moment_or_ago("99999999999d", "--since")


def test_pairs() -> None:
    assert pairs(["a=1", "b=x=y", "c="], "--arg") == {"a": "1", "b": "x=y", "c": ""}
    for bad in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(InvalidArgument):
            pairs(bad, "--arg")


HARMFUL = "\x1b[31m\x07\r\n\x9b2J\u202egnp\u2028\u200b\U000e0041"


def test_harmful_text_is_shown_as_escapes() -> None:
    assert visible("plain …f36877 ü") == "plain …f36877 ü"
    assert visible(HARMFUL).isprintable()
    assert visible("\x1b]8;;http://x\x07") == "\\x1b]8;;http://x\\x07"


def test_json_stays_json_and_is_harmless() -> None:
    text = json_text({"a": HARMFUL, "b": "ü…"})
    assert text.isprintable()
    assert json.loads(text) == {"a": HARMFUL, "b": "ü…"}


@given(st.text())
def test_whatever_is_stored_is_printed_harmlessly_and_read_back(text: str) -> None:
    assert visible(text).isprintable()
    printed = json_text(text)
    assert json.loads(printed) == text
    assert not any(ord(ch) < 0x20 or 0x7F <= ord(ch) < 0xA0 for ch in printed)


def test_times_on_the_wire() -> None:
    assert wire_time(None) is None
    assert wire_time(1_000) == "1970-01-01T00:00:01.000Z"
    assert wire_time(10**18) == str(10**18)
