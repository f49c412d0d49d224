"""PostgreSQL's SQL as text and as plans: the same names as SQLite's, positions that are those of the structs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest
from tests.postgres import Server

from relight.conformance.world import World
from relight.core.chain import START, EventRow
from relight.core.changes import OPS, CancelJob, ExpectOrphan
from relight.core.row import Row
from relight.ids import EngineId
from relight.store.migrate import load_migrations
from relight.store.postgres import PostgresStore
from relight.store.postgres.batch import statements_of
from relight.store.postgres.connect import connect, split_address
from relight.store.postgres.texts import apply_text, in_schema, queries, statements
from relight.store.sqlite import SqliteStore
from relight.store.statements import parse_statements, read_sql
from relight.store.store import Batch

OURS, THEIRS = "relight.store.postgres", "relight.store.sqlite"
APPLY = parse_statements(apply_text())
ROWS: list[type[msgspec.Struct]] = [*OPS, EventRow]
HELPERS = ["begin", "commit", "fence", "lock_engines", "lock_queues", "lock_jobs", "wake_parents"]


def op_of(row: type[msgspec.Struct]) -> str:
    return row.op if issubclass(row, Row) else "events"


# the two databases


def test_both_databases_have_the_same_queries_in_the_same_order() -> None:
    mine, other = (list(parse_statements(read_sql(package, "sql", "queries.sql"))) for package in (OURS, THEIRS))
    assert mine == other


def test_both_databases_have_the_same_migrations() -> None:
    mine, other = ([(m.number, m.name) for m in load_migrations(package)] for package in (OURS, THEIRS))
    assert mine == other


ONLY_HERE = {"engines": {"floor", "unnamed"}, "events": {"xid", "floor"}}
"""What tells how far the log is complete, and what an index must not look at."""


def test_both_databases_have_the_same_tables_columns_and_indexes(db: psycopg.Connection[Any], tmp_path: Any) -> None:
    with World(lambda: SqliteStore(tmp_path / "relight.db", durability="process")) as world:
        assert isinstance(world.store, SqliteStore)
        other = world.store._reader()
        columns = {
            (table, column)
            for table, column in other.execute(
                "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table'"
            )
        }
        indexes = {
            name for (name,) in other.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        }
        other.close()
    found = set(
        db.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'relight'"
        ).fetchall()
    )
    assert found - columns == {(table, column) for table, more in ONLY_HERE.items() for column in more}
    assert columns - found == set()
    mine = {
        name
        for (name,) in db.execute(
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'relight' AND indexname NOT LIKE '%_pkey'"
        )
    }
    assert mine == indexes


# batches


def test_there_is_a_statement_for_each_operation_in_the_order_of_OPS() -> None:  # noqa: N802
    names = [name for name in APPLY if name not in HELPERS and "/" not in name]
    assert names == [op_of(row) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=op_of)
def test_every_field_of_a_row_is_read_and_nothing_beyond(row: type[msgspec.Struct]) -> None:
    op = op_of(row)
    texts = [text for name, text in APPLY.items() if name.partition("/")[0] == op]
    read = {int(n) for text in texts for n in re.findall(r"value->>(\d+)", text)}
    assert read == set(range(len(row.__struct_fields__)))


@pytest.mark.parametrize("row", ROWS, ids=op_of)
def test_each_position_is_called_by_its_field_s_name(row: type[msgspec.Struct]) -> None:
    op = op_of(row)
    seen = 0
    for name, text in APPLY.items():
        if name.partition("/")[0] != op:
            continue
        found = re.findall(r"value->>(\d+)\)?(?:::\w+)?\)? AS (\w+)", text)
        inserted = re.match(r"INSERT INTO relight\.\w+ \(([^)]*)\)\s*SELECT (.*?)\s*FROM jsonb_array", text, re.DOTALL)
        if inserted:
            columns = [column.strip() for column in inserted[1].split(",")]
            positions = re.findall(r"value->>(\d+)", inserted[2])
            found += zip(positions, columns, strict=False)
        for position, called in found:
            field = row.__struct_fields__[int(position)]
            assert called == field or (op, called) == ("put_kinds", "registered_at"), f"{name}: {position} is {called}"
            seen += 1
    assert seen


UNCHECKED = {
    "name_heads",
    "set_progress",
    "note_steps",
    "wake_jobs",
    "wake_due",
    "beats",
    "new_recoveries",
    "put_kinds",
    "rewind_rates",
    "take_turns",
    "events",
}


def test_every_operation_with_a_precondition_has_its_count_checked_under_its_own_name() -> None:
    for row in ROWS:
        op = op_of(row)
        told = {
            what
            for name, text in APPLY.items()
            if name.partition("/")[0] == op
            for what in re.findall(r"relight\.must\(.*'(\w+)(?:'|:' \|\| lost.places)\)", text, re.DOTALL)
        }
        assert told == (set() if op in UNCHECKED else {op}), op


# reads


@pytest.fixture(scope="module")
def db(postgres: Server) -> Iterator[psycopg.Connection[Any]]:
    """A read connection on a store with some of everything, and statistics nobody gathered."""
    address = postgres.address(postgres.new_database())
    with World(lambda: PostgresStore(address, durability="process")) as world:
        engine = world.open_engine()
        for _ in range(20):
            engine.finish(engine.run_new())
            engine.run_new()
            engine.submit()
        engine.do(*(engine.submission() for _ in range(2000)))
        assert isinstance(world.store, PostgresStore)
        connection = world.store._connect(writer=False)
        yield connection
        connection.close()


@pytest.fixture(scope="module")
def analyzed(db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The same, with statistics."""
    db.execute("ANALYZE")
    return db


QUERIES = queries("relight")
LISTS = {"kinds", "parts", "pairs", "job_ids", "parent_ids", "keys", "waits", "types", "names", "engine_ids"}
TEXTS = {
    *(
        "job_id",
        "kind",
        "idempotency_key",
        "ending",
        "before",
        "queue",
        "state",
        "after_id",
        "waits_for",
        "token",
        "name",
    ),
    *("decision_id", "role", "engine_id", "recovery_id", "trace_id", "actor", "writer_id", "blob_hash", "upto", "hash"),
    *("run_id", "step_key", "part"),
}
AFTER_IDS = {"audit_jobs", "stalled", "running_of", "adrift", "writers", "job_ids", "audit_writers"}


def parameters(name: str, text: bytes) -> dict[str, object]:
    """Return some value for each parameter."""
    found: dict[str, object] = {}
    for key in re.findall(r"%\((\w+)\)s", text.decode()):
        is_text = key in TEXTS or (key == "after" and name in AFTER_IDS)
        found[key] = (
            "[]" if key in LISTS else "{}" if key == "tags" else "a" if is_text else None if key == "versions" else 1
        )
    ends: dict[str, object] = {"before": "g", "after": "" if name in AFTER_IDS else 0, "queue": "default"}
    found.update({key: value for key, value in ends.items() if key in found})
    if name == "jobs_page_in_state":
        found.update(state="completed", kind=None, queue=None)
    if name == "audit_named":
        found["upto"] = 1
    return found


@pytest.mark.parametrize("name", list(QUERIES))
def test_every_query_gives_one_row_of_one_text(db: psycopg.Connection[Any], name: str) -> None:
    rows = db.execute(QUERIES[name], parameters(name, QUERIES[name])).fetchall()
    assert len(rows) <= 1
    for row in rows:
        assert len(row) == 1 and isinstance(row[0], str)
        msgspec.json.decode(row[0])


def plan(db: psycopg.Connection[Any], text: bytes, values: dict[str, object]) -> str:
    return "\n".join(line for (line,) in db.execute(b"EXPLAIN " + text, values).fetchall())


PLANS = {
    "claimable": "jobs_claimable",
    "claimable_ids": "jobs_claimable",
    "claimable_queues": "jobs_claimable",
    "partitioned_queues": "jobs_partitioned",
    "priority_below": "jobs_claimable",
    "partitions_in_turn": "jobs_claimable",
    "claimable_of": "jobs_claimable",
    "queue_load": "jobs_running_in",
    "slot_holders": "jobs_running_in",
    "next_due": "jobs_due",
    "past_deadline": "jobs_deadline",
    "stalled": "jobs_by_state",
    "running_of": "runs_running",
    "unnamed_heads": "engines_unnamed",
    "job_by_key": "jobs_key",
    "jobs_by_keys": "jobs_key",
    "jobs_page": "jobs_pkey",
    "jobs_page_of_kind": "jobs_by_kind",
    "jobs_page_in_state": "jobs_by_state",
    "orphans": "jobs_by_parent",
    "runs": "runs_by_job",
    "decisions": "decisions_by_job",
    "tokens": "tokens_by_job",
    "waiting_for": "steps_waiting",
    "events": "events_pkey",
    "events_of_job": "events_by_job",
    "events_of_writer": "events_by_writer",
    "attention": "jobs_pkey",
}
"""By query: what its plan must search."""


@pytest.mark.parametrize("name", list(PLANS))
def test_a_query_searches_its_index(analyzed: psycopg.Connection[Any], name: str) -> None:
    found = plan(analyzed, QUERIES[name], parameters(name, QUERIES[name]))
    assert re.search(rf"Index (Only )?Scan (Backward )?(using|on) {PLANS[name]}\b", found), found
    assert not re.search(r"Seq Scan on (jobs|runs|steps|events)\b", found), found


@pytest.mark.parametrize("name", ["claimable", "claimable_ids", "past_deadline", "running_of", "events", "jobs_page"])
def test_a_query_comes_out_of_its_index_in_order(analyzed: psycopg.Connection[Any], name: str) -> None:
    found = plan(analyzed, QUERIES[name], parameters(name, QUERIES[name]))
    assert not re.search(r"^\s*(->  )?(Incremental )?Sort\b", found, re.MULTILINE), found


@pytest.mark.parametrize("name", ["claimable", "claimable_ids", "events", "jobs_page"])
def test_a_read_comes_in_order_also_where_nothing_was_ever_counted(postgres: Server, database: str, name: str) -> None:
    """Jobs that came in the last minute: the planner takes them for a dozen, and a claim must not sort all of them."""
    with _filled(postgres, database) as (store, db):
        found = plan(db, queries(store)[name], parameters(name, queries(store)[name]))
    assert not re.search(r"^\s*(->  )?(Incremental )?Sort\b", found, re.MULTILINE), found


@contextmanager
def _filled(postgres: Server, database: str) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Give a schema with 10,000 queued jobs, and a connection as reads have it."""
    address = postgres.address(database, "uncounted")
    made = PostgresStore(address, durability="process")
    made.open(create=True)
    made.close()
    info, schema, *_ = split_address(address)
    db = connect(info, address, "process", writer=False)
    try:
        columns = "kind, state, status_reason, queue, priority, claimable, inputs_hash, trace_id, metrics, created_at, updated_at, inputs"
        db.execute(
            f"INSERT INTO uncounted.jobs (job_id, {columns}) SELECT n::text, 'k', 'queued', 'submitted', 'default', 0, "  # noqa: S608
            "true, repeat('x', 200), '', '{}', 0, 0, '{}' FROM generate_series(1, 10000) AS n ON CONFLICT DO NOTHING"
        )
        yield schema, db
    finally:
        db.close()


@pytest.mark.parametrize("name", [name for name in APPLY if name not in ("begin", "commit")])
def test_a_batch_looks_its_rows_up_and_walks_no_table(db: psycopg.Connection[Any], name: str) -> None:
    """A batch's cost must not grow with what is stored."""
    text = statements("relight")[name]
    values: dict[str, object] = dict.fromkeys(re.findall(r"%\((\w+)\)s", text.decode()), "[]")
    values.update({key: 1 for key in ("batch_seq", "head_seq") if key in values})
    values.update({key: False for key in ("opening",) if key in values})
    found = plan(db, text, values)
    walked = re.findall(r"Seq Scan on (?!events_seq_seq|meta|queues)\w+", found)
    assert walked == [], found
    wide = re.findall(r"Index Scan using jobs_by_\w+", found)
    assert wide == [], found


def test_another_schema_s_name_is_quoted_wherever_it_stands() -> None:
    assert in_schema("SELECT relight.f(x) FROM relight.jobs", 'a"b') == 'SELECT "a""b".f(x) FROM "a""b".jobs'
    assert all(b" relight." not in text for text in [*queries("other").values(), *statements("other").values()])


def test_who_ends_an_orphan_holds_its_parent() -> None:
    rows = {ExpectOrphan.op: '[["01-child"]]', CancelJob.op: '[["01-child","cancelled","parent_ended",null,1]]'}
    said = dict(statements_of(Batch(EngineId("w"), 1, START, rows, ()), 1))
    assert "01-child" in str(said["lock_jobs"]["ending"]), "else a retry of the parent passes between look and commit"
