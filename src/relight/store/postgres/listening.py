"""Hints between processes: a batch that others may wait for is announced by NOTIFY, and one connection a process listens.

**A hint, not a promise.** Whoever watches a store still asks the server now and then (``FLOOR_MS``), and each time while
nobody listens: a notification that is lost costs a tenth of a second. ``?notify=off`` in the address turns it off, for
poolers that do not keep a session.

**Where it is said.** Behind the COMMIT, in the same round trip, as a transaction of its own. Inside the batch's it would
make the server commit one batch after the other, each with its wait for the disk: commits that notify hold one lock.

**A dead connection** is noticed by its end, by TCP (``connect.py``), and by a question each ``ASK_SECONDS`` that has to be
answered; it is made anew, and everybody looks once, since anything may have been missed. Read next: ``store.py``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

import psycopg
from psycopg import sql

from relight.errors import RelightError

FLOOR_MS = 100
"""How often a watcher asks the server although nothing was said."""
ASK_SECONDS = 2.0
PATIENCE_SECONDS = 5.0
BACKOFF_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2)
NAME = "relight listening"
"""``application_name`` of these connections."""

TOLD = frozenset(
    {
        *("new_jobs", "put_away", "wake_jobs", "move_jobs", "cancel_jobs", "route_jobs", "end_jobs", "end_runs"),
        *("stall_runs", "wake_due", "put_queues", "set_queues", "release_rows", "release_holds"),
        *("new_signals", "close_decisions", "close_tokens"),
    }
)
"""Operations that somebody in another process may wait for: something to claim, a slot, a word, an end."""

Connect = Callable[[], psycopg.Connection[Any]]


def channel_of(schema: str) -> str:
    """Return the channel of a schema's store; two that share one disturb each other's sleep, no more."""
    return f"relight_{crc32(schema.encode()):08x}"


class Listener:
    """One connection that listens for one store, for all of a process."""

    def __init__(self, connect: Connect, channel: str) -> None:
        self._connect = connect
        self._channel = channel
        self._heard = 0
        self._own: dict[int, int] = {}
        self._db: psycopg.Connection[Any] | None = None
        self._asked_at: float | None = None
        self._stop = threading.Event()
        self.well = False
        """Whether it listens now."""
        self._thread = threading.Thread(target=self._run, name="relight-listening", daemon=True)
        self._thread.start()

    def leave_out(self, server_pid: int) -> None:
        """Do not count what this server process says, for those who ask by it."""
        self._own.setdefault(server_pid, 0)

    def heard(self, server_pid: int) -> int:
        """Return a number that grows with each announcement of somebody else than ``server_pid``."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > PATIENCE_SECONDS:
            self._cut()
        return self._heard - self._own.get(server_pid, 0)

    def stop(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._cut()
        if self._thread is not threading.current_thread():
            self._thread.join(PATIENCE_SECONDS)

    def _cut(self) -> None:
        """End the connection under whoever waits for it."""
        db, self._asked_at = self._db, None
        if db is not None:
            with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(db.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        tries = 0
        while not self._stop.is_set():
            try:
                with self._connect() as db:
                    self._db = db
                    db.execute("SELECT set_config('application_name', %s, false)", (NAME,))
                    db.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    tries, self.well = 0, True
                    self._heard += 1
                    self._listen(db)
            except (psycopg.Error, RelightError, OSError):
                pass  # those who watch ask the server themselves until this one listens again
            finally:
                self._db, self.well = None, False
                self._heard += 1
            self._stop.wait(BACKOFF_SECONDS[min(tries, len(BACKOFF_SECONDS) - 1)])
            tries += 1

    def _listen(self, db: psycopg.Connection[Any]) -> None:
        while not self._stop.is_set():
            for said in db.notifies(timeout=ASK_SECONDS, stop_after=1):
                if said.pid in self._own:
                    self._own[said.pid] += 1
                self._heard += 1
                break
            else:
                self._asked_at = time.monotonic()
                db.execute("SELECT 1")
                self._asked_at = None


_lock = threading.Lock()
_listeners: dict[tuple[int, str, str], tuple[Listener, int]] = {}
"""By process, address and schema: who listens there, and for how many stores."""


def lend_listener(info: str, schema: str, connect: Connect) -> tuple[Listener, Callable[[], None]]:
    """Return the listener of a store in this process, made when there is none, and what gives it back."""
    key = (os.getpid(), info, schema)
    with _lock:
        listener, users = _listeners.get(key, (None, 0))
        if listener is None:
            listener = Listener(connect, channel_of(schema))
        _listeners[key] = (listener, users + 1)

    def give_back() -> None:
        with _lock:
            listener, users = _listeners.pop(key)
            if users > 1:
                _listeners[key] = (listener, users - 1)
                return
        if key[0] == os.getpid():
            listener.stop()

    return listener, give_back
