"""The store and the naive reference do the same, whatever happens in whatever order."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test
from tests.model.machine import StoreAgainstReference

THOROUGH = hypothesis.settings.default.max_examples >= 2_000
"""`RELIGHT_TEST_PROFILE=thorough`: 2,000 examples of 50 steps."""


@pytest.mark.timeout(7200)
def test_the_store_does_what_the_reference_does() -> None:
    settings = hypothesis.settings(
        max_examples=2_000 if THOROUGH else 40,
        stateful_step_count=50 if THOROUGH else 40,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(StoreAgainstReference, settings=settings)  # type: ignore[no-untyped-call]
