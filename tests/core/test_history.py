"""A job's record while its code is driven through it again: what is ahead, what was left over, what is asked anew."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relight.core.history import History, differing_arguments
from relight.core.keys import Branch
from relight.errors import InvalidArgument, RegistrationError
from relight.ids import JobId, RunId, StepKey
from relight.model import StepKind, StepRecord, StepState


def record(key: str, state: StepState = StepState.COMPLETED, kind: StepKind = StepKind.STEP, **more: Any) -> StepRecord:
    name = key.rpartition("/")[2].partition("#")[0].partition("[")[0]
    return StepRecord(
        job_id=JobId("j"), step_key=StepKey(key), run_id=RunId("r"), kind=kind, name=name, state=state, **more
    )


def history(*records: StepRecord) -> History:
    return History(records)


def call(past: History, *keys: str) -> None:
    for key in keys:
        past.call(StepKey(key))


# ---------------------------------------------------------------- ahead


def test_finished_steps_that_nobody_called_yet_are_ahead_in_order() -> None:
    past = history(record("a#0"), record("c#0"), record("b#0", StepState.FAILED))
    assert past.ahead_of(StepKey("new#0")) == ["a#0", "b#0", "c#0"]
    call(past, "a#0")
    assert past.ahead_of(StepKey("new#0")) == ["b#0", "c#0"]
    call(past, "b#0", "c#0")
    assert past.ahead_of(StepKey("new#0")) == []


def test_the_steps_of_the_same_line_are_ahead_and_of_the_branches_that_it_has_yet_to_open() -> None:
    line = Branch()
    past = History([record("a#0"), record("b0/a#0"), record("b0/b1/a#0"), record("b0/item:00/a#0")], line.opened)
    assert past.ahead_of(StepKey("new#0")) == ["a#0", "b0/a#0"]
    inner = line.child()
    assert past.ahead_of(StepKey("new#0")) == ["a#0"]
    assert past.ahead_of(StepKey("b0/new#0")) == ["b0/a#0", "b0/b1/a#0", "b0/item:00/a#0"]
    inner.child()
    inner.named("00")
    assert past.ahead_of(StepKey("b0/new#0")) == ["b0/a#0", "b0/b1/a#0"]
    inner.child()
    assert past.ahead_of(StepKey("b0/new#0")) == ["b0/a#0"]
    assert past.ahead_of(StepKey("b7/new#0")) == []


def test_a_line_was_passed_when_anything_at_all_is_recorded_further_on() -> None:
    line = Branch()
    waiting = record("sleep#0", StepState.WAITING, StepKind.SLEEP)
    past = History([record("now#0", kind=StepKind.VALUE), waiting, record("b0/a#0", StepState.RUNNING)], line.opened)
    assert past.passed("")
    call(past, "now#0", "sleep#0")
    assert past.passed("")
    line.child()
    assert not past.passed("") and past.passed("b0/")


def test_nothing_of_a_line_that_lost_a_race_is_ahead_or_left_over() -> None:
    race = record("race#0", kind=StepKind.VALUE, outcome='{"winner":1,"lost":["b0/"]}')
    past = history(race, record("b0/a#0"), record("b0/b3/a#0", StepState.IN_DOUBT), record("b1/a#0"))
    assert [past.has_lost(line) for line in ("", "b0/", "b0/b3/", "b1/", "b01/")] == [False, True, True, False, False]
    assert past.left_over() == (["b1/a#0"], [])
    assert past.has_begun("b0/b3/") and not past.has_begun("b2/")


@pytest.mark.parametrize(
    "state", [StepState.RUNNING, StepState.WAITING, StepState.BACKOFF, StepState.IN_DOUBT, StepState.ABANDONED]
)
def test_what_has_no_outcome_is_not_ahead(state: StepState) -> None:
    assert history(record("a#0", state)).ahead_of(StepKey("new#0")) == []


def test_recorded_values_explicit_keys_and_questions_about_doubts_are_not_ahead() -> None:
    past = history(record("now#0", kind=StepKind.VALUE), record("fetch[d-1]"), record("send#0?0", kind=StepKind.ASK))
    assert past.ahead_of(StepKey("new#0")) == []


def test_a_step_with_an_explicit_key_may_stand_anywhere() -> None:
    assert history(record("a#0")).ahead_of(StepKey("fetch[d-1]")) == []


@pytest.mark.parametrize("kind", [StepKind.SLEEP, StepKind.SIGNAL, StepKind.ASK, StepKind.CHILD, StepKind.CHILD_RESULT])
def test_waits_that_are_over_are_ahead_too(kind: StepKind) -> None:
    assert history(record("a#0", kind=kind)).ahead_of(StepKey("new#0")) == ["a#0"]


def test_a_call_gives_the_record_and_peeking_does_not_count_as_a_call() -> None:
    past = history(record("a#0"))
    assert past.peek(StepKey("a#0")) == record("a#0")
    assert past.ahead_of(StepKey("new#0")) == ["a#0"]
    assert past.call(StepKey("a#0")) == record("a#0")
    assert past.call(StepKey("b#0")) is None
    assert len(past) == 1


def test_a_key_that_is_called_twice_is_refused_recorded_or_not() -> None:
    past = history(record("fetch[a]"))
    call(past, "fetch[a]", "fetch[b]")
    for key in ("fetch[a]", "fetch[b]"):
        with pytest.raises(InvalidArgument, match="called before"):
            call(past, key)


# ---------------------------------------------------------------- replaying


def test_a_fresh_job_is_not_replaying() -> None:
    assert history().replaying() is False


@pytest.mark.parametrize("state", list(StepState))
@pytest.mark.parametrize("key", ["a#0", "fetch[d-1]"])
def test_code_is_replaying_until_it_comes_to_where_it_stopped(state: StepState, key: str) -> None:
    past = history(record(key, state))
    assert past.replaying() is True
    call(past, key)
    assert past.replaying() is False


def test_a_branch_replays_for_itself_and_with_the_branches_it_made() -> None:
    past = history(record("a#0"), record("b0/a#0"), record("b0/b1/a#0"), record("b1/a#0"))
    call(past, "a#0", "b0/a#0")
    assert [past.replaying(path) for path in ("", "b0/", "b0/b1/", "b1/", "b2/")] == [True, True, True, True, False]
    call(past, "b0/b1/a#0")
    assert [past.replaying(path) for path in ("", "b0/", "b1/")] == [True, False, True]


def test_a_branch_that_begins_something_is_not_replaying_any_more_and_neither_is_its_maker() -> None:
    past = history(record("removed#0"), record("b0/a#0"), record("b1/removed#0"))
    past.enter("b0/")
    assert [past.replaying(path) for path in ("", "b0/", "b1/")] == [False, False, True]


# ---------------------------------------------------------------- left over


def test_what_was_never_called_is_removed_and_what_is_in_doubt_is_left_over() -> None:
    past = history(
        record("a#0"),
        record("b#0"),
        record("b0/c#0"),
        record("d#0", StepState.IN_DOUBT),
        record("e#0", StepState.RUNNING),
    )
    call(past, "a#0")
    assert past.left_over() == (["b#0", "b0/c#0"], ["d#0"])


def test_a_doubt_that_was_met_is_not_left_over() -> None:
    past = history(record("d#0", StepState.IN_DOUBT), record("e#0"))
    past.settle(StepKey("d#0"))
    past.settle(StepKey("e#0"))
    past.settle(StepKey("never#0"))
    assert past.left_over()[1] == []
    kept = past.peek(StepKey("e#0"))
    assert kept is not None and kept.state is StepState.COMPLETED


# ---------------------------------------------------------------- questions about doubts


def question(key: str, state: StepState, decision: str) -> StepRecord:
    return record(key, state, StepKind.ASK, waits_for=decision)


def test_the_first_doubt_is_a_new_question() -> None:
    assert history(record("s#0", StepState.IN_DOUBT)).doubt_question(StepKey("s#0")) == ("s#0?0", None)


def test_an_open_question_is_found_again() -> None:
    past = history(record("s#0", StepState.IN_DOUBT), question("s#0?0", StepState.WAITING, "d1"))
    assert past.doubt_question(StepKey("s#0")) == ("s#0?0", "d1")


def test_an_answered_question_stood_for_its_own_try() -> None:
    past = history(
        record("s#0", StepState.IN_DOUBT),
        question("s#0?0", StepState.COMPLETED, "d1"),
        question("s#0?1", StepState.WAITING, "d2"),
    )
    assert past.doubt_question(StepKey("s#0")) == ("s#0?1", "d2")
    assert past.doubt_question(StepKey("s#0")) == ("s#0?2", None)


def test_each_doubt_of_one_run_is_a_question_of_its_own() -> None:
    past = history()
    assert [past.doubt_question(StepKey("s#0"))[0] for _ in range(3)] == ["s#0?0", "s#0?1", "s#0?2"]


# ---------------------------------------------------------------- functions and arguments


def test_one_function_may_be_called_by_its_name_again_and_again() -> None:
    past = history()
    for _ in range(3):
        past.check_function("fetch", test_one_function_may_be_called_by_its_name_again_and_again, "a.py:1")


def test_two_functions_under_one_name_are_refused_naming_both() -> None:
    past = history()
    past.check_function("fetch", object(), "invoices.py:4")
    with pytest.raises(RegistrationError, match=r'"fetch" \(invoices.py:4, customers.py:9\)'):
        past.check_function("fetch", object(), "customers.py:9")


@pytest.mark.parametrize(
    "then, now, differing",
    [
        ({}, {}, []),
        ({"a": "1"}, {"a": "1"}, []),
        ({"a": "1"}, {"a": "2"}, ["a"]),
        ({"a": "1"}, {}, ["a"]),
        ({}, {"b": "1"}, ["b"]),
        ({"b": "1", "a": "1", "c": "1"}, {"a": "2", "b": "2", "c": "1"}, ["a", "b"]),
    ],
)
def test_arguments_that_differ_are_named_in_order(
    then: dict[str, str], now: dict[str, str], differing: list[str]
) -> None:
    assert differing_arguments(msgspec.json.encode(then).decode(), now) == differing


def test_nothing_recorded_is_no_arguments() -> None:
    assert differing_arguments(None, {}) == []


def test_what_had_ended_before_a_called_record_began_was_removed_and_is_not_ahead() -> None:
    past = history(
        record("a#0", begun_at=1, ended_at=2),
        record("gone#0", begun_at=2, ended_at=3),
        record("wait#0", kind=StepKind.SIGNAL, begun_at=3, ended_at=9),
        record("late#0", begun_at=9, ended_at=10),
    )
    call(past, "a#0")
    assert past.ahead_of(StepKey("new#0")) == ["gone#0", "late#0", "wait#0"]
    call(past, "wait#0")
    assert past.ahead_of(StepKey("new#0")) == ["late#0"]
    call(past, "late#0")
    assert past.ahead_of(StepKey("new#0")) == []
    assert past.left_over()[0] == ["gone#0"]


def test_two_ends_in_one_millisecond_leave_a_step_ahead_and_an_open_wait_ends_last() -> None:
    past = history(
        record("a#0", begun_at=5, ended_at=5),
        record("b#0", begun_at=5, ended_at=5),
        record("wait#0", StepState.WAITING, kind=StepKind.SIGNAL, begun_at=5),
    )
    call(past, "a#0")
    assert past.ahead_of(StepKey("new#0")) == ["b#0"]
    call(past, "wait#0")
    assert past.ahead_of(StepKey("new#0")) == []
    assert past.left_over()[0] == ["b#0"]


def test_what_overlapped_a_called_step_is_still_ahead() -> None:
    """Async code calls two steps and awaits them later: the first may end last, and a step put between them is inserted."""
    past = history(record("slow#0", begun_at=1, ended_at=100), record("quick#0", begun_at=2, ended_at=5))
    call(past, "slow#0")
    assert past.ahead_of(StepKey("new#0")) == ["quick#0"]


def test_a_wait_that_was_over_at_once_leaves_what_follows_it_ahead() -> None:
    past = history(
        record("wait#0", kind=StepKind.SIGNAL, begun_at=5, ended_at=5), record("charge#0", begun_at=5, ended_at=5)
    )
    call(past, "wait#0")
    assert past.ahead_of(StepKey("new#0")) == ["charge#0"]
