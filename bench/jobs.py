"""The workflows that the workloads run: trivial on purpose, so that what is measured is Relight."""

from __future__ import annotations

import ast
import asyncio
import sysconfig
import threading
import time
from pathlib import Path

from relight import step, workflow
from relight.authoring.workflows import AnyWorkflow

stop_parsing = threading.Event()
"""Ends the jobs of ``parse_on``."""
hold_steps = threading.Event()
"""While it is set, ``wait_or_pass`` does not return: its jobs stay in flight."""
held: list[int] = []
"""The jobs that ``wait_or_pass`` holds."""
picked_up: list[int] = []
"""When (monotonic ns) each ``stamp`` began."""
parsed: list[int] = []
"""Bytes that ``parse_file`` has read, for the record of how busy the processor was."""


@step
def add_one(n: int) -> int:
    """Do next to nothing."""
    return n + 1


@step
async def add_one_async(n: int) -> int:
    """Do next to nothing, on the loop."""
    return n + 1


@workflow
def in_sequence(steps: int) -> int:
    """Call a trivial step again and again."""
    n = 0
    for _ in range(steps):
        n = add_one(n)
    return n


@workflow
async def in_sequence_async(steps: int) -> int:
    """Call a trivial step again and again, on the loop."""
    n = 0
    for _ in range(steps):
        n = await add_one_async(n)
    return n


@workflow
def nothing() -> None:
    """Do nothing."""


@workflow
async def nothing_async() -> None:
    """Do nothing, on the loop."""


@workflow
async def stamp() -> None:
    """Note when it began."""
    picked_up.append(time.monotonic_ns())


@step
def parse_file(index: int) -> int:
    """Parse a file of the standard library: C code that keeps the GIL for milliseconds at a time."""
    path = LIBRARY[index % len(LIBRARY)]
    text = path.read_bytes()
    parsed.append(len(text))
    return len(ast.parse(text).body)


@workflow
def parse_on(first: int) -> int:
    """Parse files until told to stop."""
    n = first
    while not stop_parsing.is_set():
        parse_file(n)
        n += 1
    return n


@step
async def wait_or_pass(n: int) -> int:
    """Return, unless jobs are to be held in flight."""
    if hold_steps.is_set():
        held.append(n)
        await asyncio.sleep(3600)
    return n


@workflow
async def two_steps(n: int) -> int:
    """Finish one step, and be in flight in the second."""
    return await wait_or_pass(await add_one_async(n))


LIBRARY: list[Path] = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
EVERY: list[AnyWorkflow] = [in_sequence, in_sequence_async, nothing, nothing_async, stamp, parse_on, two_steps]
