"""``docs/cli.md`` quotes the ``--help`` of every command; ``python -m tests.cli.reference`` brings it up to date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from relight.cli.exit_codes import WORTH, Exit
from relight.cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HELP = re.compile(r"(<!-- help: (relight[a-z -]*) -->\n)```text\n.*?```\n", re.DOTALL)
ERRORS = re.compile(r"(<!-- errors -->\n).*?(<!-- end -->\n)", re.DOTALL)


def commands(group: click.Group = cli, path: str = "relight") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with the words that start it, groups first."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def help_of(path: str, command: click.Command) -> str:
    """Return what ``--help`` prints."""
    *before, last = path.split()
    context = None
    for word in before:
        context = click.Context(cli, info_name=word, parent=context, **cli.context_settings)
    return command.get_help(click.Context(command, info_name=last, parent=context, **cli.context_settings))


def errors_table() -> str:
    """Return the table of errors."""
    rows = sorted((getattr(cls, "code", cls.__name__), worth) for cls, worth in WORTH.items())
    lines = [f"| `{code}` | {int(worth.exit)} | {worth.http} |\n" for code, worth in rows]
    return "| error | exit code | HTTP status |\n|---|---|---|\n" + "".join(lines)


def exits() -> list[int]:
    """Return every exit code there is."""
    return [int(code) for code in Exit]


def brought_up_to_date(page: str) -> str:
    """Return the page with the help of each command that it quotes, and the table of errors, as they are now."""
    known = {path: help_of(path, command) for path, command in commands()}
    page = HELP.sub(lambda m: f"{m[1]}```text\n{known[m[2].strip()]}\n```\n", page)
    return ERRORS.sub(lambda m: m[1] + errors_table() + m[2], page)


if __name__ == "__main__":
    PAGE.write_text(brought_up_to_date(PAGE.read_text("utf-8")), "utf-8")
