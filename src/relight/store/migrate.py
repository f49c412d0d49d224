"""Migrations: numbered SQL files with checksums, forward only, same numbers and names on every database.

An engine creates only an empty store. One that lacks migrations is upgraded by ``relight db upgrade`` while nothing is
live; one that has more than this code knows is refused (``SchemaTooNew``) before anything is touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from relight.errors import ConfigError, SchemaOutdated, SchemaTooNew
from relight.store.statements import folder_of, read_sql


@dataclass(frozen=True)
class Migration:
    """One step of the schema: its number (from 1, without gaps), name, SQL, and the SQL's SHA-256."""

    number: int
    name: str
    sql: str
    checksum: str


def load_migrations(package: str) -> list[Migration]:
    """Return the migrations that ship in a store's package, in order."""
    names = sorted(f.name for f in (folder_of(package) / "migrations").iterdir() if f.name.endswith(".sql"))
    found = []
    for expected, file_name in enumerate(names, start=1):
        number, _, name = file_name.removesuffix(".sql").partition("_")
        if int(number) != expected:
            raise ConfigError(f"migration {file_name} should be number {expected:04d}", file=file_name)
        sql = read_sql(package, "migrations", file_name)
        found.append(Migration(expected, name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    return found


def pending(known: Sequence[Migration], applied: Sequence[tuple[int, str, str]], place: str) -> list[Migration]:
    """Return the migrations a store lacks.

    ``applied`` holds (number, name, checksum) as recorded in the store. Raises ``SchemaTooNew`` when it has more than
    ``known``, ``ConfigError`` when one was changed after it was applied.
    """
    if len(applied) > len(known):
        newest = applied[-1]
        raise SchemaTooNew(
            f"{place} has schema {newest[0]} ({newest[1]}), this Relight knows {len(known)}. Nothing was touched; "
            "use the Relight that wrote it, or a newer one",
            place=place,
            schema=newest[0],
            known=len(known),
        )
    for migration, (number, name, checksum) in zip(known, applied, strict=False):
        if (migration.number, migration.checksum) != (number, checksum):
            raise ConfigError(
                f"{place}: migration {number} ({name}) is not the one this Relight ships; the schema was changed by hand",
                place=place,
                number=number,
            )
    return list(known[len(applied) :])


def refuse_outdated(missing: Sequence[Migration], place: str) -> None:
    """Raise ``SchemaOutdated`` when a store that is in use lacks migrations."""
    if missing:
        raise SchemaOutdated(
            f"{place} lacks {len(missing)} migration(s), from {missing[0].number} ({missing[0].name}). Stop every engine "
            f"on it, then: relight db upgrade --store {place}",
            place=place,
            missing=[m.number for m in missing],
        )
