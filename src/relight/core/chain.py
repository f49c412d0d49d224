"""The hash chain: every event of a writer names the hash of the one before it.

**Promise.** Whoever changes, removes, reorders or inserts an event of a writer, even with the hashes around it made
anew, is found by ``check`` against the chain's head, and the head is kept in the writer's row, named by the next
writer's ``writer_opened``, and may be sealed outside.

::

    hash = SHA-256( previous hash (32 bytes) ‖ canonical bytes )          the first event's previous hash is 32 zeros

**Canonical bytes**: the JSON array ``[event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id,
engine_id, payload, writer_id, writer_seq]``, in UTF-8 without blanks; ``payload`` is the stored JSON *text* as one string,
so nobody has to agree on how JSON objects are ordered. Escaped are only quote, backslash (``\\"``, ``\\\\``) and characters
below U+0020 (``\\b \\t \\n \\f \\r``, else ``\\u00xx``). An auditor needs nothing of ours:
``json.dumps(array, ensure_ascii=False, separators=(",", ":")).encode()``. Stores must keep ``payload`` as text: a column
that reorders or reformats JSON breaks every chain.

``seq``, the order of all writers' events, is not in it: the store gives it at commit. ``writer_seq`` starts at 1, has no
gaps, and is in it, so a removed event shows twice.

**Failure cases.** A commit that failed: the caller keeps the old head, nothing here has state. A commit of unknown
outcome: the same rows are applied again with the same hashes. A cut tail: the rows that are left are a perfect shorter
chain; only a head named elsewhere tells (``until``). A row whose fields were overwritten with values of other types:
altered, never an exception. A writer whose every event *and* every mention of its head was made anew: not found from
inside the store; that takes a head sealed outside.

**Rejected.** One chain for all writers (a lock around every commit of every process); a chain for each job (a million
heads to keep, and what belongs to no job has none); HMAC (the key would lie beside the store); a Merkle tree (proofs of
single events are not asked for, and appending costs more); hashing the parsed payload (needs canonical JSON). Read next:
``recorder/verify.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from relight.core.events import Draft
from relight.model import Actor

GENESIS: Final = "0" * 64
"""What the first event of a writer names as the hash before it."""

_encode = msgspec.json.Encoder().encode
_ACTOR = {actor: str(actor.value) for actor in Actor}


class Head(NamedTuple):
    """A chain's end: the last event's ``writer_seq`` and hash."""

    seq: int
    hash: str


START: Final = Head(0, GENESIS)
"""The head of a chain without events."""


class EventRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row of ``events`` as its writer makes it; the field order is the wire form."""

    event_id: str
    type: str
    ts: int
    actor: str
    actor_id: str
    trace_id: str
    job_id: str | None
    run_id: str | None
    step_key: str | None
    model_id: str | None
    engine_id: str | None
    payload: str
    writer_id: str
    writer_seq: int
    prev_hash: str
    hash: str


class Flaw(StrEnum):
    """What can be wrong with a chain."""

    GAP = "gap"
    """An event is missing, doubled or out of its order."""
    BROKEN_LINK = "broken_link"
    """An event does not name the hash of the one before it."""
    ALTERED = "altered"
    """An event's content is not what its hash says."""
    WRONG_HEAD = "wrong_head"
    """The chain does not end where its head says."""


class Finding(NamedTuple):
    """One flaw, at one event. ``event_id`` is empty when it is about the chain's end."""

    flaw: Flaw
    writer_seq: int
    event_id: str
    detail: str


def link(head: Head, drafts: Sequence[Draft], *, writer_id: str, engine_id: str | None) -> tuple[list[EventRow], Head]:
    """Give drafts their places behind ``head``; return the rows and the new head. No drafts: the same head."""
    seq, prev = head
    prev_bytes = bytes.fromhex(prev)
    rows: list[EventRow] = []
    for d in drafts:
        seq += 1
        actor = _ACTOR[d.actor]
        payload = d.payload.decode()
        content = [
            d.event_id,
            d.type,
            d.ts,
            actor,
            d.actor_id,
            d.trace_id,
            d.job_id,
            d.run_id,
            d.step_key,
            d.model_id,
            engine_id,
            payload,
            writer_id,
            seq,
        ]
        prev_bytes = sha256(prev_bytes + _encode(content)).digest()
        digest = prev_bytes.hex()
        rows.append(EventRow(*content, prev, digest))  # type: ignore[call-arg, arg-type]  # the order is the same
        prev = digest
    return rows, Head(seq, prev)


def canonical(row: EventRow) -> bytes:
    """Return the bytes of an event that its hash covers. Raises ``ValueError`` on text that is not Unicode."""
    return _encode([getattr(row, name) for name in _HASHED])


_HASHED: Final = EventRow.__struct_fields__[:-2]


def check(rows: Iterable[EventRow], head: Head = START, *, until: Head | None = None) -> Iterator[Finding]:
    """Yield what is wrong with one writer's events, which follow ``head`` in the order of ``writer_seq``.

    ``until`` is the head that the chain should end at; without it a cut tail is not seen. After a finding the walk goes
    on from the row as it stands, so that one change is told once or twice and not for every later event.
    Cost: one event in memory at a time.
    """
    seq, prev = head
    for row in rows:
        if row.writer_seq != seq + 1:
            yield Finding(Flaw.GAP, row.writer_seq, row.event_id, f"{row.writer_seq} stands where {seq + 1} should")
        elif row.prev_hash != prev:
            yield Finding(Flaw.BROKEN_LINK, row.writer_seq, row.event_id, f"names {row.prev_hash}, not {prev}")
        if _hash(row) != row.hash:
            yield Finding(Flaw.ALTERED, row.writer_seq, row.event_id, "its content is not what its hash says")
        place: object = row.writer_seq
        seq = place if isinstance(place, int) else seq + 1
        prev = row.hash
    if until is not None and (seq, prev) != tuple(until):
        yield Finding(Flaw.WRONG_HEAD, seq, "", f"ends at {seq} {prev}, its head says {until.seq} {until.hash}")


def _hash(row: EventRow) -> str | None:
    try:
        return sha256(bytes.fromhex(row.prev_hash) + canonical(row)).hexdigest()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None
