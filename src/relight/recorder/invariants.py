"""What must always be true of a store, by id; and what an audit says when it is not.

Owns the table ``INVARIANTS`` (the docs are made from it), ``Finding`` and ``Report``. The ids with ``I-`` and ``P`` are
those of the design's invariants and promises; ``J-`` are facts of one row. Read next: ``verify.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

INVARIANTS: Final[Mapping[str, str]] = {
    "I-0": "Every event is of a known kind, its payload has that kind's shape, and its actor may cause it.",
    "I-1": "A writer's events are numbered from 1 without gap or double, up to what its row says; every writer has a row.",
    "I-2": "A job's events, folded through the transition table, give exactly its row, and the rows of its runs.",
    "I-3": "Every two events of a job that follow each other are a legal transition.",
    "I-4": "An ended job has exactly one terminal event after its last retry; one that has not ended has none.",
    "I-5": "No engine accepts a job before its own gate opened.",
    "I-6": "Recovery starts, stalls, and only then its engine's gate opens; its receipt counts what it really did.",
    "I-7": "When a gate opens, nothing runs under an engine that is held dead or silent, quarantined jobs excepted.",
    "I-8": "A stalled run has exactly one workflow_recovery, by the system, from running to stalled, in the job's trace.",
    "I-9": "Nothing is recorded inside a run before it started or after it ended.",
    "I-11": "A running job has exactly one running run, which is its own; no other job has one; a job's state fits its last run.",
    "I-12": "A run's number is one more than the stalls and operator's retries before it.",
    "I-14": "A step has one recorded outcome, told by one event, and it is the outcome whose hash was told.",
    "I-15": "One kind and one idempotency key name one job.",
    "I-17": "The children of an ended job have ended, are detached, or were asked to end.",
    "I-22": "Every event names the hash of the one before it and has the hash of its content; heads named elsewhere fit.",
    "I-27": "No queue ever ran more jobs than its definition allows, in all engines or in one.",
    "I-29": "The file is whole: pages, indexes and foreign keys agree.",
    "I-30": "What was accepted and started is all there, and nothing else is: events and rows are as many.",
    "I-31": "A token is made once and answered at most once, as its row says, with the value whose hash was told.",
    "I-32": "What is published under a name is what the last event about it told.",
    "P2": "No engine starts a run before its own gate opened.",
    "P4": "An engine that is held dead or silent writes nothing any more.",
    "P6": "A finished step never begins again; a failed one only after an operator's retry.",
    "J-1": "Only completed jobs have outputs.",
    "J-2": "A job has an end time exactly when it has ended; so has a run, and a step.",
    "J-3": "Only queued jobs can be claimed.",
    "J-4": "All events of a job carry its trace id.",
    "J-5": "A job that began has a run; a step belongs to a run of its job, or was copied by a fork.",
    "J-6": "A completed job has issues exactly when it completed with issues; one that has not ended has none.",
    "R-1": "No queue ever started more jobs in its rate's time than the rate allows, over all engines.",
    "F-1": "What a fork took over is there, and is what the other job has: state, outcome, failure.",
    "S-1": "A step is in flight only under a running run: none is in a job that waits, is stalled or has ended.",
    "S-2": "Nothing waits in a job that has ended: none of its waits, none of its questions.",
}
"""Every invariant that ``verify`` checks: id → one sentence."""

TOLD_AT_MOST = 100
"""Findings kept for each invariant; what is beyond is only counted."""


@dataclass(frozen=True)
class Finding:
    """One place where an invariant does not hold. ``ids`` are those of the rows and events to look at."""

    invariant: str
    ids: tuple[str, ...]
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}" + (f" [{', '.join(self.ids)}]" if self.ids else "")


@dataclass(frozen=True)
class Report:
    """What an audit found. ``counts`` are jobs, runs, steps, events and writers as they were when it began."""

    ok: bool
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]


@dataclass
class Findings:
    """Collects findings, a bounded number for each invariant."""

    _told: list[Finding] = field(default_factory=list)
    _count: Counter[str] = field(default_factory=Counter)

    def add(self, invariant: str, detail: str, *ids: object) -> None:
        """Note that an invariant does not hold. ``ids`` that are None are left out."""
        assert invariant in INVARIANTS
        self._count[invariant] += 1
        if self._count[invariant] <= TOLD_AT_MOST:
            self._told.append(Finding(invariant, tuple(str(i) for i in ids if i is not None), detail))

    def all(self) -> tuple[Finding, ...]:
        """Return the findings, and for each invariant that has more than are kept, how many more."""
        beyond = [
            Finding(name, (), f"and {count - TOLD_AT_MOST} more")
            for name, count in self._count.items()
            if count > TOLD_AT_MOST
        ]
        return (*self._told, *beyond)
