"""``relight fork``: a new job of what another one has finished, perhaps with other arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from relight.cli.addresses import find_job
from relight.cli.arguments import plain_arguments
from relight.cli.options import by_option, job_argument, opened, store_option
from relight.cli.output import say, tell, visible
from relight.core.why_words import count
from relight.ids import short


@click.command()
@job_argument
@click.option(
    "--from", "from_step", metavar="STEP", help="The first step to call again; else those whose failure ended the job."
)
@click.option(
    "--arg", "args", multiple=True, metavar="NAME=VALUE", help="Another argument: JSON, else text. Repeatable."
)
@click.option("--json", "inputs", metavar="OBJECT", help="All arguments anew as one JSON object; - reads stdin.")
@by_option
@store_option
def fork(
    job: str, from_step: str | None, args: tuple[str, ...], inputs: str | None, by: str | None, store: str | None
) -> None:
    """Make a new job of what a job has finished, and print its id. The job itself is not touched, whatever its state.

    The new job takes over the steps that had finished before --from STEP began (relight show lists them), children as their
    outcomes; they never run again. With other arguments, a step taken over that gets them differs from its record: the new
    job then stops there for relight resume --accept.
    """
    given = plain_arguments(args, inputs)

    def edit(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
        return given if inputs is not None else {**recorded, **given}

    with opened(store, by=by) as client:
        core = client.core
        source = core.find(find_job(core, job))
        new = core.fork(source.job_id, from_step=from_step, by=by, edit=edit if args or inputs is not None else None)
        with core.store.reading() as reads:
            copied = len(reads.steps(new.job_id))
        say(new.job_id)
        told = (
            f"{new.kind} {short(new.job_id)} forked from {short(source.job_id)} with {count(copied, 'finished step')}"
        )
        tell(visible(f"{told} in {core.store.place}"))
