"""An engine in a process of its own, driven by lines: what ``children.py`` starts, stops, and kills.

Each line on stdin is a JSON order with a number; the answer is a JSON line with the same number on stdout. Lines without a
number are notices (a probe was reached). The process ends when its stdin does: no test leaves one behind.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.process import flows

from relight import Engine, Queue, Rate
from relight.clock import SystemClock
from relight.core.commands.engines import RenewLease
from relight.engine import recovery
from relight.engine.incarnation import Incarnation
from relight.errors import RelightError


class ShiftedClock(SystemClock):
    """The machine's clocks, with the wall set wrong."""

    def __init__(self, shift_ms: int) -> None:
        self._shift_ms = shift_ms

    def now_ms(self) -> int:
        return super().now_ms() + self._shift_ms


def say(line: dict[str, Any]) -> None:
    os.write(1, (json.dumps(line, default=str) + "\n").encode())


class Probes:
    """What happens at the boundaries of an engine: each name may kill, block or raise at its n-th time, and tell of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, int] = {}
        self._let_go: dict[str, threading.Event] = {}

    def want(self, name: str, action: str, at: int = 1) -> None:
        self._let_go[name] = threading.Event()
        self._wanted[name] = {"action": action, "at": at}

    def let_go(self, name: str) -> None:
        self._wanted.pop(name, None)
        self._let_go[name].set()

    def __call__(self, name: str) -> None:
        with self._lock:
            self.seen[name] = seen = self.seen.get(name, 0) + 1
            wanted = self._wanted.get(name)
        if wanted is None or seen < wanted["at"]:
            return
        if wanted["action"] == "kill" and seen == wanted["at"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if wanted["action"] == "block":
            say({"note": "reached", "name": name})
            assert self._let_go[name].wait(120), f"nobody let {name} go"
        if wanted["action"] == "raise":
            raise OSError(f"made to fail at {name}")


class Orders:
    """One method for each order; its result is the answer."""

    def __init__(self, options: dict[str, Any]) -> None:
        flows.witness.path, flows.witness.store = Path(options.pop("witness")), options["store"]
        for door in options.pop("doors_open", ()):
            flows.doors[door].open()
        self.probes = Probes()
        for name, (action, at) in options.pop("probes", {}).items():
            self.probes.want(name, action, at)
        recovery.FIRST_CHUNK = options.pop("first_chunk", recovery.FIRST_CHUNK)
        shift_ms = options.pop("shift_ms", 0)
        kinds = options.pop("kinds", None)
        queues = [
            Queue(name, **{term: Rate(*value) if term == "rate" else value for term, value in limits.items()})
            for name, limits in options.pop("queues", {}).items()
        ]
        self.engine = Engine(
            options.pop("store"),
            workflows=flows.ALL if kinds is None else [flows.BY_KIND[kind] for kind in kinds],
            queues=queues,
            clock=ShiftedClock(shift_ms),
            **options,
        )
        self.engine.probe = self.probes

    @property
    def incarnation(self) -> Incarnation:
        engine = self.engine._engine
        assert engine is not None
        return engine

    def start(self) -> dict[str, Any]:
        self.engine.start()
        return {"engine_id": self.engine.engine_id, "pid": os.getpid()}

    def gate(self) -> dict[str, Any]:
        """Wait until the gate is open."""
        self.incarnation.gate.wait(60_000)
        return dict(self.engine.health())

    def health(self) -> dict[str, Any]:
        return dict(self.engine.health())

    def submit(self, kind: str, numbers: list[int], **options: Any) -> list[str]:
        flow: Any = flows.BY_KIND[kind]
        return [job.id for job in self.engine.submit_many([flow.bind(n).options(**options) for n in numbers])]

    def inside(self, door: str, count: int) -> int:
        """Wait until so many steps wait at a door, and until all that they wrote is on disk."""
        flows.doors[door].wait_until_inside(count)
        self.incarnation.journal.execute(
            RenewLease(engine_id=self.incarnation.engine_id, lease_ms=self.engine.settings.lease_ms)
        )
        return flows.doors[door].inside

    def open(self, door: str) -> None:
        flows.doors[door].open()

    def probe(self, name: str, action: str, at: int) -> None:
        self.probes.want(name, action, at)

    def let_go(self, name: str) -> None:
        self.probes.let_go(name)

    def results(self, ids: list[str]) -> list[Any]:
        return [self.engine.job(job_id).result(timeout_seconds=60) for job_id in ids]

    def stop(self, drain_seconds: float | None = None) -> None:
        self.engine.stop(drain_seconds=drain_seconds)

    def stacks(self) -> str:
        """Where every thread is: for a test that is being mended."""
        frames = sys._current_frames()
        return "\n".join(
            f"{thread.name}\n{''.join(traceback.format_stack(frames[thread.ident])[-4:])}"
            for thread in threading.enumerate()
            if thread.ident in frames
        )

    def seen(self, name: str) -> int:
        """How often a boundary was reached."""
        return self.probes.seen.get(name, 0)

    def hog(self, seconds: float, until: str) -> int:
        """Hold the GIL until a file is there: by C calls that never give it up, each of so many seconds. Returns how many."""
        some = 2_000_000
        before = time.process_time()
        sum(range(some))
        many = int(some * seconds / max(time.process_time() - before, 0.001))
        calls = 0
        while not os.path.exists(until):
            sum(range(many))
            calls += 1
        return calls

    def limit_files(self, size: int) -> None:
        """Let this process make no file larger than this (-1: no limit)."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def answer(orders: Orders, order: dict[str, Any]) -> None:
    number, name = order.pop("no"), order.pop("do")
    call: Callable[..., Any] = getattr(orders, name)
    try:
        say({"no": number, "ok": call(**order)})
    except RelightError as error:
        say({"no": number, "error": type(error).__name__, "text": str(error), "fields": error.fields})
    except Exception:
        say({"no": number, "error": "crash", "text": traceback.format_exc()})


def main() -> None:
    orders = Orders(json.loads(sys.argv[1]))
    for line in sys.stdin:
        order = json.loads(line)
        threading.Thread(target=answer, args=(orders, order), daemon=True).start()
    os._exit(0)


if __name__ == "__main__":
    main()
