"""How far a job is, on one line of a terminal that is drawn again and again. Off a terminal it draws nothing."""

from __future__ import annotations

import shutil
import sys
import time

from relight.cli.output import on_terminal, visible
from relight.cli.show import job_why
from relight.client.core import Core
from relight.errors import RelightError
from relight.ids import JobId

EVERY_SECONDS = 0.25
CELLS = 30


class ProgressLine:
    """The line. ``clear`` takes it away, so that something else can be printed."""

    def __init__(self, core: Core, job_id: JobId) -> None:
        self._core = core
        self._job_id = job_id
        self._shown = on_terminal()
        self._drawn = False
        self._next = 0.0

    def draw(self) -> None:
        """Draw the line, if it is time to."""
        if not self._shown or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_SECONDS
        try:
            text = self._text()
        except RelightError:  # what hinders reading is told where it hinders the job
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{visible(text)[:width]}")
        sys.stderr.flush()
        self._drawn = True

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def _text(self) -> str:
        said = job_why(self._core, self._job_id).summary
        progress = self._core.info(self._job_id).progress
        if progress is None or not progress.total:
            return said
        cells = min(int(CELLS * progress.done / progress.total), CELLS)
        return f"[{'#' * cells:<{CELLS}}] {said}"
