"""Handles: a job as its submitter holds it, in both colours. Each method is one call into ``Core``."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from relight.authoring.children import job_error
from relight.client.blocking import in_thread, refuse_on_any_loop
from relight.client.core import Core
from relight.clock import SystemClock
from relight.core.flow import STOWED
from relight.errors import InvalidArgument, StorageUnavailable, WaitTimeout
from relight.ids import JobId, short
from relight.model import FINAL_STATES, Event, JobInfo, JobRecord, JobState, Why

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
FOREVER_SECONDS = 1e9

_PATIENCE = SystemClock()
"""What a caller's patience is measured by: real time, also where a test's clock skips the job's."""


def _timeout(seconds: float | None) -> float | None:
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9
    ):
        raise InvalidArgument(f"timeout_seconds={seconds!r}: a number of seconds, 0 or more, or None")
    return seconds


class _Handle(Generic[R_co]):
    """What both colours share: who the job is, and how its result is read."""

    def __init__(self, core: Core, job_id: str, kind: str | None, *, created: bool, result_type: Any = None) -> None:
        self._core = core
        self._kind = kind
        self._type = result_type
        self.id = job_id
        self.created = created

    def __repr__(self) -> str:
        return f"<job {self._kind or ''} {self.id}>"

    def _repr_html_(self) -> str:
        return f"<code>{self._kind or 'job'} {short(self.id)}</code>"

    def _read_result(self, job: JobRecord) -> R_co:
        if job.state not in FINAL_STATES:
            raise StorageUnavailable(
                f"{self._core.store.place} was closed while {short(self.id)} was waited for", job_id=self.id
            )
        if job.outputs is None:
            raise job_error(self.id, job.kind, job.state, job.error)
        text = job.outputs
        if text.startswith(STOWED):
            with self._core.store.reading() as reads:
                text = reads.blob(text.removeprefix(STOWED)) or "null"
        registry = self._core.registry
        workflow = registry.find_version(job.kind, job.version) or registry.find(job.kind)
        if self._type is not None:
            codec = self._core.registry.codecs.for_type(self._type, what="type")
        elif workflow is not None:
            codec = self._core.registry.signature(workflow.spec.function).result
        else:
            codec = self._core.registry.codecs.for_type(Any, what="result")
        value: R_co = codec.decode(text.encode())
        return value

    def _timed_out(self, seconds: float | None) -> WaitTimeout:
        summary = self._core.why(self.id).summary
        return WaitTimeout(
            f"{self._kind or 'job'} {short(self.id)} not finished after {seconds:g} s: {summary}",
            summary=summary,
            job_id=self.id,
        )

    def _not_published(self, name: str, seconds: float) -> WaitTimeout:
        summary = self._core.why(self.id).summary
        return WaitTimeout(
            f"{self._kind or 'job'} {short(self.id)} has not published {name!r} after {seconds:g} s: {summary}",
            summary=summary,
            job_id=self.id,
        )


SLICE_SECONDS = 0.25
"""How long an async caller's thread waits at a time: what is cancelled leaves no thread behind for longer."""


class Job(_Handle[R_co]):
    """A job, from sync code. ``created`` is False when a submit found it already there."""

    def state(self) -> JobState:
        """Return its state now. Raises ``NotFound``."""
        return self._core.find(self.id).state

    def info(self) -> JobInfo:
        """Return a snapshot of it."""
        return self._core.info(self.id)

    def result(self, *, timeout_seconds: float | None = None) -> R_co:
        """Wait for its end and return its result.

        Raises ``JobFailed``, ``JobCancelled`` or ``JobPoisoned`` for how it ended, and ``WaitTimeout`` (quoting ``why``)
        after ``timeout_seconds``; the job goes on. Interrupting this call ends the wait, not the job.
        """
        refuse_on_any_loop("result()", "Use AsyncEngine or AsyncClient, and: await job.result()")
        _timeout(timeout_seconds)
        deadline = None if timeout_seconds is None else _PATIENCE.mono_ms() / 1000 + timeout_seconds
        job = self._core.find(self.id)
        while job.state not in FINAL_STATES and not self._core.ends.stopped:
            self._wait_for_end(timeout_seconds, deadline)
            job = self._core.find(self.id)
        return self._read_result(job)

    def _wait_for_end(self, timeout_seconds: float | None, deadline: float | None) -> None:
        over = threading.Event()
        self._core.ends.wait_for(JobId(self.id), over.set)
        try:
            if not over.wait(None if deadline is None else max(deadline - _PATIENCE.mono_ms() / 1000, 0)):
                raise self._timed_out(timeout_seconds)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(
                f"{self._kind or 'job'} {short(self.id)} was not interrupted: it goes on. result() waits again, cancel() ends it"
            )
            raise
        finally:
            self._core.ends.forget(JobId(self.id), over.set)

    def published(self, name: str, *, type: type[T], timeout_seconds: float | None = None) -> T:
        """Wait until it has published a value under a name, and return the latest one as ``type``.

        Raises ``WaitTimeout`` (quoting ``why``) after ``timeout_seconds`` (0: look once), and ``NotFound`` when it has
        ended without publishing it, ``PayloadError`` when the value is something else.
        """
        refuse_on_any_loop("published()", "Use AsyncEngine or AsyncClient, and: await job.published(…)")
        codec = self._core.published_codec(name, type)
        limit = _timeout(timeout_seconds)
        text = self._core.look_until_published(self.id, name, FOREVER_SECONDS if limit is None else limit)
        if text is None:
            raise self._not_published(name, limit or 0)
        value: T = codec.decode(text.encode(), what=f"published {name!r}")
        return value

    def why(self) -> Why:
        """Explain why it is where it is."""
        return self._core.why(self.id)

    def events(self, *, follow: bool = False) -> Iterator[Event]:
        """Yield its events in commit order; with ``follow``, until it has ended."""
        return self._core.events(self.id, follow=follow)

    def signal(
        self, name: str, payload: object = None, *, by: str | None = None, idempotency_key: str | None = None
    ) -> None:
        """Send it a message; under one key only once. Raises ``Conflict`` when it has ended."""
        self._core.signal(self.id, name, payload, by=by, idempotency_key=idempotency_key)

    def cancel(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Ask it to end: at once if it never began, else in one last run that cleans up."""
        self._core.end(self.id, code="cancel", reason=reason, by=by)

    def fail(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Ask it to end as failed, as ``cancel`` does."""
        self._core.end(self.id, code="fail", reason=reason, by=by)

    def resume(self, *, by: str | None = None) -> None:
        """Queue it again after a stall that an operator was to look at, or a history mismatch."""
        self._core.resume(self.id, by=by)

    def retry(self, *, by: str | None = None) -> None:
        """Queue it again after it failed or was poisoned: it goes on where it stopped."""
        self._core.retry(self.id, by=by)

    def fork(self, *, from_step: str | None = None, by: str | None = None) -> Job[R_co]:
        """Make a new job of what it has finished, whatever its state; this one is not touched.

        With ``from_step`` (a key as ``relight show`` lists it) the new job takes over the steps that had finished before that
        one began, and calls it and all after it again; else all that finished but the failures that ended it. Steps taken
        over never run again; children are taken over as their outcomes. Raises ``InvalidArgument`` for an unknown step.
        """
        new = self._core.fork(self.id, from_step=from_step, by=by)
        return Job(self._core, new.job_id, new.kind, created=True, result_type=self._type)

    def answer(self, choice: str, *, decision_id: str | None = None, note: str | None = None, by: str) -> None:
        """Answer its open question."""
        self._core.answer(self.id, choice, decision_id=decision_id, note=note, by=by)


class AsyncJob(_Handle[R_co]):
    """A job, from async code: the methods of ``Job``, awaited."""

    async def state(self) -> JobState:
        """Return its state now. Raises ``NotFound``."""
        return (await in_thread(self._core.find, self.id)).state

    async def info(self) -> JobInfo:
        """Return a snapshot of it."""
        return await in_thread(self._core.info, self.id)

    async def result(self, *, timeout_seconds: float | None = None) -> R_co:
        """Wait for its end and return its result.

        Raises ``JobFailed``, ``JobCancelled`` or ``JobPoisoned`` for how it ended, and ``WaitTimeout`` (quoting ``why``)
        after ``timeout_seconds``; the job goes on. Interrupting this call ends the wait, not the job.
        """
        import asyncio

        _timeout(timeout_seconds)
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        job = await in_thread(self._core.find, self.id)
        while job.state not in FINAL_STATES and not self._core.ends.stopped:
            await self._wait_for_end(timeout_seconds, deadline)
            job = await in_thread(self._core.find, self.id)
        return self._read_result(job)

    async def _wait_for_end(self, timeout_seconds: float | None, deadline: float | None) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(over.set)
            except RuntimeError:
                return  # the caller's loop is gone, and the caller with it

        await in_thread(self._core.ends.wait_for, JobId(self.id), tell)
        try:
            async with asyncio.timeout_at(deadline):
                await over.wait()
        except TimeoutError:
            raise (await in_thread(self._timed_out, timeout_seconds)) from None
        finally:
            self._core.ends.forget(JobId(self.id), tell)

    async def published(self, name: str, *, type: type[T], timeout_seconds: float | None = None) -> T:
        """Wait until it has published a value under a name, and return the latest one as ``type``. See ``Job.published``."""
        import asyncio

        codec = self._core.published_codec(name, type)
        limit = _timeout(timeout_seconds)
        loop = asyncio.get_running_loop()
        until = loop.time() + (FOREVER_SECONDS if limit is None else limit)
        while True:
            left = max(until - loop.time(), 0)
            text = await in_thread(self._core.look_until_published, self.id, name, min(left, SLICE_SECONDS))
            if text is not None:
                value: T = codec.decode(text.encode(), what=f"published {name!r}")
                return value
            if loop.time() >= until:
                raise await in_thread(self._not_published, name, limit or 0)

    async def why(self) -> Why:
        """Explain why it is where it is."""
        return await in_thread(self._core.why, self.id)

    async def events(self, *, follow: bool = False) -> AsyncIterator[Event]:
        """Yield its events in commit order; with ``follow``, until it has ended."""
        source = self._core.events(self.id, follow=follow)
        while (event := await in_thread(next, source, None)) is not None:
            yield event

    async def signal(
        self, name: str, payload: object = None, *, by: str | None = None, idempotency_key: str | None = None
    ) -> None:
        """Send it a message; under one key only once. Raises ``Conflict`` when it has ended."""
        await in_thread(self._core.signal, self.id, name, payload, by=by, idempotency_key=idempotency_key)

    async def cancel(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Ask it to end: at once if it never began, else in one last run that cleans up."""
        await in_thread(self._core.end, self.id, code="cancel", reason=reason, by=by)

    async def fail(self, reason: str | None = None, *, by: str | None = None) -> None:
        """Ask it to end as failed, as ``cancel`` does."""
        await in_thread(self._core.end, self.id, code="fail", reason=reason, by=by)

    async def resume(self, *, by: str | None = None) -> None:
        """Queue it again after a stall that an operator was to look at, or a history mismatch."""
        await in_thread(self._core.resume, self.id, by=by)

    async def retry(self, *, by: str | None = None) -> None:
        """Queue it again after it failed or was poisoned: it goes on where it stopped."""
        await in_thread(self._core.retry, self.id, by=by)

    async def fork(self, *, from_step: str | None = None, by: str | None = None) -> AsyncJob[R_co]:
        """Make a new job of what it has finished. See ``Job.fork``."""
        new = await in_thread(self._core.fork, self.id, from_step=from_step, by=by)
        return AsyncJob(self._core, new.job_id, new.kind, created=True, result_type=self._type)

    async def answer(self, choice: str, *, decision_id: str | None = None, note: str | None = None, by: str) -> None:
        """Answer its open question."""
        await in_thread(self._core.answer, self.id, choice, decision_id=decision_id, note=note, by=by)
