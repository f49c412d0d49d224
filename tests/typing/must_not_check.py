"""Mistakes that a type checker has to see. Each marked line must be an error, and no other."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from p02_agent import agent, think
from p03_fanout import extract, ingest
from p04_payment import Order
from p10.flows import count, index_one

from relight import AsyncEngine, Done, Engine, NotDone, Resource, Retry, ask, branch, external, parallel, poll, sleep, start, step, wait_signal, workflow

engine = Engine("x.db")
engine.submit(ingest, 42)  # E1 wrong type
engine.submit(ingest)  # E2 missing argument
engine.submit(ingest, Path("a"), idempotency_kee="x")  # E3 misspelt option
ingest.bind(foldr=Path("a"))  # E4 misspelt argument
x: str = engine.submit(ingest, Path("a")).result()  # E5 type of the result
parallel(extract, [1, 2])  # E6 type of the items
extract.options(retrys=None)  # E7 unknown option
y: list[str] = parallel(extract, [Path("a")])  # E8 type of the results
Retry(retries=3)  # E9 unknown option
Engine("x.db", worflows=[ingest])  # E10 unknown option
wait_signal("paid", type=int).upper()  # E11 type of a signal
ask("Really?").answer  # E12 a decision has a choice


def other(order: int) -> Done[str] | NotDone:
    return NotDone()


@step(in_doubt=other)  # E13 the reconciling function takes other arguments
def charge(order: Order) -> str:
    return ""


@workflow(on_stall="restart")  # E14 not a policy
def stubborn() -> None: ...


parallel(extract, [Path("a")], max_failed=1, min_ok=1)  # E23 two tolerances
parallel(extract, [Path("a")], max_failed_share=0.1).failed[0].message  # E24 pairs of index and failure
branch(extract, 7).result()  # E25 wrong argument of a branch
z: str = branch(extract, Path("a")).result()  # E26 type of a branch's result


async def body() -> None:
    await sleep(3)  # E15 a sync name is not awaited: sleep.aio
    external("x", type=int).wait().upper()  # E23 type of an answer
    poll(len, "a", until=bool, every_seconds=1)  # E24 a check gives the next state
    think([])  # E16 never awaited
    children = await start.aio(index_one, "a")  # E17 type of a child's argument
    await count("x")  # E18 a sync step is not awaited: count.aio
    async with AsyncEngine("x.db", workflows=[agent]) as other_engine:
        job = await other_engine.submit(agent, "goal")
        job.cancel()  # E19 never awaited


@contextmanager
def lend() -> Iterator[bytes]:
    yield b""


@asynccontextmanager
async def connect() -> AsyncIterator[bytes]:
    yield b""


lent: str = Resource(lend)()  # E20 type of what a context manager gives
connected: str = Resource(connect)()  # E21 type of what an async context manager gives
Resource(lambda n: n)  # E22 a factory takes nothing
