"""Programs written as users write them: they must type-check strictly, and marked mistakes must not.

Every file and package in this folder is a program that has to type-check; `tests/test_programs.py` also runs them. In
`must_not_check*.py` each line that ends with `# E<number> …` must be an error, and no other line may be.
`make types` checks the programs too, together with `src`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUST_NOT = sorted(HERE.glob("must_not_check*.py"))
PROGRAMS = sorted(
    path
    for path in [*HERE.glob("*.py"), *HERE.glob("*/__init__.py")]
    if path not in MUST_NOT and not path.name.startswith(("test_", "conftest"))
)

pytestmark = pytest.mark.slow


def mypy(*paths: Path) -> str:
    """Check these files with the project's settings; return mypy's lines, empty when all is well."""
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *config, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def pyright() -> dict[Path, set[int]]:
    """Check all programs with the second checker, by the project's settings; return the lines with errors, by file."""
    command = [str(Path(sys.executable).with_name("basedpyright")), "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(PROGRAMS) + len(MUST_NOT)
    found: dict[Path, set[int]] = {}
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            found.setdefault(Path(each["file"]), set()).add(each["range"]["start"]["line"] + 1)
    return found


def error_lines(path: Path) -> set[int]:
    pattern = rf"^{re.escape(str(path.relative_to(ROOT)))}:(\d+)(?::\d+)?: error:"
    return {int(line) for line in re.findall(pattern, mypy(path), re.MULTILINE)}


def marked_lines(path: Path) -> set[int]:
    lines = path.read_text("utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if re.search(r"#\s*E\d+\b", line)}


@pytest.mark.skipif(not PROGRAMS, reason="no programs in tests/typing")
def test_every_program_type_checks() -> None:
    found = mypy(*(path.parent if path.name == "__init__.py" else path for path in PROGRAMS))
    if found:
        pytest.fail(found, pytrace=False)


@pytest.mark.parametrize("path", MUST_NOT, ids=lambda path: path.stem)
def test_exactly_the_marked_lines_do_not_type_check(path: Path) -> None:
    assert marked_lines(path)
    assert error_lines(path) == marked_lines(path)


def test_a_second_checker_agrees() -> None:
    assert pyright() == {path: marked_lines(path) for path in MUST_NOT}


def test_a_mistake_is_seen(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("def f(x):\n    return x\n\n\ny: int = 'one'\n")
    assert re.findall(r":(\d+):\d+: error:", mypy(program)) == ["1", "5"]
