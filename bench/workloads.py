"""Which measurements there are: workload, case, and a function for Relight and one for the floor.

W2c is about SQLite's one write lock, W6 about a store that is a file: neither is measured on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench import concurrent, crash, drain, sequence, start, submit
from bench.figures import Measured, Sizes
from bench.place import Kind, Place

Measure = Callable[[Place, Sizes], Measured]


class Case(NamedTuple):
    """One thing that is measured, by both subjects."""

    workload: str
    name: str
    relight: Measure
    floor: Measure
    only: Kind | None = None
    """The kind of store on which it is measured; None: on all."""


CASES: tuple[Case, ...] = (
    Case("W1", "sync", sequence.relight_sync, sequence.floor_direct),
    Case("W1", "async", sequence.relight_async, sequence.floor_hop),
    Case("W2", "default slots", concurrent.relight_default, concurrent.floor),
    Case("W2", "best slots", concurrent.relight_best, concurrent.floor),
    Case("W2", "two engines", concurrent.relight_two_engines, concurrent.floor, "postgresql"),
    Case("W2c", "default slots", concurrent.relight_beside_cpu_default, concurrent.floor_beside_nobody, "sqlite"),
    Case("W2c", "best slots", concurrent.relight_beside_cpu_best, concurrent.floor_beside_nobody, "sqlite"),
    Case("W3", "single", submit.relight_single, submit.floor_single),
    Case("W3", "callers", submit.relight_callers, submit.floor_callers),
    Case("W3", "batch", submit.relight_batch, submit.floor_batch),
    Case("W4", "drain async", drain.relight_async, drain.floor_drain),
    Case("W4", "drain sync", drain.relight_sync, drain.floor_drain),
    Case("W4", "drain, two engines", drain.relight_two_engines, drain.floor_drain, "postgresql"),
    Case("W4", "pickup, same process", drain.relight_pickup, drain.floor_pickup),
    Case("W4", "pickup, other process", drain.relight_pickup_other, drain.floor_pickup),
    Case("W5", "gate, fewer", crash.relight_few, crash.floor_few),
    Case("W5", "gate, more", crash.relight_many, crash.floor_many),
    Case("W6", "import", start.relight_import, start.floor_import, "sqlite"),
    Case("W6", "first result", start.relight_first_result, start.floor_first_row, "sqlite"),
)
