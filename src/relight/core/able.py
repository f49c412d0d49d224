"""Which engines could take a job, by what they said of themselves when they started: kinds, versions, queues.

Pure reading of engine rows, for ``why`` and for an operator who lets another version take a job.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from relight.model import EngineRecord, EngineState, JobRecord, JobState


def read_list(text: str | None) -> list[Any]:
    """Read a JSON array; anything else is empty."""
    if text is None:
        return []
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def heard_of(engines: Iterable[EngineRecord], now_ms: int) -> list[EngineRecord]:
    """Return the live engines whose lease has not run out."""
    return [e for e in engines if e.state is EngineState.LIVE and e.lease_until >= now_ms]


def kinds_of(engine: EngineRecord) -> dict[str, set[str]]:
    """Return the kinds that an engine registered, each with its versions where they are told (name, or [name, version]).

    Having no version is a version too: an empty text.
    """
    found: dict[str, set[str]] = {}
    for item in read_list(engine.kinds):
        if isinstance(item, str):
            found.setdefault(item, set())
        elif isinstance(item, list) and item and isinstance(item[0], str):
            versions = found.setdefault(item[0], set())
            if len(item) > 1:
                versions.add(str(item[1] or ""))
    return found


def fits(job: JobRecord, engine: EngineRecord) -> bool:
    """Tell whether an engine that knows a job's kind has the version that the job needs."""
    versions = kinds_of(engine)[job.kind]
    return not job.begun or not versions or (job.version or "") in versions


def consumes(engine: EngineRecord, queue: str) -> bool:
    """Tell whether an engine takes jobs from a queue."""
    return engine.queues is None or queue in read_list(engine.queues)


def other_versions(job: JobRecord, engines: Iterable[EngineRecord], now_ms: int) -> list[str]:
    """Return the versions that live engines have of the kind of a queued job, if none of them has the job's own.

    An empty text is no version. Nothing when an engine has it, or none knows the kind: then there is nothing to choose.
    """
    if job.state is not JobState.QUEUED or not job.begun:
        return []
    knowing = [e for e in heard_of(engines, now_ms) if job.kind in kinds_of(e)]
    if any(fits(job, e) for e in knowing):
        return []
    return sorted({version for e in knowing for version in kinds_of(e)[job.kind]})
