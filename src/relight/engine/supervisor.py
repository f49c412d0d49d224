"""The threads that look after one incarnation: timers, claims and deliveries; recovery, gate and policy; the beat.

Each is a loop around one step that can be called by hand (``tick``, ``run_once``, ``beat``): the simulator needs no thread.
A commit of another process is noticed by the store's change token, asked every few milliseconds; our own commits tell
what they did (``news``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from relight.core import events as ev
from relight.core.commands import JobRef
from relight.core.commands.engines import FailGate, OpenGate, Tell, WakeDueJobs
from relight.core.commands.jobs import ClaimJob, PutJobAway, fresh_run
from relight.core.commands.queues import RewindRates
from relight.core.commands.steering import QuestionTimedOut, decide_end, ref_of, system
from relight.engine.claimer import Candidate, Room, find_candidates
from relight.engine.incarnation import Incarnation
from relight.engine.liveness import Judge
from relight.engine.policy import act_on_stalled, end_orphans
from relight.engine.recovery import Recovery, describe
from relight.engine.rest import rest_of
from relight.engine.run import End
from relight.errors import Conflict, Fenced, Overloaded, RelightError, StorageUnavailable
from relight.ids import JobId, RunId
from relight.model import JobState
from relight.store.reads import ALL, Unreadable
from relight.store.tickets import Ticket

POLL_MS = 3
"""How often the store is asked whether another process committed: the floor of pickup."""
OWN_ECHO_MS = 20
"""Beside our own commits, foreign ones are looked for at most this often."""
RETRY_MS = (100, 250, 500, 1000, 2000, 5000)

CLAIMS, WAITS, TIMERS = "claims", "waits", "timers"
NEWS = {
    CLAIMS: frozenset(
        {
            "new_jobs",
            "put_away",
            "wake_jobs",
            "move_jobs",
            "cancel_jobs",
            "route_jobs",
            "end_jobs",
            "wake_due",
            "put_queues",
            "set_queues",
            "release_rows",
        }
    ),
    WAITS: frozenset(
        {"new_signals", "close_decisions", "close_tokens", "end_jobs", "move_jobs", "cancel_jobs", "end_runs"}
    ),
    TIMERS: frozenset({"new_jobs", "put_away", "release_rows"}),
}
"""What is to be looked at after a batch of our own, by the operations in it."""
OWED = frozenset({"release_holds", "release_rows", "judge_engines"})
"""Operations after which recovery or policy has something to do: the watch looks at once. Those of another process wait
for its next turn, a third of a lease at most."""


class Supervisor:
    """Timers, claims and deliveries of one incarnation."""

    def __init__(self, engine: Incarnation) -> None:
        self._engine = engine
        self._token: Callable[[], int] | None = None
        self._last_token = -1
        self._wake = threading.Condition()
        self._stopping = False
        self._due = {CLAIMS, WAITS, TIMERS}
        self._nudged = False
        self._own = False
        self._look_again_at = 0
        self._next_timer_ms: int | None = None
        self._claim_again = False
        self._rate_timer: int | None = None
        self._thread: threading.Thread | None = None
        self.owed_hook: Callable[[], None] = lambda: None
        engine.on_news = self.news
        engine.nudge_hook = self.nudge

    def start(self) -> None:
        """Run in a thread."""
        self._thread = threading.Thread(
            target=self._run, name=f"relight-supervisor-{self._engine.engine_id[-6:]}", daemon=True
        )
        self._thread.start()

    def stop(self, *, patience_seconds: float = 5) -> None:
        """End the thread, and wait for it for a while: it may be waiting for a store that refuses."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(patience_seconds)
        for listener in self._engine.attention.listeners:
            listener.left(self._engine)

    def nudge(self) -> None:
        """Look now: a slot became free, a line parked, a timer was set, the gate opened."""
        with self._wake:
            self._nudged = True
            self._due |= {CLAIMS, WAITS}
            self._wake.notify()

    def news(self, ops: frozenset[str]) -> None:
        """Hear what a batch of our own did."""
        if not ops.isdisjoint(OWED):
            self.owed_hook()
        with self._wake:
            self._own = True
            due = {what for what, concerns in NEWS.items() if not ops.isdisjoint(concerns)}
            if not due <= self._due:
                self._due |= due
                self._nudged = True
                self._wake.notify()

    def _run(self) -> None:
        engine = self._engine
        while not self._stopping:
            try:
                self.tick()
                engine.trouble.pop("supervisor", None)
            except Exception as error:
                # boundary: a service tick; health says what is wrong, and the next one tries again
                if not isinstance(error, Fenced):
                    engine.trouble["supervisor"] = describe(error)
                self._sleep(RETRY_MS[1])
                continue
            if engine.attention.listeners and self._tell_listeners():
                continue
            next_at = engine.board.next_at()
            left = POLL_MS if next_at is None else min(POLL_MS, next_at - engine.clock.mono_ms())
            self._sleep(left)

    def _sleep(self, ms: int) -> None:
        with self._wake:
            if not self._nudged and not self._stopping and ms > 0:
                self._engine.clock.wait(self._wake, ms)
            self._nudged = False

    def _tell_listeners(self) -> bool:
        """Tell those who listen whether the engine is at rest; return whether one of them wants another look at once."""
        with self._wake:
            busy = bool(self._due) or self._nudged or self._claim_again
        rest = None if busy else rest_of(self._engine, self._next_timer_ms, self._look_again_at, self._rate_timer)
        again = [listener.ticked(self._engine, rest) for listener in list(self._engine.attention.listeners)]
        return any(again)

    def tick(self) -> None:
        """Do what is due now, once."""
        engine = self._engine
        engine.board.run_due()
        self._notice_changes()
        self._attend_to(WAITS, self._deliver)
        if engine.gate.is_open and not engine.draining and engine.degraded is None:
            try:
                self._attend_to(TIMERS, self._read_timers)
                self._run_timers()
            finally:
                self._attend_to(CLAIMS, self._claim_jobs)

    def _attend_to(self, what: str, attend: Callable[[], None]) -> None:
        """Do something if it is due. It stays due when it fails."""
        with self._wake:
            due = what in self._due
            self._due.discard(what)
        if due:
            try:
                attend()
            except BaseException:  # boundary: cleaned up after, and raised again
                self._now_due(what)
                raise

    def _now_due(self, *what: str) -> None:
        with self._wake:
            self._due.update(what)

    def _notice_changes(self) -> None:
        engine = self._engine
        if self._token is None:
            self._token = engine.store.watch()
        token = self._token()
        now = engine.clock.mono_ms()
        if token == self._last_token and not (self._look_again_at and now >= self._look_again_at):
            return
        own, self._own = self._own, False
        changed = token != self._last_token
        self._last_token = token
        if changed and own and not self._look_again_at:
            self._look_again_at = now + OWN_ECHO_MS  # ours, and perhaps somebody else's too: look once, a little later
            return
        if changed or now >= self._look_again_at:
            self._look_again_at = 0
            self._now_due(CLAIMS, WAITS, TIMERS)

    # deliveries

    def _deliver(self) -> None:
        engine = self._engine
        waits = engine.board.open_waits()
        runs = {run.ref.job_id: run for run in engine.all_runs()}
        if not runs:
            return
        with engine.store.reading() as reads:
            come = reads.arrived(waits) if waits else set()
            aside: list[Unreadable] = []
            told = reads.attention(list(runs), aside=aside)
        engine.board.arrived({(str(job_id), waits_for) for job_id, waits_for in come})
        for each in told:
            run = runs[each.job_id]
            if each.run_id != run.ref.run_id or each.state is not JobState.RUNNING:
                run.lose(f"the job is {each.state} by the store")
            elif each.cancel_code is not None:
                run.request_end(End(each.cancel_code, each.cancel_reason, each.cancel_by))
        for bad in aside:
            runs[JobId(bad.id)].lose(f"its row cannot be read: {bad.detail}")
        engine.set_aside("jobs", aside)

    # timers of jobs that are not in memory

    def _run_timers(self) -> None:
        engine = self._engine
        now_ms = engine.clock.now_ms()
        if self._next_timer_ms is None or self._next_timer_ms > now_ms:
            return
        self._next_timer_ms = now_ms + 1000
        aside: list[Unreadable] = []
        with engine.store.reading() as reads:
            questions = reads.due_questions(now_ms, aside=aside)
            late = reads.past_deadline(now_ms, aside=aside)
        engine.set_aside("jobs", aside)
        engine.journal.put(WakeDueJobs(), waker=lambda tickets: self._now_due(TIMERS))
        who = system(engine.engine_id)
        for job in questions:
            for row in engine.open_decisions(job.job_id):
                if row.expires_at is not None and row.expires_at <= now_ms:
                    engine.journal.put(QuestionTimedOut(job=ref_of(job), decision_id=row.decision_id, who=who))
        for job in late:
            ends = decide_end(job, who, code="deadline", reason=None, force=False, open_decisions=())
            engine.journal.put(ends, waker=lambda tickets: self._now_due(TIMERS))

    def _read_timers(self) -> None:
        with self._engine.store.reading() as reads:
            due, deadline = reads.next_due()
        known = [at for at in (due, deadline) if at is not None]
        self._next_timer_ms = min(known) if known else None

    # claims

    def _claim_jobs(self) -> None:
        engine = self._engine
        with engine.runs_lock:
            if engine.claiming:
                return
        self._claim_again = False
        with engine.runs_lock:
            running = list(engine.runs.values())
        room = Room(
            slots=engine.settings.slots - len(running),
            threads=engine.settings.threads - engine.threads.busy,
            probation=not any(run.job.probation for run in running),
        )
        claims = find_candidates(
            engine.store,
            engine.engine_id,
            served=engine.served,
            consume=engine.settings.consume,
            room=room,
            now_ms=engine.clock.now_ms(),
            set_aside=engine.set_aside,
        )
        with engine.runs_lock:
            engine.claiming = len(claims.candidates)
        for candidate in claims.candidates:
            self._claim_one(candidate)
        if claims.rewind:
            engine.journal.put(RewindRates(queues=claims.rewind))
        if claims.again_at is not None:
            self._claim_again_at(claims.again_at)

    def _claim_again_at(self, at: int) -> None:
        """Look again when a rate leaves room. Nothing else would tell: time is no commit. One timer is enough."""
        clock = self._engine.clock
        now = clock.mono_ms()
        due = now + max(at - clock.now_ms(), 1)
        if self._rate_timer is None or not now < self._rate_timer <= due:
            self._rate_timer = due
            self._engine.board.after(due - now, self.nudge)

    def _claim_one(self, candidate: Candidate) -> None:
        engine = self._engine
        job = candidate.job
        run_id = engine.ids.uuid7(engine.clock.now_ms())
        command = ClaimJob(
            job=fresh_run(job.job_id, job.trace_id, job.kind, run_id),
            engine_id=engine.engine_id,
            attempt=job.attempt,
            version=candidate.version,
            replay_steps=len(candidate.steps),
            limits=candidate.limits,
            rate=candidate.rate,
            turn=candidate.turn,
            terms=candidate.terms,
        )
        try:
            engine.journal.put(command, waker=self._claimed, tag=(candidate, run_id))
        except (Fenced, StorageUnavailable, Overloaded):
            self._not_claimed()  # the job is still queued: look again a little later
        except RelightError as error:
            engine.set_aside("jobs", [Unreadable(job.job_id, str(error))])
            self._not_claimed()

    def _not_claimed(self) -> None:
        self._claim_again = True
        with self._engine.runs_lock:
            self._engine.claiming -= 1
        self._engine.board.after(RETRY_MS[0], self.nudge)

    def _claimed(self, tickets: list[Ticket]) -> None:
        try:
            self._engine.start_runs([ticket.tag for ticket in tickets if ticket.error is None])
        except Exception as error:
            # boundary: this is the journal's thread; what did not start is put away by the watch
            self._engine.trouble["claims"] = describe(error)
        else:
            self._engine.trouble.pop("claims", None)
        finally:
            self._no_longer_claiming(len(tickets))

    def _no_longer_claiming(self, count: int) -> None:
        engine = self._engine
        with engine.runs_lock:
            engine.claiming -= count
            last = engine.claiming == 0
        if last:
            self.nudge()


class Watch:
    """Recovery and gate at the start, recovery on behalf of engines that die later, and what follows from both."""

    def __init__(self, engine: Incarnation) -> None:
        self._engine = engine
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
        self._wake = threading.Condition()
        self._stopping = False
        self._nudged = False
        self._failures = 0
        self._outages = 0
        self._lost_before: set[RunId] = set()
        self._thread: threading.Thread | None = None
        engine.gate.progress = self.progress

    def start(self) -> None:
        """Run in a thread."""
        self._thread = threading.Thread(
            target=self._run, name=f"relight-watch-{self._engine.engine_id[-6:]}", daemon=True
        )
        self._thread.start()

    def stop(self, *, patience_seconds: float = 5) -> None:
        """End the thread, and wait for it for a while: it may be waiting for a store that refuses."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(patience_seconds)

    def nudge(self) -> None:
        """Look now; and once more, if it is looking just now."""
        with self._wake:
            self._nudged = True
            self._wake.notify()

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
            with self._wake:
                if not self._stopping and not self._nudged:
                    self._engine.clock.wait(self._wake, wait_ms)
                self._nudged = False

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


class Beat:
    """The heartbeat, in a thread of its own: a busy engine is alive."""

    def __init__(self, engine: Incarnation) -> None:
        self._engine = engine
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"relight-beat-{engine.engine_id[-6:]}", daemon=True)

    def start(self) -> None:
        """Run in a thread."""
        self._thread.start()

    def stop(self, *, patience_seconds: float = 5) -> None:
        """End the thread, and wait for it for a while: it may be waiting for a store that refuses."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(patience_seconds)

    def _run(self) -> None:
        period_ms = max(self._engine.settings.lease_ms // 6, 20)
        while True:
            before = self._engine.clock.mono_ms()
            with self._wake:
                if not self._stopping:
                    self._engine.clock.wait(self._wake, period_ms)
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
