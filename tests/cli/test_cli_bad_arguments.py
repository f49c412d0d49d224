"""What cannot be done is refused with a code, one sentence and what would do; never with a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.cli.commands import FLOWS

from relight.cli.main import cli
from relight.engine.facade import Engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with modules, a store that holds one job, and files that are no store."""
    folder = tmp_path_factory.mktemp("bad")
    folder.joinpath("bad_flows.py").write_text(FLOWS)
    folder.joinpath("empty_module.py").write_text("x = 1\n")
    folder.joinpath("broken_module.py").write_text("import nowhere_to_be_found\n")
    folder.joinpath("raising_module.py").write_text("1 / 0\n")
    folder.joinpath("no_python.py").write_text("def (:\n")
    folder.joinpath("not_a_store.db").write_text("not a store, but long enough to be looked at " * 100)
    folder.joinpath("a_folder.db").mkdir()
    with Engine(str(folder / "relight.db")) as engine:
        engine.stop()
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return


CASES: list[tuple[str, int, str, str]] = [
    ("nonsense", 2, "usage", "No such command 'nonsense'"),
    ("run", 2, "usage", "Missing argument 'MODULE:WORKFLOW'"),
    ("why", 2, "usage", "See: relight why --help"),
    ("jobs --stat queued", 2, "usage", "No such option"),
    ("jobs --state sleeping", 2, "usage", "'awaiting_user'"),
    ("jobs --limit -1", 2, "usage", "--limit"),
    ("jobs --since yesterday", 2, "invalid_argument", "give a time with its zone"),
    ("jobs --tag env", 2, "invalid_argument", "write --tag NAME=VALUE"),
    ("events --type job_complete", 2, "invalid_argument", "Did you mean job_completed"),
    ("show 1", 2, "invalid_argument", "at least the last 4 characters"),
    ("show …12", 2, "invalid_argument", "@last, or kind:key"),
    ("show @first", 2, "invalid_argument", "there is @last"),
    ("show @last", 1, "not_found", "there is no job in relight.db yet"),
    ("why abcdef", 1, "not_found", "relight jobs lists them"),
    ("why add:nope", 1, "not_found", 'no add in relight.db has the key "nope"'),
    ("engines fence nobody", 1, "not_found", "relight engines lists them"),
    ("run nowhere_module:add", 2, "registration_error", "there is no module nowhere_module here"),
    ("run not-a-module:add", 2, "registration_error", "write MODULE:NAME"),
    ("run missing.py:add", 2, "registration_error", "there is no file missing.py"),
    ("run broken_module:x", 2, "registration_error", "No module named 'nowhere_to_be_found' (broken_module.py:1)"),
    ("run raising_module:x", 2, "registration_error", "ZeroDivisionError: division by zero (raising_module.py:1)"),
    ("run no_python:x", 2, "registration_error", "(no_python.py:1)"),
    ("run bad_flows:ad", 2, "registration_error", "Did you mean add?"),
    ("run bad_flows", 2, "registration_error", "write bad_flows:WORKFLOW"),
    ("run bad_flows:double", 2, "registration_error", "is a step; only workflows are run"),
    ("run bad_flows:gpu", 2, "registration_error", "is no workflow"),
    ("run bad_flows:add", 2, "invalid_argument", "add needs a: --arg a=…"),
    ("run bad_flows:add --arg a=1 --arg c=2", 2, "invalid_argument", "add has no parameter 'c'. It has: a, b, note"),
    ("run bad_flows:add --arg nota=1", 2, "invalid_argument", "Did you mean note?"),
    ("run bad_flows:add --arg a=one", 2, "invalid_argument", "--arg a=one does not fit int"),
    ("run bad_flows:add --arg a=1 --arg a=2", 2, "invalid_argument", "--arg a is given twice"),
    ("run bad_flows:add --json [1]", 2, "invalid_argument", "give one JSON object"),
    ("run bad_flows:add --arg a=1 --in soon", 2, "invalid_argument", "a duration like 90s"),
    ("run bad_flows:add --arg a=1 --at 2026-02-03T08:15", 2, "invalid_argument", "has no time zone"),
    ("run bad_flows:add --arg a=1 --in 1h --at 2026-02-03T08:15Z", 2, "invalid_argument", "give one"),
    ("run bad_flows:add --arg a=1 --priority high", 2, "usage", "--priority"),
    ("run bad_flows:add --arg a=1 --store nowhere/x.db", 2, "config_error", "there is no folder nowhere"),
    ("run bad_flows:add --arg a=1 --store mysql://x", 2, "config_error", "mysql:// is no store"),
    ("run bad_flows:add --arg a=1 --store a_folder.db", 2, "config_error", "is a folder"),
    ("run bad_flows:add --arg a=1 --store not_a_store.db", 5, "storage_corrupt", "It is left as it is"),
    ("jobs --store none.db", 5, "storage_unavailable", "there is no store at none.db"),
    ("submit cencus", 2, "kind_unknown", "no engine has ever registered"),
    ("worker empty_module", 2, "registration_error", "there is no workflow in empty_module"),
    ("worker bad_flows:gpu", 2, "registration_error", "neither an Engine nor a workflow"),
    ("worker bad_flows --slots 0", 2, "config_error", "slots=0: expected a whole number from 1"),
    ("worker bad_flows --lease 1ms", 2, "config_error", "expected seconds from 0.5"),
    ("resume @last --done a --not-done b", 2, "invalid_argument", "give one of them"),
    ("resume @last --value 1", 2, "invalid_argument", "give both"),
    ("resume", 2, "invalid_argument", "give a JOB, or at least one filter"),
    ("resume @last --kind add", 2, "invalid_argument", "say two things; give one"),
    ("resume @last --yes", 2, "invalid_argument", "say two things; give one"),
    ("resume --kind add --done a", 2, "invalid_argument", "settle a step of one JOB"),
    ("resume @last --accept --not-done a", 2, "invalid_argument", "settle a step of one JOB"),
    ("resume --state failed", 2, "usage", "--state"),
    ("retry", 2, "invalid_argument", "give a JOB, or at least one filter"),
    ("retry --tag x", 2, "invalid_argument", "write --tag NAME=VALUE"),
    ("fork @last", 1, "not_found", "there is no job in relight.db yet"),
    ("fork @last --json [1]", 2, "invalid_argument", "give one JSON object"),
    ("queues pause gpu", 1, "not_found", "no engine has defined a queue 'gpu'"),
    ("queues set slots=2", 2, "invalid_argument", "write: relight queues set slots=2 QUEUE"),
    ("queues set slots=-1 gpu", 2, "invalid_argument", "a whole number, 0 or more, or none"),
    ("queues set slots=two gpu", 2, "invalid_argument", "a whole number, 0 or more, or none"),
    ("queues set size=2 gpu", 2, "invalid_argument", "one of slots, per_engine_slots, priority, rate"),
    ("queues set priority=none gpu", 2, "invalid_argument", "a whole number"),
    ("queues set rate=10 gpu", 2, "invalid_argument", "like 10/60s"),
    ("queues set rate=0/1s gpu", 2, "invalid_argument", "1 to 1,000,000"),
    ("queues set rate=10/soon gpu", 2, "invalid_argument", "a duration like 90s"),
    ("queues set slots=1 slots=2 gpu", 2, "invalid_argument", "is given twice"),
    ("answer @last yes --value nonsense", 2, "invalid_argument", "is not JSON"),
    ("demo missing_folder", 2, "invalid_argument", "missing_folder"),
    ("demo --crashes -1", 2, "invalid_argument", "0 or more"),
    ("db upgrade --store none.db", 5, "storage_unavailable", "there is no store at none.db"),
    ("verify --store none.db", 5, "storage_unavailable", "there is no store at none.db"),
]


@pytest.mark.parametrize(("command", "code", "error", "words"), CASES, ids=[case[0] for case in CASES])
def test_it_is_refused_with_a_code_and_a_sentence(command: str, code: int, error: str, words: str) -> None:
    result = CliRunner().invoke(cli, command.split(), prog_name="relight")
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith(f"error: {error}: "), result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_settings_of_the_environment_are_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_SLOTS", "many")
    result = CliRunner().invoke(cli, ["worker", "bad_flows"], prog_name="relight")
    assert result.exit_code == 2
    assert "RELIGHT_SLOTS='many'" in result.stderr


def test_a_bare_relight_shows_what_there_is() -> None:
    result = CliRunner().invoke(cli, [], prog_name="relight")
    assert result.exit_code == 2
    assert "Commands:" in result.stderr
