"""``Store`` on one schema of a PostgreSQL database, through psycopg 3.

One connection writes (the journal's thread), a few read; any number of processes may do so. A batch goes out in one piece
from BEGIN to COMMIT (pipeline mode), so that it costs one round trip whatever its size, and every condition is checked by
the server before the COMMIT is reached (``sql/apply``). A transaction that met a deadlock is sent again as it is; one
whose COMMIT was not answered has an unknown outcome, which its batch number settles.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from zlib import crc32

import psycopg
from psycopg import sql

from relight.errors import ConfigError, StorageCorrupt, StorageUnavailable
from relight.model import Durability
from relight.store.migrate import Migration, pending, refuse_outdated
from relight.store.postgres.batch import statements_of
from relight.store.postgres.checks import damage_in
from relight.store.postgres.connect import AGAIN, connect, place_of, setting, split_address, translate, translated
from relight.store.postgres.listening import FLOOR_MS, TOLD, Listener, channel_of, lend_listener
from relight.store.postgres.texts import in_schema, migrations, queries, statements
from relight.store.reads import Reads
from relight.store.store import Batch, Capabilities, Probe

TRIES = 20
"""How often a transaction that met a deadlock is sent again before the store is said to be unavailable."""

IDLE_READERS = 4


class PostgresStore:
    """See ``relight.store.store.Store``. ``probe`` is called with the name of each durable boundary reached."""

    def __init__(self, address: str, *, durability: Durability = "power", probe: Probe | None = None) -> None:
        self._info, self.schema, notifies = split_address(address)
        self.capabilities = Capabilities(time_is_proof=True, notifies=notifies)
        self.place = place_of(self._info, self.schema)
        self.durability: Durability = durability
        self._probe = probe
        self._statements = statements(self.schema)
        self._queries = queries(self.schema)
        self._writer: psycopg.Connection[Any] | None = None
        self._idle: list[psycopg.Connection[Any]] = []
        self._watchers: list[psycopg.Connection[Any]] = []
        self._lock = threading.Lock()
        self._opened = 0
        self._schema_number = 0
        self._settings: dict[str, object] = {}
        self._pid = 0
        self._served_by: tuple[Any, ...] | None = None
        self._left: tuple[Any, ...] | None = None
        self._wrote_as = ""
        self._listener: Listener | None = None
        self._give_back: Callable[[], None] = lambda: None

    def _connect(self, *, writer: bool) -> psycopg.Connection[Any]:
        return connect(self._info, self.place, self.durability, writer=writer)

    # opening and closing

    def open(self, *, create: bool) -> None:
        """Connect; see ``Store.open``."""
        db = self._connect(writer=True)
        try:
            with translated(self.place, reading=True):
                missing, empty = self._missing(db)
                if empty and not create:
                    raise StorageUnavailable(
                        f"there is no store at {self.place}. An engine makes one when it starts", place=self.place
                    )
                if empty:
                    self._migrate(db)
                    missing, _ = self._missing(db)
                refuse_outdated(missing, self.place)
                served = "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid()"
                served_by = db.execute(served).fetchone()
                self._schema_number = len(migrations())
                self._settings = {
                    "postgresql": setting(db, "server_version"),
                    "synchronous_commit": setting(db, "synchronous_commit"),
                    "fsync": setting(db, "fsync"),
                    "full_page_writes": setting(db, "full_page_writes"),
                }
        except BaseException:  # boundary: cleaned up after, and raised again
            db.close()
            raise
        self._writer, self._served_by = db, served_by
        self._pid = os.getpid()
        self._opened += 1

    def upgrade(self) -> list[Migration]:
        """Apply the migrations that are missing, in one transaction; return them. The store must not be open."""
        db = self._connect(writer=True)
        try:
            with translated(self.place, reading=False):
                missing, _ = self._missing(db)
                self._migrate(db)
        finally:
            db.close()
        return missing

    def engines_marked_live(self) -> list[tuple[str, str, str, int]]:
        """Return (id, name, nonce, pid) of engines whose rows say live, whatever the schema; the store need not be open."""
        db = self._connect(writer=False)
        try:
            with translated(self.place, reading=True):
                _, empty = self._missing(db)
                if empty:
                    raise StorageUnavailable(f"there is no store at {self.place}", place=self.place)
                live = (
                    "SELECT engine_id, name, nonce, pid FROM relight.engines WHERE state = 'live' AND role = 'engine'"
                )
                return db.execute(in_schema(live, self.schema).encode()).fetchall()
        finally:
            db.close()

    def _missing(self, db: psycopg.Connection[Any]) -> tuple[list[Migration], bool]:
        """Return the migrations that the schema lacks, and whether it is empty. Raises for a schema of something else."""
        tables = {
            name
            for (name,) in db.execute(
                "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = %s", (self.schema,)
            ).fetchall()
        }
        if tables and "migrations" not in tables:
            raise ConfigError(
                f"the schema {self.schema} of {self.place} has tables of something else; name another: …?schema=NAME",
                place=self.place,
                schema=self.schema,
            )
        told = "SELECT number, name, checksum FROM relight.migrations ORDER BY number"
        rows = db.execute(in_schema(told, self.schema).encode()).fetchall() if tables else []
        return pending(migrations(), rows, self.place), not rows

    def _migrate(self, db: psycopg.Connection[Any]) -> None:
        """Apply what is missing in one transaction; a second process that does the same waits, and finds nothing to do."""
        with db.transaction():
            db.execute(
                "SELECT pg_advisory_xact_lock(%s, %s)",
                (crc32(b"relight migrations") >> 1, crc32(self.schema.encode()) >> 1),
            )
            there = db.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", (self.schema,)).fetchone()
            if there is None:
                db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.schema)))
            self._run(
                db,
                "CREATE TABLE IF NOT EXISTS relight.migrations (number bigint PRIMARY KEY, name text NOT NULL, "
                "checksum text NOT NULL, applied_at bigint NOT NULL)",
            )
            missing, _ = self._missing(db)
            for migration in missing:
                self._run(db, migration.sql)
                self._run(
                    db,
                    "INSERT INTO relight.migrations VALUES (%s, %s, %s, extract(epoch FROM now())::bigint * 1000)",
                    (migration.number, migration.name, migration.checksum),
                )
                self._run(
                    db,
                    "INSERT INTO relight.meta (key, value) VALUES ('schema', %s) "
                    "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    (str(migration.number),),
                )

    def _run(self, db: psycopg.Connection[Any], text: str, values: tuple[object, ...] | None = None) -> None:
        db.execute(in_schema(text, self.schema).encode(), values)

    def close(self) -> None:
        """Disconnect; see ``Store.close``."""
        with self._lock:
            connections = [db for db in (self._writer, *self._watchers, *self._idle) if db is not None]
            self._writer = None
            self._idle, self._watchers = [], []
            give_back, self._listener, self._give_back = self._give_back, None, lambda: None
        give_back()
        for db in connections:
            db.close()

    def reopen(self) -> None:
        """Connect the writer anew; see ``Store.reopen``. A transaction that the old connection left behind is ended first."""
        old, served_by = self._writer, self._served_by
        self.open(create=False)
        self._left = served_by if self._left is None else self._left
        if old is not None:
            old.close()
        self._end_what_is_left()

    def _end_what_is_left(self) -> None:
        """Wait until the server has ended what the old connection asked for: only then is its outcome known.

        A connection that is broken no longer knows its process, so that was asked for at its begin, with the time, since
        numbers come again. Where a pooler is in between and there is no such process, the row that every batch of the
        writer begins with is waited for.
        """
        db = self._connection()
        with translated(self.place, reading=True):
            if self._left is not None:
                text = (
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity "
                    "WHERE pid = %s AND backend_start = %s"
                )
                ended = db.execute(text, self._left).fetchone()
                if ended is not None and not ended[0]:
                    raise StorageUnavailable(f"{self.place} has not ended an earlier transaction yet", place=self.place)
            text = "SELECT 1 FROM relight.engines WHERE engine_id = %s FOR NO KEY UPDATE"
            self._run(db, text, (self._wrote_as,))
        self._left = None

    # writing

    def apply(self, batch: Batch) -> None:
        """Apply one batch; see ``Store.apply``."""
        db = self._connection()
        self._wrote_as = batch.writer_id
        todo = [(self._statements[name], values) for name, values in statements_of(batch, self._schema_number)]
        if self.capabilities.notifies and not TOLD.isdisjoint(batch.rows):
            todo.append((b"SELECT pg_notify(%(channel)s, '')", {"channel": channel_of(self.schema)}))
        if self._probe is not None:
            self._probe("before_commit")
        for left in reversed(range(TRIES)):
            try:
                self._send(db, todo)
                break
            except psycopg.Error as error:
                if error.sqlstate not in AGAIN or not left:
                    raise translate(error, self.place, reading=False) from error
                time.sleep(0.001 * (TRIES - left))
        if self._probe is not None:
            self._probe("after_commit")

    @staticmethod
    def _send(db: psycopg.Connection[Any], todo: list[tuple[bytes, Mapping[str, object]]]) -> None:
        """Send a transaction as one piece. An error that the server tells leaves it rolled back."""
        failed: psycopg.Error | None = None
        try:
            with db.pipeline() as pipeline:
                try:
                    cursor = db.cursor()
                    for text, values in todo:
                        cursor.execute(text, values or None, prepare=True)
                except psycopg.Error as error:
                    failed = error
                    with suppress(psycopg.Error):
                        pipeline.sync()  # what the server skipped is read, so that leaving has nothing to complain of
        except psycopg.Error as error:
            failed = failed or error
        if failed is not None:
            if not db.closed:
                with suppress(psycopg.Error):
                    db.rollback()
            raise failed

    def _connection(self) -> psycopg.Connection[Any]:
        if self._writer is None:
            raise StorageUnavailable(f"{self.place} is not open", place=self.place)
        self._refuse_after_fork()
        return self._writer

    def _refuse_after_fork(self) -> None:
        if self._pid != os.getpid():
            raise StorageUnavailable(
                f"{self.place} was opened before a fork; open it anew in the child", place=self.place
            )

    def put_blob(self, blob_hash: str, content: str, now_ms: int) -> None:
        """Keep a value; see ``Store.put_blob``. Uses a connection of its own, so that the journal does not wait."""
        with self._lent() as db, translated(self.place, reading=False):
            text = "INSERT INTO relight.blobs VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
            self._run(db, text, (blob_hash, len(content.encode()), content, now_ms))

    def now_ms(self) -> int | None:
        """Ask the server for its time; see ``Store.now_ms``."""
        with self._lent() as db, translated(self.place, reading=True):
            row = db.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", prepare=True).fetchone()
        return None if row is None else int(row[0])

    def tidy(self) -> None:
        """Do nothing: the server looks after its own log; see ``Store.tidy``."""

    # reading

    @contextmanager
    def _lent(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection that nobody else uses; one that broke is not lent again."""
        if self._writer is None:
            raise StorageUnavailable(f"{self.place} is not open", place=self.place)
        self._refuse_after_fork()
        with self._lock:
            db = self._idle.pop() if self._idle else None
        if db is None:
            db = self._connect(writer=False)
        try:
            yield db
        finally:
            with self._lock:
                if self._writer is not None and len(self._idle) < IDLE_READERS and not db.closed:
                    self._idle.append(db)
                    db = None
            if db is not None:
                db.close()

    @contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[Reads]:
        """Lend a read connection; see ``Store.reading``."""
        with self._lent() as db:
            if not snapshot:
                yield Reads(_Fetch(db, self._queries, self.place))
                return
            with translated(self.place, reading=True):
                db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield Reads(_Fetch(db, self._queries, self.place))
            finally:
                if not db.closed:
                    with translated(self.place, reading=True):
                        db.rollback()

    @contextmanager
    def looking(self) -> Iterator[Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]]]:
        """Lend a read-only connection for SQL that names tables without their schema; the store need not be open."""
        db = self._connect(writer=False)
        try:
            with translated(self.place, reading=True):
                path = sql.SQL("SET search_path TO {}").format(sql.Identifier(self.schema))
                db.execute(path)
                db.execute("SET default_transaction_read_only = on")
                yield lambda text, values: db.execute(text.encode(), values).fetchall()
        finally:
            db.close()

    def check_integrity(self) -> list[str]:
        """Return what is wrong with indexes and with the guards of the log. Cost: reads each index, if there is amcheck."""
        with self._lent() as db, translated(self.place, reading=True):
            return damage_in(db, self.schema)

    def watch(self) -> Callable[[], int]:
        """Return a number made of what was announced and, now and then, of the server's snapshot; see ``Store.watch``.

        The snapshot changes with every commit. It reads no table and takes no lock, and is one of all the server's
        databases: that others commit looks the same.
        """
        held: list[psycopg.Connection[Any]] = []
        serial = [0]
        asked_at, row, heard = 0.0, None, 0

        def token() -> int:
            nonlocal asked_at, row, heard
            writer, listener = self._writer, self._listening()
            if writer is None:
                raise StorageUnavailable(f"{self.place} is not open", place=self.place)
            if listener is not None:
                heard = listener.heard(writer.info.backend_pid)
                if listener.well and time.monotonic() - asked_at < FLOOR_MS / 1000 and serial[0] == self._opened:
                    return hash((serial[0], row, heard))
            asked_at = time.monotonic()
            if not held or serial[0] != self._opened or held[0].closed:
                serial[0] = self._opened
                old, held[:] = list(held), [self._connect(writer=False)]
                with self._lock:
                    self._watchers = [db for db in self._watchers if db not in old] + held
                for db in old:
                    db.close()
            with translated(self.place, reading=True):
                row = held[0].execute("SELECT pg_current_snapshot()::text", prepare=True).fetchone()
            return hash((serial[0], row, heard))

        return token

    def _listening(self) -> Listener | None:
        """Return who listens for announcements, from the first question on; None where that is turned off."""
        if not self.capabilities.notifies or self._writer is None:
            return None
        with self._lock:
            if self._listener is None:
                lent = lend_listener(self._info, self.schema, lambda: self._connect(writer=False))
                self._listener, self._give_back = lent
            listener = self._listener
        listener.leave_out(self._writer.info.backend_pid)
        return listener

    def health(self) -> Mapping[str, object]:
        """Return what can be said of the server; see ``Store.health``."""
        return {
            "store": self.place,
            "psycopg": psycopg.__version__,
            "durability": self.durability,
            "schema": self._schema_number,
            "notify": self.capabilities.notifies,
            **self._settings,
        }


class _Fetch:
    """Named queries on one connection."""

    def __init__(self, db: psycopg.Connection[Any], queries: Mapping[str, bytes], place: str) -> None:
        self._db = db
        self._queries = queries
        self._place = place

    def fetch(self, name: str, /, **values: object) -> str:
        with translated(self._place, reading=True):
            row = self._db.execute(self._queries[name], values, prepare=True).fetchone()
        if row is None:
            return ""
        if not isinstance(row[0], str):
            raise StorageCorrupt(f"{self._place}: query {name} gave {type(row[0]).__name__}", place=self._place)
        return row[0]
