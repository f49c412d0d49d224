"""``relight run``: a result on stdout, an exit code for each way a job can stand, nothing lost at Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest
from tests.cli.commands import Place


def test_a_result_is_printed_as_json_and_everything_else_beside_it(place: Place) -> None:
    done = place.ok("run", "flows:add", "--arg", "a=4", "--arg", "note=5")
    assert done.out == "11\n"
    assert done.err.startswith("add …")
    assert "accepted" in done.err
    assert "\x1b" not in done.err
    [job] = place.ok("jobs", "--json").lines
    assert (job["state"], job["kind"], job["attempt"]) == ("completed", "add", 1)


def test_arguments_come_as_json_from_a_file_by_path_or_from_stdin(place: Place) -> None:
    assert place.ok("run", "flows.py:add", "--json", '{"a": 1, "b": 2}').out == "4\n"
    assert place.ok("run", "flows.py:add", "--json", "-", "--arg", "b=10", stdin='{"a": 1, "b": 2}').out == "12\n"
    page = place.folder / "page.txt"
    page.write_text("text")
    assert place.ok("run", str(place.folder / "flows.py") + ":report", "--arg", f"path={page}").json == "text"


def test_the_same_key_is_the_same_job(place: Place) -> None:
    first = place.ok("run", "flows:add", "--arg", "a=4", "--key", "k", "--tag", "env=test")
    again = place.ok("run", "flows:add", "--json", '{"a":4}', "--key", "k")
    assert (first.out, again.out) == ("11\n", "11\n")
    assert "already completed (same key)" in again.err
    other = place.run("run", "flows:add", "--arg", "a=5", "--key", "k")
    assert other.code == 1
    assert other.err.startswith("error: idempotency_mismatch: ")
    [job] = place.ok("jobs", "--tag", "env=test", "--json").lines
    assert job["tags"] == {"env": "test"}
    assert len(place.ok("events", "--type", "job_deduplicated", "--json").lines) == 1
    place.ok("run", "flows:add", "--arg", "a=1", "--by", "ben")
    assert [it["actor_id"] for it in place.ok("events", "--type", "job_accepted", "--json").lines] == ["ann", "ben"]


def test_a_failed_job_is_told_and_retried_after_the_fix(place: Place) -> None:
    page = place.folder / "page.txt"
    done = place.run("run", "flows:report", "--arg", f"path={page}", "--key", "r")
    assert done.code == 1
    assert done.out == ""
    assert "error: job_failed: report …" in done.err
    assert "\\x1b[31mpage" in done.err
    assert "\x1b" not in done.err
    page.write_text("here now")
    assert "relight retry …" in done.err
    assert "queued" in place.do("relight" + done.err.partition("After a fix: relight")[2]).out
    again = place.run("run", "flows:report", "--arg", f"path={page}", "--key", "r")
    assert (again.code, again.json) == (0, "here now")
    assert "is there already (same key)" in again.err


def test_a_job_that_waits_for_a_person_ends_the_run_with_4(place: Place) -> None:
    done = place.run("run", "flows:asks", RELIGHT_SUSPEND_AFTER_SECONDS="0.05")
    assert done.code == 4
    assert 'waits for a decision: "Send it?"' in done.err
    assert "relight answer …" in done.err


def test_a_job_cancelled_by_somebody_else_ends_the_run_with_3(place: Place) -> None:
    with place.start("run", "flows:waits") as run:
        run.hear("accepted")
        place.ok("cancel", "@last", "--by", "ben")
        assert run.end() == 3
    assert "error: job_cancelled: waits …" in run.text


def test_the_store_and_the_gate_end_the_run_with_5(place: Place) -> None:
    place.store.write_bytes(b"no store at all, not even close to one" * 100)
    done = place.run("run", "flows:add", "--arg", "a=1")
    assert done.code == 5
    assert done.err.startswith("error: storage_corrupt: ")


def test_ctrl_c_once_drains_and_the_next_run_goes_on(place: Place) -> None:
    with place.start("run", "flows:counts", "--arg", "n=400", "--key", "c") as run:
        run.hear("tick 2")
        run.send(signal.SIGINT)
        assert "draining 1 job, up to 20 s (again: leave now; nothing is lost)" in run.hear("draining")
        assert run.end() == 130
    ticked = max(int(line.split()[1]) for line in run.heard if re.match(r"tick \d", line))
    [job] = place.ok("jobs", "--json").lines
    assert (job["state"], job["status_reason"], job["stalls"]) == ("queued", "shutdown", 0)
    with place.start("run", "flows:counts", "--arg", "n=400", "--key", "c") as run:
        first = run.hear("tick")
        run.send(signal.SIGTERM)
        assert run.end() == 143
    assert int(first.split()[1]) == ticked + 1


def test_ctrl_c_twice_leaves_at_once_and_the_next_start_recovers(place: Place) -> None:
    marker = place.folder / "marker"
    with place.start("run", "flows:hangs", "--arg", f"marker={marker}", "--key", "h") as run:
        run.hear("began")
        run.send(signal.SIGINT)
        run.hear("draining")
        run.send(signal.SIGINT)
        assert run.end() == 130
    done = place.ok("run", "flows:hangs", "--arg", f"marker={marker}", "--key", "h")
    assert done.json == "done"
    [recovery] = place.ok("recoveries", "--json", "--limit", "1").lines
    assert (recovery["stalled"], recovery["in_doubt"]) == (1, 1)
    place.ok("verify")


def test_a_terminal_sees_how_far_the_job_is(place: Place) -> None:
    """Stderr is a terminal here: the line is drawn there, the result goes to stdout alone."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place.folder)
        os.execv(sys.executable, [sys.executable, "-m", "relight", "run", "flows:counts", "--arg", "n=15"])
    said = b""
    try:
        while chunk := os.read(terminal, 4096):
            said += chunk
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert b"\r\x1b[Kcounts \xe2\x80\xa6" in said
    assert b"105" in said


@pytest.mark.parametrize("name", ["relight.db", "other.db"])
def test_the_store_comes_from_the_option_the_environment_or_the_folder(place: Place, name: str) -> None:
    store = str(place.folder / name)
    given = {} if name == "relight.db" else {"RELIGHT_STORE": store}
    assert place.run("run", "flows:add", "--arg", "a=1", **given).code == 0
    assert Path(store).exists()
    [job] = place.ok("jobs", "--json", "--store", f"sqlite:///{store}").lines
    assert json.dumps(job)


def test_watching_says_each_new_situation_and_how_it_ended(place: Place) -> None:
    place.run("run", "flows:asks", RELIGHT_SUSPEND_AFTER_SECONDS="0.05")
    with place.start("watch", "@last") as watch, place.start("watch", "@last", "--json") as told:
        watch.hear("waits for a decision")
        told.hear("waiting_decision")
        place.ok("answer", "@last", "approve")
        watch.hear("no engine")
        told.hear("no_engine")
        with place.start("worker", "flows"):
            watch.hear("completed")
            assert watch.end() == told.end() == 0
    assert watch.heard[-1] == '"approve"'
    assert [json.loads(line)["causes"][0]["code"] for line in told.heard][-1] == "completed"


def test_watching_ends_as_the_job_does_and_leaves_it_alone_when_interrupted(place: Place) -> None:
    place.ok("run", "flows:add", "--arg", "a=1")  # an engine makes the store
    place.ok("submit", "flows:waits")
    with place.start("watch", "@last") as watch:
        watch.hear("queued")
        watch.send(signal.SIGINT)
        assert watch.end() == 130
    with place.start("watch", "@last") as watch:
        watch.hear("queued")
        place.ok("cancel", "@last")
        assert watch.end() == 3
    assert place.ok("jobs", "--json").lines[0]["state"] == "cancelled"
