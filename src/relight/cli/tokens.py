"""Answers to what a job handed out a token for: complete, fail, beat. Each says what it did, or what was there first."""

from __future__ import annotations

import click
import msgspec

from relight.cli.options import by_option, opened, store_option
from relight.cli.output import local, say, shortened, visible
from relight.cli.parsing import text_or_stdin
from relight.core.external import PREFIX
from relight.errors import InvalidArgument
from relight.model import Delivery

token_argument = click.argument("token", metavar="TOKEN")


def is_token(address: str) -> bool:
    """Tell whether what was typed is a token and not a job: no job's address begins so."""
    return address.startswith(PREFIX) and ":" not in address


@click.command()
@token_argument
@click.option("--json", "value", metavar="VALUE", help="The value, as JSON; - reads stdin; null if it is not given.")
@by_option
@store_option
def complete(token: str, value: str | None, by: str | None, store: str | None) -> None:
    """Complete what a job handed out a token for.

    A token takes one answer. When there was one before, or its time is up, nothing is changed, and it says so.
    """
    given = None if value is None else _json(text_or_stdin(value))
    with opened(store, by=by) as client:
        say(told(client.complete(token, given), "completed"))


@click.command()
@token_argument
@click.option("--note", metavar="TEXT", help="How far it is; shown by relight why.")
@store_option
def beat(token: str, note: str | None, store: str | None) -> None:
    """Say that somebody is still at work on what a job handed out a token for."""
    with opened(store) as client:
        say(told(client.heartbeat(token, note), "noted"))


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"--json {visible(shortened(text, 60))} is not JSON: {error}") from None


def told(delivery: Delivery, done: str) -> str:
    """Say what became of an answer."""
    if delivery.counted:
        return done
    by = f" by {visible(delivery.by)}" if delivery.by else ""
    at = "" if delivery.at is None else f" at {local(int(delivery.at.timestamp() * 1000))}"
    first = {"expired": "its time was up", "job_ended": "its job had ended"}.get(
        delivery.state, f"already {delivery.state}"
    )
    return f"nothing was changed: {first}{by}{at}"
