"""What a run says to the outside while it runs: progress, published values, issues. Half of ``Conductor``.

A job may call ``heartbeat`` in a tight loop: one word at a time is on its way to the disk, and what is said meanwhile is put
together into the next one. Nothing here waits, so it is callable from the loop too. Read next: ``runner.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from relight.authoring.context import SCOPE
from relight.authoring.registry import step_signature
from relight.core import waits
from relight.core.commands.outside import PublishValue
from relight.core.commands.steps import ReportProgress
from relight.core.flow import INLINE_CHARS, Flow, Persist, StepCall, Stow, digest
from relight.core.polling import Polling, poll
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
        self._progress: dict[str, Any] = {}
        self._notes: dict[StepKey, str | None] = {}
        self._said = False
        self._under_way = False

    def say(self, key: StepKey | None, done: float | None, total: float | None, note: str | None) -> None:
        """Note progress, and a sign of life of the step that tells it."""
        run, now_ms = self._run, self._engine.clock.now_ms()
        with run.lock:
            if key is not None:
                if note is not None:
                    run.notes[key] = note
                self._notes[key] = run.notes.get(key)
            self._progress = {"done": done, "total": total, "note": note, "at": now_ms, **self._since(done, now_ms)}
            self._said = True
            if self._under_way:
                return
            self._under_way = True
        self._put()

    def _since(self, done: float | None, now_ms: int) -> dict[str, Any]:
        """Return from when and from how much this run counts: what is left is told by its pace."""
        last = self._progress
        if done is None:
            return {}
        if "from_at" not in last or done < (last.get("done") or 0):
            return {"from_done": done, "from_at": now_ms}
        return {"from_done": last["from_done"], "from_at": last["from_at"]}

    def last_word(self) -> None:
        """Put in what was said and is not on its way yet: before the run's end is recorded."""
        with self._run.lock:
            left = self._said
        if left:
            self._put()

    def _put(self) -> None:
        with self._run.lock:
            progress, notes, self._notes, self._said = self._progress, self._notes, {}, False
        text = msgspec.json.encode(progress).decode()
        command = ReportProgress(job=self._run.ref, progress=text, notes=tuple(notes.items()))
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
    engine: Incarnation
    drive_value: Callable[[Flow], Any]

    def report(self, *, done: float | None, total: float | None, note: str | None) -> None:
        """Note progress; it rides along with the next commit."""
        scope = SCOPE.get()
        key = None if scope is None or scope.step is None else StepKey(scope.step.key)
        self._reporter().say(key, done, total, note)

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

    def add_issue(self, key: StepKey, issue: dict[str, Any]) -> None:
        """Let the job end with an issue."""
        with self.run.lock:
            self.run.issues[key] = issue

    def type_name(self, annotation: Any) -> str | None:
        """Name the type that a wait is for."""
        return self.engine.registry.types.name(annotation)

    def publish(self, name: str, value: object) -> None:
        """Make a value readable from outside: recorded in a body, as it comes in a step."""
        what = f"published {name!r}"
        text = self.engine.registry.codecs.for_type(type(value), what=what).encode(value, what=what).decode()
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
