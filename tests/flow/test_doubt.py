"""In doubt: after a crash, or a try without a certain answer, each step says what happens before its next try."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import Done, Engine, Job, NotDone, Retry, current_step, step, wait_signal, workflow
from relight.errors import Conflict, InvalidArgument, JobFailed, StepError, StepFailed
from relight.model import JobState, StepState


class Mail:
    """A mail server: what it was asked to send, and a step that hangs in its first call until the test lets it go."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.hangs = True
        self.called = threading.Event()
        self.go = threading.Event()

    def send(self) -> str:
        self.sent.append(current_step().try_number)
        if self.hangs:
            self.hangs = False
            self.called.set()
            wait_for(self.go)
        return f"sent {len(self.sent)}"


@pytest.fixture
def mail() -> Mail:
    return Mail()


def job_of(mail: Mail, colour: str = "sync", **options: Any) -> Any:
    """Return a workflow that sends one mail."""
    if colour == "sync":

        @step(**options)
        def send() -> str:
            return mail.send()

        @workflow
        def job() -> str:
            return send()

        return job

    @step(**options)
    def asend() -> str:
        return mail.send()

    @workflow
    async def ajob() -> str:
        return await asend.aio()

    return ajob


def cut(rig: Rig, mail: Mail, job: Any) -> tuple[Engine, Job[Any]]:
    """Crash an engine in the middle of the mail, and start another one."""
    engine = rig.start(job)
    cut_job = engine.submit(job)
    wait_for(mail.called)
    key = "send#0" if job.kind == "job" else "asend#0"
    rig.until_recorded(cut_job, key, "running")
    engine = rig.restart(engine, job)
    mail.go.set()
    return engine, engine.job(cut_job.id)


# ---------------------------------------------------------------- the four policies after a crash


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_retry_calls_again(rig: Rig, mail: Mail, colour: str) -> None:
    _, done = cut(rig, mail, job_of(mail, colour))
    assert done.result(timeout_seconds=10) == "sent 2"
    assert mail.sent == [1, 1]
    assert "decision" not in " ".join(rig.told(done))


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_fail_fails_the_step_and_the_job_may_catch_it(rig: Rig, mail: Mail, colour: str) -> None:
    _, failed = cut(rig, mail, job_of(mail, colour, in_doubt="fail"))
    with pytest.raises(JobFailed) as caught:
        failed.result(timeout_seconds=10)
    assert caught.value.fields["error_code"] == "in_doubt"
    assert mail.sent == [1]
    [told] = rig.events(failed, "step_reconciled")
    assert '"as":"failed"' in told.payload


def test_a_step_that_failed_in_doubt_can_be_caught(rig: Rig, mail: Mail) -> None:
    @step(in_doubt="fail")
    def send() -> str:
        return mail.send()

    @workflow
    def job() -> str:
        try:
            return send()
        except StepFailed as error:
            return f"{error.error_code} at {error.step_key}"

    _, done = cut(rig, mail, job)
    assert done.result(timeout_seconds=10) == "in_doubt at send#0"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_ask_waits_for_a_person_who_says_done_with_a_value(rig: Rig, mail: Mail, colour: str) -> None:
    engine, asked = cut(rig, mail, job_of(mail, colour, in_doubt="ask"))
    row = rig.until(asked, JobState.AWAITING_USER)
    assert row.status_reason == "awaiting_user"
    assert mail.sent == [1]
    causes = {cause.code for cause in asked.why().causes}
    assert "in_doubt" in causes or "waiting_decision" in causes
    engine.core.settle(
        asked.id, rig.question(asked).step_key.partition("?")[0], verdict="done", value='"by hand"', by="ada"
    )
    assert asked.result(timeout_seconds=10) == "by hand"
    assert mail.sent == [1]
    [told] = rig.events(asked, "step_reconciled")
    assert (told.actor, told.actor_id) == ("human", "ada")


def test_ask_waits_for_a_person_who_says_not_done(rig: Rig, mail: Mail) -> None:
    _, asked = cut(rig, mail, job_of(mail, in_doubt="ask"))
    rig.until(asked, JobState.AWAITING_USER)
    asked.answer("not_done", by="ada")
    assert asked.result(timeout_seconds=10) == "sent 2"
    assert mail.sent == [1, 1]


def test_ask_waits_for_a_person_who_says_fail(rig: Rig, mail: Mail) -> None:
    _, asked = cut(rig, mail, job_of(mail, in_doubt="ask"))
    rig.until(asked, JobState.AWAITING_USER)
    asked.answer("fail", note="better not", by="ada")
    with pytest.raises(JobFailed, match="better not"):
        asked.result(timeout_seconds=10)
    assert mail.sent == [1]


def test_the_question_about_a_doubt_outlives_crashes_and_is_asked_once(rig: Rig, mail: Mail) -> None:
    job = job_of(mail, in_doubt="ask")
    engine, asked = cut(rig, mail, job)
    rig.until(asked, JobState.AWAITING_USER)
    engine = rig.restart(engine, job)
    rig.stop(engine)
    client = rig.client()
    client.job(asked.id).answer("not_done", by="ada")
    engine = rig.start(job)
    assert engine.job(asked.id).result(timeout_seconds=10) == "sent 2"
    assert len(rig.decisions(asked)) == 1


def test_a_second_doubt_about_the_same_step_is_a_second_question(rig: Rig, mail: Mail) -> None:
    job = job_of(mail, in_doubt="ask")
    engine, asked = cut(rig, mail, job)
    rig.until(asked, JobState.AWAITING_USER)
    mail.hangs, mail.called, mail.go = True, threading.Event(), threading.Event()
    asked.answer("not_done", by="ada")
    wait_for(mail.called)
    engine = rig.restart(engine, job)
    mail.go.set()
    asked = engine.job(asked.id)
    rig.question(asked)
    asked.answer("not_done", by="ada")
    assert asked.result(timeout_seconds=10) == "sent 3"
    assert [row.step_key for row in rig.decisions(asked)] == ["send#0?0", "send#0?1"]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("how", ["sync", "async"])
def test_reconcile_that_finds_it_done_gives_the_value(rig: Rig, mail: Mail, colour: str, how: str) -> None:
    asked: list[tuple[str, int]] = []

    def find() -> Done[str] | NotDone:
        asked.append((current_step().idempotency_key, current_step().try_number))
        return Done("found")

    async def afind() -> Done[str] | NotDone:
        return find()

    _, done = cut(rig, mail, job_of(mail, colour, in_doubt=find if how == "sync" else afind))
    assert done.result(timeout_seconds=10) == "found"
    assert mail.sent == [1] and len(asked) == 1
    assert asked[0][0].startswith(f"{done.id}:") and asked[0][1] == 1
    [told] = rig.events(done, "step_reconciled")
    assert '"as":"done"' in told.payload and told.actor == "system"


def test_reconcile_that_finds_nothing_calls_again(rig: Rig, mail: Mail) -> None:
    def find() -> Done[str] | NotDone:
        return NotDone()

    _, done = cut(rig, mail, job_of(mail, in_doubt=find))
    assert done.result(timeout_seconds=10) == "sent 2"


def test_reconcile_of_a_job_is_called_with_the_steps_arguments(rig: Rig, mail: Mail) -> None:
    given: list[Any] = []

    def find(to: str, *, copies: int = 1) -> Done[str] | NotDone:
        given.append((to, copies))
        return Done("found")

    @step(in_doubt=find)
    def send(to: str, *, copies: int = 1) -> str:
        return mail.send()

    @workflow
    def job() -> str:
        return send("ada", copies=2)

    _, done = cut(rig, mail, job)
    assert done.result(timeout_seconds=10) == "found"
    assert given == [("ada", 2)]


def test_a_sync_reconcile_does_not_block_the_loop(rig: Rig, mail: Mail) -> None:
    threads: list[str] = []

    def find() -> Done[str] | NotDone:
        threads.append(threading.current_thread().name)
        return Done("found")

    @step(in_doubt=find)
    async def send() -> str:
        mail.called.set()
        mail.go.wait(0)
        await asyncio_forever()
        return ""

    async def asyncio_forever() -> None:
        import asyncio

        await asyncio.get_running_loop().create_future()

    @workflow
    async def job() -> str:
        return await send()

    _, done = cut(rig, mail, job)
    assert done.result(timeout_seconds=10) == "found"
    assert not threads[0].startswith("relight-loop")


def raising() -> Done[str] | NotDone:
    raise ConnectionError("the mail server is down")


def silent() -> Any:
    return None


def unstorable() -> Any:
    return Done(object())


@pytest.mark.parametrize(
    "find", [raising, silent, unstorable], ids=["raises", "says nothing", "gives what cannot be stored"]
)
def test_reconcile_that_does_not_say_asks_a_person(rig: Rig, mail: Mail, find: Callable[[], Any]) -> None:
    _, asked = cut(rig, mail, job_of(mail, in_doubt=find))
    rig.until(asked, JobState.AWAITING_USER)
    assert mail.sent == [1]
    asked.answer("not_done", by="ada")
    assert asked.result(timeout_seconds=10) == "sent 2"


# ---------------------------------------------------------------- tries without a certain answer


@pytest.mark.parametrize("tries", [2, 3])
def test_reconcile_comes_before_every_next_try_after_an_uncertain_failure(rig: Rig, tries: int) -> None:
    said: list[str] = []

    def find() -> Done[str] | NotDone:
        said.append(f"look {current_step().try_number}")
        return NotDone()

    @step(in_doubt=find, retry=Retry(tries=3, first_seconds=0))
    def charge() -> str:
        said.append(f"try {current_step().try_number}")
        if current_step().try_number < tries:
            raise ConnectionError("reset")
        return "charged"

    @workflow
    def job() -> str:
        return charge()

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == "charged"
    assert said == ["try 1", "look 1", "try 2", "look 2", "try 3"][: 2 * tries - 1]


def test_an_uncertain_failure_that_had_happened_is_done(rig: Rig) -> None:
    def find() -> Done[str] | NotDone:
        return Done("ch_1")

    @step(in_doubt=find, retry=Retry(tries=3, first_seconds=0))
    def charge() -> str:
        raise ConnectionError("reset after the charge")

    @workflow
    def job() -> str:
        return charge()

    assert rig.start(job).submit(job).result(timeout_seconds=10) == "ch_1"


class Declined(Exception):
    """A certain answer."""


@pytest.mark.parametrize("error", [StepError("503, nothing was done"), Declined("no")])
def test_a_certain_failure_needs_no_looking(rig: Rig, error: Exception) -> None:
    looked: list[int] = []

    def find() -> Done[str] | NotDone:
        looked.append(1)
        return NotDone()

    @step(in_doubt=find, retry=Retry(tries=2, first_seconds=0), raises=(Declined,))
    def charge() -> str:
        if current_step().try_number == 1:
            raise error
        return "charged"

    @workflow
    def job() -> str:
        try:
            return charge()
        except Declined:
            return "declined"

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) == ("declined" if isinstance(error, Declined) else "charged")
    assert looked == []


def test_ask_comes_before_every_next_try_after_an_uncertain_failure(rig: Rig) -> None:
    tries: list[int] = []

    @step(in_doubt="ask", retry=Retry(tries=3, first_seconds=0))
    def charge() -> str:
        tries.append(current_step().try_number)
        if len(tries) < 3:
            raise ConnectionError("reset")
        return "charged"

    @workflow
    def job() -> str:
        return charge()

    done = rig.start(job).submit(job)
    for n in (1, 2):
        eventually(lambda n=n: len(rig.decisions(done)) == n)
        assert len(tries) == n
        rig.question(done)
        done.answer("not_done", by="ada")
    assert done.result(timeout_seconds=10) == "charged"
    assert tries == [1, 2, 3]


def test_fail_fails_after_an_uncertain_failure_whatever_the_schedule(rig: Rig) -> None:
    tries: list[int] = []

    @step(in_doubt="fail", retry=Retry(tries=3, first_seconds=0))
    def charge() -> str:
        tries.append(1)
        raise ConnectionError("reset")

    @workflow
    def job() -> str:
        return charge()

    with pytest.raises(JobFailed):
        rig.start(job).submit(job).result(timeout_seconds=10)
    assert len(tries) == 1


def test_an_operators_retry_looks_before_it_calls_again(rig: Rig) -> None:
    said: list[str] = []

    def find() -> Done[str] | NotDone:
        said.append("look")
        return NotDone()

    @step(in_doubt=find)
    def charge() -> str:
        said.append("call")
        if said.count("call") == 1:
            raise ConnectionError("reset")
        return "charged"

    @workflow
    def job() -> str:
        return charge()

    failed = rig.start(job).submit(job)
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == "charged"
    assert said == ["call", "look", "call"]


def test_an_operators_retry_of_a_step_that_fails_in_doubt_calls_again(rig: Rig, mail: Mail) -> None:
    _, failed = cut(rig, mail, job_of(mail, in_doubt="fail"))
    with pytest.raises(JobFailed):
        failed.result(timeout_seconds=10)
    failed.retry(by="ada")
    assert failed.result(timeout_seconds=10) == "sent 2"


def test_the_begin_of_a_step_that_matters_is_durable_before_its_function_is_called(rig: Rig) -> None:
    seen: list[str | None] = []

    @step(in_doubt="ask")
    def send(job_id: str) -> None:
        step_row = rig.steps(job_id).get(current_step().key)
        seen.append(None if step_row is None else step_row.state)

    @workflow
    def job(n: int) -> None:
        from relight import current_job

        send(current_job().id)

    rig.start(job).submit(job, 1).result(timeout_seconds=10)
    assert seen == ["running"]


# ---------------------------------------------------------------- an operator settles ahead


def held_in_doubt(rig: Rig, mail: Mail, *, policy: str = "ask") -> tuple[Engine, Job[Any], Any]:
    """Crash in the middle of the mail of a job that an operator wants to look at himself."""

    @step(in_doubt=policy)
    def send() -> str:
        return mail.send()

    @workflow(on_stall="hold")
    def job() -> str:
        return send()

    engine, held = cut(rig, mail, job)
    rig.until(held, JobState.STALLED, "held:policy")
    return engine, held, job


@pytest.mark.parametrize(
    "verdict, value, expected, calls",
    [("done", '"ch_9"', "ch_9", 1), ("not_done", None, "sent 2", 2)],
)
def test_an_operator_may_settle_before_the_job_runs_again(
    rig: Rig, mail: Mail, verdict: str, value: str | None, expected: str, calls: int
) -> None:
    engine, held, _ = held_in_doubt(rig, mail)
    engine.core.settle(held.id, "send#0", verdict=verdict, value=value, by="ada")
    held.resume(by="ada")
    assert held.result(timeout_seconds=10) == expected
    assert len(mail.sent) == calls
    assert rig.decisions(held) == []
    [told] = rig.events(held, "step_reconciled")
    assert (told.actor, told.actor_id) == ("human", "ada")


def test_an_operator_may_fail_it_before_the_job_runs_again(rig: Rig, mail: Mail) -> None:
    engine, held, _ = held_in_doubt(rig, mail)
    engine.core.settle(held.id, "send#0", verdict="fail", value=None, by="ada")
    held.resume(by="ada")
    with pytest.raises(JobFailed, match="failed by ada"):
        held.result(timeout_seconds=10)


def test_settling_what_is_not_in_doubt_is_refused(rig: Rig, mail: Mail) -> None:
    engine, held, _ = held_in_doubt(rig, mail)
    with pytest.raises(Conflict, match="not in doubt"):
        engine.core.settle(held.id, "send#1", verdict="done", value=None, by="ada")
    with pytest.raises(InvalidArgument, match="JSON"):
        engine.core.settle(held.id, "send#0", verdict="done", value="ch_9", by="ada")
    with pytest.raises(InvalidArgument, match="verdict"):
        engine.core.settle(held.id, "send#0", verdict="perhaps", value=None, by="ada")
    assert rig.steps(held)["send#0"].state is StepState.IN_DOUBT
    held.cancel()
    rig.until(held, JobState.CANCELLED)


def test_a_persons_value_that_does_not_fit_is_asked_for_again(rig: Rig, mail: Mail) -> None:
    engine, asked = cut(rig, mail, job_of(mail, in_doubt="ask"))
    rig.question(asked)
    engine.core.settle(asked.id, "send#0", verdict="done", value="17", by="ada")
    eventually(lambda: len(rig.decisions(asked)) == 2)
    assert "does not fit" in rig.question(asked).question
    engine.core.settle(asked.id, "send#0", verdict="done", value='"ch_17"', by="ada")
    assert asked.result(timeout_seconds=10) == "ch_17"


def test_a_value_settled_ahead_that_does_not_fit_stops_for_an_operator(rig: Rig, mail: Mail) -> None:
    engine, held, _ = held_in_doubt(rig, mail)
    engine.core.settle(held.id, "send#0", verdict="done", value="17", by="ada")
    held.resume(by="ada")
    row = rig.until(held, JobState.AWAITING_USER)
    assert row.status_reason == "history_mismatch:outcome"
    held.cancel()
    rig.until(held, JobState.CANCELLED)


def test_a_doubt_that_the_code_never_reaches_stops_for_an_operator(rig: Rig, mail: Mail) -> None:
    reaches = [True]

    @step(in_doubt="ask")
    def send() -> str:
        return mail.send()

    @workflow
    def job() -> str:
        return send() if reaches[0] else "nothing to do"

    engine = rig.start(job)
    cut_job = engine.submit(job)
    wait_for(mail.called)
    reaches[0] = False
    engine = rig.restart(engine, job)
    mail.go.set()
    row = rig.until(cut_job, JobState.AWAITING_USER)
    assert row.status_reason == "history_mismatch:never_reached"
    reaches[0] = True
    again = engine.job(cut_job.id)
    again.resume(by="ada")
    rig.question(again)
    again.answer("not_done", by="ada")
    assert again.result(timeout_seconds=10) == "sent 2"


def test_a_try_is_not_in_doubt_because_its_run_was_put_away_while_it_began(rig: Rig) -> None:
    """A slow disk: the begin record is under way while another line's long wait would put the run away."""
    import asyncio

    from relight import sleep

    calls: list[int] = []

    @step(in_doubt="ask")
    async def charge() -> str:
        calls.append(1)
        return "charged"

    slow_disk = ["once"]

    async def line() -> str:
        if slow_disk:
            while len(engine._engine.all_runs()[0].parked) < 2:
                await asyncio.sleep(0)
            rig.probes[engine].hold(slow_disk.pop() and "before_commit")
        return await charge()

    @workflow
    async def job() -> list[Any]:
        never = wait_signal.aio("never", type=int, timeout_seconds=0.4, default=0)
        return list(await asyncio.gather(sleep.aio(0.5), never, line()))

    engine = rig.start(job)
    done = engine.submit(job)
    rig.probes[engine].wait_held("before_commit")
    threading.Event().wait(0.15)  # long enough for the quiet run to have been put away
    rig.probes[engine].let_go()
    assert done.result(timeout_seconds=10) == [None, 0, "charged"]
    assert calls == [1] and rig.decisions(done) == []
