"""From a store's address, as users write it, to a ``Store``. The only place that knows which databases there are."""

from __future__ import annotations

from relight.errors import ConfigError
from relight.model import Durability
from relight.store.store import Probe, Store


def store_at(address: str, *, durability: Durability = "power", probe: Probe | None = None) -> Store:
    """Return the store behind a path, ``sqlite:///…`` or ``postgresql://…``, not opened yet.

    Raises ``ConfigError`` for anything else, and when what a database needs is not installed.
    """
    if address.startswith(("postgresql://", "postgres://")):
        return _postgres(address, durability, probe)
    path = address
    if address.startswith("sqlite://"):
        path = address.removeprefix("sqlite://")
        path = path.removeprefix("/")
    elif "://" in address:
        scheme = address.partition("://")[0]
        raise ConfigError(
            f"{scheme}:// is no store that Relight knows. Give a path, sqlite:///PATH or postgresql://…", store=address
        )
    if not path or "\0" in path or path == ":memory:":
        raise ConfigError(f"{address!r} names no file: jobs that are to survive need one", store=address)
    from relight.store.sqlite import SqliteStore

    return SqliteStore(path, durability=durability, probe=probe)


def _postgres(address: str, durability: Durability, probe: Probe | None) -> Store:
    try:
        import psycopg  # noqa: F401 - asked for here, so that what is missing is said in one sentence
    except ImportError as error:
        raise ConfigError(
            f"a PostgreSQL store needs psycopg ({error}): pip install 'relight[postgres]'", missing="psycopg"
        ) from error
    from relight.store.postgres import PostgresStore

    return PostgresStore(address, durability=durability, probe=probe)
