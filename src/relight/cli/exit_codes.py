"""What an error is worth outside Python: the exit code of a command, and the status of an HTTP reply.

Two tables in one, by class; a class that is not in it counts as its nearest base. A test insists that every class of
``relight.errors`` is here by name, so that none gets its number by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from relight import errors as e
from relight.model import JobState


class Exit(IntEnum):
    """Every exit code of ``relight``. 3, 4 and 6 tell how the job of a ``run`` stands."""

    OK = 0
    """Done; of a ``run``: the job completed."""
    FAILED = 1
    """The job failed; or what was asked for was refused, is not there, or is not as it should be."""
    USAGE = 2
    """The command, its arguments or the code that it names cannot be used as they are."""
    CANCELLED = 3
    """The job was cancelled."""
    NEEDS_PERSON = 4
    """The job waits for a person."""
    UNAVAILABLE = 5
    """The gate is shut, or the store cannot be used now."""
    ISSUES = 6
    """The job completed, with issues."""
    INTERRUPTED = 130
    """Ctrl-C (as a shell counts it: 128 + 2); after SIGTERM a ``run`` ends with 143."""
    BROKEN_PIPE = 141
    """Whoever read the output went away (128 + 13)."""


class Worth(NamedTuple):
    """The exit code and the HTTP status of an error."""

    exit: Exit
    http: int


_Class = type[BaseException]

WORTH: Final[Mapping[_Class, Worth]] = {
    e.RelightError: Worth(Exit.FAILED, 500),
    e.ConfigError: Worth(Exit.USAGE, 500),
    e.SchemaTooNew: Worth(Exit.UNAVAILABLE, 500),
    e.SchemaOutdated: Worth(Exit.UNAVAILABLE, 503),
    e.UnsafeSqlite: Worth(Exit.UNAVAILABLE, 500),
    e.InvalidArgument: Worth(Exit.USAGE, 400),
    e.RegistrationError: Worth(Exit.USAGE, 500),
    e.KindUnknown: Worth(Exit.USAGE, 400),
    e.KindDuplicate: Worth(Exit.USAGE, 500),
    e.NotFound: Worth(Exit.FAILED, 404),
    e.Conflict: Worth(Exit.FAILED, 409),
    e.IllegalTransition: Worth(Exit.FAILED, 409),
    e.IdempotencyMismatch: Worth(Exit.FAILED, 422),
    e.Fenced: Worth(Exit.UNAVAILABLE, 503),
    e.GateError: Worth(Exit.UNAVAILABLE, 503),
    e.GateClosed: Worth(Exit.UNAVAILABLE, 503),
    e.RecoveryFailed: Worth(Exit.UNAVAILABLE, 503),
    e.RecoveryPending: Worth(Exit.UNAVAILABLE, 503),
    e.HistoryMismatch: Worth(Exit.NEEDS_PERSON, 409),
    e.PayloadError: Worth(Exit.USAGE, 422),
    e.NotSerializable: Worth(Exit.USAGE, 422),
    e.PayloadTooLarge: Worth(Exit.USAGE, 413),
    e.StorageError: Worth(Exit.UNAVAILABLE, 500),
    e.StorageUnavailable: Worth(Exit.UNAVAILABLE, 503),
    e.StorageCorrupt: Worth(Exit.UNAVAILABLE, 500),
    e.JobError: Worth(Exit.FAILED, 409),
    e.JobFailed: Worth(Exit.FAILED, 409),
    e.JobCancelled: Worth(Exit.CANCELLED, 409),
    e.JobPoisoned: Worth(Exit.FAILED, 409),
    e.StepFailed: Worth(Exit.FAILED, 409),
    e.WaitTimeout: Worth(Exit.FAILED, 504),
    e.Overloaded: Worth(Exit.UNAVAILABLE, 429),
    e.InvalidEvent: Worth(Exit.FAILED, 400),
    e.BlockingCall: Worth(Exit.FAILED, 500),
    e.NonDurableWait: Worth(Exit.FAILED, 500),
    e.NotInJob: Worth(Exit.FAILED, 500),
    e.NotInStep: Worth(Exit.FAILED, 500),
    e.StepError: Worth(Exit.FAILED, 500),
    e.CancelRequested: Worth(Exit.CANCELLED, 409),
    e.Suspending: Worth(Exit.UNAVAILABLE, 503),
}
"""Every class of ``relight.errors``. A GateError, ``Overloaded`` and ``StorageUnavailable`` go with Retry-After."""

_UNKNOWN = Worth(Exit.FAILED, 500)

JOB_EXITS: Final[Mapping[JobState, Exit]] = {
    JobState.COMPLETED: Exit.OK,
    JobState.COMPLETED_WITH_ISSUES: Exit.ISSUES,
    JobState.FAILED: Exit.FAILED,
    JobState.POISONED: Exit.FAILED,
    JobState.CANCELLED: Exit.CANCELLED,
}
"""How a job ended, as the exit code of the ``run`` that waited for it."""


def worth_of(error: BaseException) -> Worth:
    """Return what an error is worth: by its class, else by the nearest base that is in the table."""
    return next((WORTH[cls] for cls in type(error).__mro__ if cls in WORTH), _UNKNOWN)
