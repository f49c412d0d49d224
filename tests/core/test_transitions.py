"""The transition table by itself: what it says of every pair of states, and that the rest of core says the same.

That a store keeps to it, cell by cell, is tested in ``relight.conformance.transitions``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from relight.core import events as ev
from relight.core.changes import Who
from relight.core.commands import JobRef
from relight.core.commands import jobs as cj
from relight.core.commands import steering as cs
from relight.core.transitions import (
    NEVER_LEFT,
    RUN_ENDS,
    TRANSITIONS,
    By,
    is_legal,
    sources_of,
    targets_of,
)
from relight.errors import IllegalTransition
from relight.ids import EngineId, JobId, RandomIds, RunId
from relight.model import FINAL_STATES, PUBLISHING_STATES, Actor, JobRecord, JobState, RunState

_S = JobState
PAIRS = list(itertools.product((None, *JobState), JobState))
CELLS = [(source, target, by) for source, target in PAIRS for by in By]
ANN = Who(Actor.HUMAN, "ann")
ENGINE = Who(Actor.SYSTEM, "engine")

# The table of the design, §3, written down a second time.
DESIGN: dict[tuple[JobState | None, JobState], set[By]] = {
    (None, _S.QUEUED): {By.SUBMIT},
    (_S.QUEUED, _S.RUNNING): {By.CLAIM},
    (_S.QUEUED, _S.CANCELLED): {By.OPERATOR},
    (_S.QUEUED, _S.FAILED): {By.OPERATOR, By.DEADLINE, By.CLAIM},
    (_S.RUNNING, _S.COMPLETED): {By.RUN},
    (_S.RUNNING, _S.COMPLETED_WITH_ISSUES): {By.RUN},
    (_S.RUNNING, _S.FAILED): {By.RUN, By.OPERATOR},
    (_S.RUNNING, _S.CANCELLED): {By.RUN, By.OPERATOR},
    (_S.RUNNING, _S.POISONED): {By.RUN},
    (_S.RUNNING, _S.AWAITING_USER): {By.RUN},
    (_S.RUNNING, _S.AWAITING_VALIDATION): {By.RUN},
    (_S.RUNNING, _S.QUEUED): {By.RUN},
    (_S.RUNNING, _S.STALLED): {By.RECOVERY},
    (_S.AWAITING_VALIDATION, _S.AWAITING_USER): {By.VALIDATOR},
    (_S.AWAITING_VALIDATION, _S.QUEUED): {By.VALIDATOR},
    (_S.AWAITING_VALIDATION, _S.COMPLETED): {By.VALIDATOR},
    (_S.AWAITING_VALIDATION, _S.COMPLETED_WITH_ISSUES): {By.VALIDATOR},
    (_S.AWAITING_VALIDATION, _S.FAILED): {By.VALIDATOR},
    (_S.AWAITING_VALIDATION, _S.CANCELLED): {By.VALIDATOR},
    (_S.AWAITING_VALIDATION, _S.POISONED): {By.VALIDATOR},
    (_S.AWAITING_USER, _S.QUEUED): {By.DECISION, By.OPERATOR, By.DEADLINE},
    (_S.AWAITING_USER, _S.FAILED): {By.OPERATOR, By.DEADLINE},
    (_S.AWAITING_USER, _S.CANCELLED): {By.OPERATOR},
    (_S.AWAITING_USER, _S.POISONED): {By.OPERATOR},
    (_S.STALLED, _S.QUEUED): {By.POLICY, By.OPERATOR},
    (_S.STALLED, _S.FAILED): {By.OPERATOR, By.DEADLINE},
    (_S.STALLED, _S.CANCELLED): {By.OPERATOR},
    (_S.STALLED, _S.POISONED): {By.CRASH_LOOP, By.OPERATOR},
    (_S.FAILED, _S.QUEUED): {By.OPERATOR},
    (_S.POISONED, _S.QUEUED): {By.OPERATOR},
}


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_each_cell_is_the_design_s(source: JobState | None, target: JobState) -> None:
    allowed = DESIGN.get((source, target), set())
    assert {by for by in By if is_legal(source, target, by)} == allowed
    assert is_legal(source, target) == bool(allowed)


def test_no_pair_stands_twice() -> None:
    pairs = [(t.source, t.target) for t in TRANSITIONS]
    assert len(pairs) == len(set(pairs)) == len(DESIGN)


def test_only_recovery_stalls_and_only_what_runs() -> None:
    assert {(t.source, t.by) for t in TRANSITIONS if t.target is _S.STALLED} == {(_S.RUNNING, frozenset({By.RECOVERY}))}
    assert {t.target for t in TRANSITIONS if By.RECOVERY in t.by} == {_S.STALLED}


def test_only_a_claim_runs_and_only_what_is_queued() -> None:
    assert {(t.source, t.by) for t in TRANSITIONS if t.target is _S.RUNNING} == {(_S.QUEUED, frozenset({By.CLAIM}))}


def test_what_ended_well_or_was_cancelled_is_never_left() -> None:
    assert {_S.COMPLETED, _S.COMPLETED_WITH_ISSUES, _S.CANCELLED} == NEVER_LEFT
    for state in FINAL_STATES - NEVER_LEFT:
        assert targets_of(state) == {_S.QUEUED}
        assert all(t.by == {By.OPERATOR} for t in TRANSITIONS if t.source is state)


def test_no_state_follows_itself_and_every_state_can_be_reached() -> None:
    assert not any(t.source is t.target for t in TRANSITIONS)
    reached: set[JobState | None] = {None}
    while more := {t.target for t in TRANSITIONS if t.source in reached} - reached:
        reached |= more
    assert reached == {None, *JobState}


def test_every_state_but_those_never_left_leads_to_an_end() -> None:
    ending = set(NEVER_LEFT)
    while more := {t.source for t in TRANSITIONS if t.target in ending and t.source is not None} - ending:
        ending |= more
    assert ending == set(JobState)


def test_only_a_run_or_its_validators_publish() -> None:
    publishing = [t for t in TRANSITIONS if t.target in PUBLISHING_STATES]
    assert {by for t in publishing for by in t.by} == {By.RUN, By.VALIDATOR}
    assert {t.source for t in publishing} == {_S.RUNNING, _S.AWAITING_VALIDATION}


@pytest.mark.parametrize(("target", "by"), list(itertools.product(JobState, By)))
def test_the_sources_of_a_move_are_those_of_the_table(target: JobState, by: By) -> None:
    expected = {source for source in JobState if is_legal(source, target, by)}
    assert sources_of(target, by) == expected


def test_a_run_s_end_and_its_job_s_state_go_together() -> None:
    assert set(RUN_ENDS) == set(RunState) - {RunState.RUNNING}
    left = {t.target for t in TRANSITIONS if t.source is _S.RUNNING}
    assert {state for states in RUN_ENDS.values() for state in states} == left
    everywhere = [state for states in RUN_ENDS.values() for state in states]
    assert len(everywhere) == len(set(everywhere)), "a job's state tells how its run ended"


# what else is made from it


@pytest.mark.parametrize("kind", sorted(ev.STATE_EVENTS))
@pytest.mark.parametrize("state", [None, *JobState])
def test_an_event_moves_a_job_only_where_the_table_has_the_move(kind: str, state: JobState | None) -> None:
    effect = ev.STATE_EVENTS[kind]
    payload = None
    if kind == "job_resumed" and state is not None:
        payload = ev.JobResumed(policy="operator", from_state=state)
    try:
        after = ev.fold(state, kind, payload)
    except ev.FoldError:
        refused_by_table = not any(is_legal(state, effect.target, by) for by in effect.by)
        assert refused_by_table or (effect.only is not None and state not in effect.only)
    else:
        assert after is state or is_legal(state, after or effect.target)
        assert after in (state, effect.target)


def test_every_move_of_the_table_has_an_event_that_tells_of_it() -> None:
    told = {
        (source, effect.target)
        for effect in ev.STATE_EVENTS.values()
        for source in (None, *JobState)
        if any(is_legal(source, effect.target, by) for by in effect.by) and source not in effect.keeps
    }
    # Validators come later, and with them what tells of a job that waits for them.
    later = {(_S.RUNNING, _S.AWAITING_VALIDATION), (_S.AWAITING_VALIDATION, _S.QUEUED)}
    assert set(DESIGN) - told == later


def _job(state: JobState, *, begun: bool = True, reason: str = "x", held_by: EngineId | None = None) -> JobRecord:
    return JobRecord(
        job_id=JobId("0198-job"),
        kind="census",
        state=state,
        status_reason=reason,
        begun=begun,
        run_id=RunId("run"),
        trace_id="trace",
        held_by=held_by,
    )


REF = JobRef(JobId("0198-job"), "trace", "census", RunId("run"))


def _moves(source: JobState) -> Iterator[tuple[JobState, tuple[By, ...], cs.Command]]:
    """Yield every steering command that expects a state: its target, who it is for, and the command."""
    yield _S.QUEUED, (By.POLICY,), cs.ResumeJob(job=REF, source=source, who=ENGINE)
    yield _S.QUEUED, (By.OPERATOR,), cs.ResumeJob(job=REF, source=source, who=ANN, policy="operator")
    yield _S.QUEUED, (By.OPERATOR,), cs.RetryJob(job=REF, source=source, who=ANN)
    yield _S.POISONED, (By.CRASH_LOOP,), cs.PoisonJob(job=REF, source=source, who=ENGINE, stalls=1, evidence=())
    yield _S.POISONED, (By.OPERATOR,), cs.PoisonJob(job=REF, source=source, who=ANN, stalls=1, evidence=())
    for target in (_S.FAILED, _S.CANCELLED):
        ends = (By.OPERATOR, By.DEADLINE, By.CLAIM)
        yield target, ends, cs.EndNow(job=REF, source=source, who=ANN, target=target, reason="x")


@pytest.mark.parametrize("source", list(JobState))
def test_a_command_that_expects_a_state_without_such_a_move_is_refused_before_any_store(source: JobState) -> None:
    for target, by, command in _moves(source):
        legal = any(is_legal(source, target, each) for each in by)
        if isinstance(command, cs.RetryJob):
            legal = source in (_S.FAILED, _S.POISONED)
        elif isinstance(command, cs.ResumeJob):
            legal = legal and source not in FINAL_STATES
        if legal:
            assert command.changes(1, RandomIds()).rows
        else:
            with pytest.raises(IllegalTransition):
                command.changes(1, RandomIds())


@pytest.mark.parametrize("state", list(JobState))
def test_a_run_is_put_away_only_into_a_state_to_wait_in(state: JobState) -> None:
    command = cj.PutJobAway(job=REF, engine_id=EngineId("e"), state=state, reason="x", ready_at=None)
    if state in RUN_ENDS[RunState.SUSPENDED]:
        assert command.changes(1, RandomIds()).rows
    else:
        with pytest.raises(IllegalTransition):
            command.changes(1, RandomIds())


# what people may do


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("code", ["cancel", "fail", "deadline"])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_an_end_is_a_request_or_a_move_or_refused(state: JobState, code: str, begun: bool, force: bool) -> None:
    target = _S.CANCELLED if code == "cancel" else _S.FAILED
    by = By.DEADLINE if code == "deadline" else By.OPERATOR
    job = _job(state, begun=begun)
    asks = begun and not force and state not in FINAL_STATES
    if not asks and not is_legal(state, target, by):
        with pytest.raises(IllegalTransition):
            cs.decide_end(job, ANN, code=code, reason=None, force=force, open_decisions=())
        return
    command = cs.decide_end(job, ANN, code=code, reason=None, force=force, open_decisions=())
    assert isinstance(command, cs.RequestEnd if asks else cs.EndNow)
    if isinstance(command, cs.EndNow):
        assert (command.source, command.target, command.begun) == (state, target, begun)


@pytest.mark.parametrize("state", list(JobState))
def test_a_resume_is_for_what_stalled_or_did_not_match(state: JobState) -> None:
    for reason in ("stalled:dead", "awaiting_user", "history_mismatch:args"):
        may = state is _S.STALLED or (state is _S.AWAITING_USER and reason.startswith("history_mismatch"))
        try:
            command = cs.decide_resume(_job(state, reason=reason), ANN)
        except IllegalTransition:
            assert not may
        else:
            assert may
            assert (command.source, command.source_reason) == (state, reason)


def test_a_held_job_is_not_resumed() -> None:
    with pytest.raises(IllegalTransition, match="held"):
        cs.decide_resume(_job(_S.STALLED, held_by=EngineId("e")), ANN)


@pytest.mark.parametrize("state", list(JobState))
def test_a_retry_is_for_what_failed_or_was_poisoned(state: JobState) -> None:
    if state in (_S.FAILED, _S.POISONED):
        assert cs.decide_retry(_job(state), ANN, ()).source is state
    else:
        with pytest.raises(IllegalTransition, match="retried"):
            cs.decide_retry(_job(state), ANN, ())
