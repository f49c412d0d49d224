"""``relight queues``: what holds in each queue and why, and an operator's word on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from relight.authoring.options import Rate
from relight.cli import records
from relight.cli.options import by_option, json_option, opened, store_option
from relight.cli.output import local, say, say_json, table, visible, wire_time
from relight.cli.parsing import pairs, seconds
from relight.client.core import Core
from relight.core.terms import Terms, definition_of, read_terms, term_words, terms_of
from relight.errors import InvalidArgument
from relight.ids import EngineId
from relight.model import QueueRecord

queue_argument = click.argument("queue", metavar="QUEUE")


@click.group(invoke_without_command=True)
@json_option
@store_option
@click.pass_context
def queues(ctx: click.Context, as_json: bool, store: str | None) -> None:
    """List queues, what holds and runs in each; or pause, resume and set one.

    A definition in code holds from the last start on, and the one before it is shown beside it. What an operator sets holds
    over it until it is cleared. Running jobs go on in any case.
    """
    if ctx.invoked_subcommand is not None:
        return
    with opened(store) as client, client.core.store.reading(snapshot=True) as reads:
        defined = {queue.queue: queue for queue in reads.queues()}
        names = sorted({*defined, *reads.claimable_queues(), "default"})
        loads = {name: reads.queue_load(name) for name in names}
    rows = [defined.get(name, QueueRecord(queue=name)) for name in names]
    if as_json:
        for row in rows:
            say_json(queue_object(row, loads[row.queue]))
    else:
        table(
            ("QUEUE", "RUNNING", "SLOTS", "PER ENGINE", "RATE", "PRIORITY", "DEFINED", "OPERATOR"),
            (_queue_row(row, loads[row.queue]) for row in rows),
        )


def queue_object(queue: QueueRecord, load: dict[EngineId, int]) -> records.Object:
    """Return what holds in a queue, its definition and the one before, and what an operator overrode."""
    terms = terms_of(queue)
    made = records.queue_object(queue)
    return {
        "queue": queue.queue,
        "slots": terms.slots,
        "per_engine_slots": terms.per_engine_slots,
        "priority": terms.priority,
        "rate": None if terms.rate is None else {"n": terms.rate.n, "per_seconds": terms.rate.per_ms / 1000},
        "paused": queue.paused,
        "defined": queue.defined_by is not None,
        "definition": None if queue.defined_by is None else definition_of(queue),
        "defined_by": queue.defined_by,
        "defined_at": made["defined_at"],
        "previous": made["previous"] and {**made["previous"], "at": wire_time(made["previous"]["at"])},
        "override": read_terms(queue.override) or None,
        "override_by": queue.override_by,
        "updated_at": made["updated_at"] if queue.revision else None,
        "running": sum(load.values()),
    }


def _queue_row(queue: QueueRecord, load: dict[EngineId, int]) -> tuple[str, ...]:
    terms = terms_of(queue)
    limits = ["no limit" if n is None else str(n) for n in (terms.slots, terms.per_engine_slots, terms.rate)]
    return (
        queue.queue,
        str(sum(load.values())),
        *limits,
        str(terms.priority),
        visible(defined_words(queue)),
        visible(operator_words(queue)),
    )


def defined_words(queue: QueueRecord) -> str:
    """Say who defined a queue, and the definition that it replaced."""
    if queue.defined_by is None or queue.defined_at is None:
        return "no"
    overridden = f"{term_words(definition_of(queue))} " if queue.override else ""
    before = read_terms(queue.previous)
    was = f"; before: {term_words(before)} ({before.get('by')}, {local(before.get('at') or 0)})" if before else ""
    return f"{overridden}{queue.defined_by}, {local(queue.defined_at)}{was}"


def operator_words(queue: QueueRecord) -> str:
    """Say what an operator did to a queue."""
    over = read_terms(queue.override)
    said = ["paused"] if queue.paused else []
    said += [f"set {', '.join(f'{name}={_term(name, value)}' for name, value in over.items())}"] if over else []
    return f"{', '.join(said)} by {queue.override_by}" if said else ""


def _term(name: str, value: Any) -> str:
    return "none" if value is None else term_words({name: value}).partition("=")[2] or str(value)


def _act(ctx: click.Context, store: str | None, by: str | None, do: Callable[[Core], QueueRecord]) -> None:
    if store is None and ctx.parent is not None:
        store = ctx.parent.params.get("store")
    with opened(store, by=by) as client:
        row = do(client.core)
    terms = terms_of(row)
    over = operator_words(row)
    say(visible(f"queue {row.queue}: {in_force(terms)}{f' ({over})' if over else ''}"))


def in_force(terms: Terms) -> str:
    """Say what holds in a queue."""
    rate = None if terms.rate is None else {"n": terms.rate.n, "per_seconds": terms.rate.per_ms / 1000}
    return term_words({**terms._asdict(), "rate": rate})


@queues.command()
@queue_argument
@by_option
@store_option
@click.pass_context
def pause(ctx: click.Context, queue: str, by: str | None, store: str | None) -> None:
    """Let nothing of a queue start, in any engine, until it is resumed. Running jobs go on."""
    _act(ctx, store, by, lambda core: core.pause_queue(queue, by=by))


@queues.command()
@queue_argument
@by_option
@store_option
@click.pass_context
def resume(ctx: click.Context, queue: str, by: str | None, store: str | None) -> None:
    """Let a paused queue start jobs again."""
    _act(ctx, store, by, lambda core: core.resume_queue(queue, by=by))


@queues.command("set")
@click.argument("terms", metavar="NAME=VALUE… QUEUE", nargs=-1, required=True)
@by_option
@store_option
@click.pass_context
def set_terms(ctx: click.Context, terms: tuple[str, ...], by: str | None, store: str | None) -> None:
    """Say what holds in a queue in place of its definition, until it is cleared.

    slots=N, per_engine_slots=N, priority=N, rate=N/DURATION (10/60s, 100/1h); none instead of N is no limit.
    """
    *said, queue = terms
    if not said or "=" in queue:
        raise InvalidArgument("write: relight queues set slots=2 QUEUE")
    given = {name: _read_term(name, value) for name, value in pairs(said, "queues set").items()}
    _act(ctx, store, by, lambda core: core.set_queue(queue, given, by=by))


@queues.command()
@queue_argument
@by_option
@store_option
@click.pass_context
def clear(ctx: click.Context, queue: str, by: str | None, store: str | None) -> None:
    """Let a queue's definition in code hold again. A paused queue stays paused."""
    _act(ctx, store, by, lambda core: core.clear_queue(queue, by=by))


_LEAST: Final = {"slots": 0, "per_engine_slots": 0, "priority": -(2**31)}


def _read_term(name: str, text: str) -> Any:
    if name == "rate":
        return None if text == "none" else _read_rate(text)
    if name not in _LEAST:
        raise InvalidArgument(f"queues set {name}={text}: one of slots, per_engine_slots, priority, rate")
    if text == "none" and name != "priority":
        return None
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or not _LEAST[name] <= number < 2**31:
        raise InvalidArgument(
            f"queues set {name}={text}: a whole number{'' if name == 'priority' else ', 0 or more, or none'}"
        )
    return number


def _read_rate(text: str) -> dict[str, Any]:
    n, slash, time = text.partition("/")
    if not slash or not n.isdecimal():
        raise InvalidArgument(f"queues set rate={text}: starts and a duration, like 10/60s or 100/1h, or none")
    rate = Rate(int(n), seconds(time, "rate"))
    return {"n": rate.n, "per_seconds": rate.per_seconds}
