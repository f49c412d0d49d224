"""The sentences that people read when something is wrong, whole: compared with ``golden/messages.txt``.

``UPDATE_GOLDEN=1 pytest tests/test_messages.py`` writes the file anew; the difference is then read, not believed. Ids, times,
durations and folders stand there as marks.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import (
    Client,
    Engine,
    Queue,
    Secret,
    ask,
    cleanup,
    parallel,
    sleep,
    step,
    wait_signal,
    workflow,
)
from relight.errors import NotInJob, RelightError
from relight.model import JobState

if TYPE_CHECKING:

    class Vector: ...


GOLDEN = Path(__file__).with_name("golden") / "messages.txt"
MARKS = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"…[0-9a-f]{6}\b", "…ID"),
    (r"\bengine-[0-9a-f]{6}\b", "engine-ID"),
    (r"\b\d\d:\d\d:\d\d\b( UTC)?", "TIME"),
    (r"\b\d[\d.,]* (ms|s|min|h)\b", "DURATION"),
    (r"\.py:\d+", ".py:LINE"),
    (r"0x[0-9a-f]+", "ADDRESS"),
    (r"pid \d+", "pid N"),
    (r"/[^\s\"']*/(?=[\w.-]+\.(db|py|txt))", ""),
)


def with_marks(text: str) -> str:
    """Put marks where every run has something else."""
    for pattern, mark in MARKS:
        text = re.sub(pattern, mark, text)
    return text


Situation = Callable[[Rig], str]
SITUATIONS: dict[str, Situation] = {}


def situation(title: str) -> Callable[[Situation], Situation]:
    def add(function: Situation) -> Situation:
        SITUATIONS[title] = function
        return function

    return add


def said(act: Callable[[], object], error: type[BaseException] = RelightError) -> str:
    """Return what an act is refused with, its class before it."""
    with pytest.raises(error) as caught:
        act()
    return f"{type(caught.value).__name__}: {caught.value}"


def said_inside(rig: Rig, body: Callable[[], Any], *, is_async: bool = False) -> str:
    """Return what code inside a job is refused with."""
    found: list[str] = []

    @workflow(name="checkout")
    def sync_job() -> None:
        try:
            body()
        except RelightError as error:
            found.append(f"{type(error).__name__}: {error}")

    @workflow(name="checkout")
    async def async_job() -> None:
        try:
            await body()
        except RelightError as error:
            found.append(f"{type(error).__name__}: {error}")

    job = async_job if is_async else sync_job
    rig.start(job).submit(job).result(timeout_seconds=20)
    return found[0]


def failed(rig: Rig, job: Any, *args: Any, **options: Any) -> str:
    """Return what a caller is told of a job that failed."""
    return said(lambda: rig.start(job, **options).submit(job, *args).result(timeout_seconds=20))


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
        await asyncio.sleep(60)

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


# ----------------------------------------------------------------


def golden() -> dict[str, str]:
    """Read the file: a title in brackets, then what is said."""
    parts = re.split(r"^\[(.+)\]\n", GOLDEN.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {title: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture(scope="module", name="found")
def written_at_the_end() -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    yield found
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        known = {**(golden() if GOLDEN.exists() else {}), **found}
        GOLDEN.write_text("\n".join(f"[{title}]\n{known[title]}\n" for title in SITUATIONS if title in known), "utf-8")


@pytest.mark.parametrize("title", SITUATIONS)
def test_what_is_said_is_what_was_agreed(title: str, rig: Rig, found: dict[str, str]) -> None:
    text = with_marks(SITUATIONS[title](rig))
    found[title] = text
    if not os.environ.get("UPDATE_GOLDEN"):
        assert text == golden()[title]


def test_the_file_holds_nothing_else() -> None:
    assert sorted(golden()) == sorted(SITUATIONS)
