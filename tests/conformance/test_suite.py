"""The suite itself: no test hides another of its name, and a backend has to give nothing but stores."""

from __future__ import annotations

import inspect
from collections import Counter

from relight import conformance
from relight.conformance import batches, claims, fence, outside, reads, recovery, steps, teams, transitions, waits

PARTS = (batches, claims, fence, outside, reads, recovery, steps, teams, transitions, waits)


def test_no_test_hides_another_of_its_name() -> None:
    names = Counter(name for part in PARTS for name, value in vars(part).items() if is_test(name, value, part.__name__))
    assert [name for name, times in names.items() if times > 1] == []
    assert all(hasattr(conformance, name) for name in names)
    assert len(names) > 50


def is_test(name: str, value: object, module: str) -> bool:
    return name.startswith("test_") and inspect.isfunction(value) and value.__module__ == module


def test_every_test_asks_for_stores_and_parameters_only() -> None:
    for part in PARTS:
        for name, value in vars(part).items():
            if is_test(name, value, part.__name__):
                assert "store_factory" in inspect.signature(value).parameters, name
