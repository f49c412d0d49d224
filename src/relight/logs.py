"""Logging from inside jobs: ``log``, and ``JobFilter`` for loggers of your own.

Both add ``job_id``, ``job_kind``, ``run_id`` and ``step_key`` to a record, and keep a workflow's body silent while it is
replayed: what it says there it has said before. Inside steps nothing is replayed, so any logger works.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from relight.authoring.context import SCOPE

FIELDS = ("job_id", "job_kind", "run_id", "step_key")


def _here() -> dict[str, str | None]:
    scope = SCOPE.get()
    if scope is None:
        return dict.fromkeys(FIELDS)
    job, key = scope.run.ref, None if scope.step is None else scope.step.key
    return dict(zip(FIELDS, (job.job_id, job.kind, job.run_id, key), strict=True))


def _is_replaying() -> bool:
    scope = SCOPE.get()
    return scope is not None and scope.step is None and scope.run.current_job().replaying


class JobFilter(logging.Filter):
    """A filter for any logger or handler: ``handler.addFilter(JobFilter())``.

    Every record gets the four fields (None outside a job), so that a format may name them: ``%(job_id)s``. Records of a body
    that is being replayed are dropped.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; tell whether to keep the record."""
        for name, value in _here().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return not _is_replaying()


class _Log(logging.LoggerAdapter[logging.Logger]):
    """A standard logger that names the job and step, and is silent while a workflow's body is being replayed."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the ids that records and formatters can use."""
        if SCOPE.get() is not None:
            kwargs["extra"] = {**_here(), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        """Tell whether to log: not while replaying a body."""
        return not _is_replaying() and super().isEnabledFor(level)


log = _Log(logging.getLogger("relight.job"), {})
