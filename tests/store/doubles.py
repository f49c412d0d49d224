"""Stores that do not do what they are asked: a real SQLite store with its answers changed, and writers on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from relight.conformance.world import World
from relight.core.commands.jobs import SubmitJob
from relight.errors import StorageUnavailable
from relight.store.journal import Journal
from relight.store.reads import Reads
from relight.store.sqlite import SqliteStore
from relight.store.store import Batch, OutcomeUnknown

Answer = Callable[[Callable[[], None]], None]


def before(apply: Callable[[], None]) -> None:
    """Fail without having written."""
    raise OutcomeUnknown("cut before the commit")


def after(apply: Callable[[], None]) -> None:
    """Write, and fail to say so."""
    apply()
    raise OutcomeUnknown("cut after the commit")


def well(apply: Callable[[], None]) -> None:
    """Write."""
    apply()


class Moody:
    """A store whose next answers are planned: ``answers`` to ``apply``, ``refusals`` left of ``reopen`` and ``tidy``."""

    def __init__(self, path: Path) -> None:
        self.inner = SqliteStore(path, durability="process")
        self.capabilities = self.inner.capabilities
        self.place = self.inner.place
        self.answers: deque[Answer] = deque()
        self.asked: list[Batch] = []
        self.reopened = 0
        self.reopen_refusals = 0
        self.tidy_refusals = 0
        self.on_reopen: Callable[[], None] = lambda: None

    def open(self, *, create: bool) -> None:
        self.inner.open(create=create)

    def close(self) -> None:
        self.inner.close()

    def reopen(self) -> None:
        self.reopened += 1
        if self.reopen_refusals:
            self.reopen_refusals -= 1
            raise StorageUnavailable("still not there")
        self.inner.reopen()
        self.on_reopen()

    def apply(self, batch: Batch) -> None:
        self.asked.append(batch)
        answer = self.answers.popleft() if self.answers else well
        answer(lambda: self.inner.apply(batch))

    def reading(self, *, snapshot: bool = False) -> AbstractContextManager[Reads]:
        return self.inner.reading(snapshot=snapshot)

    def put_blob(self, blob_hash: str, content: str, now_ms: int) -> None:
        self.inner.put_blob(blob_hash, content, now_ms)

    def watch(self) -> Callable[[], int]:
        return self.inner.watch()

    def tidy(self) -> None:
        if self.tidy_refusals:
            self.tidy_refusals -= 1
            raise OutcomeUnknown("a checkpoint's fsync failed")
        self.inner.tidy()

    def health(self) -> Mapping[str, object]:
        return self.inner.health()


class Bench:
    """A world, and a client whose store is moody."""

    def __init__(self, path: Path, *, capacity: int = 50_000, journal: type[Journal] = Journal) -> None:
        self.world = World(lambda: SqliteStore(path, durability="process"))
        self.store = Moody(path)
        self.store.open(create=False)
        self.world.stores.append(self.store)
        self.client = self.world.client(store=self.store)
        self.client.journal = self.journal = journal(
            self.store,
            self.client.id,
            self.client.opening,
            clock=self.world.clock,
            ids=self.world.ids,
            capacity=capacity,
        )
        self.troubles: list[tuple[str | None, int]] = []
        self.journal.on_trouble = lambda error, ms: self.troubles.append((error and str(error), ms))

    def submits(self, n: int) -> list[SubmitJob]:
        """Return commands that all can be done."""
        return [self.client.submission() for _ in range(n)]

    def stored(self, *commands: SubmitJob) -> list[int]:
        """Return how many times each job was accepted: rows and events."""
        counts = []
        for command in commands:
            snapshot = self.world.snapshot(command.job_id)
            accepted = [event for event in snapshot.events if event.type == "job_accepted"]
            assert len(accepted) == (snapshot.job is not None)
            counts.append(len(accepted))
        return counts
