"""The auditor is audited: each invariant has saboteurs, and no healthy store raises an alarm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from tests.recorder.build import World
from tests.recorder.chaos import Chaos
from tests.recorder.saboteurs import SABOTEURS
from tests.recorder.stories import Healthy, build_healthy, tell_everything

from relight.core import events as ev
from relight.core.chain import START, EventRow, link
from relight.core.commands import steering as cs
from relight.core.events import Draft
from relight.errors import Conflict, StorageUnavailable
from relight.model import JobState, Verdict
from relight.recorder import chains
from relight.recorder import verify as module
from relight.recorder.invariants import INVARIANTS, TOLD_AT_MOST, Findings, Report
from relight.recorder.verify import verify, verify_store

pytestmark = pytest.mark.sqlite_file("edits the file behind everybody")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Healthy]:
    path = tmp_path_factory.mktemp("healthy") / "healthy.db"
    told = build_healthy(path)
    return path, told


@pytest.fixture
def copy(healthy: tuple[Path, Healthy], tmp_path: Path) -> Path:
    for file in healthy[0].parent.glob("healthy.db*"):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / "healthy.db"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "world.db")
    yield world
    world.close()


def names_in(told: Healthy) -> dict[str, str]:
    names = {name: str(job.job_id) for name, job in told.jobs.items()}
    return names | {engine.name: str(engine.id) for engine in told.engines}


def sabotage(path: Path, sql: str, values: dict[str, str], *, covers_tracks: bool = True) -> None:
    """Edit the file behind Relight's back, as somebody with a SQLite shell would."""
    db = apsw.Connection(str(path))
    try:
        db.execute("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF")
        triggers = [row[0] for row in db.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")]
        db.execute("DROP TRIGGER events_no_update; DROP TRIGGER events_no_delete")
        before = db.total_changes()
        db.execute(sql, values)
        assert db.total_changes() > before, "the saboteur changed nothing"
        for trigger in triggers if covers_tracks else ():
            db.execute(trigger)
    finally:
        db.close()


def named(report: Report) -> set[str]:
    return {finding.invariant for finding in report.findings}


class TestSaboteurs:
    @pytest.mark.parametrize(("invariant", "sql"), SABOTEURS, ids=[f"{i}-{n}" for n, (i, _) in enumerate(SABOTEURS)])
    def test_each_is_named(self, healthy: tuple[Path, Healthy], copy: Path, invariant: str, sql: str) -> None:
        sabotage(copy, sql, names_in(healthy[1]))
        report = verify_store(str(copy))
        assert not report.ok
        assert invariant in named(report), [str(finding) for finding in report.findings]

    def test_every_invariant_has_one(self) -> None:
        assert {invariant for invariant, _ in SABOTEURS} == set(INVARIANTS)

    def test_findings_name_the_rows_to_look_at(self, healthy: tuple[Path, Healthy], copy: Path) -> None:
        job_id = healthy[1].jobs["failed"].job_id
        sabotage(copy, "UPDATE jobs SET outputs = '1' WHERE job_id = :failed", names_in(healthy[1]))
        [finding] = verify_store(str(copy)).findings
        assert finding.ids == (job_id,)
        assert str(finding) == f"J-1: the job is failed and has outputs [{job_id}]"

    def test_a_torn_page_is_a_finding_and_not_a_crash(self, copy: Path) -> None:
        db = apsw.Connection(str(copy))
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_by_kind'").get
        size = db.execute("PRAGMA page_size").get
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        db.close()
        with copy.open("r+b") as file:
            file.seek((page - 1) * size + size // 2)
            file.write(b"\xff" * (size // 2))
        assert "I-29" in named(verify_store(str(copy)))

    def test_a_text_that_is_no_text_is_a_finding_and_not_a_crash(
        self, healthy: tuple[Path, Healthy], copy: Path
    ) -> None:
        sabotage(copy, "UPDATE jobs SET kind = CAST(x'ff' AS TEXT) WHERE job_id = :plain", names_in(healthy[1]))
        assert not verify_store(str(copy)).ok


def rewritten(path: Path, writer_id: str) -> None:
    """Forge a writer's chain anew after an edit, and the head in its row: the hashes are all right again."""
    db = apsw.Connection(str(path))
    fields = ", ".join(EventRow.__struct_fields__)
    drafts = []
    for row in db.execute(f"SELECT {fields} FROM events WHERE writer_id = ? ORDER BY writer_seq", (writer_id,)):  # noqa: S608
        old = EventRow(*row)
        drafts.append(
            Draft(
                event_id=old.event_id,
                type=old.type,
                ts=old.ts,
                actor=old.actor,  # type: ignore[arg-type]
                actor_id=old.actor_id,
                trace_id=old.trace_id,
                job_id=old.job_id,
                run_id=old.run_id,
                step_key=old.step_key,
                model_id=old.model_id,
                payload=old.payload.encode(),
            )
        )
    rows, head = link(START, drafts, writer_id=writer_id, engine_id=writer_id)
    for new in rows:
        db.execute(
            "UPDATE events SET writer_seq = ?, prev_hash = ?, hash = ? WHERE event_id = ?",
            (new.writer_seq, new.prev_hash, new.hash, new.event_id),
        )
    db.execute("UPDATE engines SET head_seq = ?, head_hash = ? WHERE engine_id = ?", (head.seq, head.hash, writer_id))
    db.close()


class TestForgedChains:
    def test_a_chain_made_anew_is_found_by_the_head_that_a_later_writer_named(
        self, healthy: tuple[Path, Healthy], copy: Path
    ) -> None:
        first = healthy[1].engines[0].id
        sabotage(copy, "UPDATE events SET ts = ts + 1 WHERE type = 'gate_opened'", {}, covers_tracks=False)
        rewritten(copy, first)
        findings = verify_store(str(copy)).findings
        assert any(f.invariant == "I-22" and f.ids[-1] == first for f in findings)

    def test_a_tail_cut_together_with_the_row_is_found_by_a_named_head_too(
        self, healthy: tuple[Path, Healthy], copy: Path
    ) -> None:
        first = healthy[1].engines[0]
        sabotage(
            copy,
            "DELETE FROM events WHERE writer_id = :first AND writer_seq > 20;"
            "UPDATE engines SET head_seq = 20, head_hash = (SELECT hash FROM events WHERE writer_id = :first AND writer_seq = 20)"
            " WHERE engine_id = :first",
            names_in(healthy[1]),
        )
        findings = verify_store(str(copy)).findings
        assert any(f.invariant == "I-22" and f.ids[-1] == first.id for f in findings)


class TestMisbehavingEngines:
    """Engines of other code, whose every batch the store accepts and whose chains are right."""

    def test_one_that_accepts_before_its_gate_is_found(self, world: World) -> None:
        engine = world.engine()
        engine.begin_recovery()
        engine.submit()
        engine.finish_recovery()
        engine.open_gate()
        assert named(verify(world.store)) == {"I-5"}

    def test_one_that_opens_its_gate_without_recovery_is_found(self, world: World) -> None:
        engine = world.engine()
        engine.recovery_id = "r"
        engine.open_gate()
        assert named(verify(world.store)) == {"I-6"}

    def test_one_whose_receipt_counts_less_than_it_did_is_found(self, world: World) -> None:
        first = world.engine().start()
        first.claim(first.submit())
        second = world.engine()
        second.begin_recovery()
        second.judge(first)
        second.stall_all(first)
        second.finish_recovery([(first, Verdict.DEAD)])
        second.open_gate()
        assert named(verify(world.store)) == {"I-6"}

    def test_one_that_stalls_by_the_recovery_whose_gate_is_open_is_found(self, world: World) -> None:
        first = world.engine("first").start()
        second = world.engine("second").start()
        run = first.claim(first.submit())
        second.judge(first)
        second.do(second.stalling(run, first))
        assert named(verify(world.store)) == {"I-6"}

    def test_one_that_ignores_a_queues_slots_is_found(self, world: World) -> None:
        engine = world.engine().start()
        engine.define_queue("default", 2)
        for _ in range(3):
            engine.claim(engine.submit())
        report = verify(world.store)
        assert named(report) == {"I-27"}

    def test_one_that_runs_a_finished_step_again_is_found(self, world: World) -> None:
        engine = world.engine().start()
        run = engine.claim(engine.submit())
        engine.step(run, "fetch#0")
        sabotage(world.path, "UPDATE steps SET state = 'in_doubt', ended_at = NULL, outcome = NULL", {})
        engine.begin(run, "fetch#0")
        assert "P6" in named(verify(world.store))


class TestNoFalseAlarm:
    def test_a_store_in_which_everything_happened_is_healthy(self, healthy: tuple[Path, Healthy]) -> None:
        report = verify_store(str(healthy[0]))
        assert report.findings == ()
        assert report.ok
        assert report.counts["jobs"] == len(healthy[1].jobs)

    def test_an_empty_store_is_healthy(self, world: World) -> None:
        assert verify(world.store).ok

    def test_a_store_is_healthy_after_every_single_batch(self, world: World) -> None:
        """Wherever an engine is killed, nothing is wrong with what it leaves."""
        reports: list[Report] = []
        world.after_batch = lambda: reports.append(verify(world.store))
        tell_everything(world)
        assert len(reports) > 150
        assert [report.findings for report in reports if not report.ok] == []

    @pytest.mark.parametrize("crowd", [False, True], ids=["one at a time", "crowd"])
    @pytest.mark.parametrize("seed", range(20))
    def test_whatever_happens_leaves_a_healthy_store(self, world: World, seed: int, crowd: bool) -> None:
        chaos = Chaos(world, seed, crowd=crowd)
        chaos.play(80)
        assert chaos.applied > 40
        assert verify(world.store).findings == ()

    def test_rows_set_aside_are_not_judged(self, healthy: tuple[Path, Healthy], copy: Path) -> None:
        """That is what quarantine is for: something is wrong with them, and an operator knows."""
        sabotage(
            copy, "UPDATE jobs SET state = 'gone', run_id = NULL WHERE job_id = :quarantined", names_in(healthy[1])
        )
        assert verify_store(str(copy)).ok


class TestReading:
    def test_pages_do_not_change_what_is_found(
        self, healthy: tuple[Path, Healthy], copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sabotage(
            copy,
            "UPDATE steps SET outcome = '2' WHERE job_id = :plain; UPDATE events SET ts = 5 WHERE type = 'run_started';"
            "UPDATE jobs SET claimable = 1; DELETE FROM jobs WHERE job_id = :queued",
            names_in(healthy[1]),
        )
        at_once = verify_store(str(copy))
        monkeypatch.setattr(module, "PAGE", 2)
        monkeypatch.setattr(module, "JOBS_PAGE", 1)
        monkeypatch.setattr(chains, "REMEMBERED", 1)
        in_small_pages = verify_store(str(copy))
        assert set(in_small_pages.findings) == set(at_once.findings)
        monkeypatch.setattr(module, "JOBS_PAGE", len(healthy[1].jobs))
        assert verify_store(str(healthy[0])).ok

    def test_a_store_in_use_raises_no_alarm(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between any two pages engines come and go, and jobs move."""
        monkeypatch.setattr(module, "PAGE", 7)
        monkeypatch.setattr(module, "JOBS_PAGE", 2)
        chaos = Chaos(world, 1)
        chaos.play(100)
        report = verify(world.store, progress=lambda what, done, total: chaos.play(1))
        assert report.findings == ()

    def test_progress_is_told_to_the_end(self, healthy: tuple[Path, Healthy]) -> None:
        told: list[tuple[str, int, int]] = []
        report = verify_store(str(healthy[0]), progress=lambda *step: told.append(step))
        assert ("events", report.counts["events"], report.counts["events"]) in told
        assert ("jobs", report.counts["jobs"], report.counts["jobs"]) in told
        assert told[-1] == ("file", 1, 1)

    def test_nothing_is_written(self, copy: Path) -> None:
        before = copy.read_bytes()
        verify_store(str(copy))
        assert copy.read_bytes() == before

    def test_a_missing_file_is_said_and_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(StorageUnavailable):
            verify_store(str(tmp_path / "none.db"))
        assert list(tmp_path.iterdir()) == []

    def test_findings_are_bounded_and_counted(self) -> None:
        found = Findings()
        for n in range(TOLD_AT_MOST + 3):
            found.add("J-1", "x", n)
        told = found.all()
        assert len(told) == TOLD_AT_MOST + 1
        assert str(told[-1]) == "J-1: and 3 more"


class TestRaces:
    """Acts on one job at the same moment. Each once left row and story apart, and the auditor found it."""

    def test_an_answer_that_arrives_before_the_job_is_put_away_for_it(self, world: World) -> None:
        engine = world.engine().start()
        run = engine.claim(engine.submit())
        decision = engine.ask(run, "ask#0")
        world.client().answer(run, decision)
        told = ev.JobAwaitingUser(decision_id=decision, question_redacted="?", options=["yes"], preview_hash=None)
        with pytest.raises(Conflict):
            engine.put_away(run, "awaiting_user", state=JobState.AWAITING_USER, tells=(told,))
        engine.put_away(run, "waiting")
        assert world.row(run).claimable
        assert verify(world.store).findings == ()

    def test_a_step_that_finishes_behind_a_forced_cancel_in_one_batch(self, world: World) -> None:
        engine = world.engine().start()
        run = engine.claim(engine.submit())
        engine.begin(run, "fetch#0")
        cancel = cs.decide_end(world.row(run), engine.who, code="cancel", reason=None, force=True, open_decisions=())
        engine.do_all(cancel, engine.ending(run, "fetch#0"))
        assert verify(world.store).findings == ()

    def test_a_cancel_and_a_resume_of_one_stalled_job_in_one_batch(self, world: World) -> None:
        first = world.engine().start()
        run = first.claim(first.submit())
        engine = world.engine().start(dead=[first])
        row = world.row(run)
        cancel = cs.decide_end(row, engine.who, code="cancel", reason=None, force=False, open_decisions=())
        resume = cs.ResumeJob(job=cs.ref_of(row), source=row.state, source_reason=row.status_reason, who=engine.who)
        engine.do_all(cancel, resume)
        assert verify(world.store).findings == ()

    def test_a_release_of_a_hold_and_a_cancel_in_one_batch(self, world: World) -> None:
        first = world.engine().start()
        run = first.claim(first.submit())
        engine = world.engine().start(silent=[first])
        row = world.row(run)
        release = cs.ReleaseHeld(job=cs.ref_of(row), owner=first.id, who=engine.who)
        cancel = cs.decide_end(row, engine.who, code="cancel", reason=None, force=False, open_decisions=())
        engine.do_all(release, cancel)
        assert world.row(run).state is JobState.QUEUED
        assert verify(world.store).findings == ()
