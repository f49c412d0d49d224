"""``why`` has the right cause, in words that say who, what, since when, and what comes next."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.core.why_rows import (
    ASLEEP,
    CHILD,
    DOUBT,
    ENGINE,
    FULL,
    HELD,
    JOB,
    MINUTE,
    NOW,
    OTHER,
    PUT_AWAY,
    QUARANTINE,
    RECOVERED,
    actions,
    asks,
    codes,
    engine,
    facts,
    job,
    mark,
    progress,
    running,
    stalled,
    step,
    token,
    wait,
)

from relight.clock import to_datetime
from relight.core.why import explain
from relight.core.why_codes import CODES
from relight.core.why_facts import Facts, LineFacts, LiveFacts, LiveStep, StepCounts
from relight.ids import StepKey
from relight.model import (
    Cause,
    EngineState,
    GateState,
    JobState,
    QueueRecord,
    SignalRecord,
    StepKind,
    StepState,
)

# One case for each code: facts in which it is the weightiest cause, and a piece of its sentence.
CASES: dict[str, tuple[Facts, str]] = {
    "quarantined": (
        facts(quarantine=QUARANTINE),
        "is set aside since 15:05:40 UTC (1 min): unreadable in jobs: bad row",
    ),
    "store_degraded": (
        running(live=LiveFacts(engine_id=ENGINE, degraded="disk full", degraded_since=NOW - 9_000)),
        "waits for the store, which refuses engine etl-1 since 15:06:31 UTC (9 s): disk full",
    ),
    "no_engine": (facts(engines=()), "is queued since 15:02:40 UTC (4 min) and no engine runs on this store"),
    "kind_not_registered": (
        facts(engines=(engine(kinds='["ingest"]'), engine(engine_id=OTHER, name="web-2", kinds="[]"))),
        'nobody can take it: none of the 2 live engines knows the kind "checkout"',
    ),
    "kind_version_not_registered": (
        facts(job(begun=True, version="1"), engines=(engine(kinds='[["checkout","2"]]'),)),
        "it began under version 1, and the 1 live engine has version 2",
    ),
    "gate_closed": (
        facts(engines=(engine(gate=GateState.CLOSED, started_at=NOW - 6_000),)),
        "waits for the gate: engine etl-1 is still recovering (6 s so far)",
    ),
    "gate_failed": (
        facts(engines=(engine(gate=GateState.FAILED, gate_detail="storage: disk full"),)),
        "waits for recovery, which fails in engine etl-1: storage: disk full",
    ),
    "queue_paused": (
        facts(line=LineFacts(queue=QueueRecord(queue="default", paused=True, override_by="ann"))),
        "queue default was paused by ann since",
    ),
    "rate_limited": (
        facts(live=LiveFacts(engine_id=ENGINE, rate_limited_until=NOW + 5_000)),
        "has used up its rate until 15:06:45 UTC (in 5 s)",
    ),
    "no_free_slot": (
        facts(line=FULL),
        "queue default is full, 2 of 2 slots held by …8b21c4 (41 min) and 1 more; it is 4th in line",
    ),
    "draining": (
        facts(live=LiveFacts(engine_id=ENGINE, draining_since=NOW - 1_000)),
        "engine etl-1 is stopping and takes nothing new",
    ),
    "in_line": (
        facts(line=LineFacts(ahead=1)),
        "is queued since 15:02:40 UTC (4 min) and 2nd in line for engine etl-1",
    ),
    "not_due": (
        facts(job(claimable=False, ready_at=NOW + 7_200_000)),
        "is queued and not due until 17:06:40 UTC (in 2 h)",
    ),
    "sleeping": (facts(PUT_AWAY, steps=ASLEEP), "sleeps until 16:06:40 UTC (in 1 h)"),
    "backoff": (
        running(
            steps=(
                step(
                    "think#14",
                    StepState.BACKOFF,
                    try_number=2,
                    until=NOW + 45_000,
                    error='{"type":"x.HTTPError","message":"429"}',
                ),
            ),
            live=LiveFacts(engine_id=ENGINE, tries={StepKey("think#14"): 6}),
        ),
        "think#14 of checkout …f36877 waits to be tried again at 15:07:25 UTC (try 3 of 6, in 45 s): HTTPError: 429",
    ),
    "waiting_signal": (
        facts(PUT_AWAY, steps=(wait(StepKind.SIGNAL, "go"),)),
        'waits for the signal "go" since 15:04:40 UTC (2 min)',
    ),
    "waiting_decision": (
        facts(job(JobState.AWAITING_USER, status_reason="awaiting_user"), **asks(expires_at=NOW + 86_400_000)),
        'waits for a decision: "Let the agent run send_mail?" (asked 15:05:40 UTC, 1 min ago, expires tomorrow 15:06 UTC)',
    ),
    "waiting_child": (
        facts(
            PUT_AWAY,
            steps=(wait(StepKind.CHILD_RESULT, CHILD),),
            children={CHILD: facts(job(job_id=CHILD, kind="index"), engines=())},
        ),
        "waits for its child since 15:04:40 UTC (2 min): index …8b21c4 is queued since 15:02:40 UTC (4 min) and no engine",
    ),
    "waiting_external": (
        facts(PUT_AWAY, steps=(wait(StepKind.EXTERNAL, "ext_1"),), tokens=(token(beat_at=NOW - 12_000, note="half"),)),
        'waits for "scan" to be completed from outside since 15:05:40 UTC (1 min), last heartbeat 12 s ago (half), the next',
    ),
    "waiting_thread": (
        facts(live=LiveFacts(engine_id=ENGINE, thread_wait_since=NOW - 1_000)),
        "waits for a free thread since 15:06:39 UTC (1 s)",
    ),
    "waiting_validation": (facts(job(JobState.AWAITING_VALIDATION)), "waits for its validators"),
    "running": (
        facts(
            job(JobState.RUNNING, progress=progress(3112, 5000, "extract")),
            steps=(step(),),
        ),
        "runs: extract 3,112 of 5,000, last progress 2 s ago, engine etl-1, about 9 min left",
    ),
    "cancelling": (
        facts(job(JobState.RUNNING, cancel_code="cancel", cancel_by="ben", cancel_reason="too dear"), steps=(step(),)),
        'is being cancelled by ben since 15:02:40 UTC (4 min) ("too dear"): it waits for charge#0 to return',
    ),
    "deadline": (
        facts(job(JobState.RUNNING, cancel_code="deadline", deadline_at=NOW - 4_000)),
        "passed its deadline at 15:06:36 UTC: its last run cleans up",
    ),
    "stalled": (
        facts(stalled(), marks=(RECOVERED,)),
        "is stalled since 15:02:40 UTC (4 min): engine etl-1 died in the middle of it; policy resumes it",
    ),
    "in_doubt": (
        facts(job(JobState.AWAITING_USER, status_reason="awaiting_user"), **DOUBT),
        "waits for a person: the engine died during charge#0 and nobody knows whether it happened",
    ),
    "owner_silent": (
        running(owner=engine(lease_until=NOW - 1, beat_at=NOW - 5 * MINUTE), engines=()),
        "was left running: engine etl-1 (pid 4711) has not been heard of for 5 min; the next engine to start looks",
    ),
    "held": (
        facts(HELD, owner=engine(state=EngineState.SILENT)),
        "is held since 15:02:40 UTC (4 min): engine etl-1 was stopped in the middle of it and may still act",
    ),
    "history_mismatch": (
        facts(
            job(JobState.AWAITING_USER, status_reason="history_mismatch:arguments"),
            marks=(mark("history_mismatch", step_key="charge#0", detail='argument "when" differs (others equal)'),),
        ),
        'is stopped at charge#0 since 15:02:40 UTC (4 min): argument "when" differs (others equal)',
    ),
    "step_inserted": (
        facts(
            job(JobState.AWAITING_USER, status_reason="history_mismatch:step_inserted"),
            marks=(mark("history_mismatch", step_key="approve#0", detail="approve#0 is new, but charge#0 is done"),),
        ),
        "is stopped at approve#0 since 15:02:40 UTC (4 min): approve#0 is new, but charge#0 is done",
    ),
    "completed": (
        facts(
            job(JobState.COMPLETED, attempt=2, begun=True),
            unread=(SignalRecord(seq=1, signal_id="s", job_id=JOB, name="stop", payload=None, by="ben", sent_at=NOW),),
        ),
        'completed at 15:02:40 UTC in 6 min (attempt 2). 1 signal was never read: "stop" from ben.',
    ),
    "issues": (
        facts(job(JobState.COMPLETED_WITH_ISSUES, issues='[{"code":"skipped","detail":"d-17"}]')),
        "completed with 1 issue at 15:02:40 UTC in 6 min: skipped (d-17)",
    ),
    "failed": (
        facts(
            job(
                JobState.FAILED,
                begun=True,
                error='{"type":"CardDeclined","message":"no funds","step_key":"charge#0","tries":4}',
            )
        ),
        "failed at 15:02:40 UTC in charge#0 after 4 tries: CardDeclined: no funds",
    ),
    "cancelled": (
        facts(job(JobState.CANCELLED), marks=(mark("job_cancelled", by="ben", reason="wrong order"),)),
        "was cancelled at 15:02:40 UTC, before it began by ben: wrong order",
    ),
    "poisoned": (facts(job(JobState.POISONED, stalls=3)), "was poisoned at 15:02:40 UTC: the engine died 3 times"),
}
SECONDARY = {"abandoned_thread", "probation", "silent_step"}
"""Codes that never come first, or need two lines to set up; each has a test below."""


@pytest.mark.parametrize("code", sorted(CASES))
def test_each_code_is_told_with_who_what_since_and_for_how_long(code: str) -> None:
    case, piece = CASES[code]
    why = explain(case)
    assert why.causes[0].code == code
    assert piece in why.summary
    assert "checkout …f36877" in why.summary
    assert why.summary.endswith(".")


def test_every_code_has_a_case() -> None:
    assert set(CASES) | SECONDARY == set(CODES)


class TestOverdueSteps:
    def test_a_try_noted_as_overdue_is_silent(self) -> None:
        late = step("clean#3", begun_at=NOW - 16 * MINUTE)
        noted = mark("step_abandoned", key="clean#3", reason="timeout", **{"try": 1})
        why = explain(running(steps=(late,), marks=(noted,)))
        assert codes(why)[:2] == ["silent_step", "running"]
        assert "makes no progress: clean#3 has been silent for 16 min, past its time limit of 13 min" in why.summary
        assert why.causes[0].evidence == ["event-1"]

    def test_a_note_about_an_earlier_try_says_nothing_of_this_one(self) -> None:
        noted = mark("step_abandoned", key="clean#3", reason="timeout", **{"try": 1})
        assert codes(explain(running(steps=(step("clean#3", try_number=2),), marks=(noted,)))) == ["running"]

    @pytest.mark.parametrize(("until", "first"), [(NOW, "silent_step"), (NOW + 1, "running")])
    def test_a_stored_limit_counts_from_exactly_then(self, until: int, first: str) -> None:
        assert codes(explain(running(steps=(step(until=until),))))[0] == first

    def test_its_engine_knows_better_than_the_record(self) -> None:
        seen = LiveStep(step_key=StepKey("charge#0"), since=NOW - 9_000, timeout_ms=5_000)
        why = explain(running(steps=(step(),), live=LiveFacts(engine_id=ENGINE, silent=(seen,))))
        assert "charge#0 has been silent for 9 s, past its time limit of 5 s" in why.summary

    def test_a_thread_that_outlived_its_try_is_told_in_any_state(self) -> None:
        thread = LiveStep(step_key=StepKey("clean#3"), since=NOW - 9_000)
        for state in JobState:
            assert "abandoned_thread" in codes(
                explain(facts(job(state), live=LiveFacts(engine_id=ENGINE, abandoned=(thread,))))
            )


class TestTheLine:
    def test_an_engine_whose_lease_is_over_is_not_heard_of(self) -> None:
        quiet = engine(lease_until=NOW - 1, beat_at=NOW - 5 * MINUTE)
        assert "no engine is heard of: engine etl-1 spoke last 5 min ago" in explain(facts(engines=(quiet,))).summary
        assert codes(explain(facts(engines=(engine(lease_until=NOW),)))) == ["in_line"]

    def test_an_engine_that_does_not_consume_its_queue_is_none(self) -> None:
        why = explain(facts(job(queue="gpu"), engines=(engine(queues='["default"]'),)))
        assert codes(why) == ["no_engine"]
        assert "engine etl-1, the only live one, does not take from queue gpu" in why.summary

    def test_one_open_gate_is_enough(self) -> None:
        shut = engine(engine_id=OTHER, name="web-2", gate=GateState.FAILED)
        assert codes(explain(facts(engines=(shut, engine())))) == ["in_line"]

    def test_the_version_matters_only_once_a_job_has_begun(self) -> None:
        engines = (engine(kinds='[["checkout","2"]]'),)
        assert codes(explain(facts(job(version="1"), engines=engines))) == ["in_line"]
        assert codes(explain(facts(job(version="2", begun=True), engines=engines))) == ["in_line"]

    def test_slots_of_each_engine_are_full_when_they_are_in_every_able_one(self) -> None:
        queue = QueueRecord(queue="default", per_engine_slots=2)
        engines = (engine(), engine(engine_id=OTHER, name="web-2"))
        full = LineFacts(queue=queue, load={ENGINE: 2, OTHER: 2})
        assert codes(explain(facts(engines=engines, line=full))) == ["no_free_slot"]
        assert codes(explain(facts(engines=engines, line=replace(full, load={ENGINE: 2, OTHER: 1})))) == ["in_line"]

    def test_a_sleeper_that_is_due_is_told_why_nobody_wakes_it(self) -> None:
        due = msgspec.structs.replace(PUT_AWAY, ready_at=NOW)
        why = explain(facts(due, engines=(), steps=(wait(StepKind.SLEEP, until=NOW),)))
        assert codes(why) == ["sleeping", "no_engine"]

    def test_how_far_recovery_is_comes_from_the_engine_itself(self) -> None:
        live = LiveFacts(engine_id=ENGINE, recovering=(412, 1000))
        why = explain(facts(engines=(engine(gate=GateState.CLOSED, started_at=NOW - 6_000),), live=live))
        assert "still recovering (412 of 1,000 runs, 6 s so far)" in why.summary


class TestWaits:
    def test_what_people_can_end_comes_before_what_ends_by_itself(self) -> None:
        asked = asks()
        asked["steps"] = (*ASLEEP, wait(StepKind.SIGNAL, "go"), *asked["steps"])
        why = explain(facts(PUT_AWAY, **asked))
        assert codes(why) == ["waiting_decision", "waiting_signal", "sleeping"]
        assert why.summary.endswith("it waits for 2 other things too.")

    def test_many_waits_alike_are_told_in_three_and_a_number(self) -> None:
        sleeps = tuple(wait(StepKind.SLEEP, key=f"sleep#{i}", until=NOW + 1) for i in range(200))
        why = explain(facts(PUT_AWAY, steps=sleeps))
        assert codes(why) == ["sleeping"] * 3
        assert why.causes[2].detail.endswith("; and 197 more")

    def test_a_running_job_tells_what_runs_and_what_waits(self) -> None:
        asked = asks()
        asked["steps"] = (step(), *asked["steps"])
        assert codes(explain(running(**asked))) == ["running", "waiting_decision"]

    def test_what_has_come_is_waited_for_no_longer(self) -> None:
        sent = SignalRecord(seq=1, signal_id="s", job_id=JOB, name="go", payload=None, by=None, sent_at=NOW)
        answered = wait(StepKind.ASK, "decision-ask#0", "ask#0")
        why = explain(running(steps=(wait(StepKind.SIGNAL, "go"), answered), unread=(sent,)))
        assert codes(why) == ["running"]
        assert not [a for a in actions(why) if "signal" in a or "answer" in a]

    def test_a_time_limit_that_passed_is_said(self) -> None:
        why = explain(facts(PUT_AWAY, steps=(wait(StepKind.SIGNAL, "go", until=NOW),)))
        assert "its time limit passed at 15:06:40 UTC" in why.summary
        assert why.causes[0].next_check_at == to_datetime(NOW)

    def test_a_child_that_was_not_read_is_named(self) -> None:
        why = explain(facts(PUT_AWAY, steps=(wait(StepKind.CHILD_RESULT, CHILD),)))
        assert "…8b21c4 (relight why …8b21c4)" in why.summary

    def test_a_question_that_expired_cannot_be_answered(self) -> None:
        why = explain(facts(job(JobState.AWAITING_USER), **asks(expires_at=NOW)))
        assert "expired at 15:06:40 UTC" in why.summary
        assert not [a for a in actions(why) if "answer" in a]
        assert "relight answer …f36877 approve" in actions(
            explain(facts(job(JobState.AWAITING_USER), **asks(expires_at=NOW + 1)))
        )


class TestDoubt:
    def test_a_person_is_offered_to_settle_it_with_its_result(self) -> None:
        assert actions(explain(CASES["in_doubt"][0])) == [
            "relight answer …f36877 fail",
            "relight resume …f36877 --done charge#0 --value JSON",
            "relight resume …f36877 --not-done charge#0",
            "relight cancel …f36877",
            "relight fail …f36877",
        ]

    def test_so_it_is_while_its_run_still_waits_in_memory(self) -> None:
        assert actions(explain(running(**DOUBT))) == actions(explain(CASES["in_doubt"][0]))

    def test_a_question_about_a_step_that_is_in_doubt_no_more_is_only_answered(self) -> None:
        settled = DOUBT | {"steps": (step(state=StepState.BACKOFF), DOUBT["steps"][1])}
        assert [a for a in actions(explain(running(**settled))) if "answer" in a or "resume" in a] == [
            "relight answer …f36877 done",
            "relight answer …f36877 not_done",
            "relight answer …f36877 fail",
        ]

    def test_while_a_silent_engine_holds_the_job_nothing_is_settled(self) -> None:
        assert not any("--done" in a for a in actions(explain(facts(HELD, **DOUBT))))

    def test_an_uncertain_failure_says_how_the_try_ended(self) -> None:
        doubtful = step(state=StepState.IN_DOUBT, policy="ask", error='{"type":"httpx.ReadTimeout","message":"30 s"}')
        case = DOUBT | {"steps": (doubtful, DOUBT["steps"][1])}
        why = explain(facts(job(JobState.AWAITING_USER), **case))
        assert "try 1 of charge#0 ended with ReadTimeout: 30 s and nobody knows whether it happened" in why.summary

    def test_its_idempotency_key_is_told_in_full(self) -> None:
        assert f"idempotency key {JOB}:charge#0" in explain(CASES["in_doubt"][0]).causes[0].detail

    @pytest.mark.parametrize(
        ("policy", "then"),
        [
            ("retry", "calls it again"),
            ("ask", "asks a person first"),
            ("fail", "fails it"),
            ("reconcile", "looks first"),
        ],
    )
    def test_a_stalled_job_says_what_the_next_run_does_about_it(self, policy: str, then: str) -> None:
        why = explain(facts(stalled(), steps=(step(state=StepState.IN_DOUBT, policy=policy),), marks=(RECOVERED,)))
        assert codes(why) == ["stalled", "in_doubt"]
        assert then in why.causes[1].detail
        assert any("--done" in a for a in actions(why)) == (policy != "retry")

    def test_once_resumed_a_step_that_is_simply_called_again_is_not_worth_a_word(self) -> None:
        assert codes(explain(facts(steps=(step(state=StepState.IN_DOUBT),)))) == ["in_line"]
        assert codes(explain(facts(steps=(step(state=StepState.IN_DOUBT, policy="ask"),)))) == ["in_line", "in_doubt"]

    def test_a_doubtful_try_waits_for_its_next_one(self) -> None:
        paused = step(
            state=StepState.IN_DOUBT, policy="reconcile", until=NOW + 5_000, error='{"type":"T","message":"x"}'
        )
        why = explain(running(steps=(paused,)))
        assert codes(why) == ["in_doubt"]
        assert "is settled before the next try at 15:06:45 UTC (in 5 s)" in why.summary


@pytest.mark.parametrize(("total", "told"), [(20_000, False), (20_001, True)])
def test_a_job_of_very_many_steps_is_told_to_be_long(total: int, told: bool) -> None:
    [cause] = explain(running(counts=StepCounts(total))).causes
    assert ("steps are recorded" in cause.detail) == told


class TestStalled:
    def test_the_verdict_and_its_proof_are_told(self) -> None:
        why = explain(CASES["stalled"][0])
        assert "engine etl-1 died (lock free, pid 4711, recovery …R00012)" in why.causes[0].detail
        assert why.causes[0].evidence == ["event-1"]
        assert actions(why)[0] == "relight resume …f36877"

    def test_nobody_there_to_resume_it_is_a_cause_of_its_own(self) -> None:
        assert codes(explain(facts(stalled(), engines=()))) == ["stalled", "no_engine"]
        shut = (engine(gate=GateState.CLOSED),)
        assert codes(explain(facts(stalled(), engines=shut))) == ["stalled", "gate_closed"]

    @pytest.mark.parametrize(
        ("stalls", "then"),
        [(1, "resumes it from its last checkpoint"), (2, "on probation"), (3, "policy poisons it")],
    )
    def test_what_policy_will_do_changes_exactly_at_the_limits(self, stalls: int, then: str) -> None:
        assert then in explain(facts(stalled(stalls=stalls, max_stalls=3))).summary

    def test_a_hold_by_policy_waits_for_an_operator(self) -> None:
        why = explain(facts(stalled(status_reason="held:policy", on_stall="hold")))
        assert codes(why) == ["held"]
        assert "relight resume …f36877" in actions(why)
        assert "relight engines fence" not in "".join(actions(why))

    def test_a_silent_engine_s_job_is_not_resumed_but_its_engine_fenced(self) -> None:
        why = explain(CASES["held"][0])
        assert codes(why) == ["held", "owner_silent"]
        assert actions(why) == ["relight engines fence …e00001", "relight cancel …f36877", "relight fail …f36877"]


class TestOnTop:
    def test_probation_and_deadline_come_behind(self) -> None:
        late = job(probation=True, stalls=2, deadline_at=NOW + MINUTE)
        why = explain(facts(late))
        assert codes(why) == ["in_line", "probation", "deadline"]
        assert why.causes[2].next_check_at == to_datetime(NOW + MINUTE)

    def test_a_row_set_aside_comes_first_and_is_released(self) -> None:
        why = explain(CASES["quarantined"][0])
        assert codes(why) == ["quarantined", "in_line"]
        assert actions(why)[0] == "relight release …f36877"

    def test_a_released_row_is_not_set_aside(self) -> None:
        freed = msgspec.structs.replace(QUARANTINE, released_at=NOW)
        assert codes(explain(facts(quarantine=freed))) == ["in_line"]

    def test_a_deaf_job_is_ended_by_force(self) -> None:
        why = explain(CASES["cancelling"][0])
        assert actions(why) == ["relight cancel …f36877 --force"]
        failing = msgspec.structs.replace(CASES["cancelling"][0].job, cancel_code="fail")
        assert actions(explain(facts(failing))) == ["relight fail …f36877 --force"]


def test_causes_carry_aware_times_and_plain_lists() -> None:
    [cause] = explain(facts()).causes
    assert cause == Cause(
        code="in_line",
        since=to_datetime(NOW - 4 * MINUTE),
        detail="next in line in queue default for engine etl-1",
        evidence=[],
        next_check_at=None,
        actions=["relight cancel …f36877", "relight fail …f36877"],
    )
