"""The demo can say no: first its judgement alone, then the real thing with real kills."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest

from relight.cli.demo import driver, evidence
from relight.cli.demo.driver import DemoOptions, Screen, Show, run_demo
from relight.cli.demo.evidence import Tally
from relight.cli.demo.listing import Group
from relight.cli.demo.plan import Kill, draw_kills, make_plan
from relight.cli.demo.receipt import Expected, Receipt, broken_promises, render_receipt
from relight.cli.demo.talk import News, Orders
from relight.cli.demo.witness import Ledger, Line, StepId, Tail, Witness
from relight.errors import InvalidArgument, RelightError

# ---------------------------------------------------------------- the witness


def begin(step_key: str, run_id: str = "r1", job_id: str = "j", mark: str = "begin") -> Line:
    name = step_key.partition("#")[0].partition("[")[0]
    return Line(mark, job_id, step_key, name, run_id, 1)  # type: ignore[arg-type]


def reruns(lines: list[Line], *crashes: tuple[int, set[StepId]]) -> list[str]:
    ledger = Ledger()
    for offset, finished in crashes:
        ledger.crash(offset, frozenset(finished))
    return [it.step_key for it in ledger.reruns(list(enumerate(lines)))]


def test_a_step_that_was_recorded_before_a_crash_and_begins_after_it_is_a_rerun() -> None:
    lines = [begin("list#0"), begin("read[a]"), begin("read[a]", "r2"), begin("read[b]", "r2")]
    assert reruns(lines, (2, {("j", "read[a]")})) == ["read[a]"]
    assert reruns(lines, (2, {("j", "list#0")})) == []
    assert reruns(lines, (2, {("other", "read[a]")})) == []


def test_a_begin_before_the_crash_is_no_rerun_and_one_exactly_at_it_is() -> None:
    lines = [begin("read[a]"), begin("read[a]", "r2")]
    assert reruns(lines, (1, {("j", "read[a]")})) == ["read[a]"]
    assert reruns(lines, (2, {("j", "read[a]")})) == []


def test_what_was_recorded_at_one_crash_stays_finished_at_all_later_ones() -> None:
    lines = [begin("read[a]"), begin("read[b]", "r2"), begin("read[a]", "r3")]
    assert reruns(lines, (1, {("j", "read[a]")}), (2, set())) == ["read[a]"]


def test_a_step_that_ended_unrecorded_may_run_again() -> None:
    lines = [begin("read[a]"), begin("read[a]", mark="end"), begin("read[a]", "r2")]
    assert reruns(lines, (2, set())) == []


def test_a_second_begin_in_the_same_run_is_a_rerun() -> None:
    assert reruns([begin("read[a]"), begin("read[a]")]) == ["read[a]"]


def test_a_step_of_a_stage_that_the_job_had_left_is_a_rerun() -> None:
    lines = [begin("list#0"), begin("read[a]"), begin("merge#0"), begin("read[a]", "r2"), begin("merge#0", "r2")]
    assert reruns(lines) == ["read[a]"]
    other = [begin("list#0"), begin("read[a]"), begin("list#0", job_id="k")]
    assert reruns(other) == []


def test_the_witness_writes_whole_lines_that_the_tail_reads_as_they_come(tmp_path: Path) -> None:
    path = str(tmp_path / "witness.jsonl")
    witness = Witness(path)
    tail = Tail(path)
    assert tail.read() is False
    key = "read[a b\n'\"é.py]"
    with witness.observe(job_id="j", step_key=key, name="read", run_id="r1"):
        assert tail.read() is True
        assert list(tail.under_way.values()) == [{("j", key)}]
        assert tail.ended == set()
    assert tail.read() is True
    assert list(tail.under_way.values()) == [set()]
    assert tail.ended == {("j", key)}
    assert [line.mark for _, line in tail.lines] == ["begin", "end"]
    assert tail.lines[0][0] == 0
    assert tail.offset == (tmp_path / "witness.jsonl").stat().st_size


def test_a_step_that_fails_is_not_seen_to_end(tmp_path: Path) -> None:
    path = str(tmp_path / "witness.jsonl")
    with pytest.raises(ValueError, match="bad"), Witness(path).observe(job_id="j", step_key="k", name="n", run_id="r"):
        raise ValueError("bad")
    tail = Tail(path)
    tail.read()
    assert tail.ended == set()


def test_a_line_that_is_not_whole_yet_is_read_later(tmp_path: Path) -> None:
    path = tmp_path / "witness.jsonl"
    whole = msgspec.json.encode(begin("read[a]")) + b"\n"
    path.write_bytes(whole + whole[:9])
    tail = Tail(str(path))
    tail.read()
    assert (len(tail.lines), tail.offset) == (1, len(whole))
    path.write_bytes(whole + whole)
    tail.read()
    assert [offset for offset, _ in tail.lines] == [0, len(whole)]


# ---------------------------------------------------------------- the store


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Make a store with the few columns that are read."""
    path = str(tmp_path / "relight.db")
    db = apsw.Connection(path)
    db.pragma("journal_mode", "wal")
    db.execute(
        """
        CREATE TABLE jobs (job_id TEXT, state TEXT);
        CREATE TABLE steps (job_id TEXT, step_key TEXT, kind TEXT, state TEXT);
        CREATE TABLE events (seq INTEGER PRIMARY KEY, type TEXT, job_id TEXT, payload TEXT);
        INSERT INTO jobs VALUES ('a', 'completed'), ('b', 'completed_with_issues'), ('c', 'failed'), ('d', 'running');
        INSERT INTO steps VALUES ('a', 'k#0', 'step', 'completed'), ('a', 'k#1', 'step', 'running'),
          ('a', 'sleep#0', 'sleep', 'completed'), ('b', 'k#0', 'step', 'completed'), ('b', 'k#1', 'step', 'failed');
        INSERT INTO events (type, job_id, payload) VALUES ('engine_started', NULL, '{}'),
          ('workflow_recovery', 'a', '{"in_doubt_steps": ["k#0", "k#1"]}'), ('job_resumed', 'a', '{}'),
          ('workflow_recovery', 'b', '{"in_doubt_steps": []}'), ('job_resumed', 'b', '{}'),
          ('workflow_recovery', 'b', '{"in_doubt_steps": ["k#1"]}'), ('gate_opened', NULL, '{}');
        """
    )
    db.close()
    return path


def test_finished_steps_are_those_with_an_outcome(store: str) -> None:
    assert evidence.finished_steps(store) == {("a", "k#0"), ("b", "k#0")}


def test_jobs_with_outputs_are_completed(store: str) -> None:
    assert evidence.completed_jobs(store) == {"a", "b"}


def test_stalls_resumes_and_doubts_are_counted_from_events(store: str) -> None:
    assert evidence.count_events(store, 0) == Tally(stalled=3, resumed=2, in_doubt=3, events=7)
    assert evidence.count_events(store, 3) == Tally(stalled=2, resumed=1, in_doubt=1, events=4)
    assert evidence.count_events(store, 0, frozenset({"a"})) == Tally(stalled=1, resumed=1, in_doubt=2, events=7)


def test_the_job_with_most_stalls_is_the_one_to_tell_of(store: str) -> None:
    assert evidence.most_stalled(store, 0, frozenset({"a", "b"})) == "b"
    assert evidence.most_stalled(store, 0, frozenset({"a"})) == "a"
    assert evidence.most_stalled(store, 6, frozenset({"a", "b"})) is None


def test_the_last_event_of_a_store_that_is_not_there_yet_is_none(store: str, tmp_path: Path) -> None:
    assert evidence.last_seq(store) == 7
    assert evidence.last_seq(str(tmp_path / "none.db")) == 0
    (tmp_path / "empty.db").touch()
    assert evidence.last_seq(str(tmp_path / "empty.db")) == 0
    assert not (tmp_path / "none.db").exists()


# ---------------------------------------------------------------- the plan


def test_a_seed_fixes_the_moments_of_the_kills() -> None:
    assert draw_kills(Random(7), 5, 2_000) == draw_kills(Random(7), 5, 2_000)
    assert draw_kills(Random(7), 5, 2_000) != draw_kills(Random(8), 5, 2_000)


def test_no_kill_falls_into_the_last_part_of_the_work() -> None:
    for seed in range(200):
        for steps in (3, 10, 1_000):
            moments = [it.after_steps for it in draw_kills(Random(seed), 5, steps)]
            assert moments == sorted(moments)
            assert all(0 <= it < max(1, steps * 0.85) for it in moments)


def test_kills_on_purpose_are_no_crash_loop(tmp_path: Path) -> None:
    assert make_plan(DemoOptions(tmp_path, crashes=9, store=str(tmp_path / "s.db"))).orders.max_stalls > 9


def test_a_demo_that_cannot_start_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    for options in (
        DemoOptions(tmp_path / "missing"),
        DemoOptions(tmp_path, crashes=-1),
        DemoOptions(tmp_path, store="mysql:///x"),
        DemoOptions(tmp_path, store=str(tmp_path / "missing" / "s.db")),
        DemoOptions(tmp_path, store=str(tmp_path / "s.db"), out_folder=Path("/dev/null/x")),
    ):
        with pytest.raises(InvalidArgument):
            run_demo(options, io.StringIO())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the receipt


def receipt(**given: object) -> Receipt:
    values = msgspec.structs.asdict(
        Receipt(
            files=10,
            jobs=3,
            steps=17,
            crashes=2,
            stalled=4,
            resumed=4,
            in_doubt=5,
            finished_steps_rerun=0,
            lost_jobs=0,
            gate_ms=[12.0, 3.5, 4.0],
            events=99,
            verify="ok",
            identical=True,
            census_sha256="ab" * 32,
            seconds=1.5,
        )
    )
    return Receipt(**(values | given))  # type: ignore[arg-type]


EXPECTED = Expected(crashes=2, jobs=3, files_counted=10, steps_witnessed=17)


def test_a_good_receipt_breaks_no_promise() -> None:
    assert broken_promises(receipt(), EXPECTED) == []
    assert list(render_receipt(receipt(), []))[-1] == "  every promise held"


@pytest.mark.parametrize(
    "given",
    [
        {"crashes": 1},
        {"jobs": 4},
        {"lost_jobs": 1},
        {"finished_steps_rerun": 1},
        {"steps": 16},
        {"resumed": 3},
        {"verify": "1 findings"},
        {"files": 11},
        {"identical": False},
    ],
)
def test_each_promise_can_be_broken(given: dict[str, object]) -> None:
    broken = broken_promises(receipt(**given), EXPECTED)
    assert len(broken) == 1
    assert f"  BROKEN: {broken[0]}" in render_receipt(receipt(**given), broken)


def test_the_receipt_has_exactly_the_fields_that_are_promised() -> None:
    assert list(msgspec.structs.asdict(receipt())) == [
        "files",
        "jobs",
        "steps",
        "crashes",
        "stalled",
        "resumed",
        "in_doubt",
        "finished_steps_rerun",
        "lost_jobs",
        "gate_ms",
        "events",
        "verify",
        "identical",
        "census_sha256",
        "seconds",
    ]


# ---------------------------------------------------------------- the director, with children that follow a script


class ScriptedChild:
    """A child that says one line of its script at each look."""

    def __init__(self, script: list[News | int | Callable[[], None]], pid: int) -> None:
        self._script = script
        self.pid = pid
        self.exit_code: int | None = None

    def __enter__(self) -> ScriptedChild:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def has_ended(self) -> bool:
        return self.exit_code is not None

    def kill(self) -> None:
        if self.exit_code is None:
            self.exit_code = -signal.SIGKILL

    def news(self) -> list[News]:
        match self._script.pop(0) if self._script else None:
            case News() as news:
                return [news]
            case int(exit_code):
                self.exit_code = exit_code
            case None:
                pass
            case act:
                act()
        return []

    def failure(self, what: str) -> RelightError:
        return RelightError(f"the child {what}")


@pytest.fixture
def show(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Show]:
    """Run a show of one kill with scripted children, one script for each life."""
    witness = tmp_path / "witness.jsonl"
    witness.touch()

    def run(*scripts: list[News | int | Callable[[], None]], kills: int = 1) -> Show:
        lives = iter(enumerate(scripts, start=1))

        def next_child(orders: Orders, log: Path) -> ScriptedChild:
            pid, script = next(lives)
            return ScriptedChild(script, pid)

        monkeypatch.setattr(driver, "Child", next_child)
        orders = Orders(
            store=store,
            folder="/",
            out_folder=str(tmp_path),
            witness=str(witness),
            session="s",
            groups=[Group("a/")],
            max_stalls=9,
        )
        made = Show(orders, 5, Screen(io.StringIO()), [Kill(0, 0.0)] * kills)
        made.run()
        return made

    return run


def works(tmp_path: Path, pid: int, mark: str = "begin") -> Callable[[], None]:
    """Append a line to the witness when the script comes to it."""
    line = Line(mark, "a", "k#0", "k", f"r{pid}", pid)  # type: ignore[arg-type]

    def write() -> None:
        with open(tmp_path / "witness.jsonl", "ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    return write


def test_a_kill_waits_for_work_in_flight_and_the_next_life_goes_on(show: Callable[..., Show], tmp_path: Path) -> None:
    done = show(
        [News("started"), News("gate_open", ms=3), News("submitted", jobs=["a"]), works(tmp_path, 1)],
        [News("started"), News("gate_open", ms=2), News("submitted", jobs=["a", "b"]), News("done"), 0],
    )
    assert (done.crashes, done.gate_ms, done.jobs) == (1, [3, 2], {"a", "b"})
    assert done.ledger.reruns(done.tail.lines) == []


def test_a_finished_step_that_begins_in_the_next_life_is_counted(show: Callable[..., Show], tmp_path: Path) -> None:
    done = show([works(tmp_path, 1)], [works(tmp_path, 2), News("done"), 0])
    assert [it.pid for it in done.ledger.reruns(done.tail.lines)] == [2]


def test_a_child_that_was_faster_than_the_kill_is_no_crash(show: Callable[..., Show], tmp_path: Path) -> None:
    done = show([works(tmp_path, 1), News("done")])
    assert done.crashes == 0


def test_a_child_that_ends_by_itself_is_an_error(show: Callable[..., Show]) -> None:
    with pytest.raises(RelightError, match="ended by itself with exit code -11"):
        show([News("started"), -11])
    with pytest.raises(RelightError, match="exit code 0"):
        show([News("started"), 0])


def test_a_child_that_reports_a_failure_is_an_error(show: Callable[..., Show]) -> None:
    with pytest.raises(RelightError, match="JobFailed: no"):
        show([News("failed", detail="JobFailed: no")])


def test_a_child_that_hangs_is_an_error(show: Callable[..., Show], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "QUIET_SECONDS", 0)
    with pytest.raises(RelightError, match="has done nothing"):
        show([])


def test_off_a_terminal_there_is_no_bar() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.bar(1, 2)
    screen.line("a")
    assert out.getvalue() == "a\n"


# ---------------------------------------------------------------- the real thing


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a small folder in which something is wrong with every third file."""
    folder = tmp_path / "source"
    (folder / "pkg" / "sub").mkdir(parents=True)
    for number in range(12):
        (folder / f"m{number}.py").write_text(f"import os\n\ndef f{number}():\n    '''Documented.'''\n")
        (folder / "pkg" / f"n{number}.py").write_text("class A:\n    pass\n" * number)
    (folder / "bad_syntax.py").write_text("def\n")
    (folder / "bad_null.py").write_bytes(b"a = 1\0\n")
    (folder / "bad_encoding.py").write_bytes(b"a = '\xff'\n")
    (folder / "pkg" / "deep.py").write_text("-" * 50_000 + "1")
    (folder / "pkg" / "loop").symlink_to("..")
    (folder / "pkg" / "sub" / "dangling.py").symlink_to("nowhere.py")
    return folder


def demo(tmp_path: Path, folder: Path | None, **given: object) -> tuple[int, str]:
    out = io.StringIO()
    options = DemoOptions(folder, store=str(tmp_path / "demo.db"), **given)  # type: ignore[arg-type]
    return run_demo(options, out), out.getvalue()


def test_a_census_that_is_killed_again_and_again_is_the_same_census(tmp_path: Path, source: Path) -> None:
    code, out = demo(tmp_path, source, crashes=3, json=True, seed=7)
    found = msgspec.json.decode(out, type=Receipt)
    assert code == 0
    assert (found.files, found.jobs, found.crashes, found.lost_jobs) == (28, 4, 3, 0)
    assert (found.finished_steps_rerun, found.verify, found.identical) == (0, "ok", True)
    assert found.steps == 28 + 2 * 3 + 3
    assert found.stalled == found.resumed >= 3
    assert len(found.gate_ms) == 4
    written = msgspec.json.decode((tmp_path / "demo-census" / "census.json").read_bytes())
    assert {it["path"]: it["code"] for it in written["problems"]} == {
        "bad_encoding.py": "bad_encoding",
        "bad_null.py": "null_bytes",
        "bad_syntax.py": "syntax_error",
        "pkg/deep.py": "nested_too_deeply",
        "pkg/loop/": "link_loop",
        "pkg/sub/dangling.py": "dangling_link",
    }


def test_an_empty_folder_has_an_empty_census(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out = demo(tmp_path, tmp_path / "empty", crashes=2, json=True, seed=1)
    assert code == 0
    assert msgspec.json.decode(out, type=Receipt).files == 0


def test_a_second_demo_in_the_same_store_counts_only_itself(tmp_path: Path, source: Path) -> None:
    first, second = (demo(tmp_path, source, crashes=1, json=True, seed=2) for _ in range(2))
    assert (first[0], second[0]) == (0, 0)
    one, other = (msgspec.json.decode(out, type=Receipt) for _, out in (first, second))
    assert (one.jobs, one.steps, one.census_sha256) == (other.jobs, other.steps, other.census_sha256)


def test_people_see_what_happens_a_receipt_and_a_story(tmp_path: Path, source: Path) -> None:
    code, out = demo(tmp_path, source, crashes=1, seed=3)
    assert code == 0
    said = ["gate closed", "gate open after", "kill -9", "stalled", "resumed", "every promise held", "the story of"]
    places = [out.index(words) for words in said]
    assert places == sorted(places)
    assert str(tmp_path / "demo.db") in out
    assert "\x1b" not in out


@pytest.mark.slow
def test_the_standard_library_survives_five_crashes(tmp_path: Path) -> None:
    code, out = demo(tmp_path, None, crashes=5, json=True, seed=5)
    found = msgspec.json.decode(out, type=Receipt)
    assert code == 0
    assert found.crashes == 5
    assert found.files > 500
