"""The SQL as text: positions are those of the structs, names are those of the methods, plans use the indexes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import apsw
import msgspec
import pytest

from relight import model
from relight.conformance.world import World
from relight.core import why_facts
from relight.core.chain import EventRow
from relight.core.changes import OPS, PutAway
from relight.core.row import Row
from relight.store import audits, reads
from relight.store.migrate import load_migrations
from relight.store.sqlite import SqliteStore
from relight.store.statements import parse_statements, read_sql

PACKAGE = "relight.store.sqlite"
APPLY = read_sql(PACKAGE, "sql", "apply.sql")
VIEWS = read_sql(PACKAGE, "sql", "schema.sql")
QUERIES = parse_statements(read_sql(PACKAGE, "sql", "queries.sql"))
MIGRATIONS = [migration.sql for migration in load_migrations(PACKAGE)]
SCHEMA = "\n".join(MIGRATIONS)
KERNEL = re.sub(r"--[^\n]*", "", APPLY)

ROWS: list[type[msgspec.Struct]] = [*OPS, EventRow]


def op_of(row: type[msgspec.Struct]) -> str:
    return row.op if issubclass(row, Row) else "events"


def body_of(view: str) -> list[str]:
    """Return the statements of the trigger on a view, in order."""
    body = KERNEL.partition(f"INSTEAD OF INSERT ON {view} BEGIN")[2].partition("END;\n")[0]
    return [statement.strip() for statement in body.split(";") if statement.strip()]


def statements() -> list[str]:
    """Return the statements of a batch in the order in which they are run, those of its groups where a group stands."""
    found: list[str] = []
    for statement in body_of("batch"):
        group = re.match(r"INSERT INTO (batch_\w+)", statement)
        found += body_of(group[1]) if group else [statement]
    return found


def using(op: str) -> list[str]:
    """Return the statements that read an operation's rows."""
    return [s for s in statements() if re.search(rf"NEW\.{op}\b", s) and "json_array_length" not in s]


# rows


def test_there_is_a_column_for_each_operation_and_no_other() -> None:
    view = KERNEL.partition("CREATE TEMP VIEW batch AS SELECT")[2].partition(";")[0]
    columns = re.findall(r"NULL AS (\w+)", view)
    fixed = ["writer_id", "batch_seq", "head_seq", "head_hash", "schema_number"]
    assert sorted(columns) == sorted([*fixed, *(op_of(row) for row in ROWS)])


def test_a_group_is_given_its_columns_by_name_and_passed_over_only_without_any_row() -> None:
    given: list[str] = []
    for statement in body_of("batch"):
        group = re.match(r"INSERT INTO (batch_\w+)\s+SELECT (.*?)\s+WHERE (.*?)\s+IS NOT NULL$", statement, re.DOTALL)
        if group is None:
            continue
        passed, looked_at = (re.findall(r"NEW\.(\w+)", part) for part in (group[2], group[3]))
        view = KERNEL.partition(f"CREATE TEMP VIEW {group[1]} AS SELECT")[2].partition(";")[0]
        assert re.findall(r"NULL AS (\w+)", view) == passed, group[1]
        assert [name for name in passed if name != "writer_id"] == looked_at, group[1]
        used = {name for part in body_of(group[1]) for name in re.findall(r"NEW\.(\w+)", part)}
        assert used == set(passed), group[1]
        given += looked_at
    assert given == [row.op for row in OPS]


def test_operations_are_applied_in_the_order_of_OPS() -> None:  # noqa: N802
    first: dict[str, int] = {}
    for i, statement in enumerate(statements()):
        for op in re.findall(r"jsonb_each\(NEW\.(\w+)\)", statement) + re.findall(r"NEW\.(wake_due)\b", statement):
            first.setdefault(op, i)
    found = sorted(first, key=lambda op: first[op])
    assert found == [op_of(row) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=op_of)
def test_every_field_of_a_row_is_read_and_nothing_beyond(row: type[msgspec.Struct]) -> None:
    read = {int(n) for statement in using(op_of(row)) for n in re.findall(r"value->>(\d+)", own(statement, op_of(row)))}
    assert read == set(range(len(row.__struct_fields__)))


def own(statement: str, op: str) -> str:
    """Return the parts of a statement that read an operation's rows: some read the rows of several."""
    return " ".join(part for part in statement.split("UNION ALL") if f"NEW.{op}" in part)


def pairs(statement: str) -> list[tuple[int, str]]:
    """Return (position, column) as an INSERT's lists or a FROM's aliases have them."""
    inserted = re.match(r"INSERT INTO \w+ \(([^)]*)\)\s*SELECT (.*?)\s*FROM jsonb_each", statement, re.DOTALL)
    if inserted and "FROM (SELECT" not in inserted[2]:
        columns = [column.strip() for column in inserted[1].split(",")]
        values = split_list(inserted[2])
        assert len(columns) == len(values), statement
        found = []
        for column, value in zip(columns, values, strict=True):
            position = re.search(r"value->>(\d+)", value)
            if position:
                found.append((int(position[1]), column))
        return found
    aliased = re.findall(r"(?:max\()?value->>(\d+)\)? AS (\w+)", statement)
    return [(int(n), name) for n, name in aliased]


def split_list(text: str) -> list[str]:
    """Split a list at its outer commas."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


OTHER_NAMES = {
    ("open_writers", "started_at"): "at",
    ("new_jobs", "created_at"): "at",
    ("new_jobs", "updated_at"): "at",
    ("start_runs", "started_at"): "at",
    ("begin_steps", "begun_at"): "at",
    ("new_signals", "sent_at"): "at",
    ("new_quarantines", "quarantined_at"): "at",
    ("put_kinds", "registered_at"): "at",
    ("put_queues", "updated_at"): "at",
    ("new_tokens", "created_at"): "at",
    ("new_tokens", "beat_at"): "at",
    ("put_published", "updated_at"): "at",
    ("put_queues", "defined_at"): "at",
    ("put_queues", "defined_by"): "by",
    ("put_queues", "revision"): "seen",
    ("set_queues", "override_by"): "by",
    ("set_queues", "revision"): "seen",
    ("set_queues", "updated_at"): "at",
    ("rate_limits", "number"): "queue",
    ("rate_limits", "started_at"): "at",
    ("open_writers", "beat_at"): "at",
}
"""Columns that are called otherwise than the field they come from."""


@pytest.mark.parametrize("row", ROWS, ids=op_of)
def test_each_position_is_written_under_its_field_s_name(row: type[msgspec.Struct]) -> None:
    op = op_of(row)
    seen = 0
    for statement in using(op):
        if "UNION ALL" in statement and op in ("end_jobs", "move_jobs"):
            continue
        for position, name in pairs(statement):
            field = OTHER_NAMES.get((op, name), name)
            assert row.__struct_fields__[position] == field, f"{op}: value->>{position} is called {name}"
            seen += 1
    assert seen or op in ("queue_limits", "wake_due"), "nothing was compared"


def test_the_parents_of_jobs_that_end_are_found_by_the_right_positions() -> None:
    [statement] = [s for s in using("end_jobs") if "UNION ALL" in s and s.startswith("UPDATE jobs")]
    first, second = statement.split("UNION ALL")
    by_op = {row.op: row.__struct_fields__ for row in OPS}
    assert "value->>0 AS job_id, value->>7 AS at" in first
    assert (by_op["end_jobs"][0], by_op["end_jobs"][7]) == ("job_id", "at")
    assert "value->>0, value->>9" in second and "value->>3 IN" in second
    assert (by_op["move_jobs"][0], by_op["move_jobs"][9], by_op["move_jobs"][3]) == ("job_id", "at", "target")


def test_the_steps_left_in_flight_by_an_ended_run_are_found_by_the_right_positions() -> None:
    [statement] = [s for s in using("end_jobs") if s.startswith("UPDATE steps") and "'in_doubt'" in s]
    by_op = {row.op: row.__struct_fields__ for row in OPS}
    for op, part in zip(("end_jobs", "put_away", "move_jobs"), statement.split("UNION ALL"), strict=True):
        assert "SELECT value->>0" in part and f"NEW.{op}" in part
        assert by_op[op][0] == "job_id"
    assert "WHERE value->>1 = 'running'" in statement and by_op["move_jobs"][1] == "source"


def test_what_waits_in_jobs_that_end_is_found_by_the_right_positions() -> None:
    found = [s for s in using("end_jobs") if "'abandoned'" in s or s.startswith("UPDATE decisions")]
    by_op = {row.op: row.__struct_fields__ for row in OPS}
    assert len(found) == 2
    for statement in found:
        first, second = statement.split("UNION ALL")
        assert "value->>0 AS job_id, value->>7 AS at" in first
        assert (by_op["end_jobs"][0], by_op["end_jobs"][7]) == ("job_id", "at")
        assert "value->>0, value->>9" in second and "value->>3 IN" in second
        assert (by_op["move_jobs"][0], by_op["move_jobs"][9], by_op["move_jobs"][3]) == ("job_id", "at", "target")


def test_a_queue_s_limit_is_read_by_position() -> None:
    from relight.core.queue_rows import QueueLimit

    assert QueueLimit.__struct_fields__ == ("queue", "engine_id", "slots")
    [statement] = using("queue_limits")
    assert "value->>2 < (SELECT count(*)" in statement
    assert "jobs.queue = value->>0" in statement
    assert "= value->>1" in statement


def test_every_operation_with_a_precondition_has_its_count_checked() -> None:
    unchecked = {
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
    }
    checked = set(re.findall(r"RAISE\(ABORT, 'refused:(\w+)'\)", KERNEL))
    assert checked == {row.op for row in OPS} - unchecked
    for op in checked - {"queue_limits", "rate_limits", "beat_tokens", "expect_orphans"}:
        assert f"'refused:{op}') WHERE changes() <> coalesce(json_array_length(NEW.{op}), 0)" in KERNEL


def test_the_fence_comes_before_every_write_but_the_writer_s_own_row() -> None:
    found = statements()
    fence = next(i for i, statement in enumerate(found) if "'fenced'" in statement)
    for statement in found[:fence]:
        assert "NEW.open_writers" in statement or "UPDATE engines SET batch_seq" in statement
    assert "state = 'live' AND batch_seq = NEW.batch_seq - 1" in found[fence - 1]


EXPECTED_STATES = {
    "start_runs": ["jobs.state = 'queued'"],
    "stall_runs": ["runs.state = 'running'", "jobs.state = 'running'"],
    "end_runs": ["runs.state = 'running'"],
    "end_jobs": ["jobs.state = 'running'", "jobs.state = 'queued'"],
    "put_away": ["jobs.state = 'running'"],
    "move_jobs": ["jobs.state = r.source"],
    "wake_jobs": ["jobs.state = 'queued'"],
    "cancel_jobs": ["jobs.state IN ('queued', 'awaiting_user', 'running', 'stalled')"],
    "wake_due": ["state = 'queued'"],
    "release_holds": ["jobs.state = 'stalled'"],
    "judge_engines": ["engines.state = r.source"],
    "close_writers": ["engines.state = 'live'"],
    "beat_tokens": ["tokens.state = 'open'"],
    "close_tokens": ["tokens.state = 'open'"],
}
"""By operation that moves something: the states that its statements expect, whatever else they ask (P9)."""


@pytest.mark.parametrize("op", list(EXPECTED_STATES))
def test_every_move_names_the_state_it_expects(op: str) -> None:
    wheres = [statement.rpartition("WHERE")[0] and statement.split("\n   WHERE")[-1] for statement in using(op)]
    for wanted in EXPECTED_STATES[op]:
        assert any(wanted in where for where in wheres), f"{op} does not ask for {wanted}"


# records


RECORDS: dict[str, type[msgspec.Struct]] = {
    "job_json": model.JobRecord,
    "job_head_json": model.JobRecord,
    "run_json": model.RunRecord,
    "step_json": model.StepRecord,
    "engine_json": model.EngineRecord,
    "signal_json": model.SignalRecord,
    "decision_json": model.DecisionRecord,
    "token_json": model.TokenRecord,
    "quarantine_json": model.QuarantineRecord,
    "recovery_json": model.RecoveryRecord,
    "queue_json": model.QueueRecord,
    "event_json": model.EventRecord,
}


def test_there_is_a_record_for_each_view() -> None:
    assert sorted(re.findall(r"CREATE TEMP VIEW (\w+)", VIEWS)) == sorted(RECORDS)


@pytest.mark.parametrize("view", list(RECORDS))
def test_a_view_s_columns_are_its_record_s_fields(view: str) -> None:
    listed = re.search(rf"CREATE TEMP VIEW {view} AS SELECT \w+\.\*, json_array\((.*?)\) AS row", VIEWS, re.DOTALL)
    assert listed is not None
    columns = [column.strip().rpartition(".")[2] for column in listed[1].split(",")]
    fields = list(RECORDS[view].__struct_fields__)
    if view == "job_head_json":
        fields = [None if name in ("inputs", "outputs") else name for name in fields]  # type: ignore[misc]
        columns = [None if column == "NULL" else column for column in columns]  # type: ignore[misc]
    assert columns == fields


def test_every_column_of_a_table_is_in_its_record_or_left_out_on_purpose() -> None:
    left_out = {
        "engines": {"named_seq"},
        "signals": {"idempotency_key"},
        "beats": set(),
        "jobs": set(),
        "runs": set(),
        "steps": set(),
        "decisions": set(),
        "tokens": set(),
        "quarantine": set(),
        "recoveries": set(),
        "queues": set(),
        "events": set(),
    }
    records = {
        "engines": model.EngineRecord,
        "beats": model.EngineRecord,
        "jobs": model.JobRecord,
        "runs": model.RunRecord,
        "steps": model.StepRecord,
        "signals": model.SignalRecord,
        "decisions": model.DecisionRecord,
        "tokens": model.TokenRecord,
        "quarantine": model.QuarantineRecord,
        "recoveries": model.RecoveryRecord,
        "queues": model.QueueRecord,
        "events": model.EventRecord,
    }
    for table, record in records.items():
        body = re.findall(rf"CREATE TABLE {table} \((.*?)\n\) STRICT", SCHEMA, re.DOTALL)[-1]
        columns = set(re.findall(r"^  (\w+) +(?:TEXT|INTEGER|ANY)", body, re.MULTILINE))
        columns |= set(re.findall(rf"ALTER TABLE {table} ADD COLUMN (\w+)", SCHEMA))
        assert columns - set(record.__struct_fields__) == left_out[table], table


# named queries


def source_of(*modules: ModuleType) -> str:
    """Return the text of modules' files."""
    return "\n".join(Path(str(module.__file__)).read_text("utf-8") for module in modules)


def names_used(*modules: ModuleType) -> set[str]:
    """Return the names of queries that methods fetch."""
    return {name for name in re.findall(r'"([a-z][a-z_]*)"', source_of(*modules)) if name in QUERIES}


def test_every_query_has_a_method_and_every_method_a_query() -> None:
    used = names_used(reads, audits)
    assert used == set(QUERIES), set(QUERIES) ^ used
    asked = re.findall(
        r'(?:_get|_first|_each|_events|fetch)\(\s*(?:[\w\[\], |.]+?,\s*)?"(\w+)"',
        source_of(reads, audits),
    )
    assert set(asked) <= set(QUERIES), set(asked) - set(QUERIES)


def test_every_query_says_something_about_its_plan() -> None:
    text = read_sql(PACKAGE, "sql", "queries.sql")
    for name in QUERIES:
        assert re.search(rf"^-- name: {name}\n-- \S.*$", text, re.MULTILINE), name


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    """A read connection on a store with some of everything, and statistics nobody gathered."""
    path = tmp_path_factory.mktemp("plans") / "relight.db"
    with World(lambda: SqliteStore(path, durability="process")) as world:
        engine = world.open_engine()
        for _ in range(20):
            engine.finish(engine.run_new())
            engine.run_new()
            engine.submit()
        assert isinstance(world.store, SqliteStore)
        connection = world.store._reader()
        yield connection
        connection.close()


def parameters(sql: str) -> dict[str, object]:
    """Return some value for each parameter."""
    lists = {"kinds", "parts", "pairs", "job_ids", "parent_ids", "keys", "waits", "types", "tags", "names"}
    return {name: "[]" if name in lists else 1 for name in re.findall(r":(\w+)", sql)}


def plan(db: apsw.Connection, sql: str) -> list[str]:
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters(sql))]


@pytest.mark.parametrize("name", list(QUERIES))
def test_every_query_gives_one_row_of_one_text(db: apsw.Connection, name: str) -> None:
    rows = list(db.execute(QUERIES[name], parameters(QUERIES[name])))
    assert len(rows) <= 1
    for row in rows:
        assert len(row) == 1 and isinstance(row[0], str)
        msgspec.json.decode(row[0])


PLANS = {
    "claimable": ["jobs_claimable (queue=?)"],
    "claimable_ids": ["jobs_claimable (queue=?)"],
    "claimable_queues": ["jobs_claimable"],
    "partitioned_queues": ["jobs_partitioned"],
    "priority_below": ["jobs_claimable (queue=? AND priority<?)"],
    "partitions_in_turn": [
        "jobs_claimable (queue=? AND priority=? AND <expr>>?)",
        "jobs_claimable (queue=? AND priority=? AND <expr>>? AND <expr><?)",
    ],
    "claimable_of": ["jobs_claimable (queue=? AND priority=? AND <expr>=?)", "sqlite_autoindex_jobs_1 (job_id=?)"],
    "rate_window": ["rate_starts USING PRIMARY KEY (queue=? AND number>?)"],
    "ahead_in_line": ["jobs_claimable (queue=?"],
    "queue_load": ["jobs_running_in (queue=?)"],
    "slot_holders": ["jobs_running_in (queue=?)"],
    "next_due": ["jobs_due", "jobs_deadline"],
    "due_questions": ["jobs_due (ready_at"],
    "past_deadline": ["jobs_deadline (deadline_at"],
    "stalled": ["jobs_by_state (state=? AND job_id>?)"],
    "running_of": ["runs_running (engine_id=? AND run_id>?)"],
    "count_running_of_dead": ["runs_running (engine_id=?)"],
    "count_running_of": ["runs_running (engine_id=?)"],
    "engines_to_judge": ["engines_live", "runs_running"],
    "unnamed_heads": ["engines_unnamed"],
    "job_by_key": ["jobs_key (kind=? AND idempotency_key=?)"],
    "jobs_by_keys": ["jobs_key (kind=? AND idempotency_key=?)"],
    "jobs_page": ["(job_id<?)"],
    "jobs_page_of_kind": ["jobs_by_kind (kind=? AND job_id<?)"],
    "jobs_page_in_state": ["jobs_by_state (state=? AND job_id<?)"],
    "count_in_states": ["jobs_by_state"],
    "orphans": ["jobs_by_parent (parent_job_id=?)"],
    "runs": ["runs_by_job (job_id=?)"],
    "signals": ["signals_by_job (job_id=?)"],
    "first_unread": ["signals_by_job (job_id=? AND name=?)"],
    "decisions": ["decisions_by_job (job_id=?)"],
    "tokens": ["tokens_by_job (job_id=?)"],
    "token": ["PRIMARY KEY (token=?)"],
    "published": ["PRIMARY KEY (job_id=? AND name=?)"],
    "waiting_for": ["steps_waiting (waits_for=? AND job_id=?)"],
    "events_of_job": ["events_by_job (job_id=? AND seq>?)"],
    "events_of_writer": ["events_by_writer (writer_id=? AND writer_seq>?)"],
    "events": ["INTEGER PRIMARY KEY (rowid>?)"],
    "attention": ["sqlite_autoindex_jobs_1 (job_id=?)"],
}
"""By query: what its plan must search."""

SORTS = {
    "claimable",
    "priority_below",
    "partitioned_queues",
    "claimable_ids",
    "past_deadline",
    "due_questions",
    "stalled",
    "running_of",
    "events",
    "events_of_job",
}
"""Queries that must come out of their index in order: a sort would read everything there is."""


@pytest.mark.parametrize("name", list(PLANS))
def test_a_query_searches_its_index(db: apsw.Connection, name: str) -> None:
    found = plan(db, QUERIES[name])
    for wanted in PLANS[name]:
        assert any(wanted in line for line in found), f"{name}: {wanted} is not in\n" + "\n".join(found)
    scans = [
        line for line in found if re.match(r"SCAN (jobs|runs|steps|events|j|r|c|e)\b", line) and "INDEX" not in line
    ]
    assert scans == [], "\n".join(found)


@pytest.mark.parametrize("name", sorted(SORTS))
def test_a_query_comes_out_of_its_index_in_order(db: apsw.Connection, name: str) -> None:
    assert not [line for line in plan(db, QUERIES[name]) if "TEMP B-TREE FOR ORDER BY" in line]


ITS_OWN_ROWS = r"SCAN (json_each|r|p|k|e|CONSTANT ROW|\(?subquery-\d+\)?|\w+ VIRTUAL TABLE INDEX.*)"


@pytest.mark.parametrize("number", range(len(statements())))
def test_a_batch_looks_its_rows_up_and_walks_no_table(db: apsw.Connection, number: int) -> None:
    """A batch's cost must not grow with what is stored: every statement starts at its own rows, or at a partial index."""
    statement = re.sub(r"RAISE\(ABORT, [^)]*\)", "1", statements()[number])
    statement = re.sub(r"\bchanges\(\)", "0", re.sub(r"NEW\.(\w+)", r":\1", statement))
    given = dict.fromkeys(re.findall(r":(\w+)", statement), "[]")
    lines = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
    walked = [line for line in lines if line.startswith("SCAN") and not re.match(ITS_OWN_ROWS, line)]
    assert walked == [], "\n".join(lines)
    wide = [line for line in lines if re.search(r"jobs_by_\w+ \(\w+=\?\)", line)]
    assert wide == [], "\n".join(lines)


def test_facts_for_why_are_read_in_the_order_of_their_struct() -> None:
    fields = why_facts.JobFacts.__struct_fields__
    assert fields[0] == "job" or fields[0].startswith("job")
    arrays = re.findall(r"FROM (\w+)", QUERIES["job_facts"])
    order = [
        name
        for name in ("run_json", "decisions", "signals", "quarantine_json", "events", "engine_json")
        if name in arrays
    ]
    assert [arrays.index(name) for name in order] == sorted(arrays.index(name) for name in order)


def test_putting_away_recasts_no_field() -> None:
    assert PutAway.__struct_fields__ == ("job_id", "run_id", "state", "status_reason", "ready_at", "at")


def test_the_sum_of_the_migrations_is_the_schema(tmp_path: Path) -> None:
    with World(lambda: SqliteStore(tmp_path / "relight.db", durability="process")):
        db = apsw.Connection(os.fspath(tmp_path / "relight.db"))
        made = {
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'index', 'trigger')")
        }
        strict = {
            name
            for name, is_strict in db.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
            if is_strict
        }
        db.close()
    declared = set(re.findall(r"CREATE (?:TABLE|INDEX|UNIQUE INDEX|TRIGGER) (\w+)", SCHEMA))
    assert declared <= made
    tables = set(re.findall(r"CREATE TABLE (\w+)", SCHEMA))
    assert tables <= strict


@pytest.mark.parametrize("text", ["-- name: a\nSELECT 1;\n-- name: a\nSELECT 2;"])
def test_two_statements_of_one_name_are_refused(text: str) -> None:
    from relight.errors import ConfigError

    with pytest.raises(ConfigError):
        parse_statements(text)


def test_statements_are_found_by_name_without_their_comments() -> None:
    found = parse_statements("-- a file\n-- name: one\n-- why\nSELECT 1;\n\n-- name: two\nSELECT\n  2;\n")
    assert found == {"one": "SELECT 1", "two": "SELECT\n  2"}
