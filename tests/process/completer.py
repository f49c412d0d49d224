"""A client that completes tokens: ``python -m tests.process.completer STORE TOKENS NUMBER``.

TOKENS is a file with one token a line. It says ``ready``, waits for a line on stdin, completes every token with its own
number from many threads, and prints as JSON which of its answers counted and how many came late.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from relight import Client

THREADS = 32


def main(store: str, tokens: str, number: str) -> None:
    with Client(store, actor=f"client-{number}") as client:
        todo = Path(tokens).read_text("utf-8").split()
        print("ready", flush=True)
        sys.stdin.readline()
        with ThreadPoolExecutor(THREADS) as pool:
            said = list(pool.map(lambda token: client.complete(token, int(number)), todo))
    mine = [token for token, delivery in zip(todo, said, strict=True) if delivery.counted]
    late = [delivery for delivery in said if not delivery.counted]
    assert {delivery.state for delivery in late} <= {"completed"}
    assert {delivery.by for delivery in late} <= {"client-1", "client-2"}
    print(json.dumps({"counted": mine, "late": len(late)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
