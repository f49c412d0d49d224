"""A PostgreSQL store's tables, read in one snapshot and filled in one transaction. Read next: ``store/moving.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from relight.store.moving import Rows, refuse_filled
from relight.store.postgres.connect import translated

NUMBERED = {"events": "seq", "signals": "seq"}
"""Columns that the server numbers, which goes on behind what was copied."""

OF_THIS_SERVER = ["xid", "floor"]
"""Columns about this server's transactions, which mean nothing elsewhere."""

_PAGE = 2_000


class Tables:
    """Both sides of a copy, on one connection with a transaction open."""

    def __init__(self, db: psycopg.Connection[Any], schema: str, place: str) -> None:
        self._db = db
        self._schema = schema
        self._place = place

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns, in order, without the server's own."""
        with translated(self._place, reading=True):
            rows = self._db.execute(
                "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
                "AND NOT attisdropped AND attgenerated = '' AND attname <> ALL(%s) ORDER BY attnum",
                (self._table(table).as_string(), OF_THIS_SERVER),
            ).fetchall()
        return [name for (name,) in rows]


class PostgresDump(Tables):
    """See ``moving.Dump``."""

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """Yield all rows of a table."""
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        with translated(self._place, reading=True), self._db.cursor("dump") as cursor:
            cursor.itersize = _PAGE
            yield from cursor.execute(sql.SQL("SELECT {} FROM {}").format(names, self._table(table)))


class PostgresFill(Tables):
    """See ``moving.Fill``."""

    def rows(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        """Write rows into a table. Every number up to a copied event's own belongs to an older transaction, or to none."""
        seq = columns.index("seq") if table == "events" else None
        written = [*columns, "floor"] if seq is not None else columns
        names = sql.SQL(", ").join(map(sql.Identifier, written))
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(self._table(table), names)
        with translated(self._place, reading=False):
            with self._db.cursor() as cursor, cursor.copy(copy) as copying:
                for row in rows:
                    copying.write_row(row if seq is None else (*row, row[seq]))
            if table in NUMBERED:
                self._go_on_behind(table, NUMBERED[table])

    def _go_on_behind(self, table: str, column: str) -> None:
        self._db.execute(
            sql.SQL("SELECT setval(pg_get_serial_sequence(%s, %s), max({column})) FROM {table}").format(
                column=sql.Identifier(column), table=self._table(table)
            ),
            (self._table(table).as_string(), column),
        )


@contextmanager
def dumping(db: psycopg.Connection[Any], schema: str, place: str) -> Iterator[PostgresDump]:
    """Give one snapshot on a connection, and close that in the end."""
    try:
        with translated(place, reading=True):
            db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield PostgresDump(db, schema, place)
    finally:
        db.close()


@contextmanager
def filling(db: psycopg.Connection[Any], schema: str, place: str) -> Iterator[PostgresFill]:
    """Give one transaction on a connection, and close that in the end."""
    engines = sql.Identifier(schema, "engines")
    try:
        with translated(place, reading=False):
            db.execute("BEGIN")
            db.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(engines))
            row = db.execute(sql.SQL("SELECT count(*) FROM {}").format(engines)).fetchone()
            refuse_filled(place, 0 if row is None else row[0])
        yield PostgresFill(db, schema, place)
        with translated(place, reading=False):
            db.execute("COMMIT")
    finally:
        db.close()
