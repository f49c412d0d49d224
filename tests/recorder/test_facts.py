"""Facts are gathered from a real store in one snapshot and few queries, and what they allow the store accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.recorder.build import ANN, Engine, World
from tests.stores import change_behind, new_store

from relight.core.commands import Command, JobRef
from relight.core.commands import engines as ce
from relight.core.commands import steering as cs
from relight.core.why import explain
from relight.core.why_acts import Act, allowed_acts
from relight.core.why_facts import Facts, JobFacts, LiveFacts
from relight.errors import Conflict, IllegalTransition, NotFound, StorageCorrupt
from relight.model import JobState, StepKind, Why
from relight.recorder.facts import CHILDREN, DEPTH, EVIDENCE, gather_facts
from relight.store.reads import EventFilter, Reads


class Able(Engine):
    """An engine that says which kinds it knows."""

    def _opener(self) -> Command:
        opening = super()._opener()
        assert isinstance(opening, ce.OpenWriterNow)
        row = msgspec.structs.replace(opening.row, kinds='["census","agent"]')
        return msgspec.structs.replace(opening, row=row)


class Counted:
    """A source of reads that notes which queries were run."""

    def __init__(self, reads: Reads) -> None:
        self._fetch = reads._source.fetch
        self.names: list[str] = []

    def fetch(self, name: str, **values: object) -> str:
        self.names.append(name)
        return self._fetch(name, **values)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(new_store(tmp_path))
    yield made
    made.close()


def gather(world: World, job_id: str, live: LiveFacts | None = None) -> tuple[Facts, list[str]]:
    with world.store.reading(snapshot=True) as reads:
        counted = Counted(reads)
        return gather_facts(Reads(counted), job_id, world.clock.now_ms(), live), counted.names


def why(world: World, job: JobRef) -> Why:
    return explain(gather(world, job.job_id)[0])


def codes(world: World, job: JobRef) -> list[str]:
    return [cause.code for cause in why(world, job).causes]


def evidence_types(world: World, job: JobRef) -> list[str]:
    """Return the types of the events that the first cause names; each must be in the log."""
    with world.store.reading() as reads:
        types = {event.event_id: event.type for event in reads.events(EventFilter())}
    return [types[event_id] for event_id in why(world, job).causes[0].evidence]


class TestQueries:
    def test_a_job_that_ended_takes_one(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit())
        engine.finish(run)
        assert gather(world, run.job_id)[1] == ["job_facts"]

    def test_a_running_one_takes_two(self, world: World) -> None:
        run = Able(world).start().claim(world.client().submit())
        assert gather(world, run.job_id)[1] == ["job_facts", "engines_to_judge"]

    def test_one_in_line_looks_at_its_queue_and_at_slots_only_where_there_are_any(self, world: World) -> None:
        engine = Able(world).start()
        job = world.client().submit()
        assert gather(world, job.job_id)[1] == ["job_facts", "engines_to_judge", "queues", "ahead_in_line"]
        engine.define_queue("default", 3)
        assert gather(world, job.job_id)[1][2:] == ["queues", "queue_load", "slot_holders", "ahead_in_line"]

    def test_a_shut_gate_takes_one_more(self, world: World) -> None:
        Able(world).begin_recovery()
        assert "events_of_writer" in gather(world, world.client().submit().job_id)[1]

    def test_no_payload_is_read(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit())
        damage(world, "UPDATE jobs SET inputs = '\"secret input\"', outputs = '\"secret output\"'")
        engine.begin(run, "a#0")
        engine.step(run, "b#0", '"secret outcome"')
        world.client().signal(run, "go")
        engine.ask(run, "ask#0")
        found = gather(world, run.job_id)[0]
        assert "secret" not in repr(found)
        assert [s.step_key for s in found.store.steps] == ["a#0", "ask#0"]
        assert [(s.inputs, s.outcome, s.args_hashes) for s in found.store.steps] == [(None, None, None)] * 2
        assert [s.payload for s in found.store.unread] == [None]
        assert [d.question for d in found.store.decisions] == ["really?"]


class TestOneJob:
    def test_steps_are_the_open_ones_then_those_that_failed_last(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit())
        for key in ("x#0", "x#1"):
            engine.begin(run, key)
            engine.fail_try(run, key)
        engine.step(run, "done#0")
        engine.begin(run, "open#0")
        engine.wait(run, "go#0", StepKind.SIGNAL, "go")
        store = gather(world, run.job_id)[0].store
        assert [s.step_key for s in store.steps] == ["open#0", "go#0", "x#1", "x#0"]
        counts = store.counts
        assert (counts.total, counts.open, counts.failed) == (5, 2, 2)
        assert counts.last_at == max(s.begun_at for s in store.steps)

    def test_runs_and_marks_are_the_last_ones_first(self, world: World) -> None:
        engine = Able(world).start()
        job = world.client().submit()
        for _ in range(3):
            engine.put_away(engine.claim(job), ready_at=world.clock.now_ms())
        store = gather(world, job.job_id)[0].store
        assert len(store.runs) == 3
        assert [run.run_id for run in store.runs] == sorted((run.run_id for run in store.runs), reverse=True)
        assert [mark.type for mark in store.marks] == ["run_suspended", "run_started"] * 3 + ["job_accepted"]

    def test_its_engine_is_the_one_of_its_last_run(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit())
        owner = gather(world, run.job_id)[0].store.owner
        assert owner is not None and owner.engine_id == engine.id

    def test_only_evidence_is_read_of_its_last_events(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit())
        for i in range(300):
            engine.step(run, f"a#{i}")
        marks = gather(world, run.job_id)[0].store.marks
        assert {mark.type for mark in marks} == {"step_began"}
        assert len(marks) == 250

    def test_an_unknown_job_is_not_found(self, world: World) -> None:
        with pytest.raises(NotFound):
            gather(world, "no-such-job")

    def test_a_row_that_cannot_be_read_says_so(self, world: World) -> None:
        job = world.client().submit()
        damage(world, "UPDATE jobs SET state = 'odd' WHERE job_id = ?", job.job_id)
        with pytest.raises(StorageCorrupt):
            gather(world, job.job_id)

    def test_the_query_gives_the_fields_in_their_order(self, world: World) -> None:
        job = world.client().submit()
        with world.store.reading() as reads:
            [found] = reads.job_facts([job.job_id], EVIDENCE)
            assert isinstance(found, JobFacts)
            head = msgspec.structs.replace(world.row(job), inputs=None)
            assert found.job == head
            assert reads.job_facts(["no-such-job"], EVIDENCE) == []


def damage(world: World, sql: str, *values: object) -> None:
    change_behind(str(world.path), sql, values)


class TestChildren:
    def chain(self, world: World, levels: int) -> list[JobRef]:
        """Make jobs that wait for one another, each put away but the last, which is queued."""
        engine = Able(world).start()
        jobs = [world.client().submit("agent")]
        for _ in range(levels):
            run = engine.claim(jobs[-1])
            [child] = engine.start_children(run, "start#0", "agent")
            engine.wait(run, "result#0", StepKind.CHILD_RESULT, child.job_id)
            engine.put_away(run, "waiting")
            jobs.append(child)
        return jobs

    def test_a_parent_tells_its_child_s_own_first_sentence(self, world: World) -> None:
        parent, child = self.chain(world, 1)
        found = gather(world, parent.job_id)[0]
        told = explain(found.children[child.job_id]).summary
        assert told.endswith("next in line for engine e.")
        assert told.rstrip(".") in explain(found).summary
        assert codes(world, parent) == ["waiting_child"]

    def test_a_long_chain_is_told_to_a_limited_depth_with_one_query_a_level(self, world: World) -> None:
        jobs = self.chain(world, DEPTH + 2)
        found, names = gather(world, jobs[0].job_id)
        assert names.count("job_facts") == DEPTH + 1
        told = explain(found).summary
        assert all(job.job_id[-6:] in told for job in jobs[: DEPTH + 2])
        assert jobs[-1].job_id[-6:] not in told

    def test_of_many_children_a_few_are_told(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit("agent"))
        children = engine.start_children(run, "start#0", *["census"] * 5)
        for i, child in enumerate(children):
            engine.wait(run, f"result#{i}", StepKind.CHILD_RESULT, child.job_id)
        engine.put_away(run, "waiting")
        found, names = gather(world, run.job_id)
        assert len(found.children) == CHILDREN
        assert names.count("job_facts") == 2
        assert explain(found).causes[-1].detail.endswith("; and 2 more")

    def test_a_child_that_cannot_be_read_harms_no_other(self, world: World) -> None:
        engine = Able(world).start()
        run = engine.claim(world.client().submit("agent"))
        bad, good = engine.start_children(run, "start#0", "census", "census")
        for i, child in enumerate((bad, good)):
            engine.wait(run, f"result#{i}", StepKind.CHILD_RESULT, child.job_id)
        damage(world, "UPDATE jobs SET state = 'odd' WHERE job_id = ?", bad.job_id)
        found = gather(world, run.job_id)[0]
        assert set(found.children) == {good.job_id}
        assert codes(world, run) == ["waiting_child", "waiting_child"]

    def test_jobs_that_wait_for_each_other_end_the_walk(self, world: World) -> None:
        engine = Able(world).start()
        a, b = (engine.claim(world.client().submit("agent")) for _ in range(2))
        engine.wait(a, "result#0", StepKind.CHILD_RESULT, b.job_id)
        engine.wait(b, "result#0", StepKind.CHILD_RESULT, a.job_id)
        assert codes(world, a) == ["waiting_child"]


# What happened, and what why says of it. Each scenario makes a world and returns the job to ask about.


def queued(world: World) -> JobRef:
    return world.client().submit()


def shut(world: World) -> JobRef:
    engine = Able(world)
    engine.begin_recovery()
    engine.do(ce.FailGate(engine_id=engine.id, gate_code="storage", detail="disk full"))
    return world.client().submit()


def begun(world: World) -> JobRef:
    return Able(world).start().claim(world.client().submit())


def asleep(world: World) -> JobRef:
    engine = Able(world).start()
    run = engine.claim(world.client().submit())
    until = world.clock.now_ms() + 60_000
    engine.wait(run, "sleep#0", StepKind.SLEEP, None, until)
    engine.put_away(run, "waiting", ready_at=until)
    return run


def awaiting_signal(world: World) -> JobRef:
    engine = Able(world).start()
    run = engine.claim(world.client().submit())
    engine.wait(run, "go#0", StepKind.SIGNAL, "go")
    engine.put_away(run, "waiting")
    return run


def awaiting_answer(world: World) -> JobRef:
    engine = Able(world).start()
    run = engine.claim(world.client().submit())
    engine.ask(run, "ask#0")
    engine.put_away(run, "awaiting_user", state=JobState.AWAITING_USER)
    return run


def mismatched(world: World) -> JobRef:
    engine = Able(world).start()
    run = engine.claim(world.client().submit())
    engine.put_away(run, "history_mismatch:arguments", state=JobState.AWAITING_USER)
    return run


def crashed(world: World) -> JobRef:
    dead = Able(world, "web-1").start()
    run = dead.claim(world.client().submit())
    dead.begin(run, "charge#0")
    Able(world, "web-2").start(dead=[dead])
    return run


def held_by_policy(world: World) -> JobRef:
    run = crashed(world)
    row = world.row(run)
    hold = cs.HoldJob(job=cs.ref_of(row), source=row.state, source_reason=row.status_reason, who=ANN, code="policy")
    world.client().do(hold)
    return run


def held_by_silence(world: World) -> JobRef:
    quiet = Able(world, "web-1").start()
    run = quiet.claim(world.client().submit())
    quiet.begin(run, "charge#0")
    Able(world, "web-2").start(silent=[quiet])
    return run


def unheard(world: World) -> JobRef:
    run = begun(world)
    world.clock.skip(60_000)
    return run


def cancelling(world: World) -> JobRef:
    run = begun(world)
    world.client().cancel(run)
    return run


def set_aside(world: World) -> JobRef:
    engine = Able(world).start()
    job = world.client().submit()
    engine.quarantine(job)
    return job


def ended(state: JobState) -> Callable[[World], JobRef]:
    def build(world: World) -> JobRef:
        engine = Able(world).start()
        run = engine.claim(world.client().submit())
        engine.finish(run, state)
        return run

    return build


def cancelled_before(world: World) -> JobRef:
    job = world.client().submit()
    world.client().cancel(job)
    return job


def poisoned(world: World) -> JobRef:
    run = crashed(world)
    Able(world, "web-3").start().poison(run)
    return run


SCENARIOS: dict[str, tuple[Callable[[World], JobRef], str, list[str]]] = {
    "queued": (queued, "no_engine", ["job_accepted"]),
    "shut": (shut, "gate_failed", ["gate_failed"]),
    "begun": (begun, "running", ["run_started"]),
    "asleep": (asleep, "sleeping", ["sleep_started"]),
    "awaiting_signal": (awaiting_signal, "waiting_signal", ["wait_started"]),
    "awaiting_answer": (awaiting_answer, "waiting_decision", ["wait_started"]),
    "mismatched": (mismatched, "history_mismatch", []),
    "crashed": (crashed, "stalled", ["workflow_recovery"]),
    "held_by_policy": (held_by_policy, "held", ["job_held", "workflow_recovery"]),
    "held_by_silence": (held_by_silence, "held", ["workflow_recovery"]),
    "unheard": (unheard, "owner_silent", ["run_started"]),
    "cancelling": (cancelling, "cancelling", ["job_cancel_requested"]),
    "set_aside": (set_aside, "quarantined", ["row_quarantined"]),
    "completed": (ended(JobState.COMPLETED), "completed", ["job_completed"]),
    "with_issues": (ended(JobState.COMPLETED_WITH_ISSUES), "issues", ["job_completed_with_issues"]),
    "failed": (ended(JobState.FAILED), "failed", ["job_failed"]),
    "cancelled": (ended(JobState.CANCELLED), "cancelled", ["job_cancelled"]),
    "cancelled_before": (cancelled_before, "cancelled", ["job_cancelled"]),
    "poisoned": (poisoned, "poisoned", ["job_poisoned", "workflow_recovery"]),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_happened_is_what_is_told_and_its_evidence_is_in_the_log(world: World, name: str) -> None:
    build, code, evidence = SCENARIOS[name]
    job = build(world)
    assert codes(world, job)[0] == code
    assert evidence_types(world, job) == evidence


def attempt(world: World, job: JobRef, act: Act) -> None:
    """Do an act as a person would: decided on the row, written to the store."""
    row = world.row(job)
    client = world.client()
    match act:
        case Act.RESUME:
            client.do(cs.decide_resume(row, ANN))
        case Act.RETRY:
            client.do(cs.decide_retry(row, ANN, []))
        case Act.RELEASE:
            client.do(cs.ReleaseQuarantined(job=cs.ref_of(row), table_name="jobs", who=ANN))
        case Act.SIGNAL:
            client.signal(job, "go")
        case Act.ANSWER:
            with world.store.reading() as reads:
                open_ids = [d.decision_id for d in reads.decisions(job.job_id) if d.state == "open"]
            if not open_ids:
                raise IllegalTransition("nothing is asked")
            client.answer(job, open_ids[0])
        case Act.CANCEL | Act.FAIL | Act.FORCE:
            code = "fail" if act is Act.FAIL else "cancel"
            force = act is Act.FORCE
            client.do(cs.decide_end(row, ANN, code=code, reason="test", force=force, open_decisions=()))
        case _:
            pytest.skip("its command is made elsewhere")


TRIED = [Act.RESUME, Act.RETRY, Act.RELEASE, Act.ANSWER, Act.CANCEL, Act.FAIL]
"""Acts that the store refuses wherever they are not offered. (Signal and force are accepted in more places.)"""


@pytest.mark.parametrize("act", TRIED)
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_offered_is_accepted_and_what_is_not_is_refused(world: World, name: str, act: Act) -> None:
    job = SCENARIOS[name][0](world)
    found = gather(world, job.job_id)[0]
    if act in allowed_acts(found.job, found):
        attempt(world, job, act)
        assert gather(world, job.job_id)[0].job != found.job or act in (Act.RELEASE, Act.ANSWER)
    else:
        with pytest.raises(Conflict):
            attempt(world, job, act)
        assert gather(world, job.job_id)[0].job == found.job


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("act", [Act.SIGNAL, Act.FORCE])
def test_what_is_offered_beyond_the_table_is_accepted(world: World, name: str, act: Act) -> None:
    job = SCENARIOS[name][0](world)
    found = gather(world, job.job_id)[0]
    if act in allowed_acts(found.job, found):
        attempt(world, job, act)
        assert act not in allowed_acts((again := gather(world, job.job_id)[0]).job, again)
