"""Is another engine dead? Proof, not guess: from what was observed to a verdict with evidence.

**Promise (P3).** A run is taken from its engine only when that engine is *proved* dead (its lock is free), or is on
another host and its lease has run out, or is stopped (then its jobs are held, not re-run). No reading of a wall clock
on this host changes a verdict: set an hour forward or back, all verdicts stay as they are.

**Verdicts.** First match wins::

    this engine's lock file is here (its nonce fits) and its lock can be tried: the lock decides
      free ..................................................................... dead, whatever its last beat
      held, stopped by a signal ................................................ silent, at once
      held, in a tracer's stop, no advance for one watch period ................ silent
      held, neither CPU time nor sign of life advanced for one lease ........... silent
      held otherwise (a process that hogs the GIL burns CPU time) .............. alive
    else, where the store reaches over hosts (``time_is_proof``)
      lease over by the store's clock, and this very beat watched for one lease  lease_expired
      at start: lease over for more than two leases ............................ lease_expired
      otherwise ................................................................ alive
    else (SQLite: the file should be here, somebody removed it or copied the store)
      its row names another boot of the machine ................................ dead
      same host, boot and pid namespace, and no such process ................... dead
      otherwise ................................................................ alive, "lock file missing"

``lease_ms`` and ``lease_until`` are always the *owner's*. A fresh beat is never evidence where the lock can be tried: a
restart one second after a crash recovers everything at once. "For one lease" is measured by the judge's own monotonic
clock, from its own first look at the very figures that did not move since; figures are compared for change only, so
that it does not matter by which clock they were written.

**Failure cases.**

* *The judge itself was away* (suspended laptop, SIGSTOP, paused VM, store outage): all others look silent to it. It
  calls ``tick`` each watch period; a pause above two periods is a gap (``note_gap``, also to be called after an
  outage), and starts every watch anew. For one period after a gap nobody is called silent for being stopped: after
  a Ctrl-Z of a whole process group the first to wake must not judge the others. A free lock needs no grace.
* *strace, py-spy, gdb*: a traced process runs, and is seen in its tracer's stop by chance. Hence not at once.
* *Held, and the process cannot be seen* (other pid namespace, no ``/proc``): alive. Without its CPU time a busy
  process cannot be told from a stopped one, and to fence a living engine is the worse error.
* *Held, and the process is gone*: a child forked in C inherited the lock. Silent after a lease: its jobs are held until
  the lock is free, because that child may still act.
* *A state directory shared over the network* (``time_is_proof`` only): flock may be local to each host there, so a free
  lock written in another boot, under another host name, decides nothing; the lease does.
* *The store's clock jumps*: backwards only delays ``lease_expired``. Forwards, a living engine's beat still changes
  within a lease; only the shortcut at start can be deceived, within one beat of the jump.

**Rejected.** Age of the last beat (every peer's way; recovers nothing in the first 30 s, and everything after a clock
jump or a busy minute). Pid files (pids are used again; meaningless in containers). Asking the engine over a socket (a
GIL-hogging engine answers as little as a dead one). TracerPid as proof of a stop (true of every process under strace).
An inode number in the lock file against copies of it (unstable on some shared file systems: nobody could be judged).

It must not write: what follows from a verdict is ``recovery.py``, read that next.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from relight.clock import Clock, rfc3339
from relight.model import EngineRecord, Verdict
from relight.proof.lockfile import LockInfo, Probe, probe
from relight.proof.procfs import Host, ProcessId, ProcessView, is_gone, look

Evidence = dict[str, str | int | bool | None]
"""Why a verdict was reached, for people and for the record: small and JSON-able. ``reason`` is a stable code."""


@dataclass(frozen=True)
class Subject:
    """The engine that is judged, as its row describes it."""

    engine_id: str
    nonce: str
    lease_ms: int
    lease_until: int
    beat_at: int
    host_id: str = ""
    boot_id: str = ""
    pid: int = 0

    @classmethod
    def of(cls, row: EngineRecord) -> Self:
        """Take what a judgement needs from an engine's row."""
        return cls(
            engine_id=row.engine_id,
            nonce=row.nonce,
            lease_ms=row.lease_ms,
            lease_until=row.lease_until,
            beat_at=row.beat_at,
            host_id=row.host_id,
            boot_id=row.boot_id,
            pid=row.pid,
        )


@dataclass(frozen=True)
class Observation:
    """What one look at an engine showed, and when: ``mono_ms`` by the judge's clock, ``store_now_ms`` by the store's.

    ``process`` None and ``process_gone`` False means: not visible from here.
    """

    probe: Probe
    process: ProcessView | None
    process_gone: bool
    mono_ms: int
    store_now_ms: int


@dataclass(frozen=True)
class Judgement:
    """A verdict and why. ``last_beat_ms`` is the latest beat known of, 0 for none (for ``last_heartbeat_ts``)."""

    verdict: Verdict
    evidence: Evidence
    last_beat_ms: int = 0

    @property
    def reason(self) -> str:
        """The stable code of the rule that matched."""
        return str(self.evidence["reason"])


def observe(subject: Subject, state_dir: Path, *, host: Host, clock: Clock, store_now_ms: int) -> Observation:
    """Look at an engine: its lock, then its process. Never raises, never waits. Cost: a few file reads."""
    mono_ms = clock.mono_ms()
    found = probe(state_dir, subject.engine_id, subject.nonce)
    if found.decides and found.info is not None:
        process = found.info.process
    else:
        # The row knows no start time: such a process can be proved gone, but never seen.
        here = bool(subject.host_id) and subject.host_id == host.host_id
        process = ProcessId(subject.pid, 0, host.pid_ns if here else 0, subject.boot_id)
    view = look(process)
    return Observation(
        probe=found,
        process=view,
        process_gone=view is None and is_gone(process),
        mono_ms=mono_ms,
        store_now_ms=store_now_ms,
    )


@dataclass(frozen=True)
class _Watch:
    """Since when a judge has seen the very same figures of an engine."""

    figures: tuple[int | None, ...]
    since_ms: int


class Judge:
    """Reaches verdicts on other engines, and remembers since when each of them has not moved.

    One per engine incarnation, used by one thread. Pure: no I/O, no clock of its own. ``host`` is the judge's host;
    ``time_is_proof`` is False where all engines of a store share one host (``Capabilities.same_host``: SQLite);
    ``period_ms`` is how often the judge looks (a third of its own lease).
    """

    def __init__(self, host: Host, *, time_is_proof: bool, period_ms: int) -> None:
        self._host = host
        self._time_is_proof = time_is_proof
        self._period_ms = period_ms
        self._watches: dict[str, _Watch] = {}
        self._ticked_ms: int | None = None
        self._gap_ms: int | None = None

    def tick(self, mono_ms: int) -> bool:
        """Say that the judge is awake; call it each watch period. Returns True when it noticed a gap of its own."""
        gap = self._ticked_ms is not None and mono_ms - self._ticked_ms > 2 * self._period_ms
        self._ticked_ms = mono_ms
        if gap:
            self.note_gap(mono_ms)
        return gap

    def note_gap(self, mono_ms: int) -> None:
        """Start every watch anew: the judge was away, or could not renew its own lease, until now."""
        self._watches.clear()
        self._gap_ms = mono_ms

    def forget(self, engine_id: str) -> None:
        """Drop the memory of an engine that is no longer judged."""
        self._watches.pop(engine_id, None)

    def judge(self, subject: Subject, seen: Observation, *, at_start: bool = False) -> Judgement:
        """Reach a verdict; the table is in this module's head. ``at_start`` allows the shortcut of a fresh judge."""
        if self._ticked_ms is not None:
            self.tick(seen.mono_ms)
        info = self._own_lock(seen.probe)
        if info is not None:
            if seen.probe.locked:
                return self._by_process(subject, seen, info)
            self.forget(subject.engine_id)
            return _judgement(Verdict.DEAD, "lock_free", subject, seen, pid_gone=seen.process_gone)
        if self._time_is_proof:
            return self._by_lease(subject, seen, at_start)
        return self._by_boot_and_pid(subject, seen)

    def _own_lock(self, found: Probe) -> LockInfo | None:
        """Return what the lock file says if its lock decides: the nonce fits, and the file is of this host."""
        if not found.decides or found.info is None:
            return None
        same_host = found.info.process.boot_id == self._host.boot_id or found.info.host == self._host.name
        return found.info if same_host or not self._time_is_proof else None

    def _by_process(self, subject: Subject, seen: Observation, info: LockInfo) -> Judgement:
        """Judge an engine whose lock is held: alive, unless its process has stood still for long enough."""
        process = seen.process
        cpu = process.cpu_ticks if process else None
        # Never the row's beat: a keeper process may write it for an engine that stands still.
        idle_ms = self._unchanged_ms(subject, seen, (cpu, info.beat_ms, info.loop_ms, info.journal_ms))
        patience_ms, reason = self._patience(subject, seen)
        state = process.state if process else ("gone" if seen.process_gone else "not visible")
        facts: Evidence = {"process": state, "unchanged_ms": idle_ms}
        if process and process.tracer_pid:
            facts["tracer_pid"] = process.tracer_pid
        if patience_ms is None or idle_ms < patience_ms:
            return _judgement(Verdict.ALIVE, "lock_held", subject, seen, **facts)
        return _judgement(Verdict.SILENT, reason, subject, seen, **facts)

    def _patience(self, subject: Subject, seen: Observation) -> tuple[int | None, str]:
        """Return how long the process may stand still before it counts as silent (None: for ever), and why then."""
        if seen.process is None:
            return (subject.lease_ms, "process_gone_lock_held") if seen.process_gone else (None, "")
        if seen.process.stopped:
            just_back = self._gap_ms is not None and seen.mono_ms - self._gap_ms < self._period_ms
            return (self._period_ms if just_back else 0), "process_stopped"
        if seen.process.tracing_stop:
            return min(self._period_ms, subject.lease_ms), "process_traced"
        return subject.lease_ms, "no_sign_of_life"

    def _by_lease(self, subject: Subject, seen: Observation, at_start: bool) -> Judgement:
        """Judge an engine of another host by the lease that it gave itself."""
        watched_ms = self._unchanged_ms(subject, seen, (subject.beat_at, subject.lease_until))
        over_ms = seen.store_now_ms - subject.lease_until
        lease_until = _when(subject.lease_until)
        facts: Evidence = {"lease_until": lease_until, "lease_over_ms": over_ms, "watched_ms": watched_ms}
        if over_ms > 0 and watched_ms >= subject.lease_ms:
            return _judgement(Verdict.LEASE_EXPIRED, "lease_over_and_watched", subject, seen, **facts)
        if at_start and self._gap_ms is None and over_ms > 2 * subject.lease_ms:
            return _judgement(Verdict.LEASE_EXPIRED, "lease_long_over_at_start", subject, seen, **facts)
        reason = "lease_running" if over_ms <= 0 else "lease_over_not_watched_yet"
        return _judgement(Verdict.ALIVE, reason, subject, seen, **facts)

    def _by_boot_and_pid(self, subject: Subject, seen: Observation) -> Judgement:
        """Judge an engine of this host whose lock cannot be tried, by what else proves a death."""
        ours = self._host
        if subject.boot_id and ours.boot_id and subject.boot_id != ours.boot_id:
            return _judgement(Verdict.DEAD, "other_boot", subject, seen, our_boot_id=ours.boot_id)
        same_pids = bool(ours.boot_id) and subject.boot_id == ours.boot_id and subject.host_id == ours.host_id
        if same_pids and seen.process_gone:
            return _judgement(Verdict.DEAD, "pid_gone", subject, seen, pid_gone=True)
        return _judgement(Verdict.ALIVE, "lock_not_provable", subject, seen, pid_gone=False)

    def _unchanged_ms(self, subject: Subject, seen: Observation, figures: tuple[int | None, ...]) -> int:
        """Return for how long this judge has seen exactly these figures; 0 at the first look and after each change."""
        watch = self._watches.get(subject.engine_id)
        if watch is None or watch.figures != figures:
            self._watches[subject.engine_id] = watch = _Watch(figures, seen.mono_ms)
        return seen.mono_ms - watch.since_ms


def _judgement(
    verdict: Verdict, reason: str, subject: Subject, seen: Observation, **facts: str | int | bool | None
) -> Judgement:
    info = seen.probe.info if seen.probe.decides else None
    last_beat_ms = max(info.beat_ms if info else 0, subject.beat_at)
    evidence: Evidence = {
        "reason": reason,
        "lock": _lock_state(seen.probe),
        "pid": info.process.pid if info else subject.pid,
        **facts,
        "last_beat": _when(last_beat_ms),
        "beat_age_ms": seen.store_now_ms - last_beat_ms if last_beat_ms else None,
        "boot_id": info.process.boot_id if info else subject.boot_id,
    }
    if info:
        evidence["host"] = info.host
    return Judgement(verdict, evidence, last_beat_ms)


def _lock_state(found: Probe) -> str:
    if found.decides:
        return "held" if found.locked else "free"
    return f"not provable: {found.problem}" if found.problem else "lock file missing"


def _when(ms: int) -> str | None:
    """Write a time for people; a figure that no calendar knows (a damaged row) as it is."""
    try:
        return rfc3339(ms) if ms else None
    except (OverflowError, ValueError):
        return str(ms)
