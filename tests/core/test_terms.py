"""What holds in a queue: definition, override, and the room that a rate leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relight.core.terms import RateTerms, RateWindow, Terms, changed_terms, rate_room, term_words, terms_of
from relight.model import QueueRecord


def window(starts: list[int], n: int, most: int = 1_000) -> RateWindow:
    """Return what a store tells of a queue that started so."""
    kept = starts[-n:]
    first = len(starts) - len(kept) + 1 if kept else 0
    return RateWindow(first, len(starts), starts[-1] if starts else 0, kept[:most])


def test_a_queue_nobody_defined_has_no_limit() -> None:
    assert terms_of(None) == terms_of(QueueRecord(queue="q")) == Terms()


def test_an_override_holds_term_by_term_over_the_definition() -> None:
    queue = QueueRecord(queue="q", slots=3, priority=1, rate='{"n":2,"per_seconds":0.5}', revision=4)
    assert terms_of(queue) == Terms(3, None, 1, RateTerms(2, 500), False, 4)
    set_by_hand = QueueRecord(
        queue="q", slots=3, rate='{"n":2,"per_seconds":0.5}', override='{"slots":null,"priority":7}'
    )
    assert terms_of(set_by_hand) == Terms(None, None, 7, RateTerms(2, 500), False, 0)


def test_terms_are_said_as_they_are_typed() -> None:
    assert term_words({"slots": 2, "rate": {"n": 1000, "per_seconds": 60}, "priority": 0}) == "slots=2, rate=1,000/60s"
    assert term_words({}) == "no limit"
    assert changed_terms({"slots": 1, "priority": 0}, {"slots": 2, "priority": 0}) == {"slots": 2}


@given(
    st.lists(st.integers(0, 50), max_size=60),
    st.integers(1, 6),
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(0, 30),
)
def test_the_room_is_what_any_window_leaves(gaps: list[int], n: int, per_ms: int, most: int, later: int) -> None:
    """Starts as the rule admits them; then the room found is the room that counting the last window gives."""
    rate = RateTerms(n, per_ms)
    starts: list[int] = []
    now = 1_000
    for gap in gaps:
        now += gap
        free, _ = rate_room(rate, window(starts, n), now, 1)
        if free:
            starts.append(now)
    now += later
    inside = sum(at > now - per_ms for at in starts)
    free, until = rate_room(rate, window(starts, n, most), now, most)
    assert free == min(n - inside, most)
    assert (until is None) == (free >= most or inside == 0)
    if until is not None:
        assert rate_room(rate, window(starts, n), until, free + 1)[0] == free + 1
        assert rate_room(rate, window(starts, n), until - 1, free + 1)[0] <= free
    assert all(sum(start <= at < start + per_ms for at in starts) <= n for start in starts)


def test_a_clock_set_back_a_little_stands_still_and_by_more_than_the_window_waits_for_one() -> None:
    rate = RateTerms(1, 100)
    assert rate_room(rate, window([1_000], 1), 950, 1) == (0, 1_050)
    assert rate_room(rate, window([1_000], 1), 899, 1) == (0, 999)
