"""All or nothing: a batch whose precondition fails for one row leaves nothing behind, and says which operation it was.

What is written is what is read back, whatever it looks like; and commands of one batch end as if each had been a
transaction of its own, in the order they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from relight.conformance.world import ANN, Engine, StoreFactory, World
from relight.core import events as ev
from relight.core.chain import EventRow, Head, check
from relight.core.commands import Command, JobRef
from relight.core.commands import engines as ce
from relight.core.commands import jobs as cj
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.queue_rows import QueueLimit
from relight.core.terms import RateTerms
from relight.errors import Conflict
from relight.ids import StepKey
from relight.model import EngineState, JobState, QueueRecord, StepKind, StepState, Verdict
from relight.store.store import Refused


class Ground:
    """What refused commands are made of: a running job with a step done, one queued, one ended, one dead engine's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine: Engine = world.open_engine()
        self.dead = world.open_engine("dead")
        self.run = self.engine.run_new(idempotency_key="taken")
        self.engine.begin(self.run)
        self.engine.finish_step(self.run)
        self.queued = self.engine.submit(queue="narrow")
        self.ended = self.engine.run_new()
        self.question = self.engine.ask(self.ended)
        self.message = self.engine.signal(self.ended, "go")
        self.engine.finish(self.ended)
        self.left = self.dead.run_new()
        self.engine.judge(self.dead)
        self.engine.claim(self.engine.submit(queue="full"), rate=("full", RateTerms(1, 1000)))
        self.engine.define_queue("known", slots=1)


def _again(g: Ground) -> Command:
    return g.engine.submission(idempotency_key="taken")


def _consume(g: Ground) -> Command:
    g.engine.do(_reading(g, g.run, g.engine.signal(g.run, "go"), "go#0"))
    return _reading(g, g.run, g.world.snapshot(g.run).signals[0].signal_id, "go#1")


def _reading(g: Ground, run: JobRef, signal_id: str, key: str) -> Command:
    return ct.ConsumeSignal(
        job=run, step_key=StepKey(key), signal_id=signal_id, name="go", payload_hash="x", outcome="1", fresh=True
    )


def _asking_again(g: Ground) -> Command:
    return ct.AskPerson(
        job=g.run,
        step_key=StepKey("ask#9"),
        decision_id=g.question,
        question="?",
        options="[]",
        preview=None,
        preview_hash=None,
        expires_at=None,
    )


def _copying_nothing(g: Ground) -> Command:
    new = g.engine.submission(forked_from=g.ended.job_id)
    return cj.ForkJob(source=g.ended, new=new, from_step=None, steps=(StepKey("nothing#0"),))


REFUSED: dict[str, Callable[[Ground], Command]] = {
    "new_jobs": _again,
    "start_runs": lambda g: g.engine.claiming(g.run),
    "queue_limits": lambda g: g.engine.claiming(g.queued, limits=[QueueLimit("narrow", None, 0)]),
    "rate_limits": lambda g: g.engine.claiming(g.queued, rate=("full", RateTerms(1, 1000))),
    "copy_steps": _copying_nothing,
    "accept_arguments": lambda g: ct.AcceptMismatch(
        job=g.run, step_key=StepKey("fetch#0"), args_hashes="{}", hashes=("", ""), detail=""
    ),
    "put_queues": lambda g: cq.DefineQueue(queue=QueueRecord(queue="known"), seen=None, by="late", who=g.engine.who),
    "set_queues": lambda g: cq.SteerQueue(queue="known", seen=None, paused=True, override={}, who=ANN),
    "route_jobs": lambda g: cs.AcceptVersion(job=g.queued, seen=None, version="2", who=ANN),
    "begin_steps": lambda g: g.engine.beginning(g.run),
    "update_steps": lambda g: g.engine.finishing_step(g.run),
    "new_signals": lambda g: g.engine.signal_command(g.ended, "go"),
    "read_signals": _consume,
    "new_decisions": _asking_again,
    "close_decisions": lambda g: g.engine.answer_command(g.ended, g.question),
    "settle_steps": lambda g: cs.SettleDoubt(
        job=g.run, step_key=StepKey("fetch#0"), verdict="done", value="1", who=ANN
    ),
    "stall_runs": lambda g: g.engine.stalling(g.run, g.engine),
    "end_runs": lambda g: g.engine.finishing(g.ended),
    "move_jobs": lambda g: cs.RetryJob(job=g.run, source=JobState.FAILED, who=ANN),
    "cancel_jobs": lambda g: cs.RequestEnd(job=g.queued, code="cancel", reason=None, who=ANN),
    "expect_orphans": lambda g: cs.RequestEnd(job=g.run, code="cancel", reason=None, who=ANN, orphan=True),
    "judge_engines": lambda g: g.engine.judging(g.dead, source=EngineState.LIVE),
    "set_gates": lambda g: ce.OpenGate(engine_id=g.engine.id, recovery_id="r", closed_ms=1),
    "release_rows": lambda g: cs.ReleaseQuarantined(job=g.run, table_name="jobs", who=ANN),
    "release_holds": lambda g: cs.ReleaseHeld(job=g.run, owner=g.dead.id, who=g.engine.who),
    "close_writers": lambda g: ce.CloseWriterNow(engine_id=g.dead.id),
}
"""By operation: a command whose precondition does not hold."""


@pytest.mark.parametrize("op", list(REFUSED))
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_row_refuses_the_whole_batch_and_names_its_operation(
    store_factory: StoreFactory, op: str, place: str
) -> None:
    with World(store_factory) as world:
        ground = Ground(world)
        engine = ground.engine
        bad = REFUSED[op](ground)
        good: list[Command] = [
            engine.submission(),
            engine.beginning(ground.run, "other#0"),
            engine.signal_command(ground.run, "note"),
        ]
        jobs = (ground.run, ground.queued, ground.ended, ground.left)
        before = [world.snapshot(job) for job in jobs], world.writer_row(engine), world.told_by(engine)
        commands = [bad, *good] if place == "first" else [*good, bad]
        with pytest.raises(Refused) as refused:
            engine.store.apply(engine.batch_of(*commands))
        assert refused.value.op == op
        assert ([world.snapshot(job) for job in jobs], world.writer_row(engine), world.told_by(engine)) == before
        outcomes = engine.outcomes(*commands)
        assert [isinstance(error, Conflict) for error in outcomes] == [command is bad for command in commands]


def test_a_quarantined_row_is_not_set_aside_a_second_time(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit()
        engine.do(engine.quarantining(job))
        with pytest.raises(Refused, match="new_quarantines"):
            engine.store.apply(engine.batch_of(engine.quarantining(job)))


def test_a_reopened_step_must_have_failed(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.begin(run)
        engine.finish_step(run)
        engine.finish(run, JobState.FAILED)
        with pytest.raises(Conflict):
            engine.retry(run, "fetch#0")
        assert world.job(run).state is JobState.FAILED


def test_a_run_is_put_away_only_where_its_job_runs(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        other = engine.submit()
        wrong = JobRef(other.job_id, other.trace_id, other.kind, run.run_id)
        for command in (engine.putting_away(wrong), engine.finishing(wrong)):
            [error] = engine.outcomes(command)
            assert isinstance(error, Conflict)
        assert (world.job(run).state, world.job(other).state) == (JobState.RUNNING, JobState.QUEUED)


# the order of commands in one batch


def _late(engine: Engine, run: JobRef, key: str) -> list[Command]:
    value = ct.RecordValue(job=run, step_key=StepKey("now#0"), name="now", outcome="1")
    return [engine.finishing_step(run, key), engine.beginning(run, "late#0"), value]


def test_what_comes_after_the_end_of_its_run_is_refused_in_the_same_batch_too(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        for end in ("finish", "put away", "cancel by force"):
            engine = world.open_engine()
            run = engine.run_new()
            engine.begin(run)
            ends: dict[str, Callable[[Engine, JobRef], Command]] = {
                "finish": lambda e, r: e.finishing(r),
                "put away": lambda e, r: e.putting_away(r),
                "cancel by force": lambda e, r: e.end_command(r, force=True),
            }
            outcomes = engine.outcomes(ends[end](engine, run), *_late(engine, run, "fetch#0"))
            assert [isinstance(error, Conflict) for error in outcomes] == [False, True, True, True], end
            assert [step.step_key for step in world.snapshot(run).steps] == ["fetch#0"]


def test_a_try_after_a_failed_try_is_the_one_that_runs(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.do(
            engine.beginning(run, try_number=1),
            engine.failing_try(run, state=StepState.BACKOFF),
            engine.beginning(run, try_number=2),
        )
        step = world.step(run, "fetch#0")
        assert (step.state, step.try_number) == (StepState.RUNNING, 2)


def test_a_finished_step_does_not_begin_again_in_the_same_batch(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        outcomes = engine.outcomes(
            engine.beginning(run), engine.finishing_step(run), engine.beginning(run), engine.finishing_step(run)
        )
        assert [error is None for error in outcomes] == [True, True, False, False]


def test_a_whole_job_may_be_one_batch(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        new = engine.submission()
        engine.do(new)
        claim = engine.claiming(JobRef(new.job_id, new.trace_id, new.kind))
        engine.do(claim, engine.beginning(claim.job), engine.finishing_step(claim.job), engine.finishing(claim.job))
        assert world.job(new.job_id).state is JobState.COMPLETED
        assert world.event_types(new.job_id) == [
            "job_accepted",
            "run_started",
            "step_began",
            "step_finished",
            "job_completed",
        ]


def test_the_last_word_on_progress_stands_also_beside_the_job_s_end(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run, other = engine.run_new(), engine.run_new()
        said = [ct.ReportProgress(job=run, progress=f'{{"done":{n},"at":1}}') for n in range(5)]
        engine.do(*said, ct.ReportProgress(job=other, progress='{"done":9,"at":1}'))
        assert world.job(run).progress == '{"done":4,"at":1}'
        assert world.job(other).progress == '{"done":9,"at":1}'
        engine.do(ct.ReportProgress(job=run, progress='{"done":5,"at":1}'), engine.finishing(run))
        assert (world.job(run).progress, world.job(run).state) == ('{"done":5,"at":1}', JobState.COMPLETED)


def test_events_are_numbered_in_commit_order_over_all_writers(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        first, second = world.client(), world.client()
        jobs = [writer.submit() for _ in range(3) for writer in (first, second)]
        seqs = [world.snapshot(job).events[0].seq for job in jobs]
        assert seqs == sorted(seqs) and len(set(seqs)) == 6
        with world.store.reading() as reads:
            assert reads.last_seq() >= seqs[-1]


# what is written is what is read back

TEXTS = [
    "",
    " ",
    "0",
    "007",
    "1e999",
    "-0",
    "1.50",
    "null",
    "true",
    "NaN",
    "[1]",
    '{"a":1}',
    '"quoted"',
    "it's; --",
    "back\\slash \\u0041",
    "tab\tline\nreturn\r",
    "\x01\x1f\x7f",
    "Grüße 日本 \U0001f525 \u2028\u2029 \ufeff",
    "e\u0301",
    "x" * 70_000,
]


@pytest.mark.parametrize("text", TEXTS, ids=[repr(text[:12]) for text in TEXTS])
def test_text_comes_back_as_it_went_in(store_factory: StoreFactory, text: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new(inputs=text, tags=text, idempotency_key=text, partition_key=text, version=text)
        engine.begin(run, inputs=text, args_hashes=text, code_ref=text)
        engine.finish_step(run, outcome=text)
        engine.signal(run, "go", text)
        engine.do(ct.ReportProgress(job=run, progress=text))
        engine.finish(run, outputs=text)
        job, step = world.job(run), world.step(run, "fetch#0")
        assert [job.inputs, job.tags, job.idempotency_key, job.partition_key, job.version, job.progress] == [text] * 6
        assert job.outputs == text
        assert [step.inputs, step.args_hashes, step.code_ref, step.outcome] == [text] * 4
        assert world.snapshot(run).signals[0].payload == text
        assert_chain_whole(world, engine)


def assert_chain_whole(world: World, engine: Engine) -> None:
    """Check an engine's chain against its head: payloads are stored to the letter."""
    row = world.writer_row(engine)
    told = [EventRow(*(getattr(event, name) for name in EventRow.__struct_fields__)) for event in world.told_by(engine)]
    assert list(check(told, until=Head(row.head_seq, row.head_hash))) == []


@pytest.mark.parametrize("text", [text for text in TEXTS if len(text) < 100 and text], ids=repr)
def test_what_an_event_says_is_stored_to_the_letter(store_factory: StoreFactory, text: str) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        evidence: dict[str, Any] = {"text": text, "list": [text, None, 1, 1.5, True], text: {}}
        judged = ev.JudgedEngine(engine_id=text, verdict=Verdict.ALIVE, evidence=evidence)
        told = ev.RecoveryFinished(
            recovery_id=text, engines=[judged], scanned=0, stalled=0, in_doubt=0, quarantined=0, duration_ms=2**53
        )
        engine.tell(told)
        assert_chain_whole(world, engine)
        last = world.told_by(engine)[-1]
        assert last.payload == engine_payload(told)


def engine_payload(told: ev.EventPayload) -> str:
    """Return an event's payload as a draft has it (text normalised)."""
    draft = ev.draft(told, event_id="e", ts=1, actor=next(iter(told.actors)), actor_id="a", trace_id="t")
    return draft.payload.decode()


@pytest.mark.parametrize("priority", [-(2**31), -1, 0, 1, 2**31 - 1])
def test_numbers_come_back_as_they_went_in(store_factory: StoreFactory, priority: int) -> None:
    with World(store_factory) as world:
        client = world.client()
        job = world.job(client.submit(priority=priority, deadline_at=2**52, ready_at=2**52, max_stalls=1))
        assert (job.priority, job.deadline_at, job.ready_at, job.max_stalls) == (priority, 2**52, 2**52, 1)
        assert (job.claimable, job.begun, job.detached, job.probation) == (False, False, False, False)


def test_what_is_absent_stays_absent(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run = engine.run_new()
        engine.wait(run, "sleep#0", StepKind.SLEEP, until=5)
        job, step = world.job(run), world.step(run, "sleep#0")
        absent = (job.version, job.idempotency_key, job.tags, job.outputs, job.error, job.cancel_code, job.held_by)
        assert absent == (None,) * 7
        assert (step.inputs, step.outcome, step.waits_for, step.ended_at, step.until) == (None, None, None, None, 5)


def test_a_value_is_kept_by_its_content_and_once_is_enough(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        for text in TEXTS:
            world.store.put_blob(f"hash-{len(text)}-{text[:5]}", text, 1)
            world.store.put_blob(f"hash-{len(text)}-{text[:5]}", "other", 2)
        with world.store.reading() as reads:
            assert [reads.blob(f"hash-{len(text)}-{text[:5]}") for text in TEXTS] == TEXTS
            assert reads.blob("never") is None


def test_a_thousand_commands_are_one_batch(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        client.submit()
        before = client.journal.batches
        client.do(*(client.submission(queue="many", priority=n) for n in range(1000)))
        assert client.journal.batches == before + 1
        with world.store.reading() as reads:
            found = reads.claimable("many", ["census"], world.clock.now_ms(), 5000)
        assert [job.priority for job in found] == list(range(999, -1, -1))
