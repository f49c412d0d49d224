"""What may be done about a job now, and the commands that do it. The only place that says so.

``allowed_acts`` is read off the transition table (moves by ``OPERATOR``) and off what the statements ask for beside it: an
answer needs an open question, a request to end stands once, a silent engine's jobs are not resumed. ``why`` shows exactly
these, and ``core/commands/steering.py`` accepts them (a test compares both). Read next: ``why.py``.
"""

from __future__ import annotations

import re
import shlex
from enum import StrEnum

import msgspec

from relight.core.able import other_versions
from relight.core.commands.steering import MISMATCH, is_acceptable
from relight.core.transitions import NEVER_LEFT, By, is_legal
from relight.core.why_facts import Facts
from relight.ids import EngineId, StepKey, short
from relight.model import (
    FINAL_STATES,
    DecisionRecord,
    EngineState,
    JobRecord,
    JobState,
    StepKind,
    StepRecord,
    StepState,
    TokenRecord,
)

_SETTLED = ("done", "not_done")
"""What may also be said of a step in doubt by settling it, which has room for its result."""

_SHOWN = 3
"""How many questions, steps or messages are spelled out as commands."""


class Act(StrEnum):
    """What a person may do about a job, in the order in which it is offered."""

    ANSWER = "answer"
    SETTLE = "settle"
    """Say whether a step in doubt happened, ahead of replay."""
    SIGNAL = "signal"
    COMPLETE = "complete"
    """Answer a token that the job handed out and waits for, or say that somebody is still at work on it."""
    RESUME = "resume"
    REROUTE = "reroute"
    """Let another version of its kind take it than the one under which it began."""
    RETRY = "retry"
    RELEASE = "release"
    """Take its row out of quarantine."""
    UNPAUSE = "unpause"
    """Let its queue start jobs again."""
    FENCE = "fence"
    """An operator's word that its engine is dead."""
    CANCEL = "cancel"
    FAIL = "fail"
    FORCE = "force"
    """End it at once, without the last run that cleans up: for what does not hear an ordinary request."""


def allowed_acts(job: JobRecord, facts: Facts) -> frozenset[Act]:
    """Return what may be done about a job in its present state; empty for one that is never left."""
    acts: set[Act] = set()
    final = job.state in FINAL_STATES
    quarantined = is_quarantined(facts)
    if is_legal(job.state, JobState.QUEUED, By.OPERATOR):
        if final:
            acts.add(Act.RETRY)
        elif job.held_by is None and (job.state is JobState.STALLED or is_mismatch(job)):
            acts.add(Act.RESUME)
    if quarantined and job.state not in NEVER_LEFT:
        acts.add(Act.RELEASE)
    if final:
        return frozenset(acts)
    if open_questions(facts):
        acts.add(Act.ANSWER)
    if doubts_for_people(facts):
        acts.add(Act.SETTLE)
    if awaited_signals(facts):
        acts.add(Act.SIGNAL)
    if awaited_tokens(facts):
        acts.add(Act.COMPLETE)
    if other_versions(job, facts.engines, facts.now_ms):
        acts.add(Act.REROUTE)
    if is_paused(facts):
        acts.add(Act.UNPAUSE)
    if engine_to_fence(facts) is not None:
        acts.add(Act.FENCE)
    for target, act in ((JobState.CANCELLED, Act.CANCEL), (JobState.FAILED, Act.FAIL)):
        if is_legal(job.state, target, By.OPERATOR):
            if not job.begun or job.cancel_code is None:
                acts.add(act)
            if job.begun and (job.cancel_code is not None or quarantined):
                acts.add(Act.FORCE)
    return frozenset(acts)


def is_quarantined(facts: Facts) -> bool:
    """Tell whether the job's row is set aside now."""
    return facts.store.quarantine is not None and facts.store.quarantine.released_at is None


def is_paused(facts: Facts) -> bool:
    """Tell whether the job stands in a queue that an operator has paused."""
    queue = facts.line.queue if facts.line is not None else None
    return facts.job.state is JobState.QUEUED and queue is not None and queue.paused


def is_mismatch(job: JobRecord) -> bool:
    """Tell whether the job waits for an operator because its code no longer agrees with its record."""
    return job.state is JobState.AWAITING_USER and job.status_reason.startswith(MISMATCH)


def open_questions(facts: Facts) -> list[DecisionRecord]:
    """Return the questions that may still be answered, the oldest first."""
    return [
        d for d in facts.store.decisions if d.state == "open" and (d.expires_at is None or d.expires_at > facts.now_ms)
    ]


def doubts(facts: Facts) -> list[StepRecord]:
    """Return the steps that had begun and of whose end nobody knows."""
    return [s for s in facts.store.steps if s.state is StepState.IN_DOUBT]


def doubts_for_people(facts: Facts) -> list[StepRecord]:
    """Return the steps in doubt that a person may settle now: those asked about, or all while no run can go on.

    None while a silent engine holds the job: it may still act. A step that is simply called again is nobody's question.
    """
    job = facts.job
    if job.held_by is not None:
        return []
    asked = {doubted_step(question) for question in open_questions(facts)}
    rests = job.state in (JobState.STALLED, JobState.AWAITING_USER)
    return [step for step in doubts(facts) if step.step_key in asked or (rests and step.policy != "retry")]


def awaited_signals(facts: Facts) -> list[str]:
    """Return the names of messages that the job waits for and that nobody has sent yet; none when it is to end."""
    if facts.job.cancel_code is not None:
        return []
    waits = (s for s in facts.store.steps if s.kind is StepKind.SIGNAL and s.state is StepState.WAITING)
    sent = {signal.name for signal in facts.store.unread}
    return [name for name in dict.fromkeys(s.waits_for or s.name for s in waits) if name not in sent]


def awaited_tokens(facts: Facts) -> list[TokenRecord]:
    """Return the tokens that the job waits for and that may still be answered, the oldest first; none when it is to end."""
    if facts.job.cancel_code is not None:
        return []
    waits = {s.waits_for for s in facts.store.steps if s.kind is StepKind.EXTERNAL and s.state is StepState.WAITING}
    return [t for t in facts.store.tokens if t.token in waits and (t.expires_at is None or t.expires_at > facts.now_ms)]


def engine_to_fence(facts: Facts) -> EngineId | None:
    """Return the engine whose death only a person may vouch for: one that holds the job, or runs it and is not heard of."""
    job, owner = facts.job, facts.store.owner
    if job.held_by is not None:
        return job.held_by
    if job.state is not JobState.RUNNING or owner is None:
        return None
    unheard = owner.state is EngineState.LIVE and owner.lease_until < facts.now_ms
    return owner.engine_id if unheard or owner.state is EngineState.SILENT else None


def commands(act: Act, facts: Facts) -> list[str]:
    """Return the commands that do an allowed act, ready to be typed but for what stands in capitals."""
    job = short(facts.job.job_id)
    match act:
        case Act.ANSWER:
            return _answers(facts)
        case Act.SETTLE:
            return [
                f"relight resume {job} {how}"
                for step in doubts_for_people(facts)[:_SHOWN]
                for how in (f"--done {_word(step.step_key)} --value JSON", f"--not-done {_word(step.step_key)}")
            ]
        case Act.SIGNAL:
            return [f"relight signal {job} {_word(name)}" for name in awaited_signals(facts)[:_SHOWN]]
        case Act.COMPLETE:
            return [
                f"relight {how}"
                for token in awaited_tokens(facts)[:_SHOWN]
                for how in (
                    f"complete {_word(token.token)} --json VALUE",
                    f"fail {_word(token.token)} --reason TEXT",
                    *([f"beat {_word(token.token)}"] if token.heartbeat_ms is not None else []),
                )
            ]
        case Act.RESUME:
            return [f"relight resume {job}", *([f"relight resume {job} --accept"] if is_acceptable(facts.job) else [])]
        case Act.REROUTE:
            return [f"relight resume {job} --accept"]
        case Act.RETRY:
            failed = facts.store.counts.failed > 1
            return [f"relight retry {job}", *([f"relight retry {job} --all-failed"] if failed else [])]
        case Act.UNPAUSE:
            return [f"relight queues resume {_word(facts.job.queue)}"]
        case Act.FENCE:
            return [f"relight engines fence {short(engine_to_fence(facts) or '')}"]
        case Act.FORCE:
            verb = "cancel" if facts.job.cancel_code == "cancel" else "fail"
            return [f"relight {verb} {job} --force"]
    return [f"relight {act} {job}"]


def _answers(facts: Facts) -> list[str]:
    questions = open_questions(facts)
    found = []
    for question in questions[:_SHOWN]:
        which = f" --decision {question.decision_id}" if len(questions) > 1 else ""
        choices = options_of(question)[:6]
        if doubted_step(question) in {step.step_key for step in doubts_for_people(facts)}:
            choices = [choice for choice in choices if choice not in _SETTLED]
        found += [f"relight answer {short(facts.job.job_id)} {_word(choice)}{which}" for choice in choices]
    return found


def doubted_step(question: DecisionRecord) -> StepKey | None:
    """Return the step in doubt that a question is about; None when it is a question of the job's own."""
    key, mark, _ = question.step_key.rpartition("?")
    return StepKey(key) if mark else None


def options_of(question: DecisionRecord) -> list[str]:
    """Return what may be answered; a placeholder when the stored options cannot be read."""
    try:
        options = msgspec.json.decode(question.options, type=list[str])
    except msgspec.MsgspecError:
        options = []
    return options or ["CHOICE"]


_SAFE = re.compile(r"[\w@%+=:,./-][\w@%+=:,./#-]*")


def _word(text: str) -> str:
    """Quote a word for a shell, if it has to be: ``charge#0`` has not, ``extract[d-17]`` has."""
    shown = "".join(ch if ch.isprintable() else "?" for ch in text)
    return shown if _SAFE.fullmatch(shown) else shlex.quote(shown)
