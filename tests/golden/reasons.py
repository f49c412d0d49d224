"""What ``why`` answers, whole: the sentence, each cause, and the commands that help."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.flow.kit import Rig, eventually, wait_for
from tests.golden.refusals import plain
from tests.golden.situations import situation

from relight import (
    Queue,
    ask,
    step,
    wait_signal,
    workflow,
)
from relight.model import JobState

# ---------------------------------------------------------------- replay


def mismatch(rig: Rig, old: Any, new: Any) -> str:
    """Return the cause that ``why`` gives when new code meets an old job."""
    first = rig.start(old)
    job = first.submit(old)
    rig.until_put_away(job)
    rig.stop(first)
    with rig.client(workflows=[old]) as client:
        client.job(job.id).signal("go", 1)
    again = rig.start(new)
    rig.until(job, JobState.AWAITING_USER)
    found = again.job(job.id).why()
    return "\n".join([found.summary, *(f"do  {action}" for action in found.causes[0].actions)])


@step
def charge(when: str, cents: int) -> str:
    return "charged"


@step
def approve(cents: int) -> str:
    return "approved"


@situation("replay with another argument that looks like a time")
def _(rig: Rig) -> str:
    @workflow(name="job")
    def old() -> int:
        charge("2026-11-02T10:00:00Z", 5)
        return wait_signal("go", type=int)

    @workflow(name="job")
    def new() -> int:
        charge("2026-11-02T10:00:07Z", 5)
        return wait_signal("go", type=int)

    return mismatch(rig, old, new)


@situation("replay with a step put in before a finished one")
def _(rig: Rig) -> str:
    @workflow(name="job")
    def old() -> int:
        charge("now", 5)
        return wait_signal("go", type=int)

    @workflow(name="job")
    def new() -> int:
        approve(5)
        charge("now", 5)
        return wait_signal("go", type=int)

    return mismatch(rig, old, new)


# ---------------------------------------------------------------- why


def why_of(job: Any, about: Callable[[Any], bool] = lambda why: True) -> str:
    """Return what ``why`` says, once it says something of the kind."""

    def look() -> Any:
        found = job.why()
        return found if about(found) else None

    found = eventually(look, "why")
    lines = [found.summary]
    for cause in found.causes:
        lines.append(f"{cause.code}  {cause.detail}")
        lines += [f"do  {action}" for action in cause.actions]
    return "\n".join(lines)


@situation("why: waits for a decision")
def _(rig: Rig) -> str:
    @workflow
    def agent() -> str:
        return ask("Let the agent run send_mail?").choice

    job = rig.start(agent).submit(agent)
    rig.until(job, JobState.AWAITING_USER)
    return why_of(job)


@situation("why: in doubt, and a person is asked")
def _(rig: Rig) -> str:
    inside, go = threading.Event(), threading.Event()

    @step(in_doubt="ask")
    def pay() -> str:
        inside.set()
        wait_for(go)
        return "paid"

    @workflow
    def checkout() -> str:
        return pay()

    first = rig.start(checkout)
    job = first.submit(checkout, tags={"order": "o-17"})
    wait_for(inside)
    again = rig.restart(first, checkout)
    rig.question(job)
    rig.until(job, JobState.AWAITING_USER)
    told = why_of(again.job(job.id))
    go.set()
    return told


@situation("why: to be tried again")
def _(rig: Rig) -> str:
    from relight import Retry

    @step(retry=Retry(tries=6, first_seconds=60, jitter=False))
    def think() -> str:
        raise ConnectionError("HTTP 429")

    @workflow
    def agent() -> str:
        return think()

    job = rig.start(agent).submit(agent)
    rig.until_put_away(job)
    return why_of(job)


@situation("why: a full queue")
def _(rig: Rig) -> str:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> None:
        inside.set()
        wait_for(go)

    @workflow
    def nightly() -> None:
        work()

    engine = rig.start(nightly, queues=[Queue("gpu", slots=1)])
    engine.submit(nightly, queue="gpu")
    wait_for(inside)
    told = why_of(engine.submit(nightly, queue="gpu"), lambda why: why.causes[0].code == "no_free_slot")
    go.set()
    return told


@situation("why: nobody runs it")
def _(rig: Rig) -> str:
    rig.stop(rig.start(plain))
    return why_of(rig.client(workflows=[plain]).submit(plain))


@situation("why: it failed")
def _(rig: Rig) -> str:
    @step
    def parse(text: str) -> int:
        return int(text)

    @workflow
    def job() -> int:
        return parse("x")

    submitted = rig.start(job).submit(job)
    rig.until(submitted, JobState.FAILED)
    return why_of(submitted)


@situation("why: it completed after a crash, and a message was never read")
def _(rig: Rig) -> str:
    inside, go = threading.Event(), threading.Event()

    @step
    def work() -> str:
        inside.set()
        wait_for(go)
        return "done"

    @workflow
    def hello() -> str:
        return work()

    first = rig.start(hello)
    job = first.submit(hello)
    wait_for(inside)
    again = rig.restart(first, hello)
    again.job(job.id).signal("stop", by="ben")
    go.set()
    rig.until(job, JobState.COMPLETED)
    return why_of(again.job(job.id))
