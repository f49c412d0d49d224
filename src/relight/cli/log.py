"""``relight events``: the flight recorder, in commit order, to its end or for as long as it grows."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator

import click
import msgspec

from relight.cli import records
from relight.cli.addresses import find_job
from relight.cli.leaving import pause
from relight.cli.options import json_option, limit_option, opened, store_option
from relight.cli.output import local, say, say_json, tell, visible
from relight.client.core import Core
from relight.core.events import KINDS
from relight.errors import InvalidArgument
from relight.ids import short
from relight.model import FINAL_STATES, Actor, EventRecord
from relight.recorder.follow import Wait, follow, stop_at_end
from relight.store.reads import EventFilter

LOOK_SECONDS = 0.05


@click.command()
@click.option("--job", metavar="JOB", help="Only events of this job.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type. Repeatable.")
@click.option("--trace", metavar="TRACE", help="Only events of this trace.")
@click.option("--actor", type=click.Choice([actor.value for actor in Actor]), help="Only what such an actor caused.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only events behind this number.")
@click.option("--follow", "is_followed", is_flag=True, help="Go on as more come; with --job until it has ended.")
@limit_option(0)
@json_option
@store_option
def events(
    job: str | None,
    types: tuple[str, ...],
    trace: str | None,
    actor: str | None,
    after: int,
    is_followed: bool,
    limit: int,
    as_json: bool,
    store: str | None,
) -> None:
    """Print the record, the oldest event first.

    All of it, unless --limit or --after say otherwise.
    """
    for name in types:
        _check_type(name)
    with opened(store) as client:
        core = client.core
        job_id = None if job is None else find_job(core, job)
        which = EventFilter(
            job_id=job_id,
            types=types,
            trace_id=trace,
            actor=actor,
            after=after,
            limit=limit,
        )
        shown, last = 0, after
        for event in _events(core, which, _wait_for_more(core, job_id) if is_followed else stop_at_end):
            if as_json:
                say_json(records.event_object(event))
            else:
                say(_line(event))
            shown, last = shown + 1, event.seq
    if limit and shown == limit and not as_json:
        tell(f"{shown} shown; there may be more: relight events --after {last}")


def _check_type(name: str) -> None:
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"Types: {', '.join(sorted(KINDS))}"
        raise InvalidArgument(f"--type {name}: no event is of this type. {hint}")


def _events(core: Core, which: EventFilter, wait: Wait) -> Iterator[EventRecord]:
    for page in follow(core.store, which, wait=wait):
        yield from page


def _wait_for_more(core: Core, job_id: str | None) -> Wait:
    """Return what waits for the next commit. A job's events end once it has ended and was looked at once more."""
    token = core.store.watch()
    seen = token()
    looked_last = False

    def wait(_seq: int) -> bool:
        nonlocal seen, looked_last
        sys.stdout.flush()
        while True:
            if looked_last:
                return False
            looked_last = job_id is not None and core.find(job_id).state in FINAL_STATES
            now = token()
            if looked_last or now != seen:
                seen = now
                return True
            pause(LOOK_SECONDS)

    return wait


def _line(event: EventRecord) -> str:
    who = event.actor_id if event.actor is not Actor.SYSTEM else short(event.actor_id)
    parts = [
        f"{event.seq:>6}",
        f"{local(event.ts)}.{event.ts % 1000:03d}",
        f"{event.type:<20}",
        f"{event.actor}:{who}",
        short(event.job_id) if event.job_id else "",
        event.step_key or "",
        _payload(event.payload),
    ]
    return visible("  ".join(part for part in parts if part))


def _payload(text: str) -> str:
    said = records.stored_json(text)
    if not isinstance(said, dict):
        return text
    return " ".join(
        f"{name}={value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in said.items()
    )
