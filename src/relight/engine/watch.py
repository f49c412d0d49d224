"""The watch and the beat of one incarnation: recovery, gate and policy; and the sign that a busy engine is alive.

Recovery at the start opens the gate; afterwards the same look, each third of a lease, recovers engines that died meanwhile.
``run_once`` can be called by hand: the simulator needs no thread. Read next: ``recovery.py``, ``policy.py``.
"""

from __future__ import annotations

from relight.core import events as ev
from relight.core.commands import JobRef
from relight.core.commands.engines import FailGate, OpenGate, Tell
from relight.core.commands.jobs import PutJobAway
from relight.core.commands.steering import system
from relight.engine.incarnation import Incarnation
from relight.engine.liveness import Judge
from relight.engine.policy import act_on_stalled, end_orphans
from relight.engine.recovery import Recovery, describe
from relight.engine.service import RETRY_MS, Service
from relight.errors import Conflict, Fenced, RelightError
from relight.ids import RunId
from relight.model import JobState
from relight.store.reads import ALL


class Watch(Service):
    """Recovery and gate at the start, recovery on behalf of engines that die later, and what follows from both."""

    name = "watch"

    def __init__(self, engine: Incarnation) -> None:
        super().__init__(engine)
        self._period_ms = max(engine.settings.lease_ms // 3, 50)
        self._judge = Judge(
            engine.host, time_is_proof=engine.store.capabilities.time_is_proof, period_ms=self._period_ms
        )
        self._recovery = Recovery(
            engine.store,
            engine.journal,
            self._judge,
            engine.engine_id,
            state_dir=engine.state_dir,
            host=engine.host,
            clock=engine.clock,
            ids=engine.ids,
            reached=engine.reached,
        )
        self._failures = 0
        self._outages = 0
        self._lost_before: set[RunId] = set()
        engine.gate.progress = self.progress

    def progress(self) -> tuple[int, int]:
        """Return how many runs the recovery under way has accounted for, and how many it found at its start."""
        tally = self._recovery.progress
        return (0, 0) if tally is None else (tally.stalled + tally.quarantined, tally.expected)

    def _run(self) -> None:
        while not self._stopping:
            wait_ms = self._period_ms
            self._engine.attention.watch_passes += 1
            try:
                self.run_once()
                self._failures = 0
                self._engine.trouble.pop("watch", None)
            except Fenced:
                return
            except Exception as error:
                # boundary: a service tick; recovery tries again by itself, and says why it failed
                wait_ms = RETRY_MS[min(self._failures, len(RETRY_MS) - 1)]
                self._failures += 1
                self._tell_failure(error, wait_ms)
            self._engine.attention.watch_passes += 1
            self._sleep(wait_ms)

    def run_once(self) -> None:
        """Recover what is owed; open the gate if it is shut; then let policy act on what is stalled."""
        engine = self._engine
        engine.reached("watch")
        if self._outages != engine.outages:
            self._outages = engine.outages
            self._judge.note_gap(engine.clock.mono_ms())
        if not engine.gate.is_open:
            self._open_gate()
        else:
            self._recovery.run_once(at_start=False)
        if engine.draining:
            return
        self._put_away_lost()
        act_on_stalled(engine.store, engine.journal, engine.engine_id, set_aside=engine.set_aside)
        end_orphans(engine.store, engine.journal, engine.engine_id, set_aside=engine.set_aside)

    def _put_away_lost(self) -> None:
        """Put away jobs that run here by the store, but not in memory: nobody else may take them while this engine lives.

        It must not happen, and would otherwise never end. Seen twice, so that what begins or ends just now is not meant.
        """
        engine = self._engine
        with engine.store.reading() as reads:
            mine = reads.running_of(engine.engine_id, limit=ALL)
        known = {run.ref.run_id for run in engine.all_runs()}
        lost = {run.run_id: run for run in mine if run.run_id not in known} if not engine.claiming else {}
        for run_id in lost.keys() & self._lost_before:
            run = lost[run_id]
            away = PutJobAway(
                job=JobRef(run.job_id, run.trace_id or run.job_id, "", run_id),
                engine_id=engine.engine_id,
                state=JobState.QUEUED,
                reason="lost",
                ready_at=engine.clock.now_ms(),
            )
            engine.journal.put(away)
        self._lost_before = set(lost)

    def _open_gate(self) -> None:
        engine = self._engine
        tally = self._recovery.run_once(at_start=True)
        pause_ms = 20
        while not self._stopping:
            # Verdicts are tried once more: an engine may have died while its neighbours were being recovered.
            self._recovery.run_once(at_start=False)
            engine.reached("before_gate")
            closed_ms = engine.clock.mono_ms() - engine.gate.closed_at
            recovery_id = "" if tally is None else tally.recovery_id
            command = OpenGate(engine_id=engine.engine_id, recovery_id=recovery_id, closed_ms=closed_ms)
            try:
                engine.journal.execute(command)
            except Fenced:
                raise
            except Conflict:
                with self._wake:
                    engine.clock.wait(self._wake, pause_ms)
                pause_ms = min(2 * pause_ms, RETRY_MS[-1])
                tally = self._recovery.run_once(at_start=True)
                continue
            engine.gate.open()
            engine.nudge()
            return

    def _tell_failure(self, error: Exception, retry_in_ms: int) -> None:
        engine = self._engine
        detail = describe(error)
        code = getattr(error, "code", type(error).__name__)
        shut = not engine.gate.is_open
        engine.trouble["watch"] = detail
        engine.gate.fail(detail)
        tally = self._recovery.progress
        failed = ev.RecoveryFailed(
            recovery_id="" if tally is None else tally.recovery_id,
            code=code,
            detail=detail[:300],
            retry_in_ms=retry_in_ms,
        )
        try:
            engine.journal.put(Tell(payload=failed, who=system(engine.engine_id)))
            if shut:
                engine.journal.put(FailGate(engine_id=engine.engine_id, gate_code=code, detail=detail[:300]))
        except RelightError:
            return  # the store refuses too; the gate's reason in memory says so


class Beat(Service):
    """The heartbeat, in a thread of its own: a busy engine is alive."""

    name = "beat"

    def _run(self) -> None:
        period_ms = max(self._engine.settings.lease_ms // 6, 20)
        while True:
            before = self._engine.clock.mono_ms()
            self._sleep(period_ms)
            if self._stopping:
                return
            lag_ms = self._engine.clock.mono_ms() - before - period_ms
            if lag_ms > self._engine.settings.lease_ms // 3:
                self._tell_lag(lag_ms)
            self._engine.beat()

    def _tell_lag(self, lag_ms: int) -> None:
        try:
            self._engine.journal.put(Tell(payload=ev.EngineLagging(lag_ms=lag_ms), who=system(self._engine.engine_id)))
        except RelightError:
            return  # nothing more may be told
