"""The retry schedule as data: how many tries, when the next one is, and which failures are tried again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.core.retry import ONE_TRY, Retry
from relight.errors import InvalidArgument, NotSerializable, PayloadTooLarge, StepError

ANY = ConnectionError("reset")
SEED = "job:fetch#0"


def at(retry: Retry, failed_try: int, error: Exception = ANY, *, now: int = 1000, first: int = 1000) -> int | None:
    return retry.next_try_at(failed_try, error, SEED, now_ms=now, first_ms=first)


def test_one_try_is_never_followed_by_another() -> None:
    assert at(ONE_TRY, 1) is None


@pytest.mark.parametrize("failed_try, again", [(1, True), (2, True), (3, False), (4, False)])
def test_tries_counts_all_calls(failed_try: int, again: bool) -> None:
    assert (at(Retry(tries=3), failed_try) is not None) is again


@pytest.mark.parametrize("failed_try, pause", [(1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 10_000), (9, 10_000)])
def test_pauses_grow_by_the_factor_up_to_the_most(failed_try: int, pause: int) -> None:
    retry = Retry(tries=99, first_seconds=1, factor=2, max_seconds=10, jitter=False)
    assert at(retry, failed_try) == 1000 + pause


def test_a_factor_of_one_and_a_first_pause_of_none_are_allowed() -> None:
    assert at(Retry(tries=9, first_seconds=0.25, factor=1, jitter=False), 7) == 1250
    assert at(Retry(tries=9, first_seconds=0), 7) == 1000


@pytest.mark.parametrize(
    "factor",
    [1e4, 1e8],
)
def test_a_million_failures_overflow_nothing(factor: float) -> None:
    retry = Retry(tries=10**6, first_seconds=1, factor=factor, max_seconds=3600, jitter=False)
    assert at(retry, 999_999) == 1000 + 3_600_000


@given(st.integers(1, 10_000), st.text(max_size=20))
def test_jitter_takes_half_to_all_of_the_pause_and_is_fixed_by_its_seed(failed_try: int, seed: str) -> None:
    retry, plain = Retry(tries=10**9), Retry(tries=10**9, jitter=False)
    full = plain.pause_ms(failed_try, ANY, seed)
    pause = retry.pause_ms(failed_try, ANY, seed)
    assert full // 2 <= pause <= full
    assert pause == retry.pause_ms(failed_try, ANY, seed)


def test_jitter_differs_between_jobs_steps_and_tries() -> None:
    retry = Retry(tries=99, first_seconds=60, factor=1, max_seconds=60)
    assert len({retry.pause_ms(1, ANY, f"job-{n}:fetch#0") for n in range(20)}) > 15
    assert len({retry.pause_ms(n, ANY, SEED) for n in range(1, 21)}) > 15


@pytest.mark.parametrize("total, again", [(0.999, False), (1.0, True), (5, True)])
def test_total_seconds_ends_the_tries_when_the_next_one_would_begin_later(total: float, again: bool) -> None:
    retry = Retry(tries=9, first_seconds=1, jitter=False, total_seconds=total)
    assert (at(retry, 1) is not None) is again


def test_total_seconds_counts_from_the_first_try() -> None:
    retry = Retry(tries=9, first_seconds=1, factor=1, jitter=False, total_seconds=10)
    assert at(retry, 3, now=10_000, first=1000) == 11_000
    assert at(retry, 3, now=10_001, first=1000) is None


class Transient(ConnectionError):
    """A subclass."""


@pytest.mark.parametrize(
    "retry, error, again",
    [
        (Retry(), ValueError(), True),
        (Retry(on=(ConnectionError,)), Transient(), True),
        (Retry(on=(ConnectionError,)), ValueError(), False),
        (Retry(on=()), ValueError(), False),
        (Retry(not_on=(ConnectionError,)), Transient(), False),
        (Retry(not_on=(ConnectionError,)), ValueError(), True),
        (Retry(on=(OSError,), not_on=(ConnectionError,)), Transient(), False),
        (Retry(on=(OSError,), not_on=(ConnectionError,)), FileNotFoundError(), True),
        (Retry(on=lambda error: "503" in str(error)), OSError("503"), True),
        (Retry(on=lambda error: "503" in str(error)), OSError("400"), False),
        (Retry(on=lambda error: True, not_on=(ValueError,)), ValueError(), False),
    ],
)
def test_which_failures_are_tried_again(retry: Retry, error: Exception, again: bool) -> None:
    assert retry.allows(error) is again


@pytest.mark.parametrize("error", [NotSerializable("x"), PayloadTooLarge("x")])
def test_a_result_that_cannot_be_stored_is_never_tried_again(error: Exception) -> None:
    assert Retry(on=(Exception,)).allows(error) is False


@pytest.mark.parametrize("retryable", [True, False])
def test_a_steperror_decides_for_itself(retryable: bool) -> None:
    for retry in (Retry(), Retry(on=(ValueError,)), Retry(not_on=(StepError,)), Retry(on=lambda error: not retryable)):
        assert retry.allows(StepError("x", retryable=retryable)) is retryable


@pytest.mark.parametrize("after, pause", [(0, 0), (0.5, 500), (7200, 7_200_000), (-3, 0)])
def test_a_steperrors_pause_replaces_the_schedules_whatever_the_most(after: float, pause: int) -> None:
    assert at(Retry(max_seconds=1), 1, StepError("x", retry_after_seconds=after)) == 1000 + pause


def test_a_steperror_that_is_retryable_ends_with_the_tries_all_the_same() -> None:
    assert at(Retry(tries=2), 2, StepError("x", retry_after_seconds=1)) is None


@pytest.mark.parametrize(
    "options",
    [
        {"tries": 0},
        {"tries": -1},
        {"tries": True},
        {"tries": 2.0},
        {"tries": "3"},
        {"tries": None},
        {"first_seconds": -1},
        {"first_seconds": math.nan},
        {"first_seconds": math.inf},
        {"first_seconds": "1"},
        {"max_seconds": -0.1},
        {"factor": math.nan},
        {"factor": None},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="Retry"):
        Retry(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"total_seconds": "soon"},
        {"total_seconds": -1},
        {"total_seconds": math.nan},
        {"on": "ValueError"},
        {"on": (ValueError, "OSError")},
        {"on": ValueError},
        {"not_on": ValueError},
        {"not_on": [ValueError]},
        {"first_seconds": True},
    ],
)
def test_these_are_refused_too(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="Retry"):
        Retry(**options)


def test_a_schedule_is_a_value() -> None:
    assert Retry(tries=4, first_seconds=2) == Retry(tries=4, first_seconds=2)
    assert Retry() != Retry(tries=4)
    with pytest.raises(AttributeError):
        Retry().tries = 5  # type: ignore[misc]
