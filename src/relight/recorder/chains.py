"""The chain of every writer, walked along the log: gaps, breaks, altered rows, heads that were named (I-1, I-22).

Writers' events are interleaved in the log. For each writer seen lately its chain's end is remembered; that of another one
is looked up, so that a store with a million one-shot writers needs no more memory than one with three.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from relight.core import events as ev
from relight.core.chain import START, EventRow, Flaw, Head, check
from relight.model import EventRecord
from relight.recorder.invariants import Findings
from relight.store.audits import AuditedWriter, Audits

REMEMBERED = 4096
"""Writers whose chain's end is kept in memory."""

_INVARIANT = {Flaw.GAP: "I-1", Flaw.BROKEN_LINK: "I-22", Flaw.ALTERED: "I-22", Flaw.WRONG_HEAD: "I-1"}


class ChainWalk:
    """Takes the log page by page, in commit order."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._ends: OrderedDict[str, Head] = OrderedDict()

    def take(self, page: Sequence[EventRecord], audits: Audits) -> None:
        """Check each writer's part of a page against what came before it."""
        parts: dict[str, list[EventRecord]] = {}
        for event in page:
            parts.setdefault(event.writer_id, []).append(event)
        for writer_id, part in parts.items():
            end = self._end_before(writer_id, part[0].writer_seq, audits)
            # An EventRecord is an EventRow and its seq.
            for flaw in check(cast("Iterable[EventRow]", part), end):
                detail = f"event {flaw.writer_seq} of writer {writer_id}: {flaw.flaw}: {flaw.detail}"
                self._found.add(_INVARIANT[flaw.flaw], detail, flaw.event_id)
            self._ends[writer_id] = Head(part[-1].writer_seq, part[-1].hash)
            self._ends.move_to_end(writer_id)
        while len(self._ends) > REMEMBERED:
            self._ends.popitem(last=False)

    def _end_before(self, writer_id: str, writer_seq: int, audits: Audits) -> Head:
        end = self._ends.get(writer_id)
        if end is not None or writer_seq <= 1:
            return end or START
        before = audits.events_of_writer(writer_id, writer_seq - 2, 1)
        # Nothing there, or only the event itself: the one before it is missing.
        found = before and before[0].event.writer_seq == writer_seq - 1
        return Head(before[0].event.writer_seq, before[0].event.hash) if found else START

    def check_heads(self, event: EventRecord, heads: Mapping[str, str], audits: Audits) -> None:
        """Check that heads which an event names are, or were, those of their writers."""
        for writer_id, digest in heads.items():
            end = self._ends.get(writer_id)
            if end is not None and end.hash == digest:
                continue
            if not audits.is_named(writer_id, digest, upto=event.seq if end is None else end.seq):
                self._found.add(
                    "I-22",
                    f"{event.type} names {digest} as the head of writer {writer_id}, whose chain does not have it",
                    event.event_id,
                    writer_id,
                )


def check_ends(writers: Iterable[AuditedWriter], found: Findings) -> None:
    """Check that each writer's row names the end of its chain: a cut tail is found here."""
    for writer in writers:
        if writer.head_seq != writer.last_seq:
            found.add(
                "I-1",
                f"writer {writer.engine_id} wrote {writer.head_seq} events by its row, the log has {writer.last_seq}",
                writer.engine_id,
            )
        elif writer.last_seq and writer.head_hash != writer.last_hash:
            found.add(
                "I-22",
                f"writer {writer.engine_id} ends at {writer.last_hash}, its row says {writer.head_hash}",
                writer.engine_id,
            )


NAMING = (ev.WriterOpened, ev.EngineStarted)
"""The kinds that name heads."""
