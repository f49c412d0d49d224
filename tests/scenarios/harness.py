"""Plays scenarios and compares what happened with the expectation in ``data/<group>/<name>.json``.

The format of such a file:

- ``says``: what must happen, in a sentence; the rest is that in detail.
- ``outcome``: how the job ended: its ``state``, and its ``result``, ``error`` (type, code, first line of the message) and
  ``issues``, or, for one that has not ended, ``waits`` (the codes of its ``why``). ``world`` is what was done outside.
- ``jobs``: by label (``job``; ``job/KEY`` for the child that the key started; ``KIND[KEY]`` for others) the ``state``, how
  each of its ``steps`` ended, and its story.
- A story is ``history``: one line an event in commit order (type, step key, the payload's fields that mean something). Or
  it is ``lines``, for jobs whose concurrent lines may overtake each other: the events of each branch path (``main`` is the
  trunk), of the world ``outside`` and of the ``job`` in their own order; the order between lines, and when such a job's run was put
  away, are free, and not in the file.
  With a line for each key, steps of one line that run at once are free, too.
- Times are seconds after their event, rounded; ids are labels. Hashes, sizes and durations are left out.

The file is the expectation: ``UPDATE_SCENARIOS=1`` writes it anew, and then it must be read. After a crash at any durable
boundary the outcome and the ends of all steps must be the file's; the history then has the crash in it, and
``relight verify`` judges it.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tests.scenarios.script import PATIENCE_SECONDS, WORLD, Scenario, Stage

from relight import Engine
from relight.errors import JobError
from relight.ids import short
from relight.model import FINAL_STATES, Event, JobRecord, StepKind
from relight.recorder.verify import verify_store
from relight.store.reads import EventFilter, JobFilter
from relight.testing import ManualClock, drain
from relight.testing.crashing import crash_at
from relight.testing.resting import Resting

DATA = Path(__file__).parent / "data"
UPDATE = bool(os.environ.get("UPDATE_SCENARIOS"))
OPTIONS: Mapping[str, Any] = {"durability": "process", "suspend_after_seconds": 0, "threads": 8}
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|…[0-9a-f]{6,8}\b")
_PLACE = re.compile(r"\.py:\d+")
_DROPPED = re.compile(r"_(hash|bytes|id)$|^(duration_ms|idempotency_key|policy_id|evidence)$")
_TIME = re.compile(r"(_at|^until)$")
PEOPLE = frozenset({"ada", "ben"})
"""Who acts in scripts. Any other name is whoever runs the tests."""
_RUNS = frozenset({"run_started", "run_suspended", "job_awaiting_user"})
_OUTSIDE = frozenset(
    {
        "signal_sent",
        "job_cancel_requested",
        "decision_given",
        "external_completed",
        "external_failed",
        "job_retried",
        "job_resumed",
        "job_deduplicated",
    }
)
_PLAIN = {"queue": "default", "priority": 0, "in_doubt_policy": "retry", "step_kind": "step", "inputs": "full"}


def run_undisturbed(scenario: Scenario, store: str) -> dict[str, Any]:
    """Play a scenario to its end and return what happened."""
    options = {**OPTIONS, **scenario.engine}
    clock = ManualClock(skip=False)
    with Engine(store, workflows=scenario.workflows, clock=clock, **options) as engine:
        stage = scenario.play(engine)
        let_time_pass(engine, clock, put_away=options["suspend_after_seconds"] == 0)
        told = tell(scenario, stage)
    report = verify_store(store)
    assert report.ok, report.findings
    return told


def let_time_pass(engine: Engine, clock: ManualClock, *, put_away: bool) -> None:
    """Jump from one due moment to the next until nothing moves any more.

    With ``put_away`` not before every run that waits has been put away: so whether it was is no matter of luck.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        drain(engine)
        inside = engine._alive()
        with Resting(inside) as resting:
            rest = resting.fresh(PATIENCE_SECONDS)
        if rest is None or (put_away and inside.all_runs()):
            continue
        if rest.until is None:
            return
        clock.jump_to(rest.until)
    raise AssertionError(f"never came to rest: {[job.summary for job in engine.jobs()]}")


def tell(scenario: Scenario, stage: Stage) -> dict[str, Any]:
    """Return what happened, in the form of the data files."""
    names = Names(stage)
    jobs = sorted(names.jobs, key=lambda job: names.labels[job.job_id])
    return {
        "says": " ".join(scenario.says.split()),
        "outcome": outcome(stage),
        "jobs": {names.labels[job.job_id]: _job(scenario, stage, job, names) for job in jobs},
    }


def outcome(stage: Stage) -> dict[str, Any]:
    """Return how the job ended, as its caller learns it."""
    row = stage.record()
    told: dict[str, Any] = {"state": str(row.state)}
    names = Names(stage)
    if row.state in FINAL_STATES:
        try:
            result = msgspec.json.encode(stage.job.result(timeout_seconds=0)).decode()
            told["result"] = msgspec.json.decode(names(result))
        except JobError as error:
            told["error"] = {
                "type": getattr(error, "error_type", None) or type(error).__name__,
                "code": getattr(error, "error_code", None) or error.code,
                "message": names(str(error).splitlines()[0])[:160],
            }
    else:
        told["waits"] = [cause.code for cause in stage.job.why().causes]
    if row.issues:
        told["issues"] = [each["code"] for each in msgspec.json.decode(row.issues)]
    questions = [question.state for question in stage.questions() if "?" not in question.step_key]
    if questions:
        told["questions"] = questions
    if WORLD.calls:
        told["world"] = list(WORLD.calls)
    return told


class Names:
    """Says labels for ids: ``job``, ``job/KEY`` for the child that a key started (``job/KEY.N`` for the N-th of several), ``KIND[KEY]`` for other jobs."""

    def __init__(self, stage: Stage) -> None:
        with stage.engine.core.store.reading() as reads:
            self.jobs = reads.jobs(JobFilter(limit=0))
        by_id = {job.job_id: job for job in self.jobs}
        number = _numbers(stage, self.jobs)

        def label(job: JobRecord) -> str:
            if job.job_id == stage.job.id:
                return "job"
            if job.parent_job_id in by_id:
                return f"{label(by_id[job.parent_job_id])}/{job.parent_step_key}{number[job.job_id]}"
            return f"{job.kind}[{job.idempotency_key}]"

        self.labels = {job.job_id: label(job) for job in self.jobs}
        self.short = {short(job.job_id): self.labels[job.job_id] for job in self.jobs}

    def __call__(self, text: str) -> str:
        text = _ID.sub(lambda found: self.labels.get(found[0]) or self.short.get(found[0]) or "<id>", text)
        return _PLACE.sub(".py", text)


def _numbers(stage: Stage, jobs: Sequence[JobRecord]) -> dict[str, str]:
    """Return ``.N`` for children that were started at once, under one key, in the order in which they were named."""
    with stage.engine.core.store.reading() as reads:
        started = reads.events(EventFilter(types=("child_started",), limit=0))
    order = {msgspec.json.decode(event.payload)["child_job_id"]: number for number, event in enumerate(started)}
    found: dict[str, str] = {}
    for job in jobs:
        siblings = [
            other.job_id
            for other in jobs
            if (other.parent_job_id, other.parent_step_key) == (job.parent_job_id, job.parent_step_key)
        ]
        siblings.sort(key=lambda job_id: order.get(job_id, 0))
        found[job.job_id] = f".{siblings.index(job.job_id)}" if len(siblings) > 1 else ""
    return found


def _job(scenario: Scenario, stage: Stage, job: JobRecord, names: Names) -> dict[str, Any]:
    steps = stage.steps(job.job_id)
    known = {names(key): row for key, row in steps.items()}
    ends = {
        key: str(row.state) for key, row in sorted(known.items()) if row.kind is not StepKind.VALUE or "patched" in key
    }
    events = list(stage.engine.job(job.job_id).events())
    told: dict[str, Any] = {"state": str(job.state), "steps": ends}
    if scenario.lines:
        lines: dict[str, list[str]] = {}
        for event in events:
            if event.type not in _RUNS:
                lines.setdefault(names(_line(event, scenario.lines == "keys")), []).append(_event(event, names))
        told["lines"] = dict(sorted(lines.items()))
    else:
        told["history"] = [_event(event, names) for event in events]
    return told


def _line(event: Event, by_key: bool) -> str:
    if event.type in _OUTSIDE:
        return "outside"
    if event.step_key is None:
        return "job"
    return event.step_key if by_key else event.step_key.rpartition("/")[0] or "main"


def _event(event: Event, names: Names) -> str:
    words = [event.type]
    if event.step_key:
        words.append(names(event.step_key))
    words += _fields(event, names)
    if event.actor_id in PEOPLE and "by" not in event.payload:
        words.append(f"by={event.actor_id}")
    return " ".join(words)


def _fields(event: Event, names: Names) -> Iterator[str]:
    at_ms = event.timestamp.timestamp() * 1000
    for name, value in event.payload.items():
        if value is None or (name in _PLAIN and value == _PLAIN[name]) or (name == "by" and value not in PEOPLE):
            continue
        if name == "child_job_id":
            yield names(value)
        elif _TIME.search(name):
            yield f"{name}={round((value - at_ms) / 1000):+d}s"
        elif not _DROPPED.search(name):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            text = names(text.splitlines()[0] if text else "")[:120]
            yield f"{name}={text!r}" if " " in text else f"{name}={text}"


def expected(group: str, scenario: Scenario, told: dict[str, Any]) -> dict[str, Any]:
    """Return what is expected of a scenario; with ``UPDATE_SCENARIOS`` set, that becomes what was told.

    The file of a scenario with a ``bug`` says what must happen one day; it is written by hand.
    """
    path = DATA / group / f"{scenario.name}.json"
    if UPDATE and not (scenario.bug and path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    return read_expected(group, scenario.name)


def read_expected(group: str, name: str) -> dict[str, Any]:
    """Return a data file."""
    found: dict[str, Any] = msgspec.json.decode((DATA / group / f"{name}.json").read_bytes())
    return found


def essence(scenario: Scenario, told: dict[str, Any]) -> dict[str, Any]:
    """Return what a crash must not change: the outcome, which jobs there are, and how each of their steps ended.

    How often somebody is asked about a doubt (keys with ``?``) it may change: a crash makes doubts of its own.
    """

    def counts(key: str) -> bool:
        return "?" not in key and key not in scenario.free

    jobs = {
        label: {"state": job["state"], "steps": {key: end for key, end in job["steps"].items() if counts(key)}}
        for label, job in told["jobs"].items()
    }
    return {"outcome": told["outcome"], "jobs": jobs}


class Crashes:
    """Plays a scenario, crashed at a boundary and restarted, and compares with what is expected."""

    def __init__(self, scenario: Scenario, store: str, wanted: dict[str, Any]) -> None:
        self._scenario = scenario
        self._store = store
        self._wanted = essence(scenario, wanted)
        self._stage: Stage | None = None
        self.options: dict[str, Any] = {"workflows": scenario.workflows, **OPTIONS, **scenario.engine}

    def everywhere(self) -> int:
        """Crash at every boundary, and when nothing moves any more; return how often."""
        return self.at(itertools.count(1))

    def at(self, ordinals: Iterable[int]) -> int:
        """Crash at these boundaries, counted from 1, until there is none; return how often.

        As ``crash_points``, which plays them all; a test that may crash three times only picks them.
        """
        played = 0
        for run in crash_at(self._play, ordinals, store=self._store, **self.options):
            self._compare(run.crash_then_restart(), str(run))
            played += 1
        return played

    def _play(self, engine: Engine) -> None:
        self._stage = self._scenario.play(engine)

    def _compare(self, engine: Engine, where: str) -> None:
        drain(engine)
        assert self._stage is not None
        told = tell(self._scenario, self._stage)
        story = "\n".join(f"{label}: {line}" for label, job in told["jobs"].items() for line in _story(job))
        seen = essence(self._scenario, told)
        assert seen == self._wanted, f"{where}\nseen    {seen}\nwanted  {self._wanted}\n{story}"


def _story(job: dict[str, Any]) -> list[str]:
    return [
        *job.get("history", ()),
        *(f"{line}: {each}" for line, events in job.get("lines", {}).items() for each in events),
    ]
