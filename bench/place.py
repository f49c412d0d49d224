"""Where one measurement works: a folder of its own on the disk, and a store that is not there yet, a file or a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import psycopg
from tests.postgres import Server

from relight.model import Durability

Kind = Literal["sqlite", "postgresql"]
SERVER_SETTINGS = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB", "autovacuum_naptime": "1min"}
"""What the tests' server does without and a measurement must not; the rest is as PostgreSQL comes."""


class Place(msgspec.Struct, frozen=True):
    """What a measurement is given. ``store`` is an address as users write it."""

    folder: str
    store: str
    durability: Durability

    def text(self) -> str:
        """Return it as an argument of a child process."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def of(cls, text: str) -> Place:
        """Read what ``text`` gave."""
        return msgspec.json.decode(text, type=cls)

    @property
    def kind(self) -> Kind:
        """Which database the store is in."""
        return "postgresql" if self.store.startswith("postgresql://") else "sqlite"


class Places:
    """Gives places, each with a store of its own."""

    def __init__(self, kind: Kind, durability: Durability, server: Server | None) -> None:
        self.kind = kind
        self.durability: Durability = durability
        self._server = server

    def new(self, folder: Path) -> Place:
        """Return a place in a new folder; on a server, with a new database, and nothing left to do of those before."""
        store = str(folder / "store.db")
        if self._server is not None:
            store = self._server.address(self._server.new_database())
            with psycopg.connect(self._server.address("postgres"), autocommit=True) as db:
                db.execute("CHECKPOINT")
        return Place(str(folder), store, self.durability)


@contextmanager
def places_of(kind: Kind, durability: Durability, folder: Path) -> Iterator[Places]:
    """Give places for stores of a kind; for PostgreSQL with a server that has its data on the disk of ``folder``."""
    if kind == "sqlite":
        yield Places(kind, durability, None)
        return
    server = Server(settings=SERVER_SETTINGS, under=folder.resolve())
    try:
        yield Places(kind, durability, server)
    finally:
        server.stop()
