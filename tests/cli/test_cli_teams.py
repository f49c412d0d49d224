"""Queues, forks and acts on many jobs, as they are typed."""

from __future__ import annotations

import pytest
from tests.cli.commands import Place


@pytest.fixture
def used(place: Place) -> Place:
    assert place.run("run", "flows:add", "--arg", "a=1", RELIGHT_NAME="one").code == 0
    return place


def queue(place: Place, name: str = "gpu") -> dict[str, object]:
    found: dict[str, object] = next(each for each in place.ok("queues", "--json").lines if each["queue"] == name)
    return found


def test_a_queue_is_paused_and_resumed_and_why_says_the_command(used: Place) -> None:
    assert "paused by ann" in used.ok("queues", "pause", "gpu", "--by", "ann").out
    used.ok("queues", "pause", "gpu", "--by", "ben")
    assert (queue(used)["paused"], queue(used)["override_by"]) == (True, "ann"), "twice is once"
    assert "paused by ann" in used.ok("queues").out
    assert "paused by ann" in used.ok("doctor").out
    assert "paused" not in used.ok("queues", "resume", "gpu").out
    told = used.ok("events", "--type", "queue_changed", "--json").lines
    assert [(each["actor"], each["payload"]["changes"]) for each in told[-2:]] == [
        ("human", {"paused": True}),
        ("human", {"paused": False}),
    ]


def test_what_an_operator_sets_holds_beside_the_definition_until_it_is_cleared(used: Place) -> None:
    said = used.ok("queues", "set", "slots=1", "rate=10/1m", "gpu", "--by", "ann").out
    assert said.startswith("queue gpu: slots=1, rate=10/60s (set ")
    used.ok("queues", "set", "priority=3", "gpu", "--by", "ann")
    found = queue(used)
    assert (found["slots"], found["priority"], found["rate"]) == (1, 3, {"n": 10, "per_seconds": 60.0})
    assert found["definition"] == {"slots": 2, "per_engine_slots": None, "priority": 0, "rate": None}
    assert (found["defined_by"], found["override_by"]) == ("one", "ann")
    assert "slots=2 one, " in used.ok("queues").out
    used.ok("queues", "set", "slots=none", "gpu")
    assert queue(used)["slots"] is None
    used.ok("queues", "clear", "gpu")
    assert (queue(used)["slots"], queue(used)["override"]) == (2, None)


def test_both_of_two_definitions_are_shown(used: Place) -> None:
    path = used.folder / "flows.py"
    path.write_text(path.read_text().replace('Queue("gpu", slots=2)', 'Queue("gpu", slots=5)'))
    with used.start("worker", "flows", "--name", "two") as worker:
        worker.hear("is open after")
    assert queue(used)["previous"]["slots"] == 2  # type: ignore[index]
    for page in ("queues", "doctor"):
        assert "before: slots=2 (one, " in used.ok(page).out
    assert "QueueChanged: gpu had slots=2 (engine one, " in worker.text


def test_a_partition_key_is_given_at_the_submit(used: Place) -> None:
    job = used.ok("submit", "flows:add", "--arg", "a=1", "--partition", "acme").out.strip()
    assert used.ok("show", job, "--json").json["partition_key"] == "acme"


def test_a_fork_prints_its_id_and_runs(used: Place) -> None:
    job = used.ok("jobs", "--kind", "add", "--json").lines[0]["job_id"]
    done = used.ok("fork", job, "--from", "double#0", "--arg", "a=20", "--by", "ann")
    fork = done.out.strip()
    assert "forked from" in done.err and "with 0 finished steps" in done.err
    shown = used.ok("show", fork, "--json").json
    assert (shown["inputs"], shown["state"]) == ({"a": 20}, "queued")
    told = used.ok("events", "--job", job, "--type", "job_forked", "--json").json
    assert (told["actor_id"], told["payload"]["new_job_id"]) == ("ann", fork)
    whole = used.ok("fork", job, "--json", '{"a":1,"b":9}').out.strip()
    assert used.ok("show", whole, "--json").json["inputs"] == {"a": 1, "b": 9}
    refused = used.run("fork", job, "--from", "nothing#0")
    assert refused.code == 2
    assert "has no step 'nothing#0'. It has: double#0" in refused.err


def test_many_jobs_are_listed_first_and_done_with_yes(used: Place) -> None:
    for n in range(3):
        used.ok("submit", "flows:add", "--arg", f"a={n}", "--key", f"k{n}", "--tag", "batch=1", "--in", "1h")
        used.ok("fail", f"add:k{n}")
    used.ok("submit", "flows:add", "--arg", "a=9", "--key", "k9", "--in", "1h")
    used.ok("fail", "add:k9")
    listed = used.ok("retry", "--tag", "batch=1")
    assert "3 jobs would be queued again; nothing was done" in listed.err
    assert len(used.ok("jobs", "--state", "failed", "--json").lines) == 4
    assert "3 jobs queued again" in used.ok("retry", "--tag", "batch=1", "--yes", "--by", "ann").out
    assert len(used.ok("jobs", "--state", "failed", "--json").lines) == 1
    told = used.ok("events", "--type", "job_retried", "--json").lines
    assert [each["actor_id"] for each in told] == ["ann"] * 3
    assert "no job is to be queued again" in used.ok("retry", "--tag", "batch=1", "--yes").err
    assert "no job is to be resumed" in used.ok("resume", "--kind", "add", "--yes").err
    assert "no job is to be resumed" in used.ok("resume", "--accept", "--kind", "add").err
