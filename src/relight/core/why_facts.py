"""What ``why`` goes by: the facts about one job, read in one snapshot, and what its engine knows in memory.

Owns their shape only. ``recorder/facts.py`` gathers them, ``why.py`` explains them; nothing here decides anything.
Payloads (inputs, outcomes, previews, messages) are never among them. Read next: ``why.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from relight.ids import EngineId, JobId, StepKey
from relight.model import (
    DecisionRecord,
    EngineRecord,
    JobRecord,
    QuarantineRecord,
    QueueRecord,
    RunRecord,
    SignalRecord,
    StepRecord,
    TokenRecord,
)


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """An event as evidence. ``payload`` is its JSON text."""

    event_id: str
    type: str
    ts: int
    step_key: StepKey | None
    actor_id: str
    payload: str


class StepCounts(msgspec.Struct, frozen=True, array_like=True):
    """How many steps of a job are recorded, and when one of them last began or ended."""

    total: int = 0
    open: int = 0
    failed: int = 0
    last_at: int | None = None


class JobFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a store says of one job, in the order of the query ``job_facts``.

    ``runs`` are its last ones, ``marks`` its last events of the kinds that are evidence, both newest first. ``steps`` are
    the unfinished ones, then the last that failed. ``tokens`` are the open ones, without type and value. ``owner`` is the engine of its last run.
    """

    job: JobRecord
    runs: tuple[RunRecord, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    counts: StepCounts = StepCounts()
    decisions: tuple[DecisionRecord, ...] = ()
    unread: tuple[SignalRecord, ...] = ()
    tokens: tuple[TokenRecord, ...] = ()
    quarantine: QuarantineRecord | None = None
    marks: tuple[Mark, ...] = ()
    owner: EngineRecord | None = None


@dataclass(frozen=True, kw_only=True)
class LineFacts:
    """Where a job that may be claimed stands: its queue's definition, who runs what, who comes before it.

    ``rate_until`` is when its queue's rate leaves room again, when it leaves none now.
    """

    queue: QueueRecord | None = None
    load: Mapping[EngineId, int] = field(default_factory=dict)
    holders: tuple[tuple[JobId, int], ...] = ()
    ahead: int = 0
    rate_until: int | None = None


@dataclass(frozen=True, kw_only=True)
class LiveStep:
    """A try as its engine sees it. ``since`` is its last sign of life; ``tries`` how many its ``Retry`` allows."""

    step_key: StepKey
    since: int
    timeout_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class LiveFacts:
    """What only an engine in this process knows; everything is optional, and absent means: not so, or not known.

    ``degraded`` is what the store last refused, ``recovering`` how many runs of how many are accounted for, ``silent``
    are tries beyond their time limit, ``abandoned`` threads that outlived their try, ``tries`` the limits by step.
    """

    engine_id: EngineId
    degraded: str | None = None
    degraded_since: int | None = None
    draining_since: int | None = None
    recovering: tuple[int, int] | None = None
    silent: tuple[LiveStep, ...] = ()
    abandoned: tuple[LiveStep, ...] = ()
    thread_wait_since: int | None = None
    free_slots: int | None = None
    rate_limited_until: int | None = None
    tries: Mapping[StepKey, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything ``explain`` looks at. ``children`` are the jobs that this one waits for, by id, to a limited depth.

    ``engines`` are those still marked live or silent, and any that has left runs running; ``gate_marks`` are the last
    events of the engine whose gate this job waits for.
    """

    now_ms: int
    store: JobFacts
    engines: tuple[EngineRecord, ...] = ()
    gate_marks: tuple[Mark, ...] = ()
    line: LineFacts | None = None
    children: Mapping[JobId, Facts] = field(default_factory=dict)
    live: LiveFacts | None = None

    @property
    def job(self) -> JobRecord:
        """The job itself, without its payloads."""
        return self.store.job
