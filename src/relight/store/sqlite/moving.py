"""A SQLite store's tables, read in one snapshot and filled in one transaction. Read next: ``store/moving.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from relight.store.moving import Rows, refuse_filled
from relight.store.sqlite.connect import translated


class Tables:
    """Both sides of a copy, on one connection with a transaction open."""

    def __init__(self, db: apsw.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns, in order."""
        return [name for (name,) in self._db.execute("SELECT name FROM pragma_table_info(?)", (table,))]


class SqliteDump(Tables):
    """See ``moving.Dump``."""

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Yield all rows of a table."""
        with translated(self._path, reading=True):
            yield from self._db.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608 - names of ours


class SqliteFill(Tables):
    """See ``moving.Fill``."""

    def rows(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        """Write rows into a table."""
        places = ", ".join("?" * len(columns))
        with translated(self._path, reading=False):
            self._db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)  # noqa: S608 - names of ours


@contextmanager
def dumping(db: apsw.Connection, path: Path) -> Iterator[SqliteDump]:
    """Give one snapshot on a connection, and close that in the end."""
    try:
        with translated(path, reading=True):
            db.execute("BEGIN")
        yield SqliteDump(db, path)
    finally:
        db.close()


@contextmanager
def filling(db: apsw.Connection, path: Path, place: str) -> Iterator[SqliteFill]:
    """Give one transaction on a connection, and close that in the end."""
    try:
        with translated(path, reading=False):
            db.execute("BEGIN IMMEDIATE")
            refuse_filled(place, db.execute("SELECT count(*) FROM engines").get)
        yield SqliteFill(db, path)
        with translated(path, reading=False):
            db.execute("COMMIT")
    finally:
        db.close()
