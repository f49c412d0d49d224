"""``verify``: does this store keep every promise that a store can be asked about?

Three walks, none of which trusts what the others read:

1. **The log in commit order** (``log.py``, ``chains.py``, ``slots.py``): chains, kinds and payloads, and what may only
   happen after what over all engines: recovery before the gate, the gate before work.
2. **Job by job** (``story.py``, ``rows.py``, ``outside.py``): each job's events folded through the transition table must give exactly its
   rows. The events of a page of jobs and their rows are read in one snapshot, so a store may be in use.
3. **What stands alone**: writers' heads, receipts, keys, counts, the file.

Nothing is written. Memory is that of a page, plus what the log walk keeps (engines, recoveries, running jobs) and the
steps of one job. A snapshot lasts for one page of jobs, because a long reader keeps the WAL from being reused.

Not seen from inside: a writer's tail that was cut together with its row's head and every later mention of it (seal heads
outside), outputs and outcomes exchanged together with their events and all hashes after them. ``INVARIANTS`` in
``invariants.py`` lists what is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import msgspec

from relight.core import events as ev
from relight.errors import StorageCorrupt
from relight.model import EngineState, GateState, Role
from relight.recorder.chains import NAMING, ChainWalk, check_ends
from relight.recorder.invariants import TOLD_AT_MOST, Findings, Report
from relight.recorder.log import LogWalk
from relight.recorder.pages import BEHIND_ALL, PAGE, SideBySide, paged
from relight.recorder.rows import Around, check_rows
from relight.recorder.slots import SlotWalk
from relight.recorder.story import JobStory
from relight.store.audits import AuditedJob, Audits, ReadEvent, Totals
from relight.store.sqlite.store import SqliteStore
from relight.store.store import Store

JOBS_PAGE = 200
BEFORE_ALL_SEQ, BEHIND_ALL_SEQ = -1 << 62, 1 << 62
Strays = SideBySide[Any]

Told = Callable[[str, int, int], None]
"""Progress: what is being read (``events``, ``jobs``, ``file``), how much of it is done, how much there is."""


@runtime_checkable
class _ChecksItself(Protocol):
    def check_integrity(self) -> list[str]: ...


def verify_store(path: str, *, progress: Told | None = None) -> Report:
    """Audit the SQLite store at a path. Raises ``StorageError`` or ``ConfigError`` when it cannot be opened at all."""
    store = SqliteStore(path)
    store.open(create=False)
    try:
        return verify(store, progress=progress)
    finally:
        store.close()


def verify(store: Store, *, progress: Told | None = None) -> Report:
    """Audit an open store, which may be in use, and tell everything that is wrong with it.

    Cost: reads the log twice and every job, run and step once; linear, some 50,000 events a second.
    """
    return _Audit(store, progress or (lambda what, done, total: None)).run()


class _Audit:
    def __init__(self, store: Store, progress: Told) -> None:
        self._store = store
        self._progress = progress
        self._found = Findings()
        self._open_since = 0

    def run(self) -> Report:
        with self._store.reading(snapshot=True) as reads:
            totals = reads.audits().totals()
            queues = reads.queues()
        log = LogWalk(self._found, SlotWalk(self._found, queues))
        with self._readable("the log"):
            self._walk_log(log, totals)
        with self._readable("writers"):
            self._check_writers(log)
        with self._readable("receipts and keys"):
            self._check_alone(log)
        with self._readable("jobs"):
            self._walk_jobs(log, totals)
        self._progress("file", 0, 1)
        if isinstance(self._store, _ChecksItself):
            for detail in self._store.check_integrity():
                self._found.add("I-29", detail)
        self._progress("file", 1, 1)
        counts = {
            "jobs": totals.jobs,
            "runs": totals.runs,
            "steps": totals.steps,
            "events": totals.events,
            "writers": totals.writers,
        }
        findings = self._found.all()
        return Report(not findings, findings, counts)

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Turn rows that cannot even be read into a finding: the rest is still audited."""
        try:
            yield
        except (StorageCorrupt, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._found.add("I-29", f"{what} could not be read to the end: {error}")

    # the log

    def _walk_log(self, log: LogWalk, totals: Totals) -> None:
        chains = ChainWalk(self._found)
        after, seen = BEFORE_ALL_SEQ, 0
        while after < totals.last_seq:
            with self._store.reading() as reads:
                audits = reads.audits()
                page = [e for e in audits.events(after, PAGE) if e.event.seq <= totals.last_seq]
                if not page:
                    break
                self._take_page(page, log, chains, audits)
            after = page[-1].event.seq
            seen += len(page)
            self._progress("events", seen, totals.events)
        log.close()
        for name, rows, told in (
            ("events", totals.events, seen),
            ("jobs", totals.jobs, log.accepted),
            ("runs", totals.runs, log.started),
            ("receipts", totals.recoveries, log.receipts),
        ):
            if rows != told:
                self._found.add("I-30", f"there are {rows} {name}, the log tells of {told}")

    def _take_page(self, page: Sequence[ReadEvent], log: LogWalk, chains: ChainWalk, audits: Audits) -> None:
        chains.take([read.event for read in page], audits)
        if log.slots.watches:
            starts = {read.event.job_id for read in page if read.event.type == "run_started" and read.event.job_id}
            log.slots.queue_of = audits.queues(sorted(starts))
        for read in page:
            payload = log.take(read)
            if isinstance(payload, NAMING):
                chains.check_heads(read.event, payload.heads, audits)

    # what stands alone

    def _check_writers(self, log: LogWalk) -> None:
        after = ""
        while True:
            with self._store.reading() as reads:
                page = reads.audits().writers(after, PAGE)
            if not page:
                return
            check_ends(page, self._found)
            for writer in page:
                if writer.role == Role.ENGINE and writer.gate == GateState.OPEN:
                    if writer.state == EngineState.LIVE:
                        self._open_since = max(self._open_since, writer.gate_opened_at or 0)
                    if writer.engine_id not in log.gates and not self._opened_gate(writer.engine_id):
                        detail = f"the gate of {writer.engine_id} is open by its row, not by the log"
                        self._found.add("I-6", detail, writer.engine_id)
            after = page[-1].engine_id

    def _opened_gate(self, engine_id: str) -> bool:
        """Look for a gate that opened after the end of the log that was walked."""
        after = 0
        while True:
            with self._store.reading() as reads:
                page = reads.audits().events_of_writer(engine_id, after, PAGE)
            if not page:
                return False
            if any(read.event.type == "gate_opened" for read in page):
                return True
            after = page[-1].event.writer_seq

    def _check_alone(self, log: LogWalk) -> None:
        with self._store.reading() as reads:
            audits = reads.audits()
            for writer_id in audits.strangers(TOLD_AT_MOST):
                self._found.add("I-1", f"writer {writer_id} has events and no row", writer_id)
            for kind, key, job_ids in audits.twins(TOLD_AT_MOST):
                self._found.add("I-15", f"key {key!r} of kind {kind} names {len(job_ids)} jobs", *job_ids)
        for recovery_id, recovery in log.recoveries.items():
            if recovery.receipt is not None:
                self._check_receipt(recovery.receipt, recovery_id)

    def _check_receipt(self, told: ev.RecoveryFinished, recovery_id: str) -> None:
        with self._store.reading() as reads:
            row = reads.audits().receipt(recovery_id)
        if row is None:
            self._found.add("I-6", f"recovery {recovery_id} finished and has no receipt", recovery_id)
            return
        counted = (row.scanned, row.stalled, row.in_doubt, row.quarantined)
        if counted != (told.scanned, told.stalled, told.in_doubt, told.quarantined):
            self._found.add("I-6", f"the receipt of recovery {recovery_id} is not the one that was told", recovery_id)

    # job by job

    def _walk_jobs(self, log: LogWalk, totals: Totals) -> None:
        around = Around(log.last_gate_seq, self._open_since, log.quarantined)
        after = ""
        done = 0
        while after != BEHIND_ALL:
            with self._store.reading(snapshot=True) as reads:
                audits = reads.audits()
                jobs = audits.jobs(after, JOBS_PAGE)
                upto = jobs[-1].job_id if len(jobs) == JOBS_PAGE else BEHIND_ALL
                if any(job.quarantined and job.job_id not in log.quarantined for job in jobs):
                    self._read_on(log, audits, totals)
                self._check_page(jobs, audits, after, upto, around)
            after = upto
            done += len(jobs)
            self._progress("jobs", done, max(totals.jobs, done))

    def _read_on(self, log: LogWalk, audits: Audits, totals: Totals) -> None:
        """Learn which rows were set aside since the log was walked."""
        newer = paged(
            lambda seq: audits.events(seq, PAGE, "row_quarantined"), lambda read: read.event.seq, totals.last_seq
        )
        for read in newer:
            log.note_quarantine(read)

    def _check_page(self, jobs: Sequence[AuditedJob], audits: Audits, after: str, upto: str, around: Around) -> None:
        runs = SideBySide(
            paged(lambda key: audits.runs(key, upto, PAGE), lambda r: (r.job_id, r.run_id), (after, BEHIND_ALL))
        )
        steps = SideBySide(
            paged(lambda key: audits.steps(key, upto, PAGE), lambda s: (s.job_id, s.step_key), (after, BEHIND_ALL))
        )
        tokens = SideBySide(
            paged(lambda key: audits.tokens(key, upto, PAGE), lambda t: (t.job_id, t.token), (after, BEHIND_ALL))
        )
        values = SideBySide(
            paged(lambda key: audits.published(key, upto, PAGE), lambda v: (v.job_id, v.name), (after, BEHIND_ALL))
        )
        events = SideBySide(self._events(audits, after, upto))
        forks: list[tuple[str, str]] = []
        for job in jobs:
            story = JobStory(job, self._found)
            self._check_strays(job.job_id, runs=runs, steps=steps, events=events, tokens=tokens, values=values)
            for event in events.of(job.job_id):
                story.take(event.event)
            check_rows(story, runs.of(job.job_id), steps.of(job.job_id), around)
            story.outside.check(tokens.of(job.job_id), values.of(job.job_id))
            if story.forked_from is not None and not job.quarantined:
                forks.append((job.job_id, story.forked_from))
        self._check_strays(BEHIND_ALL, runs=runs, steps=steps, events=events, tokens=tokens, values=values)
        for job_id, step_key in audits.altered_copies(forks, TOLD_AT_MOST) if forks else ():
            self._found.add(
                "F-1", f"step {step_key} was taken over by a fork and is not what the other job has", job_id
            )

    def _events(self, audits: Audits, after: str, upto: str) -> Iterator[ReadEvent]:
        return paged(
            lambda key: audits.events_of_jobs(key, upto, PAGE),
            lambda read: (read.job_id, read.event.seq),
            (after, BEHIND_ALL_SEQ),
        )

    def _check_strays(self, job_id: str, **walks: Strays) -> None:
        for what, rows in walks.items():
            for stray in sorted({row.job_id for row in rows.before(job_id)}):
                self._found.add("I-30", f"there are {what} of job {stray}, which has no row", stray)
