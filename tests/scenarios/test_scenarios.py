"""The table of scenarios: each as its data file says, undisturbed and after a crash at each durable boundary."""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.harness import DATA, Crashes, expected, read_expected, run_undisturbed
from tests.scenarios.script import Scenario
from tests.stores import new_store

GROUPS = (
    "steps",
    "waits",
    "signals",
    "approvals",
    "children",
    "callbacks",
    "polling",
    "parallel",
    "cancels",
    "deadlines",
    "versions",
    "races",
    "saying",
)
THOROUGH = os.environ.get("RELIGHT_TEST_PROFILE") == "thorough"
CRASHES = 2
"""At so many boundaries the short suite crashes each scenario: others in each scenario, the same each time."""
ALL = [
    (group, scenario) for group in GROUPS for scenario in importlib.import_module(f"tests.scenarios.{group}").SCENARIOS
]


def table(*, bugs: bool) -> list[Any]:
    """Return rows for tests; a row with a bug must not be as its file says, as long as it has it."""
    return [
        pytest.param(
            group,
            scenario,
            id=f"{group}-{scenario.name}",
            marks=[pytest.mark.xfail(reason=scenario.bug, strict=True)] if scenario.bug else [],
        )
        for group, scenario in ALL
        if bugs or not (scenario.bug or scenario.crash_bug)
    ]


def test_there_are_enough_of_them_and_a_file_for_each() -> None:
    assert len(ALL) >= 120
    files = {f"{path.parent.name}/{path.stem}" for path in DATA.glob("*/*.json")}
    assert files == {f"{group}/{scenario.name}" for group, scenario in ALL}
    assert all(scenario.says for _, scenario in ALL)


@pytest.mark.parametrize(("group", "scenario"), table(bugs=True))
def test_undisturbed(group: str, scenario: Scenario, tmp_path: Path) -> None:
    told = run_undisturbed(scenario, new_store(tmp_path))
    assert told == expected(group, scenario, told)


@pytest.mark.parametrize(("group", "scenario"), table(bugs=False))
def test_crashed_at_some_boundaries(group: str, scenario: Scenario, tmp_path: Path) -> None:
    at = random.Random(scenario.name).sample(range(1, 20), CRASHES)
    Crashes(scenario, str(tmp_path / "jobs.db"), read_expected(group, scenario.name)).at(at)


@pytest.mark.slow
@pytest.mark.skipif(not THOROUGH, reason="eleven minutes of one core: make scenarios")
@pytest.mark.parametrize(("group", "scenario"), table(bugs=False))
def test_crashed_at_every_boundary(group: str, scenario: Scenario, tmp_path: Path) -> None:
    assert Crashes(scenario, str(tmp_path / "jobs.db"), read_expected(group, scenario.name)).everywhere() > 3
