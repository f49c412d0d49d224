"""From a store's address, as users write it, to a ``Store``. The only place that knows which databases there are."""

from __future__ import annotations

from relight.errors import ConfigError
from relight.model import Durability
from relight.store.store import Probe, Store


def store_at(address: str, *, durability: Durability = "power", probe: Probe | None = None) -> Store:
    """Return the store behind a path or ``sqlite:///…``, not opened yet. Raises ``ConfigError`` for anything else."""
    if address.startswith(("postgresql://", "postgres://")):
        raise ConfigError(
            "PostgreSQL stores are not part of this version; give a path for a SQLite store", store=address
        )
    path = address
    if address.startswith("sqlite://"):
        path = address.removeprefix("sqlite://")
        path = path.removeprefix("/")
    elif "://" in address:
        scheme = address.partition("://")[0]
        raise ConfigError(f"{scheme}:// is no store that Relight knows. Give a path, or sqlite:///PATH", store=address)
    if not path or "\0" in path or path == ":memory:":
        raise ConfigError(f"{address!r} names no file: jobs that are to survive need one", store=address)
    from relight.store.sqlite import SqliteStore

    return SqliteStore(path, durability=durability, probe=probe)
