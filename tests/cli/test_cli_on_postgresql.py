"""The commands on PostgreSQL: the same words, and what only a server has to say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from tests.cli.commands import Place
from tests.postgres import new_schema, own_database, own_server

from relight.cli.demo.driver import DemoOptions, run_demo
from relight.cli.demo.receipt import Receipt


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    made.store = address = new_schema()  # type: ignore[assignment]
    monkeypatch.setenv("RELIGHT_STORE", address)
    yield made
    assert not list(tmp_path.glob("relight.db*"))


def schema_of(place: Place) -> str:
    return str(place.store).partition("schema=")[2]


def test_a_job_is_run_looked_at_and_verified(place: Place) -> None:
    assert place.ok("run", "flows:add", "--arg", "a=2").out.endswith("7\n")
    assert "completed" in place.ok("jobs").out
    assert "job_completed" in place.ok("events").out
    assert "double#0" in place.ok("show", "@last").out
    assert "completed" in place.ok("why", "@last").out
    assert ": ok (" in place.ok("verify").out
    assert "has the newest schema already" in place.ok("db", "upgrade").out


def test_events_are_followed_while_others_write(place: Place) -> None:
    place.ok("run", "flows:add", "--arg", "a=1")
    with place.start("events", "--follow") as following:
        following.hear("job_completed")
        place.ok("run", "flows:add", "--arg", "a=5")
        following.hear("job_accepted")
        following.hear("job_completed")


def test_doctor_says_what_server_it_is_and_what_is_wrong_with_it(place: Place) -> None:
    place.ok("run", "flows:add", "--arg", "a=2")
    done = place.run("doctor")
    assert "PostgreSQL" in done.out and "by psycopg" in done.out and "this machine's" in done.out
    assert "the server has fsync = off" in done.out, "as a server for tests has it"
    assert "integrity ok" in done.out and done.code == 1
    found = json.loads(place.run("doctor", "--json").out)
    assert abs(found["store"]["clock_ahead_ms"]) < 60_000 and found["store"]["notify"] is True
    with psycopg.connect(own_server().address(own_database()), autocommit=True) as db:
        db.execute(f"ALTER TABLE {schema_of(place)}.events DISABLE TRIGGER events_no_update".encode())
    assert "trigger events_no_update on events is missing or disabled" in place.run("doctor").out
    assert place.run("verify").code == 1


def test_doctor_says_that_a_server_is_not_there(place: Place) -> None:
    done = place.run("doctor", "--store", "postgresql://relight@127.0.0.1:1/none")
    assert done.code == 1 and "storage_unavailable" in done.out and "SQLite" not in done.out


def test_the_demo_keeps_its_promises_on_a_server(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(30):
        (folder / f"m{number}.py").write_text(f"import os\n\ndef f{number}():\n    '''Documented.'''\n")
    out = io.StringIO()
    code = run_demo(DemoOptions(folder, crashes=3, json=True, seed=7, store=new_schema()), out)
    found = msgspec.json.decode(out.getvalue(), type=Receipt)
    assert code == 0
    assert (found.files, found.crashes, found.lost_jobs, found.finished_steps_rerun) == (30, 3, 0, 0)
    assert (found.verify, found.identical) == ("ok", True)
    assert found.stalled == found.resumed >= 3
