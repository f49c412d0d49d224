"""``crash_points``: a crash at every boundary is abandoned, not unwound; the promises are audited, and a planted bug is found."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight import (
    Client,
    Done,
    Engine,
    NotDone,
    Resource,
    Retry,
    ask,
    current_step,
    parallel,
    sleep,
    step,
    wait_signal,
    workflow,
)
from relight.core.commands.jobs import SubmitJob
from relight.core.history import History
from relight.errors import InvalidArgument, WaitTimeout
from relight.model import JobState, StepRecord
from relight.store.journal import Journal
from relight.store.sqlite.store import SqliteStore
from relight.store.store import Batch
from relight.testing import CrashRun, SimulatedCrash, corpse, crash_points, drain

pytestmark = pytest.mark.sqlite_file("crash_points makes and removes a file")


class Bank:
    """The world outside: what was charged, by key, and whose frames were unwound."""

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}
        self.calls: list[str] = []
        self.unwound: list[str] = []

    def clear(self) -> None:
        self.charged.clear()
        self.calls.clear()
        self.unwound.clear()


bank: Resource[Bank] = Resource(Bank)


def was_charged(cents: int) -> Done[int] | NotDone:
    found = bank().charged.get(current_step().idempotency_key)
    return NotDone() if found is None else Done(found)


@step(in_doubt=was_charged, retry=Retry(tries=3, first_seconds=60))
def charge(cents: int) -> int:
    bank().calls.append("charge")
    assert current_step().idempotency_key not in bank().charged
    bank().charged[current_step().idempotency_key] = cents
    return cents


@step
def note(word: str) -> str:
    try:
        bank().calls.append(word)
        return word
    finally:
        bank().calls.append(f"{word} noted")


@step
async def note_async(word: str) -> str:
    await asyncio.sleep(0)
    return word


@workflow
def pays(cents: int) -> int:
    note("before")
    try:
        paid = charge(cents)
        sleep(3600)
        note("after")
        return paid
    finally:
        note_unwinding("pays")


@workflow
async def pays_async(cents: int) -> int:
    try:
        words = await asyncio.gather(note_async("a"), note_async("b"))
        assert words == ["a", "b"]
        paid = await charge.aio(cents)
        await sleep.aio(3600)
        return paid
    finally:
        note_unwinding("pays_async")


@workflow
def fans_out() -> list[str]:
    return parallel(note, ["a", "b", "c", "d"], limit=3)


@workflow
def asks_and_waits() -> str:
    word = wait_signal("word", type=str)
    return f"{word} {ask('Go?').choice}"


unwound: list[str] = []
"""Bodies whose ``finally`` ran because an exception went through them, whatever it was."""


def note_unwinding(kind: str) -> None:
    if sys.exc_info()[0] is not None:
        unwound.append(kind)


@pytest.fixture(autouse=True)
def _wind_up() -> None:
    unwound.clear()


def passes(scenario: Callable[[Engine], Any], tmp_path: Path, *flows: Any, **options: Any) -> Iterator[CrashRun]:
    return crash_points(scenario, store=str(tmp_path / "jobs.db"), workflows=flows, **options)


class TestPromises:
    @pytest.mark.parametrize("flow", [pays, pays_async], ids=["sync", "async"])
    def test_at_every_boundary_money_moves_once_and_nothing_is_unwound(self, tmp_path: Path, flow: Any) -> None:
        world = Bank()
        seen: list[tuple[int, str]] = []
        in_memory = {"suspend_after_seconds": 86_400}  # a run that is put away is unwound, on purpose
        for run in passes(lambda e: e.submit(flow, 5), tmp_path, flow, resources={bank: world}, **in_memory):
            engine = run.crash_then_restart()
            drain(engine)
            [job] = engine.jobs()
            assert job.state is JobState.COMPLETED, (run.boundary, job.summary)
            assert list(world.charged.values()) == [5], run.boundary
            assert world.calls.count("charge") == 1
            seen.append((run.ordinal, run.boundary))
            world.clear()
        gc.collect()
        assert unwound == []
        assert [ordinal for ordinal, _ in seen] == list(range(1, len(seen) + 1))
        kinds = {boundary.partition(" ")[0] for _, boundary in seen}
        assert kinds == {"before_commit", "after_commit", "before_step", "at_rest"}
        said = " ".join(boundary for _, boundary in seen)
        for command in ("SubmitJob", "ClaimJob", "BeginTry", "FinishStep", "BeginWait"):
            assert command in said
        assert list(tmp_path.iterdir()) == []

    def test_arms_side_by_side_come_to_a_stand_before_the_restart(self, tmp_path: Path) -> None:
        world = Bank()
        points = 0
        for run in passes(lambda e: e.submit(fans_out), tmp_path, fans_out, resources={bank: world}):
            entered = len([call for call in world.calls if " " not in call])
            assert world.calls.count("a noted") + len(world.calls) <= 12
            assert len([call for call in world.calls if call.endswith(" noted")]) == entered
            engine = run.crash_then_restart()
            drain(engine)
            assert [job.state for job in engine.jobs()] == [JobState.COMPLETED]
            points += 1
            world.clear()
        assert points >= 10

    def test_what_the_world_outside_does_is_done_again(self, tmp_path: Path) -> None:
        def scenario(engine: Engine) -> None:
            job = engine.submit(asks_and_waits, idempotency_key="one")
            job.signal("word", "so", idempotency_key="w", by="ben")
            drain(engine)
            if job.state() is JobState.AWAITING_USER:
                job.answer("approve", by="ann")

        for run in passes(scenario, tmp_path, asks_and_waits):
            engine = run.crash_then_restart()
            job = engine.job(kind="asks_and_waits", idempotency_key="one")
            assert job.result(timeout_seconds=20) == "so approve", run.boundary

    def test_a_pass_that_nobody_restarts_is_audited_all_the_same(self, tmp_path: Path) -> None:
        for run in passes(lambda e: e.submit(fans_out), tmp_path, fans_out, resources={bank: Bank()}):
            if run.ordinal == 3:
                run.crash_then_restart()
                with pytest.raises(InvalidArgument, match="restarted already"):
                    run.crash_then_restart()


class TestDeath:
    def test_a_dead_engine_tells_its_callers_that_it_is_gone(self, tmp_path: Path) -> None:
        ends: list[str] = []

        def scenario(engine: Engine) -> None:
            job = engine.submit(fans_out)
            try:
                while job.state() is not JobState.COMPLETED:
                    threading.Event().wait(0.001)
            except SimulatedCrash as gone:
                ends.append(str(gone))
                raise

        for run in passes(scenario, tmp_path, fans_out, resources={bank: Bank()}):
            if run.ordinal == 8:
                break
        assert ends
        assert "crash_then_restart" in ends[0]

    def test_no_service_of_the_dead_is_left_in_the_process(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        for run in passes(lambda e: e.submit(fans_out), tmp_path, fans_out, resources={bank: Bank()}):
            run.crash_then_restart()
        left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
        services = ("journal", "supervisor", "watch", "beat", "ends")
        assert [thread.name for thread in left if thread.name.split("-")[1] in services] == []

    def test_a_step_that_does_not_come_to_a_stand_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(corpse, "PATIENCE_SECONDS", 0.05)
        door = threading.Event()

        @step
        def hangs() -> None:
            door.wait(20)

        @workflow
        async def hanging() -> None:
            await asyncio.gather(hangs.aio(), note_async("a"), charge.aio(5))

        def scenario(engine: Engine) -> None:
            door.clear()
            engine.submit(hanging)
            threading.Event().wait(0.2)
            door.set()

        world = Bank()
        try:
            with pytest.raises(WaitTimeout, match=r"this still runs: .*hangs#0.*let its fake return"):
                list(passes(scenario, tmp_path, hanging, resources={bank: world}))
        finally:
            door.set()

    def test_what_a_scenario_raises_is_raised(self, tmp_path: Path) -> None:
        def scenario(engine: Engine) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(passes(scenario, tmp_path, fans_out))

        async def async_scenario(engine: Engine) -> None: ...

        with pytest.raises(InvalidArgument, match="is async"):
            passes(async_scenario, tmp_path)

    def test_a_store_that_is_there_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "jobs.db"
        path.write_bytes(b"mine")
        with pytest.raises(InvalidArgument, match=r"there is jobs\.db already"):
            passes(lambda e: None, tmp_path)
        assert path.read_bytes() == b"mine"

    def test_leaving_the_loop_stops_the_engine_and_clears_the_store(self, tmp_path: Path) -> None:
        points = passes(lambda e: e.submit(fans_out), tmp_path, fans_out, resources={bank: Bank()})
        engine = next(points).crash_then_restart()
        assert engine.health()["ok"]
        points.close()  # type: ignore[attr-defined]
        with pytest.raises(InvalidArgument, match="not started"):
            engine.health()
        assert list(tmp_path.iterdir()) == []


class TestPlanted:
    """Each bug breaks one promise; the kit must say which, and where."""

    def crash_everywhere(self, tmp_path: Path) -> None:
        for run in passes(lambda e: e.submit(pays, 5), tmp_path, pays, resources={bank: Bank()}):
            run.crash_then_restart()

    def test_a_journal_that_tells_before_it_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        apply = Journal._apply

        def hasty(self: Journal, parts: list[list[Any]]) -> None:
            submits = [part for part in parts if all(isinstance(t.command, SubmitJob) for t in part)]
            for part in submits:
                self._finish(part, None)
                for ticket in part:
                    ticket.waker = None
            apply(self, parts)

        monkeypatch.setattr(Journal, "_apply", hasty)
        with pytest.raises(AssertionError, match=r"at before_commit.*P1: .* is not in the store"):
            self.crash_everywhere(tmp_path)

    def test_a_replay_that_forgets_what_was_finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        call = History.call

        def forgetful(self: History, key: Any) -> StepRecord | None:
            record = call(self, key)
            return None if key == "note#0" else record

        monkeypatch.setattr(History, "call", forgetful)
        with pytest.raises(AssertionError, match="P6: note#0 .* was finished before the crash, and ran again"):
            self.crash_everywhere(tmp_path)

    def test_a_store_that_loses_an_event(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        apply = SqliteStore.apply

        def lossy(self: SqliteStore, batch: Batch) -> None:
            rows = {op: text for op, text in batch.rows.items() if op != "set_progress"}
            kept = [event for event in batch.events if "step_began" not in msgspec.json.encode(event).decode()]
            apply(self, Batch(batch.writer_id, batch.seq, batch.head, rows, kept))

        monkeypatch.setattr(SqliteStore, "apply", lossy)
        with pytest.raises(AssertionError, match="I-"):
            self.crash_everywhere(tmp_path)


def test_a_crashed_store_is_left_as_a_kill_leaves_it(tmp_path: Path) -> None:
    points = passes(lambda e: e.submit(pays, 5), tmp_path, pays, resources={bank: Bank()})
    for run in points:
        if "FinishStep" in run.boundary and run.boundary.startswith("after_commit"):
            break
    with Client(str(tmp_path / "jobs.db")) as client:
        [job] = client.jobs()
        assert job.state is JobState.RUNNING
        assert client.health()["recovery_owed"] == 0  # nobody has looked at it yet
        [engine] = client.health()["engines"]  # type: ignore[misc]
        assert engine["gate"] == "open"
    engine = run.crash_then_restart()
    [stall] = [event for event in engine.job(job.id).events() if event.type == "workflow_recovery"]
    assert stall.payload["verdict"] == "dead"
    points.close()  # type: ignore[attr-defined]
