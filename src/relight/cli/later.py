"""Commands that are named in the design and not in this version: each says so, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import click

from relight.errors import InvalidArgument

LATER: Final[Mapping[str, str]] = {
    "bundle": "relight show, why and events --json give what it would hold",
    "serve": "relight jobs, show, why and events look into a store",
    "sql": "relight jobs and events print JSON for any tool",
}
"""By name: what to do instead."""


def not_in_this_version(what: str, instead: str) -> InvalidArgument:
    """Return the error for something that comes later."""
    return InvalidArgument(f"relight {what} is not in this version: {instead}", not_in_this_version=what)


class WithLater(click.Group):
    """A group of commands some of which come later: hidden from its help, and named when they are asked for."""

    later: ClassVar[Mapping[str, str]] = {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command. Raises ``InvalidArgument`` for one that comes later."""
        if cmd_name in self.later:
            raise not_in_this_version(
                f"{ctx.command_path.removeprefix('relight').strip()} {cmd_name}".strip(), self.later[cmd_name]
            )
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added."""
        return list(self.commands)


def with_later(**later: str) -> type[WithLater]:
    """Return a class of groups with these commands yet to come."""
    more: dict[str, Any] = {"later": later}
    return type("WithLater", (WithLater,), more)
