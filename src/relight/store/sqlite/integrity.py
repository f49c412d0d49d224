"""What a store's file is found to be when it is looked over: damage, broken references, and a schema changed by hand.

A dropped trigger would make the log writable, a dropped index would let two jobs own one key: both leave no other trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from relight.store.migrate import Migration

_OBJECTS = "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def look_over(db: apsw.Connection, migrations: Sequence[Migration]) -> list[str]:
    """Return what is wrong, in words; empty when all is well. Reads the whole file."""
    found = [str(row[0]) for row in db.execute("PRAGMA quick_check") if row[0] != "ok"]
    found += [f"foreign key: {row}" for row in db.execute("PRAGMA foreign_key_check")]
    return found + _schema_faults(db, migrations)


def _schema_faults(db: apsw.Connection, migrations: Sequence[Migration]) -> list[str]:
    scratch = apsw.Connection(":memory:")
    try:
        for migration in migrations:
            scratch.execute(migration.sql)
        wanted = dict(scratch.execute(_OBJECTS))
    finally:
        scratch.close()
    there = dict(db.execute(_OBJECTS))
    missing = [f"schema: {name} is missing" for name in sorted(set(wanted) - set(there))]
    changed = [
        f"schema: {name} was changed" for name in sorted(wanted) if name in there and there[name] != wanted[name]
    ]
    return missing + changed
