"""The defects of the original system (``SPEC-FACTS.md`` §2), each as the test that it would have failed.

Named after what went wrong there; the number is that of the table. Those about its console and bundles come with ours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually, wait_for
from tests.stores import change_behind

from relight import Client, Engine, Job, Retry, sleep, step, wait_signal, workflow
from relight.clock import SystemClock
from relight.core.commands.jobs import ClaimJob, fresh_run
from relight.core.events import KINDS
from relight.errors import Conflict, GateClosed, IllegalTransition, JobFailed, KindUnknown, RecoveryFailed, RelightError
from relight.model import FINAL_STATES, GateState, JobState, RunState, StepState


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    try:
        yield rig
    finally:
        rig.close()
    if rig.must_verify:
        rig.verify()


class Held:
    """A job whose step hangs in its first call, so that its engine can be crashed in the middle of it."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        self.rig = rig
        self.inside, self.go = threading.Event(), threading.Event()
        self.calls = 0

        @step
        def work() -> str:
            self.calls += 1
            if self.calls == 1:
                self.inside.set()
                wait_for(self.go)
            return "worked"

        @workflow(**options)
        def job() -> str:
            return work()

        self.workflow = job

    def begin(self, **options: Any) -> tuple[Engine, Job[Any]]:
        engine = self.rig.start(self.workflow, **options)
        job = engine.submit(self.workflow)
        wait_for(self.inside)
        self.rig.until_recorded(job, "work#0", "running")
        return engine, job

    def crash(self, **options: Any) -> Job[Any]:
        engine, job = self.begin(**options)
        self.rig.crash(engine)
        return job


def test_01_a_crash_and_a_restart_at_once_leave_no_job_running_for_ever(rig: Rig) -> None:
    held = Held(rig)
    job = held.crash(lease_seconds=3600)
    engine = rig.start(held.workflow, lease_seconds=3600)
    assert engine.job(job.id).result(timeout_seconds=10) == "worked"
    held.go.set()
    [told] = rig.events(job, "workflow_recovery")
    assert msgspec.json.decode(told.payload)["verdict"] == "dead"


def test_02_a_job_that_takes_longer_than_the_lease_is_not_taken_from_a_living_engine(rig: Rig) -> None:
    held = Held(rig)
    _, job = held.begin(lease_seconds=0.5)
    other = rig.start(held.workflow, lease_seconds=0.5)
    eventually(lambda: rig.probes[other].reached["watch"] > 12, "several leases long")
    assert rig.row(job).state is JobState.RUNNING and rig.events(job, "workflow_recovery") == []
    held.go.set()
    assert job.result(timeout_seconds=10) == "worked"
    assert held.calls == 1 and len(rig.runs(job)) == 1


def test_03_a_stalled_job_is_not_completed_by_the_engine_it_was_taken_from(rig: Rig) -> None:
    held = Held(rig, on_stall="hold")
    engine, job = held.begin()
    dead = engine._engine
    assert dead is not None
    rig.crash(engine)
    rig.start(held.workflow)
    row = rig.until(job, JobState.STALLED, "held:policy")
    rig.probes[engine].let_go()
    held.go.set()
    eventually(lambda: dead.journal.fenced, "the dead engine's late words are refused")
    assert rig.row(job) == row and row.outputs is None
    assert "job_completed" not in rig.told(job)
    rig.client().job(job.id).cancel()
    rig.until(job, JobState.CANCELLED)


@pytest.mark.parametrize(
    "moment", ["recovery_engine", "recovery_chunk", "before_commit", "recovery_receipt", "before_gate"]
)
def test_04_run_job_and_event_move_together_or_not_at_all(rig: Rig, moment: str) -> None:
    held = Held(rig, on_stall="hold")
    job = held.crash()

    def story() -> tuple[JobState, RunState, int]:
        return rig.row(job).state, rig.runs(job)[0].state, len(rig.events(job, "workflow_recovery"))

    engine = rig.engine(held.workflow, lease_seconds=60)
    probe = rig.probes[engine]
    probe.hold("recovery_engine" if moment == "before_commit" else moment)
    rig._engines.append(engine.start())
    if moment == "before_commit":
        probe.wait_held("recovery_engine")
        probe.let_go()
        probe.hold(moment)
    probe.wait_held(moment)
    assert story() in ((JobState.RUNNING, RunState.RUNNING, 0), (JobState.STALLED, RunState.STALLED, 1))
    rig.crash(engine)
    rig.start(held.workflow)
    rig.until(job, JobState.STALLED, "held:policy")
    assert story() == (JobState.STALLED, RunState.STALLED, 1)
    held.go.set()


def test_05_the_steps_of_a_stalled_run_are_in_doubt_not_running(rig: Rig) -> None:
    held = Held(rig, on_stall="hold")
    job = held.crash()
    rig.start(held.workflow)
    rig.until(job, JobState.STALLED, "held:policy")
    assert rig.steps(job)["work#0"].state is StepState.IN_DOUBT
    [told] = rig.events(job, "workflow_recovery")
    assert msgspec.json.decode(told.payload)["in_doubt_steps"] == ["work#0"]
    held.go.set()


def damage(rig: Rig, sql: str, *values: object) -> None:
    """Write to the store behind Relight's back."""
    rig.must_verify = False
    change_behind(rig.path, sql, values)


def test_06_one_unreadable_row_harms_only_itself(rig: Rig) -> None:
    held = Held(rig)

    @workflow
    def other() -> str:
        wait_signal("go", type=bool)
        return "other"

    engine = rig.start(held.workflow, other, suspend_after_seconds=60)
    others = [engine.submit(other) for _ in range(3)]
    bad = engine.submit(held.workflow)
    wait_for(held.inside)
    for each in others:
        rig.until(each, JobState.RUNNING)
    rig.crash(engine)
    damage(rig, "UPDATE jobs SET state = 'no such state' WHERE job_id = ?", bad.id)
    engine = rig.start(held.workflow, other)
    held.go.set()
    for each in others:
        engine.job(each.id).signal("go", True)
        assert engine.job(each.id).result(timeout_seconds=10) == "other"
    with rig.reading() as reads:
        [aside] = reads.quarantine()
    assert aside.job_id == bad.id
    assert engine.submit(held.workflow).result(timeout_seconds=10) == "worked"


def test_07_a_gate_that_failed_opens_by_itself_and_health_tells_the_truth(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from relight.engine.recovery import Recovery

    broken = threading.Event()
    broken.set()
    real = Recovery.run_once

    def run_once(self: Recovery, *, at_start: bool) -> Any:
        if broken.is_set():
            raise OSError("the disk is full")
        return real(self, at_start=at_start)

    monkeypatch.setattr(Recovery, "run_once", run_once)

    @workflow
    def job() -> str:
        return "ran"

    engine = rig.start(job, gate_timeout_seconds=0.3)
    health = eventually(lambda: (h := engine.health())["gate"] == GateState.FAILED and h)
    assert health["ok"] is False and "disk is full" in str(health["gate_reason"])
    with pytest.raises((RecoveryFailed, GateClosed)):
        engine.submit(job)
    assert engine.jobs() == []
    broken.clear()
    eventually(lambda: engine.health()["ok"])
    assert engine.submit(job).result(timeout_seconds=10) == "ran"


def test_08_no_entrance_walks_round_a_shut_gate(rig: Rig) -> None:
    broken = [True]

    @workflow
    def fragile() -> str:
        if broken[0]:
            raise ValueError
        return "mended"

    engine = rig.start(fragile)
    failed = engine.submit(fragile)
    rig.until(failed, JobState.FAILED)
    rig.stop(engine)
    broken[0] = False
    shut = rig.engine(fragile, gate_timeout_seconds=0.2)
    rig.probes[shut].hold("before_gate")
    rig._engines.append(shut.start())
    rig.probes[shut].wait_held("before_gate")
    with pytest.raises(GateClosed, match="still recovering"):
        shut.submit(fragile)
    shut.job(failed.id).retry(by="ada")
    with rig.client(workflows=[fragile]) as client:
        stored = client.submit(fragile)
        assert rig.row(stored).state is JobState.QUEUED
    eventually(lambda: rig.probes[shut].reached["after_commit"] > 2)
    assert not rig.row(stored).begun and len(rig.runs(failed)) == 1
    rig.probes[shut].let_go()
    for each in (failed, stored):
        assert shut.job(each.id).result(timeout_seconds=10) == "mended"
    opened = rig.events(None, "gate_opened")[-1].seq
    assert all(
        event.seq > opened for event in rig.events(failed, "run_started")[1:] + rig.events(stored, "run_started")
    )


def test_09_no_caller_can_claim_by_saying_that_it_may(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return "ran"

    engine = rig.start(job, consume=["elsewhere"])
    queued = engine.submit(job)
    shut = rig.engine(job)
    rig.probes[shut].hold("before_gate")
    rig._engines.append(shut.start())
    rig.probes[shut].wait_held("before_gate")
    inside = shut._engine
    assert inside is not None
    row = rig.row(queued)
    claim = ClaimJob(
        job=fresh_run(row.job_id, row.trace_id, row.kind, "made-up"),
        engine_id=inside.engine_id,
        attempt=row.attempt,
        replay_steps=0,
    )
    with pytest.raises(Conflict):
        inside.journal.execute(claim)
    assert rig.row(queued) == row and rig.runs(queued) == []
    rig.probes[shut].let_go()
    assert queued.result(timeout_seconds=10) == "ran"


def test_10_recovery_needs_nothing_but_the_store(rig: Rig) -> None:
    held = Held(rig)
    job = held.crash()
    rig.start()
    rig.until(job, JobState.QUEUED, "resumed")
    assert {cause.code for cause in rig.client().job(job.id).why().causes} & {"kind_not_registered", "no_engine"}
    held.go.set()


class Jumping(SystemClock):
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.off_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000], ids=["back an hour", "forward an hour"])
def test_11_a_wall_clock_that_is_set_changes_no_verdict(rig: Rig, off_ms: int) -> None:
    rig.must_verify = False  # the record's own times jump with the clock
    alive, dead = Held(rig, name="alive"), Held(rig, name="dead")
    _, job_of_the_living = alive.begin(lease_seconds=1)
    job_of_the_dead = dead.crash(lease_seconds=1)
    clock = Jumping()
    clock.off_ms = off_ms
    engine = rig.start(dead.workflow, lease_seconds=1, clock=clock)
    rig.until(job_of_the_dead, JobState.COMPLETED)
    eventually(lambda: rig.probes[engine].reached["watch"] > 6)
    assert rig.events(job_of_the_living, "workflow_recovery") == []
    alive.go.set()
    dead.go.set()
    assert job_of_the_living.result(timeout_seconds=10) == "worked"


def test_12_stalled_is_no_dead_end_and_two_clicks_start_one_run(rig: Rig) -> None:
    held = Held(rig, on_stall="hold")
    job = held.crash()
    engine = rig.start(held.workflow)
    rig.until(job, JobState.STALLED, "held:policy")
    job = engine.job(job.id)
    job.resume(by="ada")
    with pytest.raises(IllegalTransition):
        job.resume(by="ada")
    assert job.result(timeout_seconds=10) == "worked"
    held.go.set()
    assert [run.state for run in rig.runs(job)] == [RunState.STALLED, RunState.COMPLETED]


def test_13_a_job_does_not_end_with_whoever_submitted_it(rig: Rig) -> None:
    held = Held(rig)
    rig.start(held.workflow)
    with Client(rig.path, workflows=[held.workflow]) as client:
        job = client.submit(held.workflow)
    wait_for(held.inside)
    held.go.set()
    rig.until(job, JobState.COMPLETED)


def test_14_every_error_has_a_code_fields_and_says_what_to_do() -> None:
    def tree(t: type[RelightError]) -> Iterator[type[RelightError]]:
        yield t
        for each in t.__subclasses__():
            yield from tree(each)

    found = [each for each in tree(RelightError) if each.__module__ == "relight.errors"]
    codes = [each.code for each in found]
    assert len(found) > 25 and len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)
    error = GateClosed("closed", recovered=3, retry_after_seconds=2.0)
    assert (error.code, error.retryable, error.fields["recovered"]) == ("gate_closed", True, 3)


def test_15_all_events_of_a_job_carry_its_trace_and_a_typed_payload(rig: Rig) -> None:
    held = Held(rig)
    job = held.crash()
    engine = rig.start(held.workflow)
    assert engine.job(job.id).result(timeout_seconds=10) == "worked"
    held.go.set()
    events = rig.events(job)
    assert {event.trace_id for event in events} == {rig.row(job).trace_id}
    for event in events:
        msgspec.json.decode(event.payload, type=KINDS[event.type])
    actors = {event.type: event.actor for event in events}
    assert actors["workflow_recovery"] == "system" and actors["job_completed"] == "agent"
    assert actors["job_accepted"] == "human"


def test_19_a_submit_that_is_repeated_makes_no_second_job(rig: Rig) -> None:
    @workflow
    def job(n: int) -> int:
        return n

    engine = rig.start(job)
    made = [engine.submit(job, 1, idempotency_key="order-17") for _ in range(5)]
    assert len({each.id for each in made}) == 1
    assert [each.created for each in made] == [True, False, False, False, False]
    made[0].result(timeout_seconds=10)
    assert engine.submit(job, 1, idempotency_key="order-17").id == made[0].id
    assert rig.told(made[0]).count("job_accepted") == 1 and len(rig.runs(made[0])) == 1


@pytest.mark.parametrize("kind", ["doc_edit", "model_run", "terminal_exec", "asr_transcribe", "distillation_eval"])
def test_20_no_kind_completes_without_doing_anything(rig: Rig, kind: str) -> None:
    @workflow
    def job() -> None: ...

    engine = rig.start(job)
    with pytest.raises(KindUnknown, match=f'"{kind}"'):
        engine.submit(kind)
    assert engine.jobs() == []


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_21_a_crash_in_the_middle_of_a_finish_leaves_it_done_or_not_done(rig: Rig, moment: str) -> None:
    calls: list[str] = []

    @step
    def work() -> str:
        calls.append("work")
        return "worked"

    @workflow
    def job() -> str:
        got = work()
        sleep(0)
        if len(calls) == 1:
            calls.append("finishing")
            rig.probes[engine].hold(moment)
        return got

    engine = rig.start(job, lease_seconds=60)
    done = engine.submit(job)
    rig.probes[engine].wait_held(moment)
    eventually(lambda: "finishing" in calls)
    rig.crash(engine)
    before = rig.row(done)
    assert (before.state is JobState.COMPLETED) is (moment == "after_commit" and before.outputs is not None)
    engine = rig.start(job)
    assert engine.job(done.id).result(timeout_seconds=10) == "worked"
    assert calls.count("work") == 1
    states = [run.state for run in rig.runs(done)]
    assert states[-1] is RunState.COMPLETED
    if before.state in FINAL_STATES:
        assert states == [RunState.COMPLETED] and rig.row(done) == before


def test_22_only_a_completed_job_has_outputs_and_no_old_error_stays_after_success(rig: Rig) -> None:
    broken = [True]

    @step(retry=Retry(tries=1))
    def publish() -> str:
        if broken[0]:
            raise OSError("disk")
        return "published"

    @workflow
    def job() -> str:
        return publish()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    row = rig.row(failed)
    assert row.outputs is None and "disk" in (row.error or "")
    broken[0] = False
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == "published"
    row = rig.row(failed)
    assert row.error is None and row.outputs == '"published"'
    assert rig.steps(failed)["publish#0"].error is None
