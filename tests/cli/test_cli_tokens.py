"""``relight complete``, ``fail`` and ``beat`` for tokens, as ``why`` prints them; and jobs that end with issues."""

from __future__ import annotations

from tests.cli.commands import Place


def waiting(place: Place) -> tuple[str, str]:
    """Let a job wait for a token with no engine running; return the job's id and the token."""
    with place.start("worker", "flows") as worker:
        worker.hear("is open after")
        job = place.ok("submit", "flows:orders").out.strip()
        while not (tokens := place.ok("show", job, "--json").json["tokens"]) or not _waits(place, job):
            pass
        worker.send(15)
        worker.end()
    return job, tokens[0]["token"]


def _waits(place: Place, job: str) -> bool:
    causes = place.ok("why", job, "--json").json["causes"]
    return causes[0]["code"] == "waiting_external"


def test_a_token_is_beaten_and_completed_as_why_says_and_once(place: Place) -> None:
    job, token = waiting(place)
    actions = place.ok("why", job, "--json").json["causes"][0]["actions"]
    assert f"relight complete {token} --json VALUE" in actions
    assert f"relight fail {token} --reason TEXT" in actions
    assert place.ok("beat", token, "--note", "half").out == "noted\n"
    assert "(half)" in place.ok("why", job).out
    assert place.ok("complete", token, "--json", "7", "--by", "ben").out == "completed\n"
    for late in (("complete", token, "--json", "8"), ("fail", token, "--reason", "no"), ("beat", token)):
        assert place.ok(*late).out.startswith("nothing was changed: already completed by ben at ")
    assert token in place.ok("show", job).out
    with place.start("worker", "flows") as worker:
        worker.hear("is open after")
        while place.ok("show", job, "--json").json["state"] != "completed":
            pass
    assert place.ok("show", job, "--json").json["outputs"] == 7


def test_a_token_is_failed_and_a_job_still_is(place: Place) -> None:
    job, token = waiting(place)
    assert place.ok("fail", token, "--reason", "no licence").out == "failed\n"
    told = place.ok("events", "--job", job, "--type", "external_failed", "--json").lines
    assert [event["payload"]["message_redacted"] for event in told] == ["no licence"]
    assert "is being failed" in place.ok("fail", job).out


def test_what_is_wrong_with_an_answer_is_said(place: Place) -> None:
    place.ok("run", "flows:add", "--arg", "a=1")
    unknown = place.run("complete", "ext_0", "--json", "1")
    assert (unknown.code, unknown.err.startswith("error: not_found: ")) == (1, True)
    bad = place.run("complete", "ext_0", "--json", "{")
    assert (bad.code, "is not JSON" in bad.err) == (2, True)
    forced = place.run("fail", "ext_0", "--force")
    assert forced.code == 2


def test_a_job_with_issues_has_an_exit_code_of_its_own_and_shows_them(place: Place) -> None:
    done = place.run("run", "flows:patchy", "--arg", "n=5")
    assert (done.code, done.out) == (6, "5\n")
    assert "issue: no_ocr: page 17 is an image" in done.err
    assert "no_ocr (page 17 is an image)" in place.ok("show", "@last").out
    assert place.ok("why", "@last", "--json").json["causes"][0]["code"] == "issues"
