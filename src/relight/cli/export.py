"""``relight export``: a job's history as a file that tests replay."""

from __future__ import annotations

import os
from pathlib import Path

import click

from relight.cli.addresses import find_job
from relight.cli.options import job_argument, opened, store_option
from relight.cli.output import json_text, say, tell, visible
from relight.core.why_words import count
from relight.errors import InvalidArgument
from relight.ids import short
from relight.recorder.exported import export_history, write_history


@click.command()
@job_argument
@click.option("-o", "--output", metavar="FILE", help="Write it there, over what is there; else it is printed.")
@store_option
def export(job: str, output: str | None, store: str | None) -> None:
    """Write a job's history as a file for tests.

    It holds its arguments, and each step, wait and recorded value with its outcome, as JSON. A test replays it against newer code: relight.testing.assert_replays(workflow, FILE). Text that looks like a secret is
    replaced; other data of the job is in it as it was stored.
    """
    with opened(store) as client:
        job_id = find_job(client.core, job)
        with client.core.store.reading(snapshot=True) as reads:
            history = export_history(reads, job_id)
    text = write_history(history)
    if output is None:
        say(json_text(history))
    else:
        _write(Path(output), text)
        tell(
            visible(
                f"{history.kind} {short(job_id)} ({history.state}, {count(len(history.steps), 'record')}): {output}"
            )
        )
    for where in history.redacted:
        tell(visible(f"{where}: what looks like a secret was replaced"))


def _write(path: Path, text: bytes) -> None:
    """Write the whole file or nothing of it."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(text)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from None
