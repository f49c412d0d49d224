"""Connecting to PostgreSQL with settings that keep a store's promises, and errors told by SQLSTATE.

Owns what is peculiar to psycopg and the server. Must not know jobs. Read next: ``store.py`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg import conninfo, errors
from psycopg.types.string import TextLoader

from relight.errors import ConfigError, Fenced, StorageCorrupt, StorageError, StorageUnavailable
from relight.model import Durability
from relight.store.store import OutcomeUnknown, Refused

OLDEST = 150_000
"""PostgreSQL 15: the oldest version that is tested."""

FENCED, REFUSED = "RL001", "RL002"
"""What ``must`` raises (migrations/0001_kernel.sql)."""

AGAIN = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: nothing was written, and the same transaction may succeed now."""

_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "application_name": "relight",
    "client_encoding": "UTF8",
}
"""Unless the address says otherwise: a half-open connection is noticed within ten seconds."""

_SETTINGS = {
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""Every statement is written for its indexes. Without statistics (a table that was empty a minute ago) the planner thinks
that a scan costs nothing, and a prepared plan stays: so it is told not to."""


def split_address(address: str) -> tuple[str, str, bool]:
    """Take ``schema=…`` and ``notify=on|off`` out of an address.

    Returns what libpq understands, the schema (``relight`` unless named), and whether commits are announced.
    """
    parts = urlsplit(address)
    query = parse_qsl(parts.query, keep_blank_values=True)
    schemas = [value for name, value in query if name == "schema"]
    schema = schemas[-1] if schemas else "relight"
    if not schema or "\0" in schema or len(schema.encode()) > 63 or schema.startswith("pg_"):
        raise ConfigError(f"{schema!r} is no name for a schema; give one of 1 to 63 bytes that does not begin with pg_")
    notify = dict(query).get("notify", "on")
    if notify not in ("on", "off"):
        raise ConfigError(f"notify={notify} in the store's address: give notify=on or notify=off")
    rest = urlencode([pair for pair in query if pair[0] not in ("schema", "notify")])
    info = urlunsplit(parts._replace(query=rest))
    try:
        conninfo.conninfo_to_dict(info)
    except psycopg.Error as error:
        raise ConfigError(
            f"this is no PostgreSQL address: {_words(error)}. Give postgresql://USER@HOST/DATABASE"
        ) from error
    return info, schema, notify == "on"


def place_of(info: str, schema: str) -> str:
    """Return where a store is, as users write it, without its password."""
    given = conninfo.conninfo_to_dict(info)
    at = f"{given.get('host') or 'localhost'}"
    if given.get("port"):
        at += f":{given['port']}"
    user = f"{given['user']}@" if given.get("user") else ""
    shown = "" if schema == "relight" else f"?schema={schema}"
    return f"postgresql://{user}{at}/{given.get('dbname') or ''}{shown}"


def connect(info: str, place: str, durability: Durability, *, writer: bool) -> psycopg.Connection[Any]:
    """Open one connection in autocommit, with its settings made and read back.

    Raises ``StorageUnavailable`` when the server does not answer, ``ConfigError`` for one that cannot hold a store.
    """
    given = conninfo.conninfo_to_dict(info)
    merged: dict[str, Any] = {**_DEFAULTS, **given}
    with translated(place, reading=True):
        db: psycopg.Connection[Any] = psycopg.connect(autocommit=True, **merged)
        try:
            db.prepared_max = 200
            for kind in ("json", "jsonb"):
                db.adapters.register_loader(kind, TextLoader)
            if db.info.server_version < OLDEST:
                raise ConfigError(
                    f"{place} is PostgreSQL {db.info.parameter_status('server_version')}; Relight needs 15 or newer",
                    place=place,
                )
            _set(db, durability, writer=writer)
        except BaseException:  # boundary: cleaned up after, and raised again
            db.close()
            raise
    return db


def _set(db: psycopg.Connection[Any], durability: Durability, *, writer: bool) -> None:
    wanted = dict(_SETTINGS)
    if writer:
        # A batch's plan does not depend on its parameters, which are JSON: it is made once.
        wanted["plan_cache_mode"] = "force_generic_plan"
    else:
        # Nor that reading all that an index names and sorting it costs nothing, where the index has it in order: a claim
        # would read the whole queue.
        wanted["enable_bitmapscan"] = "off"
    if durability == "process":
        wanted["synchronous_commit"] = "off"
    _configure(db, wanted)
    if durability == "power" and setting(db, "synchronous_commit") in ("off", "local"):
        # What the server asks for beyond "on" stays.
        _configure(db, {"synchronous_commit": "on"})


def _configure(db: psycopg.Connection[Any], wanted: Mapping[str, str]) -> None:
    """Make settings for this connection, and read them back."""
    pairs = msgspec.json.encode(list(wanted.items())).decode()
    made = db.execute(
        "SELECT s->>0, s->>1, set_config(s->>0, s->>1, false) FROM json_array_elements(%s::json) AS s", (pairs,)
    ).fetchall()
    refused = [name for name, value, got in made if value != got]
    if refused or len(made) != len(wanted):
        raise ConfigError(f"the server does not take the settings {refused or sorted(wanted)}")


def setting(db: psycopg.Connection[Any], name: LiteralString) -> str:
    """Return a setting as the server has it for this connection."""
    row = db.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(row[0]) if row else ""


@contextmanager
def translated(place: str, *, reading: bool) -> Iterator[None]:
    """Turn psycopg's errors into Relight's, by SQLSTATE and never by text.

    A failed read is ``StorageUnavailable``; a failed write of which the server did not say that it is refused has an
    unknown outcome.
    """
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, place, reading=reading) from error


def translate(error: psycopg.Error, place: str, *, reading: bool) -> Exception:
    """Return Relight's error for one of psycopg's."""
    state = error.sqlstate or ""
    if state == FENCED:
        return Fenced("this writer was declared dead or has been closed; nothing was written")
    if state == REFUSED:
        op, _, places = (error.diag.message_detail or "").partition(":")
        return Refused(op, frozenset(int(place) - 1 for place in places.split(",") if place))
    if state.startswith(("22", "23")) or isinstance(error, errors.CardinalityViolation):
        return Refused(f"constraint {state}: {_words(error)}")
    said: type[StorageError]
    if state == "42501":
        return ConfigError(f"{place} does not let this role do that: {_words(error)}", place=place)
    if state.startswith("42") or state == "3F000":
        return StorageCorrupt(
            f"{place} does not have the tables this Relight expects: {_words(error)}. Is it a Relight store?",
            place=place,
        )
    if state.startswith("XX"):
        return StorageCorrupt(f"{place}: the server found damage: {_words(error)}", place=place)
    said = StorageUnavailable if reading else OutcomeUnknown
    return said(f"{place}: {type(error).__name__}: {_words(error)}", place=place)


def _words(error: psycopg.Error) -> str:
    words = error.diag.message_primary or str(error)
    return " ".join(words.split())
