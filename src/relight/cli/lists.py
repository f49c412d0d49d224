"""``relight jobs``, ``recoveries``: pages of what a store has, the newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import click

from relight.cli import records
from relight.cli.addresses import find_job
from relight.cli.options import json_option, limit_option, opened, store_option
from relight.cli.output import local, say_json, table, tell
from relight.cli.parsing import moment_or_ago, pairs
from relight.client.core import Core
from relight.clock import to_ms
from relight.core.why_words import lasting, listed
from relight.ids import short
from relight.model import JobRecord, JobState, RecoveryRecord
from relight.store.reads import LAST_ID, JobFilter, Unreadable

PAGE = 500

LONGER_SHORT = 12
"""How many of an id's last characters are told where it is to be typed again: enough in any store."""

T = TypeVar("T")

before_option = click.option("--before", metavar="ID", help="Go on behind this one: the last of the page before.")


def paged(read: Callable[[str, int], list[T]], key: Callable[[T], str], before: str, limit: int) -> Iterator[T]:
    """Yield rows page by page, each page by the last key of the one before it; ``limit`` 0 for all."""
    left = limit
    while True:
        size = min(PAGE, left) if limit else PAGE
        page = read(before, size)
        yield from page
        left -= len(page)
        if len(page) < size or (limit and left <= 0):
            return
        before = key(page[-1])


def hint(shown: int, limit: int, last: str | None, command: str) -> None:
    """Say how to see more, when a page is full."""
    if limit and shown == limit and last is not None:
        tell(f"{shown} shown; there may be more: {command} --before …{last[-LONGER_SHORT:]}, or --limit 0")


def readable_and_not(
    readable: Sequence[T], aside: Sequence[Unreadable], key: Callable[[T | Unreadable], str], size: int
) -> list[T | Unreadable]:
    """Put rows that cannot be read where they belong among those that can: a page of both, the newest first."""
    both: list[T | Unreadable] = [*readable, *aside]
    both.sort(key=key, reverse=True)
    return both[:size]


def unreadable_object(bad: Unreadable, name: str) -> records.Object:
    """Return what can be said of a row that cannot be read."""
    return {name: bad.id, "unreadable": bad.detail}


@click.command()
@click.option("--kind", metavar="KIND", help="Only jobs of this kind.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in JobState]),
    metavar="STATE",
    help=f"Only jobs in this state: {', '.join(JobState)}. Repeatable.",
)
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Only jobs with this tag. Repeatable.")
@click.option("--queue", metavar="QUEUE", help="Only jobs of this queue.")
@click.option("--since", metavar="TIME", help="Only jobs submitted since: 2h, 3d, or 2026-02-03T08:15Z.")
@before_option
@limit_option()
@json_option
@store_option
def jobs(
    kind: str | None,
    states: tuple[str, ...],
    tags: tuple[str, ...],
    queue: str | None,
    since: str | None,
    before: str | None,
    limit: int,
    as_json: bool,
    store: str | None,
) -> None:
    """List jobs, the newest first."""
    which = JobFilter(
        kind=kind,
        states=tuple(dict.fromkeys(JobState(state) for state in states)),
        queue=queue,
        tags=pairs(tags, "--tag") if tags else None,
        since_ms=0 if since is None else max(to_ms(moment_or_ago(since, "--since")), 0),
    )
    with opened(store) as client:
        start = LAST_ID if before is None else find_job(client.core, before)
        found = paged(lambda key, size: _jobs_page(client.core, which, key, size), _job_id, start, limit)
        if as_json:
            for job in found:
                if isinstance(job, Unreadable):
                    say_json(unreadable_object(job, "job_id"))
                else:
                    say_json(records.job_object(job))
            return
        rows = list(found)
    table(("JOB", "KIND", "STATE", "ATTEMPT", "CREATED", "BECAUSE", "KEY AND TAGS"), map(_job_row, rows))
    if not rows:
        tell("no jobs")
    hint(len(rows), limit, _job_id(rows[-1]) if rows else None, "relight jobs")


def _job_id(job: JobRecord | Unreadable) -> str:
    return job.id if isinstance(job, Unreadable) else job.job_id


def _jobs_page(core: Core, which: JobFilter, before: str, size: int) -> list[JobRecord | Unreadable]:
    aside: list[Unreadable] = []
    with core.store.reading() as reads:
        found = reads.jobs(replace(which, before=before, limit=size), aside=aside)
    return readable_and_not(found, aside, _job_id, size)


def _job_row(job: JobRecord | Unreadable) -> tuple[str, ...]:
    if isinstance(job, Unreadable):
        return (short(job.id), "?", "unreadable", "", "", job.detail, "")
    tags = records.stored_json(job.tags)
    marks = [f"{name}={value}" for name, value in tags.items()] if isinstance(tags, dict) else []
    if job.idempotency_key is not None:
        marks.insert(0, f"{job.kind}:{job.idempotency_key}")
    return (
        short(job.job_id),
        job.kind,
        job.state,
        str(job.attempt),
        local(job.created_at),
        job.status_reason,
        " ".join(marks),
    )


@click.command()
@before_option
@limit_option()
@json_option
@store_option
def recoveries(before: str | None, limit: int, as_json: bool, store: str | None) -> None:
    """List recoveries: what each found out about other engines, and what it did."""
    with opened(store) as client, client.core.store.reading() as reads:
        start = LAST_ID
        if before is not None:
            end = before.lstrip("….")
            start = next((r.recovery_id for r in reads.recoveries(limit=0) if r.recovery_id.endswith(end)), LAST_ID)
        rows = list(
            paged(lambda key, size: reads.recoveries(size, before=key), lambda row: row.recovery_id, start, limit)
        )
    if as_json:
        for row in rows:
            say_json(records.recovery_object(row))
        return
    head = ("RECOVERY", "STARTED", "BY ENGINE", "TOOK", "RUNS", "STALLED", "IN DOUBT", "SET ASIDE", "VERDICTS")
    table(head, map(_recovery_row, rows))
    if not rows:
        tell("no recoveries yet")
    hint(len(rows), limit, rows[-1].recovery_id if rows else None, "relight recoveries")


def _recovery_row(row: RecoveryRecord) -> tuple[str, ...]:
    judged = records.stored_json(row.engines)
    verdicts = [f"{short(each['engine_id'])} {each['verdict']}" for each in judged] if isinstance(judged, list) else []
    numbers = (row.scanned, row.stalled, row.in_doubt, row.quarantined)
    return (
        short(row.recovery_id),
        local(row.started_at),
        short(row.engine_id),
        lasting(row.duration_ms),
        *(f"{number:,}" for number in numbers),
        listed(verdicts),
    )
