"""One measurement in a process of its own: nothing of the one before is in its memory, and a limit can end it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from bench.figures import Measured, Sizes
from bench.place import Place

LIMIT_SECONDS = 60
ROOT = Path(__file__).resolve().parent.parent


class Order(msgspec.Struct, frozen=True):
    """What a child is to measure."""

    workload: str
    case: str
    subject: str
    place: Place
    sizes: Sizes


def measure(order: Order) -> Measured | str:
    """Measure in a child; return what it measured, or in one sentence why it did not."""
    command = [sys.executable, "-m", "bench.child", msgspec.json.encode(order).decode()]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = child.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return f"took longer than {LIMIT_SECONDS} s"
    if child.returncode != 0:
        return (err.strip().splitlines() or ["it died without a word"])[-1]
    return msgspec.json.decode(out.splitlines()[-1], type=Measured)


def main() -> None:
    from bench.workloads import CASES

    order = msgspec.json.decode(sys.argv[1], type=Order)
    [case] = [c for c in CASES if (c.workload, c.name) == (order.workload, order.case)]
    function = case.relight if order.subject == "relight" else case.floor
    measured = function(order.place, order.sizes)
    print(msgspec.json.encode(measured).decode(), flush=True)


if __name__ == "__main__":
    main()
