"""The journal: the one writer of an open engine or client. Group commit, one outcome for each command, nothing lost.

::

    callers ──put──▶ queue ──take──▶ batch ──apply──▶ store       one transaction, one fsync, hundreds of commands
       ▲                                      │
       └────────── wake: one for each run ◀───┘

**Promise.** A command is told that it is done only when its transaction is on disk; its error is its own; no other
command suffers for it.

**Optimistic batches.** A batch is built as if every precondition held. When the store refuses it, it left nothing
behind, and it is applied by halves, in order, down to the culprit, whose command alone gets the error; or without the
culprits, where the store names them. A store applies a
batch operation by operation, not command by command; so a batch ends before a command whose job an earlier command of it
moves: state and story then agree as if each command had been a transaction of its own.

**Unknown outcomes.** A commit that did not return success may be on disk. The same batch is kept, the store is reopened,
and its batch number decides: it is there, or it is applied again as it was, with the same event ids. Until that
succeeds the journal is *degraded*: commands wait, nothing fails; only callers with a ``patience`` give up, and then they
are told whether their command was taken back or is still open.

**Fenced.** When the store says that this writer was declared dead, every waiting and later command gets ``Fenced``; the
head in memory is of no use any more. There is no way back: a new incarnation has a journal of its own.

**Lazy commands** (a retryable step's begin, a recorded ``now()``) wait up to ``LINGER_MS`` for a commit to ride along with.
They keep their place in the queue, so that a later command is never on disk without an earlier one of its run.

``pump()`` does one batch and needs no thread: the simulator calls it. ``start()`` runs it in a thread.
Rejected: a lock around the store (no group commit: one fsync a command); retrying a refused batch row by row (n
transactions where log n do); failing commands when the disk refuses (a job would fail for its engine's trouble).
Read next: ``tickets.py``, ``sqlite/sql/apply.sql``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from relight.clock import Clock
from relight.core.chain import START
from relight.core.changes import CloseWriter, OpenWriter
from relight.core.commands import Command
from relight.errors import Fenced, Overloaded, RelightError, StorageCorrupt, StorageUnavailable
from relight.ids import EngineId, Ids
from relight.model import EngineState
from relight.store.store import Batch, Refused, Store
from relight.store.tickets import Latch, Ticket, Touched, Waker, batch_of

MAX_COMMANDS = 1_000
MAX_BYTES = 4 << 20
LINGER_MS = 20
CAPACITY = 50_000
"""Commands that may wait; beyond it new ones get ``Overloaded``."""
BACKOFF_MS = (20, 50, 100, 250, 500, 1000, 2000)


class _Open(NamedTuple):
    """A batch whose outcome is unknown, and the parts of its queue that come after it."""

    batch: Batch
    part: list[Ticket]
    rest: list[list[Ticket]]


def _named(part: Sequence[Ticket], refused: Refused) -> list[Ticket]:
    """Return those of a refused batch whose rows the store names."""
    owners = [ticket for ticket in part for row in ticket.rows if row.op == refused.op]
    return list(dict.fromkeys(owners[place] for place in sorted(refused.places)))


class Journal:
    """See the module. ``opener`` makes the command that opens this writer; it is put before the first batch.

    ``on_applied`` hears the operations of each applied batch, ``on_fenced`` once that this writer is fenced,
    ``on_trouble`` a code when the store begins to refuse, and None with the outage in ms when it is over.
    """

    def __init__(
        self,
        store: Store,
        engine_id: EngineId,
        opener: Callable[[], Command],
        *,
        clock: Clock,
        ids: Ids,
        capacity: int = CAPACITY,
    ) -> None:
        self.engine_id = engine_id
        self._store = store
        self._opener: Callable[[], Command] | None = opener
        self._clock = clock
        self._ids = ids
        self._capacity = capacity
        self._urgent: int = 0
        self._queue: deque[Ticket] = deque()
        self._ready = threading.Condition()
        self._seq = 0
        self._head = START
        self._open: _Open | None = None
        self._degraded_since: int | None = None
        self._trouble: RelightError | None = None
        self._attempts = 0
        self._retry_at = 0
        self._fenced: Fenced | None = None
        self._closing = False
        self._gave_up = False
        self._under_way: list[Ticket] = []
        self._at_work = False
        self._thread: threading.Thread | None = None
        self.batches = 0
        self.on_applied: Callable[[frozenset[str]], None] = lambda ops: None
        self.on_fenced: Callable[[], None] = lambda: None
        self.on_trouble: Callable[[RelightError | None, int], None] = lambda error, outage_ms: None

    # putting commands in

    def put(self, command: Command, *, waker: Waker | None = None, tag: Any = None, lazy: bool = False) -> Ticket:
        """Queue a command and return its ticket. Raises at once what is wrong with the command itself.

        ``waker`` hears of it once it is done, and finds ``tag`` in the ticket. ``lazy`` lets it wait up to 20 ms for company. Raises ``Overloaded`` when the queue is full, ``Fenced`` when this
        writer may write no more.
        """
        now_ms = self._clock.now_ms()
        ticket = Ticket(command, command.changes(now_ms, self._ids), self._clock.mono_ms(), waker, tag, lazy)
        with self._ready:
            if self._fenced is not None:
                raise self._fenced
            if self._closing:
                raise StorageUnavailable("the journal is closed: this engine or client was stopped")
            if len(self._queue) >= self._capacity:
                raise Overloaded(
                    f"{len(self._queue)} changes wait to be written; nothing was accepted. Try again shortly"
                )
            self._queue.append(ticket)
            if not lazy:
                self._urgent += 1
                self._ready.notify()
            elif len(self._queue) == 1:
                self._ready.notify()
        return ticket

    def execute(self, command: Command, *, patience_seconds: float | None = None) -> None:
        """Queue a command and wait until it is on disk. Raises the command's own error.

        With ``patience_seconds``, gives up while the store refuses: ``StorageUnavailable``, with the command taken back,
        or with its outcome open when a batch that holds it is already under way.
        """
        latch = Latch()
        ticket = self.put(command, waker=latch)
        if not latch.wait(patience_seconds):
            for error in self._take_back([ticket]).values():
                raise error
        if ticket.error is not None:
            raise ticket.error

    def execute_all(
        self, commands: Sequence[Command], *, patience_seconds: float | None = None
    ) -> list[BaseException | None]:
        """Queue commands in order, wait for all of them, and return each one's error or None.

        With ``patience_seconds``, gives up once none of them was written for so long; those left get what ``execute`` raises.
        """
        latch = Latch(len(commands))
        outcomes: list[BaseException | None] = []
        tickets: list[Ticket | None] = []
        for command in commands:
            try:
                tickets.append(self.put(command, waker=latch))
                outcomes.append(None)
            except RelightError as error:
                tickets.append(None)
                outcomes.append(error)
                latch.skip()
        left = len(commands)
        while left and not latch.wait(patience_seconds):
            waiting = [ticket for ticket in tickets if ticket is not None and not ticket.done]
            if len(waiting) == left:
                given_up = self._take_back(waiting)
                return [
                    outcome if ticket is None else given_up.get(ticket, ticket.error)
                    for ticket, outcome in zip(tickets, outcomes, strict=True)
                ]
            left = len(waiting)
        return [outcome if ticket is None else ticket.error for ticket, outcome in zip(tickets, outcomes, strict=True)]

    def _take_back(self, tickets: Sequence[Ticket]) -> dict[Ticket, StorageUnavailable]:
        """Take commands back that nobody waits for any more; return what each caller is told of those not done by now."""
        wanted = set(tickets)
        with self._ready:
            back = {ticket for ticket in self._queue if ticket in wanted}
            if back:
                self._queue = deque(ticket for ticket in self._queue if ticket not in back)
                self._urgent -= sum(not ticket.lazy for ticket in back)
        why = f" ({self._trouble})" if self._trouble else ""
        told = {}
        for ticket in tickets:
            job = getattr(ticket.command, "job_id", None)
            if ticket in back:
                text = f"the store does not take writes now{why}; nothing was stored. Try again later"
                told[ticket] = StorageUnavailable(text, job_id=job)
            elif not ticket.done:
                text = f"the store does not answer{why}; whether this was stored is not known yet. Repeating it is safe"
                told[ticket] = StorageUnavailable(text, job_id=job)
        return told

    # taking them out

    def _take(self) -> list[Ticket]:
        with self._ready:
            oldest_ok = self._queue and self._clock.mono_ms() - self._queue[0].put_at >= LINGER_MS
            if not self._queue or not (self._urgent or oldest_ok or self._closing):
                return []
            taken: list[Ticket] = []
            touched = Touched()
            size = 0
            queue = self._queue
            while queue and len(taken) < MAX_COMMANDS and (size < MAX_BYTES or not taken):
                ticket = queue[0]
                if not touched.admits(ticket):
                    break
                queue.popleft()
                self._urgent -= not ticket.lazy
                taken.append(ticket)
                size += ticket.size
            self._at_work = True  # until those who wait for these have been told
        return taken

    def pump(self) -> bool:
        """Do one batch, or settle one of unknown outcome; return whether anything was done."""
        if self._open is not None:
            if self._clock.mono_ms() < self._retry_at:
                return False
            self._settle(self._open)
            return True
        taken = self._take()
        if not taken:
            return False
        self._under_way = taken
        if self._opener is not None:
            try:
                opening = self._opener()
            except StorageUnavailable as error:
                self._requeue(taken)
                self._open = _Open(Batch(self.engine_id, 0, self._head, {}, ()), [], [])
                self._degrade(error)
                return True
            wanted = opening.changes(self._clock.now_ms(), self._ids)
            taken.insert(0, Ticket(opening, wanted, 0, None))
        self._apply([taken])
        self._at_work = False
        return True

    def _requeue(self, tickets: list[Ticket]) -> None:
        self._under_way = []
        with self._ready:
            for ticket in reversed(tickets):
                ticket.lazy = False
                self._queue.appendleft(ticket)
                self._urgent += 1

    def _apply(self, parts: list[list[Ticket]]) -> None:
        while parts:
            part = parts.pop(0)
            batch = batch_of(self.engine_id, self._seq + 1, self._head, part)
            try:
                self._store.apply(batch)
            except Refused as refused:
                named = _named(part, refused)
                if named or len(part) == 1:
                    for ticket in named or part:
                        self._finish([ticket], ticket.command.refused(refused.op))
                    parts[:0] = [rest] if (rest := [t for t in part if not t.done]) else []
                else:
                    middle = len(part) // 2
                    parts[:0] = [part[:middle], part[middle:]]
            except Fenced as error:
                self._fence(error, [part, *parts])
                return
            except (StorageUnavailable, StorageCorrupt) as error:
                self._open = _Open(batch, part, parts)
                self._degrade(error)
                return
            else:
                self._applied(batch, part)
        self._tidy()

    def _applied(self, batch: Batch, part: list[Ticket]) -> None:
        self._seq = batch.seq
        self._head = batch.head
        self.batches += 1
        if OpenWriter.op in batch.rows:
            self._opener = None
        self.on_applied(frozenset(batch.rows))
        self._finish(part, None)

    def _finish(self, part: list[Ticket], error: BaseException | None) -> None:
        wakers: dict[Waker, list[Ticket]] = {}
        for ticket in part:
            ticket.error = error
            ticket.done = True
            if ticket.waker is not None:
                wakers.setdefault(ticket.waker, []).append(ticket)
        for waker, tickets in wakers.items():
            waker(tickets)

    def _tidy(self) -> None:
        try:
            self._store.tidy()
        except (StorageUnavailable, StorageCorrupt) as error:
            # Fail-stop: what a failed fsync left behind is not trusted, so the connection goes and the file is looked over.
            self._degrade(error)
            self._open = _Open(Batch(self.engine_id, self._seq, self._head, {}, ()), [], [])

    # when the store refuses

    def _degrade(self, error: RelightError) -> None:
        self._trouble = error
        if self._degraded_since is None:
            self._degraded_since = self._clock.mono_ms()
            self.on_trouble(error, 0)
        wait_ms = BACKOFF_MS[min(self._attempts, len(BACKOFF_MS) - 1)]
        self._attempts += 1
        self._retry_at = self._clock.mono_ms() + wait_ms

    def _settle(self, unknown: _Open) -> None:
        """Reopen, and let the batch number decide: keep the batch, or apply the same one again."""
        try:
            self._store.reopen()
            with self._store.reading() as reads:
                reached = reads.batch_seq(self.engine_id)
        except (RelightError, Refused) as error:
            self._degrade(error if isinstance(error, RelightError) else StorageUnavailable(str(error)))
            return
        self._open = None
        seq, state = reached or (0, EngineState.LIVE)
        rest = unknown.rest
        left = False
        if unknown.part and seq == unknown.batch.seq:
            self._applied(unknown.batch, unknown.part)
            left = CloseWriter.op in unknown.batch.rows
        elif unknown.part:
            rest = [unknown.part, *rest]
        if state is not EngineState.LIVE and not left:
            self._fence(Fenced("this writer was declared dead while the store did not answer"), rest)
            return
        self._apply(rest)
        if self._open is None and self._fenced is None:
            self._recovered()

    def _recovered(self) -> None:
        self._attempts = 0
        self._trouble = None
        if self._degraded_since is not None:
            outage_ms = self._clock.mono_ms() - self._degraded_since
            self._degraded_since = None
            self.on_trouble(None, outage_ms)

    def _fence(self, error: Fenced, parts: list[list[Ticket]]) -> None:
        with self._ready:
            self._fenced = error
            parts.append(list(self._queue))
            self._queue.clear()
            self._urgent = 0
            self._ready.notify_all()
        self.refused_writes = sum(len(part) for part in parts)
        for part in parts:
            self._finish(part, error)
        self.on_fenced()

    refused_writes = 0
    """How many commands were waiting when this writer turned out to be fenced."""

    # its thread

    @property
    def fenced(self) -> bool:
        """Whether this writer may write no more."""
        return self._fenced is not None

    @property
    def opened(self) -> bool:
        """Whether this writer has a row in the store."""
        return self._opener is None

    @property
    def trouble(self) -> RelightError | None:
        """What the store last said when it refuses now; None when all is well."""
        return self._trouble

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and everyone has been told of what was written."""
        with self._ready:
            return not self._queue and not self._at_work and self._open is None

    def start(self) -> None:
        """Run ``pump`` in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"relight-journal-{self.engine_id[-6:]}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                if self.pump():
                    continue
            except Exception as error:
                # boundary: fail-stop; a journal that cannot go on must not leave callers waiting
                stopped = Fenced(f"the journal stopped: {type(error).__name__}: {error}")
                self._fence(stopped, [*self._left_open(), [t for t in self._under_way if not t.done]])
                raise
            if self._gave_up:
                self._abandon()
                return
            with self._ready:
                if self._closing and (self._fenced is not None or (not self._queue and self._open is None)):
                    return
                self._clock.wait(self._ready, self._idle_ms())

    def _idle_ms(self) -> int | None:
        """Return how long there is nothing to do, in ms. Called with the lock held."""
        now = self._clock.mono_ms()
        if self._open is not None:
            return max(self._retry_at - now, 1)
        if not self._queue:
            return None
        if self._urgent or self._closing:
            return 0
        return max(self._queue[0].put_at + LINGER_MS - now, 1)

    def close(self, *, timeout_seconds: float | None = 5) -> None:
        """Write what waits, then end the thread. A store that refuses is given up after the time-out, and who waits is told.

        Idempotent.
        """
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        if self._thread is None:
            while self.pump():
                pass
            self._abandon()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
            with self._ready:
                self._gave_up = True
                self._ready.notify_all()

    def _left_open(self) -> list[list[Ticket]]:
        """Take what a batch of unknown outcome left: its own commands and those behind it."""
        unknown, self._open = self._open, None
        return [] if unknown is None else [unknown.part, *unknown.rest]

    def _abandon(self) -> None:
        """Tell those who wait that nothing more is tried: a closed journal must not open a store again."""
        parts = self._left_open()
        with self._ready:
            parts.append(list(self._queue))
            self._queue.clear()
            self._urgent = 0
        closed = StorageUnavailable(
            f"the store did not answer ({self._trouble}) and the journal was closed; whether this was stored is not known. "
            "Repeating it is safe"
        )
        for part in parts:
            self._finish(part, closed)
