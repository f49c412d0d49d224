"""Agent: model call, tools with side effects, approval, conversation state, cancel with clean-up."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from relight import (
    AsyncEngine,
    AsyncJob,
    AsyncStep,
    Done,
    NotDone,
    Resource,
    Retry,
    Secret,
    ask,
    cleanup,
    current_step,
    log,
    publish,
    step,
    wait_signal,
    workflow,
)
from relight.errors import StepError, StepFailed


@dataclass
class Response:
    status: int
    body: dict[str, Any]
    retry_after: float | None = None


class ServerBusy(Exception):
    """What the client raises for 5xx."""


class HttpClient:
    """Stands in for an async HTTP client."""

    async def post(self, url: str, *, headers: Mapping[str, str], json: object) -> Response: ...  # type: ignore[empty-body]
    async def get(self, url: str) -> Response: ...  # type: ignore[empty-body]


@asynccontextmanager
async def open_client() -> AsyncIterator[HttpClient]:
    """A resource may be a context manager, which is closed after the drain."""
    yield HttpClient()


http = Resource(HttpClient)
pooled_http = Resource(open_client)
api_key = Secret("env:LLM_API_KEY")


@dataclass
class Message:
    role: Literal["user", "assistant", "tool"]
    text: str


@dataclass
class Reply:
    text: str | None = None
    tool: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


def busy(error: Exception) -> bool:
    return isinstance(error, (ServerBusy, OSError))


@step(retry=Retry(tries=6, on=busy), timeout_seconds=120, inputs="hash")
async def think(history: list[Message]) -> Reply:
    key = current_step().idempotency_key
    answer = await http().post(
        "https://llm.example/v1/chat",
        headers={"Authorization": f"Bearer {api_key.reveal()}", "Idempotency-Key": key},
        json=[message.__dict__ for message in history],
    )
    if answer.status == 429:
        raise StepError("rate limited", code="429", retry_after_seconds=answer.retry_after or 5)
    return Reply(**answer.body)


@step(retry=Retry(tries=3))
async def search(query: str) -> str:
    return str((await pooled_http().get(f"https://search.example/{query}")).body)


async def was_mailed(to: str, body: str) -> Done[str] | NotDone:
    found = await http().get("https://mail.example/by-key/" + current_step().idempotency_key)
    return Done(str(found.body["id"])) if found.status == 200 else NotDone()


@step(in_doubt=was_mailed)
async def send_mail(to: str, body: str) -> str:
    key = current_step().idempotency_key
    sent = await http().post("https://mail.example/send", headers={"Idempotency-Key": key}, json=[to, body])
    return str(sent.body["id"])


@step
async def release_workspace(name: str) -> None: ...


TOOLS: Mapping[str, AsyncStep[..., str]] = {"search": search, "send_mail": send_mail}
NEEDS_APPROVAL = {"send_mail"}


async def use_tool(name: str, args: dict[str, Any]) -> str:
    tool = TOOLS.get(name)
    if tool is None:
        return f"no such tool: {name}"
    if name in NEEDS_APPROVAL:
        decision = await ask.aio(
            f"Let the agent run {name}?",
            preview={"tool": name, "args": args},
            timeout_seconds=86_400,
            on_timeout="reject",
        )
        if decision.choice != "approve":
            return f"refused by {decision.by}: {decision.note or 'no reason given'}"
    try:
        return await tool(**args)
    except StepFailed as error:  # a cancel must not land here: it is a BaseException
        return f"tool failed: {error.message}"


@workflow(deadline_seconds=3 * 86_400)
async def agent(goal: str) -> str:
    history = [Message("user", goal)]
    try:
        for turn in range(40):
            said: str | None = await wait_signal.aio("user", type=str, timeout_seconds=0, default=None)
            if said is not None:
                history.append(Message("user", said))
            reply = await think(history)
            publish("history", history)
            if reply.tool is None:
                return reply.text or ""
            log.info("turn %s uses %s", turn, reply.tool)
            history.append(Message("tool", await use_tool(reply.tool, reply.args)))
        return "gave up after 40 turns"
    finally:
        with cleanup(timeout_seconds=30):
            await release_workspace("ws")


async def main() -> None:
    async with AsyncEngine("agent.db", workflows=[agent]) as engine:
        job: AsyncJob[str] = await engine.submit(agent, "Invite Ada to lunch")
        await job.signal("user", "make it Friday", by="ben", idempotency_key="chat-17")
        await job.cancel("user closed the tab", by="ben")
        print((await job.why()).summary)
        talk: list[Message] = await job.published("history", type=list[Message], timeout_seconds=10)
        print(len(talk))
        async for event in job.events(follow=True):
            print(event.type, event.payload)
