"""Opening a SQLite connection that keeps its promises: versions checked, pragmas read back, errors by code.

Owns what is peculiar to apsw and SQLite's own files. Must not know jobs. Read next: ``store.py`` beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from relight.errors import ConfigError, Fenced, StorageCorrupt, StorageUnavailable, UnsafeSqlite
from relight.model import Durability
from relight.store.statements import read_sql
from relight.store.store import OutcomeUnknown, Refused

BUSY_MS = 10_000
"""How long a write waits for another process's transaction. Such a transaction lasts milliseconds; a longer wait means
that a process was stopped inside one, which ``health`` names by pid."""

CHECKPOINT_PAGES = 2_000
"""The WAL is checkpointed once so many of its pages (8 MiB) are not in the main file yet. After that it is written from
its start again: it does not grow, and a commit that overwrites it costs half of one that makes it longer (measured on
ext4: 5,000 against 2,700 a second)."""

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
)

_APPLY = read_sql("relight.store.sqlite", "sql", "apply.sql")
_VIEWS = read_sql("relight.store.sqlite", "sql", "schema.sql")


def check_library() -> None:
    """Refuse a SQLite that can corrupt a WAL file when two connections write and checkpoint at once.

    Source: the WAL-reset bug of 3.7.0 to 3.51.2 (fixed in 3.51.3; 3.52.0 was withdrawn). apsw bundles a fixed one.
    """
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < (3, 51, 3) or version[:2] == (3, 52):
        raise UnsafeSqlite(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a store used by several connections. "
            "Install apsw from its wheel (it bundles a fixed SQLite): pip install --force-reinstall apsw",
            version=apsw.sqlite_lib_version(),
        )


def check_place(path: Path) -> None:
    """Refuse a folder that is missing, and a network file system where it can be told (WAL needs shared memory)."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder} to hold the store {path.name}. Make it, or name another", path=str(path)
        )
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder; a store is a file. Name a file in it, e.g. {path / 'relight.db'}", path=str(path)
        )
    kind = _filesystem_of(folder)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"{folder} is on a network file system ({kind}), where SQLite's locks cannot be trusted. Use a local disk, "
            "or PostgreSQL",
            path=str(path),
            filesystem=kind,
        )


def _filesystem_of(folder: Path) -> str:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    here = os.fspath(folder.resolve())
    best, kind = "", ""
    for line in mounts:
        _, mount, this, *_ = line.split(" ")
        if (here == mount or here.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, this
    return kind


def connect(path: Path, durability: Durability, *, create: bool, writer: bool) -> apsw.Connection:
    """Open one connection with its pragmas set and read back, and its temporary views in place.

    Raises ``StorageUnavailable``, ``StorageCorrupt`` or ``ConfigError``.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0) | apsw.SQLITE_OPEN_NOMUTEX
    with translated(path, reading=True):
        db = apsw.Connection(os.fspath(path), flags=flags)
        try:
            db.set_busy_timeout(BUSY_MS)
            # Closing the last connection must not checkpoint: a failed fsync there would reach nobody.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if db.execute("PRAGMA journal_mode").get != "wal":
                refuse_foreign(db, path)  # before it is switched to WAL, which writes to it
            if writer and db.readonly("main"):
                raise StorageUnavailable(
                    f"{path} cannot be opened for writing. Check that folder and file are writable", path=str(path)
                )
            _set_pragmas(db, path, durability, writer=writer)
        except BaseException:  # boundary: cleaned up after, and raised again
            db.close()
            raise
    return db


def refuse_foreign(db: apsw.Connection, path: Path) -> bool:
    """Raise ``ConfigError`` when a file has tables that are not a store's; tell whether it has any."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and "migrations" not in tables:
        raise ConfigError(f"{path} is a SQLite database of something else; name another file", path=str(path))
    return bool(tables)


def _set_pragmas(db: apsw.Connection, path: Path, durability: Durability, *, writer: bool) -> None:
    mode = db.execute("PRAGMA journal_mode = WAL").get
    if mode != "wal":
        raise ConfigError(f"{path}: SQLite refused WAL mode (it is {mode!r}); use a local disk", path=str(path))
    for pragma in (
        f"synchronous = {'FULL' if durability == 'power' else 'NORMAL'}",
        "foreign_keys = ON",
        "wal_autocheckpoint = 0",
        "temp_store = MEMORY",
        "trusted_schema = OFF",
        f"query_only = {'OFF' if writer else 'ON'}",
    ):
        db.execute(f"PRAGMA {pragma}")
    wanted = (2 if durability == "power" else 1, 1, 0)
    got = tuple(db.execute(f"PRAGMA {name}").get for name in ("synchronous", "foreign_keys", "wal_autocheckpoint"))
    if got != wanted:
        raise ConfigError(f"{path}: pragmas read back as {got}, wanted {wanted}", path=str(path))


def add_views(db: apsw.Connection, *, writer: bool) -> None:
    """Make the temporary views (and, for a writer, the batch's trigger) that statements are written against."""
    db.execute("PRAGMA query_only = OFF")
    db.execute(_VIEWS)
    if writer:
        db.execute(_APPLY)
    else:
        db.execute("PRAGMA query_only = ON")


def checkpoint_when_long(db: apsw.Connection) -> None:
    """Checkpoint the WAL if it is due; raise what went wrong. Cost: 0.2 µs when nothing is due."""
    try:
        # Not the file's size: that stays, once the WAL was long, and would ask for a checkpoint after every commit.
        pages, copied = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        if pages - copied > CHECKPOINT_PAGES:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        return  # another process writes or checkpoints at this moment (no busy timeout applies here); the next batch looks


@contextmanager
def translated(path: Path, *, reading: bool) -> Iterator[None]:
    """Turn apsw's errors into Relight's, by code and never by text (except the two words our own trigger raises).

    A failed read is ``StorageUnavailable``; a failed write has an unknown outcome.
    """
    try:
        yield
    except apsw.ConstraintError as error:
        raise _constraint(error) from error
    except apsw.SQLError as error:
        raise StorageCorrupt(
            f"{path} does not have the tables this Relight expects: {error}. Is it a Relight store?", path=str(path)
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StorageCorrupt(
            f"{path} is damaged or not a SQLite file ({error}). It is left as it is. Look with: relight doctor --store {path}; "
            "restore from a backup",
            path=str(path),
        ) from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        raise StorageUnavailable(
            f"{path} cannot be opened for writing ({error}). Check that folder and file are writable", path=str(path)
        ) from error
    except apsw.Error as error:
        kind = StorageUnavailable if reading else OutcomeUnknown
        raise kind(f"{path}: {type(error).__name__}: {error}", path=str(path)) from error


def _constraint(error: apsw.ConstraintError) -> Exception:
    words = str(error)
    if _code(error) == apsw.SQLITE_CONSTRAINT_TRIGGER:
        if words == "fenced":
            return Fenced("this writer was declared dead or has been closed; nothing was written")
        if words.startswith("refused:"):
            return Refused(words.removeprefix("refused:"))
    return Refused(f"constraint {_code(error)}: {words}")


def _code(error: apsw.Error) -> int:
    """Return SQLite's extended result code (apsw sets it on every error; its stubs do not say so)."""
    return int(getattr(error, "extendedresult", 0))
