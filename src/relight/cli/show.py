"""``relight show`` and ``relight why``: one job, as its rows have it, and why it is where it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo

import click
import msgspec

from relight.cli import records
from relight.cli.addresses import find_job
from relight.cli.options import job_argument, json_option, limit_option, opened, store_option
from relight.cli.output import json_text, local, local_now, say, say_json, shortened, visible, visible_lines
from relight.cli.why_text import local_zone, why_text
from relight.client.core import Core
from relight.core.flow import STOWED
from relight.core.why_words import lasting, listed
from relight.ids import JobId, short
from relight.model import (
    FINISHED_STEPS,
    DecisionRecord,
    JobRecord,
    RunRecord,
    SignalRecord,
    StepRecord,
    StepState,
    TokenRecord,
    Why,
)

SHOWN_CHARACTERS = 500


@click.command()
@job_argument
@json_option
@store_option
def why(job: str, as_json: bool, store: str | None) -> None:
    """Explain why a job is where it is, with the evidence, and the commands that help."""
    with opened(store) as client:
        job_id = find_job(client.core, job)
        found = job_why(client.core, job_id, UTC if as_json else None)
    if as_json:
        say_json(records.why_object(job_id, found))
    else:
        for text in why_text(found, local_now()).split("\n"):
            say(visible(text))


def job_why(core: Core, job_id: JobId, tz: tzinfo | None = None) -> Why:
    """Explain a job. Its moments are told in ``tz``, which is this machine's time zone when it is None."""
    return core.why(job_id, tz or local_zone(local_now()))


@click.command()
@job_argument
@limit_option(100, "the last")
@json_option
@store_option
def show(job: str, limit: int, as_json: bool, store: str | None) -> None:
    """Show a job: state, arguments, result or error, runs, steps, messages, questions.

    --limit is about its steps.
    """
    with opened(store) as client:
        whole = _Whole(client.core, find_job(client.core, job), limit)
    if as_json:
        say_json(whole.as_object())
    else:
        for text in whole.as_lines():
            say(text)


class _Whole:
    """Everything that the store has about one job, read in one snapshot."""

    def __init__(self, core: Core, job_id: JobId, limit: int) -> None:
        self.job = core.find(job_id)
        with core.store.reading(snapshot=True) as reads:
            self.runs: list[RunRecord] = reads.runs(job_id)
            steps: list[StepRecord] = reads.steps(job_id)
            self.signals: list[SignalRecord] = reads.signals(job_id)
            self.decisions: list[DecisionRecord] = reads.decisions(job_id)
            self.tokens: list[TokenRecord] = reads.tokens(job_id)
            self.quarantine = [row for row in reads.quarantine(job_id) if row.released_at is None]
            texts = [text for text in (self.job.inputs, self.job.outputs) if text and text.startswith(STOWED)]
            self.blobs = {name: reads.blob(name) for name in (text.removeprefix(STOWED) for text in texts)}
        self.total = len(steps)
        self.finished = sum(step.state in FINISHED_STEPS for step in steps)
        self.steps = steps[-limit:] if limit else steps

    def as_object(self) -> records.Object:
        return {
            **records.whole_job_object(self.job, self.blobs.get),
            "runs": [records.run_object(run) for run in self.runs],
            "steps_total": self.total,
            "steps": [records.step_object(step) for step in self.steps],
            "signals": [records.signal_object(signal) for signal in self.signals],
            "decisions": [records.decision_object(decision) for decision in self.decisions],
            "tokens": [records.token_object(token) for token in self.tokens],
            "quarantine": [records.quarantine_object(row) for row in self.quarantine],
        }

    def as_lines(self) -> Iterator[str]:
        job = self.job
        yield visible(f"{job.kind} {short(job.job_id)} {job.state}")
        for name, value in self._facts():
            if value:
                yield f"  {name:<10} {visible(value)}"
        yield from self._error_lines()
        if self.runs:
            yield "  runs"
            yield from (f"    {visible(text)}" for text in map(_run_line, self.runs))
        if self.steps:
            left_out = f"; the last {len(self.steps):,}:" if len(self.steps) < self.total else ""
            yield f"  steps: {self.finished:,} of {self.total:,} finished{left_out}"
            yield from (f"    {visible(text)}" for text in map(_step_line, self.steps))
        for title, rows in (("messages", self.signals), ("questions", self.decisions), ("tokens", self.tokens)):
            if rows:
                yield f"  {title}"
                yield from (f"    {visible(_row_line(row))}" for row in rows)

    def _facts(self) -> Iterator[tuple[str, str]]:
        job = self.job
        yield "id", job.job_id
        yield "because", job.status_reason
        yield "attempt", str(job.attempt) if job.attempt else ""
        yield "queue", f"{job.queue}, priority {job.priority}"
        yield "version", job.version or ""
        yield "key", job.idempotency_key or ""
        yield "tags", ", ".join(f"{k}={v}" for k, v in (records.stored_json(job.tags) or {}).items())
        yield "parent", job.parent_job_id or ""
        yield "created", local(job.created_at)
        yield "not before", local(job.ready_at) if job.completed_at is None else ""
        yield "deadline", local(job.deadline_at)
        yield "ended", local(job.completed_at)
        yield "set aside", listed([f"{row.code}: {row.detail}" for row in self.quarantine])
        yield "trace", job.trace_id
        yield "inputs", self._payload(job.inputs)
        yield "result", self._payload(job.outputs)
        yield "issues", "; ".join(_issue_text(issue) for issue in records.stored_json(job.issues) or [])

    def _payload(self, text: str | None) -> str:
        if text is None:
            return ""
        kept = self.blobs.get(text.removeprefix(STOWED)) if text.startswith(STOWED) else text
        return shortened(kept if kept is not None else f"missing: {text}", SHOWN_CHARACTERS)

    def _error_lines(self) -> Iterator[str]:
        error = records.stored_json(self.job.error)
        if not isinstance(error, dict):
            return
        told = f"{error.get('type')}: {error.get('message')}"
        yield f"  {'error':<10} {visible(shortened(told, SHOWN_CHARACTERS))}"
        yield from (f"    {text}" for text in visible_lines(str(error.get("traceback") or "")))


def _run_line(run: RunRecord) -> str:
    took = "" if run.ended_at is None else f" for {lasting(run.ended_at - run.started_at)}"
    reason = f" ({run.reason})" if run.reason else ""
    return f"{short(run.run_id)}  attempt {run.attempt}  {run.state:<9}  {local(run.started_at)}{took} in engine {short(run.engine_id)}{reason}"


def _step_line(step: StepRecord) -> str:
    told = ""
    if step.ended_at is not None:
        told = lasting(step.ended_at - step.begun_at)
    elif step.until:
        told = f"until {local(step.until)}"
    if step.state is StepState.FAILED or (step.error and step.state is not StepState.COMPLETED):
        error = records.stored_json(step.error)
        told += f"  {error.get('type')}: {shortened(str(error.get('message')))}" if isinstance(error, dict) else ""
    tries = f"try {step.try_number}  " if step.try_number > 1 else ""
    return f"{step.step_key}  {step.state}  {tries}{told}".rstrip()


def _issue_text(issue: object) -> str:
    if not isinstance(issue, dict):
        return str(issue)
    detail = f" ({shortened(str(issue['detail']))})" if issue.get("detail") else ""
    return f"{issue.get('code')}{detail}"


def _row_line(row: msgspec.Struct) -> str:
    if isinstance(row, SignalRecord):
        read = f"read by {row.read_by}" if row.read_by else "not read yet"
        return f"{row.name}  from {row.by or 'nobody'}  {local(row.sent_at)}  {read}"
    if isinstance(row, TokenRecord):
        by = f" by {row.by}" if row.by else ""
        heard = f"  last heard of {local(row.beat_at)}" if row.beat_at > row.created_at else ""
        return f"{row.token}  {row.name}  made {local(row.created_at)}  {row.state}{by}{heard}"
    assert isinstance(row, DecisionRecord)
    answer = f": {row.choice} by {row.by}" if row.choice is not None else ""
    return f"{short(row.decision_id)}  {row.question}  asked {local(row.asked_at)}  {row.state}{answer}"


def result_text(core: Core, job: JobRecord) -> str:
    """Return a job's result as JSON text, one kept apart brought back."""
    text = job.outputs or "null"
    if text.startswith(STOWED):
        with core.store.reading() as reads:
            text = reads.blob(text.removeprefix(STOWED)) or "null"
    return json_text(msgspec.Raw(text.encode()))
