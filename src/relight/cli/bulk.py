"""One act on many jobs: filters instead of a job, a listing of those that are meant, and ``--yes`` to do it.

Without ``--yes`` nothing is written. What is done is done to the jobs that were listed in this very call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from relight.cli.output import local, say, table, tell, visible
from relight.cli.parsing import moment_or_ago, pairs
from relight.client.bulk import Done
from relight.clock import to_ms
from relight.core.why_words import count
from relight.errors import InvalidArgument
from relight.ids import short
from relight.model import JobRecord, JobState
from relight.store.reads import JobFilter

F = TypeVar("F", bound=Callable[..., Any])

SHOWN = 20
"""How many of the jobs that are meant are listed."""

many_job_argument = click.argument("job", metavar="[JOB]", required=False)


def bulk_options(*states: JobState) -> Callable[[F], F]:
    """Add the filters of a bulk act, whose jobs may be in these states."""

    def add(command: F) -> F:
        for option in reversed(
            (
                click.option("--kind", metavar="KIND", help="Many jobs at once: those of this kind."),
                click.option(
                    "--state",
                    "states",
                    multiple=True,
                    type=click.Choice([state.value for state in states]),
                    metavar="STATE",
                    help=f"… in this state: {' or '.join(states)}. Repeatable.",
                ),
                click.option("--queue", metavar="QUEUE", help="… of this queue."),
                click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="… with this tag. Repeatable."),
                click.option("--since", metavar="TIME", help="… submitted since: 2h, 3d, or 2026-02-03T08:15Z."),
                click.option("--yes", is_flag=True, help="Do it; without it the jobs that are meant are only listed."),
            )
        ):
            command = option(command)
        return command

    return add


def read_filter(
    kind: str | None, states: Sequence[str], queue: str | None, tags: Sequence[str], since: str | None
) -> JobFilter | None:
    """Return the filter that was typed, or None when none was."""
    if kind is None and queue is None and since is None and not states and not tags:
        return None
    return JobFilter(
        kind=kind,
        states=tuple(dict.fromkeys(JobState(state) for state in states)),
        queue=queue,
        tags=pairs(tags, "--tag") if tags else None,
        since_ms=0 if since is None else max(to_ms(moment_or_ago(since, "--since")), 0),
        limit=0,
    )


def one_or_many(job: str | None, which: JobFilter | None, *, yes: bool) -> None:
    """Refuse a call that names both a job and a filter, or neither."""
    if job is not None and (which is not None or yes):
        raise InvalidArgument(
            "a JOB and filters (--kind, --state, --queue, --tag, --since, --yes) say two things; give one"
        )
    if job is None and which is None:
        raise InvalidArgument("give a JOB, or at least one filter (--kind, --state, --queue, --tag, --since) for many")


def do_to_many(
    found: Iterator[JobRecord], verb: str, done: str, *, yes: bool, act: Callable[[list[JobRecord]], Done]
) -> None:
    """List the jobs, or do it to them and say to how many."""
    jobs = list(found)
    if not jobs:
        tell(f"no job is to be {done}")
        return
    if not yes:
        rows = ((short(j.job_id), j.kind, str(j.state), j.status_reason, local(j.updated_at)) for j in jobs[:SHOWN])
        table(("JOB", "KIND", "STATE", "BECAUSE", "SINCE"), rows)
        more = f", of which {SHOWN} are shown" if len(jobs) > SHOWN else ""
        tell(
            f"{count(len(jobs), 'job')} would be {done}{more}; nothing was done. To {verb}: the same command with --yes"
        )
        return
    outcome = act(jobs)
    moved = f"; {count(outcome.moved, 'job')} had moved meanwhile and left alone" if outcome.moved else ""
    say(visible(f"{count(outcome.done, 'job')} {done}{moved}"))
