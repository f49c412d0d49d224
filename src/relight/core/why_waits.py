"""Causes that lie in what a job waits for: a time, a message, a person, a child, a settled doubt.

One function for each kind of wait, by the row that records it. Read next: ``why_line.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from relight.core.flow import idempotency_key
from relight.core.keys import is_part
from relight.core.why_acts import Act, doubted_step, doubts
from relight.core.why_case import Case, Found, failure_words
from relight.core.why_words import count, listed, plain
from relight.ids import JobId, StepKey, short
from relight.model import DecisionRecord, JobState, StepKind, StepRecord, StepState

TOKENS = 20
"""How many open tokens of a job are among its facts."""

_ALIKE = 3
"""How many causes of one code are told one by one."""

_ORDER = (
    "in_doubt",
    "waiting_decision",
    "waiting_child",
    "waiting_signal",
    "waiting_external",
    "backoff",
    "sleeping",
)
"""What only somebody outside can end comes before what ends by itself."""


def waits(case: Case) -> list[Found]:
    """Return what a job waits for, the weightiest first; empty when it waits for nothing that is recorded."""
    found = []
    for step in case.facts.store.steps:
        if is_part(step.step_key):
            continue  # a further row of a wait for several signals
        if step.state is StepState.WAITING and not _is_over(case, step):
            found.append(_WAITS.get(step.kind.value, _external)(case, step))
        elif step.state is StepState.BACKOFF and step.until:
            found.append(_backoff(case, step))
        elif _in_pause(case, step):
            found.append(_doubtful_pause(case, step))
    found.sort(key=lambda cause: _ORDER.index(cause.code))
    return _thinned(found)


def waits_for_people(case: Case) -> list[Found]:
    """Return those waits that a person can end now, whatever else keeps the job from going on."""
    return [cause for cause in waits(case) if cause.acts]


def _is_over(case: Case, step: StepRecord) -> bool:
    """Tell whether what a wait is for has come, so that only its run has to notice."""
    if step.kind is StepKind.ASK:
        return all(question.decision_id != step.waits_for for question in case.facts.store.decisions)
    if step.kind is StepKind.EXTERNAL:
        tokens = case.facts.store.tokens
        return len(tokens) < TOKENS and all(token.token != step.waits_for for token in tokens)
    names = _names(case, step)
    return step.kind is StepKind.SIGNAL and any(s.name in names for s in case.facts.store.unread)


def _names(case: Case, step: StepRecord) -> list[str]:
    """Return the names of the signals that a wait is for: its own, and those of its further rows."""
    parts = (s for s in case.facts.store.steps if s.step_key.startswith(f"{step.step_key}!") and is_part(s.step_key))
    return [s.waits_for or s.name for s in (step, *parts)]


def _thinned(found: list[Found]) -> list[Found]:
    """Keep the first few of each code, and say how many more there are."""
    alike = Counter(cause.code for cause in found)
    seen: Counter[str] = Counter()
    kept = []
    for cause in found:
        seen[cause.code] += 1
        more = alike[cause.code] - _ALIKE
        if seen[cause.code] == _ALIKE and more > 0:
            cause = replace(cause, detail=f"{cause.detail}; and {more:,} more")
        if seen[cause.code] <= _ALIKE:
            kept.append(cause)
    if len(found) > 1:
        others = count(len(found) - 1, "other thing")
        kept[0] = replace(kept[0], sentence=f"{kept[0].sentence}; it waits for {others} too")
    return kept


def _sleep(case: Case, step: StepRecord) -> Found:
    until = step.until or step.begun_at
    over = until <= case.facts.now_ms
    verb = "slept" if over else "sleeps"
    waking = ", and is to be woken" if over else ""
    return Found(
        code="sleeping",
        since=step.begun_at,
        sentence=f"{case.who} {verb} {case.words.until(until)}{waking}",
        detail=f"{step.step_key}, {case.words.until(until)}",
        evidence=case.evidence("sleep_started", step_key=step.step_key),
        next_ms=until,
    )


def _backoff(case: Case, step: StepRecord) -> Found:
    at = step.until or 0
    tries = case.facts.live.tries.get(step.step_key) if case.facts.live is not None else None
    nth = f"try {step.try_number + 1}" + (f" of {tries}" if tries else "")
    error = failure_words(step.error)
    because = f": {error}" if error else ""
    subject = f"{plain(step.step_key, 80)} of {case.who}"
    if at > case.facts.now_ms:
        sentence = (
            f"{subject} waits to be tried again at {case.words.moment(at)} ({nth}, in {case.words.ahead(at)}){because}"
        )
    else:
        sentence = f"{subject} is due to be tried again ({nth}){because}"
    return Found(
        code="backoff",
        since=step.begun_at,
        sentence=sentence,
        detail=f"{plain(step.step_key, 80)}, {nth}, {case.words.until(at)}{because}",
        evidence=case.evidence("step_retry_scheduled", "step_failed", step_key=step.step_key),
        next_ms=at,
    )


def _in_pause(case: Case, step: StepRecord) -> bool:
    return step.state is StepState.IN_DOUBT and step.until is not None and step.until > case.facts.now_ms


def _doubtful_pause(case: Case, step: StepRecord) -> Found:
    at = step.until or 0
    how = _how_in_doubt(step, step.step_key)
    then = f"whether it happened is settled before the next try at {case.words.moment(at)} (in {case.words.ahead(at)})"
    return Found(
        code="in_doubt",
        since=step.begun_at,
        sentence=f"{case.who} waits: {how}; {then}",
        detail=f"{_doubt_detail(case, step, step.step_key)}; {then}",
        evidence=case.evidence("step_in_doubt", "step_failed", step_key=step.step_key),
        next_ms=at,
        acts=frozenset({Act.SETTLE}),
    )


def _signal(case: Case, step: StepRecord) -> Found:
    told = " or ".join(f'"{plain(name, 80)}"' for name in _names(case, step))
    return Found(
        code="waiting_signal",
        since=step.begun_at,
        sentence=f"{case.who} waits for the signal {told} {case.words.since(step.begun_at)}{_limit(case, step.until)}",
        detail=f"{step.step_key} waits for {told}{_limit(case, step.until)}",
        evidence=case.evidence("wait_started", step_key=step.step_key),
        next_ms=step.until,
        acts=frozenset({Act.SIGNAL}),
    )


def _limit(case: Case, until: int | None) -> str:
    if until is None:
        return ""
    if until <= case.facts.now_ms:
        return f"; its time limit passed at {case.words.moment(until)}"
    return f", at most {case.words.until(until)}"


def _asked(case: Case, step: StepRecord) -> Found:
    question = next(d for d in case.facts.store.decisions if d.decision_id == step.waits_for)
    evidence = case.evidence("wait_started", step_key=step.step_key) + case.evidence("job_awaiting_user")
    key = doubted_step(question)
    if key is not None:
        return _asked_about_doubt(case, question, key, evidence)
    asked = f'a decision: "{plain(question.question)}"'
    if question.expires_at is None:
        limit = ""
    elif question.expires_at > case.facts.now_ms:
        limit = f", expires {case.words.moment(question.expires_at)}"
    else:
        limit = f", expired at {case.words.moment(question.expires_at)}"
    when = f"asked {case.words.moment(question.asked_at)}, {case.words.past(question.asked_at)} ago{limit}"
    return Found(
        code="waiting_decision",
        since=question.asked_at,
        sentence=f"{case.who} waits for {asked} ({when})",
        detail=f"{plain(step.step_key, 80)} waits for {asked}{limit}",
        evidence=evidence,
        next_ms=question.expires_at,
        acts=frozenset({Act.ANSWER}),
    )


def _asked_about_doubt(case: Case, question: DecisionRecord, key: StepKey, evidence: tuple[str, ...]) -> Found:
    step = next((s for s in case.facts.store.steps if s.step_key == key), None)
    since = question.asked_at
    sentence = (
        f"{case.who} waits for a person: {_how_in_doubt(step, key)} and nobody knows whether it happened "
        f"(asked {case.words.moment(since)}, {case.words.past(since)} ago)"
    )
    return Found(
        code="in_doubt",
        since=since,
        sentence=sentence,
        detail=_doubt_detail(case, step, key),
        evidence=case.evidence("step_in_doubt", step_key=key) + case.evidence("workflow_recovery") + evidence,
        acts=frozenset({Act.ANSWER, Act.SETTLE}),
    )


def _how_in_doubt(step: StepRecord | None, key: str) -> str:
    error = None if step is None else failure_words(step.error)
    if step is not None and error is not None:
        return f"try {step.try_number} of {plain(key, 80)} ended with {error}"
    return f"the engine died during {plain(key, 80)}"


def _doubt_detail(case: Case, step: StepRecord | None, key: str) -> str:
    tried = "" if step is None else f", try {step.try_number}, policy {step.policy}"
    return f"{plain(key, 80)}{tried}, idempotency key {idempotency_key(case.job.job_id, plain(key, 80))}"


def left_in_doubt(case: Case) -> list[Found]:
    """Return the steps in doubt about which nobody was asked yet, as one cause; none when there are none.

    Once a job is queued or runs, steps that are simply called again are not worth a word.
    """
    asked = {doubted_step(d) for d in case.facts.store.decisions if d.state == "open"}
    stalled = case.job.state is JobState.STALLED
    steps = [s for s in doubts(case.facts) if s.step_key not in asked]
    if not stalled:
        steps = [s for s in steps if s.policy != "retry" and not _in_pause(case, s)]
    if not steps:
        return []
    run = "this run" if case.job.state is JobState.RUNNING else "the next run"
    keys = listed([f"{plain(s.step_key, 60)} (try {s.try_number}, policy {s.policy})" for s in steps])
    then = {
        "retry": f"{run} calls it again",
        "ask": f"{run} asks a person first",
        "fail": f"{run} fails it",
        "reconcile": f"{run} looks first whether it happened",
    }[steps[0].policy]
    since = max(s.begun_at for s in steps)
    return [
        Found(
            code="in_doubt",
            since=since,
            sentence=f"{case.who} has {count(len(steps), 'step')} in doubt: {keys}; {then}",
            detail=f"{keys}: {then}",
            evidence=case.evidence("step_in_doubt") if not stalled else case.evidence("workflow_recovery"),
            next_ms=max((s.until for s in steps if s.until), default=None),
            acts=frozenset({Act.SETTLE}),
        )
    ]


def _child(case: Case, step: StepRecord) -> Found:
    child_id = step.waits_for or ""
    child = case.facts.children.get(JobId(child_id))
    told = f"{short(child_id)} (relight why {short(child_id)})" if child is None else case.tell_child(child).rstrip(".")
    since = f"{case.words.since(step.begun_at)}{_limit(case, step.until)}"
    return Found(
        code="waiting_child",
        since=step.begun_at,
        sentence=f"{case.who} waits for its child {since}: {told}",
        detail=told,
        evidence=case.evidence("wait_started", step_key=step.step_key),
        next_ms=step.until,
    )


def _token(case: Case, step: StepRecord) -> Found:
    """Explain a wait for somebody outside, by the token that they were given."""
    token = next((t for t in case.facts.store.tokens if t.token == step.waits_for), None)
    if token is None:
        return _external(case, step)
    name = plain(token.name, 80)
    limits = [at for at in (step.until, token.expires_at) if at is not None]
    limit = _limit(case, min(limits, default=None))
    heard, silent_at = "", None
    if token.beat_at > token.created_at:
        said = f" ({plain(token.note, 80)})" if token.note else ""
        heard = f", last heartbeat {case.words.past(token.beat_at)} ago{said}"
    if token.heartbeat_ms is not None:
        silent_at = token.beat_at + token.heartbeat_ms
        heard = heard or ", no heartbeat yet"
        over = silent_at <= case.facts.now_ms
        heard += f", {'due since' if over else 'the next is due by'} {case.words.moment(silent_at)}"
    since = case.words.since(token.created_at)
    return Found(
        code="waiting_external",
        since=token.created_at,
        sentence=f'{case.who} waits for "{name}" to be completed from outside {since}{heard}{limit}',
        detail=f'{plain(step.step_key, 80)} waits for "{name}"{heard}{limit}',
        evidence=case.evidence("external_created", step_key=token.step_key)
        + case.evidence("wait_started", step_key=step.step_key),
        next_ms=min((at for at in (*limits, silent_at) if at is not None), default=None),
        acts=frozenset({Act.COMPLETE}),
    )


def _poll(case: Case, step: StepRecord) -> Found:
    at = step.until or step.begun_at
    over = at <= case.facts.now_ms
    then = (
        "is due to be made again" if over else f"is made again at {case.words.moment(at)} (in {case.words.ahead(at)})"
    )
    checks = count(step.try_number, "check")
    return Found(
        code="sleeping",
        since=step.begun_at,
        sentence=f"{case.who} polls {plain(step.name, 80)}: after {checks} its state will not do yet, the check {then}",
        detail=f"{plain(step.step_key, 80)}, {checks} so far, the next {case.words.until(at)}",
        evidence=case.evidence("sleep_started", step_key=step.step_key),
        next_ms=at,
    )


def _external(case: Case, step: StepRecord) -> Found:
    """Explain a wait for something outside of which no token is known, or a kind of wait that is newer than this code."""
    known = step.kind is StepKind.EXTERNAL  # what it waits for is a token then, whose name says more
    name = plain(step.name if known else step.waits_for or step.name, 80)
    heard = f", last word {plain(step.note, 80)}" if step.note else ""
    limit = _limit(case, step.until)
    return Found(
        code="waiting_external",
        since=step.begun_at,
        sentence=f'{case.who} waits for "{name}" to be completed from outside {case.words.since(step.begun_at)}{limit}',
        detail=f'{step.step_key} waits for "{name}"{heard}{limit}',
        evidence=case.evidence("wait_started", step_key=step.step_key),
        next_ms=step.until,
    )


_WAITS: dict[str, Callable[[Case, StepRecord], Found]] = {
    "sleep": _sleep,
    "signal": _signal,
    "ask": _asked,
    "child_result": _child,
    "external": _token,
    "poll": _poll,
}
