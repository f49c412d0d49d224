"""No wake-up is lost: each race is staged in both orders, by holding one side's commit until the other's is on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.flow.kit import Probe, Rig, eventually

from relight import Client, Engine, Job, ask, cleanup, start, step, wait_signal, workflow
from relight.errors import Conflict, IllegalTransition
from relight.model import JobState

SOON = {"suspend_after_seconds": 0.3, "lease_seconds": 60}
"""Parked long enough for the test to look, and no heartbeat that would be held in place of what the test means."""


@workflow
def signalled() -> int:
    return wait_signal("go", type=int)


@workflow
async def asignalled() -> int:
    return await wait_signal.aio("go", type=int)


@workflow
def asking() -> str:
    return ask("Send it?").choice


@workflow
async def aasking() -> str:
    return (await ask.aio("Send it?")).choice


@workflow
def child() -> int:
    return wait_signal("end", type=int)


@workflow
def parent() -> int:
    return start(child).result()


CLEANED: list[str] = []


@workflow
def cleaning() -> None:
    try:
        wait_signal("never", type=int)
    finally:
        with cleanup():
            clean()


@step
def clean() -> None:
    CLEANED.append("clean")


@pytest.fixture(autouse=True)
def forget() -> None:
    CLEANED.clear()


def probe_of(rig: Rig, who: Engine | Client) -> Probe:
    found = rig.probes.get(who) if isinstance(who, Engine) else who.probe  # type: ignore[arg-type]
    assert isinstance(found, Probe)
    return found


def until_parked(engine: Engine, job: Job[Any]) -> None:
    inside = engine._engine
    assert inside is not None
    eventually(lambda: any(run.ref.job_id == job.id and run.parked for run in inside.all_runs()), "parked")


def put_away_under_way(rig: Rig, engine: Engine, job: Job[Any]) -> None:
    """Hold the engine's commit that puts a job away: decided and made, and not on disk."""
    until_parked(engine, job)
    probe_of(rig, engine).hold("before_commit")
    probe_of(rig, engine).wait_held("before_commit")
    assert rig.row(job).state is JobState.RUNNING


class Act(threading.Thread):
    """Somebody's act, in a thread of its own; ``done`` gives what became of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error

    def done(self) -> None:
        self.join(20)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


def act_under_way(rig: Rig, client: Client, call: Callable[[], Any]) -> Act:
    """Hold a client's commit: decided on the job as it was, and not on disk."""
    probe = probe_of(rig, client)
    client.core.store.watch()
    probe.hold("before_commit")
    act = Act(call)
    probe.wait_held("before_commit")
    return act


def order(rig: Rig, job: Job[Any], *types: str) -> list[str]:
    return [event.type for event in rig.events(job) if event.type in types]


WAKES = [
    pytest.param(signalled, lambda job: job.signal("go", 7), 7, "signal_sent", id="signal"),
    pytest.param(asignalled, lambda job: job.signal("go", 7), 7, "signal_sent", id="signal, async"),
    pytest.param(asking, lambda job: job.answer("approve", by="ada"), "approve", "decision_given", id="decision"),
    pytest.param(
        aasking, lambda job: job.answer("approve", by="ada"), "approve", "decision_given", id="decision, async"
    ),
]


@pytest.mark.parametrize("wanted, wake, result, told", WAKES)
def test_a_wake_up_before_the_put_away_that_races_it_is_not_lost(
    rig: Rig, wanted: Any, wake: Callable[[Job[Any]], None], result: Any, told: str
) -> None:
    engine = rig.start(wanted, **SOON)
    job = engine.submit(wanted)
    put_away_under_way(rig, engine, job)
    wake(rig.client().job(job.id))
    probe_of(rig, engine).let_go()
    assert job.result(timeout_seconds=10) == result
    assert order(rig, job, told, "run_suspended") == [told, "run_suspended"]


@pytest.mark.parametrize("wanted, wake, result, told", WAKES)
def test_a_wake_up_after_the_put_away_that_races_it_is_not_lost(
    rig: Rig, wanted: Any, wake: Callable[[Job[Any]], None], result: Any, told: str
) -> None:
    engine = rig.start(wanted, **SOON)
    client = rig.client()
    job = engine.submit(wanted)
    until_parked(engine, job)
    act = act_under_way(rig, client, lambda: wake(client.job(job.id)))
    assert rig.row(job).state is JobState.RUNNING
    rig.until_put_away(job)
    probe_of(rig, client).let_go()
    act.done()
    assert job.result(timeout_seconds=10) == result
    assert order(rig, job, told, "run_suspended") == ["run_suspended", told]


def a_family(rig: Rig) -> tuple[Engine, Engine, Job[Any], Job[Any]]:
    """Start a parent and its child in two engines, both waiting in memory."""
    nurse = rig.start(child, suspend_after_seconds=60, lease_seconds=60)
    engine = rig.start(parent, **SOON)
    job = engine.submit(parent)
    child_id = eventually(lambda: [info.id for info in nurse.jobs(kind="child")])[0]
    its_child = nurse.job(child_id)
    until_parked(nurse, its_child)
    return engine, nurse, job, its_child


def test_a_childs_end_before_the_put_away_that_races_it_is_not_lost(rig: Rig) -> None:
    engine, _, job, its_child = a_family(rig)
    put_away_under_way(rig, engine, job)
    its_child.signal("end", 5)
    rig.until(its_child, JobState.COMPLETED)
    probe_of(rig, engine).let_go()
    assert job.result(timeout_seconds=10) == 5
    ended = rig.events(its_child, "job_completed")[0].seq
    assert rig.events(job, "run_suspended")[0].seq > ended


def test_a_childs_end_after_the_put_away_that_races_it_is_not_lost(rig: Rig) -> None:
    engine, nurse, job, its_child = a_family(rig)
    until_parked(engine, job)
    client = rig.client()
    probe_of(rig, nurse).hold("before_commit")
    client.job(its_child.id).signal("end", 5)
    probe_of(rig, nurse).wait_held("before_commit")
    rig.until_put_away(job)
    probe_of(rig, nurse).let_go()
    assert job.result(timeout_seconds=10) == 5
    ended = rig.events(its_child, "job_completed")[0].seq
    assert rig.events(job, "run_suspended")[0].seq < ended


def test_a_cancel_before_the_put_away_that_races_it_is_not_lost(rig: Rig) -> None:
    engine = rig.start(cleaning, **SOON)
    job = engine.submit(cleaning)
    put_away_under_way(rig, engine, job)
    rig.client().job(job.id).cancel(by="ada")
    probe_of(rig, engine).let_go()
    rig.until(job, JobState.CANCELLED)
    assert order(rig, job, "job_cancel_requested", "run_suspended")[0] == "job_cancel_requested"
    assert CLEANED == ["clean"]


def test_a_cancel_after_the_put_away_that_races_it_is_not_lost(rig: Rig) -> None:
    engine = rig.start(cleaning, **SOON)
    client = rig.client()
    job = engine.submit(cleaning)
    until_parked(engine, job)
    act = act_under_way(rig, client, lambda: client.job(job.id).cancel(by="ada"))
    rig.until_put_away(job)
    probe_of(rig, client).let_go()
    act.done()
    rig.until(job, JobState.CANCELLED)
    assert order(rig, job, "job_cancel_requested", "run_suspended") == ["run_suspended", "job_cancel_requested"]
    assert CLEANED == ["clean"]


class Finishing:
    """A job whose finish can be held: it waits in memory for a signal, and then returns."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.engine = rig.start(signalled, suspend_after_seconds=60, lease_seconds=60)
        self.job = self.engine.submit(signalled)
        until_parked(self.engine, self.job)

    def hold_finish(self) -> None:
        probe = probe_of(self.rig, self.engine)
        inside = self.engine._engine
        assert inside is not None
        [run] = inside.all_runs()
        real = inside._settle

        def settle(*args: Any) -> None:
            probe.hold("before_commit")
            real(*args)

        inside._settle = settle  # type: ignore[method-assign]
        self.job.signal("go", 7)
        probe.wait_held("before_commit")
        assert self.rig.row(self.job).state is JobState.RUNNING and run.lost is None

    def let_go(self) -> None:
        probe_of(self.rig, self.engine).let_go()


def test_a_cancel_before_the_finish_that_races_it_leaves_the_finish_standing(rig: Rig) -> None:
    racing = Finishing(rig)
    racing.hold_finish()
    rig.client().job(racing.job.id).cancel(by="ada")
    racing.let_go()
    assert racing.job.result(timeout_seconds=10) == 7
    assert order(rig, racing.job, "job_cancel_requested", "job_completed") == ["job_cancel_requested", "job_completed"]


def test_a_cancel_after_the_finish_that_races_it_is_refused(rig: Rig) -> None:
    racing = Finishing(rig)
    client = rig.client()
    act = act_under_way(rig, client, lambda: client.job(racing.job.id).cancel(by="ada"))
    racing.job.signal("go", 7)
    assert racing.job.result(timeout_seconds=10) == 7
    row = rig.row(racing.job)
    probe_of(rig, client).let_go()
    with pytest.raises(IllegalTransition, match="is completed"):
        act.done()
    assert rig.row(racing.job) == row


def test_a_forced_end_before_the_finish_that_races_it_stands(rig: Rig) -> None:
    racing = Finishing(rig)
    racing.hold_finish()
    rig.client().core.end(racing.job.id, code="cancel", reason=None, by="ada", force=True)
    racing.let_go()
    row = rig.until(racing.job, JobState.CANCELLED)
    eventually(lambda: racing.engine.health()["running"] == 0)
    assert rig.row(racing.job) == row and row.outputs is None
    assert "job_completed" not in rig.told(racing.job)


def test_a_signal_after_the_finish_that_races_it_is_refused(rig: Rig) -> None:
    racing = Finishing(rig)
    client = rig.client()
    act = act_under_way(rig, client, lambda: client.job(racing.job.id).signal("late", 1))
    racing.job.signal("go", 7)
    assert racing.job.result(timeout_seconds=10) == 7
    probe_of(rig, client).let_go()
    with pytest.raises(Conflict, match="is completed"):
        act.done()


def test_two_answers_that_race_are_one_answer(rig: Rig) -> None:
    engine = rig.start(asking)
    one, two = rig.client(), rig.client()
    job = engine.submit(asking)
    rig.until(job, JobState.AWAITING_USER)
    act = act_under_way(rig, one, lambda: one.job(job.id).answer("reject", by="bob"))
    two.job(job.id).answer("approve", by="ada")
    probe_of(rig, one).let_go()
    with pytest.raises(Conflict, match="answered or withdrawn in the same moment"):
        act.done()
    assert job.result(timeout_seconds=10) == "approve"
    assert rig.told(job).count("decision_given") == 1


def test_two_submits_under_one_key_that_race_are_one_job(rig: Rig) -> None:
    engine = rig.start(signalled)
    one, two = rig.client(workflows=[signalled]), rig.client(workflows=[signalled])
    made: list[Job[int]] = []
    act = act_under_way(rig, one, lambda: made.append(one.submit(signalled, idempotency_key="k")))
    made.append(two.submit(signalled, idempotency_key="k"))
    probe_of(rig, one).let_go()
    act.done()
    assert len({job.id for job in made}) == 1 and sorted(job.created for job in made) == [False, True]
    engine.job(made[0].id).signal("go", 1)
    assert made[0].result(timeout_seconds=10) == 1


def test_two_retries_that_race_make_one_run(rig: Rig) -> None:
    broken = [True]

    @workflow
    def fragile() -> str:
        if broken[0]:
            raise ValueError
        return "mended"

    engine = rig.start(fragile)
    job = engine.submit(fragile)
    rig.until(job, JobState.FAILED)
    one, two = rig.client(), rig.client()
    broken[0] = False
    act = act_under_way(rig, one, lambda: one.job(job.id).retry(by="bob"))
    two.job(job.id).retry(by="ada")
    rig.until(job, JobState.COMPLETED)
    probe_of(rig, one).let_go()
    with pytest.raises(IllegalTransition, match="is completed"):
        act.done()
    assert len(rig.runs(job)) == 2 and rig.told(job).count("job_retried") == 1


def test_two_engines_that_claim_at_once_make_one_run(rig: Rig) -> None:
    ran: list[int] = []

    @step
    def count() -> None:
        ran.append(1)

    @workflow
    def job() -> None:
        count()

    engines = [rig.start(job) for _ in range(3)]
    jobs = [engines[n % 3].submit(job) for n in range(30)]
    for each in jobs:
        each.result(timeout_seconds=20)
    assert len(ran) == 30
    assert all(len(rig.runs(each)) == 1 for each in jobs)
