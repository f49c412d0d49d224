"""Relight: a durable workflow engine for AI jobs.

Jobs survive crashes; nothing new starts until the last crash is accounted for; the flight recorder explains everything
that happened. Errors are in ``relight.errors``, states and records in ``relight.model``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from relight.authoring.branches import Branch, branch, race
from relight.authoring.children import Child, start
from relight.authoring.external import External, external
from relight.authoring.fanout import parallel
from relight.authoring.options import Queue, Rate
from relight.authoring.polling import poll
from relight.authoring.primitives import (
    cancelled,
    cleanup,
    current_job,
    current_step,
    heartbeat,
    issue,
    now,
    patched,
    publish,
    rng,
    uuid7,
)
from relight.authoring.resource import Resource
from relight.authoring.steps import AsyncStep, Done, NotDone, Step, step
from relight.authoring.waiting import ask, sleep, sleep_until, wait_signal
from relight.authoring.workflows import AsyncWorkflow, Call, Workflow, workflow
from relight.codec import Codec
from relight.core.retry import Retry
from relight.logs import log
from relight.secret import Secret
from relight.version import VERSION

if TYPE_CHECKING:
    from relight.client.client import AsyncClient, Client
    from relight.client.handles import AsyncJob, Job
    from relight.engine.facade import AsyncEngine, Engine

__version__ = VERSION

_LATE = {
    "AsyncClient": "relight.client.client",
    "AsyncEngine": "relight.engine.facade",
    "AsyncJob": "relight.client.handles",
    "Client": "relight.client.client",
    "Engine": "relight.engine.facade",
    "Job": "relight.client.handles",
}
"""Names loaded at their first use: a module of workflows needs neither engine nor client, and starts a fifth faster without."""

_RESERVED = {
    "Continue": "a job that goes on as a new one: submit the successor with start(…, detached=True), or from cron with a key",
    "Schedule": "jobs by the clock: call relight submit … --key from cron or a systemd timer",
}
"""Names that later versions bring, and what does meanwhile."""


def __getattr__(name: str) -> object:
    """Load what is loaded late; say of a reserved name that it is not there yet."""
    if name in _LATE:
        found: object = getattr(import_module(_LATE[name]), name)
        globals()[name] = found
        return found
    if name in _RESERVED:
        raise ImportError(f"relight.{name} is not in this version ({_RESERVED[name]})", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Every name, also those that are loaded late."""
    return sorted({*globals(), *__all__})


__all__ = [
    "AsyncClient",
    "AsyncEngine",
    "AsyncJob",
    "AsyncStep",
    "AsyncWorkflow",
    "Branch",
    "Call",
    "Child",
    "Client",
    "Codec",
    "Done",
    "Engine",
    "External",
    "Job",
    "NotDone",
    "Queue",
    "Rate",
    "Resource",
    "Retry",
    "Secret",
    "Step",
    "Workflow",
    "__version__",
    "ask",
    "branch",
    "cancelled",
    "cleanup",
    "current_job",
    "current_step",
    "external",
    "heartbeat",
    "issue",
    "log",
    "now",
    "parallel",
    "patched",
    "poll",
    "publish",
    "race",
    "rng",
    "sleep",
    "sleep_until",
    "start",
    "step",
    "uuid7",
    "wait_signal",
    "workflow",
]
