"""The storage seam: one protocol, and what the layers above may rely on whatever the database.

Writing is one verb. A **batch** carries rows for some operations (``core/changes.py``) and the events that tell of them,
and is applied as one transaction by a constant number of statements:

- the first thing it does is the **fence**: ``engines`` row of the writer, ``state = 'live'`` and ``batch_seq = n - 1``,
  and the same UPDATE advances batch number and chain head. Anything but one row: ``Fenced``;
- each operation is a compare-and-set over all its rows; a count that differs refuses the whole batch (``Refused``, naming
  the operation) and leaves nothing behind. The journal then halves the batch down to the culprit;
- a commit that did not return success is *unknown* (``OutcomeUnknown``): reopen and compare ``batch_seq``.

Reading is typed once for all databases in ``reads.py``. Nothing above this package knows which database there is; what
differs is said in ``Capabilities``. Read next: ``journal.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from relight.core.chain import EventRow, Head
from relight.errors import StorageUnavailable
from relight.ids import EngineId
from relight.store.reads import Reads


class Refused(Exception):
    """A precondition of ``op`` did not hold for some row; the whole batch left nothing behind.

    ``places`` may say for which ones, counted from 0 among the rows of ``op``, whatever else is in the batch.
    """

    def __init__(self, op: str, places: frozenset[int] = frozenset()) -> None:
        super().__init__(op)
        self.op = op
        self.places = places


class OutcomeUnknown(StorageUnavailable):
    """The transaction may or may not be on disk: reopen, and compare the batch number."""


@dataclass(frozen=True)
class Capabilities:
    """What a database can do, asked instead of its name.

    ``time_is_proof``: engines may be on other hosts, so that a lease which ran out is evidence of death.
    ``notifies``: commits of other processes are announced, so that polling is only the floor.
    """

    time_is_proof: bool
    notifies: bool


@dataclass(frozen=True)
class Batch:
    """One transaction: rows by operation (each a JSON array of row arrays), and the events with their chain links."""

    writer_id: EngineId
    seq: int
    head: Head
    rows: Mapping[str, str]
    events: Sequence[EventRow]


class Store(Protocol):
    """A database. All methods may be called from any thread; ``apply`` from one thread at a time."""

    capabilities: Capabilities
    place: str
    """Where it is, as users write it."""

    def open(self, *, create: bool) -> None:
        """Connect, check version and health, and migrate an empty store when ``create``.

        Raises ``ConfigError`` or ``StorageError`` with nothing changed.
        """
        ...

    def close(self) -> None:
        """Disconnect. Idempotent."""
        ...

    def reopen(self) -> None:
        """Drop the connection that wrote and connect anew, after an outcome that is unknown.

        Raises as ``open``; reads are served meanwhile.
        """
        ...

    def apply(self, batch: Batch) -> None:
        """Apply one batch as one transaction. Raises ``Refused``, ``Fenced``, ``OutcomeUnknown``; see the module."""
        ...

    def reading(self, *, snapshot: bool = False) -> AbstractContextManager[Reads]:
        """Give reads for a short while; with ``snapshot`` all of them see one state of the store."""
        ...

    def put_blob(self, blob_hash: str, content: str, now_ms: int) -> None:
        """Keep a value by its content's hash, in a transaction of its own; once is enough."""
        ...

    def watch(self) -> Callable[[], int]:
        """Return a function that gives another number soon after any other connection has committed.

        At once on SQLite; on a server within a tenth of a second, sooner for what others may wait for.

        Each watcher is its caller's own, for one thread, and cheap enough to ask every few milliseconds.
        """
        ...

    def now_ms(self) -> int | None:
        """Return the server's wall clock; None where the store has none but this machine's."""
        ...

    def tidy(self) -> None:
        """Do the upkeep that is due (checkpoint of the WAL). Called by the journal between batches."""
        ...

    def health(self) -> Mapping[str, object]:
        """Return versions, durability and settings as read back from the database."""
        ...


Probe = Callable[[str], None]
"""Called by a store with the name of each durable boundary it reaches: the seam for crash tests."""
