"""The disk refuses: runs wait, nothing fails, callers are told, and all goes on by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.process import flows
from tests.process.children import Place, payload
from tests.process.fixtures import in_process, place, wreck  # noqa: F401 - fixtures
from tests.process.probes import Probe

from relight import Client, Engine
from relight.errors import StorageUnavailable
from relight.model import JobState
from relight.store.store import OutcomeUnknown

# ruff: noqa: F811 - fixtures are imported by name
Start = Callable[..., Engine]
KINDS = ["three", "three_in_thread", "three_mixed", "three_mixed_in_thread"]


class Disk(Protocol):
    """Something that can be made to refuse, and to take writes again."""

    nothing_gets_in: bool

    def fill(self) -> None: ...
    def free(self) -> None: ...


class SmallDisk:
    """A file system of a few megabytes, mounted over the test's own folder, and a file that fills it."""

    nothing_gets_in = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "relight-test", str(folder)], check=False, capture_output=True
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount a small tmpfs: {done.stderr.decode().strip()}")

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                while True:
                    try:
                        if file.write(b"\0" * size) < size:
                            break
                    except OSError:
                        break

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class RefusingStore:
    """A store that refuses just before its commit, or loses the answer just after it."""

    def __init__(self, probe: Probe, boundary: str) -> None:
        self.probe = probe
        self._boundary = boundary
        self.nothing_gets_in = boundary == "before_commit"

    def fill(self) -> None:
        self.probe.fail(self._boundary, OutcomeUnknown("disk I/O error"))

    def free(self) -> None:
        self.probe.let_go()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Ask for it before ``place``: it is mounted over the same folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = SmallDisk(tmp_path)
    yield disk
    disk.close()


FULL_DISK = pytest.param("full disk", marks=pytest.mark.sqlite_file("fills the disk under the file"))


@pytest.fixture(params=[FULL_DISK, "before_commit", "after_commit"])
def disk(request: pytest.FixtureRequest, probe: Probe) -> Disk:
    if request.param == "full disk":
        made: Disk = request.getfixturevalue("small_disk")
        return made
    return RefusingStore(probe, request.param)


@pytest.fixture
def probe() -> Iterator[Probe]:
    made = Probe()
    yield made
    made.let_go()


def degraded(engine: Engine) -> bool:
    return engine.health()["degraded"] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_runs_wait_nothing_fails_and_it_goes_on_by_itself(
    disk: Disk, in_process: Start, place: Place, probe: Probe, kind: str
) -> None:
    engine = in_process(probe=probe, lease_seconds=0.5)
    jobs = engine.submit_many([flows.BY_KIND[kind].bind(n) for n in range(6)])  # type: ignore[attr-defined]
    flows.doors["hold"].wait_until_inside(6)
    disk.fill()
    place.eventually(lambda: degraded(engine), "the engine sees it")
    flows.doors["hold"].open()
    place.eventually(lambda: place.witness.times("held") == 6, "the steps have returned")
    assert engine.health()["gate"] == "open"
    if disk.nothing_gets_in:
        assert engine.health()["ok"] is False
        assert {job.state() for job in jobs} == {JobState.RUNNING}
    disk.free()
    for n, job in enumerate(jobs):
        assert job.result(timeout_seconds=60) == 3 * n
    place.eventually(lambda: engine.health()["ok"], "it is well again")
    assert set(place.witness.counts().values()) == {1}, "no step ran twice"
    first, *_ = place.events("engine_degraded")
    assert payload(first)["code"] in ("outcome_unknown", "storage_unavailable")
    assert payload(place.events("engine_recovered")[0])["outage_ms"] >= 0
    assert not place.events("job_failed", "workflow_recovery", "engine_fenced")
    place.assert_sound()


@pytest.mark.sqlite_file("fills the disk under the file")
@pytest.mark.parametrize("kind", ["big", "big_in_thread"])
def test_an_outcome_too_large_for_a_row_waits_too(
    small_disk: SmallDisk, in_process: Start, place: Place, kind: str
) -> None:
    engine = in_process(lease_seconds=0.5)
    job = engine.submit(flows.BY_KIND[kind].bind(1))  # type: ignore[attr-defined]
    flows.doors["hold"].wait_until_inside(1)
    small_disk.fill()
    place.eventually(lambda: degraded(engine), "the engine sees it")
    flows.doors["hold"].open()
    place.eventually(lambda: flows.doors["hold"].inside == 0, "the step has returned")
    small_disk.free()
    assert job.result(timeout_seconds=60) == "x" * 400_000
    assert place.witness.times("big") == 1


@pytest.mark.sqlite_file("fills the disk under the file")
def test_a_clients_submit_is_refused_with_its_id_and_may_be_repeated(
    small_disk: SmallDisk, in_process: Start, place: Place
) -> None:
    engine = in_process(lease_seconds=0.5)
    with Client(place.store, workflows=flows.ALL) as client:
        client.submit(flows.count_up, 0).result(timeout_seconds=60)
        client.core.patience_seconds = 0.2
        small_disk.fill()
        place.eventually(lambda: degraded(engine), "the engine sees it")
        with pytest.raises(StorageUnavailable, match="nothing was stored|not known yet") as refused:
            client.submit(flows.count_up, 1, idempotency_key="once")
        job_id = refused.value.job_id  # type: ignore[attr-defined]
        assert job_id and refused.value.retryable
        with pytest.raises(StorageUnavailable):
            client.submit(flows.count_up, 1, idempotency_key="once")
        small_disk.free()
        client.core.patience_seconds = 30
        job = client.submit(flows.count_up, 1, idempotency_key="once")
        assert job.result(timeout_seconds=60) == 3
    assert len(place.jobs()) == 2
    place.assert_sound()


@pytest.mark.sqlite_file("fills the disk under the file")
@pytest.mark.parametrize("through", ["client", "engine"])
def test_a_submit_of_many_does_not_wait_for_ever(
    small_disk: SmallDisk, in_process: Start, place: Place, through: str
) -> None:
    engine = in_process(lease_seconds=0.5)
    place.eventually(lambda: engine.health()["ok"], "the gate opens")
    with Client(place.store, workflows=flows.ALL) as client:
        by: Client = client if through == "client" else engine
        by.core.patience_seconds = 0.2
        small_disk.fill()
        place.eventually(lambda: degraded(engine), "the engine sees it")
        with pytest.raises(StorageUnavailable) as refused:
            by.submit_many([flows.count_up.bind(n) for n in range(3)])
        assert refused.value.job_id  # type: ignore[attr-defined]
        small_disk.free()
        by.core.patience_seconds = 30
        assert [job.result(timeout_seconds=60) for job in by.submit_many([flows.count_up.bind(9)])] == [3]
    place.assert_sound()


@pytest.mark.sqlite_file("fills the disk under the file")
def test_reads_and_health_are_served_meanwhile(small_disk: SmallDisk, in_process: Start, place: Place) -> None:
    engine = in_process(lease_seconds=0.5)
    job = engine.submit(flows.three, 1)
    flows.doors["hold"].wait_until_inside(1)
    small_disk.fill()
    place.eventually(lambda: degraded(engine), "the engine sees it")
    for _ in range(200):
        assert job.state() is JobState.RUNNING
        assert len(engine.jobs()) == 1 and job.why().causes
        assert "full" in str(engine.health()["degraded"])
    small_disk.free()
    flows.doors["hold"].open()
    assert job.result(timeout_seconds=60) == 3


@pytest.mark.sqlite_file("fills the disk under the file")
def test_an_engine_does_not_start_on_a_disk_that_is_full_and_does_when_it_is_not(
    small_disk: SmallDisk, in_process: Start, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relight.engine.incarnation.START_PATIENCE_SECONDS", 0.3)
    in_process().stop()
    small_disk.fill()
    with pytest.raises(StorageUnavailable):
        in_process()
    small_disk.free()
    engine = in_process()
    assert engine.submit(flows.count_up, 1).result(timeout_seconds=60) == 3
    place.eventually(
        lambda: [row.state for row in place.engines()].count("live") == 1, "nothing of the failed start lives"
    )
    place.assert_sound()


@pytest.mark.sqlite_file("fills the disk under the file")
def test_claims_wait_for_the_disk_and_are_made_then(small_disk: SmallDisk, in_process: Start, place: Place) -> None:
    engine = in_process(lease_seconds=0.5, slots=2)
    jobs = engine.submit_many([flows.three.bind(n) for n in range(6)])
    flows.doors["hold"].wait_until_inside(2)
    small_disk.fill()
    place.eventually(lambda: degraded(engine), "the engine sees it")
    flows.doors["hold"].open()
    small_disk.free()
    for n, job in enumerate(jobs):
        assert job.result(timeout_seconds=60) == 3 * n
    place.assert_sound()


@pytest.mark.sqlite_file("fills the disk under the file")
def test_killed_while_the_disk_is_full_it_recovers_once_it_is_not(small_disk: SmallDisk, place: Place) -> None:
    child = place.engine(lease_seconds=0.5)
    [job_id] = child("submit", kind="three", numbers=[1])
    child("inside", door="hold", count=1)
    small_disk.fill()
    place.eventually(lambda: child("health")["degraded"], "the engine sees it")
    child("open", door="hold")
    place.eventually(lambda: place.witness.times("held") == 1 or True, "it returns")
    child.kill()
    small_disk.free()
    place.engine(doors_open=["hold"])
    place.ended(1)
    assert place.job(job_id).attempt == 2
    place.assert_sound()


@pytest.mark.sqlite_file("limits the WAL")
def test_a_process_that_may_write_no_larger_files_waits(place: Place) -> None:
    """Needs no root: the kernel refuses each write beyond a limit of the process."""
    child = place.engine(lease_seconds=0.5)
    ids = child("submit", kind="three", numbers=[0, 1, 2])
    child("inside", door="hold", count=3)
    child("limit_files", size=Path(f"{place.store}-wal").stat().st_size)
    place.eventually(lambda: child("health")["degraded"], "the engine sees it")
    child("open", door="hold")
    assert {place.job(job_id).state for job_id in ids} == {JobState.RUNNING}
    child("limit_files", size=-1)
    place.ended(3)
    assert place.events("engine_degraded") and place.events("engine_recovered")
    place.assert_sound()
