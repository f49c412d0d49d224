"""Causes of jobs that have begun and not ended: running, stalled, held, asked to end, stopped for an operator.

Read next: ``why_waits.py``.
"""

from __future__ import annotations

from relight.core.commands.steering import MISMATCH, is_acceptable
from relight.core.why_acts import Act
from relight.core.why_case import Case, Found, engine_words, progress_words, read_map, verdict_words
from relight.core.why_facts import LiveStep
from relight.core.why_line import gates, nobody_able, waiting_thread
from relight.core.why_waits import left_in_doubt, waits, waits_for_people
from relight.core.why_words import count, lasting, listed, plain
from relight.ids import short
from relight.model import EngineState, JobState, StepRecord, StepState, Verdict

MANY_STEPS = 20_000
"""Beyond so many recorded steps a job is told to be long (source: API 2.7)."""

MAX_LEFT_MS = 90 * 86_400_000
"""Beyond this a pace says nothing."""

# Running.


def running(case: Case) -> list[Found]:
    """Return what a running job does, or what keeps it from going on; always at least one cause."""
    left = _owner_silent(case)
    found = [left, *_silent_steps(case), to_end(case), _draining(case), waiting_thread(case)]
    waiting = waits(case)
    if left is None and (_in_flight(case) or not waiting):
        found.append(_busy(case, _in_flight(case)))
    return [cause for cause in [*found, *waiting, *left_in_doubt(case)] if cause is not None]


def _in_flight(case: Case) -> list[StepRecord]:
    return [s for s in case.facts.store.steps if s.state is StepState.RUNNING]


def _owner_silent(case: Case) -> Found | None:
    owner = case.facts.store.owner
    if owner is None or (owner.state is EngineState.LIVE and owner.lease_until >= case.facts.now_ms):
        return None
    name = f"{engine_words(owner)} (pid {owner.pid})"
    others = [e for e in case.heard_of() if e.engine_id != owner.engine_id]
    if owner.state is EngineState.LIVE:
        how = f"{name} has not been heard of for {case.words.past(owner.beat_at)}"
        judge = engine_words(others[0]) if others else "the next engine to start"
        then = f"{judge} looks whether it is dead, and then recovers this job"
        since = owner.beat_at
    else:
        said = {EngineState.SILENT: "is silent", EngineState.DEAD: "is dead"}.get(owner.state, "has stopped")
        how = f"{name} {said}"
        then = "recovery moves this run to stalled next"
        if not others:
            then = "no engine runs to recover it (start one: relight worker MODULE)"
        since = owner.ended_at or owner.beat_at
    busy = listed([plain(s.step_key, 80) for s in _in_flight(case)])
    return Found(
        code="owner_silent",
        since=since,
        sentence=f"{case.who} was left running: {how}; {then}",
        detail=f"{how}{f', in the middle of {busy}' if busy else ''}; {then}",
        evidence=case.evidence("run_started"),
        acts=frozenset({Act.FENCE}),
    )


def _silent_steps(case: Case) -> list[Found]:
    """Return the tries beyond their time limit: as their engine sees them, or else as the record does."""
    live = case.facts.live.silent if case.facts.live is not None else ()
    known = {step.step_key: step for step in live}
    for step in case.facts.store.steps:
        if step.state is not StepState.RUNNING or step.step_key in known:
            continue
        mark = case.mark("step_abandoned", step.step_key)
        told = mark is not None and mark.ts >= step.begun_at and read_map(mark.payload).get("reason") == "timeout"
        if told or (step.until is not None and step.until <= case.facts.now_ms):
            limit = (
                step.until if step.until is not None else mark.ts if mark is not None else step.begun_at
            ) - step.begun_at
            known[step.step_key] = LiveStep(step_key=step.step_key, since=step.begun_at, timeout_ms=limit)
    found = [_silent(case, step) for step in list(known.values())]
    missed = [s for s in _in_flight(case) if s.step_key not in known and _misses_heartbeat(case, s)]
    return [*found, *(_without_heartbeat(case, step) for step in missed)][:3]


def _last_sign(step: StepRecord) -> int:
    return max(step.begun_at, step.beat_at or 0)


def _misses_heartbeat(case: Case, step: StepRecord) -> bool:
    return step.heartbeat_ms is not None and case.facts.now_ms - _last_sign(step) > step.heartbeat_ms


def _without_heartbeat(case: Case, step: StepRecord) -> Found:
    key, since = plain(step.step_key, 80), _last_sign(step)
    said = f" ({plain(step.note, 80)})" if step.note else ""
    promised = f"it was to give a sign of life every {lasting(step.heartbeat_ms or 0)}"
    silent = f"{key} has been silent for {case.words.past(since)}{said}; {promised}"
    return Found(
        code="silent_step",
        since=since,
        sentence=f"{case.who} makes no progress: {silent}",
        detail=f"{silent}; a cancel takes effect when it returns, a restart of its engine resumes the job",
        evidence=case.evidence("step_began", step_key=step.step_key),
    )


def _silent(case: Case, step: LiveStep) -> Found:
    key = plain(step.step_key, 80)
    limit = f", past its time limit of {lasting(step.timeout_ms)}" if step.timeout_ms is not None else ""
    silent = f"{key} has been silent for {case.words.past(step.since)}{limit}"
    return Found(
        code="silent_step",
        since=step.since,
        sentence=f"{case.who} makes no progress: {silent}; a thread cannot be stopped",
        detail=f"{silent}; a cancel takes effect when it returns, a restart of its engine resumes the job",
        evidence=case.evidence("step_abandoned", "step_began", step_key=step.step_key),
    )


def to_end(case: Case) -> Found | None:
    """Return that a job was asked to end, by whom, and what that waits for; None when it was not."""
    job = case.job
    if job.cancel_code is None:
        return None
    overdue = job.cancel_code == "deadline"
    mark = case.mark("job_deadline_exceeded" if overdue else "job_cancel_requested")
    since = mark.ts if mark is not None else job.updated_at
    by = f" by {plain(job.cancel_by, 60)}" if job.cancel_by and not overdue else ""
    reason = f' ("{plain(job.cancel_reason)}")' if job.cancel_reason else ""
    busy = [plain(s.step_key, 80) for s in _in_flight(case)]
    if job.held_by is not None:
        then = f"it waits until {case.engine_name(job.held_by)} lets go of it"
    elif job.state is not JobState.RUNNING:
        then = "it gets one last run, which cleans up"
    else:
        then = f"it waits for {listed(busy)} to return" if busy else "its last run cleans up"
    if overdue:
        at = f" at {case.words.moment(job.deadline_at)}" if job.deadline_at is not None else ""
        what = told = f"passed its deadline{at}"
    else:
        verb = "failed" if job.cancel_code == "fail" else "cancelled"
        what = f"is being {verb}{by} {case.words.since(since)}{reason}"
        told = f"to be {verb}, asked{by}{reason}"
    return Found(
        code="deadline" if overdue else "cancelling",
        since=since,
        sentence=f"{case.who} {what}: {then}",
        detail=f"{told}; {then}",
        evidence=() if mark is None else (mark.event_id,),
        acts=frozenset({Act.FORCE}),
    )


def _draining(case: Case) -> Found | None:
    live, owner = case.facts.live, case.facts.store.owner
    if live is None or live.draining_since is None or owner is None or live.engine_id != owner.engine_id:
        return None
    then = "this job is put away at its next step and goes on in another engine"
    return Found(
        code="draining",
        since=live.draining_since,
        sentence=f"{case.who} runs, and {engine_words(owner)} has been stopping for {case.words.past(live.draining_since)}; {then}",
        detail=f"{engine_words(owner)} is stopping; {then}",
        evidence=case.evidence("run_started"),
    )


def _busy(case: Case, busy: list[StepRecord]) -> Found:
    job, run = case.job, case.run
    started = run.started_at if run is not None else job.updated_at
    names = listed([f"{plain(s.step_key, 80)}{_nth_try(s)} ({case.words.past(s.begun_at)})" for s in busy])
    doing = names or "its own code, between steps"
    if len(busy) > 1:
        doing = f"{count(len(busy), 'step')}: {names}"
    at = _last_progress(case)
    heard = f", last progress {case.words.past(at)} ago" if at is not None else ""
    where = f", {case.engine_name(run.engine_id)}" if run is not None else ""
    attempt = f", attempt {job.attempt}" if job.attempt > 1 else ""
    steps = case.facts.store.counts.total
    long = f"; {steps:,} steps are recorded, and each replay reads them all" if steps > MANY_STEPS else ""
    far = progress_words(job.progress)
    return Found(
        code="running",
        since=busy[0].begun_at if busy else started,
        sentence=f"{case.who} runs{'' if far else ' ' + case.words.since(started)}: {far or doing}{heard}{where}{attempt}"
        + _left(case),
        detail=f"{doing}{where}, attempt {job.attempt}{long}",
        evidence=case.evidence("step_began", step_key=busy[0].step_key) if busy else case.evidence("run_started"),
    )


def _left(case: Case) -> str:
    """Say how long the rest takes at the pace so far: ``, about 9 min left``."""
    told = read_map(case.job.progress)
    names = ("done", "total", "at", "from_done", "from_at")
    done, total, at, from_done, from_at = (_number(told.get(name)) for name in names)
    if done is None or total is None or at is None or from_done is None or from_at is None:
        return ""
    if done <= from_done or at <= from_at or done >= total:
        return ""
    left_ms = (total - done) * (at - from_at) / (done - from_done) - (case.facts.now_ms - at)
    return f", about {lasting(int(left_ms))} left" if 0 < left_ms < MAX_LEFT_MS else ""


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _nth_try(step: StepRecord) -> str:
    return f", try {step.try_number}" if step.try_number > 1 else ""


def _last_progress(case: Case) -> int | None:
    times = [case.facts.store.counts.last_at, read_map(case.job.progress).get("at")]
    return max((t for t in times if isinstance(t, int)), default=None)


# Stalled.


def stalled(case: Case) -> list[Found]:
    """Return why a job is stalled, and why it still is."""
    ending = to_end(case)
    first = _held(case) if case.job.held_by is not None or case.job.status_reason.startswith("held") else _stalled(case)
    found = [first, ending]
    if case.job.held_by is not None:
        found.append(_silent_owner(case))
    elif first.code == "stalled":
        found.append(nobody_able(case) or gates(case))
    return [cause for cause in [*found, *left_in_doubt(case), *waits_for_people(case)] if cause is not None]


def _verdict(case: Case) -> tuple[str, str]:
    """Say which engine was found how, and what proved it, from the last recovery of the job."""
    mark = case.mark("workflow_recovery")
    told = read_map(mark.payload) if mark is not None else {}
    run = case.run
    owner = case.facts.store.owner
    engine = case.engine_name(
        str(told["dead_engine_id"]) if told.get("dead_engine_id") else run.engine_id if run else None
    )
    verdict = str(
        told.get("verdict") or case.job.status_reason.partition(":")[2] or (owner.verdict if owner else "") or ""
    )
    found = {
        Verdict.DEAD: "died",
        Verdict.SILENT: "went silent",
        Verdict.LEASE_EXPIRED: "was not heard of beyond its lease",
    }.get(verdict, "left it running")  # type: ignore[call-overload]
    evidence = told.get("evidence") or (owner.evidence if owner is not None else None)
    proof = verdict_words(evidence)
    recovery = f", recovery …{str(told['recovery_id'])[-6:]}" if told.get("recovery_id") else ""
    return f"{engine} {found}", f"{proof}{recovery}".strip(", ")


def _stalled(case: Case) -> Found:
    job = case.job
    how, proof = _verdict(case)
    crashes = f"its engine died {count(job.stalls, 'time')} without a new checkpoint between"
    if job.stalls >= job.max_stalls:
        then = f"{crashes}, and policy poisons it"
    elif job.on_stall == "hold" and job.cancel_code is None:
        then = "policy holds it for an operator"
    elif job.stalls >= job.max_stalls - 1 > 0:
        then = f"{crashes}, and policy resumes it alone, on probation"
    else:
        then = "policy resumes it from its last checkpoint"
    return Found(
        code="stalled",
        since=job.updated_at,
        sentence=f"{case.who} is stalled {case.words.since(job.updated_at)}: {how} in the middle of it; {then}",
        detail=f"{how}{f' ({proof})' if proof else ''}; {then}",
        evidence=case.evidence("workflow_recovery"),
        acts=frozenset({Act.RESUME}),
    )


def _held(case: Case) -> Found:
    job = case.job
    how, proof = _verdict(case)
    since = case.words.since(job.updated_at)
    if job.held_by is not None:
        owner = case.engine_name(job.held_by)
        why = f"{owner} was stopped in the middle of it and may still act; it goes on when that process ends or wakes"
    else:
        code = plain(job.status_reason.partition(":")[2] or "policy", 60)
        why = f"{how} in the middle of it, and it waits for an operator ({code})"
    return Found(
        code="held",
        since=job.updated_at,
        sentence=f"{case.who} is held {since}: {why}",
        detail=f"{why}{f' ({proof})' if proof else ''}",
        evidence=case.evidence("job_held", "workflow_recovery"),
        acts=frozenset({Act.RESUME, Act.FENCE}),
    )


def _silent_owner(case: Case) -> Found | None:
    engine_id = case.job.held_by
    owner = next(
        (e for e in (case.facts.store.owner, *case.facts.engines) if e is not None and e.engine_id == engine_id), None
    )
    if owner is None:
        return None
    proof = verdict_words(owner.evidence)
    said = f"{engine_words(owner)} (pid {owner.pid}) was last heard of {case.words.past(owner.beat_at)} ago"
    return Found(
        code="owner_silent",
        since=owner.ended_at or owner.beat_at,
        sentence=f"{case.who} waits for its owner: {said}",
        detail=f"{said}{f' ({proof})' if proof else ''}",
        evidence=case.evidence("workflow_recovery"),
        acts=frozenset({Act.FENCE}),
    )


# Waiting for a person.


def awaiting_user(case: Case) -> list[Found]:
    """Return what a person is asked: an answer, or what to do about code that no longer agrees with the record."""
    found = [*([_mismatch(case)] if case.job.status_reason.startswith(MISMATCH) else []), *waits(case)]
    ending = to_end(case)
    found += [*([ending] if ending is not None else []), *left_in_doubt(case)]
    if any(cause.code in ("in_doubt", "waiting_decision", MISMATCH, "step_inserted") for cause in found):
        return found
    since = case.job.updated_at
    return [
        Found(
            code="waiting_decision",
            since=since,
            sentence=f"{case.who} waits for a person {case.words.since(since)} ({plain(case.job.status_reason, 80)})",
            detail=f"no open question is recorded ({plain(case.job.status_reason, 80)})",
            evidence=case.evidence("job_awaiting_user", "run_suspended"),
            acts=frozenset({Act.ANSWER}),
        ),
        *found,
    ]


def _mismatch(case: Case) -> Found:
    code = case.job.status_reason.partition(":")[2]
    mark = case.mark(MISMATCH)
    told = read_map(mark.payload) if mark is not None else {}
    key = plain(str(told.get("step_key") or "its replay"), 80)
    detail = plain(str(told.get("detail") or code.replace("_", " ") or "the code differs"), 300)
    inserted = code == "step_inserted"
    or_else = "accept the new one" if is_acceptable(case.job) else "fork the job from a step before"
    then = f"start an engine with the old code and resume, or {or_else}"
    hint = ""
    if inserted:
        then = f'to keep the new rule for new jobs, put it behind if patched("…"); {then}'
        hint = (
            '. Old code: start an engine with it. New rule only for new jobs: if patched("…"). '
            f"Run it now all the same: relight resume {short(case.job.job_id)} --accept"
        )
    since = case.job.updated_at
    return Found(
        code="step_inserted" if inserted else MISMATCH,
        since=since,
        sentence=f"{case.who} is stopped at {key} {case.words.since(since)}: {detail}{hint}",
        detail=f"{detail}; {then}",
        evidence=() if mark is None else (mark.event_id,),
        acts=frozenset({Act.RESUME}),
    )


def awaiting_validation(case: Case) -> list[Found]:
    """Return that validators look at a job's planned operations."""
    since = case.job.updated_at
    return [
        Found(
            code="waiting_validation",
            since=since,
            sentence=f"{case.who} waits for its validators {case.words.since(since)}",
            detail=f"its validators decide ({plain(case.job.status_reason, 80)})",
            evidence=case.evidence("run_suspended"),
        )
    ]
