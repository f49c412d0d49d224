"""What ``why`` says is short, harmless, and right about time; and so is the one sentence of a row in a list."""

from __future__ import annotations

import json
from datetime import timedelta, timezone

import msgspec
import pytest
from tests.core.why_rows import HELD, NOW, PUT_AWAY, actions, asks, engine, facts, job, question, stalled, wait

from relight.core.why import explain, summary_of
from relight.core.why_facts import Mark
from relight.core.why_words import Words, lasting, listed, ordinal, plain
from relight.model import (
    FINAL_STATES,
    JobRecord,
    JobState,
    StepKind,
)


class TestSayingIt:
    def test_tags_are_part_of_the_subject(self) -> None:
        assert explain(facts(job(tags='{"order":"o-17"}'))).summary.startswith(
            "checkout …f36877 (order=o-17) is queued"
        )

    def test_foreign_text_cannot_leave_its_line_or_command_a_terminal(self) -> None:
        rude = "a\n\x1b[2J\u202ereversed\x00" + "x" * 5_000
        why = explain(facts(job(JobState.AWAITING_USER, tags=json.dumps({"k": rude})), **asks(question=rude)))
        told = why.summary + "".join(c.detail for c in why.causes)
        assert told.isprintable()
        assert len(why.summary) < 500

    @pytest.mark.parametrize("damaged", ["", "{", "[]", "7", '"x"', "[[[[", '{"a":{"b":[]}}'])
    def test_damaged_texts_still_give_a_cause(self, damaged: str) -> None:
        for state in JobState:
            broken = job(state, tags=damaged, error=damaged, issues=damaged, progress=damaged)
            recovered = Mark("e", "workflow_recovery", NOW, None, "x", damaged)
            why = explain(facts(broken, engines=(engine(kinds=damaged),), marks=(recovered,), **asks(options=damaged)))
            assert why.causes and why.summary

    def test_choices_that_a_shell_would_read_are_quoted(self) -> None:
        why = explain(facts(job(JobState.AWAITING_USER), **asks(options='["yes, all of it", "no"]')))
        assert actions(why)[:2] == ["relight answer …f36877 'yes, all of it'", "relight answer …f36877 no"]

    def test_several_questions_are_told_apart(self) -> None:
        two = {
            "steps": tuple(wait(StepKind.ASK, f"decision-ask#{i}", f"ask#{i}") for i in range(2)),
            "decisions": tuple(question(f"ask#{i}") for i in range(2)),
        }
        assert "relight answer …f36877 reject --decision decision-ask#1" in actions(explain(facts(PUT_AWAY, **two)))

    def test_times_are_told_in_the_zone_asked_for(self) -> None:
        assert "since 17:02:40 (4 min)" in explain(facts(), tz=timezone(timedelta(hours=2))).summary

    @pytest.mark.parametrize(
        ("ms", "said"),
        [
            *(
                (-5, "0 ms"),
                (999, "999 ms"),
                (1_000, "1 s"),
                (59_999, "59 s"),
                (60_000, "1 min"),
                (3_599_999, "59 min"),
            ),
            *((3_600_000, "1 h"), (12_000_000, "3 h 20 min"), (36_000_000, "10 h"), (172_800_000, "2 days")),
        ],
    )
    def test_durations_change_their_unit_at_exactly_the_unit(self, ms: int, said: str) -> None:
        assert lasting(ms) == said

    def test_moments_are_as_short_as_they_can_be(self) -> None:
        words = Words(NOW)
        day = 86_400_000
        assert [words.moment(NOW + d * day) for d in (-2, -1, 0, 1, 2)] == [
            "2025-06-13 15:06 UTC",
            "yesterday 15:06 UTC",
            "15:06:40 UTC",
            "tomorrow 15:06 UTC",
            "2025-06-17 15:06 UTC",
        ]

    def test_small_words(self) -> None:
        assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
            *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th")
        ]
        assert listed(["a", "b", "c"]) == "a, b, c"
        assert listed(["a", "b", "c", "d"]) == "a, b, c and 1 more"
        assert plain("x" * 20, 10) == "xxxxxxxxx…"


class TestSummaryOfARow:
    def test_it_claims_nothing_that_the_row_does_not_say(self) -> None:
        assert summary_of(job()) == "checkout …f36877 is queued since 2025-06-15 15:02 UTC."

    @pytest.mark.parametrize("state", sorted(FINAL_STATES))
    def test_of_a_job_that_ended_it_is_the_sentence_of_why(self, state: JobState) -> None:
        ended = job(state, begun=True)
        assert summary_of(ended) == explain(facts(ended)).summary.replace(" 15:02:40 UTC", " 2025-06-15 15:02 UTC")

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            (PUT_AWAY, "waits since 2025-06-15 15:02 UTC"),
            (msgspec.structs.replace(PUT_AWAY, ready_at=NOW), "waits until 2025-06-15 15:06 UTC"),
            (job(claimable=False, ready_at=NOW), "is not due until 2025-06-15 15:06 UTC"),
            (job(JobState.RUNNING, attempt=2, progress='{"done":1,"total":2}'), "attempt 2: 1 of 2"),
            (HELD, "is held since 2025-06-15 15:02 UTC (silent)"),
            (stalled(), "is stalled since 2025-06-15 15:02 UTC (dead)"),
            (
                job(JobState.AWAITING_USER, status_reason="history_mismatch:arguments"),
                "is stopped: its code no longer agrees",
            ),
            (job(JobState.AWAITING_USER, status_reason="awaiting_user"), "waits for a person since"),
            (job(JobState.RUNNING, cancel_code="cancel"), "is being cancelled since"),
            (job(JobState.RUNNING, cancel_code="deadline"), "is past its deadline since"),
        ],
    )
    def test_states(self, row: JobRecord, said: str) -> None:
        assert said in summary_of(row)
