"""The same act on many jobs: which ones by a filter, each decided for itself, as if it were the only one.

A bulk act is first a list: nothing happens to jobs that were not shown to be meant. A job that moves meanwhile is left
alone and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from relight.client.steering import Steering
from relight.core.able import other_versions
from relight.core.changes import Who
from relight.core.commands import Command
from relight.core.commands.steering import decide_resume, is_acceptable
from relight.errors import Conflict, Fenced, IllegalTransition
from relight.model import JobRecord, JobState
from relight.store.reads import JobFilter, Unreadable

PAGE = 500


class Done(NamedTuple):
    """What became of a bulk act: jobs it was done to, and jobs that had moved meanwhile."""

    done: int
    moved: int


class Bulk(Steering):
    """A session that steers many jobs at once."""

    def resumable(self, which: JobFilter, *, accept: bool = False) -> Iterator[JobRecord]:
        """Yield the jobs that ``resume_all`` would resume, the newest first: stalled ones that nobody holds any more.

        With ``accept`` those stopped by a mismatch that can be accepted; and queued ones, if that state is named, whose
        version no live engine has. Rows that cannot be read are left out.
        """
        states = which.states or (JobState.AWAITING_USER if accept else JobState.STALLED,)
        with self.store.reading() as reads:
            engines = reads.engines(limit=0)
        now_ms = self.clock.now_ms()
        for job in self._jobs(replace(which, states=states)):
            if (is_acceptable(job) or other_versions(job, engines, now_ms)) if accept else _resumes(job):
                yield job

    def retriable(self, which: JobFilter) -> Iterator[JobRecord]:
        """Yield the jobs that ``retry_all`` would retry, the newest first: failed ones; poisoned ones only if named."""
        states = which.states or (JobState.FAILED,)
        may = {JobState.FAILED, JobState.POISONED}
        return (job for job in self._jobs(replace(which, states=states)) if job.state in may)

    def resume_all(self, jobs: Sequence[JobRecord], *, by: str | None, accept: bool = False) -> Done:
        """Resume jobs, each as ``resume`` does."""
        who = self.who(by)
        return self._all(jobs, lambda job: self.accepting(job, who) if accept else decide_resume(job, who))

    def retry_all(self, jobs: Sequence[JobRecord], *, by: str | None, all_failed: bool = False) -> Done:
        """Retry jobs, each as ``retry`` does."""
        who: Who = self.who(by)
        return self._all(jobs, lambda job: self.retrying(job, who, all_failed=all_failed))

    def _jobs(self, which: JobFilter) -> Iterator[JobRecord]:
        left = which.limit
        before = which.before
        while True:
            size = min(PAGE, left) if which.limit else PAGE
            aside: list[Unreadable] = []
            with self.store.reading() as reads:
                page = reads.jobs(replace(which, before=before, limit=size), aside=aside)
            yield from page
            left -= len(page)
            seen = [job.job_id for job in page] + [bad.id for bad in aside]
            if len(seen) < size or (which.limit and left <= 0):
                return
            before = min(seen)

    def _all(self, jobs: Sequence[JobRecord], decide: Callable[[JobRecord], Command]) -> Done:
        done = moved = 0
        for start in range(0, len(jobs), PAGE):
            commands = []
            for job in jobs[start : start + PAGE]:
                try:
                    commands.append(decide(job))
                except IllegalTransition:
                    moved += 1
            for error in self.journal.execute_all(commands, patience_seconds=self.patience_seconds) if commands else ():
                if error is not None and (isinstance(error, Fenced) or not isinstance(error, Conflict)):
                    raise error
                done += error is None
                moved += error is not None
        return Done(done, moved)


def _resumes(job: JobRecord) -> bool:
    if job.state is JobState.STALLED:
        return job.held_by is None
    return job.state is JobState.AWAITING_USER and job.status_reason.startswith("history_mismatch")
