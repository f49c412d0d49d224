"""Moving house: everything that one store holds, copied into an empty one of any sort, in one transaction.

All stores have the same tables, columns and order of columns but for what only one of them needs (its own numbering of
commits); so rows are carried as they are. What is copied is one snapshot. Must not know databases. Read next:
``postgres/moving.py``, ``sqlite/moving.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from relight.errors import Conflict
from relight.store.store import Store

TABLES = (
    "engines",
    "beats",
    "kinds",
    "queues",
    "jobs",
    "runs",
    "steps",
    "signals",
    "decisions",
    "tokens",
    "published",
    "recoveries",
    "quarantine",
    "blobs",
    "turns",
    "rate_starts",
    "events",
)
"""All of a store but its schema's own history, those that others refer to first."""

Rows = Iterable[Sequence[Any]]
Told = Callable[[str, int], None]
"""Progress: which table is being copied, and how many of its rows were."""


class Dump(Protocol):
    """One snapshot of a store's tables."""

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns, in order."""
        ...

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Yield all rows of a table."""
        ...


class Fill(Protocol):
    """One transaction that fills an empty store, and is rolled back when anything raises."""

    def columns(self, table: str) -> list[str]:
        """Return the names of the columns that are filled, in order."""
        ...

    def rows(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        """Write rows into a table."""
        ...


@runtime_checkable
class Movable(Store, Protocol):
    """A store that can be copied from and to."""

    def dump(self) -> AbstractContextManager[Dump]:
        """Give a snapshot. The store must be open."""
        ...

    def fill(self) -> AbstractContextManager[Fill]:
        """Give the transaction that fills the store, which must be open and is locked meanwhile.

        Raises ``Conflict`` when anything was ever written to it.
        """
        ...


def copy_all(source: Movable, target: Movable, *, progress: Told = lambda table, rows: None) -> Mapping[str, int]:
    """Copy everything in one snapshot of ``source`` into ``target``; return how many rows of each table.

    Raises ``Conflict`` when the target is not empty or the source changed meanwhile, with nothing copied. That no engine
    is live on either is the caller's to see to.
    """
    counts: dict[str, int] = {}
    began = _written(source)
    with source.dump() as dump, target.fill() as fill:
        for table in TABLES:
            there = dump.columns(table)
            columns = [name for name in fill.columns(table) if name in there]
            counts[table] = 0
            fill.rows(table, columns, _counted(dump.rows(table, columns), table, counts, progress))
            progress(table, counts[table])
        if _written(source) != began:
            raise Conflict(
                f"{source.place} was written to while it was copied; nothing was copied. Stop what uses it, then copy again",
                place=source.place,
            )
    return counts


def _counted(rows: Rows, table: str, counts: dict[str, int], progress: Told) -> Iterator[Sequence[Any]]:
    for row in rows:
        counts[table] += 1
        if counts[table] % 10_000 == 0:
            progress(table, counts[table])
        yield row


def _written(store: Store) -> object:
    with store.reading() as reads:
        return reads.last_seq()


def refuse_filled(place: str, engines: int) -> None:
    """Raise ``Conflict`` when a store that is to be filled has ever had a writer."""
    if engines:
        raise Conflict(f"{place} is not empty: a store is copied into a new one only. Nothing was copied", place=place)
