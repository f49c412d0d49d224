"""When the code no longer agrees with the record: the job stops for an operator, and goes on with code that does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig

from relight import Engine, Job, ask, now, parallel, sleep, start, step, wait_signal, workflow
from relight.errors import IllegalTransition, JobFailed
from relight.model import JobState

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    CALLS.clear()


@step
def reserve(n: int) -> int:
    CALLS.append(f"reserve {n}")
    return n


@step
def charge(n: int) -> str:
    CALLS.append(f"charge {n}")
    return f"charged {n}"


@step
def approve() -> bool:
    CALLS.append("approve")
    return True


def begun(rig: Rig, old: Any, *args: Any) -> tuple[Engine, Job[Any]]:
    """Run old code to where it waits for a signal, and stop its engine."""
    engine = rig.start(old)
    job = engine.submit(old, *args)
    rig.until_put_away(job)
    rig.stop(engine)
    return engine, job


def replayed(rig: Rig, new: Any, job: Job[Any]) -> tuple[Engine, Job[Any]]:
    """Start an engine with new code, and let the job go on."""
    engine = rig.start(new)
    again = engine.job(job.id)
    again.signal("go", 1)
    return engine, again


def stopped(rig: Rig, job: Job[Any], code: str) -> str:
    """Check that a job has stopped for an operator; return what is told of it."""
    row = rig.until(job, JobState.AWAITING_USER)
    assert row.status_reason == f"history_mismatch:{code}"
    assert {cause.code for cause in job.why().causes} & {"history_mismatch", "step_inserted"}
    return str(rig.events(job, "history_mismatch")[-1].payload)


@workflow(name="job")
def v1() -> str:
    got = charge(reserve(1))
    wait_signal("go", type=int)
    return got


def test_a_finished_step_called_with_other_arguments_stops_the_job_and_old_code_resumes_it(rig: Rig) -> None:
    @workflow(name="job")
    def v2() -> str:
        got = charge(reserve(2))
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, v1)
    engine, again = replayed(rig, v2, job)
    told = stopped(rig, again, "arguments")
    assert '"reserve#0"' in told and 'argument \\"n\\" differs' in told
    assert CALLS == ["reserve 1", "charge 1"]
    again.resume(by="ada")
    stopped(rig, again, "arguments")
    rig.stop(engine)
    engine = rig.start(v1)
    again = engine.job(job.id)
    again.resume(by="ada")
    assert again.result(timeout_seconds=10) == "charged 1"
    assert CALLS == ["reserve 1", "charge 1"]


def test_the_mismatch_says_which_argument_moved(rig: Rig) -> None:
    @step
    def send(to: str, body: str, cents: int) -> None:
        CALLS.append("send")

    @workflow(name="job")
    def old() -> None:
        send("ada", "hello", cents=1)
        wait_signal("go", type=int)

    @workflow(name="job")
    def new() -> None:
        send("ada", "good day", cents=2)
        wait_signal("go", type=int)

    _, job = begun(rig, old)
    _, again = replayed(rig, new, job)
    told = stopped(rig, again, "arguments")
    assert 'argument \\"body\\", \\"cents\\" differs (others equal)' in told
    again.cancel()
    rig.until(again, JobState.CANCELLED)


def test_a_new_step_in_front_of_finished_ones_stops_the_job_and_is_not_called(rig: Rig) -> None:
    @workflow(name="job")
    def v2() -> str:
        got = reserve(1)
        approve()
        paid = charge(got)
        wait_signal("go", type=int)
        return paid

    _, job = begun(rig, v1)
    engine, again = replayed(rig, v2, job)
    told = stopped(rig, again, "step_inserted")
    assert "approve#0 is new, but charge#0 after it is already done" in told
    assert "approve" not in CALLS
    assert {cause.code for cause in again.why().causes} == {"step_inserted"}
    rig.stop(engine)
    engine = rig.start(v1)
    engine.job(job.id).resume(by="ada")
    assert engine.job(job.id).result(timeout_seconds=10) == "charged 1"


@pytest.mark.parametrize("what", ["sleep", "ask", "start", "wait_signal"])
def test_a_new_wait_in_front_of_finished_steps_stops_the_job_too(rig: Rig, what: str) -> None:
    @workflow
    def child() -> None: ...

    @workflow(name="job")
    def v2() -> str:
        match what:
            case "sleep":
                sleep(0)
            case "ask":
                ask("Now?")
            case "start":
                start(child)
            case _:
                wait_signal("new", type=int)
        got = charge(reserve(1))
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, v1)
    engine = rig.start(v2, child)
    again = engine.job(job.id)
    again.signal("go", 1)
    stopped(rig, again, "step_inserted")
    assert rig.decisions(job) == [] and engine.jobs(kind="child") == []
    again.cancel()
    rig.until(again, JobState.CANCELLED)


def test_a_new_step_behind_everything_that_is_finished_is_fine(rig: Rig) -> None:
    @workflow(name="job")
    def v2() -> str:
        got = charge(reserve(1))
        wait_signal("go", type=int)
        approve()
        return got

    _, job = begun(rig, v1)
    _, again = replayed(rig, v2, job)
    assert again.result(timeout_seconds=10) == "charged 1"
    assert CALLS == ["reserve 1", "charge 1", "approve"]


def test_a_new_recorded_value_in_front_of_finished_steps_is_fine(rig: Rig) -> None:
    @workflow(name="job")
    def v2() -> str:
        now()
        got = charge(reserve(1))
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, v1)
    _, again = replayed(rig, v2, job)
    assert again.result(timeout_seconds=10) == "charged 1"


def test_a_removed_step_is_an_event_not_a_stop(rig: Rig) -> None:
    @workflow(name="job")
    def v2() -> str:
        got = charge(1)
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, v1)
    _, again = replayed(rig, v2, job)
    assert again.result(timeout_seconds=10) == "charged 1"
    [told] = rig.events(job, "step_removed")
    assert told.step_key == "reserve#0"
    assert CALLS == ["reserve 1", "charge 1"]
    row = rig.row(job)
    assert row.state is JobState.COMPLETED_WITH_ISSUES
    [issue] = msgspec.json.decode(row.issues or "")
    assert issue["code"] == "step_removed" and "reserve#0" in issue["detail"]
    assert "reserve#0" in again.why().summary


def fan_of(n: int) -> str:
    return charge(reserve(n))


@workflow(name="job")
def fan_v1() -> list[str]:
    got = parallel(fan_of, [1, 2])
    wait_signal("go", type=int)
    return got


@pytest.mark.parametrize("keyed", [False, True], ids=["numbered", "keyed"])
def test_a_new_step_in_front_of_a_fan_out_stops_the_job_too(rig: Rig, keyed: bool) -> None:
    key = str if keyed else None

    @workflow(name="job")
    def old() -> list[str]:
        got = parallel(fan_of, [1, 2], key=key)
        return [*got, str(wait_signal("go", type=int) and charge(9))]

    @workflow(name="job")
    def new() -> list[str]:
        approve()
        return parallel(fan_of, [1, 2], key=key)

    _, job = begun(rig, old)
    _, again = replayed(rig, new, job)
    assert "approve#0 is new" in stopped(rig, again, "step_inserted")
    assert "approve" not in CALLS


def test_a_new_step_behind_a_fan_out_is_fine(rig: Rig) -> None:
    @workflow(name="job")
    def new() -> list[str]:
        got = parallel(fan_of, [1, 2])
        wait_signal("go", type=int)
        return [*got, str(approve())]

    _, job = begun(rig, fan_v1)
    _, again = replayed(rig, new, job)
    assert again.result(timeout_seconds=10) == ["charged 1", "charged 2", "True"]


def test_a_new_step_in_one_arm_stops_the_job_too(rig: Rig) -> None:
    def arm(n: int) -> str:
        if n == 2:
            approve()
        return fan_of(n)

    @workflow(name="job")
    def new() -> list[str]:
        return parallel(arm, [1, 2])

    _, job = begun(rig, fan_v1)
    _, again = replayed(rig, new, job)
    assert "b1/approve#0 is new" in stopped(rig, again, "step_inserted")


@pytest.mark.parametrize("change", ["inserted", "removed"])
def test_inserted_and_removed_steps_are_told_of_async_code_too(rig: Rig, change: str) -> None:
    @workflow(name="job")
    async def old() -> str:
        got = await charge.aio(await reserve.aio(1))
        await wait_signal.aio("go", type=int)
        return got

    @workflow(name="job")
    async def inserted() -> str:
        await approve.aio()
        return await charge.aio(await reserve.aio(1))

    @workflow(name="job")
    async def removed() -> str:
        got = await charge.aio(1)
        await wait_signal.aio("go", type=int)
        return got

    _, job = begun(rig, old)
    _, again = replayed(rig, inserted if change == "inserted" else removed, job)
    if change == "inserted":
        assert "approve#0 is new" in stopped(rig, again, "step_inserted")
    else:
        assert again.result(timeout_seconds=10) == "charged 1"
        assert rig.row(job).state is JobState.COMPLETED_WITH_ISSUES


def test_a_step_that_became_something_else_stops_the_job(rig: Rig) -> None:
    @workflow(name="job")
    def old() -> None:
        sleep(0)
        wait_signal("go", type=int)

    @step(name="sleep")
    def doze() -> None:
        CALLS.append("doze")

    @workflow(name="job")
    def new() -> None:
        doze()
        wait_signal("go", type=int)

    _, job = begun(rig, old)
    _, again = replayed(rig, new, job)
    stopped(rig, again, "other_kind")
    assert CALLS == []
    again.cancel()
    rig.until(again, JobState.CANCELLED)


def test_an_outcome_that_the_new_code_cannot_read_stops_the_job(rig: Rig) -> None:
    def as_text() -> str:
        return "seven"

    def as_number() -> int:
        return 7

    old_step, new_step = step(name="get")(as_text), step(name="get")(as_number)

    @workflow(name="job")
    def old() -> Any:
        got = old_step()
        wait_signal("go", type=int)
        return got

    @workflow(name="job")
    def new() -> Any:
        got = new_step()
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, old)
    engine, again = replayed(rig, new, job)
    assert "get#0" in stopped(rig, again, "outcome")
    rig.stop(engine)
    engine = rig.start(old)
    engine.job(job.id).resume(by="ada")
    assert engine.job(job.id).result(timeout_seconds=10) == "seven"


def test_a_step_that_never_finished_cannot_mismatch(rig: Rig) -> None:
    argument = [1]

    @step
    def fragile(n: int) -> int:
        CALLS.append(f"fragile {n}")
        if n == 1:
            raise OSError
        return n

    @workflow
    def job() -> int:
        return fragile(argument[0])

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    argument[0] = 2
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == 2
    assert CALLS == ["fragile 1", "fragile 2"]


def test_check_args_false_does_not_look(rig: Rig) -> None:
    argument = ["then"]

    @step(check_args=False)
    def stamp(when: str) -> str:
        CALLS.append(when)
        return when

    @workflow
    def job() -> str:
        got = stamp(argument[0])
        wait_signal("go", type=int)
        return got

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    argument[0] = "now"
    done.signal("go", 1)
    assert done.result(timeout_seconds=10) == "then"
    assert CALLS == ["then"]


@dataclass
class Doc:
    id: int


@dataclass
class DocWithNote:
    id: int
    note: str = ""


def test_defaults_added_later_do_not_mismatch(rig: Rig) -> None:
    def index_v1(doc: Doc, lang: str) -> int:
        CALLS.append("v1")
        return doc.id

    def index_v2(doc: Doc, lang: str, *, deep: bool = False, retries: int = 3) -> int:
        CALLS.append("v2")
        return doc.id

    one, two = step(name="index")(index_v1), step(name="index")(index_v2)

    @workflow(name="job")
    def old() -> int:
        got = one(Doc(1), "en")
        wait_signal("go", type=int)
        return got

    @workflow(name="job")
    def new() -> int:
        got = two(Doc(1), lang="en", deep=False)
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, old)
    _, again = replayed(rig, new, job)
    assert again.result(timeout_seconds=10) == 1
    assert CALLS == ["v1"]


def test_a_field_with_a_default_added_later_does_not_mismatch(rig: Rig) -> None:
    def index_v1(doc: Doc) -> int:
        return doc.id

    def index_v2(doc: DocWithNote) -> int:
        return doc.id

    one, two = step(name="index")(index_v1), step(name="index")(index_v2)

    @workflow(name="job")
    def old() -> int:
        got = one(Doc(1))
        wait_signal("go", type=int)
        return got

    @workflow(name="job")
    def new() -> int:
        got = two(DocWithNote(1))
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, old)
    _, again = replayed(rig, new, job)
    assert again.result(timeout_seconds=10) == 1


def test_a_workflow_may_gain_a_parameter_with_a_default(rig: Rig) -> None:
    @workflow(name="job")
    def old(n: int) -> str:
        got = charge(n)
        wait_signal("go", type=int)
        return got

    @workflow(name="job")
    def new(n: int, note: str = "") -> str:
        got = charge(n)
        wait_signal("go", type=int)
        return got + note

    _, job = begun(rig, old, 5)
    _, again = replayed(rig, new, job)
    assert again.result(timeout_seconds=10) == "charged 5"


def test_inputs_that_the_new_code_cannot_take_fail_the_job_and_old_code_goes_on_with_it(rig: Rig) -> None:
    @workflow(name="job")
    def old(n: int, note: str) -> str:
        got = charge(n)
        wait_signal("go", type=int)
        return got + note

    @workflow(name="job")
    def new(n: int) -> str:
        got = charge(n)
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, old, 5, "!")
    engine, again = replayed(rig, new, job)
    with pytest.raises(JobFailed, match=r'no parameter "note"'):
        again.result(timeout_seconds=10)
    rig.stop(engine)
    again = rig.start(old).job(job.id)
    again.retry(by="ada")
    assert again.result(timeout_seconds=10) == "charged 5!"
    assert CALLS == ["charge 5"]


def test_two_different_functions_under_one_name_are_refused(rig: Rig) -> None:
    @step(name="fetch")
    def fetch_invoice(n: int) -> str:
        return f"invoice {n}"

    @step(name="fetch")
    def fetch_customer(n: int) -> str:
        return f"customer {n}"

    @workflow
    def job() -> list[str]:
        return [fetch_invoice(7), fetch_customer(7)]

    failed = rig.start(job).submit(job)
    with pytest.raises(
        JobFailed, match=r'two different steps are called "fetch" \(test_mismatch.py:\d+, test_mismatch.py:\d+\)'
    ):
        failed.result(timeout_seconds=10)
    assert set(rig.steps(failed)) == {"fetch#0"}


def test_a_waiting_mismatch_is_not_answered_but_resumed(rig: Rig) -> None:
    @workflow(name="job")
    def v2() -> str:
        got = charge(reserve(2))
        wait_signal("go", type=int)
        return got

    _, job = begun(rig, v1)
    engine, again = replayed(rig, v2, job)
    stopped(rig, again, "arguments")
    from relight.errors import Conflict

    with pytest.raises(Conflict, match="no open question"):
        again.answer("approve", by="ada")
    rig.stop(engine)
    engine = rig.start(v1)
    engine.job(job.id).resume(by="ada")
    assert engine.job(job.id).result(timeout_seconds=10) == "charged 1"
    with pytest.raises(IllegalTransition):
        engine.job(job.id).resume(by="ada")


def test_a_question_is_not_resumed_but_answered(rig: Rig) -> None:
    @workflow
    def job() -> str:
        return ask("Send it?").choice

    waiting = rig.start(job).submit(job)
    rig.until(waiting, JobState.AWAITING_USER)
    with pytest.raises(IllegalTransition, match="waits for an answer"):
        waiting.resume(by="ada")
    waiting.answer("approve", by="ada")
    assert waiting.result(timeout_seconds=10) == "approve"


def test_one_arms_mismatch_stops_the_job_once_the_others_have_ended_their_steps(rig: Rig) -> None:
    from relight import parallel

    shift = [0]

    def arm(n: int) -> int:
        got = reserve(n + shift[0] * (n == 1))
        wait_signal("go", type=int)
        return got

    @workflow
    def job() -> list[int]:
        return parallel(arm, range(3))

    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    shift[0] = 100
    for _ in range(3):
        done.signal("go", 1)
    stopped(rig, done, "arguments")
    assert sorted(CALLS) == ["reserve 0", "reserve 1", "reserve 2"]
    shift[0] = 0
    done.resume(by="ada")
    assert done.result(timeout_seconds=10) == [0, 1, 2]
