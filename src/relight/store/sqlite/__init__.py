"""The SQLite store: one file, several engines and clients, durable against power loss by default."""

from relight.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
