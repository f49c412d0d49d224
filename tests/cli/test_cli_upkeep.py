"""``doctor``, ``verify`` and ``db upgrade`` say what is wrong, and nothing when all is well."""

from __future__ import annotations

import signal
from pathlib import Path

import apsw
import pytest
from tests.cli.commands import Place

from relight.store.migrate import load_migrations
from relight.store.sqlite.store import SqliteStore


def change(store: Path, sql: str, *values: str) -> None:
    db = apsw.Connection(str(store))
    db.execute(sql, values)
    db.close()


@pytest.fixture
def used(place: Place) -> Place:
    place.ok("run", "flows:add", "--arg", "a=4", "--key", "k")
    return place


def test_doctor_shows_versions_settings_with_their_origin_and_that_all_is_well(used: Place) -> None:
    done = used.run("doctor", "--json", RELIGHT_SLOTS="7")
    assert done.code == 0
    found = done.json
    assert (found["ok"], found["problems"], found["integrity"], found["sqlite_safe"]) == (True, [], "ok", True)
    settings = {setting["name"]: (setting["value"], setting["origin"]) for setting in found["settings"]}
    assert settings["slots"] == (7, "environment")
    assert settings["lease_seconds"] == (30.0, "default")
    assert found["store"]["wal_bytes"] > 0
    assert found["jobs"] == {"completed": 1}
    assert (found["engines"], found["recovery_owed"], found["quarantine"]) == ([], 0, [])
    assert [queue["queue"] for queue in found["queues"]] == ["gpu"]
    page = used.ok("doctor", "--store", str(used.store)).out
    for words in (
        "SQLite",
        "(safe)",
        "store",
        "from argument",
        "from default",
        "queue gpu: slots=2; defined: ",
        "all is well",
    ):
        assert words in page


@pytest.mark.parametrize("content", [None, b"not a store, whatever its name says " * 200, b""])
def test_doctor_looks_at_what_is_no_store(place: Place, content: bytes | None) -> None:
    if content is not None:
        place.store.write_bytes(content)
    done = place.run("doctor", "--json")
    assert done.code == 1
    assert len(done.json["problems"]) == 1
    assert done.json["store"]["sqlite"]
    assert place.run("doctor").out.endswith("something is wrong\n")


def test_doctor_checks_a_code_base_without_running_it(used: Place) -> None:
    assert used.ok("doctor", "flows", "--json").json["module"]["kinds"][0] == "add"
    used.folder.joinpath("other.py").write_text(
        "from relight import step, workflow\n"
        "@step\ndef one(x: int) -> int: return 1\n"
        "@step(name='one')\ndef two() -> int: return 2\n"
        "@workflow\ndef w(x: 'Missing') -> int: return 1\n"
    )
    done = used.run("doctor", "other")
    assert done.code == 1
    assert done.out.count("WRONG: registration_error: ") == 2
    assert "Missing" in done.out
    assert 'two different steps are called "one" (other.py:2, other.py:4)' in done.out


def test_verify_finds_what_was_changed_by_hand(used: Place) -> None:
    report = used.ok("verify", "--json").json
    assert (report["ok"], report["findings"], report["counts"]["jobs"]) == (True, [], 1)
    assert ": ok (1 jobs," in used.ok("verify").out
    change(used.store, "UPDATE jobs SET state = 'failed'")
    done = used.run("verify", "--json")
    assert done.code == 1
    assert {finding["invariant"] for finding in done.json["findings"]} >= {"I-2"}
    assert "I-2: " in used.run("verify").out


def test_one_row_that_cannot_be_read_hides_no_other(used: Place) -> None:
    other = used.ok("submit", "flows:waits").out.strip()
    used.ok("submit", "flows:waits")
    change(used.store, "UPDATE jobs SET state = 'no such \x1b[31m state' WHERE job_id = ?", other)
    jobs = used.ok("jobs", "--json").lines
    assert [job.get("state") for job in jobs] == ["queued", None, "completed"]
    assert jobs[1]["job_id"] == other
    assert jobs[1]["unreadable"]
    assert [
        job["job_id"] for job in used.ok("jobs", "--json", "--limit", "1", "--before", jobs[0]["job_id"]).lines
    ] == [other]
    assert "unreadable" in used.ok("jobs").out
    shown = used.run("show", other)
    assert (shown.code, shown.err.split(":")[1]) == (5, " storage_corrupt")


def test_a_schema_is_upgraded_while_no_engine_is_live(used: Place) -> None:
    assert "newest schema already" in used.ok("db", "upgrade").out
    with used.start("worker", "flows", "--name", "one") as worker:
        worker.hear("is open after")
        refused = used.run("db", "upgrade")
        assert refused.code == 1
        assert "engine one …" in refused.err
        assert f"(process {worker.process.pid})" in refused.err
        worker.send(signal.SIGKILL)
        worker.end()
    used.ok("db", "upgrade")


def test_a_newer_migration_is_applied_and_told(used: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is run in this process, where one migration more is known."""
    from click.testing import CliRunner

    from relight.cli.main import cli
    from relight.store import migrate
    from relight.store.sqlite import store as module

    known = load_migrations("relight.store.sqlite")
    more = migrate.Migration(len(known) + 1, "more", "CREATE TABLE more (x INTEGER) STRICT;", "0" * 64)
    monkeypatch.setattr(module, "load_migrations", lambda package: [*known, more])
    outdated = CliRunner().invoke(cli, ["jobs", "--store", str(used.store)])
    assert outdated.exit_code == 5
    assert "relight db upgrade --store" in outdated.stderr
    done = CliRunner().invoke(cli, ["db", "upgrade", "--store", str(used.store), "--by", "op"])
    assert done.exit_code == 0, done.stderr
    assert f"upgraded: {len(known) + 1} more" in done.stdout
    store = SqliteStore(used.store)
    store.open(create=False)
    store.close()
    monkeypatch.undo()
    newer = used.run("jobs")
    assert (newer.code, newer.err.split(":")[1]) == (5, " schema_too_new")


def test_the_record_is_filtered_limited_and_followed(used: Place) -> None:
    everything = used.ok("events", "--json").lines
    assert [event["seq"] for event in everything] == sorted(event["seq"] for event in everything)
    assert set(everything[0]) >= {
        "seq",
        "event_id",
        "type",
        "timestamp",
        "actor",
        "actor_id",
        "trace_id",
        "payload",
        "hash",
    }
    assert everything[0]["timestamp"].endswith("Z")
    of_job = used.ok("events", "--job", "add:k", "--json").lines
    trace = of_job[0]["trace_id"]
    assert used.ok("events", "--trace", trace, "--json").lines == of_job
    human = used.ok("events", "--actor", "human", "--json").lines
    assert {event["type"] for event in human} == {"job_accepted"}
    page = used.ok("events", "--json", "--limit", "3").lines
    rest = used.ok("events", "--json", "--after", str(page[-1]["seq"])).lines
    assert page + rest == everything
    with used.start("events", "--follow", "--after", str(everything[-1]["seq"]), "--type", "job_accepted") as followed:
        job_id = used.ok("submit", "flows:waits").out.strip()
        assert f"…{job_id[-6:]}" in followed.hear("job_accepted")
        followed.send(signal.SIGINT)
        assert followed.end() == 130


def test_a_reader_that_goes_away_ends_a_command_quietly(used: Place) -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m relight events --follow | head -n 1; echo ${{PIPESTATUS[0]}}"
    shell = subprocess.Popen(
        ["bash", "-c", command], cwd=used.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    assert "writer_opened" in shell.stdout.readline()
    used.ok("run", "flows:add", "--arg", "a=1")  # what it prints next nobody reads
    out, err = shell.communicate(timeout=60)
    assert (out, err) == ("141\n", "")
