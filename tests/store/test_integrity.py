"""What looking a file over finds that no row could show."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from relight.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("DROP TRIGGER events_no_update", "schema: trigger events_no_update is missing"),
        ("DROP INDEX jobs_key", "schema: index jobs_key is missing"),
        ("ALTER TABLE kinds ADD COLUMN extra TEXT", "schema: table kinds was changed"),
    ],
)
def test_a_schema_changed_by_hand_is_found(tmp_path: Path, statement: str, fault: str) -> None:
    path = tmp_path / "jobs.db"
    store = SqliteStore(path)
    store.open(create=True)
    try:
        assert store.check_integrity() == []
        db = apsw.Connection(str(path))
        db.execute(statement)
        db.close()
        assert store.check_integrity() == [fault]
    finally:
        store.close()
