"""Events: the closed set of kinds, how one is drafted and read, and what each does to its job's state.

A **draft** is an event that has no place in a chain yet. ``draft`` is the only way to make one: it encodes the payload,
checks the encoded bytes against the kind's type, and checks who acts. So nothing unknown, ill-shaped or unreadable
reaches a store (an event that cannot be read again is as bad as none). It is called twice for each step.

Text in payloads becomes NFC. Ids do not: they are compared character by character with those of other tables, so
whoever makes an id of a user's text has to normalise it there. Neither may hold NUL (PostgreSQL refuses it) or a lone
surrogate (UTF-8 does); what ``redact`` returns never does.

``fold`` is how ``verify`` recomputes a job's state from its events alone; the moves are those of the transition table.
Read next: ``chain.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from relight.core import payloads, spec_payloads, step_payloads
from relight.core.payloads import *  # noqa: F403  one namespace for those who make events: events.StepBegan
from relight.core.payloads import EventPayload, Issue, JobResumed
from relight.core.redact import nfc, redact
from relight.core.spec_payloads import *  # noqa: F403
from relight.core.step_payloads import *  # noqa: F403
from relight.core.transitions import By, is_legal
from relight.errors import InvalidEvent
from relight.model import Actor, JobState

_S = JobState


def _kinds() -> Iterator[tuple[str, type[EventPayload]]]:
    for module in (payloads, step_payloads, spec_payloads):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, EventPayload) and value is not EventPayload:
                yield value.kind, value


KINDS: Final[Mapping[str, type[EventPayload]]] = dict(_kinds())
"""Every kind of event there is, by its ``type``. Closed: a class made elsewhere is not in it, and so is refused."""

MAX_TS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: what RFC 3339 can still say."""

_encode = msgspec.json.Encoder().encode
_NUL_ESCAPE = b"\\u0000"


class _Decoders(dict[type[EventPayload], Callable[[bytes | str], EventPayload]]):
    """Decoders by payload class, made when first needed: all of them would be a tenth of the time to import Relight."""

    def __missing__(self, cls: type[EventPayload]) -> Callable[[bytes | str], EventPayload]:
        if KINDS.get(getattr(cls, "kind", "")) is not cls:
            raise KeyError(cls)
        decode = self[cls] = msgspec.json.Decoder(cls).decode
        return decode


_DECODE = _Decoders()


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event before it has a place in a chain. ``payload`` is JSON, ``ts`` in ms."""

    event_id: str
    type: str
    ts: int
    actor: Actor
    actor_id: str
    trace_id: str
    job_id: str | None
    run_id: str | None
    step_key: str | None
    model_id: str | None
    payload: bytes


def draft(
    payload: EventPayload,
    *,
    event_id: str,
    ts: int,
    actor: Actor,
    actor_id: str,
    trace_id: str,
    job_id: str | None = None,
    run_id: str | None = None,
    step_key: str | None = None,
    model_id: str | None = None,
) -> Draft:
    """Make a checked draft of an event.

    ``event_id``, ``actor_id`` and ``trace_id`` may not be empty; ``ts`` is from 1970 to 9999. Raises ``InvalidEvent``
    when the kind is unknown, a field is ill-typed, the actor may not cause this kind, or text holds NUL or a surrogate.
    """
    cls = type(payload)
    try:
        decode = _DECODE[cls]
        encoded = _encode(payload)
        if not encoded.isascii() or _NUL_ESCAPE in encoded:
            encoded = _normalised(encoded)
        decode(encoded)
        ids = "".join((event_id, actor_id, trace_id, job_id or "", run_id or "", step_key or "", model_id or ""))
    except KeyError:
        _refuse(getattr(cls, "kind", cls.__name__), "no such kind of event")
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        _refuse(cls.kind, str(error))
    if actor not in cls.actors:
        _refuse(cls.kind, f"actor {actor!s} may not cause it, only {', '.join(sorted(cls.actors))}")
    if not (event_id and actor_id and trace_id):
        _refuse(cls.kind, "event_id, actor_id and trace_id may not be empty")
    if "\0" in ids or not (ids.isascii() or _is_unicode(ids)):
        _refuse(cls.kind, "an id holds NUL or a lone surrogate")
    if type(ts) is not int or not 0 <= ts <= MAX_TS:
        _refuse(cls.kind, f"ts is {ts!r}, not milliseconds from 1970 to 9999")
    return Draft(event_id, cls.kind, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, encoded)


def parse(type: str, payload: bytes | str) -> EventPayload:
    """Read a stored payload back. Raises ``InvalidEvent`` when the kind is unknown or the shape is not its own."""
    cls = KINDS.get(type)
    if cls is None:
        _refuse(type, "no such kind of event")
    try:
        return _DECODE[cls](payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _refuse(type, str(error))


def decode_issues(text: bytes | str) -> list[Issue]:
    """Read a job's recorded issues as its last event shows them: details redacted. Raises ``InvalidEvent``."""
    try:
        issues = msgspec.json.decode(text, type=list[Issue])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _refuse("job_completed_with_issues", str(error))
    return [Issue(code=i.code, detail=None if i.detail is None else redact(i.detail)) for i in issues]


def _refuse(kind: str, why: str) -> NoReturn:
    raise InvalidEvent(f"HSK-400-INVALID-EVENT: {kind}: {why}; nothing was written", kind=kind, why=why)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _normalised(encoded: bytes) -> bytes:
    # On the values and not on the JSON text, where a combining mark behind \n would change the escape.
    return _encode(_nfc_value(msgspec.json.decode(encoded)))


def _nfc_value(value: Any) -> Any:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("text holds NUL")
        return nfc(value)
    if isinstance(value, list):
        return [_nfc_value(item) for item in value]
    if isinstance(value, dict):
        normal = {_nfc_value(key): _nfc_value(item) for key, item in value.items()}
        if len(normal) != len(value):
            raise ValueError("two keys of one object are the same text")
        return normal
    return value


# What events do to a job's state.


class FoldError(Exception):
    """An event does not follow from the state that the events before it made."""

    def __init__(self, state: JobState | None, type: str) -> None:
        super().__init__(f"{type} cannot follow {'no job' if state is None else state}")
        self.state = state
        self.type = type


class Effect(NamedTuple):
    """What a kind does to its job: the state that follows, and who moves it (for the transition table).

    In a state of ``keeps`` it changes nothing. With ``only`` it is illegal elsewhere, although the table has the move:
    resume and retry are both an operator's move to queued, but not from the same states.
    """

    target: JobState
    by: frozenset[By]
    keeps: frozenset[JobState | None] = frozenset()
    only: frozenset[JobState] | None = None


_WAITING = frozenset({_S.AWAITING_USER})
_AT_REST = frozenset({_S.AWAITING_USER, _S.STALLED})


def _unless(moves_from: frozenset[JobState]) -> frozenset[JobState | None]:
    return frozenset({None, *JobState}) - moves_from


STATE_EVENTS: Final[Mapping[str, Effect]] = {
    "job_accepted": Effect(_S.QUEUED, frozenset({By.SUBMIT})),
    "run_started": Effect(_S.RUNNING, frozenset({By.CLAIM})),
    # A run is also put away to wait for a person or a validator; an event of its own has then moved the job.
    "run_suspended": Effect(
        _S.QUEUED, frozenset({By.RUN}), keeps=frozenset({_S.AWAITING_USER, _S.AWAITING_VALIDATION})
    ),
    "job_awaiting_user": Effect(_S.AWAITING_USER, frozenset({By.RUN, By.VALIDATOR}), keeps=_WAITING),
    "history_mismatch": Effect(_S.AWAITING_USER, frozenset({By.RUN}), keeps=_WAITING),
    "decision_given": Effect(_S.QUEUED, frozenset({By.DECISION}), keeps=_unless(_WAITING)),
    "decision_expired": Effect(_S.QUEUED, frozenset({By.DECISION, By.DEADLINE}), keeps=_unless(_WAITING)),
    "workflow_recovery": Effect(_S.STALLED, frozenset({By.RECOVERY})),
    "job_resumed": Effect(_S.QUEUED, frozenset({By.POLICY, By.OPERATOR}), only=_AT_REST),
    "job_retried": Effect(_S.QUEUED, frozenset({By.OPERATOR}), only=frozenset({_S.FAILED, _S.POISONED})),
    "job_cancel_requested": Effect(_S.QUEUED, frozenset({By.OPERATOR}), keeps=_unless(_AT_REST)),
    "job_deadline_exceeded": Effect(_S.QUEUED, frozenset({By.DEADLINE, By.POLICY}), keeps=_unless(_AT_REST)),
    "job_completed": Effect(_S.COMPLETED, frozenset(By)),
    "job_completed_with_issues": Effect(_S.COMPLETED_WITH_ISSUES, frozenset(By)),
    "job_failed": Effect(_S.FAILED, frozenset(By)),
    "job_cancelled": Effect(_S.CANCELLED, frozenset(By)),
    "job_poisoned": Effect(_S.POISONED, frozenset(By)),
}
"""The kinds that move a job; all others leave it where it is."""

TERMINAL_EVENTS: Final = frozenset(
    {"job_completed", "job_completed_with_issues", "job_failed", "job_cancelled", "job_poisoned"}
)
"""The last word on a job: after its last ``job_retried`` an ended job has exactly one."""


def fold(state: JobState | None, event_type: str, payload: EventPayload | None) -> JobState | None:
    """Return the job's state after an event. ``state`` None: there is no job yet.

    Raises ``FoldError`` when the transition table has no such move, or a resume names another state than it found.
    """
    effect = STATE_EVENTS.get(event_type)
    if effect is None or state in effect.keeps:
        return state
    legal = effect.only is None or state in effect.only
    if not legal or not any(is_legal(state, effect.target, by) for by in effect.by):
        raise FoldError(state, event_type)
    if isinstance(payload, JobResumed) and payload.from_state is not state:
        raise FoldError(state, event_type)
    return effect.target
