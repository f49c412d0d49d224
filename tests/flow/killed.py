"""A program that is killed: ``python -m tests.flow.killed STORE LOG``. Run again in the test's own process, nothing hangs.

Every call of a step leaves a line in a file, so that what happened outside can be compared with what was recorded.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

from relight import Done, Engine, NotDone, Retry, ask, current_step, parallel, sleep, start, step, wait_signal, workflow

HANGS = "RELIGHT_TEST_HANGS"
"""Names the step that hangs in the child, so that it is killed in the middle of it."""


def act(log: str, what: str) -> None:
    """Do something outside: one line, on disk."""
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(what + "\n")
        file.flush()
        os.fsync(file.fileno())
    if os.environ.get(HANGS) == what:
        threading.Event().wait()


def done(log: str) -> list[str]:
    """Return what was done."""
    path = Path(log)
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


@step
def plain(log: str, what: str) -> str:
    act(log, what)
    return what


@step
async def aplain(log: str, what: str) -> str:
    await asyncio.to_thread(act, log, what)
    return what


@step(in_doubt="ask")
def asked(log: str, what: str) -> str:
    act(log, what)
    return what


def look(log: str, what: str) -> Done[str] | NotDone:
    return Done(f"{what} found") if what in done(log) else NotDone()


@step(in_doubt=look)
def reconciled(log: str, what: str) -> str:
    act(log, what)
    return what


@step(retry=Retry(tries=3, first_seconds=0.8, factor=1, jitter=False))
def flaky(log: str, what: str) -> str:
    act(log, f"{what} {current_step().try_number}")
    if current_step().try_number == 1:
        raise ConnectionError("reset")
    return what


@workflow
def line(log: str) -> list[str]:
    return [plain(log, "one"), plain(log, "two"), plain(log, "three")]


@workflow
async def aline(log: str) -> list[str]:
    first = await aplain(log, "one")
    return [first, *await asyncio.gather(aplain(log, "two"), aplain(log, "three"))]


@workflow
def fan(log: str) -> list[str]:
    return parallel(lambda what: plain(log, what), ["a", "b", "c", "d"], limit=2)


@workflow
def doubts(log: str) -> list[str]:
    return [reconciled(log, "charge"), asked(log, "mail")]


@workflow
def backoff(log: str) -> str:
    return flaky(log, "try")


@workflow
def waits(log: str) -> list[Any]:
    got = [plain(log, "before"), wait_signal("go", type=int)]
    sleep(0.1)
    return [*got, ask("Send it?").choice, plain(log, "after")]


@workflow
def family(log: str) -> list[str]:
    children = start(line_of.bind(log, name) for name in ("x", "y"))
    return [child.result() for child in children]


@workflow
def line_of(log: str, name: str) -> str:
    return plain(log, f"child {name}")


WORKFLOWS = [line, aline, fan, doubts, backoff, waits, family, line_of]


def main() -> None:
    """Run an engine until killed."""
    with Engine(sys.argv[1], workflows=WORKFLOWS, durability="process", suspend_after_seconds=0):
        sys.stdout.write("started\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
