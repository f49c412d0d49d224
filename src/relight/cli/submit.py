"""``relight submit``: put a job into a store; some engine runs it."""

from __future__ import annotations

from typing import Any

import click

from relight.cli.arguments import make_call, plain_arguments
from relight.cli.loading import is_target, load
from relight.cli.options import by_option, opened, read_submit_options, store_option, submit_options
from relight.cli.output import say, tell
from relight.ids import short


@click.command()
@click.argument("target", metavar="MODULE:WORKFLOW|KIND")
@submit_options
@by_option
@store_option
def submit(
    target: str, args: tuple[str, ...], inputs: str | None, by: str | None, store: str | None, **more: Any
) -> None:
    """Submit a job: when its id is printed, it is on disk. An engine runs it.

    With MODULE:WORKFLOW (or path/to/file.py:WORKFLOW) the arguments are checked against the workflow's annotations. With
    KIND, the name of a workflow that some engine has registered in this store, they are plain JSON values.
    """
    options = read_submit_options(**more)
    if is_target(target):
        workflow = load(target).workflow()
        call = make_call(workflow, args, inputs, options)
        with opened(store, by=by, workflows=[workflow]) as client:
            job_id, kind, created = client.core.submit(call, (), type(options)())
            _tell(job_id, kind, created=created, place=client.core.store.place)
        return
    values = plain_arguments(args, inputs)
    with opened(store, by=by) as client:
        job_id, kind, created = client.core.submit(target, (values,) if values else (), options)
        _tell(job_id, kind, created=created, place=client.core.store.place)


def _tell(job_id: str, kind: str, *, created: bool, place: str) -> None:
    say(job_id)
    tell(f"{kind} {short(job_id)} {'accepted' if created else 'is there already (same key)'} in {place}")
