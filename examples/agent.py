"""An agent's loop: a model, tools, approval of one of them, clean-up. The model is a fake, so that this runs anywhere.

Every model call and every tool call is a step: after a crash nothing is asked, or paid for, twice.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relight import AsyncEngine, AsyncStep, Resource, Retry, ask, cleanup, log, step, wait_signal, workflow
from relight.errors import StepError, StepFailed
from relight.model import JobState


@dataclass
class Message:
    role: Literal["user", "assistant", "tool"]
    text: str


@dataclass
class Reply:
    text: str = ""
    tool: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


class FakeModel:
    """Says what a model might say, by how far the talk has come; busy at its first call."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, history: list[Message]) -> Reply:
        self.calls += 1
        if self.calls == 1:
            raise StepError("rate limited", code="429", retry_after_seconds=0.05)
        done = [message.text for message in history if message.role == "tool"]
        if not done:
            return Reply(tool="search", args={"query": "a table for two"})
        if len(done) == 1:
            return Reply(tool="send_mail", args={"to": "ada@example.com", "body": f"Lunch at {done[0]}?"})
        return Reply(text=f"Invited Ada: {done[1]}")


model = Resource(FakeModel)


@step(retry=Retry(tries=6), timeout_seconds=120, inputs="hash")
async def think(history: list[Message]) -> Reply:
    return await model().complete(history)


@step(retry=Retry(tries=3))
async def search(query: str) -> str:
    return {"a table for two": "the blue café"}[query]


@step(in_doubt="ask")
async def send_mail(to: str, body: str) -> str:
    return f"mailed {to}: {body}"


@step
async def release_workspace() -> None:
    print("workspace released")


TOOLS: Mapping[str, AsyncStep[..., str]] = {"search": search, "send_mail": send_mail}
NEEDS_APPROVAL = {"send_mail"}


async def use_tool(reply: Reply) -> str:
    tool = TOOLS.get(reply.tool or "")
    if tool is None:
        return f"no such tool: {reply.tool}"
    if reply.tool in NEEDS_APPROVAL:
        decision = await ask.aio(f"Let the agent run {reply.tool}?", preview=reply.args, timeout_seconds=86_400)
        if decision.choice != "approve":
            return f"refused by {decision.by}: {decision.note or 'no reason given'}"
    try:
        return await tool(**reply.args)
    except StepFailed as error:  # a cancel does not land here: it is a BaseException
        return f"tool failed: {error.message}"


@workflow(deadline_seconds=3 * 86_400)
async def agent(goal: str) -> str:
    history = [Message("user", goal)]
    try:
        for turn in range(40):
            said = await wait_signal.aio("user", type=str, timeout_seconds=0, default=None)
            if said is not None:
                history.append(Message("user", said))
            reply = await think(history)
            if reply.tool is None:
                return reply.text
            log.info("turn %s uses %s", turn, reply.tool)
            history.append(Message("tool", await use_tool(reply)))
        return "gave up after 40 turns"
    finally:
        with cleanup(timeout_seconds=30):
            await release_workspace()


async def main() -> None:
    async with AsyncEngine("agent.db", workflows=[agent]) as engine:
        job = await engine.submit(agent, "Invite Ada to lunch")
        await job.signal("user", "make it Friday", by="ben", idempotency_key="chat-17")
        async for event in job.events(follow=True):
            if event.payload.get("what", "").startswith("decision:"):
                break
        print((await job.why()).summary.split(" (")[0].split(" ", 2)[2])
        await job.answer("approve", by="ben")
        print(await job.result(timeout_seconds=10))
        assert await job.state() is JobState.COMPLETED


if __name__ == "__main__":
    asyncio.run(main())
