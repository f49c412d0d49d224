"""``relight engines``, and an operator's word that one of them is dead."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import click

from relight.cli import records
from relight.cli.addresses import find_engine
from relight.cli.lists import before_option, hint, paged, readable_and_not, unreadable_object
from relight.cli.options import by_option, json_option, limit_option, opened, store_option
from relight.cli.output import local, say, say_json, table, tell, visible
from relight.core.why_words import count, lasting, listed
from relight.engine.operator import fence_engine
from relight.ids import short
from relight.model import EngineRecord, EngineState
from relight.proof.lockfile import probe, state_dir_for
from relight.store.reads import LAST_ID, Reads, Unreadable

_MAY_HOLD_LOCK = (EngineState.LIVE, EngineState.SILENT)


@click.group(invoke_without_command=True)
@before_option
@limit_option()
@json_option
@store_option
@click.pass_context
def engines(ctx: click.Context, before: str | None, limit: int, as_json: bool, store: str | None) -> None:
    """List engines, the newest first: what each is, and whether its lock is held."""
    if ctx.invoked_subcommand is not None:
        return
    with opened(store) as client, client.core.store.reading() as reads:
        core = client.core
        start = LAST_ID if before is None else find_engine(core, before).engine_id
        rows = [_seen(reads, core.store.place, row) for row in paged(partial(_page, reads), _id_of, start, limit)]
        now_ms = core.clock.now_ms()
    if as_json:
        for row in rows:
            say_json(row.as_object())
        return
    head = ("ENGINE", "NAME", "STATE", "GATE", "LOCK", "PID", "LAST BEAT", "RUNNING", "STARTED", "TAKES")
    table(head, (row.as_row(now_ms) for row in rows))
    if not rows:
        tell("no engines yet")
    hint(len(rows), limit, _id_of(rows[-1].row) if rows else None, "relight engines")


def _id_of(row: EngineRecord | Unreadable) -> str:
    return row.id if isinstance(row, Unreadable) else row.engine_id


def _page(reads: Reads, before: str, size: int) -> list[EngineRecord | Unreadable]:
    aside: list[Unreadable] = []
    found = reads.engines(limit=size, before=before, aside=aside)
    return readable_and_not(found, aside, _id_of, size)


def _seen(reads: Reads, place: str, row: EngineRecord | Unreadable) -> _Seen:
    lock = None if isinstance(row, Unreadable) else lock_of(place, row)
    return _Seen(row, lock, reads.count_running_of([_id_of(row)]))


def lock_of(place: str, row: EngineRecord) -> str | None:
    """Return what an engine's lock says: ``held``, ``free`` (so it is dead), ``unknown``; None where nobody asks.

    One that stopped takes its lock file away, unless it left a run behind.
    """
    if row.state is EngineState.DEAD:
        return None
    found = probe(state_dir_for(place), row.engine_id, row.nonce)
    if not found.decides:
        return None if row.state is EngineState.STOPPED else "unknown"
    return "held" if found.locked else "free"


@dataclass(frozen=True)
class _Seen:
    """An engine's row, what its lock says, and how many runs it has."""

    row: EngineRecord | Unreadable
    lock: str | None
    running: int

    def as_object(self) -> records.Object:
        if isinstance(self.row, Unreadable):
            return {**unreadable_object(self.row, "engine_id"), "running": self.running}
        return {**records.engine_object(self.row), "lock": self.lock, "running": self.running}

    def as_row(self, now_ms: int) -> tuple[str, ...]:
        row = self.row
        if isinstance(row, Unreadable):
            return (short(row.id), "?", "unreadable", "", "", "", "", str(self.running), "", row.detail)
        kinds = records.stored_json(row.kinds)
        verdict = "" if row.verdict is None or str(row.verdict) == str(row.state) else f" ({row.verdict})"
        return (
            short(row.engine_id),
            row.name,
            "dead, not recovered" if self.lock == "free" else f"{row.state}{verdict}",
            row.gate,
            self.lock or "",
            str(row.pid),
            f"{lasting(now_ms - row.beat_at)} ago" if row.state in _MAY_HOLD_LOCK else local(row.beat_at),
            str(self.running),
            local(row.started_at),
            listed([_kind_words(kind) for kind in kinds], 5) if isinstance(kinds, list) else "",
        )


def _kind_words(kind: object) -> str:
    """Say a kind as an engine registered it: its name, and its version if it has one."""
    return " ".join(str(part) for part in kind if part) if isinstance(kind, list) else str(kind)


@engines.command()
@click.argument("engine", metavar="ENGINE")
@click.option("--force", is_flag=True, help="Also an engine that provably lives.")
@by_option
@store_option
@click.pass_context
def fence(ctx: click.Context, engine: str, force: bool, by: str | None, store: str | None) -> None:
    """Vouch that an engine is dead: from now on it can write nothing.

    ENGINE is the end of its id, or its name. Its running jobs are stalled by the next recovery, and go on in another
    engine; jobs that were held for it are released now. Its code may still act outside: end its process if you can.
    """
    parent = ctx.parent
    if store is None and parent is not None:
        store = parent.params.get("store")
    with opened(store, by=by) as client:
        row = find_engine(client.core, engine)
        released = fence_engine(client.core, row.engine_id, by=by, force=force)
        with client.core.store.reading() as reads:
            left = reads.count_running_of([row.engine_id])
    say(
        visible(
            f"engine {row.name} {short(row.engine_id)} is held dead: {count(left, 'running job')} to be stalled by the "
            f"next recovery, {count(released, 'held job')} released"
        )
    )
