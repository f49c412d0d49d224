"""Causes of jobs that have ended: how, when, by whom, and what was left behind. Read off the row, mostly.

Read next: ``why.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from relight.core.able import read_list
from relight.core.why_acts import Act
from relight.core.why_case import Case, Found, failure_words, read_map
from relight.core.why_words import count, lasting, listed, plain
from relight.model import JobState, RunState, StepState


def ended(case: Case) -> list[Found]:
    """Return the cause of a job that has ended."""
    return [_ENDS[case.job.state](case)]


def _at(case: Case) -> int:
    return case.job.completed_at or case.job.updated_at


def _completed(case: Case) -> Found:
    job = case.job
    at = _at(case)
    issues = [_issue_words(issue) for issue in read_list(job.issues)]
    with_issues = job.state is JobState.COMPLETED_WITH_ISSUES
    well = f" with {count(len(issues), 'issue')}" if with_issues and issues else " with issues" if with_issues else ""
    took = lasting(at - job.created_at)
    said = f": {listed(issues)}" if issues and with_issues else ""
    return Found(
        code="issues" if with_issues else "completed",
        since=at,
        sentence=f"{case.who} completed{well} at {case.words.moment(at)} in {took}{_attempts(case)}{said}{_unread(case)}",
        detail=f"completed in {took}{_attempts(case)}{said}",
        evidence=case.evidence("job_completed_with_issues" if with_issues else "job_completed"),
    )


def _issue_words(issue: object) -> str:
    if isinstance(issue, dict):
        detail = plain(str(issue.get("detail") or ""), 80)
        code = plain(str(issue.get("code") or "issue"), 60)
        return f"{code} ({detail})" if detail else code
    return plain(str(issue), 80)


def _attempts(case: Case) -> str:
    """Say what it took beyond one attempt: ``(attempt 2; stalled once at 09:11:02, resumed after 30 ms)``."""
    stalls = [run for run in case.facts.store.runs if run.state is RunState.STALLED and run.ended_at is not None]
    if case.job.attempt <= 1 and not stalls:
        return ""
    said = f"attempt {case.job.attempt}"
    if stalls:
        last = stalls[0]
        at = last.ended_at or 0
        times = "once" if len(stalls) == 1 else f"{len(stalls)} times, last"
        said += f"; stalled {times} at {case.words.moment(at)}"
        after = [run.started_at for run in case.facts.store.runs if run.started_at >= at and run.run_id != last.run_id]
        if after:
            said += f", resumed after {lasting(min(after) - at)}"
    return f" ({said})"


def _unread(case: Case) -> str:
    unread = case.facts.store.unread
    if not unread:
        return ""
    names = listed([f'"{plain(s.name, 40)}"' + (f" from {plain(s.by, 40)}" if s.by else "") for s in unread])
    was = "was" if len(unread) == 1 else "were"
    return f". {count(len(unread), 'signal')} {was} never read: {names}"


def _failed(case: Case) -> Found:
    job = case.job
    at = _at(case)
    failure = read_map(job.error)
    because = failure_words(job.error) or plain(job.status_reason.replace("_", " "))
    where = plain(str(failure.get("step_key") or ""), 80)
    tries = failure.get("tries")
    tried = f" after {count(tries, 'try', 'tries')}" if where and isinstance(tries, int) and tries > 0 else ""
    place = f" in {where}{tried}" if where else ""
    others = [s for s in case.facts.store.steps if s.state is StepState.FAILED and s.step_key != where]
    also = "also failed" if where else "failed steps"
    more = f"; {also}: {listed([plain(s.step_key, 60) for s in others])}" if others else ""
    begun = "" if job.begun else ", before it began"
    evidence = case.evidence("job_failed") + (case.evidence("step_failed", step_key=where) if where else ())
    return Found(
        code="failed",
        since=at,
        sentence=f"{case.who} failed at {case.words.moment(at)}{place}{begun}{_attempts(case)}: {because}{_unread(case)}",
        detail=f"{because}{place}{more}; a retry keeps every finished step",
        evidence=evidence,
        acts=frozenset({Act.RETRY}),
    )


def _cancelled(case: Case) -> Found:
    job = case.job
    at = _at(case)
    mark = case.mark("job_cancelled")
    told = read_map(mark.payload) if mark is not None else {}
    by = plain(job.cancel_by or str(told.get("by") or (mark.actor_id if mark is not None else "")), 60)
    reason = plain(job.cancel_reason or str(told.get("reason") or ""))
    said = (f" by {by}" if by else "") + (f": {reason}" if reason else "")
    forced = " by force" if job.status_reason.startswith("forced") else ""
    begun = "" if job.begun else ", before it began"
    return Found(
        code="cancelled",
        since=at,
        sentence=f"{case.who} was cancelled{forced} at {case.words.moment(at)}{begun}{said}{_unread(case)}",
        detail=f"cancelled{forced}{said or ' (nobody is named)'}",
        evidence=case.evidence("job_cancelled", "job_cancel_requested"),
    )


def _poisoned(case: Case) -> Found:
    job = case.job
    at = _at(case)
    because = failure_words(job.error) or f"the engine died {count(job.stalls, 'time')} while it ran"
    stalls = tuple(mark.event_id for mark in case.facts.store.marks if mark.type == "workflow_recovery")
    return Found(
        code="poisoned",
        since=at,
        sentence=f"{case.who} was poisoned at {case.words.moment(at)}: {because}; it is not tried again by itself",
        detail=f"{because}; a retry runs it again and keeps every finished step",
        evidence=case.evidence("job_poisoned") + stalls[: max(job.stalls, 1)],
        acts=frozenset({Act.RETRY}),
    )


_ENDS: dict[JobState, Callable[[Case], Found]] = {
    JobState.COMPLETED: _completed,
    JobState.COMPLETED_WITH_ISSUES: _completed,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
    JobState.POISONED: _poisoned,
}
