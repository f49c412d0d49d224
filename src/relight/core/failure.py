"""A failure as a value: what is kept of an exception, so that first run and replay tell the same story.

Read next: ``flow.py``.
"""

from __future__ import annotations

import traceback

import msgspec

from relight.errors import JobError, StepError, StepFailed, WaitTimeout, type_name


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored of an exception. ``names`` are the qualified names of its class and bases, for ``is_a``.

    ``declared`` is the encoded exception itself, when its type is named in ``raises=``; ``details`` is JSON text.
    ``certain`` is False when nobody knows whether the work happened (time-out, lost connection, crash).
    """

    type: str
    message: str
    names: tuple[str, ...] = ()
    code: str | None = None
    details: str | None = None
    traceback: str | None = None
    step_key: str | None = None
    tries: int = 1
    declared: str | None = None
    certain: bool = True

    def as_step_failed(self, step_key: str) -> StepFailed:
        """Return the exception a workflow gets for a failed step."""
        return StepFailed(
            self.message,
            step_key=step_key,
            error_type=self.type,
            error_code=self.code,
            tries=self.tries,
            details=None if self.details is None else msgspec.json.decode(self.details),
            type_names=self.names,
            remote_traceback=self.traceback,
        )

    def text(self) -> str:
        """Return the stored form."""
        return msgspec.json.encode(self).decode()


_RECORDED = "_relight_recorded"


def mark_recorded(error: Exception) -> Exception:
    """Note that an exception was made from a record, though its type does not say so."""
    setattr(error, _RECORDED, True)
    return error


def is_recorded(error: BaseException) -> bool:
    """Tell whether an exception says how something recorded ended, or that its author means a failure (``StepError``).

    Whatever else comes out of code that is replayed is a bug in that code.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_recorded, error.exceptions))
    return isinstance(error, (JobError, StepError, WaitTimeout)) or getattr(error, _RECORDED, False)


def read_failure(text: str) -> Failure:
    """Return a stored failure. Raises ``msgspec.ValidationError`` when it is something else."""
    return msgspec.json.decode(text, type=Failure)


def failure_of(
    error: BaseException,
    *,
    tries: int = 1,
    certain: bool = True,
    details: str | None = None,
    declared: str | None = None,
) -> Failure:
    """Keep an exception. ``details`` and ``declared`` are encoded by the caller, who knows the codecs."""
    if isinstance(error, StepFailed):
        return Failure(
            type=error.error_type,
            message=error.message,
            names=error.type_names,
            code=error.error_code,
            details=None if error.details is None else msgspec.json.encode(error.details).decode(),
            traceback=error.fields.get("remote_traceback"),
            step_key=error.step_key,
            tries=error.tries,
        )
    code = error.code if isinstance(error, StepError) else getattr(type(error), "code", None)
    return Failure(
        type=type_name(type(error)),
        message=_message(error),
        names=tuple(type_name(t) for t in type(error).__mro__ if issubclass(t, BaseException)),
        code=code if isinstance(code, str) else None,
        step_key=error.fields.get("step_key") if isinstance(error, WaitTimeout) else None,
        details=details,
        traceback=_clean("".join(traceback.format_exception(error, limit=-30))[-8000:]),
        tries=tries,
        declared=declared,
        certain=certain,
    )


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # boundary: a user's __str__
        text = f"(its __str__ raised {type(broken).__name__})"
    return _clean(text[:4000])


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
