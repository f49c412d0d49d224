"""What people do to jobs: resume, retry, cancel, fail, signal, answer, release. These are the commands that ``why`` prints.

Each says afterwards how the job stands, in the first sentence of its ``why``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from relight.cli.addresses import find_decision, find_job
from relight.cli.arguments import json_or_text
from relight.cli.bulk import bulk_options, do_to_many, many_job_argument, one_or_many, read_filter
from relight.cli.options import by_option, job_argument, opened, store_option
from relight.cli.output import say, visible
from relight.cli.parsing import text_or_stdin
from relight.cli.show import job_why
from relight.cli.tokens import is_token, told
from relight.client.core import Core
from relight.engine.operator import release_job
from relight.errors import Conflict, InvalidArgument
from relight.ids import JobId
from relight.model import JobState, StepState

reason_option = click.option("--reason", metavar="TEXT", help="Why, for the record.")
force_option = click.option("--force", is_flag=True, help="End it at once, without the last run that cleans up.")


def _act(store: str | None, by: str | None, address: str, do: Callable[[Core, JobId], None]) -> None:
    with opened(store, by=by) as client:
        job_id = find_job(client.core, address)
        do(client.core, job_id)
        say(visible(job_why(client.core, job_id).summary))


@click.command()
@many_job_argument
@click.option("--done", metavar="STEP", help="Say that this step in doubt did happen …")
@click.option("--value", metavar="JSON", help="… with this result; null if it is not given.")
@click.option(
    "--not-done", "not_done", metavar="STEP", help="Say that this step in doubt did not happen: it is called again."
)
@click.option(
    "--accept",
    is_flag=True,
    help="Go on under the present code, although the record or the version differs: finished steps keep their outcome.",
)
@bulk_options(JobState.STALLED, JobState.AWAITING_USER, JobState.QUEUED)
@by_option
@store_option
def resume(
    job: str | None,
    done: str | None,
    value: str | None,
    not_done: str | None,
    accept: bool,
    by: str | None,
    store: str | None,
    yes: bool,
    **filters: Any,
) -> None:
    """Queue a stalled, held or stopped job again; or settle a step in doubt.

    A job that only waited for that answer goes on by itself. One that is held is resumed once nothing in it is in doubt.
    With filters instead of a JOB: many stalled jobs (--state awaiting_user: many stopped by a history mismatch; --accept
    --state queued: many whose version no live engine has, which then go on under the newest there is).
    """
    which = read_filter(**filters)
    one_or_many(job, which, yes=yes)
    if (done or not_done) is not None and (job is None or accept):
        raise InvalidArgument("--done and --not-done settle a step of one JOB, and go without --accept")
    if which is not None:
        with opened(store, by=by) as client:
            core = client.core
            do_to_many(
                core.resumable(which, accept=accept),
                "resume them",
                "resumed",
                yes=yes,
                act=lambda jobs: core.resume_all(jobs, by=by, accept=accept),
            )
        return
    assert job is not None
    if done is not None and not_done is not None:
        raise InvalidArgument("--done and --not-done settle one step each; give one of them at a time")
    if value is not None and done is None:
        raise InvalidArgument("--value is the result of the step that --done names; give both")
    step, verdict = (done, "done") if done is not None else (not_done, "not_done")

    def do(core: Core, job_id: JobId) -> None:
        if step is None:
            core.resume(job_id, by=by, accept=accept)
            return
        core.settle(job_id, step, verdict=verdict, value=value, by=by)
        if core.find(job_id).state is JobState.STALLED and not _doubts(core, job_id):
            _resume_unless_moved(core, job_id, by)

    _act(store, by, job, do)


def _doubts(core: Core, job_id: JobId) -> bool:
    with core.store.reading() as reads:
        return any(s.state is StepState.IN_DOUBT and s.policy != "retry" for s in reads.steps(job_id))


def _resume_unless_moved(core: Core, job_id: JobId, by: str | None) -> None:
    """Resume, unless policy was faster: the settling is done either way."""
    try:
        core.resume(job_id, by=by)
    except Conflict:
        if core.find(job_id).state is JobState.STALLED:
            raise


@click.command()
@many_job_argument
@click.option("--all-failed", is_flag=True, help="Run every failed step again, also those whose failure was caught.")
@bulk_options(JobState.FAILED, JobState.POISONED)
@by_option
@store_option
def retry(job: str | None, all_failed: bool, by: str | None, store: str | None, yes: bool, **filters: Any) -> None:
    """Queue a failed or poisoned job again: it goes on where it stopped.

    The step that ended it runs again; finished steps do not. With filters instead of a JOB: many failed jobs (poisoned ones
    only with --state poisoned).
    """
    which = read_filter(**filters)
    one_or_many(job, which, yes=yes)
    if which is not None:
        with opened(store, by=by) as client:
            core = client.core
            do_to_many(
                core.retriable(which),
                "retry them",
                "queued again",
                yes=yes,
                act=lambda jobs: core.retry_all(jobs, by=by, all_failed=all_failed),
            )
        return
    assert job is not None
    _act(store, by, job, lambda core, job_id: core.retry(job_id, by=by, all_failed=all_failed))


@click.command()
@job_argument
@reason_option
@force_option
@by_option
@store_option
def cancel(job: str, reason: str | None, force: bool, by: str | None, store: str | None) -> None:
    """Cancel a job: at once if it never began, else in one last run that cleans up."""
    _act(store, by, job, lambda core, job_id: core.end(job_id, code="cancel", reason=reason, by=by, force=force))


@click.command()
@click.argument("job", metavar="JOB|TOKEN")
@reason_option
@force_option
@by_option
@store_option
def fail(job: str, reason: str | None, force: bool, by: str | None, store: str | None) -> None:
    """End a job as failed, as cancel does; or what a token stands for.

    A job's wait for its token then raises the reason. A token takes one answer. When there was one before, or its time is up, nothing is changed, and it says so.
    """
    if is_token(job):
        if force:
            raise InvalidArgument("--force is about a job; a token is failed at once")
        with opened(store, by=by) as client:
            say(told(client.fail(job, reason or "failed outside"), "failed"))
        return
    _act(store, by, job, lambda core, job_id: core.end(job_id, code="fail", reason=reason, by=by, force=force))


@click.command()
@job_argument
@click.argument("name", metavar="NAME")
@click.argument("payload", metavar="[PAYLOAD]", required=False)
@click.option("--key", metavar="KEY", help="Idempotency key: under one key a message is delivered once.")
@by_option
@store_option
def signal(job: str, name: str, payload: str | None, key: str | None, by: str | None, store: str | None) -> None:
    """Send a job a message. PAYLOAD is JSON, else text; - reads stdin; null without one."""
    value = None if payload is None else json_or_text(text_or_stdin(payload))
    _act(store, by, job, lambda core, job_id: core.signal(job_id, name, value, by=by, idempotency_key=key))


@click.command()
@job_argument
@click.argument("choice", metavar="CHOICE")
@click.option("--decision", metavar="ID", help="Which question, when several are open; the end of its id will do.")
@click.option("--note", metavar="TEXT", help="A note for the job and the record.")
@click.option("--value", metavar="JSON", help="With the choice done: what a step in doubt gave.")
@by_option
@store_option
def answer(
    job: str, choice: str, decision: str | None, note: str | None, value: str | None, by: str | None, store: str | None
) -> None:
    """Answer a job's question."""
    if value is not None:
        try:
            msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"--value {value!r} is not JSON: {error}") from None

    def do(core: Core, job_id: JobId) -> None:
        which = None if decision is None else find_decision(core, job_id, decision)
        core.answer(job_id, choice, decision_id=which, note=note, by=by, value=value)

    _act(store, by, job, do)


@click.command()
@job_argument
@by_option
@store_option
def release(job: str, by: str | None, store: str | None) -> None:
    """Take a job out of quarantine: recovery and claims meet it again."""
    with opened(store, by=by) as client:
        job_id = find_job(client.core, job)
        row = release_job(client.core, job_id, by=by)
        say(visible(f"{job_id} is released; it had been set aside for {row.code} in {row.table_name}"))
