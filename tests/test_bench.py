"""The benchmarks run: each case gives one valid line for each subject. Tiny sizes, and no time is compared with anything."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest
from bench import __main__ as bench
from bench.child import Order, measure
from bench.figures import Figure, Measured, Sizes, figure_of, percentiles
from bench.place import Kind, Place, Places
from bench.probe import filesystem_of, fsync_ms_p50
from bench.workloads import CASES, Case
from tests.postgres import Server

TINY = msgspec.structs.replace(Sizes().scaled(0.001), starts=1, pickups=3, callers=2, cpu_threads=1)


ON_STORES = [(case, kind) for kind in get_args(Kind) for case in CASES if case.only in (None, kind)]


@pytest.fixture(scope="module")
def places(postgres: Server) -> dict[Kind, Places]:
    """On the tests' own server: these figures are no measurements."""
    return {"sqlite": Places("sqlite", "process", None), "postgresql": Places("postgresql", "process", postgres)}


@pytest.mark.parametrize(
    ("case", "kind"), ON_STORES, ids=[f"{kind} {case.workload} {case.name}" for case, kind in ON_STORES]
)
def test_each_case_gives_one_valid_line_for_each_subject(
    case: Case, kind: Kind, places: dict[Kind, Places], tmp_path: Path
) -> None:
    made = bench.figures(case, places=places[kind], folder=tmp_path, sizes=TINY, rounds=1)
    lines = [msgspec.json.encode(figure) for figure in made]
    floor, relight = (msgspec.json.decode(line, type=Figure) for line in lines)
    assert [floor.error, relight.error] == [None, None]
    assert (floor.subject, relight.subject) == ("floor", "relight")
    for figure in (floor, relight):
        assert (figure.workload, figure.case) == (case.workload, case.name)
        assert figure.value and figure.value > 0
        assert figure.unit in ("steps/s", "jobs/s", "ms")
        assert (figure.store, figure.durability) == (kind, "process")
        assert figure.fsync_ms_p50 > 0
        assert figure.sizes and figure.python and figure.date
        assert bench.line_of(figure).startswith(case.workload)
    assert floor.ratio_to_floor is None
    assert relight.ratio_to_floor is not None
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_the_command_prints_a_json_line_for_each_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if filesystem_of(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip("the command refuses a folder in memory")
    assert bench.main(["W1", "--json", "--rounds", "1", "--scale", "0.002", "--dir", str(tmp_path)]) == 0
    figures = [msgspec.json.decode(line, type=Figure) for line in capsys.readouterr().out.splitlines()]
    assert [figure.workload for figure in figures] == ["W1"] * 4
    assert {figure.durability for figure in figures} == {"power"}


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.options(["W9"])
    assert "no workload W9" in capsys.readouterr().err


def test_a_measurement_that_fails_is_told_and_is_no_figure(tmp_path: Path) -> None:
    place = Place(str(tmp_path), str(tmp_path / "store.db"), "process")
    order = Order("W1", "no such case", "relight", place, TINY)
    failed = measure(order)
    assert isinstance(failed, str) and "ValueError" in failed
    figure = figure_of(("W1", "sync", "relight"), ("sqlite", "process"), [(0.1, failed)], None)
    assert figure.value is None and figure.error == failed
    assert "none: " in bench.line_of(figure)


def test_the_median_counts_and_the_ratio_is_taken_of_it() -> None:
    floor = figure_of(("W1", "sync", "floor"), ("sqlite", "power"), [(0.1, Measured(200, "steps/s", {}))], None)
    runs = [(0.1, Measured(value, "steps/s", {}, {"of": value})) for value in (90.0, 100.0, 500.0)]
    figure = figure_of(("W1", "sync", "relight"), ("sqlite", "power"), [*runs], floor)
    assert (figure.value, figure.ratio_to_floor, figure.detail) == (100, 0.5, {"of": 100})
    assert figure.runs == [90, 100, 500]


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles([], "ms") == {}
    assert percentiles([1.0], "ms") == {"p50_ms": 1, "p99_ms": 1, "max_ms": 1}
    assert percentiles([float(n) for n in range(1, 101)], "ms") == {"p50_ms": 50, "p99_ms": 100, "max_ms": 100}


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    assert fsync_ms_p50(tmp_path, appends=3) >= 0
    assert list(tmp_path.iterdir()) == []
