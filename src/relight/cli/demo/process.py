"""The child process from its parent's side: start, listen, kill.

Owns the pipes. The child's imports come from where ours did: its path is passed on, and its current folder is not
importable (``-P``), so that a folder with a ``json.py`` can be counted from inside. Read next: ``driver.py``.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from relight.cli.demo.talk import News, Orders
from relight.errors import RelightError

POLL_SECONDS = 0.005
"""How long ``news`` waits: also how late a kill may notice its moment."""

EXIT_SECONDS = 30


class Child:
    """One life of the engine. Leaving the ``with`` block ends it, however it was left."""

    def __init__(self, orders: Orders, log: Path) -> None:
        import subprocess

        self._log = log
        self._decoder = msgspec.json.Decoder(News)
        self._rest = b""
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "relight.cli.demo.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        os.set_blocking(self._stdout.fileno(), False)
        with suppress(BrokenPipeError):  # It died at once; whoever waits for it will see its exit code.
            self._stdin.write(msgspec.json.encode(orders) + b"\n")
            self._stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        self._stdout.close()
        with suppress(BrokenPipeError):  # Orders that a dead child never read.
            self._stdin.close()

    @property
    def exit_code(self) -> int | None:
        """Tell how it ended; None while it lives, negative for a signal."""
        return self._process.poll()

    def has_ended(self) -> bool:
        """Tell whether the process is over."""
        return self.exit_code is not None

    def kill(self) -> None:
        """Send SIGKILL and wait until the kernel has ended it (and with that, released its locks)."""
        self._process.kill()
        self._process.wait(EXIT_SECONDS)

    def news(self) -> list[News]:
        """Return what it has said since the last call, waiting a moment when that is nothing."""
        ready, _, _ = select.select([self._stdout], [], [], POLL_SECONDS)
        new = (self._stdout.read() or b"") if ready else b""
        *whole, self._rest = (self._rest + new).split(b"\n")
        return [self._decoder.decode(raw) for raw in whole]

    def failure(self, what: str) -> RelightError:
        """Make the error for a child that did not do its part, with the end of what it wrote to its log."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        last = f" Its last words: {lines[-1]}" if lines else ""
        return RelightError(f"the demo's engine (pid {self.pid}) {what}.{last} See {self._log}", log=str(self._log))
