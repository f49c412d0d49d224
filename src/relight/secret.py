"""Secrets as references: what is stored is the name of the place, never the value.

Owns ``Secret``. A job whose input is a secret must run again on another machine after a crash, so the secret itself
may neither be lost nor be written down: the record says ``{"$secret": "env:LLM_API_KEY"}`` and each step that needs
the value looks it up where it runs. Read next: ``codec/``.
"""

from __future__ import annotations

import os
from pathlib import Path

from relight.errors import ConfigError, NotSerializable

_SHOWN = 3


class Secret:
    """Name the place of a secret: ``"env:NAME"`` (environment variable) or ``"file:/run/secrets/x"`` (absolute path).

    Two secrets are equal when they name the same place. ``repr`` shows the place, never the value.
    Raises ``NotSerializable`` when given anything but such a name: a literal would be lost at a restart.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        scheme, _, place = name.partition(":")
        if not place or scheme not in ("env", "file") or (scheme == "file" and not Path(place).is_absolute()):
            raise NotSerializable(_why_not(name, scheme, place))
        self.name = name

    def reveal(self) -> str:
        """Look the value up now, on this machine; a file's trailing line break is dropped.

        Call it inside a step. Raises ``ConfigError`` when the variable is not set or the file cannot be read.
        """
        scheme, _, place = self.name.partition(":")
        if scheme == "env":
            value = os.environ.get(place)
            if value is None:
                raise ConfigError(f"{self!r}: the environment variable {place} is not set here; set it and retry")
            return value
        try:
            return Path(place).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self!r} cannot be read here: {error}") from error

    def __repr__(self) -> str:
        return f'Secret("{self.name}")'

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self.name))


def _why_not(name: str, scheme: str, place: str) -> str:
    if scheme == "env":
        return 'Secret("env:") names no variable. Name its place: Secret("env:LLM_API_KEY")'
    if scheme == "file":
        return f'Secret("file:{place}") must be an absolute path: Secret("file:/run/secrets/x")'
    # A short literal would be shown whole, so it is not shown at all.
    shown = name[:_SHOWN] if len(name) >= 4 * _SHOWN else ""
    return f'Secret("{shown}…") would be lost at a restart. Name its place: Secret("env:LLM_API_KEY")'
