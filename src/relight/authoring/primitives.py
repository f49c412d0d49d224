"""Where a job's code is, and what it may ask at any time: the time, randomness, progress, clean-up, its log.

``now``, ``rng``, ``uuid7``, ``log``, ``heartbeat`` and ``cancelled`` work anywhere; the others raise ``NotInJob`` outside a job.
The waits are in ``waiting.py``, children in ``children.py``, ``parallel`` in ``fanout.py``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from relight.authoring.context import SCOPE, Scope, in_body, leave_scope
from relight.authoring.registry import check_text
from relight.authoring.waiting import milliseconds
from relight.clock import to_datetime
from relight.core import choices, waits
from relight.core.keys import check_name
from relight.errors import NotInStep
from relight.ids import derived_uuid7
from relight.model import CurrentJob, CurrentStep

if TYPE_CHECKING:
    import random

A = TypeVar("A")
MAX_NOTE = 1000


def now() -> datetime:
    """Return the time, aware, in UTC, by the engine's clock. In a workflow's body it is recorded: a replay sees the same."""
    scope = SCOPE.get()
    if scope is None:
        return datetime.now(UTC)
    if scope.step is not None:
        return to_datetime(scope.run.wall_ms())
    key = scope.branch.next_key("now")
    got: int = scope.run.drive_value(waits.recorded_now(scope.run.history, scope.run.ref, key))  # type: ignore[attr-defined]
    return to_datetime(got)


def _seed(name: str) -> str | None:
    scope = SCOPE.get()
    if scope is None or scope.step is not None:
        return None
    return f"{scope.run.ref.job_id}:{scope.branch.next_key(name)}"


def rng() -> random.Random:
    """Return a random generator. In a workflow's body it is derived from the job and this place: nothing to record."""
    import random

    seed = _seed("rng")
    return random.Random() if seed is None else random.Random(seed)


def uuid7() -> uuid.UUID:
    """Return a UUIDv7. In a workflow's body it is derived from the job and this place: a replay gets the same."""
    seed = _seed("uuid7")
    if seed is None:
        ms = f"{time.time_ns() // 1_000_000:012x}"
        return uuid.UUID(derived_uuid7(f"{ms[:8]}-{ms[8:]}-7000-8000-000000000000", uuid.uuid4().hex))
    return uuid.UUID(derived_uuid7(seed[:36], seed))


def heartbeat(*, done: float | None = None, total: float | None = None, note: str | None = None) -> None:
    """Tell how far a step or job is; shown by ``info()``, the CLI and ``why``. Outside a job it does nothing.

    ``note`` (at most 1,000 characters are kept) is what ``current_step().last_note`` gives the step's next try, also after
    a crash. It rides along with the next commit: call it as often as you like.
    """
    scope = SCOPE.get()
    if scope is not None:
        scope.run.report(done=done, total=total, note=None if note is None else _as_note(note))


def _as_note(note: object) -> str:
    """Make a note storable: progress is not worth an error."""
    return str(note)[:MAX_NOTE].replace("\0", "").encode("utf-8", "replace").decode()


def publish(name: str, value: object) -> None:
    """Make a value readable from outside, by ``job.published(name, type=…)``; the latest one of a name stands.

    It rides along with the next commit, within 20 ms. In a workflow's body each call is recorded, so that a replay does not
    bring an older value back; in a step it is published whenever the step runs. What holds for results holds for the
    value: its size, and that a ``Secret`` is stored as its place. Raises ``NotInJob``, ``NotSerializable``, ``PayloadTooLarge``.
    Events: ``published``, with the value's hash and size.
    """
    scope = SCOPE.get() or in_body("publish")
    scope.run.publish(check_name(name, "published value"), value)


def issue(code: str, detail: str | None = None) -> None:
    """Note something that went wrong without failing the job: it ends as ``completed_with_issues``. Once, whatever is replayed.

    ``code`` is for programs, ``detail`` for people (at most 4,000 characters). In a workflow's body only: raises ``NotInJob``.
    """
    scope = in_body("issue")
    check_name(code, "issue")
    check_text(detail, "detail", 4000)
    key = scope.branch.next_key(f"issue:{code}")
    flow = waits.recorded_issue(scope.run.history, scope.run.ref, key, code, detail)
    noted = scope.run.drive_value(flow)  # type: ignore[attr-defined]
    scope.run.note_issue(key, noted["code"], noted["detail"])


def cancelled() -> bool:
    """Tell whether the job was asked to end, or the present try is past its time: for long sync steps to look at."""
    scope = SCOPE.get()
    return scope is not None and scope.run.is_cancelled()


@contextmanager
def cleanup(*, timeout_seconds: float = 30) -> Iterator[None]:
    """Allow steps although the job was cancelled: for ``finally`` blocks.

    After ``timeout_seconds`` steps are refused again. While a run is only being put away, or was lost to another engine,
    entering raises ``Suspending``: the body does not run. Otherwise it changes nothing.
    """
    scope = in_body("cleanup")
    scope.run.begin_cleanup(milliseconds("timeout_seconds", timeout_seconds))  # type: ignore[attr-defined]
    token = SCOPE.set(Scope(scope.run, scope.branch, scope.step, True))
    try:
        yield
    finally:
        leave_scope(token)
        scope.run.end_cleanup()  # type: ignore[attr-defined]


def patched(name: str) -> bool:
    """Tell whether this place of an edited workflow is to run as it is now: put what is new behind ``if patched("…")``.

    False for a job that an earlier run had already taken past this place, True for any other; recorded, so it stays so.
    ``name`` says what was edited, each place in its own words. In sync and async code alike. Raises ``NotInJob``.
    """
    scope = in_body("patched")
    key = scope.branch.next_key(f"patched:{check_name(name, 'patch')}")
    flow = choices.is_patched(scope.run.history, scope.run.ref, key)
    answer: bool = scope.run.drive_value(flow)  # type: ignore[attr-defined]
    return answer


def current_job() -> CurrentJob:
    """Return the job that this code runs in. Raises ``NotInJob``."""
    scope = SCOPE.get()
    if scope is None:
        in_body("current_job")
        raise AssertionError
    return scope.run.current_job()


def current_step() -> CurrentStep:
    """Return the try that this code runs in. Raises ``NotInStep``."""
    scope = SCOPE.get()
    if scope is None or scope.step is None:
        raise NotInStep("current_step() works only inside a step's function (or its reconciling function)")
    return scope.step
