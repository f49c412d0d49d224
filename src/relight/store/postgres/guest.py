"""Batches within a transaction that the caller opened: all of it is there once the caller commits, or none of it.

The connection is the caller's own, of psycopg or of SQLAlchemy on psycopg. Everything is done under a savepoint, so that what
is refused leaves the caller's transaction as it was; it is neither committed nor rolled back here. Must not know jobs.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from relight.errors import InvalidArgument
from relight.store.postgres.batch import Statement, statements_of
from relight.store.postgres.connect import translate
from relight.store.reads import Reads
from relight.store.store import Batch, Talk

T = TypeVar("T")

Row = tuple[Any, ...] | None
Piece = tuple[bytes, Mapping[str, object]]

_SAVE, _RELEASE, _UNDO = b"SAVEPOINT relight", b"RELEASE SAVEPOINT relight", b"ROLLBACK TO SAVEPOINT relight"


class Guest:
    """The SQL of one store, said on other people's connections."""

    def __init__(
        self, statements: Mapping[str, bytes], queries: Mapping[str, bytes], place: str, schema_number: int
    ) -> None:
        self._statements = statements
        self._queries = queries
        self._place = place
        self._schema_number = schema_number

    def run(self, connection: object, talk: Talk[T]) -> T:
        """Do what ``talk`` asks for in a connection's transaction; return what it returns. Raises ``InvalidArgument``."""
        db = _raw(connection)
        _refuse_without_transaction(db)
        pieces = self._pieces(talk)
        row: Row = None
        try:
            todo = next(pieces)
            while True:
                try:
                    row = _execute(db, todo)
                except psycopg.Error as error:
                    todo = pieces.throw(error)
                else:
                    todo = pieces.send(row)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def run_async(self, connection: object, talk: Talk[T]) -> T:
        """``run`` for a connection that is awaited."""
        db = await _raw_async(connection)
        _refuse_without_transaction(db)
        pieces = self._pieces(talk)
        row: Row = None
        try:
            todo = next(pieces)
            while True:
                try:
                    row = await _execute_async(db, todo)
                except psycopg.Error as error:
                    todo = pieces.throw(error)
                else:
                    todo = pieces.send(row)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _pieces(self, talk: Talk[T]) -> Generator[list[Piece], Row, T]:
        """Turn what ``talk`` asks for into SQL, and its rows or errors into answers."""
        try:
            wanted = next(talk)
            while True:
                try:
                    row = yield self._sql(wanted)
                except psycopg.Error as error:
                    wanted = talk.throw(translate(error, self._place, reading=True))
                else:
                    wanted = talk.send(None if isinstance(wanted, Batch) else _job(row, *wanted))
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _sql(self, wanted: Batch | tuple[str, str]) -> list[Piece]:
        if not isinstance(wanted, Batch):
            kind, key = wanted
            return [(self._queries["job_by_key"], {"kind": kind, "idempotency_key": key})]
        said: Sequence[Statement] = statements_of(wanted, self._schema_number)
        return [(self._statements[name], values) for name, values in said if name not in ("begin", "commit")]


def _job(row: Row, kind: str, key: str) -> Any:
    return Reads(_Answer("[]" if row is None else row[0])).job_by_key(kind, key)


class _Answer:
    """The answer to the one question that is asked."""

    def __init__(self, text: str) -> None:
        self._text = text

    def fetch(self, name: str, /, **values: object) -> str:
        return self._text


def _execute(db: psycopg.Connection[Any], todo: list[Piece]) -> Row:
    """Send statements as one piece; return the first row of the last. What fails is undone up to the savepoint."""
    cursor = psycopg.Cursor(db, row_factory=tuple_row)
    _take_json_as_text(cursor)
    try:
        with db.pipeline():
            db.execute(_SAVE)
            for text, values in todo:
                cursor.execute(text, values or None)
            db.execute(_RELEASE)
    except psycopg.Error:
        if db.info.transaction_status == TransactionStatus.INERROR:
            db.execute(_UNDO)
        raise
    return cursor.fetchone() if cursor.description else None


async def _execute_async(db: psycopg.AsyncConnection[Any], todo: list[Piece]) -> Row:
    cursor = psycopg.AsyncCursor(db, row_factory=tuple_row)
    _take_json_as_text(cursor)
    try:
        async with db.pipeline():
            await db.execute(_SAVE)
            for text, values in todo:
                await cursor.execute(text, values or None)
            await db.execute(_RELEASE)
    except psycopg.Error:
        if db.info.transaction_status == TransactionStatus.INERROR:
            await db.execute(_UNDO)
        raise
    return await cursor.fetchone() if cursor.description else None


def _take_json_as_text(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> None:
    for kind in ("json", "jsonb"):
        cursor.adapters.register_loader(kind, TextLoader)


def _refuse_without_transaction(db: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    status = db.info.transaction_status
    if db.closed or status == TransactionStatus.UNKNOWN:
        raise InvalidArgument("submit_in: this connection is closed; nothing was submitted")
    if status == TransactionStatus.INERROR:
        raise InvalidArgument(
            "submit_in: this transaction has failed already; roll it back first. Nothing was submitted"
        )
    if status == TransactionStatus.IDLE and db.autocommit:
        raise InvalidArgument(
            "submit_in: this connection is in autocommit and no transaction is open: use `with connection.transaction():` "
            "around it, or submit(…). Nothing was submitted"
        )


def _raw(connection: Any) -> psycopg.Connection[Any]:
    """Return psycopg's connection under whatever was given. Of SQLAlchemy a transaction is begun, as at any execute."""
    if isinstance(connection, psycopg.Connection):
        return connection
    found = connection
    if callable(getattr(found, "get_bind", None)) and callable(getattr(found, "connection", None)):
        found = found.connection()  # a Session's
    if hasattr(found, "in_transaction") and not found.in_transaction():
        found.begin()
    found = getattr(getattr(found, "connection", None), "driver_connection", None)
    if not isinstance(found, psycopg.Connection):
        raise _not_ours(
            connection, "psycopg.Connection, or of SQLAlchemy a Connection or Session on postgresql+psycopg"
        )
    return found


async def _raw_async(connection: Any) -> psycopg.AsyncConnection[Any]:
    if isinstance(connection, psycopg.AsyncConnection):
        return connection
    found = connection
    if hasattr(found, "sync_session"):
        found = await found.connection()
    if hasattr(found, "sync_connection"):
        if not found.in_transaction():
            await found.begin()
        found = (await found.get_raw_connection()).driver_connection
    if not isinstance(found, psycopg.AsyncConnection):
        raise _not_ours(
            connection,
            "psycopg.AsyncConnection, or of SQLAlchemy an AsyncConnection or AsyncSession on postgresql+psycopg",
        )
    return found


def _not_ours(connection: object, wanted: str) -> InvalidArgument:
    kind = type(connection)
    return InvalidArgument(
        f"submit_in: {kind.__module__}.{kind.__qualname__} is no connection that this client can use: give a {wanted}. "
        "Nothing was submitted"
    )
