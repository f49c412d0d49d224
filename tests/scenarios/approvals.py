"""Approvals: a person answers, in time or not; several questions; options; notes; what a cancel does to a question."""

from __future__ import annotations

import asyncio

from tests.scenarios.script import After, Answer, End, Scenario, Waits, named

from relight import ask, sleep, step, workflow
from relight.errors import StepFailed, WaitTimeout


@step
def send(to: str) -> str:
    return f"sent to {to}"


@step
def withdraw(to: str) -> str:
    return f"withdrew {to}"


@workflow
def approval(to: str) -> str:
    if ask(f"Send it to {to}?").choice == "approve":
        return send(to)
    return withdraw(to)


@workflow
async def approval_aio(to: str) -> str:
    decision = await ask.aio(f"Send it to {to}?", preview={"to": to})
    return await send.aio(to) if decision.choice == "approve" else await withdraw.aio(to)


@workflow
def options() -> str:
    decision = ask("Publish?", options=("publish", "rework", "drop"))
    return f"{decision.choice} by {decision.by}: {decision.note}"


@workflow
def limited() -> str:
    try:
        return ask("Now?", timeout_seconds=3600).choice
    except WaitTimeout:
        return send("nobody")


@workflow
async def limited_with_choice() -> str:
    decision = await ask.aio("Now?", timeout_seconds=3600, on_timeout="reject")
    return f"{decision.choice} by {decision.by}"


@workflow
def two_people() -> list[str]:
    first = ask("First pair of eyes?")
    if first.choice != "approve":
        return [first.by]
    second = ask("Second pair of eyes?")
    return [first.by, second.by, second.choice]


@workflow
async def at_once() -> list[str]:
    found = await asyncio.gather(ask.aio("Left?"), ask.aio("Right?"))
    return [decision.choice for decision in found]


@workflow
async def beside_a_sleep() -> list[str]:
    async def nap() -> str:
        await sleep.aio(600)
        return "slept"

    async def question() -> str:
        return (await ask.aio("Go on?")).choice

    return list(await asyncio.gather(question(), nap()))


@workflow
def asked_until_approved() -> int:
    asked = 1
    while ask(f"Good enough, round {asked}?").choice == "reject":
        asked += 1
        send(f"round {asked}")
    return asked


@step
def breaks() -> str:
    raise ValueError("broken")


@workflow
def person_decides_on_failure() -> str:
    try:
        return breaks()
    except StepFailed as failed:
        return ask(f"{failed.message}: go on?", options=("skip", "stop")).choice


@workflow
def approval_after_work(to: str) -> str:
    draft = send("the printer")
    return f"{draft}, {ask('Release?').choice}"


SCENARIOS = named(
    [
        Scenario(
            "approved",
            approval,
            ("ben",),
            (Answer("approve"),),
            says="The job is awaiting_user, put away, until a person approves; then it goes on.",
        ),
        Scenario("rejected", approval, ("ben",), (Answer("reject"),), says="A rejection is an answer like any other."),
        Scenario(
            "approved_async",
            approval_aio,
            ("ben",),
            (Answer("approve", note="fine"),),
            says="The same in async code, with a preview and a note.",
        ),
        Scenario(
            "one_of_three_options",
            options,
            (),
            (Answer("rework", by="ben", note="typos"),),
            says="The decision has the choice, who, and the note.",
        ),
        Scenario("nobody_answers", limited, says="After an hour WaitTimeout is raised, and can be caught."),
        Scenario(
            "answered_in_time",
            limited,
            (),
            (Waits("ask#0"), After(1800), Answer("reject")),
            says="An answer within the limit counts.",
        ),
        Scenario("time_decides_async", limited_with_choice, says="With on_timeout= time decides, by timeout."),
        Scenario(
            "two_people",
            two_people,
            (),
            (Answer("approve", 0, "ada"), Answer("approve", 1, "ben")),
            says="Two questions, one after the other, to two people.",
        ),
        Scenario(
            "first_person_stops_it",
            two_people,
            (),
            (Answer("reject", 0, "ada"),),
            says="The second question is never asked.",
        ),
        Scenario(
            "two_questions_at_once_async",
            at_once,
            (),
            (Waits("b0/ask#0"), Waits("b1/ask#0"), Answer("reject", 1), Answer("approve", 0)),
            lines=True,
            says="Two open questions, answered in the other order.",
        ),
        Scenario(
            "question_beside_a_sleep_async",
            beside_a_sleep,
            (),
            (Waits("b0/ask#0"), Waits("b1/sleep#0"), Answer("approve")),
            lines=True,
            says="A job that also sleeps stays queued, not awaiting_user; the answer counts all the same.",
        ),
        Scenario(
            "rounds",
            asked_until_approved,
            (),
            (Answer("reject", 0), Answer("reject", 1), Answer("approve", 2)),
            says="Each round asks anew; the steps between are called once.",
        ),
        Scenario(
            "person_decides_on_failure",
            person_decides_on_failure,
            (),
            (Answer("skip"),),
            says="A failed step, and a person who says what then.",
        ),
        Scenario(
            "after_work",
            approval_after_work,
            ("x",),
            (Answer("approve"),),
            says="What was done before the question is not done again.",
        ),
        Scenario(
            "never_answered",
            approval,
            ("ben",),
            (Waits("ask#0"),),
            says="Without a limit the job awaits its user, and why says so.",
        ),
        Scenario(
            "cancelled_while_asked",
            approval,
            ("ben",),
            (Waits("ask#0"), End("cancel", "no longer")),
            says="A cancel gives it a last run and withdraws the question.",
        ),
    ]
)
