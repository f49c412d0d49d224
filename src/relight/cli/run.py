"""``relight run``: submit a job, execute it in this process, wait, print its result.

The engine of a ``run`` is one like any other: it recovers first, and it takes what else waits for it meanwhile. The same
key a second time finds the same job, and prints its result without running anything. Read next: ``worker.py``.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import click

from relight.authoring.children import job_error
from relight.authoring.workflows import Call
from relight.cli.arguments import make_call
from relight.cli.exit_codes import JOB_EXITS, Exit
from relight.cli.leaving import PATIENCE_SECONDS, Leaving, drain, pause
from relight.cli.loading import load
from relight.cli.news import News
from relight.cli.options import by_option, read_submit_options, store_option, submit_options
from relight.cli.output import local_now, say, shortened, tell, visible
from relight.cli.progress import ProgressLine
from relight.cli.records import stored_json
from relight.cli.show import job_why, result_text
from relight.cli.why_text import why_text
from relight.client.core import Core
from relight.client.handles import Job
from relight.engine.facade import Engine
from relight.errors import JobError
from relight.ids import JobId, short
from relight.model import FINAL_STATES, JobRecord, JobState


@click.command()
@click.argument("target", metavar="MODULE:WORKFLOW")
@submit_options
@by_option
@store_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    target: str,
    args: tuple[str, ...],
    inputs: str | None,
    by: str | None,
    store: str | None,
    **more: Any,
) -> None:
    """Submit a job, execute it in this process, wait, and print its result.

    MODULE may also be path/to/file.py; the current folder is importable. The result is printed to stdout as JSON,
    everything else to stderr.

    Exit codes: 0 completed, 1 failed, 2 usage, 3 cancelled, 4 waits for a person, 5 gate or store, 6 completed with
    issues, 130 interrupted (the job goes on with the next run or worker).
    """
    found = load(target)
    workflow = found.workflow()
    call = make_call(workflow, args, inputs, read_submit_options(**more))
    workflows = {id(each): each for each in (workflow, *found.workflows())}.values()
    engine = Engine(store, workflows=list(workflows), queues=found.queues())  # type: ignore[arg-type]
    engine._actor = by
    with Leaving() as leaving:
        ctx.exit(_run(engine, call, leaving))


def _run(engine: Engine, call: Call[Any], leaving: Leaving) -> int:
    engine.start()
    code, submitted = None, False
    try:
        news = News(engine, gate=False)
        _wait_for_gate(engine, news, leaving)
        if not leaving.asked:
            job = engine.submit(call)
            submitted = True
            _tell_submitted(engine.core, job)
            code = _wait_for_end(engine, job, news, leaving)
    finally:
        drain(engine, leaving)
    if code is not None:
        return code
    goes_on = "nothing is lost: the job goes on with the next relight run or relight worker of this module"
    tell(goes_on if submitted else "nothing was submitted")
    return leaving.exit_code


def _wait_for_gate(engine: Engine, news: News, leaving: Leaving) -> None:
    """Return when the gate opens, or somebody leaves. Raises ``GateClosed`` or ``RecoveryFailed`` after the time limit."""
    until = time.monotonic() + engine.settings.gate_timeout_ms / 1000
    while engine.health()["gate"] != "open" and not leaving.asked:
        if time.monotonic() >= until:
            engine._alive().gate.wait(0)
        news.look()
        pause(0.002)


def _tell_submitted(core: Core, job: Job[Any]) -> None:
    found = core.find(job.id)
    who = f"{found.kind} {short(job.id)}"
    if job.created:
        tell(f"{who} accepted ({job.id} in {core.store.place})")
    elif found.state in FINAL_STATES:
        tell(f"{who} already {found.state.replace('_', ' ')} (same key)")
    else:
        tell(f"{who} is there already (same key)")


def _wait_for_end(engine: Engine, job: Job[Any], news: News, leaving: Leaving) -> int | None:
    """Wait until the job has ended, waits for a person, or somebody leaves (None)."""
    core, job_id = engine.core, JobId(job.id)
    line = ProgressLine(core, job_id)
    ended = threading.Event()
    core.ends.wait_for(job_id, ended.set)
    try:
        while not ended.wait(PATIENCE_SECONDS):
            if leaving.asked:
                return None
            if _waits_for_person(core, job_id):
                line.clear()
                tell(why_text(job_why(core, job_id), local_now()))
                return Exit.NEEDS_PERSON
            news.look()
            line.draw()
    finally:
        line.clear()
        core.ends.forget(job_id, ended.set)
    found = core.find(job_id)
    return tell_end(core, found)


def _waits_for_person(core: Core, job_id: JobId) -> bool:
    with core.store.reading() as reads:
        aside = any(row.released_at is None for row in reads.quarantine(job_id))
        heads = [] if aside else reads.job_heads([job_id])
    if aside:
        return True
    held = (job.state is JobState.STALLED and (job.held_by or job.status_reason.startswith("held")) for job in heads)
    return any(job.state is JobState.AWAITING_USER for job in heads) or any(held)


def tell_end(core: Core, job: JobRecord) -> int:
    """Print a result, or say how else the job ended; return the exit code."""
    if job.outputs is not None:
        say(result_text(core, job))
        for issue in stored_json(job.issues) or []:
            detail = issue.get("detail")
            tell(f"issue: {visible(issue['code'])}{f': {visible(shortened(detail))}' if detail else ''}")
    else:
        error = job_error(job.job_id, job.kind, job.state, job.error)
        code = error.code if isinstance(error, JobError) else "job_error"
        tell(f"error: {code}: {visible(shortened(str(error), 2000))}")
    return JOB_EXITS[job.state]
