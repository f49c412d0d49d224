"""Engines on a server go by its clock: one that is set wrong on a host takes nothing early, late, or from the living."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.flow.kit import eventually
from tests.postgres import new_schema, own_server
from tests.process import flows
from tests.process.children import Child, Place

from relight.clock import SystemClock
from relight.model import EngineRecord, Verdict
from relight.store.open import store_at
from relight.store.time import StoreClock, clock_of
from relight.testing import ManualClock

HOUR_MS = 3_600_000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.store = flows.witness.store = new_schema()
    flows.witness.path = made.witness.path
    yield made
    made.close()


def server_now() -> int:
    with psycopg.connect(own_server().address("postgres"), autocommit=True) as db:
        row = db.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()
    assert row is not None
    return int(row[0])


def elsewhere(place: Place, tmp_path: Path, shift_ms: int, monkeypatch: pytest.MonkeyPatch, **options: object) -> Child:
    """Start an engine whose lock file nobody else finds, as on another host, with its wall clock set wrong."""
    with monkeypatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path / f"host{shift_ms}"))
        return place.engine(shift_ms=shift_ms, doors_open=["hold"], **options)


@pytest.mark.parametrize("shift_ms", [-HOUR_MS, HOUR_MS])
def test_what_is_written_is_written_by_the_servers_clock(
    place: Place, tmp_path: Path, shift_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = elsewhere(place, tmp_path, shift_ms, monkeypatch)
    engine("results", ids=engine("submit", kind="three", numbers=[1]))
    now = server_now()
    [row] = place.engines()
    [job] = place.jobs()
    for at in (row.started_at, row.beat_at, row.lease_until - row.lease_ms, job.created_at, job.completed_at or 0):
        assert abs(at - now) < 60_000
    assert all(abs(event.ts - now) < 60_000 for event in place.events())
    place.assert_sound()


@pytest.mark.parametrize("shift_ms", [-HOUR_MS, HOUR_MS])
def test_a_judge_whose_clock_is_wrong_leaves_the_living_of_another_host_alone_and_takes_the_dead(
    place: Place, tmp_path: Path, shift_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = elsewhere(place, tmp_path, 0, monkeypatch, lease_seconds=1)
    judge = elsewhere(place, tmp_path, shift_ms, monkeypatch, lease_seconds=0.6)
    looks = judge("seen", name="before_commit")
    eventually(
        lambda: judge("seen", name="before_commit") > looks + 20, "it has beaten, watched and judged for a while"
    )

    def row() -> EngineRecord:
        return next(each for each in place.engines() if each.pid == other.pid)

    assert row().state == "live"
    other.kill()
    shutil.rmtree(tmp_path / "host0")
    eventually(lambda: row().state == "dead", "its lease ran out by the server's clock")
    assert row().verdict == Verdict.LEASE_EXPIRED
    place.assert_sound()


def test_the_server_is_asked_unless_a_clock_is_given(tmp_path: Path) -> None:
    wrong = SystemClock()
    wrong.now_ms = lambda: 1_000  # type: ignore[method-assign]
    server = store_at(new_schema(), durability="process")
    server.open(create=True)
    file = store_at(str(tmp_path / "jobs.db"), durability="process")
    file.open(create=True)
    clock, given = clock_of(server, wrong), ManualClock()
    assert isinstance(clock, StoreClock) and abs(clock.now_ms() - server_now()) < 1_000
    assert clock_of(server, given) is given
    assert clock_of(file, wrong) is wrong and file.now_ms() is None
    server.close()
    before = clock.now_ms()
    clock.look()
    assert 0 <= clock.now_ms() - before < 10_000, "a server that does not answer changes nothing"
    file.close()
