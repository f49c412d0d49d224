"""``python -m bench [W1 W2 …] [--json] [--rounds 3] [--dir FOLDER] [--durability power|process] [--scale 1] [--store sqlite|postgresql]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench.child import Order, measure
from bench.figures import Figure, Measured, Sizes, figure_of
from bench.place import Places, places_of
from bench.probe import filesystem_of, fsync_ms_p50
from bench.workloads import CASES, Case

WORKLOADS = tuple(dict.fromkeys(case.workload for case in CASES))


def figures(case: Case, *, places: Places, folder: Path, sizes: Sizes, rounds: int) -> Iterator[Figure]:
    """Measure one case in turns, floor first; give the floor's figure, then Relight's beside it."""
    runs: dict[str, list[tuple[float, Measured | str]]] = {"floor": [], "relight": []}
    for _ in range(rounds):
        for subject, done in runs.items():
            with tempfile.TemporaryDirectory(prefix="relight-bench-", dir=folder) as made:
                place = places.new(Path(made))
                fsync = fsync_ms_p50(Path(made))
                done.append((fsync, measure(Order(case.workload, case.name, subject, place, sizes))))
    kept = (places.kind, places.durability)
    floor = figure_of((case.workload, case.name, "floor"), kept, runs["floor"], None)
    yield floor
    yield figure_of((case.workload, case.name, "relight"), kept, runs["relight"], floor)


def line_of(figure: Figure) -> str:
    """Return a figure as a line for people."""
    if figure.value is None:
        shown = f"none: {figure.error}"
    else:
        ratio = "" if figure.ratio_to_floor is None else f"{figure.ratio_to_floor:>8.3g}× floor"
        shown = f"{figure.value:>10,.6g} {figure.unit:<8}{ratio:<16}"
    more = ", ".join(f"{name} {value}" for name, value in figure.detail.items())
    return f"{figure.workload:<4}{figure.case:<23}{figure.subject:<8}{shown} fsync {figure.fsync_ms_p50:.2f} ms  {more}".rstrip()


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Relight and the floor.")
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(WORKLOADS)}; all when none is named"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--dir", type=Path, default=Path(), help="folder on the disk to be measured (here)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns; the median counts (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual sizes (1)")
    parser.add_argument(
        "--durability", choices=("power", "process"), default="power", help="what has to survive (power)"
    )
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite", help="in which store (sqlite)")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if not given.dir.is_dir():
        parser.error(f"there is no folder {given.dir}")
    if given.rounds < 1 or given.scale <= 0:
        parser.error("--rounds and --scale are above 0")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a measurement failed."""
    given = options(arguments)
    if filesystem_of(given.dir) in ("tmpfs", "ramfs"):
        print(f"{given.dir.resolve()} is in memory: nothing here is durable. Name a disk with --dir", file=sys.stderr)
        return 2
    sizes = Sizes().scaled(given.scale)
    failed = False
    with places_of(given.store, given.durability, given.dir) as places:
        for case in CASES:
            if (given.workloads and case.workload not in given.workloads) or case.only not in (None, given.store):
                continue
            for figure in figures(case, places=places, folder=given.dir, sizes=sizes, rounds=given.rounds):
                failed = failed or figure.error is not None
                print(msgspec.json.encode(figure).decode() if given.json else line_of(figure), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
