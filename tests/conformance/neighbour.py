"""A process that writes to a SQLite store for as long as it is told to: an engine and its jobs, of a kind and queue of its own.

It reads lines from its input: a path begins writing there, an empty line ends it; each is answered with a line. Between two
batches it looks for up to five milliseconds whether there is a new line.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

from relight.conformance import World
from relight.store.sqlite import SqliteStore


def write_until_told(path: str) -> int:
    """Submit, claim and finish jobs; return how many."""
    jobs = 0
    with World(lambda: SqliteStore(path, durability="process"), seed=hash(path)) as world:
        engine = world.open_engine("neighbour", store=world.store)
        print("writing", flush=True)
        while not select.select([sys.stdin], [], [], 0.005)[0]:
            world.clock.advance(1)
            run = engine.run_new(kind="neighbour", queue="neighbour")
            engine.begin(run)
            engine.finish_step(run)
            engine.finish(run)
            jobs += 1
    return jobs


def main() -> None:
    """Serve one line after the other."""
    for line in sys.stdin:
        path = line.strip()
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            print(write_until_told(path), flush=True)


if __name__ == "__main__":
    main()
