"""Callbacks: a token for somebody outside; completed, failed, late, never, with heartbeats and limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.scenarios.script import WORLD, After, Beat, Complete, End, FailToken, Publishes, Scenario, Waits, named

from relight import external, publish, sleep, step, workflow
from relight.errors import StepFailed, WaitTimeout


@dataclass
class Scan:
    clean: bool
    report: str = ""


@step
def order(file: str, token: str) -> None:
    WORLD.books[file] = token


@workflow
def scan(file: str) -> str:
    answer = external("scan", type=Scan)
    order(file, answer.token)
    found = answer.wait()
    return "clean" if found.clean else found.report


@workflow
async def scan_aio(file: str) -> str:
    answer = external("scan", type=Scan)
    await order.aio(file, answer.token)
    found = await answer.wait.aio()
    return "clean" if found.clean else found.report


@workflow
def careful(file: str) -> str:
    answer = external("scan", type=Scan, timeout_seconds=3600)
    order(file, answer.token)
    try:
        return "clean" if answer.wait().clean else "infected"
    except WaitTimeout:
        return "no answer"
    except StepFailed as failed:
        return f"failed: {failed.message}"


@workflow
def with_heartbeats(file: str) -> str:
    answer = external("scan", type=Scan, timeout_seconds=3600, heartbeat_seconds=300)
    order(file, answer.token)
    try:
        return "clean" if answer.wait().clean else "infected"
    except WaitTimeout:
        return "silent"


@workflow
async def works_between() -> str:
    answer = external("scan", type=str)
    await sleep.aio(60)
    return await answer.wait.aio()


@workflow
def limited_wait() -> str:
    answer = external("scan", type=str, timeout_seconds=3600)
    try:
        return answer.wait(timeout_seconds=60)
    except WaitTimeout:
        return f"late: {answer.wait()}"


@workflow
async def two_at_once() -> list[str]:
    left, right = external("left", type=str), external("right", type=str)
    return list(await asyncio.gather(left.wait.aio(), right.wait.aio()))


@workflow
def one_after_the_other() -> list[str]:
    return [external("word", type=str).wait() for _ in range(1)] + [external("second", type=str).wait()]


@workflow
def published() -> str:
    answer = external("scan", type=str)
    publish("token", len(answer.token) > 20)
    return answer.wait()


@workflow
def asked_twice() -> list[str]:
    answer = external("scan", type=str)
    return [answer.wait(), answer.wait()]


@workflow
async def falls_back() -> str:
    answer = external("scan", type=str, timeout_seconds=60)
    try:
        return await answer.wait.aio()
    except WaitTimeout:
        return await external("second", type=str, timeout_seconds=600).wait.aio()


@workflow
def never_waits() -> str:
    external("scan", type=str)
    return "did not wait"


CLEAN = {"clean": True}
SCENARIOS = named(
    [
        Scenario(
            "completed",
            scan,
            ("a",),
            (Waits("wait:scan#0"), Complete("scan", CLEAN)),
            says="The token is made before the order; the completion ends the wait.",
        ),
        Scenario(
            "completed_async",
            scan_aio,
            ("a",),
            (Waits("wait:scan#0"), Complete("scan", {"clean": False, "report": "worm"})),
            says="The same in async code.",
        ),
        Scenario(
            "completed_before_the_wait",
            works_between,
            (),
            (Waits("sleep#0"), Complete("scan", "early")),
            says="A completion that comes before the wait is kept.",
        ),
        Scenario(
            "completed_twice",
            scan,
            ("a",),
            (Waits("wait:scan#0"), Complete("scan", CLEAN), Complete("scan", {"clean": False})),
            lines=True,
            says="One answer counts: the first.",
        ),
        Scenario(
            "completed_in_memory",
            scan,
            ("a",),
            (Waits("wait:scan#0", running=True), Complete("scan", CLEAN)),
            engine={"suspend_after_seconds": 60},
            lines=True,
            says="A wait that is still in memory is woken there.",
        ),
        Scenario(
            "failed",
            careful,
            ("a",),
            (Waits("wait:scan#0"), FailToken("scan", "no licence")),
            says="A failure from outside raises StepFailed at the wait.",
        ),
        Scenario(
            "failed_and_not_caught",
            scan,
            ("a",),
            (Waits("wait:scan#0"), FailToken("scan", "no licence")),
            says="Nobody catches it: the job fails.",
        ),
        Scenario(
            "nobody_calls_back",
            careful,
            ("a",),
            says="After an hour the token has expired, which is an event, and WaitTimeout is raised.",
        ),
        Scenario(
            "in_time",
            careful,
            ("a",),
            (Waits("wait:scan#0"), After(3000), Complete("scan", CLEAN)),
            says="A completion within the hour counts.",
        ),
        Scenario(
            "too_late",
            careful,
            ("a",),
            (Waits("wait:scan#0"), After(3601), Waits("end"), Complete("scan", CLEAN)),
            says="One after the hour does not.",
        ),
        Scenario(
            "no_heartbeat",
            with_heartbeats,
            ("a",),
            says="Nobody beat for 300 s: expired by heartbeat, long before the hour.",
        ),
        Scenario(
            "beats_then_completes",
            with_heartbeats,
            ("a",),
            (
                Waits("wait:scan#0"),
                After(200),
                Beat("scan", "half"),
                After(450),
                Beat("scan"),
                After(700),
                Complete("scan", CLEAN),
            ),
            lines=True,
            says="With a beat every 250 s it may take longer than 300 s.",
        ),
        Scenario(
            "beats_then_silent",
            with_heartbeats,
            ("a",),
            (Waits("wait:scan#0"), After(200), Beat("scan", "half")),
            says="One beat, then silence: it has expired 300 s after the beat.",
        ),
        Scenario(
            "limit_of_one_wait",
            limited_wait,
            (),
            (Waits("wait:scan#0"), After(61), Waits("wait:scan#1"), Complete("scan", "x")),
            says="A wait's own limit leaves the token good.",
        ),
        Scenario(
            "two_at_once_async",
            two_at_once,
            (),
            (Waits("b0/wait:left#0"), Waits("b1/wait:right#0"), Complete("right", "R"), Complete("left", "L")),
            lines=True,
            says="Two tokens, completed in the other order.",
        ),
        Scenario(
            "one_after_the_other",
            one_after_the_other,
            (),
            (Complete("word", "a"), Complete("second", "b")),
            lines=True,
            says="The second token is made when the first has been completed.",
        ),
        Scenario(
            "token_is_published",
            published,
            (),
            (Publishes("token"), Waits("wait:scan#0"), Complete("scan", "x")),
            lines=True,
            says="What is published is readable while the job waits.",
        ),
        Scenario(
            "waited_for_twice",
            asked_twice,
            (),
            (Waits("wait:scan#0"), Complete("scan", "x")),
            says="A second wait for a completed token returns at once.",
        ),
        Scenario(
            "falls_back_async",
            falls_back,
            (),
            (Waits("wait:scan#0"), After(61), Waits("wait:second#0"), Complete("second", "plan B")),
            says="After one token has expired, another one is made.",
        ),
        Scenario(
            "cancelled_while_it_waits",
            scan,
            ("a",),
            (Waits("wait:scan#0"), End("cancel", "enough"), Waits("end"), Complete("scan", CLEAN)),
            lines=True,
            says="A cancel ends the wait; what is completed afterwards changes nothing.",
        ),
        Scenario("never_waited_for", never_waits, says="A token that nobody waits for does not hold the job."),
    ]
)
