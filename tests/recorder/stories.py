"""A store in which everything happened that can happen to a job, and nothing is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from tests.recorder.build import Engine, World

from relight.core import events as ev
from relight.core.commands import JobRef
from relight.core.commands import jobs as cj
from relight.core.commands import outside as co
from relight.core.commands import queues as cq
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.failure import Failure
from relight.core.flow import digest
from relight.core.step_payloads import Settlement
from relight.core.terms import RateTerms
from relight.ids import JobId, StepKey
from relight.model import JobState, StepKind, StepState, Verdict


@dataclass
class Healthy:
    """Who is who in the store: jobs by what happened to them, and the engines in their order."""

    jobs: dict[str, JobRef]
    engines: list[Engine]


def build_healthy(path: Path) -> Healthy:
    world = World(path)
    try:
        return tell_everything(world)
    finally:
        world.close()


def tell_everything(world: World) -> Healthy:
    jobs: dict[str, JobRef] = {}
    first = world.engine("first").start()
    first.define_queue("default", 20, 20)
    ordinary_jobs(world, first, jobs)
    teams(world, first, jobs)
    waits(world, first, jobs)
    outside(world, first, jobs)
    ends_from_outside(world, first, jobs)
    children(world, first, jobs)
    left_running(world, first, jobs)
    second = world.engine("second").start(dead=[first])
    after_a_crash(world, second, jobs)
    third = silence(world, second, jobs)
    fourth = set_aside(world, third, jobs)
    jobs["queued"] = world.client().submit(priority=3)
    jobs["running"] = fourth.claim(fourth.submit())
    fourth.begin(jobs["running"], "fetch#0")
    fifth = world.engine("fifth")
    fifth.begin_recovery()
    return Healthy(jobs, [first, second, third, fourth, fifth])


def ordinary_jobs(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    client = world.client()
    jobs["plain"] = client.submit(idempotency_key="once", tags='{"a":"b"}')
    client.do(cj.NoteDuplicate(job=jobs["plain"], idempotency_key="once", who=client.who))
    jobs["other"] = client.submit()
    client.close()
    run = engine.claim(jobs["plain"])
    engine.step(run, "fetch#0")
    engine.step(run, "parse#0", '{"ü":1}')
    engine.do(ct.RecordValue(job=run, step_key=StepKey("now#0"), name="now", outcome="5"))
    engine.finish(run)
    run = engine.claim(jobs["other"])
    engine.finish(run)
    jobs["failed"] = engine.submit()
    run = engine.claim(jobs["failed"])
    engine.begin(run, "fetch#0")
    engine.fail_try(run, "fetch#0", state=StepState.BACKOFF)
    engine.begin(run, "fetch#0", 2)
    engine.fail_try(run, "fetch#0", 2)
    engine.finish(run, JobState.FAILED)
    jobs["retried"] = engine.submit()
    run = engine.claim(jobs["retried"])
    engine.step(run, "fetch#0")
    engine.begin(run, "parse#0")
    engine.fail_try(run, "parse#0")
    engine.finish(run, JobState.FAILED)
    world.client().retry(run, "parse#0")
    run = engine.claim(run)
    engine.step(run, "parse#0")
    engine.finish(run, JobState.COMPLETED_WITH_ISSUES)


def teams(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    """A queue with a rate that is kept, one that was paused and overridden, and a fork."""
    engine.define_queue("paced", None, rate='{"n":2,"per_seconds":1}')
    for number in range(4):
        jobs[f"paced_{number}"] = job = engine.submit(queue="paced")
        if number == 2:
            world.clock.skip(1000)
        engine.finish(engine.claim(job, rate=("paced", RateTerms(2, 1000))))
    client = world.client()
    for paused, override in ((True, {}), (False, {"priority": 3}), (False, {})):
        with world.store.reading() as reads:
            seen = next(queue for queue in reads.queues() if queue.queue == "paced")
        client.do(cq.SteerQueue(queue="paced", seen=seen, paused=paused, override=override, who=client.who))
    source = jobs["retried"]
    row = world.row(source)
    new = cj.SubmitJob(
        job_id=JobId(world.ids.uuid7(world.clock.now_ms())),
        trace_id="trace-of-the-fork",
        kind=row.kind,
        inputs=row.inputs or "{}",
        inputs_hash=row.inputs_hash,
        who=client.who,
        forked_from=source.job_id,
    )
    fork = cj.ForkJob(source=source, new=new, from_step=StepKey("parse#0"), steps=(StepKey("fetch#0"),))
    client.do(fork)
    jobs["fork"] = JobRef(new.job_id, new.trace_id, new.kind)
    run = engine.claim(jobs["fork"])
    engine.step(run, "parse#0")
    engine.finish(run)


def waits(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    client = world.client()
    jobs["asked"] = run = engine.claim(engine.submit())
    decision = engine.ask(run, "ask#0")
    put_away_for(engine, run, decision)
    client.answer(run, decision)
    run = engine.claim(run)
    engine.end_wait(run, "ask#0", '"yes"')
    engine.finish(run)
    jobs["signalled"] = run = engine.claim(engine.submit())
    engine.wait(run, "signal#0", StepKind.SIGNAL, "go")
    engine.put_away(run, "waiting")
    signal_id = client.signal(run, "go")
    run = engine.claim(run)
    engine.do(
        ct.ConsumeSignal(
            job=run,
            step_key=StepKey("signal#0"),
            signal_id=signal_id,
            name="go",
            payload_hash="h",
            outcome="1",
            fresh=False,
        )
    )
    engine.finish(run)
    jobs["mismatched"] = run = engine.claim(engine.submit())
    told = ev.HistoryMismatch(step_key="fetch#0", recorded_hash="a", now_hash="b", detail="other arguments")
    engine.put_away(run, "history_mismatch", state=JobState.AWAITING_USER, tells=(told,))
    client.resume(run)
    run = engine.claim(run)
    engine.finish(run)
    jobs["awaiting"] = run = engine.claim(engine.submit())
    put_away_for(engine, run, engine.ask(run, "ask#0"))


def outside(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    """Tokens completed, failed, expired and open; a poll; values published once and again."""
    client = world.client()
    jobs["external"] = run = engine.claim(engine.submit())
    tokens = {
        name: make_token(engine, run, f"external:{name}#0", expires_at=None if name != "late" else world.clock.now_ms())
        for name in ("done", "broken", "late", "open")
    }
    engine.wait(run, "wait:done#0", StepKind.EXTERNAL, tokens["done"])
    engine.put_away(run, "waiting")
    done = (StepKey("external:done#0"), tokens["done"])
    client.do(
        co.CompleteToken(
            job=run,
            step_key=done[0],
            token=done[1],
            name="done",
            value='{"a":1}',
            value_hash=digest('{"a":1}'),
            value_bytes=7,
            who=client.who,
        ),
        co.FailToken(
            job=run,
            step_key=StepKey("external:broken#0"),
            token=tokens["broken"],
            name="broken",
            error="no",
            who=client.who,
        ),
        co.BeatTokenNow(job=run, token=tokens["open"], note="half"),
    )
    run = engine.claim(run)
    engine.end_wait(run, "wait:done#0", "1")
    engine.wait(run, "wait:late#0", StepKind.EXTERNAL, tokens["late"])
    expire = co.ExpireToken(
        job=run,
        step_key=StepKey("wait:late#0"),
        token=tokens["late"],
        token_key=StepKey("external:late#0"),
        name="late",
        reason="timeout",
        outcome="null",
    )
    engine.do(expire)
    for n in (1, 2):
        engine.do(publishing(run, f"publish:part#{n}", str(n)))
    engine.do(publishing(run, "publish:whole#0", "[]"))
    poll(engine, run)
    engine.finish(run)


def make_token(engine: Engine, run: JobRef, key: str, *, expires_at: int | None = None) -> str:
    token = f"ext_{engine.world.ids.token()}"
    engine.do(
        co.MakeToken(
            job=run,
            step_key=StepKey(key),
            token=token,
            name=key.partition(":")[2].partition("#")[0],
            type=None,
            expires_at=expires_at,
            heartbeat_ms=None,
            outcome=f'"{token}"',
        )
    )
    return token


def publishing(run: JobRef, key: str, value: str) -> co.PublishValue:
    return co.PublishValue(
        job=run,
        step_key=StepKey(key),
        name=key.partition(":")[2].partition("#")[0],
        value=value,
        value_hash=digest(value),
        value_bytes=len(value),
        recorded=True,
    )


def poll(engine: Engine, run: JobRef) -> None:
    begin = ct.BeginTry(
        job=run,
        step_key=StepKey("poll:look#0"),
        name="look",
        try_number=1,
        policy="retry",
        args_hashes=None,
        args_hash="h",
        args_bytes=1,
        inputs=None,
        code_ref=None,
        kind=StepKind.POLL,
    )
    engine.do(begin)
    engine.do(ct.PollAgain(job=run, step_key=begin.step_key, try_number=1, outcome="1", until=5))
    engine.do(msgspec.structs.replace(begin, try_number=2))
    engine.do(
        ct.FinishStep(
            job=run,
            step_key=begin.step_key,
            try_number=2,
            outcome="2",
            outcome_hash=digest("2"),
            began_at=1,
            kind=StepKind.POLL,
        )
    )


def put_away_for(engine: Engine, run: JobRef, decision: str) -> None:
    told = ev.JobAwaitingUser(decision_id=decision, question_redacted="?", options=["yes"], preview_hash=None)
    engine.put_away(run, "awaiting_user", state=JobState.AWAITING_USER, tells=(told,))


def ends_from_outside(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    client = world.client()
    jobs["never_begun"] = client.submit()
    client.cancel(jobs["never_begun"])
    jobs["sleeper"] = run = engine.claim(engine.submit())
    until = world.clock.now_ms() + 1_000_000
    engine.wait(run, "sleep#0", StepKind.SLEEP, None, until)
    engine.put_away(run, ready_at=until)
    client.cancel(run)
    run = engine.claim(run)
    engine.finish(run, JobState.CANCELLED)
    jobs["asleep"] = run = engine.claim(engine.submit())
    engine.wait(run, "sleep#0", StepKind.SLEEP, None, until)
    engine.put_away(run, ready_at=until)
    jobs["forced"] = run = engine.claim(engine.submit())
    engine.begin(run, "fetch#0")
    client.cancel(run, force=True)
    jobs["forced_retried"] = run = engine.claim(engine.submit())
    engine.begin(run, "fetch#0")
    client.cancel(run, force=True, code="fail")
    client.retry(run)
    jobs["late"] = run = engine.claim(engine.submit(deadline_at=world.clock.now_ms()))
    row = world.row(run)
    engine.do(cs.decide_end(row, engine.who, code="deadline", reason=None, force=False, open_decisions=()))
    engine.finish(run, JobState.FAILED)
    jobs["asked_and_cancelled"] = run = engine.claim(engine.submit())
    put_away_for(engine, run, engine.ask(run, "ask#0"))
    client.cancel(run)
    run = engine.claim(run)
    engine.finish(run, JobState.CANCELLED)


def children(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    jobs["parent"] = run = engine.claim(engine.submit())
    child, asked = engine.start_children(run, "start#0", "census", "census")
    jobs["child"], jobs["child_asked"] = child, asked
    jobs["detached"] = detached = engine.submit(parent_job_id=run.job_id, detached=True)
    engine.wait(run, "result#0", StepKind.CHILD_RESULT, child.job_id)
    engine.put_away(run, "waiting")
    engine.finish(engine.claim(child))
    run = engine.claim(run)
    told = ev.ChildFinished(child_job_id=child.job_id, state=JobState.COMPLETED)
    engine.do(ct.EndWait(job=run, step_key=StepKey("result#0"), outcome="1", tells=(told,)))
    jobs["child_asked"] = engine.claim(asked)
    engine.finish(run)
    engine.cancel(jobs["child_asked"])
    engine.put_away(engine.claim(detached))


def left_running(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    for name in ("crashed", "crash_loop", "on_hold", "resolved"):
        jobs[name] = run = engine.claim(engine.submit())
        engine.step(run, "fetch#0")
        engine.begin(run, "parse#0")


def after_a_crash(world: World, engine: Engine, jobs: dict[str, JobRef]) -> None:
    engine.resume_by_policy(jobs["crashed"])
    run = engine.claim(jobs["crashed"])
    engine.begin(run, "parse#0")
    engine.end(run, "parse#0")
    engine.finish(run)
    engine.poison(jobs["crash_loop"])
    row = world.row(jobs["on_hold"])
    engine.do(cs.HoldJob(job=cs.ref_of(row), source=row.state, who=engine.who, code="on_stall"))
    engine.resume_by_policy(jobs["resolved"], probation=True)
    run = engine.claim(jobs["resolved"])
    failed = Failure(type="in_doubt", message="no")
    verdicts: tuple[tuple[str, Settlement], ...] = (("parse#0", "done"), ("write#0", "not_done"), ("send#0", "failed"))
    for key, verdict in verdicts:
        if key != "parse#0":
            engine.begin(run, key)
            engine.fail_try(run, key, state=StepState.IN_DOUBT)
        engine.do(
            ct.ReconcileStep(
                job=run,
                step_key=StepKey(key),
                verdict=verdict,
                by="reconcile",
                try_number=1,
                outcome="7" if verdict == "done" else None,
                failure=failed if verdict == "failed" else None,
            )
        )
    engine.begin(run, "write#0", 2)
    engine.end(run, "write#0", try_number=2)
    engine.finish(run)


def silence(world: World, silent: Engine, jobs: dict[str, JobRef]) -> Engine:
    """Stop an engine in the middle of two jobs: they are held until it dies."""
    for name in ("held", "held_and_cancelled"):
        jobs[name] = run = silent.claim(silent.submit())
        silent.begin(run, "fetch#0")
    engine = world.engine("third").start(silent=[silent])
    client = world.client()
    client.cancel(jobs["held_and_cancelled"])
    engine.judge(silent, Verdict.DEAD)
    for name in ("held", "held_and_cancelled"):
        engine.do(cs.ReleaseHeld(job=jobs[name], owner=silent.id, who=engine.who))
        engine.resume_by_policy(jobs[name])
    engine.finish(engine.claim(jobs["held_and_cancelled"]), JobState.CANCELLED)
    return engine


def set_aside(world: World, dead: Engine, jobs: dict[str, JobRef]) -> Engine:
    """Quarantine a job of an engine that died, and open the gate all the same."""
    jobs["quarantined"] = dead.claim(dead.submit())
    jobs["released"] = dead.claim(dead.submit())
    engine = world.engine("fourth")
    engine.begin_recovery()
    engine.judge(dead)
    engine.quarantine(jobs["quarantined"])
    engine.quarantine(jobs["released"])
    engine.finish_recovery([(dead, Verdict.DEAD)], quarantined=2)
    engine.open_gate()
    jobs["unreadable"] = engine.submit()
    engine.quarantine(jobs["unreadable"], readable=False)
    client = world.client()
    client.do(cs.ReleaseQuarantined(job=jobs["released"], table_name="jobs", who=client.who))
    engine.begin_recovery()
    stalled, doubts = engine.stall_all(dead)
    engine.finish_recovery([(dead, Verdict.DEAD)], stalled=stalled, in_doubt=doubts)
    return engine
