"""Recovery: find dead engines, stall what they left running, say so, and only then let anything new begin.

**Promise (P2, P3).** Every run left running by a dead engine is moved to stalled, with its event, before this engine
accepts or starts any job. A run is taken from its engine only on proof (``liveness.py`` judges; nothing here does).

::

    judge every other engine ─▶ fence the dead (compare-and-set on the judged beat)
           ▲                         │
           │                         ▼
           │              stall their runs in chunks: run, job, steps in flight and event in one transaction
           │                         │
           │                         ▼
           └── refused ─── open the gate, if a fresh query finds nothing running under the dead ─▶ receipt

**Failure cases.** Cut anywhere, the next recovery goes on: a fenced engine stays fenced, what is stalled is not running
any more, and no event is written twice, because run, job and event move in one transaction with the expected state in it.
Two engines may do this at once; whoever is second is refused and finds nothing left. A row that cannot be stalled is found
by the journal's halving and set aside (``quarantine``) with evidence; it keeps its state, and everything else goes on.
Nothing here decodes a payload, and nothing but the store is needed.

**Silent** owners (a stopped process) are fenced too, but may still act: their jobs are *held* until the owner is dead or
has said that its last try returned (``policy.py`` takes the hold off). Rejected: stalling by the age of a beat (it takes
work from the living and strands that of the dead); one transaction for everything (a writer would wait for seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from relight.clock import Clock, rfc3339
from relight.core import events as ev
from relight.core.commands import JobRef
from relight.core.commands.engines import FinishRecovery, JudgeEngineNow, QuarantineRow, StallRunNow, Tell
from relight.core.commands.steering import system
from relight.engine.liveness import Judge, Judgement, Subject, observe
from relight.errors import Conflict, Fenced, Overloaded, RelightError, StorageCorrupt, StorageUnavailable
from relight.ids import EngineId, Ids, JobId
from relight.model import EngineRecord, EngineState, Verdict
from relight.proof.lockfile import lock_path, remove
from relight.proof.procfs import Host
from relight.store.journal import Journal
from relight.store.reads import RunningRun, Unreadable
from relight.store.store import Store
from relight.store.time import look_at

CHUNK_MS = 50
"""A chunk is meant to take no longer than this, so that other writers of the store wait no longer."""
FIRST_CHUNK = 250
MAX_CHUNK = 1000

_NOT_THE_ROW = (Fenced, StorageUnavailable, StorageCorrupt, Overloaded)
"""Refusals that say nothing about the row that was to be written."""

_FENCED_BY = {
    Verdict.DEAD: EngineState.DEAD,
    Verdict.LEASE_EXPIRED: EngineState.DEAD,
    Verdict.SILENT: EngineState.SILENT,
}


@dataclass
class Tally:
    """What one recovery has found and done so far."""

    recovery_id: str
    started_at: int
    engines: list[ev.JudgedEngine] = field(default_factory=list)
    scanned: int = 0
    stalled: int = 0
    in_doubt: int = 0
    quarantined: int = 0
    expected: int = 0


@dataclass(frozen=True)
class Fallen:
    """An engine held dead or silent, and why."""

    row: EngineRecord
    state: EngineState
    judgement: Judgement


class Recovery:
    """See the module. ``reached`` is called at each boundary, for tests; ``progress`` is the recovery under way."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        judge: Judge,
        engine_id: EngineId,
        *,
        state_dir: Path,
        host: Host,
        clock: Clock,
        ids: Ids,
        reached: Callable[[str], None],
    ) -> None:
        self._store = store
        self._journal = journal
        self._judge = judge
        self._me = engine_id
        self._state_dir = state_dir
        self._host = host
        self._clock = clock
        self._ids = ids
        self._reached = reached
        self.progress: Tally | None = None

    def run_once(self, *, at_start: bool) -> Tally | None:
        """Recover everything that is owed now. At a start there is always a receipt; later only when something was found."""
        fallen, unreadable = self._judge_others(at_start=at_start)
        if not fallen and not unreadable and not at_start:
            return None
        tally = Tally(self._ids.uuid7(self._clock.now_ms()), self._clock.now_ms())
        self.progress = tally
        with self._store.reading() as reads:
            tally.expected = reads.count_running_of([each.row.engine_id for each in fallen])
        started = ev.RecoveryStarted(recovery_id=tally.recovery_id)
        self._journal.execute(Tell(payload=started, who=system(self._me)))
        for each in fallen:
            self._reached("recovery_engine")
            if self._fence(each):
                self._stall_runs(each, tally)
                self._note(each, tally)
        for engine in unreadable:
            self._set_aside_jobs_of(engine, tally)
        if at_start:
            self._set_aside_adrift(tally)
        self._reached("recovery_receipt")
        receipt = FinishRecovery(
            recovery_id=tally.recovery_id,
            engine_id=self._me,
            engines=tally.engines,
            scanned=tally.scanned,
            stalled=tally.stalled,
            in_doubt=tally.in_doubt,
            quarantined=tally.quarantined,
            started_at=tally.started_at,
        )
        self._journal.execute(receipt)
        return tally

    # judging

    def _judge_others(self, *, at_start: bool) -> tuple[list[Fallen], list[Unreadable]]:
        """Return the engines to recover, and those that left runs and cannot be judged, because their row is unreadable."""
        look_at(self._clock)
        self._judge.tick(self._clock.mono_ms())
        aside: list[Unreadable] = []
        with self._store.reading() as reads:
            rows = [row for row in reads.engines_to_judge(aside=aside) if row.engine_id != self._me]
            owing = {row.engine_id for row in rows if reads.count_running_of([row.engine_id])}
            unreadable = [bad for bad in aside if reads.count_running_of([bad.id])]
        found = []
        for row in rows:
            subject = Subject.of(row)
            seen = observe(
                subject, self._state_dir, host=self._host, clock=self._clock, store_now_ms=self._clock.now_ms()
            )
            judgement = self._judge.judge(subject, seen, at_start=at_start)
            state = self._fallen_state(row, judgement)
            if state is not None and (state is not row.state or row.engine_id in owing):
                found.append(Fallen(row, state, _standing(row, state, judgement)))
        return found, unreadable

    @staticmethod
    def _fallen_state(row: EngineRecord, judgement: Judgement) -> EngineState | None:
        """Return what an engine's state is to be, or None when it is to be left alone."""
        wanted = _FENCED_BY.get(judgement.verdict)
        if row.state is EngineState.DEAD or wanted is EngineState.DEAD:
            return EngineState.DEAD
        if row.state is EngineState.SILENT:
            return EngineState.SILENT
        if row.state is EngineState.STOPPED:
            return None  # it left of its own accord; a try that outlived the drain still holds its lock
        return wanted

    def _fence(self, each: Fallen) -> bool:
        """Make a verdict take effect; tell whether the engine is fenced now. One judged in vain is judged again later."""
        row = each.row
        if row.state is each.state:
            return True
        command = JudgeEngineNow(
            judge=self._me,
            engine_id=row.engine_id,
            source=row.state,
            target=each.state,
            beat_at=row.beat_at,
            last_heartbeat_ts=rfc3339(each.judgement.last_beat_ms or row.beat_at),
            verdict=each.judgement.verdict,
            evidence=each.judgement.evidence,
        )
        try:
            self._journal.execute(command)
        except Conflict:
            with self._store.reading() as reads:
                now = reads.engine(row.engine_id)
            return now is not None and now.state is each.state
        return True

    def _note(self, each: Fallen, tally: Tally) -> None:
        judged = ev.JudgedEngine(
            engine_id=each.row.engine_id, verdict=each.judgement.verdict, evidence=dict(each.judgement.evidence)
        )
        tally.engines.append(judged)
        self._judge.forget(each.row.engine_id)
        if each.judgement.reason == "lock_free":
            remove(lock_path(self._state_dir, each.row.engine_id))

    # stalling

    def _stall_runs(self, each: Fallen, tally: Tally) -> None:
        after, size = "", FIRST_CHUNK
        while True:
            with self._store.reading() as reads:
                chunk = reads.running_of(each.row.engine_id, after, size)
            if not chunk:
                return
            after = chunk[-1].run_id
            self._reached("recovery_chunk")
            before = self._clock.mono_ms()
            self._stall_chunk(each, chunk, tally)
            took = max(self._clock.mono_ms() - before, 1)
            size = max(min(size * CHUNK_MS // took, MAX_CHUNK), 50)

    def _stall_chunk(self, each: Fallen, chunk: Sequence[RunningRun], tally: Tally) -> None:
        tally.scanned += len(chunk)
        whole = [run for run in chunk if run.trace_id is not None]
        heard = rfc3339(each.judgement.last_beat_ms or each.row.beat_at)
        outcomes = self._journal.execute_all([self._stall(each, run, tally.recovery_id, heard) for run in whole])
        bad: list[tuple[RunningRun, str]] = [
            (run, "the job of this run has no row") for run in chunk if run.trace_id is None
        ]
        for run, error in zip(whole, outcomes, strict=True):
            if error is None:
                tally.stalled += 1
                tally.in_doubt += len(run.in_doubt)
            elif isinstance(error, _NOT_THE_ROW):
                raise error  # nothing is wrong with this run
            else:
                bad.append((run, str(error)))
        if bad:
            self._set_aside(each.row.engine_id, bad, tally)

    def _stall(self, each: Fallen, run: RunningRun, recovery_id: str, heard: str) -> StallRunNow:
        row, judgement = each.row, each.judgement
        return StallRunNow(
            job=JobRef(run.job_id, run.trace_id or "", "", run.run_id),
            owner=row.engine_id,
            verdict=judgement.verdict,
            evidence=judgement.evidence,
            recovery_id=recovery_id,
            judge=self._me,
            last_heartbeat_ts=heard,
            threshold_secs=row.lease_ms / 1000,
            in_doubt=tuple(run.in_doubt),
            held=each.state is EngineState.SILENT,
            crashed=not judgement.evidence.get("had_stopped", False),
        )

    def _set_aside(self, owner: EngineId, bad: Sequence[tuple[RunningRun, str]], tally: Tally) -> None:
        """Quarantine what could not be stalled, unless another engine stalled it in the meantime."""
        with self._store.reading() as reads:
            still = {run.run_id for run in reads.running_of(owner, "", MAX_CHUNK * 10)}
        self._quarantine(
            [
                self._aside(
                    run.job_id,
                    run.trace_id or None,
                    "runs" if run.trace_id is None else "jobs",
                    "cannot_be_stalled",
                    f"run {run.run_id}: {detail}",
                    tally,
                )
                for run, detail in bad
                if run.run_id in still
            ],
            tally,
        )

    def _aside(
        self, job_id: str, trace_id: str | None, table_name: str, code: str, detail: str, tally: Tally
    ) -> QuarantineRow:
        return QuarantineRow(
            job_id=JobId(job_id),
            trace_id=trace_id,
            table_name=table_name,
            code=code,
            detail=detail,
            recovery_id=tally.recovery_id,
            judge=self._me,
        )

    def _quarantine(self, commands: Sequence[QuarantineRow], tally: Tally) -> None:
        outcomes = self._journal.execute_all(commands)
        tally.quarantined += sum(error is None for error in outcomes)
        for error in outcomes:
            if error is not None and (not isinstance(error, Conflict) or not error.fields.get("op")):
                raise error

    def _set_aside_jobs_of(self, engine: Unreadable, tally: Tally) -> None:
        """Nobody can tell whether an engine lives whose row cannot be read: its jobs are an operator's."""
        after = ""
        while True:
            with self._store.reading() as reads:
                runs = reads.running_of(engine.id, after, MAX_CHUNK)
            if not runs:
                return
            after = runs[-1].run_id
            tally.scanned += len(runs)
            detail = f"engine {engine.id} cannot be judged: {engine.detail}"
            self._quarantine(
                [self._aside(run.job_id, run.trace_id or None, "engines", "unreadable", detail, tally) for run in runs],
                tally,
            )

    def _set_aside_adrift(self, tally: Tally) -> None:
        """Jobs that say they run, and no engine runs them: nobody would ever stall, finish or put them away."""
        detail = "the job is running, but no engine has a running run of it"
        after = ""
        while True:
            with self._store.reading() as reads:
                adrift = reads.adrift(after)
            if not adrift:
                return
            after = adrift[-1][0]
            self._quarantine(
                [self._aside(job_id, trace_id, "jobs", "no_run", detail, tally) for job_id, trace_id in adrift], tally
            )


def _standing(row: EngineRecord, state: EngineState, judgement: Judgement) -> Judgement:
    """Return the judgement by which an engine is held what it is: of its row where that stands (it may be an operator's).

    ``had_stopped`` in the evidence: it had left in good order, and a try had outlived its drain.
    """
    if row.state is EngineState.STOPPED:
        return replace(judgement, evidence={**judgement.evidence, "had_stopped": True})
    if row.state is not state or row.verdict is None or row.evidence is None:
        return judgement
    try:
        evidence = msgspec.json.decode(row.evidence, type=dict[str, str | int | bool | None])
    except msgspec.MsgspecError:
        return judgement
    return Judgement(row.verdict, {"reason": "unknown", **evidence}, judgement.last_beat_ms)


def describe(error: BaseException) -> str:
    """Return a failure's code and text, for the gate's reason."""
    code = error.code if isinstance(error, RelightError) else type(error).__name__
    return f"{code}: {error}"
