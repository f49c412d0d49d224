"""Every example runs as it is, says what it should, and leaves a store that keeps every promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import EXAMPLES, ROOT, all_blocks

from relight.recorder.verify import verify_store

SAYS = {
    "hello": ["Hello, Ada"],
    "payment": [
        "to ada@example.com: receipt-1",
        "receipt-1 (1 charge)",
        "step_in_doubt charge#0: {'try': 1, 'policy': 'reconcile'}",
        "step_reconciled charge#0: {'as': 'done', 'by': 'already_charged'}",
        "declined: over the limit",
    ],
    "approval": ["drafting", "waiting_decision", "sent: Dear all, we ship on Friday.", "sent, approved by ben"],
    "agent": [
        'waits for a decision: "Let the agent run send_mail?"',
        "workspace released",
        "Invited Ada: mailed ada@example.com: Lunch at the blue café?",
    ],
    "webhook": ["shipped from shelf-o-17 for evt-1", "1 signal"],
    "children": [
        "broken failed: no such page",
        "{'home': 4, 'broken': -1, 'about us': 8}",
        "['index_all completed', 'index_one completed', 'index_one completed', 'index_one failed']",
    ],
    "kill_and_resume": [
        "after kill -9: running",
        "result: 55 attempt: 2",
        "recovered: dead ['copy#2']",
        "calls: ['1', '2', '3', '3', '4', '5']",
    ],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    if path.stem == "word_census":
        words = sum(len(each.read_text("utf-8").split()) for each in (ROOT / "examples").rglob("*.py"))
        assert lines == [str(words)]
    else:
        assert lines == SAYS[path.stem]
    (store,) = tmp_path.glob("*.db")
    assert verify_store(str(store)).findings == ()


@pytest.mark.slow
def test_examples_and_snippets_type_check_strictly(tmp_path: Path) -> None:
    """Copies of examples are checked with their whole file; every other snippet is a program of its own."""
    programs = [*EXAMPLES]
    for number, block in enumerate(each for each in all_blocks("python") if each.source is None):
        program = tmp_path / f"snippet_{number}.py"
        program.write_text(f"# {block}\n{block.text}", "utf-8")
        programs.append(program)
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *config, *map(str, programs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
