"""What clients and engines do to jobs from outside, once for both colours: submit, look, steer.

The facades in ``client.py`` and ``engine/facade.py`` are one-line methods over ``Core``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any

import msgspec

from relight.authoring.registry import check_moment, check_tags, check_text, is_text
from relight.client.bulk import Bulk
from relight.client.forking import Forking
from relight.client.outside import Outside
from relight.client.queues import SteeringQueues
from relight.clock import to_datetime
from relight.errors import InvalidArgument
from relight.ids import JobId
from relight.model import (
    FINAL_STATES,
    Event,
    EventRecord,
    JobInfo,
    JobRecord,
    JobState,
    Progress,
    Why,
)
from relight.store.reads import EventFilter, JobFilter


class Core(Forking, Bulk, SteeringQueues, Outside):
    """Everything that can be done to jobs from outside."""

    def list_jobs(
        self,
        *,
        kind: str | None,
        state: JobState | str | Sequence[JobState | str] | None,
        queue: str | None,
        tags: Mapping[str, str] | None,
        since: Any,
        limit: int,
    ) -> list[JobInfo]:
        """Return a page of jobs, newest first."""
        try:
            states = () if state is None else (state,) if isinstance(state, str) else tuple(state)
            wanted = tuple(JobState(each) for each in states)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"state: {error}; one of {', '.join(JobState)}") from None
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InvalidArgument(f"limit={limit!r}: a whole number, 0 for all")
        since_ms = 0 if since is None else check_moment(since, "since")
        check_text(kind, "kind", 200)
        check_text(queue, "queue", 200)
        if tags is not None:
            check_tags(tags)
        which = JobFilter(kind=kind, states=wanted, queue=queue, tags=tags, since_ms=since_ms, limit=limit)
        with self.store.reading() as reads:
            return [info_of(job) for job in reads.jobs(which)]

    def why(self, job_id: str, tz: tzinfo = UTC) -> Why:
        """Explain a job, its moments told in ``tz``. An engine whose lock is free is dead, whatever its row still says.

        Raises ``NotFound``, and ``StorageCorrupt`` when the job's rows cannot be read.
        """
        from relight.core.why import explain
        from relight.recorder.facts import gather_facts
        from relight.recorder.proved import as_proved

        if not is_text(job_id):
            raise self._no_such_job(job_id)
        with self.store.reading(snapshot=True) as reads:
            facts = gather_facts(reads, JobId(job_id), self.clock.now_ms())
        return explain(as_proved(facts, self.store.place), tz=tz)

    def info(self, job_id: str) -> JobInfo:
        """Return a snapshot of a job."""
        return info_of(self.find(job_id))

    def events(self, job_id: str, *, follow: bool) -> Iterator[Event]:
        """Yield a job's events in commit order; with ``follow``, until it has ended and all of it was told."""
        after = 0
        token = self.store.watch()
        while True:
            ended = self.find(job_id).state in FINAL_STATES
            seen = token()
            while True:
                with self.store.reading() as reads:
                    page = reads.events(EventFilter(job_id=job_id, after=after, limit=500))
                for row in page:
                    after = row.seq
                    yield event_of(row)
                if len(page) < 500:
                    break
            if not follow or ended:
                return
            self._until_changed(token, seen)

    def _until_changed(self, token: Callable[[], int], seen: int) -> None:
        import threading

        condition = threading.Condition()
        waited = 0
        while token() == seen and waited < 1000:
            with condition:
                self.clock.wait(condition, 10)
            waited += 10


def info_of(job: JobRecord) -> JobInfo:
    """Return what users are shown of a job's row."""
    from relight.core.why import summary_of
    from relight.core.why_case import failed_words

    progress = None
    if job.progress:
        said = msgspec.json.decode(job.progress)
        bad = failed_words(said)
        note = f"{said.get('note')} ({bad})" if bad else said.get("note")
        progress = Progress(said.get("done") or 0, said.get("total"), note, to_datetime(said["at"]))
    return JobInfo(
        id=job.job_id,
        kind=job.kind,
        state=job.state,
        status_reason=job.status_reason,
        attempt=job.attempt,
        created_at=to_datetime(job.created_at),
        completed_at=None if job.completed_at is None else to_datetime(job.completed_at),
        tags=msgspec.json.decode(job.tags) if job.tags else {},
        progress=progress,
        summary=summary_of(job),
    )


def event_of(row: EventRecord) -> Event:
    """Return what users are shown of an event's row."""
    return Event(
        seq=row.seq,
        event_id=row.event_id,
        type=row.type,
        timestamp=to_datetime(row.ts),
        actor=row.actor,
        actor_id=row.actor_id,
        trace_id=row.trace_id,
        engine_id=row.engine_id,
        writer_id=row.writer_id,
        writer_seq=row.writer_seq,
        job_id=row.job_id,
        run_id=row.run_id,
        step_key=row.step_key,
        payload=msgspec.json.decode(row.payload),
    )
