"""What every page of the documentation keeps: links lead somewhere, snippets are Python, copies are copies."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import (
    EXAMPLES,
    PAGES,
    ROOT,
    Block,
    all_blocks,
    blocks,
    broken_links,
    imports_of,
    links,
    name_of,
    part_of,
)

PYTHON = all_blocks("python")
COPIES = [block for block in PYTHON if block.source is not None]
RUN = [block for block in PYTHON if "run" in block.info]
TOP_LEVEL_AWAIT = 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def by_name(page: Path) -> str:
    return name_of(page)


def missing_names(text: str) -> list[str]:
    """Names that a snippet imports from Relight and that are not there."""
    return [f"{m}.{n}" for m, n in imports_of(text) if not hasattr(importlib.import_module(m), n)]


def test_the_readme_is_at_most_150_lines_long() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_begins_with_one_title_and_its_lines_fit(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)) == 1
    assert text.endswith("\n")
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        places = (link.partition("#")[0] for link in links(page.read_text("utf-8")) if ":" not in link)
        ahead += [(page.parent / place).resolve() for place in places if place]
    assert sorted(map(name_of, set(PAGES) - seen)) == []


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_snippet_compiles_and_imports_what_is_there(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=TOP_LEVEL_AWAIT)
    assert missing_names(block.text) == []


@pytest.mark.parametrize("block", COPIES, ids=str)
def test_a_copied_snippet_equals_its_source(block: Block) -> None:
    assert block.source is not None
    assert block.text == part_of(*block.source)


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_snippet_marked_run_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "snippet.py"
    program.write_text(block.text, "utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_every_example() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [path.name for path in EXAMPLES if f"examples/{path.name}" not in text] == []


def test_every_page_that_a_message_names_is_there() -> None:
    sources = (path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = {name for text in sources for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text)}
    assert "docs/resources.md" in named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


class TestPlanted:
    def test_a_broken_link_is_found(self) -> None:
        page = ROOT / "docs" / "index.md"
        assert broken_links(page, "[a](nowhere.md) [b](index.md#nothing) `[c](d.md)`") == [
            "nowhere.md",
            "index.md#nothing",
        ]

    def test_a_snippet_that_imports_what_is_not_there_is_found(self) -> None:
        assert missing_names("from relight import Engine, Flow\n") == ["relight.Flow"]

    def test_a_copy_knows_its_source(self) -> None:
        (block,) = blocks("<!-- from examples/payment.py: charge -->\n```python\nx = 1\n```\n")
        assert block.source is not None
        assert block.text != part_of(*block.source)

    def test_a_fence_that_is_not_closed_is_found(self) -> None:
        with pytest.raises(AssertionError, match="not closed"):
            list(blocks("```python\n"))
