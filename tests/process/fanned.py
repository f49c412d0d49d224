"""A fan-out that tolerates failures, as a program that is killed: ``python -m tests.process.fanned STORE ITEMS``."""

from __future__ import annotations

import sys
import threading
import time

from relight import Engine, parallel, step, workflow

BAD_OF = 50
"""One item of so many fails."""


@step
def check(n: int) -> int:
    time.sleep(0.0005)  # sleep-ok: as long as real work, so that a kill finds items under way
    if n % BAD_OF == 7:
        raise ValueError(f"bad {n}")
    return n * n


@step(name="check")
async def acheck(n: int) -> int:
    return check.__wrapped__(n)


@workflow
def fan(items: int) -> list[int]:
    found = parallel(check, range(items), limit=8, max_failed_share=0.02)
    return [sum(found.ok), len(found.ok), *(index for index, _ in found.failed)]


@workflow
async def afan(items: int) -> list[int]:
    found = await parallel.aio(acheck, range(items), limit=8, max_failed_share=0.02)
    return [sum(found.ok), len(found.ok), *(index for index, _ in found.failed)]


def expected(items: int) -> list[int]:
    """Return what the workflows return."""
    ok = [n for n in range(items) if n % BAD_OF != 7]
    return [sum(n * n for n in ok), len(ok), *(n for n in range(items) if n % BAD_OF == 7)]


def main() -> None:
    """Run an engine until killed."""
    with Engine(sys.argv[1], workflows=[fan, afan], durability="process"):
        sys.stdout.write("started\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
