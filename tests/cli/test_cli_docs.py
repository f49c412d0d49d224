"""The reference says what the commands say of themselves, and leaves none out."""

from __future__ import annotations

import re

import click
import pytest
from tests.cli.reference import HELP, PAGE, brought_up_to_date, commands, exits, help_of

from relight.cli.later import LATER
from relight.cli.main import cli

ROOT = PAGE.parents[1]
NAMES = [path for path, _ in commands()]


def test_the_reference_is_up_to_date() -> None:
    page = PAGE.read_text("utf-8")
    assert brought_up_to_date(page) == page, "run: .venv/bin/python -m tests.cli.reference"


def test_the_reference_names_every_command_and_exit_code() -> None:
    page = PAGE.read_text("utf-8")
    assert sorted(found[2].strip() for found in HELP.finditer(page)) == sorted(NAMES)
    for code in exits():
        assert f"| {code} |" in page


@pytest.mark.parametrize(("path", "command"), list(commands()), ids=NAMES)
def test_every_command_and_option_says_what_it_is_for(path: str, command: object) -> None:
    text = help_of(path, command)  # type: ignore[arg-type]
    for parameter in command.params:  # type: ignore[attr-defined]
        assert parameter.param_type_name == "argument" or parameter.help, f"{path} {parameter.name}"
    assert not [line for line in text.splitlines()[1:] if line.endswith("...")], "a first sentence is too long"
    assert max(len(line) for line in text.splitlines()) <= 100


def commands_in(text: str) -> set[str]:
    """Return what is quoted as a command: ``relight`` and the words after it, in code spans and code blocks."""
    spans = re.findall(r"`(relight [^`\n]+)`", text)
    blocks = re.findall(r"```(?:text|bash|console|sh|)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return {*spans, *(line for line in lines if line.startswith("relight "))}


QUOTED = sorted(
    (str(path.relative_to(ROOT)), command)
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if path != PAGE
    for command in commands_in(path.read_text("utf-8"))
)


@pytest.mark.parametrize(("page", "command"), QUOTED)
def test_every_command_quoted_in_the_docs_is_one(page: str, command: str) -> None:
    name, *more = command.removeprefix("relight ").split()
    if name in LATER or name.startswith("-"):
        return
    found = cli.commands.get(name.strip(".,"))
    assert found is not None, f"{page}: {command}"
    options = {option for parameter in found.params for option in parameter.opts} | {"--help"}
    if isinstance(found, click.Group) and more and not more[0].startswith("-"):
        inner = found.commands.get(more[0])
        assert inner is not None, f"{page}: {command}"
        options |= {option for parameter in inner.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in more if word.startswith("--")} <= options, f"{page}: {command}"
