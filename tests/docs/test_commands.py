"""Every ``relight …`` line of the documentation names a command and options that there are."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest
from tests.docs.pages import PAGES, commands, fault_of, name_of

NAMED = [(page, line) for page in PAGES for line in commands(page.read_text("utf-8"))]


@click.group("relight")
def planted() -> None: ...


@planted.command("cancel")
@click.argument("job")
@click.option("--force", is_flag=True)
@click.option("--by")
def _cancel(job: str, force: bool, by: str) -> None: ...


def command_tree() -> click.Command:
    """The command line of Relight."""
    try:
        found = importlib.import_module("relight.cli.main").cli
    except ModuleNotFoundError:
        pytest.skip("relight.cli.main is not there")
    assert isinstance(found, click.Command)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_of_a_page_exists(page: Path) -> None:
    root = command_tree()
    faults = {line: fault_of(line, root) for where, line in NAMED if where == page}
    assert {line: fault for line, fault in faults.items() if fault} == {}


def test_the_documentation_names_commands() -> None:
    assert len(NAMED) > 20


def test_a_wrong_command_line_is_found() -> None:
    good = [
        "relight cancel JOB",
        "relight cancel JOB --force --by ben",
        "relight cancel --by=ben JOB",
        "relight --help",
    ]
    assert [fault_of(line, planted) for line in good] == [None] * 4
    bad = ["relight cancle JOB", "relight cancel JOB --forced", "relight cancel JOB NOW"]
    assert all(fault_of(line, planted) for line in bad)


def test_command_lines_are_found_in_blocks_and_spans() -> None:
    text = "Say `relight why JOB`, not `relight_why`.\n```console\n$ relight jobs  # all\nqueued\n```\n"
    assert commands(text) == ["relight jobs", "relight why JOB"]
