"""What a run says to the outside while it runs: progress, published values, issues. Half of ``Conductor``.

A job may call ``heartbeat`` in a tight loop: one word at a time is on its way to the disk, and what is said meanwhile is put
together into the next one. Nothing here waits, so it is callable from the loop too. Read next: ``runner.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from relight.authoring.context import SCOPE, ItemCount
from relight.authoring.registry import step_signature
from relight.core import waits
from relight.core.commands.outside import PublishValue
from relight.core.commands.steps import ReportProgress
from relight.core.flow import INLINE_CHARS, Flow, Persist, StepCall, Stow, digest
from relight.core.history import History
from relight.core.keys import branch_of
from relight.core.polling import Polling, poll
from relight.engine.port import path_here
from relight.engine.run import Run
from relight.errors import Fenced, Overloaded, StorageUnavailable
from relight.ids import StepKey

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation


class Reporter:
    """The last word of a run about its progress, on its way to the disk. Guarded by the run's lock."""

    def __init__(self, run: Run, engine: Incarnation) -> None:
        self._run = run
        self._engine = engine
        self._notes: dict[StepKey, str | None] = {}
        self._said = False
        self._under_way = False

    def note(self, key: StepKey, note: str | None) -> None:
        """Note what a step says, and that it lives."""
        run = self._run
        with run.lock:
            if note is not None:
                run.notes[key] = note
            self._notes[key] = run.notes.get(key)

    def news(self) -> None:
        """Hear that there is something new to say."""
        with self._run.lock:
            self._said = True
            if self._under_way:
                return
            self._under_way = True
        self._put()

    def last_word(self) -> None:
        """Put in what was said and is not on its way yet: before the run's end is recorded."""
        with self._run.lock:
            left = self._said
        if left:
            self._put()

    def _put(self) -> None:
        with self._run.lock:
            notes, self._notes, self._said = self._notes, {}, False
        command = ReportProgress(job=self._run.ref, progress=self._run.progress.text(), notes=tuple(notes.items()))
        try:
            self._engine.journal.put(command, waker=self._on_disk, lazy=True)
        except (Fenced, StorageUnavailable, Overloaded):
            # Progress is not worth an error; whatever stops the journal is told by the next durable call.
            with self._run.lock:
                self._under_way = False

    def _on_disk(self, tickets: list[Any]) -> None:
        with self._run.lock:
            more = self._said
            self._under_way = more
        if more:
            self._put()


class Saying:
    """See the module."""

    run: Run
    history: History
    engine: Incarnation
    drive_value: Callable[[Flow], Any]

    def report(self, *, done: float | None, total: float | None, note: str | None) -> None:
        """Note progress; it rides along with the next commit."""
        scope = SCOPE.get()
        key = None if scope is None or scope.step is None else StepKey(scope.step.key)
        reporter = self._reporter()
        if key is not None:
            reporter.note(key, note)
        elif self.history.replaying(path_here()):
            return  # it was said before, and further words may have followed
        at = self.engine.clock.now_ms()
        self.run.progress.say(done=done, total=total, note=note, at=at, in_step=key is not None)
        reporter.news()

    def count_items(self, items: ItemCount) -> None:
        """Note how many items of a ``parallel`` have ended, if that is news."""
        at, replaying = self.engine.clock.now_ms(), functools.partial(self.history.replaying, branch_of(items.place))
        if self.run.progress.count(items, at=at, replaying=replaying):
            self._reporter().news()

    def stop_counting(self, place: str) -> None:
        """Note that a ``parallel`` is over: another one may count."""
        self.run.progress.over(place)

    def _reporter(self) -> Reporter:
        run = self.run
        with run.lock:
            reporter: Reporter | None = run.reporter
            if reporter is None:
                reporter = run.reporter = Reporter(run, self.engine)
        return reporter

    def last_note(self, key: StepKey) -> str | None:
        """Return what a step's tries said last: in this run, or before."""
        note = self.run.notes.get(key)
        if note is None:
            record = self.run.history.peek(key)
            note = None if record is None else record.note
        return note

    def note_issue(self, place: str, code: str, detail: str | None) -> None:
        """Let the job end with an issue, once for each place of its code."""
        with self.run.lock:
            self.run.issues.note(place, code, detail)

    def type_name(self, annotation: Any) -> str | None:
        """Name the type that a wait is for."""
        return self.engine.registry.types.name(annotation)

    def publish(self, name: str, value: object) -> None:
        """Make a value readable from outside: recorded in a body, as it comes in a step."""
        what = f"published {name!r}"
        text = self.engine.registry.codecs.encode_any(value, what=what).decode()
        scope = SCOPE.get()
        assert scope is not None
        step = None if scope.step is None else StepKey(scope.step.key)
        self.drive_value(self._publishing(step or scope.branch.next_key(f"publish:{name}"), name, text, step is None))

    def _publishing(self, key: StepKey, name: str, text: str, recorded: bool) -> Flow:
        if recorded and (yield from waits.published_before(self.run.history, key)):
            return None
        stored = text if len(text) <= INLINE_CHARS else (yield Stow(text))
        command = PublishValue(
            job=self.run.ref,
            step_key=key,
            name=name,
            value=stored,
            value_hash=digest(text),
            value_bytes=len(text),
            recorded=recorded,
        )
        yield Persist(command, lazy=True)
        return None

    def poll_of(
        self,
        step: Any,
        key: StepKey,
        first: Any,
        until: Callable[[Any], bool],
        *,
        every_ms: int,
        timeout_ms: int | None,
    ) -> Flow:
        """Return the flow of a poll."""
        signature = step_signature(self.engine.registry, step)

        def call_of(state: Any) -> StepCall:
            bound = signature.bind((state,), {})
            return StepCall(
                key=key,
                args=step._args((state,)),
                kwargs={},
                inputs=bound.inputs.decode(),
                hashes=bound.hashes,
                result=signature.result,
                errors=self.engine.registry.codecs,
            )

        what = Polling(key, step.spec, first, until, every_ms, timeout_ms, call_of)
        return poll(self.run.history, self.run.ref, what)
