"""The sentences that people read when something is wrong, whole: compared with ``golden/messages.txt``.

``UPDATE_GOLDEN=1 pytest tests/test_messages.py`` writes the file anew; the difference is then read, not believed. Ids, times,
durations and folders stand there as marks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flow.kit import Rig
from tests.golden import reasons, refusals
from tests.golden.situations import GOLDEN, SITUATIONS, golden, with_marks

assert reasons and refusals


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture(scope="module", name="found")
def written_at_the_end() -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    yield found
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        known = {**(golden() if GOLDEN.exists() else {}), **found}
        GOLDEN.write_text("\n".join(f"[{title}]\n{known[title]}\n" for title in SITUATIONS if title in known), "utf-8")


@pytest.mark.parametrize("title", SITUATIONS)
def test_what_is_said_is_what_was_agreed(title: str, rig: Rig, found: dict[str, str]) -> None:
    text = with_marks(SITUATIONS[title](rig))
    found[title] = text
    if not os.environ.get("UPDATE_GOLDEN"):
        assert text == golden()[title]


def test_the_file_holds_nothing_else() -> None:
    assert sorted(golden()) == sorted(SITUATIONS)
