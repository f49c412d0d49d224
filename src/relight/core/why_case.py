"""A job's case as the causes see it: its facts, the words to speak in, its evidence; and a cause as it is found.

Stored texts (tags, failures, progress, kinds) were written by others and may be damaged: they are read forgivingly here,
and nowhere else. Read next: ``why_waits.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from relight.core.able import heard_of
from relight.core.why_acts import Act
from relight.core.why_facts import Facts, Mark
from relight.core.why_words import Words, number, plain
from relight.ids import short
from relight.model import EngineRecord, JobRecord, RunRecord


@dataclass(frozen=True, kw_only=True)
class Found:
    """A cause before it is shown. ``sentence`` is what the summary says when this is the weightiest one.

    ``acts`` are those that answer just this cause, shown where they are allowed.
    """

    code: str
    since: int
    sentence: str
    detail: str
    evidence: tuple[str, ...] = ()
    next_ms: int | None = None
    acts: frozenset[Act] = frozenset()


@dataclass(frozen=True)
class Case:
    """One job and all that is known of it."""

    facts: Facts
    words: Words
    tell_child: Callable[[Facts], str]
    """Gives the first sentence of a child's own ``why``."""

    @property
    def job(self) -> JobRecord:
        """The job itself."""
        return self.facts.job

    @cached_property
    def who(self) -> str:
        """The subject of a sentence: kind, id, and up to two tags."""
        return name_of(self.job)

    @cached_property
    def run(self) -> RunRecord | None:
        """The job's last run."""
        return next((run for run in self.facts.store.runs if run.run_id == self.job.run_id), None)

    @property
    def waits_since(self) -> int:
        """Since when a queued job could have been taken."""
        return self.job.ready_at if self.job.ready_at is not None else self.job.updated_at

    def heard_of(self) -> list[EngineRecord]:
        """Return the live engines whose lease has not run out."""
        return heard_of(self.facts.engines, self.facts.now_ms)

    def mark(self, kind: str, step_key: str | None = None) -> Mark | None:
        """Return the last event of a kind, of one step if it is named."""
        marks = self.facts.store.marks
        return next((m for m in marks if m.type == kind and (step_key is None or m.step_key == step_key)), None)

    def evidence(self, *kinds: str, step_key: str | None = None) -> tuple[str, ...]:
        """Return the ids of the last event of each kind, where there is one."""
        return tuple(mark.event_id for kind in kinds if (mark := self.mark(kind, step_key)) is not None)

    def engine_name(self, engine_id: str | None) -> str:
        """Name an engine for people."""
        if engine_id is None:
            return "an unknown engine"
        known = (*self.facts.engines, *([self.facts.store.owner] if self.facts.store.owner else []))
        found = next((e for e in known if e.engine_id == engine_id), None)
        return f"engine {short(engine_id)}" if found is None else engine_words(found)


def name_of(job: JobRecord) -> str:
    """Name a job for people: ``checkout …f36877 (order=o-17)``."""
    tags = [f"{plain(str(k), 24)}={plain(str(v), 24)}" for k, v in read_map(job.tags).items()]
    shown = f" ({', '.join(tags[:2])})" if tags else ""
    return f"{plain(job.kind, 60)} {short(job.job_id)}{shown}"


def engine_words(engine: EngineRecord) -> str:
    """Name an engine: ``engine web-2``."""
    return f"engine {plain(engine.name, 40) or short(engine.engine_id)}"


def read_map(text: str | None) -> Mapping[str, Any]:
    """Read a JSON object; anything else is empty."""
    if text is None:
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def failure_words(text: str | None) -> str | None:
    """Say a stored failure: ``HTTPStatusError: 429 Too Many Requests``; None when there is none to be read."""
    failure = read_map(text)
    kind = str(failure.get("type") or "").rpartition(".")[2]
    message = plain(str(failure.get("message") or ""))
    said = ": ".join(part for part in (plain(kind, 60), message) if part)
    return said or None


def verdict_words(evidence: str | Mapping[str, Any] | None) -> str:
    """Say what proved a verdict: ``lock free, pid 4711``."""
    facts = evidence if isinstance(evidence, Mapping) else read_map(evidence)
    said = [plain(str(facts["reason"]), 60).replace("_", " ")] if facts.get("reason") else []
    if facts.get("pid"):
        said.append(f"pid {plain(str(facts['pid']), 20)}")
    if facts.get("process"):
        said.append(f"process {plain(str(facts['process']), 20)}")
    return ", ".join(said)


def progress_words(text: str | None) -> str:
    """Say how far a job says it is: ``extract 3,112 of 5,000``."""
    told = read_map(text)
    done, total, note = told.get("done"), told.get("total"), told.get("note")
    said = [plain(str(note), 80)] if note else []
    if isinstance(done, int | float):
        said.append(f"{number(done)} of {number(total)}" if isinstance(total, int | float) else f"{number(done)} done")
    bad = failed_words(told)
    return " ".join([*said, f"({bad})"] if bad else said)


def failed_words(told: Mapping[str, Any]) -> str:
    """Say how many of what was counted failed: ``14 failed, up to 100 allowed``; nothing when none did."""
    failed, allowed = told.get("failed"), told.get("allowed")
    if not isinstance(failed, int) or failed <= 0:
        return ""
    return f"{failed:,} failed" + (f", up to {allowed:,} allowed" if isinstance(allowed, int) else "")
