"""W6: how long a user waits for nothing: importing Relight, and from starting a process to a first durable result.

Every start is a process, timed from outside; the median of several is the figure, the fastest is in ``detail``.
"""

from __future__ import annotations

import compileall
import subprocess
import sys
import time
from pathlib import Path

import relight
from bench.figures import Measured, Sizes
from bench.place import Place

FIRST_RESULT = """
import sys, time
from relight import Engine, step, workflow

@step
def double(n: int) -> int:
    return 2 * n

@workflow
def first(n: int) -> int:
    return double(n)

with Engine(sys.argv[1], workflows=[first], durability=sys.argv[2]) as engine:
    assert engine.submit(first, 21).result(timeout_seconds=30) == 42
    print(time.monotonic_ns(), flush=True)
"""
FIRST_ROW = """
import sys, time
import apsw, msgspec
db = apsw.Connection(sys.argv[1])
db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = " + ("FULL" if sys.argv[2] == "power" else "NORMAL"))
db.execute("CREATE TABLE IF NOT EXISTS t (v TEXT)")
db.execute("INSERT INTO t VALUES (?)", (msgspec.json.encode(42).decode(),))
print(time.monotonic_ns(), flush=True)
"""


def _as_installed() -> None:
    """Compile Relight's modules, as an installer does: a checkout's may be newer than what was compiled of them."""
    compileall.compile_dir(str(Path(relight.__file__).parent), quiet=2)


def relight_import(_place: Place, sizes: Sizes) -> Measured:
    """A whole process that does nothing but ``import relight``."""
    _as_installed()
    return _starts(["-c", "import relight"], sizes)


def floor_import(_place: Place, sizes: Sizes) -> Measured:
    """A whole process that does nothing."""
    return _starts(["-c", "pass"], sizes)


def relight_first_result(place: Place, sizes: Sizes) -> Measured:
    """From starting the process to the result of one job of one step, on a store that does not exist yet."""
    _as_installed()
    return _firsts(FIRST_RESULT, place, sizes)


def floor_first_row(place: Place, sizes: Sizes) -> Measured:
    """From starting the process to one durable row in a file that does not exist yet."""
    return _firsts(FIRST_ROW, place, sizes)


def _starts(arguments: list[str], sizes: Sizes) -> Measured:
    took = []
    for _ in range(sizes.starts):
        before = time.perf_counter()
        # With a pipe, so that the end is seen at once: waiting with a time limit alone would look every 50 ms.
        subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, check=True, timeout=30)
        took.append((time.perf_counter() - before) * 1000)
    return _median(took, sizes)


def _firsts(program: str, place: Place, sizes: Sizes) -> Measured:
    took = []
    for n in range(sizes.starts):
        before = time.monotonic_ns()
        command = [sys.executable, "-c", program, str(Path(place.folder) / f"first-{n}.db"), place.durability]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
        took.append((int(child.stdout) - before) / 1e6)
    return _median(took, sizes)


def _median(took: list[float], sizes: Sizes) -> Measured:
    took.sort()
    return Measured(took[len(took) // 2], "ms", {"starts": sizes.starts}, {"min_ms": round(took[0], 1)})
