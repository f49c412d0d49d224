"""Events: a closed set of kinds, each with a shape and actors that are checked, and what they do to a job's state."""

from __future__ import annotations

import typing
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.core import events as ev
from relight.core.events import (
    KINDS,
    MAX_TS,
    STATE_EVENTS,
    TERMINAL_EVENTS,
    Draft,
    EventPayload,
    FoldError,
    draft,
    fold,
    parse,
)
from relight.core.redact import redact
from relight.core.transitions import is_legal
from relight.errors import InvalidEvent
from relight.model import FINAL_STATES, Actor, JobState

S = JobState
ID = "0190a0b0-1111-7222-8333-444455556666"
TS = "2026-07-05T10:11:12.123Z"

RECOVERY = "workflow_run_id from_state to_state reason last_heartbeat_ts threshold_secs"

# kind → (required, optional) fields on the wire, from the source specification and the list of our own kinds
SHAPES = {
    "engine_started": ("host_id boot_id pid version store durability heads", ""),
    "writer_opened": ("heads", ""),
    "recovery_started": ("recovery_id", "on_behalf_of"),
    "recovery_finished": ("recovery_id engines scanned stalled in_doubt quarantined duration_ms", ""),
    "recovery_failed": ("recovery_id code detail retry_in_ms", ""),
    "gate_opened": ("recovery_id closed_ms", ""),
    "gate_failed": ("code detail", ""),
    "engine_fenced": ("reason", "by"),
    "engine_silent": ("engine_id last_heartbeat_ts", ""),
    "engine_lagging": ("lag_ms", ""),
    "engine_stopped": ("drained suspended_runs", ""),
    "engine_degraded": ("code", ""),
    "engine_recovered": ("outage_ms", ""),
    "row_quarantined": ("table row_id code detail", ""),
    "row_released": ("table row_id", ""),
    "job_accepted": (
        "job_kind queue priority ready_at inputs_hash inputs_bytes",
        "idempotency_key parent_job_id forked_from",
    ),
    "job_deduplicated": ("idempotency_key", ""),
    "run_started": ("attempt replay_steps", ""),
    "run_suspended": ("reason", "ready_at"),
    "run_poisoned": ("", "stalls"),
    "step_began": ("try args_hash args_bytes in_doubt_policy", "step_kind"),
    "step_finished": ("try outcome_hash outcome_bytes duration_ms", "step_kind"),
    "step_failed": ("try error_type message_redacted final", "error_code"),
    "step_retry_scheduled": ("try next_try_at error_type", ""),
    "step_in_doubt": ("try policy", ""),
    "step_reconciled": ("as by", ""),
    "step_abandoned": ("", "try reason"),
    "step_removed": ("", ""),
    "wait_timed_out": ("what", ""),
    "job_awaiting_user": ("decision_id question_redacted options preview_hash", "expires_at"),
    "decision_given": ("decision_id choice preview_hash", "note_redacted"),
    "decision_expired": ("decision_id", ""),
    "signal_sent": ("signal_id name payload_hash", ""),
    "signal_consumed": ("signal_id name payload_hash", ""),
    "job_completed": ("attempt duration_ms outputs_hash outputs_bytes", ""),
    "job_completed_with_issues": ("attempt duration_ms outputs_hash outputs_bytes issues", ""),
    "job_failed": ("error_type message_redacted", "error_code"),
    "job_cancelled": ("by", "reason"),
    "job_poisoned": ("stalls evidence", ""),
    "job_cancel_requested": ("", "reason"),
    "job_resumed": ("policy from_state", "accepted"),
    "job_retried": ("", ""),
    "job_held": ("code", ""),
    "hold_released": ("", "reason"),
    "job_forked": ("new_job_id from_step", ""),
    "job_deadline_exceeded": ("", "deadline_at"),
    "job_probation": ("", "stalls"),
    "history_mismatch": ("step_key recorded_hash now_hash detail", ""),
    "sleep_started": ("", "until"),
    "wait_started": ("what", "until"),
    "child_started": ("child_job_id", ""),
    "child_finished": ("child_job_id state", ""),
    "schema_upgraded": ("from_version to_version", ""),
    "queue_changed": ("queue", "changes before before_by"),
    "mismatch_accepted": ("recorded_hash now_hash detail", ""),
    "version_accepted": ("recorded_version now_version", ""),
    "kind_registered": ("job_kind", "version"),
    "workflow_replaced": ("job_kind code_ref", ""),
    "external_created": ("name", "expires_at"),
    "external_completed": ("name value_hash value_bytes", ""),
    "external_failed": ("name error_type message_redacted", "error_code"),
    "external_expired": ("name reason", ""),
    "published": ("name value_hash value_bytes", ""),
    "terminal_command": (
        "session_id command",
        "cwd args exit_code duration_ms stdout_ref stderr_ref env_ref timed_out cancelled truncated_bytes",
    ),
    "editor_edit": ("editor_surface ops", "document_uri path before_hash after_hash diff_hash"),
    "diagnostic": ("diagnostic_id", "wsid severity source"),
    "debug_bundle_export": (
        "bundle_id scope redaction_mode",
        "included_job_ids included_diagnostic_ids included_wsids event_count missing_evidence",
    ),
    "llm_inference": ("trace_id model_id token_usage", "latency_ms prompt_hash response_hash"),
    "tool_call": (
        "trace_id tool_call_id tool_id tool_version transport side_effect idempotency ok timing",
        "idempotency_key args_ref args_hash result_ref result_hash error resources_touched capability_ids parent_span_id",
    ),
    "security_violation": (
        "violation_type description trigger guard_name action_taken",
        "source_id offset context job_state_transition",
    ),
    "workflow_recovery": (
        f"{RECOVERY} verdict evidence dead_engine_id recovery_id in_doubt_steps",
        "job_id",
    ),
    "capability_action": ("capability_id actor_id job_id decision_outcome", ""),
    "gov_gate_transition": ("role gate_kind gate gate_state_ref idempotency_key", "spec_id work_packet_id verdict"),
    "gov_work_packet_activated": (
        "base_wp_id work_packet_id active_packet_ref task_board_ref idempotency_key",
        "spec_id",
    ),
}

ACTORS = {
    "agent": "step_began step_finished step_failed step_retry_scheduled signal_consumed job_awaiting_user",
    "human": "decision_given row_released",
    "system": (
        "engine_started recovery_started recovery_finished recovery_failed workflow_recovery gate_opened gate_failed"
        " engine_silent engine_lagging engine_stopped row_quarantined run_started run_suspended step_in_doubt"
        " decision_expired history_mismatch engine_degraded engine_recovered"
    ),
    "human system": (
        "step_reconciled job_cancel_requested job_resumed job_retried job_held job_forked engine_fenced schema_upgraded"
    ),
    "agent human system": (
        "job_accepted job_deduplicated signal_sent job_completed job_completed_with_issues job_failed job_cancelled"
        " job_poisoned llm_inference tool_call"
    ),
}


def make(payload: EventPayload, **base: Any) -> Draft:
    actor = base.pop("actor", min(payload.actors))
    return draft(payload, **({"event_id": ID, "ts": 1, "actor": actor, "actor_id": "me", "trace_id": ID} | base))


def sample(kind: str) -> dict[str, Any]:
    """A payload of a kind as JSON data, with all its fields."""
    return {field.encode_name: _sample_of(field.type) for field in msgspec.structs.fields(KINDS[kind])}


def _sample_of(hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return args[0]
    if origin is typing.Annotated:
        return TS if args[1].pattern else _sample_of(args[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {field.encode_name: _sample_of(field.type) for field in msgspec.structs.fields(hint)}
    if hasattr(hint, "__members__"):
        return next(reversed(hint)).value
    if origin is Mapping or hint is object:
        return {"a": 1} if origin is None or args[1] is not str else {"a": "b"}
    if origin is Sequence:
        return [_sample_of(args[0])]
    if args:
        return _sample_of(args[0])
    return {str: "x", int: 1, float: 1.5, bool: True}[hint]


def wrong_values(hint: Any) -> Iterator[Any]:
    """JSON values of every type that a field does not take."""
    for value in ("\N{SNOWMAN} not a word of any list", -7, 1.25, True, None, [[]], {"?": [None]}):
        try:
            msgspec.json.decode(msgspec.json.encode(value), type=hint)
        except msgspec.ValidationError:
            yield value


def test_the_set_of_kinds_is_the_documented_one() -> None:
    assert sorted(KINDS) == sorted(SHAPES)
    assert all(cls.kind == kind for kind, cls in KINDS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_fields_and_only_these_may_be_left_out(kind: str) -> None:
    fields = msgspec.structs.fields(KINDS[kind])
    required, optional = (names.split() for names in SHAPES[kind])

    assert sorted(f.encode_name for f in fields if f.required) == sorted(required)
    assert sorted(f.encode_name for f in fields if not f.required) == sorted(optional)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drafted_is_read_back_as_it_was(kind: str) -> None:
    payload = parse(kind, msgspec.json.encode(sample(kind)))

    made = make(payload)

    assert parse(made.type, made.payload) == payload
    assert parse(made.type, made.payload.decode()) == payload
    assert msgspec.json.decode(made.payload).keys() <= sample(kind).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_unknown_field_is_refused(kind: str) -> None:
    whole = sample(kind)

    for name in SHAPES[kind][0].split():
        with pytest.raises(InvalidEvent, match="HSK-400-INVALID-EVENT"):
            parse(kind, msgspec.json.encode({k: v for k, v in whole.items() if k != name}))
    with pytest.raises(InvalidEvent, match="HSK-400-INVALID-EVENT"):
        parse(kind, msgspec.json.encode(whole | {"unknown": 1}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_another_type_is_refused_when_written_and_when_read(kind: str) -> None:
    for field in msgspec.structs.fields(KINDS[kind]):
        good = parse(kind, msgspec.json.encode(sample(kind)))
        bad = list(wrong_values(field.type))
        assert bad, f"{field.name} takes anything"
        for value in bad:
            with pytest.raises(InvalidEvent, match="HSK-400-INVALID-EVENT"):
                parse(kind, msgspec.json.encode(sample(kind) | {field.encode_name: value}))
            if value is None and not field.required:
                continue  # None is how an optional field is left out
            with pytest.raises(InvalidEvent, match="HSK-400-INVALID-EVENT"):
                make(msgspec.structs.replace(good, **{field.name: value}))


@pytest.mark.parametrize("kind", KINDS)
def test_only_its_actors_may_cause_a_kind(kind: str) -> None:
    payload = parse(kind, msgspec.json.encode(sample(kind)))

    assert payload.actors
    for actor in Actor:
        if actor in payload.actors:
            assert make(payload, actor=actor).actor is actor
        else:
            with pytest.raises(InvalidEvent, match=f"{kind}: actor {actor}"):
                make(payload, actor=actor)
    with pytest.raises(InvalidEvent):
        make(payload, actor="nobody")


def test_the_actors_are_the_documented_ones() -> None:
    for actors, kinds in ACTORS.items():
        for kind in kinds.split():
            assert sorted(KINDS[kind].actors) == actors.split(), kind


def test_an_unknown_kind_is_refused() -> None:
    class Homemade(EventPayload, frozen=True, kw_only=True):
        kind = "homemade"
        actors = frozenset(Actor)

    class Impostor(ev.JobRetried, frozen=True, kw_only=True):
        pass

    for payload in (Homemade(), Impostor(), EventPayload()):
        with pytest.raises(InvalidEvent, match=r"HSK-400-INVALID-EVENT: .*no such kind"):
            draft(payload, event_id=ID, ts=1, actor=Actor.HUMAN, actor_id="me", trace_id=ID)
    with pytest.raises(InvalidEvent, match="HSK-400-INVALID-EVENT: homemade"):
        parse("homemade", b"{}")


def test_what_is_not_json_is_refused() -> None:
    for text in (b"", b"{", b"[]", b"null", b"\xff", "{}x", b"[" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(InvalidEvent):
            parse("job_retried", text)


def test_a_draft_holds_what_it_was_given() -> None:
    made = make(
        ev.StepBegan(try_number=2, args_hash="h", args_bytes=3, in_doubt_policy="ask"),
        ts=5,
        job_id="j",
        run_id="r",
        step_key="s#0",
        model_id="m",
    )

    assert made == Draft(
        ID,
        "step_began",
        5,
        Actor.AGENT,
        "me",
        ID,
        "j",
        "r",
        "s#0",
        "m",
        b'{"try":2,"args_hash":"h","args_bytes":3,"in_doubt_policy":"ask"}',
    )


BASE_TEXTS = ("event_id", "actor_id", "trace_id", "job_id", "run_id", "step_key", "model_id")


@pytest.mark.parametrize("name", BASE_TEXTS)
def test_an_id_with_nul_or_a_surrogate_or_of_another_type_is_refused(name: str) -> None:
    for bad in ("a\0b", "a\ud800b", b"bytes", 5):
        with pytest.raises(InvalidEvent, match="HSK-400-INVALID-EVENT"):
            make(ev.JobRetried(), **{name: bad})
    assert getattr(make(ev.JobRetried(), **{name: "é漢\U0001f600"}), name) == "é漢\U0001f600"


@pytest.mark.parametrize("name", BASE_TEXTS[:3])
def test_an_event_without_id_actor_or_trace_is_refused(name: str) -> None:
    for bad in ("", None):
        with pytest.raises(InvalidEvent):
            make(ev.JobRetried(), **{name: bad})


def test_a_time_before_1970_or_after_9999_is_refused() -> None:
    for good in (0, MAX_TS):
        assert make(ev.JobRetried(), ts=good).ts == good
    for bad in (-1, MAX_TS + 1, 1.0, True, None, "1"):
        with pytest.raises(InvalidEvent, match="ts"):
            make(ev.JobRetried(), ts=bad)


def test_text_becomes_nfc_and_nothing_else_changes() -> None:
    made = make(ev.WriterOpened(heads={"e\u0301": "a\u030a\n", "plain": "x"}))

    assert msgspec.json.decode(made.payload) == {"heads": {"é": "å\n", "plain": "x"}}
    # a mark behind an escape belongs to the line feed, not to the letter of the escape
    assert parse("job_held", make(ev.JobHeld(code="\n\u0303")).payload) == ev.JobHeld(code="\n\u0303")


def test_keys_that_become_one_are_refused() -> None:
    with pytest.raises(InvalidEvent, match="same"):
        make(ev.WriterOpened(heads={"e\u0301": "a", "é": "b"}))


@given(st.text())
def test_what_a_payload_says_can_be_read_again(text: str) -> None:
    payload = ev.JobHeld(code=text)
    if "\0" in text:
        with pytest.raises(InvalidEvent, match="NUL"):
            make(payload)
    else:
        assert parse("job_held", make(payload).payload) == ev.JobHeld(code=unicodedata.normalize("NFC", text))


def test_nul_and_surrogates_in_payloads_are_refused_and_their_spelling_is_not() -> None:
    for bad in ("a\0b", "a\ud800b"):
        with pytest.raises(InvalidEvent):
            make(ev.JobHeld(code=bad))
        with pytest.raises(InvalidEvent):
            make(ev.WriterOpened(heads={bad: "x"}))
    assert parse("job_held", make(ev.JobHeld(code=r"a\u0000b")).payload) == ev.JobHeld(code=r"a\u0000b")


@given(st.text(alphabet=st.characters(codec=None) | st.sampled_from("\0\ud800\udfff\n\u0301")))
def test_what_redact_returns_is_always_accepted(text: str) -> None:
    shown = redact(text)

    made = make(ev.JobFailed(error_type="X", message_redacted=shown))

    assert parse("job_failed", made.payload) == ev.JobFailed(error_type="X", message_redacted=shown)


def test_values_that_json_cannot_hold_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for bad in (object(), deep, {(1, 2): 2}, {"a": object()}, [("a", 1)]):
        with pytest.raises(InvalidEvent):
            make(ev.QueueChanged(queue="q", changes=bad))  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent):
        make(ev.EngineLagging(lag_ms=float("nan")))  # type: ignore[arg-type]


def test_an_inference_without_trace_or_model_is_refused() -> None:
    usage = ev.TokenUsage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    make(ev.LlmInference(trace_id="t", model_id="m", token_usage=usage))
    for trace_id, model_id in (("", "m"), ("t", "")):
        with pytest.raises(InvalidEvent):
            make(ev.LlmInference(trace_id=trace_id, model_id=model_id, token_usage=usage))


def test_the_recovery_event_is_as_the_specification_has_it() -> None:
    recovery = sample("workflow_recovery")

    assert (recovery["from_state"], recovery["to_state"]) == ("running", "stalled")
    for field, bad in (
        ("from_state", "queued"),
        ("to_state", "failed"),
        ("last_heartbeat_ts", "yesterday"),
        ("last_heartbeat_ts", "2026-07-05 10:11:12"),
        ("threshold_secs", -1),
        ("workflow_run_id", ""),
        ("verdict", "maybe"),
    ):
        with pytest.raises(InvalidEvent):
            parse("workflow_recovery", msgspec.json.encode(recovery | {field: bad}))
    for ts in (TS, "2026-07-05T10:11:12Z", "2026-07-05T10:11:12.123456+02:00"):
        parse("workflow_recovery", msgspec.json.encode(recovery | {"last_heartbeat_ts": ts}))
    assert parse("workflow_recovery", msgspec.json.encode(recovery | {"threshold_secs": 30}))


def test_recorded_issues_are_read_with_their_details_redacted() -> None:
    issues = ev.decode_issues('[{"code":"skipped"},{"code":"slow","detail":"at /home/bob/x"}]')

    assert issues == [ev.Issue(code="skipped"), ev.Issue(code="slow", detail="at [REDACTED:path:path_absolute]")]
    with pytest.raises(InvalidEvent):
        ev.decode_issues("{}")


# The fold.


def told(*kinds: str, state: JobState | None = None) -> JobState | None:
    for kind in kinds:
        state = fold(state, kind, None)
    return state


BEGUN = ("job_accepted", "run_started")


@pytest.mark.parametrize(
    ("story", "state"),
    [
        ((), None),
        (("job_accepted",), S.QUEUED),
        (BEGUN, S.RUNNING),
        ((*BEGUN, "step_began", "step_finished", "signal_sent", "run_suspended", "sleep_started"), S.QUEUED),
        ((*BEGUN, "job_completed"), S.COMPLETED),
        ((*BEGUN, "job_completed_with_issues"), S.COMPLETED_WITH_ISSUES),
        ((*BEGUN, "job_failed"), S.FAILED),
        ((*BEGUN, "job_cancelled"), S.CANCELLED),
        ((*BEGUN, "job_poisoned"), S.POISONED),
        ((*BEGUN, "workflow_recovery"), S.STALLED),
        ((*BEGUN, "workflow_recovery", "job_held", "hold_released", "job_probation"), S.STALLED),
        ((*BEGUN, "workflow_recovery", "job_resumed", "run_started", "job_completed"), S.COMPLETED),
        ((*BEGUN, "workflow_recovery", "job_poisoned", "job_retried"), S.QUEUED),
        ((*BEGUN, "job_awaiting_user", "job_awaiting_user", "run_suspended"), S.AWAITING_USER),
        ((*BEGUN, "job_awaiting_user", "history_mismatch"), S.AWAITING_USER),
        ((*BEGUN, "job_awaiting_user", "decision_given"), S.QUEUED),
        ((*BEGUN, "job_awaiting_user", "decision_expired"), S.QUEUED),
        ((*BEGUN, "decision_given", "decision_expired"), S.RUNNING),
        ((*BEGUN, "job_awaiting_user", "decision_given", "decision_given"), S.QUEUED),
        ((*BEGUN, "history_mismatch", "job_resumed", "run_started"), S.RUNNING),
        ((*BEGUN, "job_failed", "job_retried", "run_started", "job_completed", "job_forked"), S.COMPLETED),
        (("job_accepted", "job_cancel_requested", "job_cancelled"), S.CANCELLED),
        (("job_accepted", "job_deadline_exceeded", "job_failed"), S.FAILED),
        ((*BEGUN, "job_cancel_requested"), S.RUNNING),
        ((*BEGUN, "job_deadline_exceeded"), S.RUNNING),
        ((*BEGUN, "job_awaiting_user", "job_cancel_requested", "run_started", "job_cancelled"), S.CANCELLED),
        ((*BEGUN, "workflow_recovery", "job_cancel_requested"), S.QUEUED),
        ((*BEGUN, "job_awaiting_user", "job_deadline_exceeded"), S.QUEUED),
        ((*BEGUN, "workflow_recovery", "job_deadline_exceeded"), S.QUEUED),
        (("row_quarantined", "decision_given", "job_cancel_requested"), None),
    ],
)
def test_a_story_folds_to_its_state(story: tuple[str, ...], state: JobState | None) -> None:
    assert told(*story) is state


@pytest.mark.parametrize(
    ("story", "last"),
    [
        ((), "run_started"),
        ((), "job_completed"),
        ((), "workflow_recovery"),
        (("job_accepted",), "job_accepted"),
        (("job_accepted",), "job_completed"),
        (("job_accepted",), "run_suspended"),
        (("job_accepted",), "workflow_recovery"),
        (("job_accepted",), "job_awaiting_user"),
        (("job_accepted",), "job_resumed"),
        (BEGUN, "run_started"),
        (BEGUN, "job_resumed"),
        (BEGUN, "job_retried"),
        ((*BEGUN, "workflow_recovery"), "workflow_recovery"),
        ((*BEGUN, "workflow_recovery"), "job_completed"),
        ((*BEGUN, "workflow_recovery"), "run_suspended"),
        ((*BEGUN, "workflow_recovery"), "job_accepted"),
        ((*BEGUN, "job_failed"), "job_accepted"),
        ((*BEGUN, "job_failed"), "run_suspended"),
        (BEGUN, "job_accepted"),
        ((*BEGUN, "workflow_recovery"), "job_retried"),
        ((*BEGUN, "workflow_recovery"), "run_started"),
        ((*BEGUN, "job_awaiting_user"), "run_started"),
        ((*BEGUN, "job_awaiting_user"), "job_completed"),
        ((*BEGUN, "job_failed"), "job_resumed"),
        ((*BEGUN, "job_failed"), "job_failed"),
        ((*BEGUN, "job_completed"), "job_retried"),
        ((*BEGUN, "job_completed"), "job_completed"),
        ((*BEGUN, "job_cancelled"), "run_started"),
    ],
)
def test_an_event_that_cannot_follow_is_found(story: tuple[str, ...], last: str) -> None:
    state = told(*story)

    with pytest.raises(FoldError) as found:
        fold(state, last, None)

    assert (found.value.state, found.value.type) == (state, last)


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=30))
def test_a_fold_only_ever_makes_moves_of_the_transition_table(kinds: list[str]) -> None:
    state: JobState | None = None
    for kind in kinds:
        try:
            after = fold(state, kind, None)
        except FoldError:
            continue
        assert after is state or is_legal(state, typing.cast(JobState, after))
        assert after is state or kind in STATE_EVENTS
        if state in FINAL_STATES and after is not state:
            assert kind == "job_retried"
        if kind in TERMINAL_EVENTS:
            assert after in FINAL_STATES and state not in FINAL_STATES
        if after is S.STALLED and state is not S.STALLED:
            assert kind == "workflow_recovery"
        state = after


def test_a_resume_names_the_state_it_found() -> None:
    resumed = ev.JobResumed(policy="operator", from_state=S.STALLED)

    assert fold(S.STALLED, "job_resumed", resumed) is S.QUEUED
    with pytest.raises(FoldError):
        fold(S.AWAITING_USER, "job_resumed", resumed)


def test_every_kind_that_moves_a_job_exists_and_the_ends_are_the_final_states() -> None:
    assert STATE_EVENTS.keys() <= KINDS.keys()
    assert {STATE_EVENTS[kind].target for kind in TERMINAL_EVENTS} == FINAL_STATES
    assert {kind for kind, effect in STATE_EVENTS.items() if effect.target in FINAL_STATES} == TERMINAL_EVENTS
