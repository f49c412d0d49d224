"""Which store the tests are about: a SQLite file, or, where ``RELIGHT_TEST_STORE=postgresql``, a schema on a server.

A test that opens the SQLite file itself, or is about that file, says so by the marker ``sqlite_file("why")``; it is left out
where the store is a server's. Everything else holds on both.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import apsw

NAME = "RELIGHT_TEST_STORE"


def on_postgresql() -> bool:
    """Tell whether stores are schemas on a server."""
    return os.environ.get(NAME) == "postgresql"


def new_store(folder: Path, name: str = "jobs.db") -> str:
    """Return the address of the store of a folder: a file in it, or a schema that is this folder's. Nothing is there yet."""
    path = str(folder / name)
    return _schema_of(path) if on_postgresql() else path


@cache
def _schema_of(path: str) -> str:
    from tests.postgres import new_schema

    return new_schema()


def change_behind(address: str, sql: str, values: tuple[object, ...] | dict[str, object] = ()) -> int:
    """Change rows behind everybody's back, as a bad disk or a bad hand does; return how many.

    Parameters are written as SQLite does: ``?`` or ``:name``.
    """
    if not address.startswith("postgresql://"):
        db = apsw.Connection(address)
        try:
            db.set_busy_timeout(10_000)
            db.execute("PRAGMA foreign_keys = OFF")
            db.execute(sql, values)
            return db.changes()
        finally:
            db.close()
    import psycopg
    from psycopg import sql as composing

    parts = urlsplit(address)
    schema = dict(parse_qsl(parts.query)).get("schema", "relight")
    with psycopg.connect(parts._replace(query="").geturl()) as server:
        server.execute("SET session_replication_role = replica")  # neither foreign keys nor the log's triggers object
        server.execute(composing.SQL("SET search_path TO {}").format(composing.Identifier(schema)))
        return server.execute(sql.replace("%", "%%").replace("?", "%s").encode(), values).rowcount
