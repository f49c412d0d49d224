"""Workflows that tests crash: each step says in a file of its own that it ran, and some wait at a door that a test opens.

The file is the witness: it is written outside the engine, one line in one append, so that it survives what the engine
does not, and shows what really ran.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections import Counter
from pathlib import Path

from relight import Retry, ask, current_step, sleep, step, wait_signal, workflow
from relight.model import JobState
from relight.store.open import store_at
from relight.store.reads import JobFilter


class Witness:
    """The file that steps append to. ``note`` is one write of one line, so that lines never mix."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.store = ""

    def note(self, what: str, n: int) -> None:
        assert self.path is not None, "this process was not given a witness file"
        line = f"{what} {n} {os.getpid()}\n".encode()
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            assert os.write(fd, line) == len(line)
        finally:
            os.close(fd)

    def counts(self) -> Counter[tuple[str, int]]:
        """How often each step of each job ran, over all processes."""
        assert self.path is not None
        text = self.path.read_text() if self.path.exists() else ""
        return Counter((what, int(n)) for what, n, _ in map(str.split, text.splitlines()))

    def times(self, what: str) -> int:
        """How often a step ran, over all jobs and processes."""
        return sum(times for (name, _), times in self.counts().items() if name == what)


class Door:
    """Where steps wait until a test opens it. ``inside`` counts those waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._open = False
        self.inside = 0

    def open(self) -> None:
        with self._changed:
            self._open = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for loop, future in waiting:
            loop.call_soon_threadsafe(_settle, future)

    def shut(self) -> None:
        with self._changed:
            self._open = False

    def _enter(self, by: int) -> None:
        with self._changed:
            self.inside += by
            self._changed.notify_all()

    def pass_through(self) -> None:
        """Wait, blocking this thread."""
        self._enter(1)
        with self._changed:
            opened = self._changed.wait_for(lambda: self._open, 120)
        self._enter(-1)
        assert opened, "nobody opened the door"

    async def pass_through_async(self) -> None:
        """Wait, on the loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self._open:
                return
            self._waiting.append((loop, future))
        self._enter(1)
        try:
            await future
        finally:
            self._enter(-1)
            with self._changed:
                self._waiting = [entry for entry in self._waiting if entry[1] is not future]

    def wait_until_inside(self, count: int, seconds: float = 60) -> None:
        """Return once so many wait here."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.inside >= count, seconds), (
                f"{self.inside} of {count} steps came to the door"
            )


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


witness = Witness()
doors = {name: Door() for name in ("hold", "second", "side")}


@step
async def first(n: int) -> int:
    witness.note("first", n)
    return n


@step
async def hold(n: int) -> int:
    witness.note("hold", n)
    await doors["hold"].pass_through_async()
    witness.note("held", n)
    return n


@step
async def last(n: int) -> int:
    witness.note("last", n)
    return n


@workflow
async def three(n: int) -> int:
    """The usual one: a step that is finished, one that waits at the door, one that comes after."""
    return await first(n) + await hold(n) + await last(n)


@step
def first_in_thread(n: int) -> int:
    witness.note("first", n)
    return n


@step
def hold_in_thread(n: int) -> int:
    witness.note("hold", n)
    doors["hold"].pass_through()
    witness.note("held", n)
    return n


@step
def last_in_thread(n: int) -> int:
    witness.note("last", n)
    return n


@workflow
def three_in_thread(n: int) -> int:
    """The same, sync."""
    return first_in_thread(n) + hold_in_thread(n) + last_in_thread(n)


@workflow
async def three_mixed(n: int) -> int:
    """The same with sync steps in an async workflow."""
    return await first_in_thread.aio(n) + await hold_in_thread.aio(n) + await last_in_thread.aio(n)


@workflow
def three_mixed_in_thread(n: int) -> int:
    """The same with async steps in a sync workflow."""
    return first.sync(n) + hold.sync(n) + last.sync(n)


@step
async def side_step(n: int) -> int:
    witness.note("side", n)
    await doors["side"].pass_through_async()
    return n


@workflow
async def side(n: int) -> int:
    """A bystander, with a door of its own."""
    return await side_step(n)


@workflow(on_stall="hold")
async def held_three(n: int) -> int:
    """As ``three``, left to an operator after a crash."""
    return await first(n) + await hold(n) + await last(n)


def wait_until_begun(name: str) -> None:
    """Wait until the record that a step began is on disk: it rides along with a later commit."""
    store = store_at(witness.store)
    store.open(create=False)
    clock = threading.Event()
    while not clock.wait(0.005):
        with store.reading() as reads:
            running = [job.job_id for job in reads.jobs(JobFilter(states=(JobState.RUNNING,), limit=0))]
            if any(step.name == name and step.state == "running" for step in reads.steps_of(running)):
                return


@step
def crash(n: int) -> int:
    """Kills its process once it is known to have begun, unless the file says that it may live."""
    witness.note("crash", n)
    assert witness.path is not None
    if not witness.path.with_name("tame").exists():
        wait_until_begun("crash")
        os.abort()
    return n


@step
def crash_at_once(n: int) -> int:
    """Kills its process before anybody can have written down that it began."""
    witness.note("crash", n)
    os.abort()


@workflow
def quick_killer(n: int) -> int:
    """Kills its process in a step, at once."""
    return crash_at_once(n)


@step
def progress(n: int, number: int) -> int:
    witness.note(f"progress-{number}", n)
    return number


@workflow
def killer(n: int) -> int:
    """Kills its process in a step each time."""
    return crash(n)


@workflow(on_stall="hold")
def held_killer(n: int) -> int:
    """As ``killer``, for an operator."""
    return crash(n)


@workflow
def stubborn(n: int) -> int:
    """Kills its process once for each step, but gets a checkpoint further each time."""
    for number in range(5):
        progress(n, number)
        crash_once(n, number)
    return n


@step
def crash_once(n: int, number: int) -> int:
    assert witness.path is not None
    mark = witness.path.with_name(f"crashed-{n}-{number}")
    if not mark.exists():
        mark.touch()
        wait_until_begun("crash_once")
        os.abort()
    return number


@workflow
def count_up(n: int) -> int:
    """Two quick steps."""
    return progress(n, 1) + progress(n, 2)


@step
def fork_and_hold(n: int) -> int:
    """Fork a child that lives until its stdin ends, which is the test's to say. It reads nothing: orders are for its parent."""
    assert witness.path is not None
    child = os.fork()
    if child == 0:
        os.close(1)
        hangup = select.poll()
        hangup.register(0, 0)
        hangup.poll()
        os._exit(0)
    with witness.path.with_name("heirs").open("a") as heirs:
        heirs.write(f"{child}\n")
    doors["hold"].pass_through()
    return n


@workflow
def forks(n: int) -> int:
    """Forks in a step."""
    return fork_and_hold(n)


@step
async def make_big(n: int) -> str:
    witness.note("big", n)
    await doors["hold"].pass_through_async()
    return "x" * 400_000


@workflow
async def big(n: int) -> str:
    """A step's outcome and a result too large to stand in a row."""
    return await make_big(n)


@step
def make_big_in_thread(n: int) -> str:
    witness.note("big", n)
    doors["hold"].pass_through()
    return "x" * 400_000


@workflow
def big_in_thread(n: int) -> str:
    """The same, sync."""
    return make_big_in_thread(n)


@workflow
def asks(n: int) -> str:
    """Waits for a person."""
    return ask("go on?").choice


@workflow
def listens(n: int) -> int:
    """Waits for a message."""
    return wait_signal("go", type=int)


@workflow
def sleeps(n: int) -> int:
    """Sleeps durably for long, so that it is put away."""
    sleep(3600)
    return n


@step(in_doubt="ask")
def risky(n: int) -> int:
    witness.note("risky", n)
    doors["hold"].pass_through()
    return n


@workflow
def careful(n: int) -> int:
    """A step that must not run twice unasked."""
    return risky(n)


@step(retry=Retry(5, first_seconds=0.01))
def fails_twice(n: int) -> int:
    witness.note("fails", n)
    if current_step().try_number < 3:
        raise ValueError("not yet")
    return n


@workflow
def retried(n: int) -> int:
    """Fails twice, then succeeds."""
    return fails_twice(n)


ALL = [
    three, held_three, big, big_in_thread, forks, three_in_thread, three_mixed, three_mixed_in_thread, side, killer, quick_killer, held_killer, stubborn, count_up, asks, listens, sleeps,
     careful, retried,
]  # fmt: skip
BY_KIND = {each.kind: each for each in ALL}
