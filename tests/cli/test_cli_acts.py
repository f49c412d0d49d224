"""What people do to jobs, and that the commands which ``why`` prints do it."""

from __future__ import annotations

import shlex

import click
import pytest
from tests.cli.commands import Place

from relight.cli.main import cli


def make_store(place: Place) -> None:
    """Let the workflows be known, with no engine running afterwards."""
    place.ok("run", "flows:add", "--arg", "a=1")


def summary(place: Place, job: str) -> str:
    text: str = place.ok("why", job, "--json").json["summary"]
    return text


def actions(place: Place, job: str) -> list[str]:
    return [act for cause in place.ok("why", job, "--json").json["causes"] for act in cause["actions"]]


def test_jobs_are_named_by_the_end_of_their_id_by_key_and_as_the_newest(place: Place) -> None:
    make_store(place)
    job_id = place.ok("submit", "flows:waits", "--key", "k:1").out.strip()
    for address in (job_id, job_id[-4:], f"…{job_id[-6:]}", f"...{job_id[-8:].upper()}", "waits:k:1", "@last"):
        assert place.ok("show", address, "--json").json["job_id"] == job_id
    ids = [place.ok("submit", "flows:waits").out.strip() for _ in range(3)]
    listed = [job["job_id"] for job in place.ok("jobs", "--kind", "waits", "--json").lines]
    assert listed == [*reversed(ids), job_id]
    page = place.ok("jobs", "--kind", "waits", "--json", "--limit", "2").lines
    rest = place.ok("jobs", "--kind", "waits", "--json", "--before", page[-1]["job_id"][-12:]).lines
    assert [job["job_id"] for job in page + rest] == listed
    assert "there may be more: relight jobs --before …" in place.ok("jobs", "--limit", "2").err


def test_a_job_that_never_began_is_cancelled_at_once_and_only_once(place: Place) -> None:
    make_store(place)
    job_id = place.ok("submit", "flows:waits", "--in", "1h").out.strip()
    said = place.ok("cancel", job_id, "--by", "ben", "--reason", "not\nneeded").out
    assert "cancelled" in said
    assert "by ben" in said
    again = place.run("cancel", job_id)
    assert again.code == 1
    assert again.err.startswith("error: illegal_transition: ")
    told = place.ok("events", "--job", job_id, "--type", "job_cancelled", "--json").json
    assert (told["actor"], told["actor_id"], told["payload"]["by"]) == ("human", "ben", "ben")
    shown = place.ok("show", job_id).out
    assert "cancelled" in shown


def test_an_operator_fails_a_job_and_retries_it(place: Place) -> None:
    make_store(place)
    place.ok("submit", "flows:add", "--arg", "a=20", "--key", "f", "--in", "1h")
    assert "failed" in place.ok("fail", "add:f", "--reason", "by mistake").out
    [retry] = actions(place, "add:f")
    assert "queued" in place.do(retry).out
    assert place.run("run", "flows:add", "--arg", "a=20", "--key", "f").out == "43\n"
    refused = place.run("retry", "add:f", "--all-failed")
    assert refused.code == 1
    assert "only failed and poisoned jobs are retried" in refused.err


def test_messages_are_json_or_text_and_delivered_once_under_a_key(place: Place) -> None:
    make_store(place)
    place.ok("submit", "flows:waits", "--key", "w")
    for _ in range(2):
        place.ok("signal", "waits:w", "go", "hello there", "--key", "once", "--by", "ben")
    other = place.run("signal", "waits:w", "go", "other", "--key", "once")
    assert (other.code, other.err.partition(" with")[0].split(":")[1]) == (1, " idempotency_mismatch")
    place.ok("signal", "waits:w", "else", '{"amount": 3}')
    place.ok("signal", "waits:w", "nothing")
    place.ok("signal", "waits:w", "piped", "-", stdin="[1]")
    signals = place.ok("show", "waits:w", "--json").json["signals"]
    assert [(s["name"], s["payload"], s["by"]) for s in signals] == [
        ("go", "hello there", "ben"),
        ("else", {"amount": 3}, "ann"),
        ("nothing", None, "ann"),
        ("piped", [1], "ann"),
    ]
    assert place.run("run", "flows:waits", "--key", "w").json == "hello there"
    late = place.run("signal", "waits:w", "go")
    assert (late.code, late.err.split(":")[1]) == (1, " conflict")


def test_a_question_is_answered_by_the_command_that_why_prints(place: Place) -> None:
    done = place.run("run", "flows:asks", "--key", "q", RELIGHT_SUSPEND_AFTER_SECONDS="0.05")
    assert done.code == 4
    approve, reject, *_ = actions(place, "asks:q")
    assert shlex.split(approve)[-1] == "approve"
    assert shlex.split(reject)[-1] == "reject"
    wrong = place.run("answer", "asks:q", "maybe")
    assert wrong.code == 2
    assert "not one of the choices: approve, reject" in wrong.err
    place.do(approve + " --by ben --note 'as agreed'")
    [question] = place.ok("show", "asks:q", "--json").json["decisions"]
    assert (question["choice"], question["by"], question["note"]) == ("approve", "ben", "as agreed")
    twice = place.run("answer", "asks:q", "reject")
    assert (twice.code, twice.err.split(":")[1]) == (1, " conflict")
    assert place.run("run", "flows:asks", "--key", "q").json == "approve"


def crash_in_doubt(place: Place, workflow: str) -> None:
    marker = f"marker={place.folder / 'marker'}"
    with place.start("run", f"flows:{workflow}", "--arg", marker, "--key", "p") as run:
        run.hear("began")
        run.send(9)
        run.end()


@pytest.mark.parametrize("how", ["done", "not_done", "fail"])
def test_a_step_in_doubt_is_settled_by_the_commands_that_why_prints(place: Place, how: str) -> None:
    crash_in_doubt(place, "pays")
    marker = f"marker={place.folder / 'marker'}"
    asked = place.run("run", "flows:pays", "--arg", marker, "--key", "p", RELIGHT_SUSPEND_AFTER_SECONDS="0.05")
    assert asked.code == 4
    assert "nobody knows whether it happened" in asked.err
    by_how = {"done": "--done charge#0", "not_done": "--not-done charge#0", "fail": "fail"}
    [command] = [act for act in actions(place, "pays:p") if by_how[how] in act and " fail …" not in act]
    place.do(command.replace("JSON", "'\"ch_1\"'"))
    end = place.run("run", "flows:pays", "--arg", marker, "--key", "p")
    assert (end.code, end.out.strip()) == {"done": (0, '"ch_1"'), "not_done": (0, '"done"'), "fail": (1, "")}[how]
    place.ok("verify")


def test_a_held_job_is_settled_and_resumed_at_once(place: Place) -> None:
    crash_in_doubt(place, "held")
    marker = f"marker={place.folder / 'marker'}"
    waiting = place.run("run", "flows:held", "--arg", marker, "--key", "p")
    assert waiting.code == 4
    assert "waits for an operator" in waiting.err
    assert "is queued" in place.ok("resume", "held:p", "--done", "charge#0", "--value", '"ch_2"').out
    assert place.run("run", "flows:held", "--arg", marker, "--key", "p").json == "ch_2"
    place.ok("verify")


def test_a_running_job_is_cancelled_by_force(place: Place) -> None:
    marker = f"marker={place.folder / 'marker'}"
    with place.start("run", "flows:hangs", "--arg", marker, "--key", "h", RELIGHT_DRAIN_SECONDS="0.2") as run:
        run.hear("began")
        assert "is being cancelled" in place.ok("cancel", "hangs:h").out
        [force] = [act for act in actions(place, "hangs:h") if "--force" in act]
        assert "cancelled" in place.do(force).out
        run.hear("draining 1 job, up to 0.2 s")
        assert run.end() == 3


def test_a_job_set_aside_is_released_by_the_command_that_why_prints(place: Place) -> None:
    make_store(place)
    job_id = place.ok("submit", "flows:add", "--arg", "a=2", "--key", "s").out.strip()
    damage(place, 'UPDATE jobs SET inputs = \'{"a": "two"\' WHERE job_id = ?', job_id)
    damage(place, "INSERT INTO quarantine VALUES (?, 'jobs', 'test', 'by \x1b[31m hand', NULL, 1, NULL)", job_id)
    assert "test in jobs" in place.ok("why", "add:s").out
    assert "set aside (test in jobs)" in place.run("doctor").out
    [release] = [act for act in actions(place, "add:s") if " release " in act]
    assert "is released" in place.do(release + " --by ben").out
    told = place.ok("events", "--type", "row_released", "--json").json
    assert (told["actor_id"], told["payload"]["row_id"], told["job_id"]) == ("ben", job_id, job_id)
    again = place.do(release)
    assert (again.code, again.err.split(":")[1]) == (1, " conflict")


def damage(place: Place, sql: str, *values: str) -> None:
    import apsw

    db = apsw.Connection(str(place.store))
    db.execute(sql, values)
    db.close()


PRINTED = [
    "relight answer …f36877 approve --decision 01a20d4f-514f-7001-9e80-2518c8e572ed",
    "relight answer …f36877 'send it'",
    "relight resume …f36877",
    "relight resume …f36877 --accept",
    "relight resume …f36877 --done 'extract[d-17]' --value JSON",
    "relight resume …f36877 --not-done charge#0",
    "relight retry …f36877",
    "relight retry …f36877 --all-failed",
    "relight release …f36877",
    "relight engines fence …f36877",
    "relight signal …f36877 paid",
    "relight cancel …f36877",
    "relight fail …f36877",
    "relight cancel …f36877 --force",
    "relight fail …f36877 --force",
    "relight why …f36877",
]


@pytest.mark.parametrize("command", PRINTED)
def test_every_command_that_is_printed_can_be_typed(command: str) -> None:
    words = shlex.split(command)[1:]
    context = cli.make_context("relight", words)
    found: click.Command = cli
    while isinstance(found, click.Group):
        name, found_or_none, words = found.resolve_command(context, words)
        assert found_or_none is not None, name
        found = found_or_none
        context = found.make_context(name, list(words), parent=context)
        words = [*context._protected_args, *context.args]
