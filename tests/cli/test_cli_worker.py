"""``relight worker``: killed with SIGKILL its jobs go on in the next one; asked to stop it drains."""

from __future__ import annotations

import signal

import pytest
from tests.cli.commands import Place


def test_a_worker_killed_in_the_middle_of_a_step_is_recovered_by_the_next(place: Place) -> None:
    marker = str(place.folder / "marker")
    with place.start("worker", "flows", "--name", "one") as worker:
        assert "engine one (…" in worker.hear("is open after")
        job_id = place.ok("submit", "hangs", "--arg", f"marker={marker}", "--key", "h", "--by", "ben").out.strip()
        worker.hear("began")
        worker.send(signal.SIGKILL)
        assert worker.end() == -signal.SIGKILL
    [engine] = place.ok("engines", "--json").lines
    assert (engine["name"], engine["state"], engine["lock"], engine["running"]) == ("one", "live", "free", 1)
    assert "nonce" not in engine
    left = place.ok("why", "hangs:h")
    assert "was left running: engine one (pid" in left.out
    assert "relight worker MODULE" in left.out
    doctor = place.run("doctor")
    assert doctor.code == 1
    assert "WRONG: 1 run of dead engines" in doctor.out

    with place.start("worker", "flows.py", "--name", "two") as worker:
        worker.hear("is open after")
        last = place.start("events", "--job", job_id, "--follow", "--json")
        with last:
            last.hear('"job_completed"')
            assert last.end() == 0
        worker.send(signal.SIGTERM)
        assert worker.end() == 0
    assert "draining 0 jobs" in worker.text
    assert worker.heard[-1] == "stopped"

    shown = place.ok("show", job_id[-6:], "--json").json
    assert (shown["state"], shown["outputs"], shown["attempt"]) == ("completed", "done", 2)
    assert [run["state"] for run in shown["runs"]] == ["stalled", "completed"]
    assert {step["step_key"]: step["try_number"] for step in shown["steps"]} == {"double#0": 1, "hang_once#0": 1}
    types = [event["type"] for event in place.ok("events", "--job", "hangs:h", "--json").lines]
    assert types.count("workflow_recovery") == 1
    assert types[0] == "job_accepted"
    accepted = place.ok("events", "--type", "job_accepted", "--json").json
    assert (accepted["actor"], accepted["actor_id"]) == ("human", "ben")
    first, second = place.ok("recoveries", "--json").lines
    assert (first["stalled"], second["stalled"]) == (1, 0)
    assert first["engines"][0]["verdict"] == "dead"
    assert place.ok("verify", "--json").json["ok"] is True
    assert place.ok("doctor").out.endswith("all is well\n")


def test_an_engine_object_brings_its_settings_and_options_go_before_them(place: Place) -> None:
    with place.start("worker", "flows:engine", "--slots", "7", "--drain", "3s", RELIGHT_THREADS="5") as worker:
        assert "engine mine (…" in (line := worker.hear("is open after"))
        assert "takes add, waits from all queues" in line
        place.ok("submit", "waits", "--key", "w")
        place.ok("signal", "waits:w", "go", "now")
        with place.start("events", "--job", "waits:w", "--follow") as events:
            events.hear("job_completed")
        worker.send(signal.SIGINT)
        assert worker.end() == 0
    assert "up to 3 s" in worker.text
    assert place.ok("show", "waits:w", "--json").json["outputs"] == "now"


def test_a_worker_takes_from_the_queues_it_is_told_to(place: Place) -> None:
    with place.start("worker", "flows", "--consume", "gpu,cpu") as worker:
        assert "from queues gpu, cpu of" in worker.hear("is open after")
        slow = place.ok("submit", "flows:add", "--arg", "a=1").out.strip()
        quick = place.ok("submit", "flows:add", "--arg", "a=2", "--queue", "gpu", "--priority", "3").out.strip()
        with place.start("events", "--job", quick, "--follow") as events:
            events.hear("job_completed")
        assert place.ok("show", slow, "--json").json["state"] == "queued"
        assert "nobody can take it" in place.ok("why", slow).out
        worker.send(signal.SIGTERM)
        assert worker.end() == 0
    assert [job["job_id"] for job in place.ok("jobs", "--queue", "gpu", "--json").lines] == [quick]
    named = {queue["queue"]: queue for queue in place.ok("queues", "--json").lines}
    assert (named["gpu"]["slots"], named["gpu"]["defined"], named["default"]["defined"]) == (2, True, False)


def test_a_second_signal_leaves_at_once(place: Place) -> None:
    with place.start("worker", "flows") as worker:
        worker.hear("is open after")
        place.ok("submit", "hangs", "--arg", f"marker={place.folder / 'marker'}")
        worker.hear("began")
        worker.send(signal.SIGTERM)
        worker.hear("draining 1 job")
        worker.send(signal.SIGTERM)
        assert worker.end() == 143


def test_a_step_that_outlives_the_drain_is_left_to_the_next_start(place: Place) -> None:
    with place.start("worker", "flows", "--drain", "200ms") as worker:
        worker.hear("is open after")
        place.ok("submit", "hangs", "--arg", f"marker={place.folder / 'marker'}")
        worker.hear("began")
        worker.send(signal.SIGTERM)
        worker.hear("left in the middle of a step: 1 job")
        assert worker.end() == 0
    doctor = place.run("doctor", "--json")
    assert doctor.code == 1
    assert doctor.json["recovery_owed"] == 1
    [engine] = place.ok("engines", "--json").lines
    assert (engine["state"], engine["lock"], engine["running"]) == ("stopped", "free", 1)


@pytest.mark.slow
def test_an_operator_vouches_for_the_death_of_a_stopped_engine(place: Place) -> None:
    marker = str(place.folder / "marker")
    with place.start("worker", "flows", "--name", "one", "--lease", "1s") as one:
        one.hear("is open after")
        place.ok("submit", "hangs", "--arg", f"marker={marker}", "--key", "h")
        one.hear("began")
        alive = place.run("engines", "fence", "one")
        assert alive.code == 1
        assert "lives: process" in alive.err
        one.send(signal.SIGSTOP)
        with place.start("worker", "flows", "--name", "two", "--lease", "1s") as two:
            two.hear("is open after")
            held = place.ok("why", "hangs:h", "--json").json
            assert held["causes"][0]["code"] == "held"
            [fence] = [act for cause in held["causes"] for act in cause["actions"] if " fence " in act]
            assert "1 held job released" in place.do(fence + " --by op").out
            assert "0 held jobs released" in place.do(fence).out
            with place.start("events", "--job", "hangs:h", "--follow") as events:
                events.hear("job_completed")
            told = place.ok("events", "--type", "engine_fenced", "--type", "hold_released", "--json").lines
            assert [(event["type"], event["actor"], event["actor_id"]) for event in told] == [
                ("engine_fenced", "human", "op"),
                ("hold_released", "human", "op"),
            ]
            one.send(signal.SIGCONT)
            one.hear("was declared dead")
            two.send(signal.SIGTERM)
            assert two.end() == 0
        one.send(signal.SIGTERM)
        assert one.end() == 0
    place.ok("verify")


def test_runs_of_an_engine_that_an_operator_vouched_for_are_stalled_on_his_word(place: Place) -> None:
    marker = str(place.folder / "marker")
    with place.start("worker", "flows", "--name", "one") as one:
        one.hear("is open after")
        place.ok("submit", "hangs", "--arg", f"marker={marker}", "--key", "h")
        one.hear("began")
        one.send(signal.SIGSTOP)
        assert "1 running job to be stalled" in place.ok("engines", "fence", "one", "--by", "op", "--force").out
        assert place.run("run", "flows:hangs", "--arg", f"marker={marker}", "--key", "h").json == "done"
        told = place.ok("events", "--job", "hangs:h", "--type", "workflow_recovery", "--json").json
        assert (told["actor"], told["payload"]["verdict"]) == ("system", "dead")
        assert told["payload"]["evidence"]["operator"] == "op"
        receipt = place.ok("recoveries", "--json", "--limit", "1").json
        assert [engine["verdict"] for engine in receipt["engines"]] == ["dead"]
    place.ok("verify")
