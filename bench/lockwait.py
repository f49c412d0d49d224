"""The other process of W2c: every 10 ms it takes the write lock of a store and gives it back, until its stdin ends."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from bench.figures import percentiles
from relight.store.sqlite.connect import connect

PERIOD_SECONDS = 0.01


def main() -> None:
    db = connect(Path(sys.argv[1]), "power", create=False, writer=True)
    over = threading.Event()
    print("ready", flush=True)

    def await_word() -> None:
        sys.stdin.readline()
        over.set()

    threading.Thread(target=await_word, daemon=True).start()
    waited = []
    while not over.wait(PERIOD_SECONDS):
        before = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        waited.append((time.perf_counter() - before) * 1000)
        db.execute("ROLLBACK")
    print(json.dumps(percentiles(waited, "ms") | {"times": len(waited)}))


if __name__ == "__main__":
    main()
