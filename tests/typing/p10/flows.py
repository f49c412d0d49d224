"""Queues, children, steps as methods, inline calls of workflows."""

import asyncio
from dataclasses import dataclass

from relight import AsyncWorkflow, Child, Queue, branch, parallel, patched, race, sleep, start, step, workflow
from relight.model import Outcomes

bulk = Queue("bulk", slots=200, per_engine_slots=40)
gpu = Queue("gpu", slots=3, per_engine_slots=1)


@dataclass
class Doc:
    id: str
    note: str = ""


@step
async def embed(doc: Doc) -> list[float]:
    return [float(len(doc.id))]


@step
async def check(doc: Doc) -> None: ...


@workflow(queue=gpu, version="2")
async def index_one(doc: Doc) -> int:
    if patched("check-before-embed"):
        await check(doc)
    return len(await embed(doc))


@workflow(queue=bulk)
async def index_all(docs: list[Doc]) -> int:
    children: list[Child[int]] = await start.aio(index_one.bind(d).options(idempotency_key=d.id) for d in docs)
    one: Child[int] = await start.aio(index_one, docs[0], detached=True)
    return sum([await child.result.aio() for child in [*children, one]])


@workflow(name="index_one", version="1")
async def index_one_v1(doc: Doc) -> int:
    return len(await embed(doc))


class Mailer:
    """Steps as methods: `self` is not an argument of the step."""

    def __init__(self, host: str) -> None:
        self.host = host

    @step
    def send(self, to: str) -> str:
        return f"{self.host}: {to}"


@step
def count(text: str) -> int:
    return len(text)


@workflow
def mixed(to: str) -> int:
    sent, counted = branch(Mailer("smtp").send, to), branch(count, "x")
    return len(sent.result()) + counted.result() + count.options(key="x")("x")


@workflow
async def inline(docs: list[Doc]) -> list[list[float]]:
    size: int = await index_one(docs[0])  # a call: inline, same job
    a, b = await asyncio.gather(embed(docs[0]), count.aio("x"))
    both: list[int] = await parallel.aio(count, ["a", "b"])
    some: Outcomes[int] = await parallel.aio(count, ["a", "b"], min_ok=1)
    most: Outcomes[list[float]] = await parallel.aio(embed, docs, max_failed=1)
    one = branch(embed, docs[0])
    first: int = await race.aio(one, sleep.aio(3), asyncio.ensure_future(count.aio("x")))
    vector: list[float] = await one if first == 0 else most.ok[0]
    assert size + b + len(a) + len(both) + len(some.ok) + len(vector)
    return await parallel.aio(embed, docs, limit=8, key=lambda d: d.id)


a_workflow: AsyncWorkflow[[list[Doc]], int] = index_all
