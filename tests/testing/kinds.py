"""One small workflow for each thing a job can do, and what the world outside does for it: for the test kit to drive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relight import (
    Engine,
    ask,
    branch,
    external,
    parallel,
    patched,
    poll,
    publish,
    race,
    sleep,
    start,
    step,
    wait_signal,
    workflow,
)
from relight.errors import StepFailed
from relight.testing import drain


@step
def order(what: str, hook: str) -> str:
    return f"ordered {what} for {hook}"


@step(inputs="hash")
def order_quietly(hook: str) -> int:
    return len(hook)


@step
def word(text: str) -> str:
    return text


@step
async def word_async(text: str) -> str:
    await asyncio.sleep(0)
    return text


@step
def picky(n: int) -> int:
    if n % 3 == 0:
        raise ValueError(f"no {n}")
    return n * 10


@step
def more(n: int) -> int:
    return n + 1


@workflow
def hands_out(name: str) -> str:
    scan = external("scan", type=str)
    said = order(name, f"https://app/hooks/{scan.token}")
    order_quietly(scan.token)
    result = scan.wait()
    assert scan.token in said
    return result


@workflow
async def hands_out_async(name: str) -> list[str]:
    scans = [external("scan", type=str) for _ in range(2)]
    for scan in scans:
        await order.aio(name, scan.token)
    got = []
    for scan in scans:
        try:
            got.append(await scan.wait.aio())
        except StepFailed as error:
            got.append(type(error).__name__)
    return got


@workflow
def polls(goal: int) -> int:
    return poll(more, 0, until=lambda n: n >= goal, every_seconds=60)


@workflow
def races(text: str) -> list[Any]:
    lines = [branch(word, text), branch(sleep, 3600)]
    won = race(*lines)
    return [won, lines[0].result(), word("after")]


@workflow
async def races_async(text: str) -> list[Any]:
    lines = [branch(word_async, text), branch(sleep.aio, 3600)]
    won = await race.aio(*lines)
    return [won, await lines[0], await word_async("after")]


@workflow
def branches_out(text: str) -> list[str]:
    a, b = branch(word, text), branch(word, "b")
    return [b.result(), a.result()]


@workflow
def tolerates(count: int) -> list[int]:
    return parallel(picky, range(count), max_failed=2, key=str).ok


@workflow
async def tolerates_async(count: int) -> list[int]:
    return (await parallel.aio(picky, range(count), max_failed_share=0.5)).ok


@workflow
def publishes(text: str) -> str:
    publish("so_far", [word(text)])
    sleep(60)
    publish("so_far", [text, word("b")])
    return text


@workflow
def patches(text: str) -> list[str]:
    return [word(text), *([word("new")] if patched("new") else []), word("last")]


@workflow
def asks(text: str) -> str:
    return f"{ask(text).choice} {wait_signal('go', type=str)}"


@workflow
def is_child(n: int) -> int:
    return more(n)


@workflow
async def has_children(n: int) -> list[int]:
    children = await start.aio([is_child.bind(i) for i in range(n)])
    return [await child.result.aio() for child in children]


@dataclass(frozen=True)
class Kind:
    """A workflow, what it is called with, what it returns in the end, and what the world does once nothing moves."""

    flow: Any
    arg: Any
    result: Any
    world: Callable[[Engine], None] = lambda engine: None

    def play(self, engine: Engine) -> Any:
        """Submit the job and be its world; may be called again after a crash. Returns the job."""
        job = engine.submit(self.flow, self.arg, idempotency_key="one")
        drain(engine)
        self.world(engine)
        return job


def _complete(engine: Engine) -> None:
    for token in _tokens(engine):
        engine.complete(token, "clean")


def _one_of_two(engine: Engine) -> None:
    for token, ends in zip(_tokens(engine), (engine.fail, engine.complete), strict=True):
        ends(token, "broken")


def _tokens(engine: Engine) -> list[str]:
    """Return the tokens of the one job, from its record."""
    [job] = engine.jobs()
    with engine.core.store.reading() as reads:
        return [str(s.outcome).strip('"') for s in reads.steps(job.id) if s.kind == "token"]


def _answer(engine: Engine) -> None:
    [job] = engine.jobs()
    handle = engine.job(job.id)
    if any(cause.code == "waiting_decision" for cause in handle.why().causes):
        handle.answer("approve", by="ann")
    handle.signal("go", "on", idempotency_key="go")


KINDS = [
    Kind(hands_out, "x", "clean", _complete),
    Kind(hands_out_async, "x", ["StepFailed", "broken"], _one_of_two),
    Kind(polls, 3, 3),
    Kind(races, "a", [0, "a", "after"]),
    Kind(races_async, "a", [0, "a", "after"]),
    Kind(branches_out, "a", ["b", "a"]),
    Kind(tolerates, 6, [10, 20, 40, 50]),
    Kind(tolerates_async, 6, [10, 20, 40, 50]),
    Kind(publishes, "a", "a"),
    Kind(patches, "a", ["a", "new", "last"]),
    Kind(asks, "Go?", "approve on", _answer),
    Kind(has_children, 3, [1, 2, 3]),
]
FLOWS = [kind.flow for kind in KINDS] + [is_child]
