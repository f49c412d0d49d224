"""The public surface, written out: a name or a parameter that comes, goes or changes is a decision, and shows here.

``SIGNATURES`` is the surface's law in short: each line one way to call something, by the names and kinds of its parameters
(annotations and defaults are ``tests/typing``'s business). ``LATER`` holds names that are reserved: their own work brings
them, and moves them up.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest

import relight
from relight import errors, model, testing


def words(text: str) -> list[str]:
    return text.split()


ALL = words("""
    AsyncClient AsyncEngine AsyncJob AsyncStep AsyncWorkflow Branch Call Child Client Codec Done Engine External Job NotDone
    Queue Rate Resource Retry Secret Step Workflow __version__ ask branch cancelled cleanup current_job current_step external
    heartbeat issue log now parallel patched poll publish race rng sleep sleep_until start step uuid7 wait_signal workflow
""")

LATER = words("""
    Continue Schedule
""")

SUBMIT_OPTIONS = "idempotency_key, queue, priority, run_at, delay_seconds, tags, partition_key, on_stall, max_stalls, deadline_seconds"
STEP_OPTIONS = "*, name, key, retry, timeout_seconds, in_doubt"
DEFINED = "retry, timeout_seconds, heartbeat_seconds"
REST = "raises, inputs, isolate, outside, check_args"
ENGINE = (
    "store, *, workflows, queues, consume, slots, threads, lease_seconds, gate_timeout_seconds, drain_seconds, "
    "suspend_after_seconds, durability, resources, replace, codecs, name, clock, ids"
)

WAIT_SIGNAL = (
    "name, /, *, type, timeout_seconds",
    "name, /, *, type, timeout_seconds, default",
    "name, name2, /, *names, timeout_seconds",
    "name, name2, /, *names, timeout_seconds, default",
)

PARALLEL = tuple(
    f"fn, items, *, {tolerance}limit, key" for tolerance in ("", "max_failed, ", "max_failed_share, ", "min_ok, ")
)

SIGNATURES: dict[str, tuple[str, ...]] = {
    # values
    "Retry": ("tries, *, first_seconds, factor, max_seconds, jitter, on, not_on, total_seconds",),
    "Rate": ("n, per_seconds",),
    "Queue": ("name, *, slots, per_engine_slots, rate, priority",),
    "Secret": ("name",),
    "Secret.reveal": ("",),
    "Done": ("value",),
    "NotDone": ("",),
    "Codec": ("type, *, encode, decode, name",),
    "Resource": ("open, *, name",),
    "Resource.__call__": ("",),
    # definitions
    "step": (
        "fn, /",
        f"*, in_doubt, name, {DEFINED}, {REST}",
        f"*, name, {DEFINED}, in_doubt, {REST}",
    ),
    "workflow": ("fn, /", "*, name, version, queue, priority, on_stall, max_stalls, deadline_seconds"),
    "Step.__call__": ("*args, **kwargs",),
    "Step.aio": ("*args, **kwargs",),
    "Step.options": (STEP_OPTIONS,),
    "AsyncStep.__call__": ("*args, **kwargs",),
    "AsyncStep.sync": ("*args, **kwargs",),
    "AsyncStep.options": (STEP_OPTIONS,),
    "Workflow.__call__": ("*args, **kwargs",),
    "Workflow.bind": ("*args, **kwargs",),
    "AsyncWorkflow.__call__": ("*args, **kwargs",),
    "AsyncWorkflow.bind": ("*args, **kwargs",),
    "Call.options": (f"*, {SUBMIT_OPTIONS}",),
    # inside a job
    "sleep": ("seconds",),
    "sleep.aio": ("seconds",),
    "sleep_until": ("when",),
    "sleep_until.aio": ("when",),
    "wait_signal": WAIT_SIGNAL,
    "wait_signal.aio": WAIT_SIGNAL,
    "external": ("name, *, type, timeout_seconds, heartbeat_seconds",),
    "poll": ("check, first, *, until, every_seconds, timeout_seconds",),
    "poll.aio": ("check, first, *, until, every_seconds, timeout_seconds",),
    "ask": ("question, *, options, preview, timeout_seconds, on_timeout",),
    "ask.aio": ("question, *, options, preview, timeout_seconds, on_timeout",),
    "start": ("call, /, *, detached", "calls, /, *, detached", "wf, /, *args, detached"),
    "start.aio": ("call, /, *, detached", "calls, /, *, detached", "wf, /, *args, detached"),
    "Child.cancel": ("reason",),
    "parallel": PARALLEL,
    "parallel.aio": PARALLEL,
    "branch": ("fn, *args",),
    "Branch.result": ("",),
    "race": ("*branches",),
    "race.aio": ("*branches",),
    "patched": ("name",),
    "now": ("",),
    "rng": ("",),
    "uuid7": ("",),
    "heartbeat": ("*, done, total, note",),
    "publish": ("name, value",),
    "issue": ("code, detail",),
    "cleanup": ("*, timeout_seconds",),
    "current_job": ("",),
    "current_step": ("",),
    "cancelled": ("",),
    # outside
    **{f"{job}.{name}": (parameters,) for job in ("Job", "AsyncJob") for name, parameters in {
        "state": "",
        "info": "",
        "result": "*, timeout_seconds",
        "published": "name, *, type, timeout_seconds",
        "why": "",
        "events": "*, follow",
        "signal": "name, payload, *, by, idempotency_key",
        "cancel": "reason, *, by",
        "fail": "reason, *, by",
        "resume": "*, by",
        "retry": "*, by",
        "fork": "*, from_step, by",
        "answer": "choice, *, decision_id, note, by",
    }.items()},
    **{f"{client}.{name}": ways for client in ("Client", "AsyncClient") for name, ways in {
        "submit": ("wf, /", f"wf, /, *args, {SUBMIT_OPTIONS}"),
        "submit_many": ("calls, /",),
        "job": ("id, /, *, type", "id, /", "*, kind, idempotency_key"),
        "jobs": ("*, kind, state, queue, tags, since, limit",),
        "complete": ("token, value",),
        "fail": ("token, error",),
        "heartbeat": ("token, note",),
        "health": ("",),
    }.items()},
    "Client": ("store, *, workflows, codecs, require_recovered, actor",),
    "AsyncClient": ("store, *, workflows, codecs, require_recovered, actor",),
    "Engine": (ENGINE,),
    "AsyncEngine": (ENGINE,),
    "Engine.start": ("",),
    "Engine.stop": ("*, drain_seconds",),
    "Engine.run_forever": ("",),
    "AsyncEngine.start": ("",),
    "AsyncEngine.stop": ("*, drain_seconds",),
}  # fmt: skip

FIELDS = {
    model.JobInfo: "id kind state status_reason attempt created_at completed_at tags progress summary",
    model.Progress: "done total note at",
    model.Event: "seq event_id type timestamp actor actor_id trace_id engine_id writer_id writer_seq job_id run_id step_key payload",
    model.Cause: "code since detail evidence next_check_at actions",
    model.Why: "summary causes",
    model.Decision: "id choice by note at",
    model.Signal: "name by",
    model.Delivery: "counted state by at",
    model.CurrentJob: "id run_id kind attempt tags trace_id replaying deadline suspending",
    model.CurrentStep: "key name try_number idempotency_key deadline last_note",
}
"""The fields that users may read, of what they are shown."""


def find(name: str) -> Any:
    found: Any = relight
    for part in name.split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
    return found


def written(signature: inspect.Signature, *, bound: bool) -> str:
    """Write a signature as ``SIGNATURES`` does: names and kinds only."""
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    parts: list[str] = []
    starred = slashed = False
    for i, each in enumerate(parameters):
        if each.kind is each.VAR_POSITIONAL:
            starred = True
            parts.append(f"*{each.name}")
            continue
        if each.kind is each.VAR_KEYWORD:
            parts.append(f"**{each.name}")
            continue
        if each.kind is each.KEYWORD_ONLY and not starred:
            starred = True
            parts.append("*")
        parts.append(each.name)
        later = parameters[i + 1] if i + 1 < len(parameters) else None
        if (
            each.kind is each.POSITIONAL_ONLY
            and not slashed
            and (later is None or later.kind is not each.POSITIONAL_ONLY)
        ):
            slashed = True
            parts.append("/")
    return ", ".join(parts)


def ways_of(name: str) -> set[str]:
    """Return each way to call something: its overloads, or else its one signature."""
    found = find(name)
    if inspect.isclass(found):
        return {written(inspect.signature(found), bound=False)}
    function: Callable[..., Any] = found
    bound = "." in name and inspect.isclass(find(name.rpartition(".")[0]))
    if not inspect.isroutine(found):  # a primitive: an object that is called
        function, bound = type(found).__call__, True
    elif inspect.ismethod(found):
        function, bound = found.__func__, True
    overloads = typing.get_overloads(function)
    return {written(inspect.signature(way), bound=bound) for way in overloads or [function]}


def test_all_is_exactly_this() -> None:
    assert sorted(relight.__all__) == sorted(ALL)
    assert len(set(relight.__all__)) == len(relight.__all__)


def test_everything_in_all_is_there_and_says_what_it_is() -> None:
    for name in ALL:
        found = getattr(relight, name)
        if name not in ("__version__", "log"):
            assert inspect.getdoc(found), name


TESTING = {
    "ManualClock": "*, skip",
    "ManualClock.advance": "seconds",
    "ManualClock.now": "",
    "run_inline": "wf, /, *args, replace, resources, signals, answers, tokens, clock",
    "drain": "engine, *, timeout_seconds",
    "crash_points": "scenario, *, store, **engine_kwargs",
    "CrashRun.crash_then_restart": "**engine_kwargs",
    "assert_replays": "workflow, file",
}


@pytest.mark.parametrize("name", TESTING)
def test_the_test_kit_is_called_as_it_is_written(name: str) -> None:
    owner, _, method = name.partition(".")
    found = getattr(testing, owner)
    bound = bool(method)
    found = inspect.getattr_static(found, method) if method else found
    assert written(inspect.signature(found), bound=bound) == TESTING[name]


def test_the_test_kit_is_exactly_this() -> None:
    assert sorted(testing.__all__) == words(
        "CrashRun ManualClock SimulatedCrash assert_replays crash_points drain run_inline"
    )
    assert issubclass(testing.SimulatedCrash, BaseException)
    assert not issubclass(testing.SimulatedCrash, Exception)


def test_star_import_brings_exactly_all() -> None:
    space: dict[str, Any] = {}
    exec("from relight import *", space)  # noqa: S102 - what a user may write
    assert set(space) - {"__builtins__"} == set(ALL)


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_it_is_called_as_it_is_written(name: str) -> None:
    assert ways_of(name) == set(SIGNATURES[name])


@pytest.mark.parametrize("name", LATER)
def test_what_is_reserved_is_not_there_yet(name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    names = dir(getattr(relight, owner) if owner else relight)
    assert attribute not in names, f"{name} has come: move it to SIGNATURES"


@pytest.mark.parametrize("name", ["Continue", "Schedule"])
def test_a_name_that_is_reserved_says_that_it_is_not_there_yet(name: str) -> None:
    with pytest.raises(ImportError, match=f"relight.{name} is not in this version"):
        importlib.import_module("relight").__getattr__(name)
    with pytest.raises(ImportError, match="is not in this version"):
        getattr(relight, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        relight.nothing  # noqa: B018


def test_every_public_method_is_written_here() -> None:
    for owner in (
        "Client",
        "AsyncClient",
        "Engine",
        "AsyncEngine",
        "Job",
        "AsyncJob",
        "Step",
        "AsyncStep",
        "Workflow",
        "Call",
    ):
        cls = getattr(relight, owner)
        methods = {n for n, f in vars(cls).items() if inspect.isfunction(f) and not n.startswith("_")}
        known = {n.partition(".")[2] for n in SIGNATURES if n.startswith(f"{owner}.")}
        assert methods <= known | {"health", "submit_in"}, owner


@pytest.mark.parametrize("shown", FIELDS, ids=lambda shown: shown.__name__)
def test_what_users_are_shown_has_these_fields(shown: type) -> None:
    assert [f for f in shown.__dataclass_fields__ if f != "raw"] == words(FIELDS[shown])  # type: ignore[attr-defined]


def test_outcomes_and_states_are_as_written() -> None:
    assert {"ok", "failed", "skipped"} <= set(vars(model.Outcomes))
    assert list(model.JobState) == words(
        "queued running stalled awaiting_validation awaiting_user completed completed_with_issues failed cancelled poisoned"
    )


ERRORS = {
    "ConfigError": "RelightError",
    "RegistrationError": "RelightError",
    "NotFound": "RelightError",
    "Conflict": "RelightError",
    "IdempotencyMismatch": "Conflict",
    "GateError": "RelightError",
    "GateClosed": "GateError",
    "RecoveryPending": "GateError",
    "JobError": "RelightError",
    "JobFailed": "JobError",
    "JobCancelled": "JobError",
    "StepFailed": "JobError",
    "NotInJob": "RelightError",
    "NotInStep": "RelightError",
    "BlockingCall": "RelightError",
    "WaitTimeout": "RelightError",
    "InvalidArgument": "RelightError",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_stand_where_they_are_caught(name: str) -> None:
    assert issubclass(getattr(errors, name), getattr(errors, ERRORS[name]))
    assert name not in relight.__all__


def test_errors_that_are_builtin_ones_too() -> None:
    assert issubclass(errors.WaitTimeout, TimeoutError)
    assert issubclass(errors.InvalidArgument, ValueError)


def test_what_is_thrown_into_a_job_is_no_exception_and_what_users_raise_is_none_of_ours() -> None:
    for name in ("CancelRequested", "Suspending"):
        thrown = getattr(errors, name)
        assert issubclass(thrown, BaseException) and not issubclass(thrown, Exception)
    assert not issubclass(errors.StepError, errors.RelightError)
    ways = written(inspect.signature(errors.StepError), bound=False)
    assert ways == "message, *, code, retryable, retry_after_seconds, details"


def test_a_failed_step_has_its_fields() -> None:
    failed = errors.StepFailed("no", step_key="a#0", error_type="ValueError", type_names=("ValueError", "Exception"))
    assert (failed.step_key, failed.error_type, failed.error_code, failed.message, failed.tries) == (
        "a#0",
        "ValueError",
        None,
        "no",
        1,
    )
    assert failed.is_a(ValueError) and not failed.is_a(KeyError)
