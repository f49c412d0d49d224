"""``relight doctor``: everything about a store and its surroundings that a person in trouble would ask, in one page.

Nothing is written, and nothing has to be well for it to work: what cannot be found out is itself a finding. Exit 1 when
something is wrong. Read next: ``upkeep.py``.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import click
import msgspec

from relight.authoring.registry import Registry
from relight.cli import records
from relight.cli.engines import lock_of
from relight.cli.exit_codes import Exit
from relight.cli.loading import Target, load
from relight.cli.options import json_option, store_option
from relight.cli.output import say, say_json, visible
from relight.cli.queues import defined_words, in_force, operator_words, queue_object
from relight.clock import SystemClock
from relight.core.able import kinds_of
from relight.core.terms import terms_of
from relight.core.why_words import count, listed
from relight.errors import RelightError
from relight.ids import short
from relight.model import EngineRecord, EngineState, GateState, QueueRecord
from relight.settings import Settings, resolve
from relight.store.open import store_at
from relight.store.reads import Reads, Unreadable
from relight.store.sqlite.connect import check_library
from relight.store.store import Store
from relight.version import VERSION

LONG_WAL_BYTES = 512 << 20
"""A write-ahead log this long is not being checkpointed: somebody keeps reading, or no engine writes."""

SHOWN = 20


@click.command()
@click.argument("module", metavar="[MODULE]", required=False)
@json_option
@store_option
@click.pass_context
def doctor(ctx: click.Context, module: str | None, as_json: bool, store: str | None) -> None:
    """Look a store over: database, settings, engines, recovery, quarantine, queues.

    With MODULE also whether its workflows and steps can be registered. Exit 1 when something is wrong.
    """
    found = _Doctor(resolve({"store": store}))
    found.look()
    if module is not None:
        found.look_at_module(load(module))
    if as_json:
        say_json({"ok": not found.problems, "problems": found.problems, **found.facts})
    else:
        for text in found.lines():
            say(visible(text))
    if found.problems:
        ctx.exit(Exit.FAILED)


@runtime_checkable
class _Checked(Store, Protocol):
    def check_integrity(self) -> list[str]: ...


class _Doctor:
    """Collects facts for ``--json`` and for people, and problems as sentences."""

    def __init__(self, settings: Settings) -> None:
        self.problems: list[str] = []
        self._queue_lines: list[str] = []
        self.facts: dict[str, Any] = {
            "relight": VERSION,
            "python": platform.python_version(),
            "settings": [
                {"name": name, "value": settings.values[name], "origin": origin}
                for name, origin in settings.origins.items()
            ],
        }
        self._settings = settings

    def look(self) -> None:
        """Find out everything; a step that fails is a problem, and the next one is tried all the same."""
        try:
            store = store_at(self._settings.store, durability=self._settings.durability)
        except RelightError as error:
            self._note(error)
            return
        assert isinstance(store, _Checked)
        if not store.capabilities.time_is_proof:
            self._look_at_library()
        self.facts["store"] = dict(store.health())
        try:
            store.open(create=False)
        except RelightError as error:
            self._note(error)
            return
        try:
            self._look_inside(store)
        finally:
            store.close()

    def _note(self, error: Exception) -> None:
        code = error.code if isinstance(error, RelightError) else "storage_corrupt"
        self.problems.append(f"{code}: {error}")

    def _look_at_library(self) -> None:
        try:
            check_library()
            self.facts["sqlite_safe"] = True
        except RelightError as error:
            self.facts["sqlite_safe"] = False
            self._note(error)

    def _look_inside(self, store: _Checked) -> None:
        facts = self.facts["store"] = dict(store.health())
        self._look_at_server(store, facts)
        if facts.get("wal_bytes", 0) > LONG_WAL_BYTES:
            self.problems.append(
                "the write-ahead log is long and is not being emptied: does some program keep the store open for reading?"
            )
        for look in (self._look_at_engines, self._look_at_code, self._look_at_quarantine, self._look_at_queues):
            try:
                with store.reading(snapshot=True) as reads:
                    look(store, reads)
            except (RelightError, msgspec.ValidationError) as error:
                self._note(error)
        try:
            damage = store.check_integrity()
        except RelightError as error:
            damage = [str(error)]
        self.facts["integrity"] = damage or "ok"
        if damage:
            where = "store" if "postgresql" in self.facts["store"] else "file"
            self.problems.append(
                f"the {where} is damaged: {listed(damage)}. Keep it as it is, and restore from a backup"
            )

    def _look_at_server(self, store: _Checked, facts: dict[str, Any]) -> None:
        """Note settings of a server that break promises, and how far its clock and this machine's are apart."""
        for name in ("fsync", "full_page_writes"):
            if facts.get(name) == "off":
                self.problems.append(
                    f"the server has {name} = off: a crash of its machine may lose or damage everything"
                )
        told = store.now_ms()
        if told is not None:
            facts["clock_ahead_ms"] = told - SystemClock().now_ms()

    def _look_at_engines(self, store: _Checked, reads: Reads) -> None:
        self.facts["jobs"] = {str(state): n for state, n in reads.count_in_states().items()}
        aside: list[Unreadable] = []
        rows = [row for row in reads.engines_to_judge(aside=aside) if row.state is not EngineState.DEAD]
        self.problems += [f"storage_corrupt: the row of engine {bad.id} cannot be read: {bad.detail}" for bad in aside]
        locks = {row.engine_id: lock_of(store.place, row) for row in rows}
        dead = [row.engine_id for row in rows if locks[row.engine_id] == "free"]
        owed = reads.count_running_of_dead() + reads.count_running_of(dead)
        self.facts["engines"] = [{**records.engine_object(row), "lock": locks[row.engine_id]} for row in rows]
        self.facts["recovery_owed"] = owed
        if owed:
            self.problems.append(
                f"{count(owed, 'run')} of dead engines are not recovered yet: start an engine (relight worker MODULE)"
            )
        self.problems += [problem for row in rows if (problem := _trouble_of(row, locks[row.engine_id]))]

    def _look_at_code(self, store: _Checked, reads: Reads) -> None:
        """Find jobs that no live engine's code can go on with: of another version, or stopped at a mismatch."""
        aside: list[Unreadable] = []
        live = [row for row in reads.engines_to_judge(aside=aside) if row.state is EngineState.LIVE]
        served = [kinds_of(row) for row in live]
        stranded = [
            (kind, version, n)
            for kind, version, n in reads.begun_versions()
            if served and not any(_has_version(kinds, kind, version) for kinds in served)
        ]
        self.facts["stranded"] = [{"kind": k, "version": v, "jobs": n} for k, v, n in stranded]
        for kind, version, n in stranded[:SHOWN]:
            which = f"version {version}" if version else "no version"
            self.problems.append(
                f"{count(n, 'job')} of {kind} began under {which}, which no live engine has: start an engine that has it, beside "
                "the new one or in it: workflows=[new, old]"
            )
        stopped = reads.count_mismatched()
        self.facts["mismatched"] = stopped
        if stopped:
            self.problems.append(
                f"{count(stopped, 'job')} stopped because code and record differ (history_mismatch): relight jobs --state "
                "awaiting_user, then relight why JOB"
            )

    def _look_at_quarantine(self, store: _Checked, reads: Reads) -> None:
        rows = reads.quarantine()
        self.facts["quarantine"] = [records.quarantine_object(row) for row in rows]
        self.problems += [
            f"job {short(row.job_id)} is set aside ({row.code} in {row.table_name}): look at it, then relight release {short(row.job_id)} "
            f"or relight fail {short(row.job_id)} --force"
            for row in rows[:SHOWN]
        ]

    def _look_at_queues(self, store: _Checked, reads: Reads) -> None:
        rows = reads.queues()
        self.facts["queues"] = [queue_object(queue, reads.queue_load(queue.queue)) for queue in rows]
        self._queue_lines = [f"queue {row.queue}: {_queue_words(row)}" for row in rows]

    def look_at_module(self, target: Target) -> None:
        """Check that everything in a module can be registered."""
        registry = Registry()
        steps: dict[str, Any] = {}
        for workflow in target.workflows():
            try:
                registry.add(workflow)
            except RelightError as error:
                self._note(error)
        for step in target.steps():
            known = steps.setdefault(step.name, step)
            if known.spec.function is not step.spec.function:
                where = f"{known.spec.code_ref}, {step.spec.code_ref}"
                self.problems.append(
                    f'registration_error: two different steps are called "{step.name}" ({where}). Rename one: @step(name="…")'
                )
            try:
                registry.signature(step.spec.function)
            except RelightError as error:
                self._note(error)
        self.facts["module"] = {"name": target.module.__name__, "kinds": registry.kinds, "steps": sorted(steps)}

    # for people

    def lines(self) -> Iterator[str]:
        """Yield the page."""
        facts, store = self.facts, self.facts.get("store", {})
        yield f"relight {facts['relight']}, Python {facts['python']}, {_library_words(facts)}"
        if store:
            yield f"store {store['store']}: {_store_words(store)}schema {store['schema']}, durability {store['durability']}"
        if "integrity" in facts:
            yield f"integrity {facts['integrity'] if facts['integrity'] == 'ok' else 'DAMAGED'}"
        yield "settings"
        for setting in facts["settings"]:
            value = setting["value"]
            yield f"  {setting['name']:<22} {'not set' if value is None else value!s:<20}  from {setting['origin']}"
        yield from self._store_lines()
        if "module" in facts:
            module = facts["module"]
            yield f"module {module['name']}: {len(module['kinds'])} workflows ({listed(module['kinds'], 10)}), {len(module['steps'])} steps"
        for problem in self.problems:
            yield f"WRONG: {problem}"
        yield "something is wrong" if self.problems else "all is well"

    def _store_lines(self) -> Iterator[str]:
        facts = self.facts
        if "jobs" in facts:
            yield f"jobs: {', '.join(f'{n:,} {state}' for state, n in facts['jobs'].items()) or 'none'}"
        if "engines" in facts:
            yield f"engines: {len(facts['engines'])} not ended; recovery owed to {facts['recovery_owed']:,} runs"
            for row in facts["engines"]:
                yield f"  {short(row['engine_id'])}  {row['name']}  {row['state']}  gate {row['gate']}  lock {row['lock']}  pid {row['pid']}"
        if "quarantine" in facts:
            yield f"quarantine: {len(facts['quarantine']):,} jobs"
        yield from self._queue_lines


def _library_words(facts: Mapping[str, Any]) -> str:
    """Say which database it is, by which library, and whether that one is safe."""
    store = facts.get("store", {})
    if "psycopg" in store:
        return f"PostgreSQL {store.get('postgresql', '(not reached)')} by psycopg {store['psycopg']}"
    safe = {True: "safe", False: "UNSAFE", None: "not looked at"}[facts.get("sqlite_safe")]
    return f"SQLite {store.get('sqlite', '?')} by apsw {store.get('apsw', '?')} ({safe})"


def _store_words(store: Mapping[str, Any]) -> str:
    if "file_bytes" in store:
        return f"{store['file_bytes']:,} bytes, write-ahead log {store['wal_bytes']:,} bytes, "
    if "synchronous_commit" not in store:
        return ""
    ahead = store.get("clock_ahead_ms", 0)
    clock = f"its clock {abs(ahead):,} ms {'ahead of' if ahead > 0 else 'behind'} this machine's"
    said = "on" if store["notify"] else "off"
    return f"synchronous_commit {store['synchronous_commit']}, fsync {store['fsync']}, notify {said}, {clock}, "


def _queue_words(queue: QueueRecord) -> str:
    """Say what holds in a queue, who defined it and what was before, and what an operator did."""
    over = operator_words(queue)
    return f"{in_force(terms_of(queue))}; defined: {defined_words(queue)}{f'; {over}' if over else ''}"


def _has_version(kinds: Mapping[str, set[str]], kind: str, version: str | None) -> bool:
    return kind in kinds and (not kinds[kind] or (version or "") in kinds[kind])


def _trouble_of(row: EngineRecord, lock: str | None) -> str | None:
    if row.state is EngineState.SILENT and lock != "free":
        return (
            f"engine {row.name} {short(row.engine_id)} is silent (process {row.pid}), and its jobs are held: end that process, or "
            f"relight engines fence {short(row.engine_id)}"
        )
    if row.gate is GateState.FAILED and lock == "held":
        return f"the gate of engine {row.name} {short(row.engine_id)} stays shut: {row.gate_detail}"
    return None
