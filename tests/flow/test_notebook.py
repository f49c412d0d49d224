"""A notebook: cells in a kernel whose event loop runs in the main thread, definitions run again, an engine over many cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from relight.store.reads import EventFilter
from relight.store.sqlite import SqliteStore

KERNEL = """
import asyncio, json, signal, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()

async def kernel(cells):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a kernel; asyncio.run() has set its own
    for cell in cells:
        assert shell.run_cell(cell).success, cell
    print("said", json.dumps(shell.user_ns["said"]))

asyncio.run(kernel(json.load(sys.stdin)))
"""

DEFINE = """
from relight import Engine, step, workflow

@step
def double(n: int) -> int:
    return 2 * n

@workflow
def first(n: int) -> int:
    return double(n)
"""
REDEFINE = """
@workflow
def first(n: int) -> int:
    return double(n) + 1
"""
START = "said = {}; engine = Engine('nb.db', workflows=[first]).start()"
STOP = "engine.stop(drain_seconds=0)"


def run(folder: Path, *cells: str) -> dict[str, Any]:
    """Run cells one after the other, as a kernel does; return what they put into ``said``."""
    done = subprocess.run(
        [sys.executable, "-c", KERNEL],
        input=json.dumps(cells),
        cwd=folder,
        env={**os.environ, "IPYTHONDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout.split("said ")[-1])
    return said


def test_a_sync_engine_works_on_the_kernels_loop_and_over_many_cells(tmp_path: Path) -> None:
    said = run(tmp_path, DEFINE, START, "said['a'] = engine.submit(first, 21).result(timeout_seconds=30)", STOP)
    assert said == {"a": 42}


def test_a_cell_that_is_run_again_replaces_its_workflow_and_the_record_says_so(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        DEFINE,
        START,
        "said['a'] = engine.submit(first, 21).result(timeout_seconds=30)",
        REDEFINE,
        "said['b'] = engine.submit(first, 21).result(timeout_seconds=30)",
        "said['c'] = engine.submit('first', 21).result(timeout_seconds=30)",
        STOP,
    )
    assert said == {"a": 42, "b": 43, "c": 43}
    store = SqliteStore(str(tmp_path / "nb.db"))
    store.open(create=False)
    with store.reading() as reads:
        [told] = reads.events(EventFilter(types=("workflow_replaced",)))
    store.close()
    assert json.loads(told.payload)["job_kind"] == "first"


def test_handles_and_reasons_show_themselves(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        DEFINE,
        START,
        "job = engine.submit(first, 21); job.result(timeout_seconds=30)",
        "said['job'] = job._repr_html_(); said['why'] = job.why()._repr_html_()",
        "from dataclasses import asdict; import pandas as pd",
        "said['frame'] = list(pd.DataFrame(map(asdict, engine.jobs()))['state'].astype(str))",
        STOP,
    )
    assert "first" in said["job"]
    assert "<code>completed</code>" in said["why"]
    assert said["frame"] == ["completed"]


def test_interrupting_a_wait_leaves_the_job_alone_and_says_so(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        DEFINE,
        "from relight import wait_signal",
        "@workflow\ndef waits() -> str:\n    return wait_signal('go', type=str)\n",
        "said = {}; engine = Engine('nb.db', workflows=[waits]).start(); job = engine.submit(waits)",
        "import os, signal, threading; threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()",
        "try:\n    job.result(timeout_seconds=30)\nexcept KeyboardInterrupt as stop:\n    said['note'] = stop.__notes__\n",
        "job.signal('go', 'went'); said['result'] = job.result(timeout_seconds=30)",
        STOP,
    )
    assert "it goes on" in said["note"][0]
    assert said["result"] == "went"
