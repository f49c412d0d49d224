"""The errors of Relight, one tree.

::

    RelightError
    ├── ConfigError                what the program was started with is wrong
    │   ├── SchemaTooNew           the store was written by newer code
    │   ├── SchemaOutdated         the store needs ``relight db upgrade``
    │   └── UnsafeSqlite           the SQLite build can corrupt a shared WAL file
    ├── InvalidArgument            one argument of one call is wrong (also a ValueError)
    ├── RegistrationError          a workflow or step cannot be used as written
    │   ├── KindUnknown
    │   └── KindDuplicate
    ├── NotFound
    ├── Conflict                   the world moved on; reread and decide again
    │   ├── IllegalTransition
    │   ├── IdempotencyMismatch
    │   └── Fenced                 this engine was declared dead; it may write nothing
    ├── GateError                  recovery is not finished
    │   ├── GateClosed
    │   ├── RecoveryFailed
    │   └── RecoveryPending
    ├── HistoryMismatch            the code no longer agrees with what was recorded
    ├── PayloadError
    │   ├── NotSerializable
    │   └── PayloadTooLarge
    ├── StorageError
    │   ├── StorageUnavailable
    │   └── StorageCorrupt
    ├── JobError                   the job ended otherwise than well
    │   ├── JobFailed
    │   ├── JobCancelled
    │   ├── JobPoisoned
    │   └── StepFailed
    ├── WaitTimeout                also a TimeoutError; quotes ``why``
    ├── Overloaded
    ├── InvalidEvent
    ├── BlockingCall               a blocking name was called on an event loop
    ├── NonDurableWait             a plain timer in a workflow body
    ├── NotInJob
    └── NotInStep

    StepError                      for users to raise inside a step
    CancelRequested, Suspending    BaseExceptions: thrown *into* a job, never eaten by ``except Exception``

Every message says what happened, to which ids, and what to do next. ``code`` is stable and machine-readable;
``retryable`` says whether the same call may succeed later without a change. Which HTTP status or exit code
an error has is the business of the HTTP and CLI layers. Read next: ``model.py``.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class RelightError(Exception):
    """Base of everything that Relight raises at its callers.

    Keyword arguments become attributes (the ids and figures that the message names), so that a program never
    has to take a message apart. ``fields`` holds them all, for logs and for the wire.
    """

    code: ClassVar[str] = "relight_error"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            cls.code = _snake(cls.__name__)

    def __init__(self, message: str, /, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)


class ConfigError(RelightError):
    """Settings, store address or environment cannot work as given."""


class SchemaTooNew(ConfigError):
    """The store has migrations that this code does not know; nothing was touched."""


class SchemaOutdated(ConfigError):
    """The store lacks migrations that this code needs; run ``relight db upgrade`` with no engine live."""


class UnsafeSqlite(ConfigError):
    """The SQLite library has the WAL-reset corruption bug (3.7.0 to 3.51.2); refused."""


class InvalidArgument(RelightError, ValueError):
    """One argument of a call is out of its range; nothing was done."""


class RegistrationError(RelightError):
    """A workflow, step, queue or codec cannot be used as it is written."""


class KindUnknown(RegistrationError):
    """No workflow of this kind was ever registered in this store."""


class KindDuplicate(RegistrationError):
    """Two different workflows claim one kind."""


class NotFound(RelightError):
    """There is no such job, run, decision, engine or token."""


class Conflict(RelightError):
    """The state on disk is no longer the one the command expected; nothing was changed."""


class IllegalTransition(Conflict):
    """The transition table has no such move from the job's present state."""


class IdempotencyMismatch(Conflict):
    """The key already belongs to a job of this kind with other arguments."""

    job_id: str


class Fenced(Conflict):
    """This writer was declared dead by another engine; all its later writes are refused."""


class GateError(RelightError):
    """New work is not accepted yet, because an earlier crash is not accounted for."""

    retryable = True
    retry_after_seconds: float = 1.0


class GateClosed(GateError):
    """Recovery is still running; the gate opens by itself."""


class RecoveryFailed(GateError):
    """Recovery met an error and tries again with backoff; the gate stays shut until it succeeds."""


class RecoveryPending(GateError):
    """A Client with ``require_recovered=True`` met runs of dead engines that nobody has recovered yet."""


class HistoryMismatch(RelightError):
    """A finished step was called with other arguments, or stands elsewhere, than its record says."""


class PayloadError(RelightError):
    """A value cannot be stored."""


class NotSerializable(PayloadError):
    """A value has no lossless stored form; the message names the path to it."""


class PayloadTooLarge(PayloadError):
    """A value is larger than ``max_payload_bytes``; nothing was written."""


class StorageError(RelightError):
    """The store did not do what was asked."""


class StorageUnavailable(StorageError):
    """The store refuses or cannot be reached now; nothing acknowledged is lost."""

    retryable = True


class StorageCorrupt(StorageError):
    """The store's file is damaged; it is kept as it is, nothing is healed by starting empty."""


class JobError(RelightError):
    """A job ended otherwise than completed."""


class JobFailed(JobError):
    """The job failed; ``error_type``, ``error_code``, ``step_key`` and ``tries`` say how."""

    job_id: str
    error_type: str | None
    error_code: str | None
    message: str
    step_key: str | None
    tries: int
    details: object


class JobCancelled(JobError):
    """The job was cancelled."""

    job_id: str


class JobPoisoned(JobError):
    """The job kept killing its engine and is not retried automatically."""

    job_id: str
    message: str


class StepFailed(JobError):
    """A step used up its tries. Inside a job every failure is this type, on first run and replay alike.

    ``message`` is the last error's text, ``error_type`` its qualified class name, ``error_code`` the code a
    ``StepError`` carried, ``details`` its details, ``tries`` how many calls were made. ``__cause__`` is never set,
    because a replay could not set it.
    """

    step_key: str
    error_type: str
    error_code: str | None
    message: str
    tries: int
    details: object
    type_names: tuple[str, ...]

    def __init__(
        self,
        message: str,
        /,
        *,
        step_key: str,
        error_type: str,
        error_code: str | None = None,
        tries: int = 1,
        details: object = None,
        type_names: tuple[str, ...] = (),
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(
            f"{step_key} failed after {tries} {'try' if tries == 1 else 'tries'}: {error_type}: {message}",
            step_key=step_key,
            error_type=error_type,
            error_code=error_code,
            message=message,
            tries=tries,
            details=details,
            type_names=type_names,
            remote_traceback=remote_traceback,
        )

    def is_a(self, t: type[BaseException], /) -> bool:
        """Tell whether the original error was an instance of ``t`` (by qualified class name, also after a replay)."""
        return type_name(t) in self.type_names


class WaitTimeout(RelightError, TimeoutError):
    """A wait ended without what it waited for; ``summary`` is the job's ``why`` at that moment."""

    retryable = True
    summary: str = ""


class Overloaded(RelightError):
    """The journal's queue is full; nothing was accepted. Try again shortly."""

    retryable = True


class InvalidEvent(RelightError):
    """An event of unknown kind or ill shape; nothing was written."""


class BlockingCall(RelightError):
    """A blocking name was called where it would stop an event loop; the message names the name to use."""


class NonDurableWait(RelightError):
    """A plain timer was set in a workflow body; it would die when the run is put away."""


class NotInJob(RelightError):
    """A primitive that belongs inside a job was called outside one."""


class NotInStep(RelightError):
    """Something that belongs inside a step was called outside one."""


class StepError(Exception):
    """Raise it in a step to say what a failure means.

    ``retryable=False`` ends the step at once; ``retry_after_seconds`` replaces the schedule's next pause;
    ``code`` and ``details`` (a storable value) travel to ``StepFailed``.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = True,
        retry_after_seconds: float | None = None,
        details: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.details = details


class CancelRequested(BaseException):
    """Thrown into a job that is to be cancelled or is past its deadline. Steps are then allowed only in ``cleanup()``."""


class Suspending(BaseException):
    """Thrown through a job's frames while its run is put away. Durable calls are refused until it has left them."""


def type_name(t: type[BaseException]) -> str:
    """Name an exception class as records do: ``module.QualName``, builtins without the module."""
    return t.__qualname__ if t.__module__ == "builtins" else f"{t.__module__}.{t.__qualname__}"
