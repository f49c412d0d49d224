"""``relight watch``: one job until its end, as it goes: each new situation on a line, how far it is on the last one."""

from __future__ import annotations

import threading
from datetime import UTC

import click

from relight.cli import records
from relight.cli.addresses import find_job
from relight.cli.exit_codes import JOB_EXITS
from relight.cli.leaving import PATIENCE_SECONDS
from relight.cli.options import job_argument, json_option, opened, store_option
from relight.cli.output import local_now, say, say_json, visible
from relight.cli.progress import ProgressLine
from relight.cli.run import tell_end
from relight.cli.show import job_why
from relight.client.core import Core
from relight.ids import JobId
from relight.model import Why


@click.command()
@job_argument
@json_option
@store_option
@click.pass_context
def watch(ctx: click.Context, job: str, as_json: bool, store: str | None) -> None:
    """Watch a job until it ends.

    Prints a line for each new situation, and on a terminal how far it is. With --json one object a line, each as `why --json` prints it. Exit codes as of run. Ctrl-C ends the watching, not the job.
    """
    with opened(store) as client:
        job_id = find_job(client.core, job)
        _Watch(client.core, job_id, as_json).until_its_end()
        ended = client.core.find(job_id)
        if not as_json:
            tell_end(client.core, ended)
    ctx.exit(JOB_EXITS[ended.state])


class _Watch:
    """Looks again and again, and says what is new."""

    def __init__(self, core: Core, job_id: JobId, as_json: bool) -> None:
        self._core = core
        self._job_id = job_id
        self._as_json = as_json
        self._said: object = None

    def until_its_end(self) -> None:
        line = ProgressLine(self._core, self._job_id)
        ended = threading.Event()
        self._core.ends.wait_for(self._job_id, ended.set)
        try:
            while True:
                over = ended.wait(PATIENCE_SECONDS)
                found = job_why(self._core, self._job_id, UTC if self._as_json else None)
                if self._is_new(found):
                    line.clear()
                    self._say(found)
                if over:
                    return
                if not self._as_json:
                    line.draw()
        finally:
            line.clear()
            self._core.ends.forget(self._job_id, ended.set)

    def _is_new(self, found: Why) -> bool:
        # Not the sentences: these tell how long it lasts, and change all the time.
        situation = (self._core.find(self._job_id).state, [(cause.code, cause.since) for cause in found.causes])
        is_new = situation != self._said
        self._said = situation
        return is_new

    def _say(self, found: Why) -> None:
        if self._as_json:
            say_json(records.why_object(self._job_id, found))
        else:
            say(visible(f"{local_now():%H:%M:%S}  {found.summary}"))
