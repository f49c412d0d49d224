"""``why`` has a cause for every job in every situation, and offers exactly what is allowed."""

from __future__ import annotations

import shlex

import click
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.why_rows import (
    ANN,
    CHILD,
    ENGINE,
    NOW,
    OTHER,
    QUARANTINE,
    RUN,
    actions,
    asks,
    codes,
    engine,
    facts,
    job,
    mark,
    question,
    step,
    token,
)

from relight.cli.main import cli
from relight.core.commands import steering
from relight.core.commands.steering import EndNow, RequestEnd
from relight.core.transitions import NEVER_LEFT, By, is_legal
from relight.core.why import explain, summary_of
from relight.core.why_acts import Act, allowed_acts, commands
from relight.core.why_codes import CODES
from relight.core.why_facts import Facts, LineFacts, LiveFacts, LiveStep
from relight.errors import IllegalTransition
from relight.ids import StepKey
from relight.model import (
    EngineState,
    GateState,
    JobRecord,
    JobState,
    QueueRecord,
    StepKind,
    StepState,
)

# The acts.


def accepted(act: Act, row: JobRecord) -> bool:
    """Tell whether the operator's commands themselves accept an act on a row."""
    try:
        match act:
            case Act.RESUME:
                steering.decide_resume(row, ANN)
            case Act.RETRY:
                steering.decide_retry(row, ANN, [])
            case _:
                code = "fail" if act is Act.FAIL else "cancel"
                decided = steering.decide_end(
                    row, ANN, code=code, reason=None, force=act is Act.FORCE, open_decisions=()
                )
                if isinstance(decided, RequestEnd):  # what the statement asks for besides
                    return row.cancel_code is None and row.state is not JobState.AWAITING_VALIDATION
                assert isinstance(decided, EndNow)
                return is_legal(row.state, decided.target, By.OPERATOR)
    except IllegalTransition:
        return False
    return True


REASONS = [
    *("submitted", "claimed", "resumed", "stalled:dead", "stalled:silent", "held:policy", "waiting", "shutdown"),
    *(
        "awaiting_user",
        "history_mismatch:arguments",
        "history_mismatch:step_inserted",
        "history_mismatch:never_reached",
        "history_mismatch:abandoned",
        "history_mismatch:other_kind",
    ),
    *("failed:ValueError", "forced:cancel", "crash_loop", "deadline_exceeded", "something:new", ""),
]

records = st.builds(
    job,
    st.sampled_from(JobState),
    status_reason=st.sampled_from(REASONS),
    claimable=st.booleans(),
    begun=st.booleans(),
    attempt=st.integers(0, 5),
    run_id=st.sampled_from([RUN, None]),
    on_stall=st.sampled_from(["resume", "hold"]),
    stalls=st.integers(0, 4),
    probation=st.booleans(),
    held_by=st.sampled_from([None, None, ENGINE]),
    cancel_code=st.sampled_from([None, None, "cancel", "fail", "deadline"]),
    ready_at=st.sampled_from([None, 0, NOW - 1, NOW, NOW + 1, 2**62]),
    deadline_at=st.sampled_from([None, None, NOW - 1, NOW + 1]),
    version=st.sampled_from([None, "1"]),
    queue=st.sampled_from(["default", "gpu"]),
)


def reachable(row: JobRecord) -> bool:
    """Rule out what no statement can make: what never began and yet runs, is stalled or waits; a hold of what is not stalled."""
    began = row.begun or row.state in (JobState.QUEUED, JobState.CANCELLED, JobState.FAILED, JobState.POISONED)
    return began and (row.held_by is None or row.state is JobState.STALLED) and (row.begun or row.cancel_code is None)


class TestAllowedActs:
    @given(records.filter(reachable), st.sampled_from([Act.RESUME, Act.RETRY, Act.CANCEL, Act.FAIL]))
    def test_they_are_what_the_operator_s_commands_accept(self, row: JobRecord, act: Act) -> None:
        assert (act in allowed_acts(row, facts(row))) == accepted(act, row)

    @given(records.filter(reachable))
    def test_force_is_offered_where_it_is_accepted_and_an_ordinary_end_does_not_come(self, row: JobRecord) -> None:
        asked = row.begun and row.cancel_code is not None
        assert (Act.FORCE in allowed_acts(row, facts(row))) == (asked and accepted(Act.FORCE, row))

    @pytest.mark.parametrize("state", sorted(NEVER_LEFT))
    def test_nothing_is_offered_where_nothing_is_left_to_do(self, state: JobState) -> None:
        case = facts(job(state), quarantine=QUARANTINE, **asks())
        assert allowed_acts(case.job, case) == frozenset()
        assert actions(explain(case)) == []

    def test_a_failed_job_that_is_set_aside_can_be_released_before_its_retry(self) -> None:
        case = facts(job(JobState.FAILED), quarantine=QUARANTINE)
        assert allowed_acts(case.job, case) == {Act.RETRY, Act.RELEASE}
        assert codes(explain(case)) == ["quarantined", "failed"]


steps = st.builds(
    step,
    st.sampled_from(
        ["charge#0", "b2/think#14", "extract[d-17]", "ask#0", "charge#0?0", "signal:a|b#0", "signal:a|b#0!1"]
    ),
    st.sampled_from(StepState),
    kind=st.sampled_from(StepKind),
    policy=st.sampled_from(["retry", "ask", "fail", "reconcile"]),
    try_number=st.integers(0, 4),
    until=st.sampled_from([None, 0, NOW - 1, NOW, NOW + 1, 2**62]),
    waits_for=st.sampled_from([None, "go", "decision-ask#0", "decision-charge#0?0", CHILD, "ext_1"]),
    error=st.sampled_from([None, "", '{"type":"T","message":"m"}', "{"]),
    begun_at=st.integers(0, 2**50),
)
questions = st.builds(
    question,
    st.sampled_from(["ask#0", "charge#0?0"]),
    expires_at=st.sampled_from([None, NOW, NOW + 1]),
    options=st.sampled_from(['["approve","reject"]', '["done","not_done","fail"]', "[]", "{"]),
)
tokens = st.builds(
    token,
    token=st.sampled_from(["ext_1", "ext_2"]),
    expires_at=st.sampled_from([None, NOW, NOW + 1]),
    heartbeat_ms=st.sampled_from([None, 1, 2**40]),
    note=st.sampled_from([None, "half\n"]),
)
engines = st.builds(
    engine,
    engine_id=st.sampled_from([ENGINE, OTHER]),
    state=st.sampled_from(EngineState),
    gate=st.sampled_from(GateState),
    lease_until=st.sampled_from([0, NOW - 1, NOW, NOW + 1]),
    kinds=st.sampled_from(['["checkout"]', "[]", '[["checkout","2"]]', "{", "[1]"]),
    queues=st.sampled_from([None, '["default"]', "[]"]),
    name=st.sampled_from(["etl-1", ""]),
)
lives = st.builds(
    LiveFacts,
    engine_id=st.sampled_from([ENGINE, OTHER]),
    degraded=st.sampled_from([None, "disk full"]),
    draining_since=st.sampled_from([None, NOW - 1]),
    thread_wait_since=st.sampled_from([None, NOW - 1]),
    free_slots=st.sampled_from([None, 0, 1]),
    rate_limited_until=st.sampled_from([None, NOW - 1, NOW + 1]),
    abandoned=st.sampled_from([(), (LiveStep(step_key=StepKey("x#0"), since=NOW),)]),
)
lines = st.builds(
    LineFacts,
    queue=st.sampled_from(
        [
            None,
            QueueRecord(queue="default", slots=1),
            QueueRecord(queue="default", per_engine_slots=1),
            QueueRecord(queue="default", paused=True, override_by="ann"),
            QueueRecord(queue="default", rate='{"n":1,"per_seconds":1}', override='{"slots":0}'),
        ]
    ),
    rate_until=st.sampled_from([None, NOW - 1, NOW + 1]),
    load=st.sampled_from([{}, {ENGINE: 1}, {ENGINE: 1, OTHER: 1}]),
    holders=st.sampled_from([(), ((CHILD, NOW),)]),
    ahead=st.integers(0, 3),
)
marks = st.builds(
    mark,
    st.sampled_from(["workflow_recovery", "history_mismatch", "job_cancelled", "step_abandoned", "job_failed", "odd"]),
    key=st.sampled_from([None, "charge#0"]),
    reason=st.sampled_from(["timeout", None]),
)


@st.composite
def situations(draw: st.DrawFn) -> Facts:
    row = draw(records.filter(reachable))
    found = {s.step_key: s for s in draw(st.lists(steps, max_size=5))}
    child = facts(job(job_id=CHILD, kind="index"), steps=tuple(draw(st.lists(steps, max_size=1))))
    return facts(
        row,
        steps=tuple(found.values()),
        decisions=tuple({d.decision_id: d for d in draw(st.lists(questions, max_size=2))}.values()),
        tokens=tuple({t.token: t for t in draw(st.lists(tokens, max_size=2))}.values()),
        quarantine=draw(st.sampled_from([None, QUARANTINE, msgspec.structs.replace(QUARANTINE, released_at=NOW)])),
        marks=tuple(draw(st.lists(marks, max_size=3))),
        owner=draw(st.none() | engines),
        engines=tuple({e.engine_id: e for e in draw(st.lists(engines, max_size=2))}.values()),
        children=draw(st.sampled_from([{}, {CHILD: child}])),
        line=draw(st.none() | lines),
        live=draw(st.none() | lives),
    )


VERBS = {"answer", "signal", "resume", "retry", "release", "cancel", "fail"}


def act_of(command: str, job: JobRecord) -> Act:
    words = command.split()
    assert words[0] == "relight"
    if words[1] == "engines":
        assert words[2] == "fence" and words[3].startswith("…")
        return Act.FENCE
    if words[2].startswith("ext_"):
        assert words[1] in ("complete", "fail", "beat")
        return Act.COMPLETE
    if words[1] == "queues":
        assert words[2] == "resume"
        return Act.UNPAUSE
    assert words[1] in VERBS
    assert words[2] == "…f36877"
    if "--force" in words:
        return Act.FORCE
    if "--accept" in words and job.state is JobState.QUEUED:
        return Act.REROUTE
    return Act.SETTLE if "--done" in words or "--not-done" in words else Act(words[1])


class TestEverySituation:
    @settings(max_examples=500)
    @given(situations())
    def test_has_a_cause_a_sentence_and_exactly_the_allowed_actions(self, case: Facts) -> None:
        why = explain(case)
        assert why.causes
        assert {cause.code for cause in why.causes} <= set(CODES)
        for text in (why.summary, *(cause.detail for cause in why.causes), summary_of(case.job)):
            assert text.strip() and text.isprintable()
        offered = actions(why)
        assert {act_of(command, case.job) for command in offered} == allowed_acts(case.job, case)
        assert len(offered) == len(set(offered))

    @given(situations())
    def test_a_command_stands_beside_one_cause_only(self, case: Facts) -> None:
        acts = [{act_of(command, case.job) for command in cause.actions} for cause in explain(case).causes]
        assert sum(len(some) for some in acts) == len(set().union(*acts))

    @given(situations(), st.sampled_from(Act))
    def test_every_allowed_act_has_a_command(self, case: Facts, act: Act) -> None:
        if act in allowed_acts(case.job, case):
            assert commands(act, case)

    @settings(max_examples=500)
    @given(situations())
    def test_every_command_that_is_printed_is_one_of_the_command_line(self, case: Facts) -> None:
        for command in actions(explain(case)):
            parse(command)

    @given(records.filter(reachable))
    def test_an_acceptance_is_offered_exactly_where_it_is_taken(self, row: JobRecord) -> None:
        offered = any("--accept" in command for command in actions(explain(facts(row))))
        try:
            steering.decide_accept(row, ANN, ())
        except IllegalTransition:
            assert not offered
        else:
            assert offered


def parse(command: str) -> None:
    """Let the command line read a command, without doing it."""
    program, *words = shlex.split(command)
    assert program == "relight"
    group: click.Command = cli
    context = click.Context(cli, info_name="relight", **cli.context_settings)
    while isinstance(group, click.Group):
        name, *words = words
        found = group.get_command(context, name)
        assert found is not None, command
        group, context = found, click.Context(found, info_name=name, parent=context)
    group.make_context(group.name, words, parent=context.parent)
