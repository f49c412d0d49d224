"""The merged census and its two written forms."""

from __future__ import annotations

import json
import os
import random
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from relight.cli.demo import report
from relight.cli.demo.facts import FileFacts, Longest, Outcome, Problem, analyse_source
from relight.cli.demo.report import (
    Census,
    PartFacts,
    merge_census,
    merge_part,
    render_html,
    render_json,
    write_atomically,
)


def file(path: str = "a.py", **given: object) -> FileFacts:
    values = {
        "lines": 10,
        "functions": 2,
        "classes": 1,
        "documentable": 4,
        "documented": 1,
        "longest": None,
        "imports": [],
    }
    return FileFacts(path=path, **(values | given))  # type: ignore[arg-type]


def bad(path: str = "bad.py") -> Problem:
    return Problem(path, "syntax_error", "line 1: invalid syntax")


PARTS = [
    PartFacts([file("pkg/b.py", longest=Longest("B.run", 3, 40), imports=["os", "sys"])], [bad("pkg/sub/bad.py")]),
    PartFacts([file("z.py", imports=["os"]), file("a.py", longest=Longest("go", 1, 99))], []),
    PartFacts([file("pkg/a.py", documented=4)], [bad("pkg/link/")]),
]


def test_a_part_holds_facts_and_all_problems_sorted() -> None:
    part = merge_part([Outcome(facts=file("b.py")), Outcome(problem=bad("z.py")), Outcome(facts=file())], [bad("m.py")])
    assert [it.path for it in part.files] == ["b.py", "a.py"]
    assert [it.path for it in part.problems] == ["m.py", "z.py"]


def test_a_census_sums_and_sorts() -> None:
    census = merge_census("src", PARTS)
    assert msgspec.structs.asdict(census.totals) == {
        "files": 4,
        "problems": 2,
        "lines": 40,
        "functions": 8,
        "classes": 4,
        "documentable": 16,
        "documented": 7,
        "docstring_percent": 43.8,
    }
    assert [it.path for it in census.files] == ["a.py", "pkg/a.py", "pkg/b.py", "z.py"]
    assert [(it.top, it.totals.files, it.totals.problems) for it in census.tops] == [
        ("a*.py", 1, 0),
        ("pkg/", 2, 2),
        ("z*.py", 1, 0),
    ]
    assert [(it.name, it.path) for it in census.longest_functions] == [("go", "a.py"), ("B.run", "pkg/b.py")]
    assert [(it.module, it.files) for it in census.imports] == [("os", 2), ("sys", 1)]


def test_the_cut_into_jobs_and_their_order_leave_no_trace() -> None:
    whole = render_json(merge_census("src", PARTS))
    rng = random.Random(3)
    for _ in range(20):
        files = [it for part in PARTS for it in part.files]
        problems = [it for part in PARTS for it in part.problems]
        rng.shuffle(files)
        rng.shuffle(problems)
        cut = rng.randrange(len(files))
        parts = [PartFacts(files[:cut], problems), PartFacts(files[cut:], [])]
        assert render_json(merge_census("src", parts)) == whole
        assert render_html(merge_census("src", parts)) == render_html(merge_census("src", PARTS))


def test_census_json_is_plain_sorted_json_that_reads_back() -> None:
    census = merge_census("src", PARTS)
    data = render_json(census)
    assert msgspec.json.decode(data, type=Census) == census
    assert data.endswith(b"}\n")
    plain = json.loads(data)
    assert list(plain) == ["format", "folder", "totals", "tops", "longest_functions", "imports", "problems", "files"]
    assert plain["problems"][0] == {"path": "pkg/link/", "code": "syntax_error", "detail": "line 1: invalid syntax"}


def test_an_empty_census_is_valid() -> None:
    census = merge_census("empty", [])
    assert census.totals.files == 0
    assert census.totals.docstring_percent == 0.0
    assert msgspec.json.decode(render_json(census), type=Census) == census
    assert page_errors(render_html(census)) == []


class _Page(HTMLParser):
    """Checks that what is opened is closed, in order."""

    void = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.errors: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.errors += [f"{tag} has {name}" for name, _ in attrs if name in ("src", "href", "onclick")]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: bytes) -> _Page:
    parser = _Page()
    parser.feed(page.decode())
    parser.close()
    return parser


def page_errors(page: bytes) -> list[str]:
    parser = parsed(page)
    return parser.errors + [f"<{tag}> is not closed" for tag in parser.open]


def test_the_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    page = render_html(merge_census("src", PARTS))
    assert page_errors(page) == []
    assert b"http" not in page
    text = parsed(page).text
    assert all(shown in text for shown in ("Census of src", "B.run", "pkg/b.py:3", "line 1: invalid syntax", "43.8 %"))


def test_names_cannot_break_out_of_the_page() -> None:
    wicked = "<script>alert('$folder')</script>&\n\u202e\x1b[2J.py"
    page = render_html(merge_census(wicked, [PartFacts([file(wicked)], [bad(wicked)])]))
    assert page_errors(page) == []
    assert b"<script" not in page
    assert b"\x1b" not in page
    assert "\u202e".encode() not in page
    assert "\\n\\u202e\\x1b[2J.py" in parsed(page).text


def test_what_the_analysis_gives_can_be_merged_and_stored() -> None:
    outcomes = [analyse_source("a.py", b"import os\n\ndef f(): pass\n"), analyse_source("b.py", b"def\n")]
    part = merge_part(outcomes, [])
    assert msgspec.json.decode(msgspec.json.encode(part), type=PartFacts) == part
    assert merge_census("x", [part]).totals.problems == 1


# ---------------------------------------------------------------- writing


def test_a_file_is_replaced_whole_and_nothing_is_left_over(tmp_path: Path) -> None:
    place = tmp_path / "new" / "census.json"
    for data in (b"long" * 1000, b"short"):
        write_atomically(place, data)
        assert place.read_bytes() == data
    assert os.listdir(place.parent) == ["census.json"]


def test_a_write_that_is_cut_off_leaves_the_old_file_and_the_next_one_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "census.json"
    write_atomically(place, b"old")

    def cut_off(*names: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(report.os, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(place, b"new and longer")
    assert place.read_bytes() == b"old"
    write_atomically(place, b"newer")
    assert place.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["census.json"]
