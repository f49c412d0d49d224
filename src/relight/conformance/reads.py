"""Reads: what was written, in the order promised, in pages without gaps, and in one moment where that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from relight.conformance.world import Engine, StoreFactory, World
from relight.core.commands import JobRef
from relight.errors import StorageUnavailable
from relight.model import JobState, Role, StepKind
from relight.store.reads import EventFilter, JobFilter, OpenWait


def test_nothing_is_found_of_what_is_not_there(store_factory: StoreFactory) -> None:
    with World(store_factory) as world, world.store.reading() as reads:
        assert reads.job("none") is None
        assert reads.engine("none") is None
        assert reads.decision("none") is None
        assert reads.first_unread("none", "go") is None
        assert reads.signal_by_key("none", "go", "k") is None
        assert reads.batch_seq("none") is None
        assert (reads.runs("none"), reads.steps("none"), reads.signals("none"), reads.decisions("none")) == (
            [],
            [],
            [],
            [],
        )
        assert (reads.job_heads([]), reads.job_heads(["none"]), reads.steps_of([]), reads.quarantine("none")) == (
            [],
            [],
            [],
            [],
        )
        assert (reads.arrived([]), reads.attention([]), reads.job_facts([], [])) == (set(), [], [])


def test_jobs_are_paged_newest_first_without_gap_or_twin(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        mine = [client.submit("paged", queue=f"paged-{n % 2}") for n in range(7)]
        newest_first = [job.job_id for job in reversed(mine)]
        found: list[str] = []
        before = "g"
        with world.store.reading() as reads:
            while page := reads.jobs(JobFilter(kind="paged", before=before, limit=3)):
                found += [job.job_id for job in page]
                before = page[-1].job_id
                assert all(job.inputs is None for job in page)
            assert found == newest_first
            by_queue = reads.jobs(JobFilter(kind="paged", queue="paged-0", limit=0))
            assert [job.job_id for job in by_queue] == newest_first[::2]
            heads = reads.job_heads(newest_first[:2])
            assert {(job.job_id, job.inputs) for job in heads} == {(job_id, None) for job_id in newest_first[:2]}
            everything = [job.job_id for job in reads.jobs(JobFilter(limit=0)) if job.job_id in newest_first]
            assert everything == newest_first


def test_jobs_are_filtered_before_the_page_is_cut(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        old = engine.submit("filtered", tags='{"team":"a","n":"1"}')
        world.clock.advance(1000)
        since = world.clock.now_ms()
        new = engine.submit("filtered", tags='{"team":"a"}')
        other = engine.submit("filtered", tags='{"team":"b"}')
        ended = engine.run_new(kind="filtered")
        engine.finish(ended)

        def found(**more: object) -> list[str]:
            with world.store.reading() as reads:
                which = JobFilter(**({"kind": "filtered", "limit": 2} | more))  # type: ignore[arg-type]
                return [job.job_id for job in reads.jobs(which)]

        assert found(tags={"team": "a"}) == [new.job_id, old.job_id]
        assert found(tags={"team": "a", "n": "1"}) == [old.job_id]
        assert found(tags={"team": "c"}) == []
        assert found(since_ms=since, limit=9) == [ended.job_id, other.job_id, new.job_id]
        assert found(states=(JobState.COMPLETED,)) == [ended.job_id]
        assert found(states=(JobState.COMPLETED, JobState.QUEUED)) == [ended.job_id, other.job_id]
        assert found(states=(JobState.QUEUED,), limit=1, before=other.job_id) == [new.job_id]
        with world.store.reading() as reads:
            assert reads.count_in_states()[JobState.QUEUED] >= 3
            assert new.job_id in reads.job_ids_ending(new.job_id[-6:])


def test_the_log_is_paged_in_commit_order_and_filtered_before_the_cut(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        with world.store.reading() as reads:
            start = reads.last_seq()
        jobs = [engine.submit() for _ in range(5)]
        engine.finish(engine.claim(jobs[0]))
        with world.store.reading() as reads:
            pages: list[int] = []
            after = start
            while page := reads.events(EventFilter(after=after, limit=2)):
                pages += [event.seq for event in page]
                after = page[-1].seq
            assert pages == sorted(set(pages))
            accepted = reads.events(EventFilter(after=start, types=("job_accepted",), limit=0))
            assert [e.job_id for e in accepted if e.writer_id == engine.id] == [job.job_id for job in jobs]
            of_job = EventFilter(job_id=jobs[0].job_id, types=("job_completed",), limit=1)
            assert [event.type for event in reads.events(of_job)] == ["job_completed"]
            by_trace = reads.events(EventFilter(trace_id=jobs[1].trace_id))
            assert [event.job_id for event in by_trace] == [jobs[1].job_id]
            by_actor = reads.events(EventFilter(job_id=jobs[0].job_id, actor="agent"))
            assert [event.type for event in by_actor] == ["job_completed"]
            assert [e.writer_seq for e in reads.events_of_writer(engine.id, after=2, limit=3)] == [3, 4, 5]


def test_writers_jobs_and_engines_are_paged_by_id(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engines = [world.open_engine() for _ in range(3)]
        jobs = [engines[0].submit() for _ in range(3)]
        with world.store.reading() as reads:
            first = engines[0].id
            assert [e for e in reads.writers(after=first, limit=9) if e in {each.id for each in engines}] == [
                engine.id for engine in engines[1:]
            ]
            assert [j for j in reads.job_ids(after=jobs[0].job_id) if j in {each.job_id for each in jobs}] == [
                job.job_id for job in jobs[1:]
            ]
            rows = [row for row in reads.engines(Role.ENGINE, limit=0) if row.engine_id in {e.id for e in engines}]
            assert [row.engine_id for row in rows] == [engine.id for engine in reversed(engines)]
            assert reads.batch_seq(first) == (world.writer_row(engines[0]).batch_seq, "live")


def test_runs_steps_messages_and_questions_are_in_their_order(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        job = engine.submit()
        runs = []
        for n in range(3):
            run = engine.claim(job)
            runs.append(run.run_id)
            world.clock.advance(1)
            engine.begin(run, f"{9 - n}#0")
            engine.signal(run, "go", str(n))
            engine.ask(run, f"ask#{n}")
            engine.put_away(run, ready_at=world.clock.now_ms())
        everything = world.snapshot(job)
        assert [run.run_id for run in everything.runs] == runs
        assert [step.step_key for step in everything.steps] == ["9#0", "ask#0", "8#0", "ask#1", "7#0", "ask#2"]
        assert [signal.payload for signal in everything.signals] == ["0", "1", "2"]
        assert [decision.step_key for decision in everything.decisions] == ["ask#0", "ask#1", "ask#2"]
        with world.store.reading() as reads:
            assert {(step.job_id, step.step_key) for step in reads.steps_of([job.job_id])} == {
                (job.job_id, step.step_key) for step in everything.steps
            }


def _waiting(engine: Engine) -> tuple[JobRef, str, JobRef]:
    run = engine.run_new()
    question = engine.ask(run)
    child = engine.start_child(run)
    engine.wait(run, "go#0", StepKind.SIGNAL, "go")
    engine.wait(run, "child#0", StepKind.CHILD_RESULT, child.job_id)
    return run, question, child


def test_what_arrived_is_told_of_the_waits_that_are_open(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        run, question, child = _waiting(engine)
        waits = [
            OpenWait(run.job_id, "signal", "go"),
            OpenWait(run.job_id, "ask", question),
            OpenWait(run.job_id, "child_result", child.job_id),
            OpenWait(run.job_id, "sleep", ""),
        ]

        def arrived() -> set[str]:
            with world.store.reading() as reads:
                return {waits_for for _, waits_for in reads.arrived(waits)}

        assert arrived() == set()
        engine.signal(run, "go")
        assert arrived() == {"go"}
        engine.answer(run, question)
        engine.end(child)
        assert arrived() == {"go", question, child.job_id}


def test_attention_is_called_to_jobs_that_were_asked_to_end_or_run_no_longer(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        calm, asked, gone = engine.run_new(), engine.run_new(), engine.run_new()
        engine.end(asked)
        engine.end(gone, force=True)
        with world.store.reading() as reads:
            told = {each.job_id: each for each in reads.attention([calm.job_id, asked.job_id, gone.job_id])}
        assert told.keys() == {asked.job_id, gone.job_id}
        assert (told[asked.job_id].state, told[asked.job_id].cancel_code) == (JobState.RUNNING, "cancel")
        assert (told[asked.job_id].cancel_reason, told[asked.job_id].cancel_by) == ("enough", "ann")
        assert told[gone.job_id].state is JobState.CANCELLED


def test_timers_and_deadlines_are_due_exactly_at_their_time(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        engine = world.open_engine()
        due = world.clock.now_ms() + 1000
        asking = engine.run_new()
        engine.await_user(asking, engine.ask(asking, expires_at=due), ready_at=due)
        late = engine.submit(deadline_at=due)
        ended = engine.run_new(deadline_at=due)
        engine.finish(ended)

        def found(now: int) -> tuple[bool, bool, bool]:
            with world.store.reading() as reads:
                questions = {job.job_id for job in reads.due_questions(now, 1_000_000)}
                deadlines = {job.job_id for job in reads.past_deadline(now, 1_000_000)}
            return asking.job_id in questions, late.job_id in deadlines, ended.job_id in deadlines

        assert found(due - 1) == (False, False, False)
        assert found(due) == (True, True, False)
        with world.store.reading() as reads:
            timer, deadline = reads.next_due()
        assert timer is not None and timer <= due
        assert deadline is not None and deadline <= due


def test_a_snapshot_is_one_moment(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        job = client.submit()
        with world.store.reading(snapshot=True) as reads:
            before = reads.last_seq()
            client.signal(job, "go")
            assert reads.signals(job.job_id) == []
            assert reads.last_seq() == before
        with world.store.reading() as reads:
            assert len(reads.signals(job.job_id)) == 1
            client.signal(job, "go")
            assert len(reads.signals(job.job_id)) == 2


def changes(token: Callable[[], int], seen: int) -> bool:
    """Tell whether a watcher gives another number within some seconds."""
    clock = threading.Event()
    for _ in range(5000):
        if token() != seen:
            return True
        clock.wait(0.001)
    return False


def test_a_watcher_notices_what_others_commit(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        client.submit()
        token = world.store.watch()
        for _ in range(3):
            seen = token()
            client.submit()
            assert changes(token, seen)


def test_a_store_that_is_closed_says_so(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        client.submit()
        batch = client.batch_of(client.submission())
        store = world.open_store()
        token = store.watch()
        token()
        store.close()
        store.close()
        with pytest.raises(StorageUnavailable):
            store.apply(batch)
        with pytest.raises(StorageUnavailable), store.reading():
            pass
        with pytest.raises(StorageUnavailable):
            token()


def test_a_store_goes_on_after_it_was_opened_anew(store_factory: StoreFactory) -> None:
    with World(store_factory) as world:
        client = world.client()
        job = client.submit()
        token = client.store.watch()
        seen = token()
        client.store.reopen()
        assert token() != seen
        client.signal(job, "go")
        assert [signal.name for signal in world.snapshot(job).signals] == ["go"]
        assert client.store.health()["store"] == client.store.place
