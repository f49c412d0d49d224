"""Named SQL: ``.sql`` files of blocks, each under a ``-- name:`` line and a sentence on its plan.

Values are always bound, identifiers never formatted in; what is not in a file is not run. Read next: ``migrate.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from relight.errors import ConfigError


def read_sql(package: str, *path: str) -> str:
    """Return the text of an SQL file that ships in ``package``."""
    resource = files(package)
    for part in path:
        resource = resource / part
    return resource.read_text(encoding="utf-8")


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
