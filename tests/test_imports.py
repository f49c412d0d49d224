"""`import relight` is light: it brings no event loop, no command line and none of the extras."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LATE = {"asyncio", "subprocess", "click"}  # used by parts of Relight, imported when those parts are
EXTRAS = {"duckdb", "fastapi", "jinja2", "opentelemetry", "prometheus_client", "psycopg", "rich", "uvicorn"}
NEVER = {"numpy", "pydantic", "pyarrow", "sqlalchemy"}

BROUGHT = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def child(program: str) -> str:
    command = [sys.executable, "-I", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        pytest.fail(done.stderr, pytrace=False)
    return done.stdout


def modules_brought_by(statement: str) -> set[str]:
    """Import in a fresh interpreter; return the modules it brought."""
    names: list[str] = json.loads(child(BROUGHT.format(statement=statement)))
    return set(names)


def brought_by(statement: str) -> set[str]:
    """Import in a fresh interpreter; return the top-level modules it brought."""
    return {name.partition(".")[0] for name in modules_brought_by(statement)}


def test_import_relight_brings_none_of_the_late_and_optional_modules() -> None:
    brought = brought_by("import relight; assert relight.__file__")
    assert "relight" in brought
    assert brought & (LATE | EXTRAS | NEVER) == set()


@pytest.mark.parametrize("module", sorted(LATE))
def test_a_late_module_would_be_seen(module: str) -> None:
    assert module in brought_by(f"import {module}")


def test_relight_imports_where_no_extra_is_installed() -> None:
    child(f"import sys\nsys.modules.update(dict.fromkeys({sorted(EXTRAS | NEVER)!r}))\nimport relight")


def test_a_module_of_workflows_brings_neither_engine_nor_client() -> None:
    late = {"relight.engine.facade", "relight.client.client", "relight.store.journal"}
    assert modules_brought_by("from relight import step, workflow") & late == set()
    assert late <= modules_brought_by("from relight import Client, Engine")
