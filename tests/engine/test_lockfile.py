"""Promises of the lock file: held while the owner lives, free the moment it does not, and never disturbed by a look."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.errors import ConfigError, Conflict, InvalidArgument, StorageUnavailable
from relight.proof import lockfile
from relight.proof.lockfile import NOT_FOUND, LockFile, lock_path, probe, remove, state_dir_for
from relight.proof.procfs import boot_id, host_name, own_process

NONCE = "0123456789abcdef" * 2
ENGINE = "0199aaaa-0000-7000-8000-000000000001"


class ManualClock:
    """A clock that stands where it is put."""

    def __init__(self, now_ms: int = 1_700_000_000_000, mono_ms: int = 5_000) -> None:
        self.now, self.mono = now_ms, mono_ms

    def now_ms(self) -> int:
        return self.now

    def mono_ms(self) -> int:
        return self.mono

    def wait(self, condition: threading.Condition, timeout_ms: int | None) -> bool:
        raise AssertionError("nothing waits here")


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[LockFile]:
    held = LockFile.create(tmp_path / "engines", ENGINE, NONCE, ManualClock())
    yield held
    held.release()


def look(lock: LockFile, nonce: str = NONCE) -> lockfile.Probe:
    return probe(lock.path.parent, ENGINE, nonce)


def test_file_and_directory_are_the_owners_alone(lock: LockFile) -> None:
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(lock.path.parent.stat().st_mode) == 0o700
    assert lock.path.name == f"{ENGINE}.lock"
    assert not os.get_inheritable(lock._fd)


def test_probe_of_a_held_lock_says_who_holds_it(lock: LockFile) -> None:
    seen = look(lock)
    assert (seen.found, seen.nonce_matches, seen.locked, seen.problem) == (True, True, True, "")
    assert seen.decides and seen.info is not None
    assert seen.info.process == own_process()
    assert seen.info.process.pid == os.getpid()
    assert seen.info.process.boot_id == boot_id()
    assert (seen.info.nonce, seen.info.host) == (NONCE, host_name())
    assert (seen.info.beat_ms, seen.info.loop_ms, seen.info.journal_ms) == (1_700_000_000_000, 5_000, 5_000)


def test_layout_is_the_documented_one(lock: LockFile) -> None:
    raw = lock.path.read_bytes()
    assert len(raw) == 256
    assert raw[:8] == b"RELIGHT\0"
    assert struct.unpack_from("<II", raw, 8) == (1, 256)
    assert struct.unpack_from("<3q", raw, 16) == (1_700_000_000_000, 5_000, 5_000)
    assert struct.unpack_from("<q", raw, 40) == (os.getpid(),)
    assert raw[64:96].decode() == NONCE
    assert set(raw[196:]) == {0}


def test_beat_writes_all_three_times_and_notes_alone_write_nothing(lock: LockFile) -> None:
    lock.loop_alive(6_000)
    lock.journal_alive(7_000)
    before = look(lock).info
    assert before is not None and (before.loop_ms, before.journal_ms) == (5_000, 5_000)
    assert lock.beat(1_700_000_000_999)
    after = look(lock).info
    assert after is not None
    assert (after.beat_ms, after.loop_ms, after.journal_ms) == (1_700_000_000_999, 6_000, 7_000)
    assert replace(after, beat_ms=0, loop_ms=0, journal_ms=0) == replace(before, beat_ms=0, loop_ms=0, journal_ms=0)


def test_release_frees_the_lock_keeps_the_file_and_is_idempotent(lock: LockFile) -> None:
    assert lock.held
    lock.release()
    lock.release()
    assert not lock.held
    seen = look(lock)
    assert seen.decides and not seen.locked
    assert not lock.beat(1), "a released lock's descriptor may belong to another file by now"
    remove(lock.path)
    remove(lock.path)
    assert look(lock) == NOT_FOUND


def test_lock_stays_held_when_nobody_refers_to_it(tmp_path: Path) -> None:
    made = LockFile.create(tmp_path, ENGINE, NONCE, ManualClock())
    del made
    assert probe(tmp_path, ENGINE, NONCE).locked
    (forgotten,) = [lock for lock in lockfile._open_locks if lock.path.parent == tmp_path]
    forgotten.release()


def test_an_engine_id_is_used_once(lock: LockFile) -> None:
    with pytest.raises(Conflict, match="used for one start only"):
        LockFile.create(lock.path.parent, ENGINE, NONCE, ManualClock())
    assert look(lock).locked, "the failed attempt must not remove or free the owner's file"


@pytest.mark.parametrize("engine_id", ["", "../x", "a/b", ".hidden", "x" * 101, "nul\0", "café"])
def test_an_id_that_is_no_file_name_is_refused_and_never_probed(tmp_path: Path, engine_id: str) -> None:
    with pytest.raises(InvalidArgument):
        LockFile.create(tmp_path, engine_id, NONCE, ManualClock())
    assert probe(tmp_path, engine_id, NONCE).problem == "not an engine id"


@pytest.mark.parametrize("nonce", ["", "short", "G" * 32, "0" * 33])
def test_a_nonce_is_32_hexadecimal_characters(tmp_path: Path, nonce: str) -> None:
    with pytest.raises(InvalidArgument):
        LockFile.create(tmp_path, ENGINE, nonce, ManualClock())
    assert not lock_path(tmp_path, ENGINE).exists()


def test_wrong_or_empty_nonce_proves_nothing_and_does_not_touch_the_lock(lock: LockFile) -> None:
    lock.release()
    for nonce in ("f" * 32, ""):
        seen = look(lock, nonce)
        assert seen.found and not seen.nonce_matches and not seen.decides
        assert seen.problem == "another engine's nonce"


def test_a_file_system_whose_flock_does_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda fd, operation: None)
    with pytest.raises(ConfigError, match="flock has no effect"):
        LockFile.create(tmp_path, ENGINE, NONCE, ManualClock())
    assert not lock_path(tmp_path, ENGINE).exists()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOLCK, ConfigError), (errno.EOPNOTSUPP, ConfigError), (errno.EIO, StorageUnavailable)]
)
def test_a_lock_that_cannot_be_taken_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(kind):
        LockFile.create(tmp_path, ENGINE, NONCE, ManualClock())
    monkeypatch.undo()
    assert probe(tmp_path, ENGINE, NONCE) == NOT_FOUND
    assert not [lock for lock in lockfile._open_locks if lock.path.parent == tmp_path]


def test_a_full_disk_is_storage_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(StorageUnavailable, match="free the disk"):
        LockFile.create(tmp_path, ENGINE, NONCE, ManualClock())
    assert not lock_path(tmp_path, ENGINE).exists()


def test_a_directory_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot lock"):
        LockFile.create(tmp_path / "file" / "engines", ENGINE, NONCE, ManualClock())


def test_a_beat_that_the_disk_refuses_is_no_error(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: bytes, at: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", refuse)
    assert not lock.beat(1)
    monkeypatch.undo()
    assert look(lock).locked


# ---------------------------------------------------------------- files that prove nothing


def test_missing_file_and_missing_directory_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        assert probe(directory, ENGINE, NONCE) == NOT_FOUND


@pytest.mark.parametrize("cut", [0, 1, 8, 95, 96, 255, 257])
def test_truncated_or_longer_file_proves_nothing(lock: LockFile, cut: int) -> None:
    raw = lock.path.read_bytes()
    lock.release()
    lock.path.write_bytes((raw + b"\0")[:cut])
    seen = look(lock)
    assert seen.found and not seen.decides and seen.info is None
    assert seen.problem == "not a lock file of this version"


@given(st.binary(max_size=300))
def test_garbage_proves_nothing_and_raises_nothing(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    path = lock_path(tmp_path_factory.getbasetemp(), ENGINE)
    path.write_bytes(garbage)
    assert not probe(path.parent, ENGINE, NONCE).decides
    path.unlink()


@given(st.binary(min_size=256, max_size=256))
def test_a_damaged_record_is_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = lock_path(tmp_path_factory.getbasetemp(), ENGINE)
    path.write_bytes(struct.pack("<8sII", b"RELIGHT\0", 1, 256) + noise[16:64] + NONCE.encode() + noise[96:])
    seen = probe(path.parent, ENGINE, NONCE)
    assert seen.decides and not seen.locked and seen.info is not None
    path.unlink()


def test_other_version_proves_nothing(lock: LockFile) -> None:
    with open(lock.path, "r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", 2))
    assert not look(lock).decides


def test_what_is_no_regular_file_proves_nothing_and_does_not_hang(tmp_path: Path) -> None:
    path = lock_path(tmp_path, ENGINE)
    os.mkfifo(path)
    assert probe(tmp_path, ENGINE, NONCE).problem == "not a regular file"
    path.unlink()
    path.mkdir()
    assert probe(tmp_path, ENGINE, NONCE).problem == "not a regular file"
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    assert not probe(tmp_path, ENGINE, NONCE).decides


PROBE_AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from relight.proof.lockfile import probe
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
else:
    os.chmod(sys.argv[1], 0)
print(probe(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
"""


def test_a_file_one_may_not_read_proves_nothing_and_says_so(lock: LockFile) -> None:
    command = [sys.executable, "-c", PROBE_AS_ANOTHER_USER, str(lock.path.parent), ENGINE, NONCE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    finally:
        lock.path.parent.chmod(0o700)
    assert "found=True" in done.stdout and "problem='permission denied'" in done.stdout


def test_a_lock_that_cannot_be_tried_proves_nothing(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    seen = look(lock)
    assert seen.found and not seen.decides and seen.problem == "no locks available"


# ---------------------------------------------------------------- forks, threads, many probes


def run_in_fork(lock: LockFile) -> bytes:
    """Fork this process; return what the child found, once it has ended."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)  # a child that hangs ends itself
        try:
            lock.beat(42)
            lock.release()
            own = LockFile.create(lock.path.parent, "child", NONCE, ManualClock())
            report = f"{lock.held} {look(lock).locked} {probe(lock.path.parent, 'child', NONCE).locked} {own.held}"
            os.write(write_end, report.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    found = os.read(read_end, 1000)
    os.close(read_end)
    os.waitpid(pid, 0)
    return found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12, where threads exist
def test_a_forked_child_holds_nothing_writes_nothing_and_may_have_its_own(lock: LockFile) -> None:
    assert run_in_fork(lock) == b"False True True True"
    seen = look(lock)
    assert seen.locked, "the child's release must not free the parent's lock"
    assert seen.info is not None and seen.info.beat_ms != 42


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from 3.12, where threads exist
def test_a_fork_while_the_lock_is_in_use_by_another_thread_does_not_hang(lock: LockFile) -> None:
    with lock._mutex:
        done: list[bytes] = []
        forker = threading.Thread(target=lambda: done.append(run_in_fork(lock)), daemon=True)
        forker.start()
        forker.join(timeout=60)
    assert done == [b"False True True True"]


def test_threads_may_beat_and_release_at_once(tmp_path: Path) -> None:
    lock = LockFile.create(tmp_path, ENGINE, NONCE, ManualClock())
    stranger = tmp_path / "stranger"
    begin = threading.Barrier(5)

    def beat() -> None:
        begin.wait()
        for _ in range(2_000):
            lock.loop_alive(1)
            lock.beat(2)

    def release() -> None:
        begin.wait()
        lock.release()
        # A freed descriptor number is given to the next file: a late beat would write into this one.
        with open(stranger, "wb") as file:
            file.write(b"x" * 64)

    with ThreadPoolExecutor(5) as pool:
        for future in [*(pool.submit(beat) for _ in range(4)), pool.submit(release)]:
            future.result()
    assert stranger.read_bytes() == b"x" * 64
    assert not probe(tmp_path, ENGINE, NONCE).locked


@pytest.mark.parametrize("held", [True, False])
def test_probes_do_not_hide_a_death_from_each_other(lock: LockFile, held: bool) -> None:
    if not held:
        lock.release()
    begin = threading.Barrier(8)

    def many() -> set[bool]:
        begin.wait()
        return {look(lock).locked for _ in range(500)}

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(many) for _ in range(8)]]
    assert answers == [{held}] * 8


def test_a_probe_stopped_while_it_holds_its_shared_lock_hides_nothing(lock: LockFile) -> None:
    lock.release()
    with open(lock.path, "rb") as other_probe:
        fcntl.flock(other_probe, fcntl.LOCK_SH)
        assert not look(lock).locked


# ---------------------------------------------------------------- where it lies


def test_state_directory_lies_beside_the_store_whatever_name_leads_there(tmp_path: Path) -> None:
    real = tmp_path / "data"
    real.mkdir()
    (real / "jobs.db").touch()
    (tmp_path / "link.db").symlink_to(real / "jobs.db")
    assert state_dir_for(real / "jobs.db") == real.resolve() / "jobs.db-engines"
    assert state_dir_for(str(tmp_path / "link.db")) == real.resolve() / "jobs.db-engines"
    assert not state_dir_for(real / "jobs.db").exists(), "a reader makes no directory"
