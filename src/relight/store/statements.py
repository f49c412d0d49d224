"""Named SQL: ``.sql`` files of blocks, each under a ``-- name:`` line and a sentence on its plan.

Values are always bound, identifiers never formatted in; what is not in a file is not run. Read next: ``migrate.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from relight.errors import ConfigError


def folder_of(package: str) -> Path:
    """Return the folder of a package that is imported.

    Not by importlib.resources: the zip reader it brings takes longer to import than a job takes to run.
    """
    return Path(sys.modules[package].__path__[0])


def read_sql(package: str, *path: str) -> str:
    """Return the text of an SQL file that ships in ``package``."""
    return folder_of(package).joinpath(*path).read_text(encoding="utf-8")


def parse_statements(text: str) -> Mapping[str, str]:
    """Split a file into its named statements, in their order. Raises ``ConfigError`` when a name stands twice."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("-- name:"):
            name = line.removeprefix("-- name:").strip()
            if name in found:
                raise ConfigError(f"two statements are named {name!r}", name=name)
            current = found[name] = []
        elif not line.lstrip().startswith("--"):
            current.append(line)
    return {name: "\n".join(lines).strip().rstrip(";") for name, lines in found.items()}
