"""The style rules that a machine can see. Each is also shown a planted offence, so it is known to catch one."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import pytest
from tests.style import offenders
from tests.style.offenders import (
    EVERYWHERE,
    EXCUSED_SIZES,
    FILE_END_LINES,
    FUNCTION_END_LINES,
    SHIPPED,
    Offence,
    Source,
    python_files,
    sql_files,
)


def assert_none(offences: Iterable[Offence]) -> None:
    found = sorted(offences)
    if found:
        pytest.fail("\n".join(map(str, found)), pytrace=False)


def planted(text: str) -> Source:
    return Source("planted.py", text)


def function_of(lines: int, *, docstring_lines: int = 0) -> Source:
    docstring = ['    """First.', *["    more"] * (docstring_lines - 2), '    """'] if docstring_lines else []
    return planted("\n".join(["def f():", *docstring, *["    x = 1"] * (lines - 1)]) + "\n")


def past_end(source: Source) -> list[tuple[str, Offence]]:
    return list(offenders.sizes(source, function_lines=FUNCTION_END_LINES, file_lines=FILE_END_LINES))


class TestTheProject:
    def test_no_function_or_file_is_longer_than_the_end(self) -> None:
        found = [pair for source in python_files(*EVERYWHERE) for pair in past_end(source)]
        assert_none(offence for name, offence in found if name not in EXCUSED_SIZES)

    def test_every_excuse_for_a_size_is_needed(self) -> None:
        found = {name for source in python_files(*EVERYWHERE) for name, _ in past_end(source)}
        assert set(EXCUSED_SIZES) <= found

    def test_every_broad_except_is_a_named_boundary(self) -> None:
        assert_none(o for source in python_files(*SHIPPED) for o in offenders.broad_excepts(source))

    def test_nothing_unpickles_or_evaluates(self) -> None:
        assert_none(o for source in python_files(*SHIPPED) for o in offenders.unsafe_code(source))

    def test_core_is_pure(self) -> None:
        sources = list(python_files("src/relight/core"))
        assert sources, "core has moved?"
        assert_none(o for source in sources for o in offenders.impurities(source))

    def test_no_test_sleeps(self) -> None:
        assert_none(o for source in python_files("tests") for o in offenders.sleeps(source))

    def test_names_use_the_words_of_the_glossary(self) -> None:
        in_python = [o for source in python_files("src") for o in offenders.unsaid_words(source)]
        in_sql = [o for source in sql_files("src") for o in offenders.unsaid_sql_words(source)]
        assert_none(in_python + in_sql)


class TestSizes:
    def test_a_function_of_exactly_the_end_passes_and_one_line_more_does_not(self) -> None:
        assert past_end(function_of(FUNCTION_END_LINES)) == []
        [(name, offence)] = past_end(function_of(FUNCTION_END_LINES + 1))
        assert name == "planted.py:f"
        assert str(offence) == f"planted.py:1 f has {FUNCTION_END_LINES + 1} lines"

    def test_a_docstring_does_not_make_a_function_long(self) -> None:
        assert past_end(function_of(FUNCTION_END_LINES, docstring_lines=30)) == []
        assert past_end(function_of(FUNCTION_END_LINES + 1, docstring_lines=30)) != []

    def test_a_file_of_exactly_the_end_passes_and_one_line_more_does_not(self) -> None:
        assert past_end(planted("x = 1\n" * FILE_END_LINES)) == []
        assert [name for name, _ in past_end(planted("x = 1\n" * (FILE_END_LINES + 1)))] == ["planted.py"]


BROAD = ["except:", "except Exception:", "except BaseException as e:", "except (ValueError, Exception):"]


class TestBroadExcepts:
    @pytest.mark.parametrize("handler", [*BROAD, "except builtins.Exception:"])
    def test_one_without_a_reason_is_found(self, handler: str) -> None:
        [offence] = offenders.broad_excepts(planted(f"try:\n    f()\n{handler}\n    pass\n"))
        assert offence.line == 3

    @pytest.mark.parametrize("handler", BROAD)
    def test_one_with_a_reason_near_it_passes(self, handler: str) -> None:
        for text in (
            f"try:\n    f()\n{handler}  # boundary: user code\n    pass\n",
            f"try:\n    f()\n# boundary: user code\n# raises what it likes\n{handler}\n    pass\n",
            f"try:\n    f()\n{handler}\n    # boundary: user code\n    pass\n",
        ):
            assert not list(offenders.broad_excepts(planted(text)))

    def test_a_reason_further_off_or_outside_a_comment_does_not_count(self) -> None:
        far = "# boundary: user code\ntry:\n    f()\n    g()\nexcept Exception:\n    pass\n"
        text = "try:\n    f()\nexcept Exception:\n    log('boundary: user code')\n"
        assert list(offenders.broad_excepts(planted(far)))
        assert list(offenders.broad_excepts(planted(text)))

    def test_suppress_counts_as_a_handler(self) -> None:
        assert list(offenders.broad_excepts(planted("with contextlib.suppress(Exception):\n    f()\n")))
        assert not list(offenders.broad_excepts(planted("with suppress(OSError):\n    f()\n")))

    def test_a_narrow_one_passes(self) -> None:
        assert not list(offenders.broad_excepts(planted("try:\n    f()\nexcept (OSError, ValueError):\n    pass\n")))


class TestUnsafeCode:
    @pytest.mark.parametrize(
        "text",
        [
            "import pickle",
            "from pickle import loads",
            "import os, marshal",
            "def f(): import dill",
            "eval(x)",
            "exec(x)",
        ],
    )
    def test_it_is_found(self, text: str) -> None:
        assert len(list(offenders.unsafe_code(planted(text)))) == 1

    def test_methods_with_such_names_pass(self) -> None:
        assert not list(offenders.unsafe_code(planted("model.eval()\nfrom msgspec import json\n")))


class TestPurity:
    @pytest.mark.parametrize("module", sorted(offenders.IMPURE_MODULES))
    def test_each_impure_module_is_found_wherever_it_is_imported(self, module: str) -> None:
        for text in (f"import {module}", f"from {module} import x", f"def f():\n    import {module}.sub as y"):
            assert len(list(offenders.impurities(planted(text)))) == 1

    @pytest.mark.parametrize("text", ["datetime.now(UTC)", "datetime.datetime.utcnow()", "date.today()", "open('x')"])
    def test_a_clock_read_and_io_are_found(self, text: str) -> None:
        assert len(list(offenders.impurities(planted(text)))) == 1

    def test_time_passed_in_is_fine(self) -> None:
        text = "from datetime import datetime\nfrom relight.clock import Clock\nclock.now_ms()\nself.now()\n"
        assert not list(offenders.impurities(planted(text)))


class TestSleeps:
    FOUND = ("time.sleep(1)", "await_(asyncio.sleep(0.1))", "time.sleep(n)")  # sleep-ok: text to be found

    @pytest.mark.parametrize("text", FOUND)
    def test_one_is_found(self, text: str) -> None:
        assert len(list(offenders.sleeps(planted(text)))) == 1

    @pytest.mark.parametrize("text", ["asyncio.sleep(0)", "time.sleep(1)  # sleep-ok: a real signal", "job.sleep(3)"])
    def test_what_does_not_wait_or_says_why_passes(self, text: str) -> None:
        assert not list(offenders.sleeps(planted(text)))


class TestGlossary:
    @pytest.mark.parametrize(
        "text",
        ["class TaskStore: ...", "def reap_runs(): ...", "def f(dag): ...", "def is_stuck(): ...", "tasks: int = 1"],
    )
    def test_an_unsaid_word_is_found_in_a_name(self, text: str) -> None:
        assert len(list(offenders.unsaid_words(planted(text)))) == 1

    def test_the_words_of_asyncio_pass_where_asyncio_is_used(self) -> None:
        assert not list(offenders.unsaid_words(planted("import asyncio\ndef make_task(executor): ...\n")))
        assert list(offenders.unsaid_words(planted("import asyncio\ndef make_dag(): ...\n")))

    def test_fields_of_the_source_specification_and_reasoned_lines_pass(self) -> None:
        text = "task_schema_version: int = 1\ndef lane(): ...  # word-ok: a road has lanes\n"
        assert not list(offenders.unsaid_words(planted(text)))

    def test_sql_is_read_without_its_comments_and_texts(self) -> None:
        assert list(offenders.unsaid_sql_words(planted("SELECT task_id FROM jobs")))
        assert not list(offenders.unsaid_sql_words(planted("SELECT 'task' FROM jobs -- not a task")))


def test_sources_are_read_from_the_checkout() -> None:
    paths = {source.path for source in python_files(*EVERYWHERE)}
    assert {"src/relight/errors.py", "tests/style/offenders.py"} <= paths
    for source in python_files("src"):
        assert isinstance(source.tree, ast.Module)
