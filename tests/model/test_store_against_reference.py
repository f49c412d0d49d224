"""The store and the naive reference do the same, whatever happens in whatever order.

`RELIGHT_TEST_PROFILE=thorough pytest tests/model` looks as hard as the goal says (G6): 2,000 examples of 50 steps.
"""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test
from tests.model.machine import StoreAgainstReference

THOROUGH = hypothesis.settings.default.max_examples >= 2_000


def drive(examples: int, steps: int) -> None:
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(StoreAgainstReference, settings=settings)  # type: ignore[no-untyped-call]


def test_the_store_does_what_the_reference_does() -> None:
    drive(30, 30)


@pytest.mark.slow
@pytest.mark.timeout(7200 if THOROUGH else 300)
def test_the_store_does_what_the_reference_does_for_long() -> None:
    drive(2_000 if THOROUGH else 250, 50)
