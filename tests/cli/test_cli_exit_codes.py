"""Every error has its exit code and its HTTP status on purpose; every end of a job its exit code."""

from __future__ import annotations

import inspect

import pytest

from relight import errors
from relight.cli.exit_codes import JOB_EXITS, WORTH, Exit, Worth, worth_of
from relight.model import FINAL_STATES
from relight.store.store import OutcomeUnknown

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and c.__module__ == errors.__name__]


def test_there_are_errors() -> None:
    assert len(CLASSES) > 35


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_in_the_table_by_name(cls: type[BaseException]) -> None:
    assert issubclass(cls, BaseException)
    worth = WORTH[cls]
    assert worth.exit in Exit
    assert 400 <= worth.http < 600


def test_the_table_has_nothing_else() -> None:
    assert set(WORTH) == set(CLASSES)


@pytest.mark.parametrize("cls", [c for c in CLASSES if getattr(c, "retryable", False)])
def test_what_may_succeed_later_tells_a_client_of_http_so(cls: type[errors.RelightError]) -> None:
    assert WORTH[cls].http in (429, 503, 504)


def test_a_class_of_elsewhere_counts_as_its_nearest_base() -> None:
    assert worth_of(OutcomeUnknown("x")) == WORTH[errors.StorageUnavailable]
    assert worth_of(type("Mine", (errors.KindUnknown,), {})("x")) == WORTH[errors.KindUnknown]
    assert worth_of(ValueError("x")) == Worth(Exit.FAILED, 500)


def test_every_end_of_a_job_has_an_exit_code() -> None:
    assert set(JOB_EXITS) == FINAL_STATES
    assert sorted(set(JOB_EXITS.values())) == [0, 1, 3, 6]
