"""An open store, and the writer that the acts of a client or an engine go through.

Opened lazily: a client that only looks writes nothing. Read next: ``submitting.py``, ``steering.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from relight.authoring.registry import Registry, check_text, is_text
from relight.client.ends import Ends
from relight.clock import Clock
from relight.core.changes import OpenWriter, Who
from relight.core.commands import Command
from relight.core.commands.engines import CloseWriterNow, OpenWriterNow
from relight.core.flow import STOWED
from relight.errors import (
    Conflict,
    NotFound,
    StorageUnavailable,
)
from relight.ids import EngineId, Ids
from relight.model import (
    Actor,
    GateState,
    JobRecord,
    Role,
)
from relight.store.journal import Journal
from relight.store.store import Store
from relight.version import VERSION

PATIENCE_SECONDS = 5.0
"""How long a client's write waits for a store that refuses."""


def default_actor() -> str:
    """Return who acts when nobody says: the user of this process."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"


class Session:
    """See the module. ``journal`` is given by an engine; a client's own is made by ``open_journal``."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        ids: Ids,
        *,
        actor: str | None,
        require_recovered: bool = False,
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.ids = ids
        self.actor = check_text(actor, "actor", 200) or default_actor()
        self.require_recovered = require_recovered
        self.ends = Ends(store, clock)
        self.before_submit: Callable[[], None] = lambda: None
        self.patience_seconds: float | None = PATIENCE_SECONDS
        self._journal: Journal | None = None

    def stow(self, text: str) -> str:
        """Keep a large text by its content, durable before what refers to it; return the reference."""
        import hashlib

        name = hashlib.sha256(text.encode()).hexdigest()
        self.store.put_blob(name, text, self.clock.now_ms())
        return STOWED + name

    # the writer

    @property
    def journal(self) -> Journal:
        """The journal that this core's writes go through."""
        if self._journal is None:
            raise StorageUnavailable(f"{self.store.place} is not open; use: with Client(…) as client")
        return self._journal

    def use_journal(self, journal: Journal) -> None:
        """Write through this journal from now on."""
        self._journal = journal

    def open_journal(self) -> None:
        """Make a client's own journal. Nothing is written before the first act."""
        client_id = EngineId(self.ids.uuid7(self.clock.now_ms()))
        self._journal = Journal(self.store, client_id, lambda: self._opening(client_id), clock=self.clock, ids=self.ids)
        self._journal.start()

    def _opening(self, client_id: EngineId) -> Command:
        with self.store.reading() as reads:
            return self.opening(client_id, tuple(reads.unnamed_heads()))

    def opening(self, client_id: EngineId, heads: tuple[tuple[EngineId, int, str], ...]) -> OpenWriterNow:
        """Return a client's first words."""
        now_ms = self.clock.now_ms()
        row = OpenWriter(
            client_id,
            Role.CLIENT,
            self.actor,
            GateState.OPEN,
            "",
            "",
            "",
            os.getpid(),
            VERSION,
            0,
            0,
            now_ms,
            "[]",
            None,
        )
        return OpenWriterNow(row=row, heads=heads, who=Who(Actor.SYSTEM, client_id))

    def close(self) -> None:
        """Close the client's writer, if it ever wrote, and its waits."""
        self.ends.stop()
        journal, self._journal = self._journal, None
        if journal is None:
            return
        if journal.opened and not journal.fenced:
            try:
                journal.execute(CloseWriterNow(engine_id=journal.engine_id), patience_seconds=2)
            except (Conflict, StorageUnavailable):
                pass  # its row stays live: nobody minds, it owns no runs
        journal.close(timeout_seconds=2)

    def who(self, by: str | None) -> Who:
        """Return a person as an actor."""
        return Who(Actor.HUMAN, check_text(by, "by", 200) or self.actor)

    # looking

    def find(self, job_id: str) -> JobRecord:
        """Return a job. Raises ``NotFound``."""
        with self.store.reading() as reads:
            job = reads.job(job_id) if is_text(job_id) else None
        if job is None:
            raise self._no_such_job(job_id)
        return job

    def _no_such_job(self, job_id: str) -> NotFound:
        return NotFound(
            f"there is no job {job_id!r:.100} in {self.store.place}. relight jobs lists them", job_id=job_id
        )

    def find_by_key(self, kind: str, idempotency_key: str) -> JobRecord:
        """Return the job that owns a key. Raises ``NotFound``."""
        with self.store.reading() as reads:
            job = reads.job_by_key(kind, idempotency_key)
        if job is None:
            raise NotFound(f'no {kind} in {self.store.place} has the key "{idempotency_key}"', kind=kind)
        return job
