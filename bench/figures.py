"""A figure: one number with everything needed to read it. Printed as one JSON line, or as a line of a table.

``ratio_to_floor`` is value over floor value, whatever the unit: near 1 is good, a rate's is below it, a time's above.
It is what can be compared between machines; an absolute figure belongs to the machine and the minute it was taken on.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much each workload does. The defaults are those that ``docs/performance.md`` speaks of."""

    sequence_steps: int = 1_000
    jobs: int = 2_000
    steps_per_job: int = 5
    default_slots: int = 100
    best_slots: int = 1_000
    cpu_threads: int = 4
    submits: int = 1_500
    callers: int = 64
    submits_per_caller: int = 200
    batch: int = 10_000
    queued: int = 10_000
    pickups: int = 200
    crashed: tuple[int, ...] = (1_000, 10_000)
    starts: int = 15

    def scaled(self, by: float) -> Sizes:
        """Return the same sizes times ``by``, never below what a workload needs to mean anything."""
        if by == 1:
            return self
        fixed = {"steps_per_job", "cpu_threads", "default_slots", "best_slots"}
        less = {
            name: max(int(getattr(self, name) * by), 2)
            for name in self.__struct_fields__
            if name not in fixed and name != "crashed"
        }
        crashed = tuple(max(int(n * by), 5) for n in self.crashed)
        return msgspec.structs.replace(self, **less, crashed=tuple(dict.fromkeys(crashed)))


class Measured(msgspec.Struct, frozen=True):
    """What one run of one measurement gives: a number, and what else it saw."""

    value: float
    unit: str
    sizes: Mapping[str, Any]
    detail: Mapping[str, Any] = {}


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One printed line: the median of the runs of one measurement, or why there is none (``error``)."""

    workload: str
    case: str
    subject: str
    value: float | None
    unit: str
    store: str
    durability: str
    fsync_ms_p50: float
    sizes: Mapping[str, Any]
    python: str
    date: str
    ratio_to_floor: float | None = None
    runs: Sequence[float] = ()
    detail: Mapping[str, Any] = {}
    error: str | None = None


def figure_of(
    place: tuple[str, str, str],
    kept: tuple[str, str],
    runs: Sequence[tuple[float, Measured | str]],
    floor: Figure | None,
) -> Figure:
    """Make a figure of runs, each with the probe taken before it; a run that failed is a text that says why.

    ``place`` is workload, case and subject, ``kept`` the kind of store and its durability. What is in ``detail`` is of the run with the median value.
    """
    done = sorted((m for _, m in runs if isinstance(m, Measured)), key=lambda m: m.value)
    failed = [m for _, m in runs if isinstance(m, str)]
    middle = done[len(done) // 2] if done else None
    value = statistics.median(m.value for m in done) if done else None
    ratio = None
    if value is not None and floor is not None and floor.value:
        ratio = _round(value / floor.value)
    workload, case, subject = place
    return Figure(
        workload=workload,
        case=case,
        subject=subject,
        value=None if value is None else _round(value),
        unit="" if middle is None else middle.unit,
        store=kept[0],
        durability=kept[1],
        fsync_ms_p50=round(statistics.median(fsync for fsync, _ in runs), 3) if runs else 0.0,
        sizes={} if middle is None else middle.sizes,
        python=platform.python_version(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        ratio_to_floor=ratio,
        runs=[_round(m.value) for m in done] if len(done) > 1 else (),
        detail={} if middle is None else middle.detail,
        error=failed[0] if failed else None,
    )


def _round(value: float) -> float:
    """Keep four digits: more would be noise."""
    return float(f"{value:.4g}")


def percentiles(values: Sequence[float], unit: str) -> dict[str, float]:
    """Return p50, p99 and max under names that end in the unit; of no values, nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    picked = {"p50": ordered[last // 2], "p99": ordered[min(int(len(ordered) * 0.99), last)], "max": ordered[-1]}
    return {f"{name}_{unit}": _round(value) for name, value in picked.items()}
