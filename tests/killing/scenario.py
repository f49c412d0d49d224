"""The standard scenario: one of everything that a job can do, driven to its end from whatever a crash left behind.

Run by ``everywhere.py`` in a forked child that may be killed at any durable boundary, and run again until it comes through.
Each step writes a line when it begins, so that what runs twice is counted outside the engine.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from relight import (
    Done,
    Engine,
    NotDone,
    Resource,
    Retry,
    ask,
    branch,
    cleanup,
    current_job,
    current_step,
    external,
    issue,
    now,
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
from relight.errors import Conflict, NotFound, StepError, StepFailed
from relight.model import FINAL_STATES, JobState


class Ledger:
    """The outside world: lines in files, appended in one write each."""

    def __init__(self, folder: Path) -> None:
        self._begun = folder / "begun"
        self._charged = folder / "charged"
        self._posted = folder / "posted"
        self._complaints = folder / "complaints"

    @staticmethod
    def _append(path: Path, line: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{line}\n".encode())
        finally:
            os.close(fd)

    def begin(self) -> None:
        """Note that this step was called."""
        self._append(self._begun, f"{current_job().id} {current_step().key}")

    def post(self, token: str) -> None:
        """Give a token to somebody outside."""
        self._append(self._posted, token)

    def posted(self) -> list[str]:
        """Return the tokens that somebody outside has."""
        return self._posted.read_text().split("\n")[:-1] if self._posted.exists() else []

    def complain(self, what: str) -> None:
        """Note something that must not happen."""
        self._append(self._complaints, what)

    def charge(self, key: str) -> None:
        """Do what must happen once."""
        self._append(self._charged, key)

    def charged(self, key: str) -> bool:
        """Tell whether it happened."""
        return self._charged.exists() and key in self._charged.read_text().split("\n")


ledger = Resource(Ledger)


@step
def double(n: int) -> int:
    ledger().begin()
    return 2 * n


@step(retry=Retry(tries=3, first_seconds=0.01, jitter=False))
def flaky(n: int) -> int:
    ledger().begin()
    if current_step().try_number < 2:
        raise StepError("not yet")
    return n


@step
async def fetch(n: int) -> int:
    ledger().begin()
    await asyncio.sleep(0)
    return n


def was_charged(order: str) -> Done[str] | NotDone:
    key = current_step().idempotency_key
    return Done(f"receipt for {order}") if ledger().charged(key) else NotDone()


@step(in_doubt=was_charged)
def charge(order: str) -> str:
    ledger().begin()
    ledger().charge(current_step().idempotency_key)
    return f"receipt for {order}"


@step(in_doubt="fail")
def once(n: int) -> int:
    ledger().begin()
    return n


@workflow
def helper(n: int) -> int:
    return double(n)


@workflow
def steps(n: int) -> int:
    began = now()
    total = double(n) + flaky(n)
    sleep(0.01)
    total += sum(parallel(double, [1, 2, 3], limit=2))
    child = start(helper, n)
    assert now() >= began
    return total + child.result()


@workflow
async def waits(n: int) -> str:
    a, b = await asyncio.gather(fetch(n), fetch(n + 1))
    word = await wait_signal.aio("word", type=str)
    return f"{a}{b}{word}"


@workflow
def asks(order: str) -> str:
    answer = ask(f"Charge {order}?", preview={"order": order})
    return charge(order) if answer.choice == "approve" else "no"


@workflow
def victim(n: int) -> int:
    try:
        wait_signal("never", type=str)
    finally:
        with cleanup():
            double(n)
    return n


@step
def hand_over(token: str) -> None:
    ledger().begin()
    ledger().post(token)


def look(n: int) -> int:
    return n + 1


@workflow
async def outside(n: int) -> str:
    answer = external("scan", type=int, timeout_seconds=600, heartbeat_seconds=600)
    await hand_over.aio(answer.token)
    publish("state", "handed over")
    issue("slow", "somebody else does it")
    got = await answer.wait.aio()
    looked = await poll.aio(look, n, until=lambda k: k >= n + 2, every_seconds=0.004)
    publish("state", "done")
    said = await wait_signal.aio("yes", "no")
    return f"{got} {looked} {said.name}"


@step
def thirds(n: int) -> int:
    ledger().begin()
    if n % 3 == 2:
        raise StepError("no third", retryable=False)
    return n


@workflow
def races(n: int) -> list[int]:
    total = double(n) if patched("double-first") else 0
    found = parallel(thirds, range(8), limit=3, max_failed=2)
    try:
        parallel(thirds, [2, 5, 8, *range(9, 30)], limit=1, min_ok=23)
    except* StepFailed as group:
        total += len(group.exceptions)
    either = [branch(double, 1), branch(double, 2)]
    double(race(*either))  # another winner on replay would be another argument
    timed = [branch(sleep, 3600), branch(lambda: double(n) + double(n))]
    assert race(*timed) == 1
    return [total, sum(found.ok), len(found.failed)]


@workflow
async def araces(n: int) -> list[int]:
    total = await double.aio(n) if patched("double-first") else 0
    found = await parallel.aio(thirds, range(8), limit=3, max_failed=2)
    await double.aio(await race.aio(fetch(1), fetch(2)))
    assert await race.aio(sleep.aio(3600), branch(fetch, n)) == 1
    return [total, sum(found.ok), len(found.failed)]


KEY = "scenario"
EXPECTED = {
    "steps": (JobState.COMPLETED, 2 * 5 + 5 + 2 * 6 + 2 * 5),
    "waits": (JobState.COMPLETED, "34hello"),
    "asks": (JobState.COMPLETED, "receipt for o-1"),
    "victim": (JobState.CANCELLED, None),
    "outside": (JobState.COMPLETED_WITH_ISSUES, "7 11 no"),
    "races": (JobState.COMPLETED_WITH_ISSUES, [18 + 2, 21, 2]),
    "araces": (JobState.COMPLETED_WITH_ISSUES, [18, 21, 2]),
}


def _complete(engine: Engine, outside_world: Ledger, done: set[str]) -> None:
    """Be the one whom a token was given: it must be known, whatever crashed since."""
    for token in outside_world.posted():
        if token not in done:
            try:
                engine.heartbeat(token, "at it")
                engine.complete(token, 7)
                done.add(token)
            except NotFound:
                outside_world.complain(f"{token} was handed out and is not known")


def _steer(engine: Engine, outside_world: Ledger, over: threading.Event) -> None:
    """Be the people outside: a signal, an answer, a cancel, each sent until it is taken."""
    done: set[str] = set()
    outside_job = engine.job(kind="outside", idempotency_key=KEY)
    waits_job, asks_job, victim_job = (
        engine.job(kind=kind, idempotency_key=KEY) for kind in ("waits", "asks", "victim")
    )
    while not over.wait(0.003):
        try:
            if waits_job.state() not in FINAL_STATES:
                waits_job.signal("word", "hello", idempotency_key="once", by="ben")
            _complete(engine, outside_world, done)
            if outside_job.state() not in FINAL_STATES:
                outside_job.signal("no", idempotency_key="once", by="ben")
            if asks_job.state() == JobState.AWAITING_USER:
                asks_job.answer("approve", by="ann")
            victim_info = victim_job.info()
            if victim_info.state not in FINAL_STATES and victim_info.status_reason == "waiting":
                victim_job.cancel("enough", by="ann")
        except (Conflict, NotFound):
            continue  # it moved in the same moment; look again


def run(folder: Path, reached: object) -> None:
    """Drive the scenario to its end; ``reached`` is called at each durable boundary."""
    outside_world = Ledger(folder)
    engine = Engine(
        str(folder / "jobs.db"),
        workflows=[steps, waits, asks, victim, helper, outside, races, araces],
        resources={ledger: outside_world},
        suspend_after_seconds=0,
        threads=8,
    )
    engine.probe = reached  # type: ignore[assignment]
    over = threading.Event()
    with engine:
        calls = [steps.bind(5), waits.bind(3), asks.bind("o-1"), victim.bind(7), outside.bind(9)]
        calls += [races.bind(9), araces.bind(9)]
        jobs = engine.submit_many(call.options(idempotency_key=KEY, max_stalls=1000) for call in calls)
        steering = threading.Thread(target=_steer, args=(engine, outside_world, over), daemon=True)
        steering.start()
        try:
            for job in jobs:
                try:
                    job.result(timeout_seconds=20)
                except Exception as error:  # boundary: how each job ended is compared by the caller
                    if type(error).__name__ == "WaitTimeout":
                        raise
        finally:
            over.set()
            steering.join()
