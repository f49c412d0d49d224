"""The supervisor of one incarnation: timers, claims, and deliveries to whoever waits. Read next: ``watch.py``.

A loop around one step that can be called by hand (``tick``): the simulator needs no thread. A commit of another process is
noticed by the store's change token, asked every few milliseconds; our own commits tell what they did (``news``).
"""

from __future__ import annotations

from collections.abc import Callable

from relight.core.commands.engines import WakeDueJobs
from relight.core.commands.jobs import ClaimJob, fresh_run
from relight.core.commands.queues import RewindRates
from relight.core.commands.steering import QuestionTimedOut, decide_end, ref_of, system
from relight.engine.claimer import Candidate, Room, find_candidates
from relight.engine.incarnation import Incarnation
from relight.engine.recovery import describe
from relight.engine.rest import rest_of
from relight.engine.run import End
from relight.engine.service import RETRY_MS, Service
from relight.errors import Fenced, Overloaded, RelightError, StorageUnavailable
from relight.ids import JobId
from relight.model import JobState
from relight.store.reads import Unreadable
from relight.store.tickets import Ticket

POLL_MS = 3
"""How often the store is asked whether another process committed: the floor of pickup."""
OWN_ECHO_MS = 20
"""Beside our own commits, foreign ones are looked for at most this often."""

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


class Supervisor(Service):
    """Timers, claims and deliveries of one incarnation."""

    name = "supervisor"

    def __init__(self, engine: Incarnation) -> None:
        super().__init__(engine)
        self._token: Callable[[], int] | None = None
        self._last_token = -1
        self._due = {CLAIMS, WAITS, TIMERS}
        self._own = False
        self._look_again_at = 0
        self._next_timer_ms: int | None = None
        self._claim_again = False
        self._rate_timer: int | None = None
        self.owed_hook: Callable[[], None] = lambda: None
        engine.on_news = self.news
        engine.nudge_hook = self.nudge

    def stop(self, *, patience_seconds: float = 5) -> None:
        """As a service does, and let go of whoever attends to the engine."""
        super().stop(patience_seconds=patience_seconds)
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
