"""The SQL of a store in a schema: named statements as psycopg takes them.

The files are written against the schema ``relight`` and run as they stand in psql. Here ``relight.`` becomes the quoted name
of the store's own schema, ``:name`` a bound parameter, and ``relight.job_json`` the select of that name in ``schema.sql``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from psycopg import sql

from relight.store.migrate import Migration, load_migrations
from relight.store.statements import parse_statements, read_sql

PACKAGE = "relight.store.postgres"

APPLY = ("opening", "claims", "steps", "people", "ends", "upkeep", "telling")
"""The files of what a batch is made of, in its order."""

_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
_SELECT = re.compile(r"\brelight\.(\w+_json)\b")
_SCHEMA = re.compile(r"\brelight\.(?=\w)")


def in_schema(text: str, schema: str) -> str:
    """Return SQL text with the schema's quoted name in place of ``relight``."""
    quoted = sql.Identifier(schema).as_string() + "."
    return _SCHEMA.sub(lambda _: quoted, text)


def as_query(text: str, schema: str) -> bytes:
    """Return a statement as psycopg takes it."""
    return _PARAMETER.sub(r"%(\1)s", in_schema(text, schema).replace("%", "%%")).encode()


@lru_cache(maxsize=8)
def queries(schema: str) -> Mapping[str, bytes]:
    """Return the named reads."""
    selects = parse_statements(read_sql(PACKAGE, "sql", "schema.sql"))
    texts = parse_statements(read_sql(PACKAGE, "sql", "queries.sql"))
    return {
        name: as_query(_SELECT.sub(lambda found: f"({selects[found[1]]})", text), schema)
        for name, text in texts.items()
    }


@lru_cache(maxsize=8)
def statements(schema: str) -> Mapping[str, bytes]:
    """Return what batches are made of, by name."""
    return {name: as_query(text, schema) for name, text in parse_statements(apply_text()).items()}


def apply_text() -> str:
    """Return the statements that batches are made of, in the order in which a batch sends them."""
    return "".join(read_sql(PACKAGE, "sql", "apply", f"{part}.sql") for part in APPLY)


def migrations() -> list[Migration]:
    """Return the migrations, written against the schema ``relight``."""
    return load_migrations(PACKAGE)
