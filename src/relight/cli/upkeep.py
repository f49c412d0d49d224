"""``relight verify``, ``relight db upgrade`` and ``relight db copy``: a store's promises, its schema, and where it lives."""

from __future__ import annotations

import sys
from typing import Protocol, runtime_checkable

import click

from relight.cli.exit_codes import Exit
from relight.cli.options import by_option, json_option, opened, store_option
from relight.cli.output import on_terminal, say, say_json, visible
from relight.core.commands.engines import Tell
from relight.core.events import SchemaUpgraded
from relight.core.why_words import count
from relight.errors import Conflict
from relight.ids import short
from relight.model import EngineState
from relight.proof.lockfile import probe, state_dir_for
from relight.recorder.invariants import Report
from relight.settings import resolve
from relight.store.migrate import Migration
from relight.store.moving import Movable, copy_all
from relight.store.open import store_at
from relight.store.store import Store


@click.command()
@json_option
@store_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool, store: str | None) -> None:
    """Check that a store keeps every promise that it can be asked about.

    Reads everything; writes nothing; the store may be in use. Exit 0 when all is well, 1 when something was found.
    """
    from relight.recorder.verify import verify as audit

    with opened(store) as client:
        report = audit(client.core.store, progress=_progress if on_terminal() else None)
        place = client.core.store.place
    if on_terminal():
        sys.stderr.write("\r\x1b[K")
    if as_json:
        findings = [{"invariant": f.invariant, "ids": list(f.ids), "detail": f.detail} for f in report.findings]
        say_json({"ok": report.ok, "store": place, "counts": dict(report.counts), "findings": findings})
    else:
        _say_report(report, place)
    if not report.ok:
        ctx.exit(Exit.FAILED)


def _say_report(report: Report, place: str) -> None:
    counts = ", ".join(f"{number:,} {name}" for name, number in report.counts.items())
    for finding in report.findings:
        say(visible(str(finding)))
    said = "ok" if report.ok else count(len(report.findings), "finding")
    say(visible(f"{place}: {said} ({counts})"))


def _progress(what: str, done: int, total: int) -> None:
    sys.stderr.write(f"\r\x1b[K{what}: {done:,} of {total:,}")
    sys.stderr.flush()


@runtime_checkable
class _Upgradable(Store, Protocol):
    def engines_marked_live(self) -> list[tuple[str, str, str, int]]: ...

    def upgrade(self) -> list[Migration]: ...


def _may_live(store: Store, engine_id: str, nonce: str) -> bool:
    """Tell whether an engine holds its lock, or has none here because it may be on another host."""
    lock = probe(state_dir_for(store.place), engine_id, nonce)
    return lock.locked or (store.capabilities.time_is_proof and not lock.found)


@click.group()
def db() -> None:
    """Look after a store: its schema, and where it lives."""


@db.command()
@by_option
@store_option
def upgrade(by: str | None, store: str | None) -> None:
    """Bring a store's schema up to this Relight's. Refused while an engine is live.

    An engine makes the schema of a new store by itself; this is for a store that an older Relight wrote.
    """
    target = store_at(resolve({"store": store}).store)
    assert isinstance(target, _Upgradable)
    for engine_id, name, nonce, pid in target.engines_marked_live():
        if _may_live(target, engine_id, nonce):
            raise Conflict(
                f"engine {name} {short(engine_id)} is live on {target.place} (process {pid}). Stop every engine on it, then "
                "upgrade",
                engine_id=engine_id,
                pid=pid,
            )
    done = target.upgrade()
    if not done:
        say(visible(f"{target.place} has the newest schema already"))
        return
    with opened(store, by=by) as client:
        told = SchemaUpgraded(from_version=done[0].number - 1, to_version=done[-1].number)
        client.core.journal.execute(Tell(payload=told, who=client.core.who(by)), patience_seconds=5)
    names = ", ".join(f"{migration.number} {migration.name}" for migration in done)
    say(visible(f"{target.place} upgraded: {names}"))


@db.command()
@json_option
@click.option("--from", "source", required=True, metavar="STORE", help="The store to copy. Nothing is written to it.")
@click.option("--to", "target", required=True, metavar="STORE", help="A new store, of any sort: it is made.")
def copy(as_json: bool, source: str, target: str) -> None:
    """Move house: copy a store into a new one, whatever database either is. Both are verified afterwards.

    Jobs in every state but running, with their events and chains. Refused while an engine is live on the source, and when
    one has died there that nobody has recovered yet. Stop its clients, too: what they write later is not in the copy.
    """
    from relight.recorder.verify import verify_store

    old, new = store_at(source), store_at(target)
    assert isinstance(old, Movable) and isinstance(new, Movable)
    old.open(create=False)
    try:
        _refuse_unsettled(old)
        new.open(create=True)
        try:
            counts = copy_all(old, new, progress=_copying if on_terminal() else lambda table, rows: None)
        finally:
            new.close()
    finally:
        old.close()
    if on_terminal():
        sys.stderr.write("\r\x1b[K")
    reports = {place: verify_store(address) for place, address in ((old.place, source), (new.place, target))}
    if as_json:
        ok = {place: report.ok for place, report in reports.items()}
        say_json({"from": old.place, "to": new.place, "rows": dict(counts), "verified": ok})
    else:
        say(visible(f"{new.place} holds {counts['jobs']:,} jobs and {counts['events']:,} events of {old.place}"))
        for place, report in reports.items():
            _say_report(report, place)
    if not all(report.ok for report in reports.values()):
        click.get_current_context().exit(Exit.FAILED)


def _refuse_unsettled(store: Store) -> None:
    """Refuse a store that an engine is live on, or one in which a dead engine is not accounted for."""
    with store.reading() as reads:
        unsettled = [e for e in reads.engines(limit=0) if e.state in (EngineState.LIVE, EngineState.SILENT)]
    for engine in unsettled:
        named = f"engine {engine.name} {short(engine.engine_id)} (process {engine.pid})"
        if _may_live(store, engine.engine_id, engine.nonce):
            raise Conflict(
                f"{named} is live on {store.place}. Stop every engine on it, then copy. Nothing was copied",
                engine_id=engine.engine_id,
                pid=engine.pid,
            )
        raise Conflict(
            f"{named} died on {store.place} and is not accounted for. Let an engine recover it (relight worker MODULE --store "
            f"{store.place}), stop that, then copy. Nothing was copied",
            engine_id=engine.engine_id,
            pid=engine.pid,
        )


def _copying(table: str, rows: int) -> None:
    sys.stderr.write(f"\r\x1b[K{table}: {rows:,}")
    sys.stderr.flush()
