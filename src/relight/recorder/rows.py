"""A job's rows, against each other and against its story (I-2, I-4, I-7, I-8, I-11, I-14, I-17, J-*, S-1).

Nothing is said of the rows of a quarantined job: it was set aside because something is wrong with them, visibly; but the
quarantine itself must have been told. Read next: ``verify.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from relight.codec import canonical_hash
from relight.core.flow import STOWED, digest_of_stored
from relight.core.transitions import RUN_ENDS, TRANSITIONS
from relight.model import (
    CALLED_STEPS,
    FINAL_STATES,
    FINISHED_STEPS,
    PUBLISHING_STATES,
    EngineState,
    JobState,
    RunState,
    StepState,
)
from relight.recorder.story import JobStory
from relight.store.audits import AuditedJob, AuditedRun, AuditedStep


def _at_rest_after(states: Iterable[JobState]) -> frozenset[JobState]:
    """Return the states that a job can reach from these without another run."""
    reached = set(states)
    while more := {t.target for t in TRANSITIONS if t.source in reached} - reached - {JobState.RUNNING}:
        reached |= more
    return frozenset(reached)


AFTER_RUN: Final = {
    RunState.RUNNING: frozenset({JobState.RUNNING}),
    **{run: _at_rest_after(jobs) for run, jobs in RUN_ENDS.items()},
}
"""The end of a job's last run, and the states the job may be in."""
NEVER_RAN: Final = _at_rest_after({JobState.QUEUED})


@dataclass(frozen=True)
class Around:
    """What a job's rows are held against besides its own events.

    ``last_gate_seq``: the newest ``gate_opened``. ``open_since``: when the newest open gate of a live engine opened.
    ``set_aside``: jobs in quarantine by the log.
    """

    last_gate_seq: int
    open_since: int
    set_aside: AbstractSet[str]


def check_rows(story: JobStory, runs: Iterable[AuditedRun], steps: Iterable[AuditedStep], around: Around) -> None:
    """Compare everything stored of a job with what its events say."""
    job = story.job
    # A row whose trace nobody could read was set aside by an event that names the job in its payload only.
    told = story.quarantined or (job.job_id in around.set_aside and (job.quarantined or not story.released))
    if told != job.quarantined:
        story.tell("I-2", f"the job is {'' if job.quarantined else 'not '}in quarantine, the log says otherwise")
    if job.quarantined:
        for _ in (*runs, *steps):
            pass
        return
    known = list(runs)
    _check_job(story)
    _check_runs(story, known, around)
    _check_steps(story, steps, {run.run_id for run in known}, copied=story.forked_from is not None)
    _check_parent(story, around)


def _inputs_fit(job: AuditedJob) -> bool:
    """Tell whether inputs have the hash that was recorded; stowed ones are kept by another hash of their own."""
    if job.inputs is None or job.inputs.startswith(STOWED):
        return True
    try:
        return canonical_hash(job.inputs.encode()) == job.inputs_hash
    except ValueError:
        return False  # no JSON any more


def _check_job(story: JobStory) -> None:
    job = story.job
    accepted = story.accepted
    final = job.state in FINAL_STATES
    if story.state != job.state:
        story.tell("I-2", f"the job is {job.state}, its events say {story.state or 'nothing'}")
    if accepted is not None:
        told = (accepted.job_kind, accepted.queue, accepted.inputs_hash, accepted.parent_job_id)
        if told != (job.kind, job.queue, job.inputs_hash, job.parent_job_id):
            story.tell("I-2", "kind, queue, inputs or parent are not what was accepted")
    if not _inputs_fit(job):
        story.tell("I-2", "the inputs are not those whose hash was recorded")
    if job.has_outputs and _is_other_text(job.outputs, story.outputs_hash):
        story.tell("I-2", "the outputs are not those whose hash was told")
    if story.attempt != job.attempt:
        story.tell("I-12", f"the job is at attempt {job.attempt}, its events say {story.attempt}")
    if story.terminal != int(final):
        story.tell("I-4", f"the job is {job.state}, with {story.terminal} terminal events since its last retry")
    if job.has_outputs and job.state not in PUBLISHING_STATES:
        story.tell("J-1", f"the job is {job.state} and has outputs")
    if (job.completed_at is not None) != final:
        story.tell("J-2", f"the job is {job.state} and has {'an' if job.completed_at is not None else 'no'} end time")
    may_have = job.state in FINAL_STATES - PUBLISHING_STATES
    if not may_have and job.has_issues != (job.state == JobState.COMPLETED_WITH_ISSUES):
        story.tell("J-6", f"the job is {job.state} and has {'' if job.has_issues else 'no '}issues")
    if final and job.open_questions:
        story.tell("S-2", f"the job is {job.state}, and {job.open_questions} of its questions are open")
    if job.claimable and job.state != JobState.QUEUED:
        story.tell("J-3", f"the job is {job.state} and claimable")


def _check_runs(story: JobStory, runs: list[AuditedRun], around: Around) -> None:
    job = story.job
    for run in runs:
        _check_run(story, run, around)
    missing = story.runs.keys() - {run.run_id for run in runs}
    for run_id in sorted(missing):
        story.tell("I-2", f"run {run_id} started and has no row", run_id)
    running = [run.run_id for run in runs if run.state == RunState.RUNNING]
    if running != ([job.run_id] if job.state == JobState.RUNNING else []):
        story.tell("I-11", f"the job is {job.state}, its run {job.run_id}; running are {running or 'none'}", *running)
    last = next((run for run in runs if run.run_id == job.run_id), None)
    fitting = NEVER_RAN if job.run_id is None else AFTER_RUN.get(last.state) if last else None  # type: ignore[call-overload]
    if fitting is None or job.state not in fitting:
        state = last.state if last else "missing"
        story.tell("I-11", f"the job is {job.state}, its last run {job.run_id} is {state}", job.run_id)
    if job.begun != bool(runs):
        story.tell("J-5", f"the job has {'' if job.begun else 'not '}begun and has {len(runs)} runs")


def _check_run(story: JobStory, run: AuditedRun, around: Around) -> None:
    told = story.runs.get(run.run_id)
    if told is None:
        story.tell("I-2", f"run {run.run_id} is {run.state} and never started by the events", run.run_id)
    elif (told.state, told.attempt, told.engine_id) != (run.state, run.attempt, run.engine_id):
        story.tell(
            "I-2",
            f"run {run.run_id} is {run.state}, number {run.attempt}, of engine {run.engine_id}; its events say "
            f"{told.state}, number {told.attempt}, of engine {told.engine_id}",
            run.run_id,
        )
    if run.state == RunState.STALLED and (told is None or told.recoveries == 0):
        story.tell("I-8", f"run {run.run_id} is stalled without a workflow_recovery", run.run_id)
    if run.ended != (run.state != RunState.RUNNING):
        story.tell("J-2", f"run {run.run_id} is {run.state} and has {'an' if run.ended else 'no'} end time", run.run_id)
    if run.state == RunState.RUNNING and _is_forgotten(story, run, around):
        story.tell(
            "I-7",
            f"run {run.run_id} still runs under engine {run.engine_id}, which is {run.engine_state}, though a gate opened since",
            run.run_id,
        )


def _is_forgotten(story: JobStory, run: AuditedRun, around: Around) -> bool:
    # A row released from quarantine after the gate opened is met by the next watch: until then nothing is wrong.
    held = run.engine_state in (EngineState.DEAD, EngineState.SILENT)
    return held and not story.released and around.open_since > (run.engine_ended_at or 0)


def _check_steps(story: JobStory, steps: Iterable[AuditedStep], run_ids: set[str], *, copied: bool) -> None:
    kept = {key for key, step in story.steps.items() if step.done}
    for step in steps:
        kept.discard(step.step_key)
        if step.kind in CALLED_STEPS:
            _check_step(story, step, copied=copied and step.run_id not in run_ids)
        if step.run_id not in run_ids and not copied:
            story.tell(
                "J-5", f"step {step.step_key} belongs to run {step.run_id}, which is none of this job", step.run_id
            )
        if step.state == StepState.WAITING and story.job.state in FINAL_STATES:
            story.tell("S-2", f"the job is {story.job.state}, and {step.step_key} waits")
        if step.ended != (step.state in FINISHED_STEPS):
            story.tell("J-2", f"step {step.step_key} is {step.state} and has {'an' if step.ended else 'no'} end time")
    for key in sorted(kept):
        story.tell("I-14", f"step {key} finished by the events and has no row")


def _check_step(story: JobStory, step: AuditedStep, *, copied: bool) -> None:
    key = step.step_key
    told = story.steps.get(key)
    done = told is not None and told.done
    if done != (step.state == StepState.COMPLETED) and not copied:
        story.tell("I-14", f"step {key} is {step.state}, its events say {'finished' if done else 'not finished'}")
    if told is not None and _is_other_text(step.outcome, told.outcome_hash):
        story.tell("I-14", f"the outcome of step {key} is not the one whose hash was told")
    if step.state == StepState.RUNNING and step.run_state != RunState.RUNNING:
        story.tell("S-1", f"step {key} is running, its run {step.run_id} is {step.run_state or 'missing'}", step.run_id)


def _is_other_text(text: str | None, told_hash: str | None) -> bool:
    # A long text was not read, and one that was stowed is a reference.
    return text is not None and told_hash is not None and digest_of_stored(text) != told_hash


def _check_parent(story: JobStory, around: Around) -> None:
    """Check that a child does not outlive its parent unasked.

    Engines tell the children of ended parents, at the latest after the next gate: until then nothing is wrong.
    """
    job = story.job
    if job.parent_state not in FINAL_STATES or job.state in FINAL_STATES or job.detached or job.cancel_code is not None:
        return
    if (job.parent_last_seq or 0) < around.last_gate_seq:
        story.tell("I-17", f"the job is {job.state}, its parent is {job.parent_state}", job.parent_job_id)
