"""What is refused, and in which words."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.flow.kit import Rig, wait_for
from tests.golden.situations import failed, said, said_inside, situation

from relight import (
    Client,
    Engine,
    Secret,
    ask,
    cleanup,
    parallel,
    sleep,
    step,
    workflow,
)
from relight.errors import NotInJob
from relight.model import JobState

if TYPE_CHECKING:

    class Vector: ...


# ---------------------------------------------------------------- colours


@situation("a sync name on the loop")
def _(rig: Rig) -> str:
    async def body() -> None:
        sleep(5)

    return said_inside(rig, body, is_async=True)


@situation("an async step in a sync workflow")
def _(rig: Rig) -> str:
    @step
    async def fetch(url: str) -> str:
        return url

    return said_inside(rig, lambda: fetch("a"))


@situation("a sync facade in async code")
def _(rig: Rig) -> str:
    engine = rig.start(plain)

    async def handler() -> None:
        engine.submit(plain)

    return said(lambda: asyncio.run(handler()))


@situation("a primitive outside a job")
def _(rig: Rig) -> str:
    return said(lambda: ask("Really?"), NotInJob)


# ---------------------------------------------------------------- registration


@situation("an annotation that cannot be resolved")
def _(rig: Rig) -> str:
    @step
    def embed(text: str) -> Vector:
        raise NotImplementedError

    @workflow
    def index() -> None:
        embed("a")

    return failed(rig, index)


@situation("a generator")
def _(rig: Rig) -> str:
    def tokens() -> Any:
        yield 1

    return said(lambda: step(tokens))


@situation("two steps of one name")
def _(rig: Rig) -> str:
    def one() -> int:
        return 1

    def two() -> int:
        return 2

    first, second = step(name="fetch")(one), step(name="fetch")(two)

    @workflow
    def job() -> int:
        return first() + second()

    return failed(rig, job)


@situation("two workflows of one kind")
def _(rig: Rig) -> str:
    @workflow(name="plain")
    def other() -> int:
        return 2

    return said(lambda: Engine(rig.path, workflows=[plain, other]))


@situation("a workflow's parameter that is an option of submit")
def _(rig: Rig) -> str:
    @workflow
    def census(queue: str) -> str:
        return queue

    return said(lambda: rig.start(census).submit(census, queue="a"))  # type: ignore[call-overload]


# ---------------------------------------------------------------- values


@dataclass
class Row:
    amount: object


@situation("a result that cannot be stored")
def _(rig: Rig) -> str:
    @step
    def totals() -> list[Any]:
        return [{"amount": 1}, {"amount": {1, 2}}]

    @workflow
    def job() -> None:
        totals()

    return failed(rig, job)


@situation("a client as an argument")
def _(rig: Rig) -> str:
    @step
    def fetch(client: Any) -> int:
        return 1

    @workflow
    def job() -> int:
        return fetch(threading.Lock())

    return failed(rig, job)


@situation("a literal secret")
def _(rig: Rig) -> str:
    return said(lambda: Secret("sk-123"))


@situation("not a number")
def _(rig: Rig) -> str:
    @step
    def mean() -> float:
        return float("nan")

    @workflow
    def job() -> float:
        return mean()

    return failed(rig, job)


# ---------------------------------------------------------------- submits


@workflow
def plain(n: int = 1) -> int:
    return n


@situation("the same key with other arguments")
def _(rig: Rig) -> str:
    engine = rig.start(plain)
    engine.submit(plain, 1, idempotency_key="docs-2026").result(timeout_seconds=20)
    return said(lambda: engine.submit(plain, 2, idempotency_key="docs-2026"))


@situation("an unknown kind")
def _(rig: Rig) -> str:
    rig.start(plain)
    return said(lambda: rig.client().submit("plan"))


@situation("a closed gate")
def _(rig: Rig) -> str:
    engine = rig.engine(plain, gate_timeout_seconds=0.05)
    rig.probes[engine].hold("before_gate")
    rig._engines.append(engine.start())
    return said(lambda: engine.submit(plain))


@situation("a wait that takes too long")
def _(rig: Rig) -> str:
    @workflow
    def checkout() -> str:
        return ask("Send receipt again?").choice

    job = rig.start(checkout).submit(checkout)
    rig.until(job, JobState.AWAITING_USER)
    return said(lambda: job.result(timeout_seconds=0.05))


@situation("a job that is not there")
def _(rig: Rig) -> str:
    return said(lambda: rig.start(plain).job("01900000-0000-7000-8000-000000000000").info())


@situation("a store that is not there")
def _(rig: Rig) -> str:
    return said(lambda: Client(str(rig.folder / "none.db")).__enter__())


# ---------------------------------------------------------------- inside jobs


@situation("a step whose try took too long")
def _(rig: Rig) -> str:
    @step(timeout_seconds=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)  # sleep-ok: its time limit cuts it short

    @workflow
    async def job() -> None:
        await slow()

    return failed(rig, job)


@situation("arms that failed")
def _(rig: Rig) -> str:
    @step
    def half(n: int) -> int:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    @workflow
    def job() -> list[int]:
        return parallel(half, range(5))

    return failed(rig, job)


@situation("a step in a finally block of a cancelled job")
def _(rig: Rig) -> str:
    inside, go, found = threading.Event(), threading.Event(), []

    @step
    def work() -> None:
        inside.set()
        wait_for(go)

    @step
    def tidy() -> None: ...

    @workflow
    def job() -> None:
        try:
            work()
            work()
        finally:
            try:
                tidy()
            except BaseException as error:  # boundary: what is thrown into a job is no Exception
                found.append(f"{type(error).__name__}: {error}")
                with cleanup():
                    tidy()

    engine = rig.start(job)
    running = engine.submit(job)
    wait_for(inside)
    running.cancel("wrong door", by="ann")
    rig.until_asked_to_end(engine, running)
    go.set()
    rig.until(running, JobState.CANCELLED)
    return found[0]


@situation("an unrecorded step in a thread of one's own")
def _(rig: Rig) -> str:
    @step(outside="error")
    def total() -> int:
        return 1

    @workflow
    def job() -> int:
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as threads:
            return threads.submit(total).result()

    return failed(rig, job, name="etl-1")
