"""What many commands take, said once: the store, JSON, limits, who acts, which job, what a submit may say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from relight.authoring.workflows import SubmitOptions
from relight.cli.parsing import moment, pairs, seconds
from relight.client.client import Client
from relight.errors import InvalidArgument

F = TypeVar("F", bound=Callable[..., Any])

store_option = click.option(
    "--store",
    metavar="STORE",
    help="A path, sqlite:///PATH or postgresql://…; else RELIGHT_STORE, else relight.db in the current folder.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a line for a list.")
by_option = click.option("--by", metavar="WHO", help="Who acts, for the record; else $USER.")
job_argument = click.argument("job", metavar="JOB")


def limit_option(default: int = 100, what: str = "the newest") -> Callable[[F], F]:
    """Return ``--limit``."""
    told = "all" if default == 0 else f"{what} {default}"
    return click.option(
        "--limit",
        type=click.IntRange(min=0),
        default=default,
        metavar="N",
        help=f"How many at most, 0 for all; else {told}.",
    )


def submit_options(command: F) -> F:
    """Add what a submit may say besides the arguments."""
    for option in reversed(
        (
            click.option(
                "--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument: JSON, else text. Repeatable."
            ),
            click.option("--json", "inputs", metavar="OBJECT", help="All arguments as one JSON object; - reads stdin."),
            click.option("--key", metavar="KEY", help="Idempotency key: the same key and arguments mean the same job."),
            click.option(
                "--in", "delay", metavar="DURATION", help="Start not before so long from now: 90s, 15m, 2h, 1d."
            ),
            click.option("--at", metavar="TIME", help="Start not before this time: 2026-02-03T08:15Z."),
            click.option("--queue", metavar="QUEUE", help="The line to wait in; else the workflow's own."),
            click.option("--priority", type=int, metavar="N", help="Higher goes first; else the workflow's own, or 0."),
            click.option(
                "--partition",
                metavar="KEY",
                help="Partition key: the keys of a queue take turns, so that none starves another.",
            ),
            click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="A tag to find it by. Repeatable."),
        )
    ):
        command = option(command)
    return command


def read_submit_options(
    *,
    key: str | None,
    delay: str | None,
    at: str | None,
    queue: str | None,
    priority: int | None,
    partition: str | None,
    tags: tuple[str, ...],
) -> SubmitOptions:
    """Turn what ``submit_options`` gave into options of a submit."""
    if delay is not None and at is not None:
        raise InvalidArgument("--in and --at say the same thing twice; give one")
    return SubmitOptions(
        idempotency_key=key,
        queue=queue,
        priority=priority,
        run_at=None if at is None else moment(at, "--at"),
        delay_seconds=None if delay is None else seconds(delay, "--in"),
        tags=pairs(tags, "--tag") if tags else None,
        partition_key=partition,
    )


@contextmanager
def opened(store: str | None, *, by: str | None = None, **more: Any) -> Iterator[Client]:
    """Open a client on a store for one command."""
    with Client(store, actor=by, **more) as client:
        yield client
