"""``Store`` on one SQLite file through apsw.

One connection writes (the journal's thread), a few read; several processes may do so on one file. A batch is one INSERT
into a temporary view, in autocommit: SQLite takes the write lock, applies everything, commits, and only then Python gets
the GIL back, so that the lock is never held while another thread computes (``sql/apply.sql``). The WAL is checkpointed
explicitly, between batches, and the result is looked at: an automatic checkpoint swallows fsync errors.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
import msgspec

from relight.core.changes import OPS
from relight.errors import StorageCorrupt, StorageUnavailable
from relight.model import Durability
from relight.store.migrate import Migration, load_migrations, pending, refuse_outdated
from relight.store.reads import Reads
from relight.store.sqlite.connect import (
    add_views,
    check_library,
    check_place,
    checkpoint_when_long,
    connect,
    refuse_foreign,
    translated,
)
from relight.store.sqlite.integrity import look_over
from relight.store.statements import parse_statements, read_sql
from relight.store.store import Batch, Capabilities, Probe

_PACKAGE = "relight.store.sqlite"
_QUERIES = parse_statements(read_sql(_PACKAGE, "sql", "queries.sql"))
_OP_NAMES = tuple(op.op for op in OPS)
_INSERT = (
    "INSERT INTO batch (writer_id, batch_seq, head_seq, head_hash, schema_number, "  # noqa: S608 - our own constants
    + ", ".join((*_OP_NAMES, "events"))
    + ") VALUES ("
    + ", ".join("?" * (6 + len(_OP_NAMES)))
    + ")"
)


class SqliteStore:
    """See ``relight.store.store.Store``. ``probe`` is called with the name of each durable boundary reached."""

    capabilities = Capabilities(time_is_proof=False, notifies=False)

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "power", probe: Probe | None = None
    ) -> None:
        self.path = Path(path)
        self.place = os.fspath(path)
        self.durability: Durability = durability
        self._probe = probe
        self._writer: apsw.Connection | None = None
        self._idle: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._watchers: list[apsw.Connection] = []
        self._opened = 0
        self._schema = 0
        self._pid = 0

    # opening and closing

    def open(self, *, create: bool) -> None:
        """Connect; see ``Store.open``."""
        check_library()
        check_place(self.path)
        if not create and not self.path.exists():
            raise StorageUnavailable(
                f"there is no store at {self.path}. An engine makes one when it starts", path=str(self.path)
            )
        db = connect(self.path, self.durability, create=create, writer=True)
        try:
            missing = self._missing(db)
            if len(missing) == len(load_migrations(_PACKAGE)) and create:
                self._migrate(db, missing)
            else:
                refuse_outdated(missing, self.place)
            with translated(self.path, reading=True):
                self._schema = db.execute("SELECT value FROM meta WHERE key = 'schema'").get
                add_views(db, writer=True)
        except BaseException:  # boundary: cleaned up after, and raised again
            db.close()
            raise
        self._writer = db
        self._pid = os.getpid()
        self._opened += 1

    def upgrade(self) -> list[Migration]:
        """Apply the migrations that are missing, each in a transaction; return them. The store must not be open."""
        check_library()
        check_place(self.path)
        db = connect(self.path, self.durability, create=False, writer=True)
        try:
            missing = self._missing(db)
            self._migrate(db, missing)
        finally:
            db.close()
        return missing

    def engines_marked_live(self) -> list[tuple[str, str, str, int]]:
        """Return (id, name, nonce, pid) of engines whose rows say live, whatever the schema; the store need not be open."""
        check_place(self.path)
        if not self.path.exists():
            raise StorageUnavailable(f"there is no store at {self.path}", path=str(self.path))
        db = connect(self.path, self.durability, create=False, writer=False)
        try:
            self._missing(db)  # raises for a file of something else, or of newer code
            if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'engines'").get:
                live = "SELECT engine_id, name, nonce, pid FROM engines WHERE state = 'live' AND role = 'engine'"
                return list(db.execute(live))
            return []
        finally:
            db.close()

    def _missing(self, db: apsw.Connection) -> list[Migration]:
        with translated(self.path, reading=True):
            made = refuse_foreign(db, self.path)
            rows = list(db.execute("SELECT number, name, checksum FROM migrations ORDER BY number")) if made else []
        return pending(load_migrations(_PACKAGE), rows, self.place)

    def _migrate(self, db: apsw.Connection, missing: list[Migration]) -> None:
        """Apply migrations in one transaction; a second process that does the same waits, and then finds nothing to do."""
        with translated(self.path, reading=False):
            db.execute("BEGIN IMMEDIATE")
            try:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, "
                    "checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
                )
                done = {number for (number,) in db.execute("SELECT number FROM migrations")}
                for migration in missing:
                    if migration.number in done:
                        continue
                    db.execute(migration.sql)
                    db.execute(
                        "INSERT INTO migrations VALUES (?, ?, ?, unixepoch() * 1000)",
                        (migration.number, migration.name, migration.checksum),
                    )
                    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('schema', ?)", (migration.number,))
                db.execute("COMMIT")
            except BaseException:  # boundary: cleaned up after, and raised again
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Disconnect; see ``Store.close``."""
        with self._lock:
            connections = [db for db in (self._writer, *self._watchers, *self._idle) if db is not None]
            self._writer = None
            self._idle, self._watchers = [], []
        for db in connections:
            db.close()

    def reopen(self) -> None:
        """Connect the writer anew and look the file over; see ``Store.reopen``.

        The new connection comes first: on a full disk it may not come at all, and reads go on over those that there are.
        """
        old = self._writer
        self.open(create=False)
        if old is not None:
            with suppress(apsw.Error):
                old.close()
        with self.reading() as reads:
            reads.last_seq()

    def check_integrity(self) -> list[str]:
        """Return what is wrong with the file or its schema; empty when all is well. Reads the whole file."""
        db = self._reader()
        try:
            with translated(self.path, reading=True):
                return look_over(db, load_migrations(_PACKAGE)[: self._schema])
        finally:
            db.close()

    # writing

    def apply(self, batch: Batch) -> None:
        """Apply one batch; see ``Store.apply``."""
        rows = batch.rows
        events = msgspec.json.encode(batch.events).decode() if batch.events else None
        values = (
            batch.writer_id,
            batch.seq,
            batch.head.seq,
            batch.head.hash,
            self._schema,
            *[rows.get(name) for name in _OP_NAMES],
            events,
        )
        if self._probe is not None:
            self._probe("before_commit")
        with translated(self.path, reading=False):
            self._connection().execute(_INSERT, values)
        if self._probe is not None:
            self._probe("after_commit")

    def _connection(self) -> apsw.Connection:
        if self._writer is None:
            raise StorageUnavailable(f"{self.place} is not open", path=str(self.path))
        self._refuse_after_fork()
        return self._writer

    def _refuse_after_fork(self) -> None:
        if self._pid != os.getpid():
            raise StorageUnavailable(
                f"{self.place} was opened before a fork; open it anew in the child", path=str(self.path)
            )

    def put_blob(self, blob_hash: str, content: str, now_ms: int) -> None:
        """Keep a value; see ``Store.put_blob``. Uses a connection of its own, so that the journal does not wait."""
        db = connect(self.path, self.durability, create=False, writer=True)
        try:
            with translated(self.path, reading=False):
                db.execute(
                    "INSERT INTO blobs VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (blob_hash, len(content.encode()), content, now_ms),
                )
        finally:
            db.close()

    def now_ms(self) -> int | None:
        """Return None: all who use a file share its machine's clock; see ``Store.now_ms``."""
        return None

    def tidy(self) -> None:
        """Checkpoint the WAL when it has grown long; see ``Store.tidy``. A failed fsync surfaces here, as it must."""
        with translated(self.path, reading=False):
            checkpoint_when_long(self._connection())

    # reading

    def _reader(self) -> apsw.Connection:
        db = connect(self.path, self.durability, create=False, writer=False)
        with translated(self.path, reading=True):
            add_views(db, writer=False)
        return db

    @contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[Reads]:
        """Lend a read connection; see ``Store.reading``."""
        if self._writer is None:
            raise StorageUnavailable(f"{self.place} is not open", path=str(self.path))
        self._refuse_after_fork()
        with self._lock:
            db = self._idle.pop() if self._idle else None
        if db is None:
            db = self._reader()
        try:
            if snapshot:
                db.execute("BEGIN")
            yield Reads(_Fetch(db, self.path))
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            with self._lock:
                if self._writer is not None and len(self._idle) < 4:
                    self._idle.append(db)
                    db = None
            if db is not None:
                db.close()

    def watch(self) -> Callable[[], int]:
        """Return SQLite's data_version on a connection of its own; see ``Store.watch``. It lives as long as the store is open."""
        held: list[apsw.Connection] = []
        serial = [0, 0]

        def token() -> int:
            if self._writer is None:
                raise StorageUnavailable(f"{self.place} is not open", path=str(self.path))
            if not held or serial[0] != self._opened:
                serial[0] = self._opened
                serial[1] += 1 << 40  # a new connection counts anew: say that everything may have changed
                old, held[:] = list(held), [self._reader()]
                with self._lock:
                    self._watchers = [db for db in self._watchers if db not in old] + held
                for db in old:
                    db.close()
            with translated(self.path, reading=True):
                # The pragma begins a read; Connection.data_version() only tells what an earlier read noticed.
                return serial[1] + int(held[0].execute("PRAGMA data_version").get)

        return token

    def health(self) -> Mapping[str, object]:
        """Return what can be said of the file; see ``Store.health``."""
        try:
            wal_bytes = os.stat(f"{self.path}-wal").st_size
        except OSError:
            wal_bytes = 0
        return {
            "store": self.place,
            "sqlite": apsw.sqlite_lib_version(),
            "apsw": apsw.apsw_version(),
            "durability": self.durability,
            "schema": self._schema,
            "wal_bytes": wal_bytes,
            "file_bytes": self.path.stat().st_size if self.path.exists() else 0,
        }


class _Fetch:
    """Named queries on one connection."""

    def __init__(self, db: apsw.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def fetch(self, name: str, /, **values: object) -> str:
        with translated(self._path, reading=True):
            got = self._db.execute(_QUERIES[name], values).get
        if got is not None and not isinstance(got, str):
            raise StorageCorrupt(f"{self._path}: query {name} gave {type(got).__name__}", path=str(self._path))
        return got or ""
