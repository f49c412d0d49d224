"""How people name a job or an engine: by the end of its id, by kind and key, or as the newest.

UUIDv7 prefixes are useless to people: jobs of one second share them. So ids are shown and taken by their *end*, with or
without the ellipsis that they are shown with. An end that fits several is refused, naming them.
"""

from __future__ import annotations

import msgspec

from relight.client.core import Core
from relight.errors import InvalidArgument, NotFound
from relight.ids import JobId
from relight.model import DecisionRecord, EngineRecord, EngineState
from relight.store.reads import JobFilter, Unreadable

FEWEST = 4
"""How many characters of an id have to be given."""

SHOWN = 10
"""How many candidates are told when an end fits several."""

WHOLE = 36
_LONGER_SHORT = 12


def find_job(core: Core, address: str) -> JobId:
    """Return the id of the job that an address names. Raises ``NotFound``, and ``InvalidArgument`` for an unclear one."""
    text = address.strip()
    if text == "@last":
        return _newest(core)
    if text.startswith("@"):
        raise InvalidArgument(f"{text} names no job; there is @last, the newest one")
    kind, colon, key = text.partition(":")
    if colon:
        return core.find_by_key(kind, key).job_id
    return _by_end(core, _end_of(text, "job", "; or give @last, or kind:key"))


def _end_of(text: str, what: str, others: str = "") -> str:
    end = text.lstrip("….").lower()
    if len(end) < FEWEST:
        raise InvalidArgument(f"{text!r} names no {what}: give at least the last {FEWEST} characters of its id{others}")
    return end


def _newest(core: Core) -> JobId:
    with core.store.reading() as reads:
        aside: list[Unreadable] = []
        jobs = [job.job_id for job in reads.jobs(JobFilter(limit=1), aside=aside)]
    if not jobs and not aside:
        raise NotFound(f"there is no job in {core.store.place} yet")
    return jobs[0] if jobs else JobId(aside[0].id)


def _by_end(core: Core, end: str) -> JobId:
    with core.store.reading() as reads:
        found = reads.job_ids_ending(end, limit=SHOWN + 1)
    if not found:
        raise NotFound(
            f"no job in {core.store.place} has an id that ends in {end}. relight jobs lists them", ending=end
        )
    if len(found) > 1:
        listed = ", ".join(f"…{job_id[-_LONGER_SHORT:]}{_told_job(core, job_id)}" for job_id in found[:SHOWN])
        more = " and more" if len(found) > SHOWN else ""
        raise InvalidArgument(
            f"several jobs have ids that end in {end}: {listed}{more}. Give more characters", ending=end
        )
    return found[0]


def _told_job(core: Core, job_id: JobId) -> str:
    with core.store.reading() as reads:
        try:
            return "".join(f" ({job.kind}, {job.state})" for job in reads.job_heads([job_id]))
        except msgspec.ValidationError:
            return " (unreadable)"


def find_engine(core: Core, address: str) -> EngineRecord:
    """Return the engine that an address names: by the end of its id, or by name when one of that name has not ended."""
    text = address.strip()
    with core.store.reading() as reads:
        engines = reads.engines(limit=0, aside=[])
    named = [engine for engine in engines if engine.name == text]
    found = [engine for engine in named if engine.state in (EngineState.LIVE, EngineState.SILENT)] or named[:1]
    if not found:
        end = _end_of(text, "engine", ", or its name")
        found = [engine for engine in engines if engine.engine_id.endswith(end)]
    if not found:
        raise NotFound(f"no engine in {core.store.place} is called {text}. relight engines lists them")
    if len(found) > 1:
        listed = ", ".join(f"…{e.engine_id[-_LONGER_SHORT:]} ({e.name}, {e.state})" for e in found[:SHOWN])
        raise InvalidArgument(f"{text} names several engines: {listed}. Give more of the id's end")
    return found[0]


def find_decision(core: Core, job_id: str, address: str) -> str:
    """Return the id of a job's question, which may be named by its end."""
    end = _end_of(address.strip(), "question")
    with core.store.reading() as reads:
        questions = reads.decisions(job_id)
    found = [question for question in questions if question.decision_id.endswith(end)]
    if len(found) != 1:
        raise InvalidArgument(
            f"{address} names {len(found) or 'no'} questions of this job. Its questions: {_told(questions)}"
        )
    return found[0].decision_id


def _told(questions: list[DecisionRecord]) -> str:
    return "; ".join(f"{q.decision_id} ({q.state}): {q.question}" for q in questions[:SHOWN]) or "none"
