"""What hypothesis may do to a store and its reference: rules over writers, jobs, runs, steps, waits, people and crashes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from tests.model.acts import Acts
from tests.model.driver import NAMES, QUEUES, Driver
from tests.model.token_acts import TokenActs

from relight.conformance.world import ANN, Engine
from relight.core import events as ev
from relight.core.commands import engines as ce
from relight.core.commands import steering as cs
from relight.model import (
    JobState,
    Verdict,
)

_S = JobState


STEP_ACTS = [
    *("begin", "begin", "begin", "finish", "finish", "failed", "backoff", "doubt", "abandon"),
    *("done", "not_done", "fail", "value", "progress"),
]
WAIT_ACTS = [
    "signal",
    "signal",
    "consume",
    "ask",
    "ask",
    "sleep",
    "start child",
    "start child",
    "child",
    "child",
    "end",
    "race",
    "race",
    "race",
    "token",
    "token",
    "wait token",
    "wait token",
]
RUN_ENDS = [
    *("put away", "put away", "put away", "await person", "await person", "mismatch"),
    *("completed", "completed_with_issues", "failed", "cancelled"),
]
OUTSIDE_ACTS = [
    *("signal", "signals", "signals", "answer", "answer", "time out", "expire", "withdraw", "settle", "retry", "retry"),
    *("cancel", "cancel", "fail", "deadline"),
    *("complete", "fail token", "beat token"),
]
STALLED_ACTS = ["resume", "resume", "resume", "probation", "operator", "hold", "poison", "let go"]
WORK_ACTS = ["submit", "start", "start", "claim", "claim", "claim", "fork"]
RUN_ACTS = [*STEP_ACTS, *WAIT_ACTS, *RUN_ENDS]
JOB_ACTS = [*OUTSIDE_ACTS, *STALLED_ACTS]
HOUSE_ACTS = [
    *(
        "write",
        "wake",
        "wake",
        "beat",
        "queue",
        "steer",
        "gate",
        "gate",
        "judge",
        "stall",
        "stall",
        "crash",
        "crash",
        "crash",
    ),
    *("set aside", "release", "release", "stop"),
]
VERDICTS = [Verdict.DEAD, Verdict.DEAD, Verdict.DEAD, Verdict.SILENT, Verdict.LEASE_EXPIRED]

pick = st.integers(0, 959)
"""Chooses from whatever there is, by its remainder: what there is changes while an example is made smaller."""


def mixed(n: int, m: int) -> int:
    """Spread two choices: hypothesis likes the ends of a range."""
    return (n * 2_654_435_761 + m * 40_503) >> 7


def has_jobs(machine: Driver) -> bool:
    """Tell whether there are jobs."""
    return machine.has_jobs()


def has_room(machine: Driver) -> bool:
    """Tell whether there may be more jobs."""
    return machine.has_room()


def has_runs(machine: Driver) -> bool:
    """Tell whether there are runs."""
    return machine.has_runs()


class StoreAgainstReference(Acts, TokenActs):
    """See the module."""

    # the world

    @initialize()
    def begin(self) -> None:
        self.client = self.world.client()
        self.open_writer(self.client, ce.Tell(payload=ev.KindRegistered(job_kind="census"), who=ANN))
        for _ in range(2):
            self.new_engine(opens=True)
        self.go(self.client, self.client.submission())
        self.go(self.client, self.client.submission(queue="narrow", priority=1))
        job = next(iter(self.reference.t.jobs.values()))
        self.go(self.engines[0], self.engines[0].claiming(cs.ref_of(job)))

    @precondition(lambda self: len(self.live()) < 3 and len(self.engines) < 12)
    @rule(opens=st.booleans())
    def new_engine(self, opens: bool) -> None:
        self.write_all()
        engine = Engine(self.world, f"e{len(self.engines)}", self.world.lend_store())
        self.engines.append(engine)
        self.open_writer(engine, engine.starting_recovery())
        self.compare()
        if opens:
            self.go(engine, engine.opening_gate())

    @rule(ms=st.sampled_from([1, 500, 1000, 5000]))
    def pass_time(self, ms: int) -> None:
        self.write_all()  # one batch, one moment
        self.world.clock.advance(ms)

    @precondition(has_runs)
    @rule(n=pick, m=pick, wait=st.booleans())
    def act_in_run(self, n: int, m: int, wait: bool) -> None:
        def act(how: str) -> None:
            if how in STEP_ACTS:
                self.act_in_step(n, m, how, wait)
            elif how in WAIT_ACTS:
                self.act_in_wait(n, m, how, wait)
            else:
                self.end_run(n, m, how, wait)

        self.first_that_can(RUN_ACTS, mixed(n, m), act)

    @rule(n=pick, m=pick, wait=st.booleans())
    def bring_work(self, n: int, m: int, wait: bool) -> None:
        def act(how: str) -> None:
            if how == "claim":
                self.claim(n, m, (None, None, 0, 1, 2)[m % 5], n % 2 == 0, wait)
            elif self.has_room():
                if how == "fork":
                    self.fork(n, m, wait)
                elif how == "submit":
                    self.submit(n, m, wait)
                else:
                    self.start_job(n, QUEUES[m % 2], m % 3 > 0)

        self.first_that_can(WORK_ACTS, mixed(m, n), act)

    @precondition(has_jobs)
    @rule(n=pick, m=pick, wait=st.booleans())
    def act_on_job(self, n: int, m: int, wait: bool) -> None:
        def act(how: str) -> None:
            by = self.act_on_stalled if how in STALLED_ACTS else self.act_from_outside
            by(n, m, how, wait)

        self.first_that_can(JOB_ACTS, mixed(n, m), act)

    @rule(n=pick, m=pick, wait=st.booleans())
    def keep_house(self, n: int, m: int, wait: bool) -> None:
        self.first_that_can(HOUSE_ACTS, mixed(n, m), lambda how: self.act_in_house(n, m, how, wait))

    def act_in_house(self, n: int, m: int, how: str, wait: bool) -> None:
        match how:
            case "write":
                self.write_all()
            case "wake":
                self.wake_due(n, wait)
            case "beat":
                self.beat(n, wait)
            case "queue":
                self.define_queue(n, 1 + m % 3)
            case "steer":
                self.steer_queue(n, m % 4, wait)
            case "gate":
                self.gate(n, m % 8 == 0, wait)
            case "crash":
                self.crash(n, m, VERDICTS[m % len(VERDICTS)], wait)
            case "judge":
                self.judge(n, m, VERDICTS[m % len(VERDICTS)])
            case "stall":
                self.stall(n, m, wait)
            case "stop":
                if m % 3 == 0:
                    self.stop_engine(n)
            case "set aside":
                self.set_aside(n, m, wait)
            case _:
                self.release_quarantined(n, wait)

    def act_in_step(self, n: int, m: int, how: str, wait: bool) -> None:
        match how:
            case "begin":
                self.begin_step(n, m, 1 + m % 3, wait)
            case "value":
                self.record_value(n, wait)
            case "progress":
                self.report_progress(n, m % 10, wait)
            case _:
                self.end_try(n, m, how, wait)

    def act_in_wait(self, n: int, m: int, how: str, wait: bool) -> None:
        match how:
            case "signal":
                self.wait_signal(n, NAMES[m % 2], m % 3, wait)
            case "consume":
                self.consume(n, NAMES[m % 2], m % 3, wait)
            case "ask":
                self.ask(n, m % 3, (None, 1000)[m % 2], wait)
            case "sleep":
                self.sleep(n, wait)
            case "start child":
                self.start_child(n, m % 2, wait)
            case "child":
                self.wait_child(n, m, wait)
            case "token":
                self.make_token(n, m, wait)
            case "wait token":
                self.wait_token(n, m, wait)
            case "race":
                self.race(n, m, wait)
            case _:
                self.end_wait(n, m, wait)

    def end_run(self, n: int, m: int, how: str, wait: bool) -> None:
        match how:
            case "put away":
                self.put_away(n, (None, 0, 1000)[m % 3], wait)
            case "await person":
                self.await_person(n, (None, None, 0, 1000)[m % 4], wait)
            case "mismatch":
                self.mismatch(n, wait)
            case _:
                self.finish(n, JobState(how), wait)

    def act_from_outside(self, n: int, m: int, how: str, wait: bool) -> None:
        match how:
            case "signal":
                self.signal(n, NAMES[m % 2], (None, None, "k")[m % 3], wait)
            case "signals":
                for name in NAMES if m % 2 else reversed(NAMES):
                    self.signal(n, name, None, name != NAMES[m % 2])
            case "cancel" | "fail" | "deadline":
                self.end(n, how, m % 3 == 0, wait)
            case "complete" | "fail token" | "beat token":
                self.answer_token(n, m, how, wait)
            case "settle":
                self.settle(n, m, wait)
            case "retry":
                self.retry(n, m, wait)
            case _:
                self.close_question(n, how, wait)

    @invariant()
    def no_journal_is_in_trouble(self) -> None:
        assert all(writer.journal.trouble is None for writer in self.writers.values())
