"""Why is this job where it is? One sentence and typed causes, for every job in every state.

**Promise (P8).** Everything that does not progress has a cause with evidence, and the commands that are allowed now:
exactly those (``why_acts.py``), each once, beside the cause that it answers. A sentence says who, what, since when, for how
long, and what changes next by itself. Pure: facts in, words out; the same in Python, CLI, HTTP and console.

Where the causes are told::

    set aside, store refuses ........ here
    queued: a wait, then the line ... why_waits.py, why_line.py
    running, stalled, awaiting ...... why_runs.py
    ended ........................... why_ends.py

Unknown reasons, damaged texts and facts that are not there still give a cause, from the state alone.
The codes are listed in ``why_codes.py``. Read next: ``why_facts.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo

from relight.core.why_acts import Act, allowed_acts, commands, is_mismatch, is_quarantined
from relight.core.why_case import Case, Found, progress_words
from relight.core.why_ends import ended
from relight.core.why_facts import Facts, JobFacts
from relight.core.why_line import line
from relight.core.why_runs import awaiting_user, awaiting_validation, running, stalled, to_end
from relight.core.why_waits import left_in_doubt, waits, waits_for_people
from relight.core.why_words import Words, plain, when
from relight.model import FINAL_STATES, Cause, JobRecord, JobState, Why


def explain(facts: Facts, *, tz: tzinfo = UTC) -> Why:
    """Say why a job is where it is; times in sentences are told in ``tz``. Never raises, whatever the facts."""
    found = _found(_case(facts, tz))
    return Why(summary=_sentence(found[0]), causes=_causes(found, facts))


def summary_of(job: JobRecord) -> str:
    """Say in one sentence what a job's row alone tells, for lists. No queries; moments are told in full, in UTC."""
    facts = Facts(now_ms=job.updated_at, store=JobFacts(job))
    case = Case(facts, Words(None), tell_child=_first_sentence)
    if job.state in FINAL_STATES:
        return _sentence(ended(case)[0])
    return f"{case.who} {_standing(case)}."


def _first_sentence(child: Facts) -> str:
    return explain(child).summary


def _case(facts: Facts, tz: tzinfo) -> Case:
    return Case(facts, Words(facts.now_ms, tz), tell_child=lambda child: explain(child, tz=tz).summary)


def _sentence(cause: Found) -> str:
    return f"{cause.sentence.rstrip('.')}."


def _found(case: Case) -> list[Found]:
    found = [*_set_aside(case), *_degraded(case), *_BY_STATE.get(case.job.state, ended)(case)]
    found += [*_probation(case), *_deadline(case), *_abandoned(case)]
    return found


def _queued(case: Case) -> list[Found]:
    """Explain a queued job: what it waits for, and, once nothing holds it back, why nobody takes it."""
    job = case.job
    ending = to_end(case)
    found = [] if ending is None else [ending]
    if job.claimable:
        found += [*line(case), *waits_for_people(case)]
    else:
        found += waits(case) or [_not_due(case)]
        if job.ready_at is not None and job.ready_at <= case.facts.now_ms:
            found += line(case)
    return found + left_in_doubt(case)


def _not_due(case: Case) -> Found:
    job = case.job
    reason = plain(job.status_reason.replace("_", " "), 80)
    if job.ready_at is None:
        then = f"put away ({reason}); nothing that it waits for is recorded"
    elif job.ready_at > case.facts.now_ms:
        then = f"not due {case.words.until(job.ready_at)}"
    else:
        then = f"due since {case.words.moment(job.ready_at)}, and is to be woken"
    return Found(
        code="not_due",
        since=job.updated_at,
        sentence=f"{case.who} is queued and {then}",
        detail=then,
        evidence=case.evidence("run_suspended") or case.evidence("job_accepted"),
        next_ms=job.ready_at,
    )


_BY_STATE: dict[JobState, Callable[[Case], list[Found]]] = {
    JobState.QUEUED: _queued,
    JobState.RUNNING: running,
    JobState.STALLED: stalled,
    JobState.AWAITING_USER: awaiting_user,
    JobState.AWAITING_VALIDATION: awaiting_validation,
}


# What may come on top of any state.


def _set_aside(case: Case) -> list[Found]:
    row = case.facts.store.quarantine
    if row is None or not is_quarantined(case.facts) or Act.RELEASE not in allowed_acts(case.job, case.facts):
        return []
    what = f"{plain(row.code, 60)} in {plain(row.table_name, 60)}"
    return [
        Found(
            code="quarantined",
            since=row.quarantined_at,
            sentence=f"{case.who} is set aside {case.words.since(row.quarantined_at)}: {what}: {plain(row.detail)}",
            detail=f"{what}: {plain(row.detail, 300)}; until it is released, nothing touches it",
            evidence=case.evidence("row_quarantined"),
            acts=frozenset({Act.RELEASE, Act.FORCE}),
        )
    ]


def _degraded(case: Case) -> list[Found]:
    live = case.facts.live
    if live is None or live.degraded is None or case.job.state in FINAL_STATES:
        return []
    since = live.degraded_since if live.degraded_since is not None else case.facts.now_ms
    engine = case.engine_name(live.engine_id)
    says = plain(live.degraded)
    return [
        Found(
            code="store_degraded",
            since=since,
            sentence=f"{case.who} waits for the store, which refuses {engine} {case.words.since(since)}: {says}",
            detail=f"{says}; {engine} tries again and goes on by itself",
        )
    ]


def _probation(case: Case) -> list[Found]:
    job = case.job
    if not job.probation or job.state in FINAL_STATES:
        return []
    told = f"{job.stalls} of at most {job.max_stalls} stalls without progress; it runs alone in its engine"
    return [
        Found(
            code="probation",
            since=job.updated_at,
            sentence=f"{case.who} is on probation: {told}",
            detail=f"{told}, and one more stall poisons it",
            evidence=case.evidence("job_probation", "workflow_recovery"),
        )
    ]


def _deadline(case: Case) -> list[Found]:
    """Tell of a deadline that is to come, or that nobody has noticed yet."""
    job = case.job
    if job.deadline_at is None or job.cancel_code is not None or job.state in FINAL_STATES:
        return []
    over = job.deadline_at <= case.facts.now_ms
    said = (
        f"its deadline passed at {case.words.moment(job.deadline_at)}"
        if over
        else f"it may take {case.words.until(job.deadline_at)}"
    )
    return [
        Found(
            code="deadline",
            since=job.deadline_at if over else job.created_at,
            sentence=f"{case.who} has a deadline: {said}",
            detail=f"{said}, then it fails",
            evidence=case.evidence("job_accepted"),
            next_ms=job.deadline_at,
        )
    ]


def _abandoned(case: Case) -> list[Found]:
    threads = case.facts.live.abandoned if case.facts.live is not None else ()
    return [
        Found(
            code="abandoned_thread",
            since=step.since,
            sentence=f"{case.who} left a thread behind: {plain(step.step_key, 80)} still runs {case.words.since(step.since)}",
            detail=f"{plain(step.step_key, 80)} still runs in its thread; what it returns is not recorded",
            evidence=case.evidence("step_abandoned", step_key=step.step_key),
        )
        for step in threads[:3]
    ]


# Showing.


def _causes(found: Sequence[Found], facts: Facts) -> list[Cause]:
    """Turn what was found into causes. Each allowed act is shown once; those that answer no cause go to the first."""
    left = set(allowed_acts(facts.job, facts))
    mine = []
    for cause in found:
        acts = left & cause.acts
        left -= acts
        mine.append(acts)
    mine[0] |= left
    return [
        Cause(
            code=cause.code,
            since=when(cause.since),
            detail=cause.detail,
            evidence=list(dict.fromkeys(cause.evidence)),
            next_check_at=None if cause.next_ms is None else when(cause.next_ms),
            actions=[command for act in Act if act in acts for command in commands(act, facts)],
        )
        for cause, acts in zip(found, mine, strict=True)
    ]


def _standing(case: Case) -> str:
    """Say where a job stands that has not ended, by its row alone."""
    job = case.job
    since = f"since {case.words.moment(job.updated_at)}"
    told = plain(job.status_reason.partition(":")[2].replace("_", " "), 60)
    reason = f" ({told})" if told else ""
    if job.cancel_code is not None:
        ends = {"deadline": "is past its deadline", "fail": "is being failed"}
        return f"{ends.get(job.cancel_code, 'is being cancelled')} {since}"
    match job.state:
        case JobState.QUEUED if job.claimable:
            return f"is queued since {case.words.moment(case.waits_since)}"
        case JobState.QUEUED:
            until = since if job.ready_at is None else case.words.until(job.ready_at)
            return f"{'waits' if job.begun else 'is not due'} {until}"
        case JobState.RUNNING:
            far = progress_words(job.progress)
            return f"runs {since}{f', attempt {job.attempt}' if job.attempt > 1 else ''}{f': {far}' if far else ''}"
        case JobState.STALLED:
            return f"is {'held' if job.held_by or job.status_reason.startswith('held') else 'stalled'} {since}{reason}"
        case JobState.AWAITING_VALIDATION:
            return f"waits for its validators {since}"
    stopped = "is stopped: its code no longer agrees with its record" if is_mismatch(job) else "waits for a person"
    return f"{stopped} {since}{reason}"
