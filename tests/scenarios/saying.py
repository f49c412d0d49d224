"""What a job says while it runs: published values, issues, progress; once, whatever is replayed."""

from __future__ import annotations

import asyncio

from tests.scenarios.script import Publishes, Scenario, Send, Waits, named

from relight import heartbeat, issue, parallel, publish, sleep, step, wait_signal, workflow


@step
def note(word: str) -> str:
    return word


@step
def publishes_inside(word: str) -> str:
    publish("draft", f"{word}…")
    publish("draft", word)
    return word


@step
async def beats(pages: int) -> int:
    for page in range(pages):
        heartbeat(done=page + 1, total=pages, note=str(page))
    return pages


@workflow
def published() -> str:
    publish("state", "began")
    note("x")
    publish("state", "noted")
    return "done"


@workflow
async def published_aio() -> str:
    publish("state", {"n": 1})
    await note.aio("x")
    return "done"


@workflow
def before_and_after_a_sleep() -> str:
    publish("state", 1)
    sleep(60)
    publish("state", 2)
    return "done"


@workflow
def in_a_step() -> str:
    return publishes_inside("text")


@workflow
def two_names() -> None:
    publish("a", 1)
    publish("b", 2)
    publish("a", 3)


@workflow
def read_while_it_waits() -> list[str]:
    publish("question", "how many?")
    return [wait_signal("answer", type=str)]


@workflow
def one_issue() -> str:
    issue("no_ocr", "page 17 is an image")
    return note("done")


@workflow
async def issues_and_a_sleep() -> str:
    issue("first")
    await sleep.aio(60)
    issue("second", "after the sleep")
    return await note.aio("done")


@workflow
def same_issue_twice() -> str:
    issue("slow", "a")
    issue("slow", "b")
    return "done"


@workflow
def issue_and_failure() -> str:
    issue("early")
    raise ValueError("failed all the same")


def arm(n: int) -> int:
    if n == 2:
        issue("odd_one", str(n))
    return len(note(str(n)))


@workflow
def issues_in_arms() -> list[int]:
    return parallel(arm, [1, 2, 3])


@workflow
async def progress() -> int:
    return await beats(3)


@workflow
async def published_by_lines() -> int:
    async def line(n: int) -> int:
        publish(f"line{n}", n)
        await sleep.aio(n)
        return n

    return sum(await asyncio.gather(line(1), line(2)))


@workflow
def body_progress() -> int:
    for done in range(3):
        heartbeat(done=done, total=3)
        note(str(done))
    return 3


SCENARIOS = named(
    [
        Scenario("published", published, says="Each publish of a body is recorded once, in order."),
        Scenario("published_async", published_aio, says="The same in async code."),
        Scenario(
            "before_and_after_a_sleep",
            before_and_after_a_sleep,
            says="A replay does not publish the older value again.",
        ),
        Scenario("in_a_step", in_a_step, says="In a step it is published whenever the step runs."),
        Scenario("two_names", two_names, says="Names have values of their own."),
        Scenario(
            "read_while_it_waits",
            read_while_it_waits,
            (),
            (Waits("signal:answer#0"), Publishes("question"), Send("answer", "three")),
            says="Somebody reads it, and answers.",
        ),
        Scenario("one_issue", one_issue, says="An issue, and a result: completed_with_issues."),
        Scenario("issues_and_a_sleep_async", issues_and_a_sleep, says="Issues are noted once, whatever is replayed."),
        Scenario("same_code_twice", same_issue_twice, says="Two issues of one code are two."),
        Scenario("issue_and_failure", issue_and_failure, says="A failure is a failure, with issues or without."),
        Scenario("issues_in_arms", issues_in_arms, lines=True, says="An arm notes an issue."),
        Scenario("progress_async", progress, says="Heartbeats are no events."),
        Scenario("progress_of_a_body", body_progress, says="Nor are those of a body."),
        Scenario("published_by_lines_async", published_by_lines, lines=True, says="Lines publish side by side."),
    ]
)
