"""The process that is killed: it opens the engine, submits the jobs, waits for them, and tells its parent.

Started again with the same orders it submits the same jobs under the same keys, and so finds those that were accepted
before. It keeps nothing in memory that matters. Read next: ``driver.py``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from relight import Call, Engine, Job
from relight.cli.demo.census import census, census_part, witness
from relight.cli.demo.report import PartFacts
from relight.cli.demo.talk import News, Orders
from relight.cli.demo.witness import Witness
from relight.errors import RelightError

THREADS = 8
GATE_SECONDS = 60
RESULT_SECONDS = 600


def tell(news: News) -> None:
    """Send one line to the parent; a line is one write, so that a kill leaves no half of one."""
    os.write(1, msgspec.json.encode(news) + b"\n")


def end_with_parent() -> None:
    """End this process when the parent has: it holds the other end of our stdin and writes nothing to it."""
    if not os.read(0, 1):
        os._exit(1)


def read_orders() -> Orders:
    """Read one line from stdin, unbuffered, since a thread watches what follows. An argument holds too little."""
    raw = b""
    while not raw.endswith(b"\n") and (more := os.read(0, 65_536)):
        raw += more
    return msgspec.json.decode(raw, type=Orders)


def wait_for_gate(engine: Engine) -> None:
    """Return when the gate is open. Raises ``TimeoutError`` after ``GATE_SECONDS``, with what health says."""
    until = time.monotonic() + GATE_SECONDS
    health: Mapping[str, object] = engine.health()
    while health["gate"] != "open":
        if time.monotonic() > until:
            raise TimeoutError(f"the gate did not open within {GATE_SECONDS} s: {dict(health)}")
        time.sleep(0.001)
        health = engine.health()


def part_calls(orders: Orders) -> list[Call[PartFacts]]:
    """Make one call for each group."""
    return [
        census_part.bind(orders.folder, group).options(
            idempotency_key=f"{orders.session}:{group.label}",
            max_stalls=orders.max_stalls,
            tags={"demo": orders.session},
        )
        for group in orders.groups
    ]


def last_call(orders: Orders, parts: list[PartFacts]) -> Call[str]:
    """Make the call that merges and writes."""
    return census.bind(Path(orders.folder).name or "/", parts, orders.out_folder).options(
        idempotency_key=f"{orders.session}:census",
        max_stalls=orders.max_stalls,
        tags={"demo": orders.session},
    )


def run(orders: Orders) -> None:
    """Run the whole census; whatever is finished already is only read."""
    engine = Engine(
        orders.store,
        workflows=[census_part, census],
        threads=THREADS,
        resources={witness: Witness(orders.witness, orders.pace_seconds)},
        name="demo",
    )
    tell(News("started"))
    begun = time.perf_counter()
    engine.start()
    try:
        wait_for_gate(engine)
        tell(News("gate_open", ms=round(1000 * (time.perf_counter() - begun), 1)))
        jobs = engine.submit_many(part_calls(orders))
        tell(News("submitted", jobs=[job.id for job in jobs]))
        parts = [job.result(timeout_seconds=RESULT_SECONDS) for job in jobs]
        last: Job[str] = engine.submit(last_call(orders, parts))
        tell(News("submitted", jobs=[last.id]))
        last.result(timeout_seconds=RESULT_SECONDS)
        tell(News("done"))
    finally:
        engine.stop(drain_seconds=5)


def main() -> int:
    """Follow the orders on stdin; return the exit code."""
    orders = read_orders()
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run(orders)
    except (RelightError, TimeoutError) as error:
        tell(News("failed", detail=f"{type(error).__name__}: {error}"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
