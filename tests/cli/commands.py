"""``relight`` in processes of its own: run to the end, or started, listened to, and ended by pid."""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from relight.cli.main import cli

PATIENCE_SECONDS = 60

FLOWS = """
import time
from pathlib import Path

from relight import Engine, Queue, ask, cleanup, external, issue, step, wait_signal, workflow

gpu = Queue("gpu", slots=2)


@step
def double(n: int) -> int:
    return 2 * n


@workflow
def add(a: int, b: int = 3, note: str = "") -> int:
    return double(a) + b


@step
def read(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError("no \\x1b[31mpage\\x1b[0m")
    return path.read_text()


@workflow
def report(path: Path) -> str:
    return read(path)


@step
def hang_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        print("began", flush=True)
        time.sleep(600)  # sleep-ok: a program that is to be killed in it
    return "done"


@step(in_doubt="ask")
def charge(marker: Path) -> str:
    return hang_once.__wrapped__(marker)


@workflow
def hangs(marker: Path) -> str:
    double(1)
    return hang_once(marker)


@workflow
def pays(marker: Path) -> str:
    return charge(marker)


@workflow(on_stall="hold")
def held(marker: Path) -> str:
    return charge(marker)


@step
def tick(n: int) -> int:
    print("tick", n, flush=True)
    time.sleep(0.05)  # sleep-ok: work of a program, watched while it lasts
    return n


@workflow
def counts(n: int) -> int:
    return sum(tick(i) for i in range(n))


@workflow
def waits() -> str:
    return wait_signal("go", type=str)


@workflow
def asks() -> str:
    return ask("Send it?").choice


@workflow
def orders() -> int:
    answer = external("scan", type=int, timeout_seconds=3600, heartbeat_seconds=600)
    return answer.wait()


@workflow
def patchy(n: int) -> int:
    issue("no_ocr", "page 17 is an image")
    return n


engine = Engine(workflows=[add, waits], suspend_after_seconds=0.1, name="mine")
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """What it printed, as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Started:
    """A command under way. ``hear`` waits for a line of its output; leaving the ``with`` block kills it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.heard: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def text(self) -> str:
        """Everything heard so far, for failed assertions."""
        return "\n".join(self.heard)

    def hear(self, words: str) -> str:
        """Wait for a line with these words; return it."""
        while True:
            line = self._lines.get(timeout=PATIENCE_SECONDS)
            assert line is not None, f"ended without saying {words!r}:\n{self.text}"
            self.heard.append(line)
            if words in line:
                return line

    def send(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        while (line := self._lines.get(timeout=PATIENCE_SECONDS)) is not None:
            self.heard.append(line)
        return code


class Place:
    """A folder with ``flows.py`` in it, where commands are run; the store is ``relight.db`` there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "relight.db"
        folder.joinpath("flows.py").write_text(FLOWS)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "USER": "ann", "LOGNAME": "ann", "TZ": "UTC", "PYTHONUNBUFFERED": "1", **more}

    def run(self, *args: str, stdin: str | None = None, **environment: str) -> Done:
        """Run ``relight`` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "relight", *args],
            cwd=self.folder,
            env=self._environment(environment),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def do(self, command: str) -> Done:
        """Run a command that somebody printed, as a person would type it."""
        words = shlex.split(command)
        assert words[0] == "relight"
        return self.run(*words[1:])

    def ok(self, *args: str, stdin: str | None = None) -> Done:
        """Run ``relight``, which must succeed: in this process (a tenth of the time) where no engine and no code is meant."""
        done = self.run(*args, stdin=stdin) if self._needs_process(*args) else self._inside(*args, stdin=stdin)
        assert done.code == 0, (args, done)
        return done

    @staticmethod
    def _needs_process(command: str, *args: str) -> bool:
        return command in ("run", "worker", "demo") or any("flows" in arg for arg in args)

    def _inside(self, *args: str, stdin: str | None) -> Done:
        environment = {"USER": "ann", "LOGNAME": "ann", "RELIGHT_STORE": str(self.store)}
        result = CliRunner(env=environment).invoke(cli, args, input=stdin, prog_name="relight")
        return Done(result.exit_code, result.stdout, result.stderr)

    def start(self, *args: str, **environment: str) -> Started:
        """Start ``relight``; its stdout and stderr are heard as one."""
        process = subprocess.Popen(
            [sys.executable, "-m", "relight", *args],
            cwd=self.folder,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Started(process)
