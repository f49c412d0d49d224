"""The journal, by hand: no thread, a clock that stands still, and a store that answers as planned."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store.doubles import Bench, after, before, well

from relight.clock import SystemClock
from relight.conformance.world import ANN, Engine
from relight.core import events as ev
from relight.core.commands import steps as ct
from relight.core.commands.engines import CloseWriterNow, Tell
from relight.errors import Conflict, Fenced, InvalidEvent, Overloaded, StorageUnavailable
from relight.ids import StepKey
from relight.model import JobState, StepState
from relight.store.journal import BACKOFF_MS, LINGER_MS, MAX_BYTES, MAX_COMMANDS, Journal
from relight.store.tickets import Ticket


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "relight.db")
    bench.client.submit()  # the writer's row is there
    bench.store.asked.clear()
    yield bench
    bench.world.close()


def pump(journal: Journal) -> None:
    while journal.pump():
        pass


# group commit


def test_what_waits_is_one_transaction(bench: Bench) -> None:
    commands = bench.submits(100)
    tickets = [bench.journal.put(command) for command in commands]
    assert bench.journal.waiting == 100 and not any(ticket.done for ticket in tickets)
    assert bench.journal.pump()
    assert len(bench.store.asked) == 1
    assert [(ticket.done, ticket.error) for ticket in tickets] == [(True, None)] * 100
    assert bench.stored(*commands) == [1] * 100
    assert not bench.journal.pump()


def test_a_batch_has_at_most_so_many_commands(bench: Bench) -> None:
    for command in bench.submits(MAX_COMMANDS + 1):
        bench.journal.put(command)
    bench.journal.pump()
    assert (bench.journal.waiting, len(bench.store.asked)) == (1, 1)
    pump(bench.journal)
    assert [len(batch.events) for batch in bench.store.asked] == [MAX_COMMANDS, 1]


def test_a_batch_has_at_most_so_many_bytes_but_always_one_command(bench: Bench) -> None:
    half = "x" * (MAX_BYTES // 2)
    for inputs in (half, half, half, "x" * (MAX_BYTES + 1), "x" * (MAX_BYTES + 1)):
        bench.journal.put(bench.client.submission(inputs=inputs))
    pump(bench.journal)
    assert [len(batch.events) for batch in bench.store.asked] == [2, 2, 1]


def test_callers_are_woken_once_a_batch_with_their_own(bench: Bench) -> None:
    woken: list[tuple[str, int]] = []

    def mine(tickets: list[Ticket]) -> None:
        woken.append(("mine", len(tickets)))

    def yours(tickets: list[Ticket]) -> None:
        woken.append(("yours", len(tickets)))

    for n, command in enumerate(bench.submits(10)):
        bench.journal.put(command, waker=mine if n % 2 else yours)
    pump(bench.journal)
    assert sorted(woken) == [("mine", 5), ("yours", 5)]


def test_the_operations_of_a_batch_are_told_to_whoever_listens(bench: Bench) -> None:
    heard: list[frozenset[str]] = []
    bench.journal.on_applied = heard.append
    bench.client.do(bench.client.submission())
    assert heard == [frozenset({"new_jobs"})]


def test_the_first_batch_opens_the_writer(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db")
    assert not bench.journal.opened
    bench.client.do(*bench.submits(3))
    assert bench.journal.opened
    assert [event.type for event in bench.world.told_by(bench.client)] == ["writer_opened"] + ["job_accepted"] * 3
    assert len(bench.store.asked) == 1
    bench.world.close()


# halving


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_refused_batch_is_halved_down_to_the_culprit_who_alone_is_told(bench: Bench, n: int, where: str) -> None:
    commands = bench.submits(n)
    place = {"first": 0, "middle": n // 2, "last": n - 1}[where]
    owner = bench.client.submit(idempotency_key="taken")
    commands[place] = bench.client.submission(idempotency_key="taken")
    bench.store.asked.clear()
    outcomes = bench.client.outcomes(*commands)
    assert [type(error) for i, error in enumerate(outcomes) if i == place] == [Conflict]
    assert all(error is None for i, error in enumerate(outcomes) if i != place)
    assert bench.stored(*commands) == [i != place for i in range(n)]
    assert bench.world.job(owner).idempotency_key == "taken"
    assert len(bench.store.asked) <= 2 * math.ceil(math.log2(n)) + 1


def test_several_culprits_are_all_found_and_only_they(bench: Bench) -> None:
    bench.client.submit(idempotency_key="taken")
    culprits = {3, 4, 17, 30}
    commands = bench.submits(32)
    for place in culprits:
        commands[place] = bench.client.submission(idempotency_key="taken")
    outcomes = bench.client.outcomes(*commands)
    assert {i for i, error in enumerate(outcomes) if error is not None} == culprits
    assert bench.stored(*commands) == [i not in culprits for i in range(32)]


def test_a_culprit_gets_its_own_command_s_words(bench: Bench) -> None:
    engine = bench.world.open_engine()
    run = engine.run_new()
    late = engine.outcomes(engine.finishing_step(run, "never#0"), engine.submission())
    assert isinstance(late[0], Conflict) and "never#0 was not recorded" in str(late[0])
    assert late[0].fields["op"] == "update_steps"
    assert late[1] is None


def test_commands_that_contradict_each_other_are_settled_in_the_order_they_came(bench: Bench) -> None:
    engine = bench.world.open_engine()
    job = engine.submit()
    outcomes = engine.outcomes(engine.claiming(job), engine.claiming(job), engine.submission())
    assert [error is None for error in outcomes] == [True, False, True]
    run = engine.run_new()
    outcomes = engine.outcomes(engine.finishing(run), engine.finishing(run, JobState.FAILED), engine.beginning(run))
    assert [error is None for error in outcomes] == [True, False, False]
    assert bench.world.job(run).state is JobState.COMPLETED


def test_bad_input_is_refused_at_once_and_nothing_is_queued(bench: Bench) -> None:
    with pytest.raises(InvalidEvent):
        bench.journal.put(Tell(payload=ev.GateOpened(recovery_id="r", closed_ms=1), who=ANN))
    assert bench.journal.waiting == 0


# in order


def test_what_is_on_disk_is_always_what_came_first(bench: Bench) -> None:
    commands = bench.submits(6)
    bench.store.answers.extend([well, before])
    for command in commands[:3]:
        bench.journal.put(command)
    bench.journal.pump()
    for command in commands[3:]:
        bench.journal.put(command)
    bench.journal.pump()
    assert bench.stored(*commands) == [1, 1, 1, 0, 0, 0]
    later = bench.journal.put(bench.client.submission())
    assert not bench.journal.pump()
    assert not later.done
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(bench.journal)
    assert bench.stored(*commands) == [1] * 6
    assert later.done


# lazy commands


def lazily(bench: Bench, engine: Engine) -> tuple[Ticket, ...]:
    run = engine.run_new()
    return tuple(
        engine.journal.put(ct.RecordValue(job=run, step_key=StepKey(f"now#{n}"), name="now", outcome="1"), lazy=True)
        for n in range(3)
    )


def test_lazy_commands_wait_for_company_and_no_longer_than_this(bench: Bench) -> None:
    engine = bench.world.open_engine()
    tickets = lazily(bench, engine)
    assert not engine.journal.pump()
    bench.world.clock.advance(LINGER_MS - 1)
    assert not engine.journal.pump()
    bench.world.clock.advance(1)
    assert engine.journal.pump()
    assert all(ticket.done for ticket in tickets)


def test_lazy_commands_ride_along_with_the_next_one_and_before_it(bench: Bench) -> None:
    engine = bench.world.open_engine()
    run = engine.run_new()
    lazy = engine.journal.put(engine.beginning(run), lazy=True)
    assert not engine.journal.pump()
    urgent = engine.journal.put(engine.finishing_step(run))
    batches = engine.journal.batches
    pump(engine.journal)
    assert (lazy.error, urgent.error, engine.journal.batches) == (None, None, batches + 1)
    assert bench.world.step(run, "fetch#0").state is StepState.COMPLETED


def test_a_lazy_command_behind_an_urgent_one_goes_with_it(bench: Bench) -> None:
    engine = bench.world.open_engine()
    run = engine.run_new()
    urgent = engine.journal.put(engine.beginning(run))
    lazy = engine.journal.put(engine.beginning(run, "parse#0"), lazy=True)
    pump(engine.journal)
    assert urgent.done and lazy.done


def test_a_young_lazy_command_goes_with_an_old_one(bench: Bench) -> None:
    engine = bench.world.open_engine()
    run = engine.run_new()
    old = engine.journal.put(engine.beginning(run, "a#0"), lazy=True)
    bench.world.clock.advance(LINGER_MS)
    young = engine.journal.put(engine.beginning(run, "b#0"), lazy=True)
    pump(engine.journal)
    assert old.done and young.done


# too much


def test_a_full_queue_refuses_and_accepts_nothing_of_what_it_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db", capacity=3)
    commands = bench.submits(4)
    for command in commands[:3]:
        bench.journal.put(command)
    with pytest.raises(Overloaded) as overloaded:
        bench.journal.put(commands[3])
    assert overloaded.value.retryable
    pump(bench.journal)
    assert bench.stored(*commands) == [1, 1, 1, 0]
    bench.journal.put(commands[3])
    pump(bench.journal)
    assert bench.stored(*commands) == [1, 1, 1, 1]
    bench.world.close()


# outcomes that are unknown


@pytest.mark.parametrize("cut", [before, after])
@pytest.mark.parametrize("first", [True, False])
def test_a_batch_of_unknown_outcome_is_written_exactly_once(tmp_path: Path, cut: object, first: bool) -> None:
    bench = Bench(tmp_path / "relight.db")
    if not first:
        bench.client.submit()
    bench.store.asked.clear()
    bench.store.answers.append(cut)  # type: ignore[arg-type]
    commands = bench.submits(5)
    tickets = [bench.journal.put(command) for command in commands]
    bench.journal.pump()
    assert not any(ticket.done for ticket in tickets)
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(bench.journal)
    assert [(ticket.done, ticket.error) for ticket in tickets] == [(True, None)] * 5
    assert bench.stored(*commands) == [1] * 5
    assert bench.store.reopened == 1
    if cut is before:
        once, again = bench.store.asked
        assert [event.event_id for event in once.events] == [event.event_id for event in again.events]
        assert (once.seq, once.head, once.rows) == (again.seq, again.head, again.rows)
    else:
        assert len(bench.store.asked) == 1
    later = bench.client.submit()
    assert bench.world.event_types(later) == ["job_accepted"]
    bench.world.close()


@pytest.mark.parametrize(
    "cuts", [(before, before, after), (after, well), (before, after), (after, after, before, well)]
)
def test_however_often_it_is_cut_it_is_written_exactly_once(bench: Bench, cuts: tuple[object, ...]) -> None:
    bench.store.answers.extend(cuts)  # type: ignore[arg-type]
    commands = bench.submits(3)
    tickets = []
    for command in commands:
        tickets.append(bench.journal.put(command))
        bench.journal.pump()
    for _ in range(2 * len(cuts) + 2):
        bench.world.clock.advance(max(BACKOFF_MS))
        pump(bench.journal)
    assert [(ticket.done, ticket.error) for ticket in tickets] == [(True, None)] * 3
    assert bench.stored(*commands) == [1] * 3


@pytest.mark.parametrize("cut", [before, after])
@pytest.mark.parametrize("nth", range(6))
def test_a_cut_in_the_middle_of_halving_loses_nothing_and_doubles_nothing(bench: Bench, cut: object, nth: int) -> None:
    bench.client.submit(idempotency_key="taken")
    commands = bench.submits(8)
    commands[5] = bench.client.submission(idempotency_key="taken")
    bench.store.answers.extend([well] * nth + [cut])  # type: ignore[list-item]
    tickets = [bench.journal.put(command) for command in commands]
    for _ in range(4):
        pump(bench.journal)
        bench.world.clock.advance(max(BACKOFF_MS))
    assert all(ticket.done for ticket in tickets)
    assert [ticket.error is not None for ticket in tickets] == [i == 5 for i in range(8)]
    assert bench.stored(*commands) == [i != 5 for i in range(8)]


def test_a_writer_declared_dead_meanwhile_is_told_what_is_on_disk_and_what_is_not(bench: Bench) -> None:
    engine = bench.world.open_engine("doomed", store=bench.store)
    judge = bench.world.open_engine("judge")
    bench.store.on_reopen = lambda: judge.judge(engine)
    bench.store.answers.append(after)
    written, lost = engine.submission(), engine.submission()
    first = engine.journal.put(written)
    engine.journal.pump()
    second = engine.journal.put(lost)
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(engine.journal)
    assert (first.done, first.error) == (True, None)
    assert isinstance(second.error, Fenced)
    assert bench.stored(written, lost) == [1, 0]


@pytest.mark.parametrize("cut", [before, after])
def test_a_writer_leaves_once_also_when_its_last_commit_is_cut(bench: Bench, cut: object) -> None:
    fenced: list[bool] = []
    bench.journal.on_fenced = lambda: fenced.append(True)
    bench.store.answers.append(cut)  # type: ignore[arg-type]
    ticket = bench.journal.put(CloseWriterNow(engine_id=bench.client.id))
    bench.journal.pump()
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(bench.journal)
    assert (ticket.done, ticket.error, fenced) == (True, None, [])
    assert bench.world.writer_row(bench.client).state == "stopped"


# degraded


def test_while_the_store_refuses_commands_wait_and_nothing_fails(bench: Bench) -> None:
    bench.store.answers.extend([before] * 5)
    bench.store.reopen_refusals = 2
    first = bench.journal.put(bench.client.submission())
    bench.journal.pump()
    assert str(bench.journal.trouble) == "cut before the commit"
    waits = []
    for _ in range(5):
        waited = 0
        while not bench.journal.pump():
            bench.world.clock.advance(1)
            waited += 1
        waits.append(waited)
    assert waits == list(BACKOFF_MS[:5])
    assert not first.done
    bench.store.answers.clear()
    bench.world.clock.advance(BACKOFF_MS[5])
    pump(bench.journal)
    assert first.done and first.error is None
    assert bench.journal.trouble is None
    assert bench.troubles == [("cut before the commit", 0), (None, sum(BACKOFF_MS[:6]))]


def test_the_wait_between_attempts_is_bounded_and_begins_anew_after_an_outage(bench: Bench) -> None:
    bench.store.answers.append(before)
    bench.store.reopen_refusals = len(BACKOFF_MS) + 3
    bench.journal.put(bench.client.submission())
    for _ in range(len(BACKOFF_MS) + 5):
        bench.journal.pump()
        bench.world.clock.advance(max(BACKOFF_MS))
    assert bench.journal.trouble is None
    bench.store.answers.append(before)
    bench.journal.put(bench.client.submission())
    bench.journal.pump()
    bench.world.clock.advance(BACKOFF_MS[0] - 1)
    assert not bench.journal.pump()
    bench.world.clock.advance(1)
    assert bench.journal.pump()


def test_a_checkpoint_that_fails_drops_the_connection_and_goes_on(bench: Bench) -> None:
    bench.store.tidy_refusals = 1
    command = bench.client.submission()
    ticket = bench.journal.put(command)
    bench.journal.pump()
    assert ticket.done and ticket.error is None  # the commit itself was told
    assert bench.journal.trouble is not None
    later = bench.journal.put(bench.client.submission())
    assert not bench.journal.pump()
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(bench.journal)
    assert later.done and bench.store.reopened == 1
    assert bench.stored(command) == [1]


def test_a_store_that_refuses_the_first_look_is_asked_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db")
    bench.store.inner.close()
    command = bench.client.submission()
    ticket = bench.journal.put(command, lazy=True)
    bench.world.clock.advance(LINGER_MS)
    assert bench.journal.pump()
    assert not ticket.done and bench.journal.trouble is not None
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(bench.journal)
    assert ticket.done and ticket.error is None
    assert bench.stored(command) == [1]
    bench.world.close()


# patience


class Pumping(Journal):
    """Writes at once, as its thread would have by the time its caller waits."""

    def put(self, *args: object, **kwargs: object) -> Ticket:
        ticket = super().put(*args, **kwargs)  # type: ignore[arg-type]
        self.pump()
        return ticket


def test_an_impatient_caller_takes_back_what_waits(bench: Bench) -> None:
    command = bench.client.submission()
    with pytest.raises(StorageUnavailable, match="nothing was stored") as refused:
        bench.journal.execute(command, patience_seconds=0)
    assert refused.value.fields["job_id"] == command.job_id
    assert bench.journal.waiting == 0
    assert not bench.journal.pump()
    assert bench.stored(command) == [0]


@pytest.mark.parametrize("cut", [before, after])
def test_an_impatient_caller_is_told_that_an_outcome_is_open(tmp_path: Path, cut: object) -> None:
    bench = Bench(tmp_path / "relight.db", journal=Pumping)
    bench.client.submit()
    bench.store.answers.append(cut)  # type: ignore[arg-type]
    command = bench.client.submission()
    with pytest.raises(StorageUnavailable, match="not known yet") as refused:
        bench.journal.execute(command, patience_seconds=0)
    assert refused.value.retryable and refused.value.fields["job_id"] == command.job_id
    waiting = bench.client.submission()
    with pytest.raises(StorageUnavailable, match="nothing was stored"):
        bench.journal.execute(waiting, patience_seconds=0)
    bench.world.clock.advance(BACKOFF_MS[0])
    pump(bench.journal)
    assert bench.stored(command, waiting) == [1, 0]
    bench.world.close()


def test_a_patient_caller_gets_its_command_s_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db", journal=Pumping)
    bench.client.submit(idempotency_key="taken")
    with pytest.raises(Conflict):
        bench.journal.execute(bench.client.submission(idempotency_key="taken"))
    commands = [bench.client.submission(), bench.client.submission(idempotency_key="taken")]
    assert [type(error) for error in bench.journal.execute_all(commands)] == [type(None), Conflict]
    assert bench.journal.execute_all([]) == []
    bench.world.close()


# the end


def test_closing_writes_what_waits_and_takes_nothing_more(bench: Bench) -> None:
    commands = bench.submits(3)
    tickets = [bench.journal.put(command, lazy=True) for command in commands]
    bench.journal.close()
    assert [(ticket.done, ticket.error) for ticket in tickets] == [(True, None)] * 3
    with pytest.raises(StorageUnavailable, match="closed"):
        bench.journal.put(bench.client.submission())
    bench.journal.close()


def test_closing_while_the_store_refuses_leaves_nobody_waiting(bench: Bench) -> None:
    bench.store.answers.append(after)
    open_still = bench.journal.put(bench.client.submission())
    bench.journal.pump()
    waiting = bench.journal.put(bench.client.submission())
    bench.journal.close()
    assert isinstance(open_still.error, StorageUnavailable) and "not known" in str(open_still.error)
    assert isinstance(waiting.error, StorageUnavailable)
    assert open_still.done and waiting.done
    bench.world.clock.advance(max(BACKOFF_MS))
    assert not bench.journal.pump()
    assert bench.store.reopened == 0, "a closed journal opens nothing again"


# its thread


def threaded(bench: Bench) -> Journal:
    journal = Journal(bench.store, bench.client.id, bench.client.opening, clock=SystemClock(), ids=bench.world.ids)
    bench.journal = bench.client.journal = journal
    journal.start()
    return journal


def test_many_callers_share_commits_and_each_gets_its_own_outcome(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db")
    journal = threaded(bench)
    journal.execute(bench.client.submission(idempotency_key="taken"))
    outcomes: list[list[BaseException | None]] = []

    def caller(n: int) -> None:
        commands = [*bench.submits(20), bench.client.submission(idempotency_key="taken")]
        outcomes.append(journal.execute_all(commands))

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    journal.close(timeout_seconds=None)
    assert [[error is None for error in some] for some in outcomes] == [[True] * 20 + [False]] * 8
    assert sum(len(batch.events) > 0 for batch in bench.store.asked) < 8 * 21 + 1
    bench.world.close()


def test_the_thread_recovers_by_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db")
    journal = threaded(bench)
    bench.store.answers.extend([before, after])
    bench.store.reopen_refusals = 1
    commands = bench.submits(2)
    for command in commands:
        journal.execute(command)
    assert bench.stored(*commands) == [1, 1]
    journal.close(timeout_seconds=None)
    bench.world.close()


def test_closing_gives_up_on_a_store_that_refuses_and_tells_its_callers(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "relight.db")
    journal = threaded(bench)
    bench.store.reopen_refusals = 1_000_000
    bench.store.answers.append(before)
    told: list[BaseException] = []

    def caller() -> None:
        with pytest.raises(StorageUnavailable) as refused:
            journal.execute(bench.client.submission())
        told.append(refused.value)

    waiting = threading.Thread(target=caller)
    in_trouble = threading.Event()
    journal.on_trouble = lambda error, ms: in_trouble.set()
    waiting.start()
    in_trouble.wait()
    journal.close(timeout_seconds=0)
    waiting.join()
    assert len(told) == 1
    bench.world.close()


def test_a_journal_that_cannot_go_on_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: died.append(args.exc_value))
    bench = Bench(tmp_path / "relight.db")

    def broken(apply: object) -> None:
        raise RuntimeError("nobody thought of this")

    bench.store.answers.append(broken)
    fenced: list[bool] = []
    journal = Journal(bench.store, bench.client.id, bench.client.opening, clock=SystemClock(), ids=bench.world.ids)
    journal.on_fenced = lambda: fenced.append(True)
    journal.put(bench.client.submission(), lazy=True)
    journal.start()
    with pytest.raises(Fenced, match="nobody thought of this"):
        journal.execute(bench.client.submission())
    with pytest.raises(Fenced):
        journal.execute(bench.client.submission())
    journal.close(timeout_seconds=None)
    assert fenced == [True]
    assert [str(error) for error in died] == ["nobody thought of this"]
    bench.world.close()
