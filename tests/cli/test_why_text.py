"""A ``Why`` as text: the sentence, its causes in columns, their evidence, and what to do, the last resorts last."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

from tests.core.why_rows import ENGINE, NOW, asks, facts, job, mark, stalled, step, wait

from relight.cli.why_text import why_text
from relight.clock import to_datetime
from relight.core.why import explain
from relight.model import JobState, StepKind, StepState

AT = to_datetime(NOW)


def test_a_stalled_job_with_a_step_in_doubt() -> None:
    recovered = mark("workflow_recovery", verdict="dead", dead_engine_id=ENGINE, evidence={"reason": "lock_free"})
    doubt = step(state=StepState.IN_DOUBT, policy="ask")
    why = explain(facts(stalled(), steps=(doubt,), marks=(recovered,)))
    assert why_text(why, AT, UTC).split("\n") == [
        why.summary,
        "  stalled     since 15:02:40 UTC (4 min)  engine etl-1 died (lock free); policy resumes it from its last checkpoint",
        "    evidence  …vent-1",
        "  in_doubt    since 15:04:40 UTC (2 min)  charge#0 (try 1, policy ask): the next run asks a person first",
        "    evidence  …vent-1",
        "  do  relight resume …f36877",
        "      relight resume …f36877 --done charge#0 --value JSON",
        "      relight resume …f36877 --not-done charge#0",
        "      relight cancel …f36877",
        "      relight fail …f36877",
    ]


def test_what_ends_a_job_is_offered_behind_what_helps_it_on() -> None:
    asked = asks()
    asked["steps"] = (step(), *asked["steps"])
    lines = why_text(explain(facts(job(JobState.RUNNING), **asked)), AT, UTC).split("\n")
    assert [line.split()[-1] for line in lines if "relight" in line] == ["approve", "reject", "…f36877", "…f36877"]
    assert "fail" in lines[-1]


def test_what_comes_by_itself_has_a_line() -> None:
    why = explain(facts(job(claimable=False), steps=(wait(StepKind.SLEEP, until=NOW + 60_000),)))
    assert "    next      15:07:40 UTC" in why_text(why, AT, UTC).split("\n")


def test_a_job_that_is_never_left_has_nothing_to_do() -> None:
    text = why_text(explain(facts(job(JobState.COMPLETED))), AT, UTC)
    assert text.startswith("checkout …f36877 completed at 15:02:40 UTC in 6 min.\n  completed   since ")
    assert "do  " not in text


def test_times_are_the_terminal_s_own() -> None:
    zone = timezone(timedelta(hours=2))
    assert "  in_line     since 17:02:40 (4 min)  " in why_text(explain(facts(), tz=zone), AT, zone)
    assert why_text(explain(facts()), AT)
