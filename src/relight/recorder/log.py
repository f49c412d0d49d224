"""The log replayed in commit order: what may only happen after what, over all engines and jobs.

Owns the invariants of order (I-0, I-5, I-6, I-7, I-27, P2, P4) and counts for I-30. No timestamp is looked at: only ``seq``.
In memory: engines and recoveries ever started, the runs that run, and the jobs that are quarantined at the place reached.

An engine counts as *held dead or silent* from the first event that says so: ``engine_silent``, a ``workflow_recovery`` that
takes a run from it, or a receipt that lists it. Its row may have said so earlier; the log cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relight.core import events as ev
from relight.errors import InvalidEvent
from relight.model import EventRecord, Verdict
from relight.recorder.invariants import Findings
from relight.recorder.slots import SlotWalk
from relight.store.audits import ReadEvent

RUN_ENDS_BY = ev.TERMINAL_EVENTS | {"run_suspended", "workflow_recovery"}
"""The kinds that end the run they name, if it runs."""

_HELD = frozenset({Verdict.DEAD, Verdict.SILENT, Verdict.LEASE_EXPIRED})


@dataclass
class Recovery:
    """What the log tells of one recovery."""

    writer_id: str
    stalled: int = 0
    in_doubt: int = 0
    receipt: ev.RecoveryFinished | None = None
    opened_gate: bool = False


class LogWalk:
    """Takes events one by one. ``slots`` watches queues, if any has a limit."""

    def __init__(self, found: Findings, slots: SlotWalk) -> None:
        self._found = found
        self.slots = slots
        self.engines: set[str] = set()
        self.gates: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.recoveries: dict[str, Recovery] = {}
        self.running: dict[str, tuple[str, str]] = {}
        """Run → its job and its engine."""
        self.runs_of: dict[str, set[str]] = {}
        """Engine → its runs that run."""
        self.quarantined: set[str] = set()
        self.accepted = 0
        self.started = 0
        self.receipts = 0
        self.last_gate_seq = 0
        self._on: Mapping[str, Callable[[EventRecord, ev.EventPayload], None]] = {
            "engine_started": lambda event, payload: self.engines.add(event.writer_id),
            "engine_silent": self._engine_silent,
            "recovery_started": self._recovery_started,
            "workflow_recovery": self._workflow_recovery,
            "recovery_finished": self._recovery_finished,
            "gate_opened": self._gate_opened,
            "row_quarantined": self._row_quarantined,
            "row_released": self._row_released,
            "job_accepted": self._job_accepted,
            "run_started": self._run_started,
            "queue_changed": self._queue_changed,
        }

    def take(self, read: ReadEvent) -> ev.EventPayload | None:
        """Check one event against everything before it; return its payload, None when it has none."""
        event = read.event
        if event.writer_id in self.held:
            self._found.add(
                "P4",
                f"{event.type} was written by {event.writer_id}, held dead or silent since event {self.held[event.writer_id]}",
                event.event_id,
            )
        payload = self._parsed(read)
        if event.type in RUN_ENDS_BY:
            self._run_ended(event)
        handle = self._on.get(event.type)
        if handle is not None and payload is not None:
            handle(event, payload)
        return payload

    def _parsed(self, read: ReadEvent) -> ev.EventPayload | None:
        event = read.event
        if read.flaw is not None:
            self._found.add("I-0", f"event {event.seq} cannot be read: {read.flaw}", event.event_id)
        try:
            payload = ev.parse(event.type, event.payload)
        except InvalidEvent as error:
            self._found.add("I-0", f"event {event.seq}: {error}", event.event_id)
            return None
        if read.flaw is None and event.actor not in payload.actors:
            self._found.add("I-0", f"{event.type} was caused by actor {event.actor}, who may not", event.event_id)
        return payload

    # engines, recovery, the gate

    def _hold(self, engine_id: str, seq: int) -> None:
        self.held.setdefault(engine_id, seq)

    def _engine_silent(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.EngineSilent)
        self._hold(payload.engine_id, event.seq)

    def _recovery_started(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.RecoveryStarted)
        self.recoveries.setdefault(payload.recovery_id, Recovery(event.writer_id))

    def _workflow_recovery(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.WorkflowRecovery)
        self._hold(payload.dead_engine_id, event.seq)
        recovery = self.recoveries.get(payload.recovery_id)
        if recovery is None or recovery.writer_id != event.writer_id:
            why = "never started" if recovery is None else f"was started by {recovery.writer_id}"
            self._found.add("I-6", f"a run was stalled by recovery {payload.recovery_id}, which {why}", event.event_id)
            return
        recovery.stalled += 1
        recovery.in_doubt += len(payload.in_doubt_steps)
        if recovery.opened_gate:
            self._found.add(
                "I-6", f"recovery {payload.recovery_id} stalled a run after its gate had opened", event.event_id
            )

    def _recovery_finished(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.RecoveryFinished)
        self.receipts += 1
        for judged in payload.engines:
            if judged.verdict in _HELD:
                self._hold(judged.engine_id, event.seq)
        recovery = self.recoveries.get(payload.recovery_id)
        if recovery is None:
            self._found.add("I-6", f"recovery {payload.recovery_id} finished and never started", event.event_id)
            return
        recovery.receipt = payload

    def _gate_opened(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.GateOpened)
        engine_id = event.writer_id
        recovery = self.recoveries.get(payload.recovery_id)
        if recovery is None or recovery.writer_id != engine_id:
            self._found.add(
                "I-6",
                f"the gate of {engine_id} opened without a recovery of its own ({payload.recovery_id})",
                event.event_id,
            )
        else:
            recovery.opened_gate = True
        if engine_id in self.gates:
            self._found.add("I-6", f"the gate of {engine_id} opened twice: it is a one-way latch", event.event_id)
        self.gates.setdefault(engine_id, event.seq)
        self.last_gate_seq = event.seq
        for owner in self.held.keys() & self.runs_of.keys():
            for run_id in sorted(self.runs_of[owner]):
                job_id = self.running[run_id][0]
                if job_id not in self.quarantined:
                    self._found.add(
                        "I-7",
                        f"run {run_id} of engine {owner}, held since event {self.held[owner]}, still ran when the gate of "
                        f"{engine_id} opened",
                        job_id,
                        event.event_id,
                    )

    def _row_quarantined(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.RowQuarantined)
        self.quarantined.add(payload.row_id)
        for run_id, (job_id, _) in self.running.items():
            if job_id == payload.row_id:
                self.slots.ended(run_id)  # what is set aside holds no slot

    def note_quarantine(self, read: ReadEvent) -> None:
        """Take one event of those that came after the walk: only which row it sets aside."""
        try:
            payload = ev.parse(read.event.type, read.event.payload)
        except InvalidEvent:
            return
        self._row_quarantined(read.event, payload)

    def _row_released(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.RowReleased)
        self.quarantined.discard(payload.row_id)

    # jobs and runs

    def _job_accepted(self, event: EventRecord, payload: ev.EventPayload) -> None:
        self.accepted += 1
        if event.writer_id in self.engines and event.writer_id not in self.gates:
            self._found.add(
                "I-5",
                f"job {event.job_id} was accepted by engine {event.writer_id} before its gate opened",
                event.job_id,
                event.event_id,
            )

    def _run_started(self, event: EventRecord, payload: ev.EventPayload) -> None:
        self.started += 1
        if event.writer_id not in self.gates:
            self._found.add(
                "P2",
                f"run {event.run_id} was started by {event.writer_id} before its gate opened",
                event.run_id,
                event.event_id,
            )
        if event.run_id is None or event.job_id is None:
            self._found.add("I-0", f"run_started {event.seq} names no job or no run", event.event_id)
            return
        self.running[event.run_id] = (event.job_id, event.writer_id)
        self.runs_of.setdefault(event.writer_id, set()).add(event.run_id)
        self.slots.started(event.job_id, event.run_id, event.writer_id, event.seq, event.ts)

    def _run_ended(self, event: EventRecord) -> None:
        ended = self.running.pop(event.run_id or "", None)
        if ended is None:
            return
        runs = self.runs_of[ended[1]]
        runs.discard(event.run_id or "")
        if not runs:
            del self.runs_of[ended[1]]
        self.slots.ended(event.run_id or "")

    def _queue_changed(self, event: EventRecord, payload: ev.EventPayload) -> None:
        assert isinstance(payload, ev.QueueChanged)
        self.slots.forget(payload.queue, payload.changes)

    # at the end

    def close(self) -> None:
        """Tell what only the end of the log shows: receipts that count otherwise than the log."""
        for recovery_id, recovery in self.recoveries.items():
            receipt = recovery.receipt
            if receipt is not None and (receipt.stalled, receipt.in_doubt) != (recovery.stalled, recovery.in_doubt):
                self._found.add(
                    "I-6",
                    f"the receipt of recovery {recovery_id} counts {receipt.stalled} runs stalled and {receipt.in_doubt} steps "
                    f"in doubt; the log has {recovery.stalled} and {recovery.in_doubt}",
                    recovery_id,
                )
        self.slots.close()
