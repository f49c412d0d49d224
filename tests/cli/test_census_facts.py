"""What one file says, which files are counted, and how they are cut into jobs. Bad input is the larger part of it."""

from __future__ import annotations

import ast
import encodings.aliases
import os
import random
import sys
import threading
import warnings
from pathlib import Path

import msgspec
import pytest

from relight.cli.demo import facts
from relight.cli.demo.facts import FileFacts, Longest, Outcome, analyse_file, analyse_source
from relight.cli.demo.listing import (
    FILES_PER_JOB,
    Group,
    checked_folder,
    list_tree,
    plan_groups,
    standard_library,
    top_of,
)
from relight.errors import InvalidArgument


def counted(source: str | bytes) -> FileFacts:
    data = source.encode() if isinstance(source, str) else source
    outcome = analyse_source("x.py", data)
    assert outcome.problem is None, outcome.problem
    assert outcome.facts is not None
    return outcome.facts


def problem(outcome: Outcome) -> tuple[str, str]:
    assert outcome.facts is None
    assert outcome.problem is not None
    return outcome.problem.code, outcome.problem.detail


def write(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


# ---------------------------------------------------------------- facts


SOURCE = '''"""A module."""
import os, os.path as p
from json import decoder
from . import near
from ..far import thing

class Car:
    """Documented."""

    @property
    def speed(self):
        return 1

    class Wheel:
        async def turn(self):
            """Documented."""
            def inner():
                pass
            return inner

if os.name:
    def outside(): pass
else:
    try:
        import sys
    except ImportError:
        def handler(): pass
    finally:
        class Late: pass

match 1:
    case 1:
        import cases

key = lambda: 0
'''


def test_definitions_are_counted_wherever_they_stand() -> None:
    assert counted(SOURCE) == FileFacts(
        path="x.py",
        lines=35,
        functions=5,
        classes=3,
        documentable=9,
        documented=3,
        longest=Longest("Car.Wheel.turn", 15, 5),
        imports=[".", "cases", "json", "os", "sys"],
    )


def test_an_empty_file_is_a_module_without_a_docstring() -> None:
    assert counted("") == FileFacts("x.py", 0, 0, 0, 1, 0, None, [])


@pytest.mark.parametrize(
    ("source", "lines"),
    [("a=1", 1), ("a=1\n", 1), ("a=1\nb=2", 2), ("\n\n", 2), ("a=1\r\nb=2\r\n", 2), ("a=1\rb=2\r", 2), ("a='\f'\n", 1)],
)
def test_lines_are_counted_for_every_kind_of_line_end(source: str, lines: int) -> None:
    assert counted(source).lines == lines


def test_of_functions_of_equal_length_the_first_is_the_longest() -> None:
    assert counted("def b(): pass\ndef a(): pass\n").longest == Longest("b", 1, 1)


def test_a_byte_string_or_an_f_string_is_no_docstring() -> None:
    assert counted("b'no'\n").documented == 0
    assert counted("f'no'\n").documented == 0


def test_decorators_do_not_lengthen_a_function() -> None:
    assert counted("@a\n@b\ndef f(): pass\n").longest == Longest("f", 3, 1)


def test_a_thousand_elifs_are_counted_without_recursion() -> None:
    chain = "if x: pass\n" + "".join(f"elif x == {n}: pass\n" for n in range(600)) + "else:\n  def last(): pass\n"
    assert counted(chain).functions == 1


def test_facts_agree_with_a_plain_walk_over_the_whole_tree() -> None:
    for name in ("json/decoder.py", "typing.py", "asyncio/tasks.py", "dataclasses.py", "ast.py"):
        data = (standard_library() / name).read_bytes()
        found = counted(data)
        nodes = list(ast.walk(ast.parse(data)))
        assert found.functions == sum(isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef) for it in nodes)
        assert found.classes == sum(isinstance(it, ast.ClassDef) for it in nodes)
        modules = {alias.name.split(".")[0] for it in nodes if isinstance(it, ast.Import) for alias in it.names}
        for it in nodes:
            if isinstance(it, ast.ImportFrom):
                modules.add("." if it.level else (it.module or "").split(".")[0])
        assert set(found.imports) == modules


# ---------------------------------------------------------------- encodings


def test_a_coding_cookie_is_honoured() -> None:
    assert counted("# -*- coding: latin-1 -*-\nname = 'Zoë'\ndef é(): pass\n".encode("latin-1")).longest == Longest(
        "é", 3, 1
    )


def test_a_byte_order_mark_is_honoured() -> None:
    assert counted(b"\xef\xbb\xbfdef f(): pass\n").functions == 1


@pytest.mark.parametrize(
    "data",
    [
        b"name = 'Zo\xeb'\n",
        b"# coding: no-such-codec\n",
        b"\xef\xbb\xbf# coding: latin-1\n",
        b"# coding: ascii\nname = 'Zo\xeb'\n",
        b"# coding: hex\n6162\n",
        b"# coding: undefined\n",
        b"# coding: idna\nname = '\xeb'\n",
    ],
)
def test_a_wrong_encoding_is_a_problem(data: bytes) -> None:
    assert problem(analyse_source("x.py", data))[0] == "bad_encoding"


def test_no_codec_and_no_bytes_make_it_raise() -> None:
    rng = random.Random(7)
    codecs = sorted({*encodings.aliases.aliases.values(), "utf-8", "utf-7", "punycode", "unicode_escape", "idna"})
    for codec in codecs:
        for size in (0, 3, 40, 200):
            data = f"# coding: {codec}\n".encode() + rng.randbytes(size).replace(b"\0", b"?")
            outcome = analyse_source("x.py", data)
            assert (outcome.facts is None) != (outcome.problem is None)
            assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome


# ---------------------------------------------------------------- bad source


def test_a_syntax_error_is_a_problem_with_its_line() -> None:
    code, detail = problem(analyse_source("x.py", b"a = 1\ndef\n"))
    assert (code, detail[:8]) == ("syntax_error", "line 2: ")


@pytest.mark.parametrize(
    "source", ["  a = 1\n", "if x:\npass\n", "if x:\n\ta\n        b\n", "print 'x'\n", "x = 1" + "9" * 5000]
)
def test_other_source_that_does_not_parse_is_a_problem(source: str) -> None:
    assert problem(analyse_source("x.py", source.encode()))[0] == "syntax_error"


def test_null_bytes_are_a_problem_with_their_place() -> None:
    assert problem(analyse_source("x.py", b"a = 1\n\0")) == ("null_bytes", "a null byte at offset 6")
    assert problem(analyse_source("x.py", "a = 1\n".encode("utf-16")))[0] == "null_bytes"


def test_what_cannot_be_utf_8_inside_is_a_problem() -> None:
    assert problem(analyse_source("x.py", b"# coding: unicode_escape\nx = '\\ud800'\n"))[0] == "syntax_error"


@pytest.mark.parametrize(
    "source", ["-" * 50_000 + "1", "x" + ".y" * 50_000, "not " * 50_000 + "1", "1" + "+1" * 50_000, "f" + "()" * 50_000]
)
def test_source_nested_too_deeply_is_a_problem(source: str) -> None:
    assert problem(analyse_source("x.py", source.encode()))[0] in ("nested_too_deeply", "syntax_error")


def test_the_answer_does_not_depend_on_how_deep_the_caller_stands() -> None:
    def deeper(frames: int, data: bytes) -> Outcome:
        return deeper(frames - 1, data) if frames else analyse_source("x.py", data)

    for terms in (500, *range(2_000, 3_200, 100)):
        data = ("1" + "+1" * terms).encode()
        here = analyse_source("x.py", data)
        assert deeper(sys.getrecursionlimit() // 2, data) == here
        elsewhere: list[Outcome] = []
        thread = threading.Thread(target=lambda data=data, into=elsewhere: into.append(analyse_source("x.py", data)))
        thread.start()
        thread.join()
        assert elsewhere == [here]


def test_warnings_of_the_source_are_neither_shown_nor_turned_into_errors() -> None:
    source = "x = '\\d'\nassert (x, 'always true')\ny = x is 1\n"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert counted(source).lines == 3
    assert seen == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counted(source).lines == 3
        filters = list(warnings.filters)
        threads = [threading.Thread(target=counted, args=(source,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == filters


# ---------------------------------------------------------------- bad files


def test_a_file_that_is_too_large_is_named_and_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "MAX_BYTES", 100)
    write(tmp_path, fits="#" * 100, large="#" * 101)
    assert analyse_file(str(tmp_path), "fits.py").problem is None
    assert problem(analyse_file(str(tmp_path), "large.py"))[0] == "too_large"


def test_a_file_that_vanished_is_a_problem_without_an_absolute_path(tmp_path: Path) -> None:
    assert problem(analyse_file(str(tmp_path), "gone.py")) == ("vanished", "No such file or directory")
    write(tmp_path, a="")
    assert problem(analyse_file(str(tmp_path), "a.py/gone.py"))[0] == "vanished"


def test_a_pipe_is_no_file_and_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    assert problem(analyse_file(str(tmp_path), "pipe.py"))[0] == "not_a_file"
    assert [it.code for it in list_tree(str(tmp_path)).problems] == ["not_a_file"]


def test_a_folder_in_place_of_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.py").mkdir()
    assert problem(analyse_file(str(tmp_path), "a.py"))[0] == "not_a_file"


def test_an_unreadable_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied", "/secret/place")

    monkeypatch.setattr(facts.os, "open", refuse)
    assert problem(analyse_file(str(tmp_path), "a.py")) == ("unreadable", "Permission denied")


# ---------------------------------------------------------------- listing


def test_a_listing_is_sorted_and_leaves_out_what_is_no_source_of_ours(tmp_path: Path) -> None:
    write(tmp_path, z="", a="", pkg__b="", pkg__sub__c="")
    left_out = ("site-packages", "dist-packages", "__pycache__", ".venv", "pkg/__pycache__", "pkg/site-packages")
    for folder in left_out:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "no.py").touch()
    (tmp_path / "readme.txt").touch()
    (tmp_path / "upper.PY").touch()
    listing = list_tree(str(tmp_path))
    assert listing.files == ["a.py", "pkg/b.py", "pkg/sub/c.py", "z.py"]
    assert listing.problems == []


def test_links_to_files_are_read_and_links_to_folders_are_named(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    home = tmp_path / "home"
    write(outside, target="def f(): pass\n")
    write(home, pkg__real="")
    (home / "file.py").symlink_to(outside / "target.py")
    (home / "folder").symlink_to(outside)
    (home / "__pycache__").symlink_to(outside)
    (home / "pkg" / "up").symlink_to("..")
    (home / "pkg" / "here").symlink_to(".")
    (home / "dangling.py").symlink_to("nowhere.py")
    (home / "nowhere").symlink_to("no-source-of-ours")
    (home / "self.py").symlink_to("self.py")
    (home / "ping").symlink_to("pong")
    (home / "pong").symlink_to("ping")
    listing = list_tree(str(home))
    assert listing.files == ["file.py", "pkg/real.py"]
    assert {it.path: it.code for it in listing.problems} == {
        "folder/": "linked_folder",
        "pkg/up/": "link_loop",
        "pkg/here/": "link_loop",
        "dangling.py": "dangling_link",
        "self.py": "link_loop",
        "ping": "link_loop",
        "pong": "link_loop",
    }
    assert analyse_file(str(home), "file.py").facts is not None


def test_a_name_that_is_no_utf_8_is_a_problem(tmp_path: Path) -> None:
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/pkg\xff")
        with open(os.fsencode(tmp_path) + b"/bad\xff.py", "w"), open(os.fsencode(tmp_path) + b"/bad\xff.txt", "w"):
            pass
    except OSError:
        pytest.skip("this file system refuses such names")
    listing = list_tree(str(tmp_path))
    assert [(it.path, it.code) for it in listing.problems] == [("bad\\xff.py", "bad_name"), ("pkg\\xff/", "bad_name")]
    assert [list_tree(str(tmp_path), group).problems for group in plan_groups(listing)] == [
        [it] for it in listing.problems
    ]


def test_strange_names_are_files_like_any_other(tmp_path: Path) -> None:
    names = sorted(["a b.py", "line\nfeed.py", "[x].py", "é.py", "*.py", "'\"<&>.py", "x" * 200 + ".py", ".hidden.py"])
    for name in names:
        (tmp_path / name).write_text("x = 1\n")
    listing = list_tree(str(tmp_path))
    assert listing.files == names
    assert all(analyse_file(str(tmp_path), name).facts for name in names)
    assert sorted(path for group in plan_groups(listing) for path in list_tree(str(tmp_path), group).files) == names


def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, pkg__a="", other__b="")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("pkg/"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("relight.cli.demo.listing.os.scandir", refuse)
    listing = list_tree(str(tmp_path))
    assert listing.files == ["other/b.py"]
    assert [(it.path, it.code, it.detail) for it in listing.problems] == [("pkg/", "unreadable", "Permission denied")]
    assert list_tree(str(tmp_path), Group("pkg/")).problems == listing.problems


def test_the_standard_library_is_found_and_cut_into_some_dozens_of_jobs() -> None:
    listing = list_tree(str(standard_library()))
    groups = plan_groups(listing)
    assert len(listing.files) > 500
    assert not any("site-packages" in path for path in listing.files)
    assert 24 < len(groups) < 150


# ---------------------------------------------------------------- groups


def test_the_groups_of_a_listing_hold_every_path_once(tmp_path: Path) -> None:
    for number in range(2 * FILES_PER_JOB + 1):
        write(tmp_path, **{f"large__m{number}": ""})
    write(tmp_path, a="", Abc="", b="", small__c="", small__deep__d="")
    (tmp_path / "loop.py").symlink_to("loop.py")
    listing = list_tree(str(tmp_path))
    groups = plan_groups(listing)
    assert [it.label for it in groups[:3]] == ["large/ 1 of 3", "large/ 2 of 3", "large/ 3 of 3"]
    assert {it.label for it in groups[3:]} == {"a*.py", "small/", "b*.py", "l*.py"}
    parts = [list_tree(str(tmp_path), group) for group in groups]
    assert sorted(path for part in parts for path in part.files) == listing.files
    assert sorted(it for part in parts for it in part.problems) == listing.problems
    assert all(part.files or part.problems for part in parts)


def test_a_file_that_vanishes_moves_no_other_file_to_another_job(tmp_path: Path) -> None:
    for number in range(2 * FILES_PER_JOB):
        write(tmp_path, **{f"large__m{number}": ""})
    before = {path: group for group in plan_groups(list_tree(str(tmp_path))) for path in _files(tmp_path, group)}
    (tmp_path / "large" / "m7.py").unlink()
    after = {path: group for group in set(before.values()) for path in _files(tmp_path, group)}
    assert after == {path: group for path, group in before.items() if path != "large/m7.py"}


def _files(folder: Path, group: Group) -> list[str]:
    return list_tree(str(folder), group).files


def test_tops_are_packages_and_first_letters() -> None:
    assert [top_of(it) for it in ("json/decoder.py", "json/", "abc.py", "Abc.py", "_a.py", "é.py")] == [
        "json/",
        "json/",
        "a*.py",
        "a*.py",
        "_*.py",
        "é*.py",
    ]


def test_an_empty_folder_has_no_files_and_no_groups(tmp_path: Path) -> None:
    listing = list_tree(str(tmp_path))
    assert (listing.files, listing.problems, plan_groups(listing)) == ([], [], [])


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    write(tmp_path, file="")
    for wrong in (tmp_path / "missing", tmp_path / "file.py"):
        with pytest.raises(InvalidArgument, match="name a folder of Python source"):
            checked_folder(wrong)
    ill_named = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        checked_folder(Path(ill_named))
    assert checked_folder(tmp_path) == tmp_path
