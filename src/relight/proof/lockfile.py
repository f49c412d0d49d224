"""The lock that an engine holds for as long as its process or any of its tries lives.

**Promise.** ``<state dir>/<engine_id>.lock`` is locked if and only if the engine's process still exists and has not
released it: whoever can open the file *and* finds the engine's nonce in it is on the same host and may believe the
lock. The kernel frees it when the process ends, however it ends; nobody has to be alive, or on time, to do so.

**Format**: 256 bytes, little endian, written in one call, ``<8sII qqq qqq 32s36s64s60x``::

      0  magic b"RELIGHT\\0"                       16  beat_ms     wall clock of the last heartbeat
      8  version (u32, 1)                         24  loop_ms     monotonic clock of the event loop's last sign of life
     12  size of the record (u32, 256)            32  journal_ms  monotonic clock of the journal's last sign of life
     40  pid   48  start time in clock ticks (``/proc/<pid>/stat``, field 22)   56  inode of the pid namespace
     64  nonce, 32 hexadecimal characters         96  boot id, 36 characters
    132  host name, UTF-8, cut at 64 bytes       196  zeros

A file is valid when it holds 256 bytes, magic, version and size fit. It is not synced: after a power cut it may be
empty, and then proves nothing, which is safe (the boot id in the engine's row is another one by then).
The times are aligned and rewritten in place by ``beat`` alone. A reader may see one half old, half new: readers only
compare them for *change* (and show them), so that this could at worst look like one more sign of life.

**Failure cases**, each has a test:

* *fork*: a forked child inherits the open file description and with it the lock, so that a dead owner would look alive.
  One process-wide ``os.register_at_fork`` hook closes it in every child; forks wait while a lock is being opened, so
  that none can slip between. An exec closes it too (close-on-exec). Not covered: a fork made in C that calls no
  Python hook and never execs. Such a child keeps the lock; the judge then sees "held, process gone".
* *a probe at the moment of death*: probes take a *shared* lock, so that none takes another for the owner. They touch
  the lock only of a file whose nonce they know, and no row names a nonce before its owner holds the lock.
* *a file system whose flock does nothing*: every engine would look dead. ``create`` probes its own lock and refuses.
* *garbage, truncation, a name pipe, no permission, a vanished directory*: ``probe`` never raises and never hangs; it
  says that the file proves nothing, and why.

**Rejected.** ``fcntl`` locks: any ``close`` of the same file anywhere in the process drops them. A memory-mapped page
for the times, as first designed: a store to a page of a frozen or stalled file system blocks *with the GIL held*, so
every thread of the engine stops (measured with ``fsfreeze`` over 2 s: the other threads stood still for 2.0 s, with
``pwrite`` for 0.01 s; Evan Jones, "The Four Month Bug", 2015, is the same in the JVM), and a mapping of the locked
descriptor would keep the lock in forked children, because it holds the open file description. Hence ``loop_alive`` and
``journal_alive`` only note the time, and ``beat``, from a thread of its own, writes all three. An age limit on beats:
time is never proof.

It must not judge: that is ``engine/liveness.py``, read that next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from relight.clock import Clock
from relight.errors import ConfigError, Conflict, InvalidArgument, StorageUnavailable
from relight.proof.procfs import ProcessId, host_name, own_process

MAGIC = b"RELIGHT\0"
VERSION = 1
_LAYOUT = struct.Struct("<8sII3q3q32s36s64s60x")
_TIMES = struct.Struct("<3q")
_TIMES_AT = 16
_HOST_BYTES = 64
_ENGINE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_FULL_OR_ILL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@dataclass(frozen=True)
class LockInfo:
    """What a valid lock file says of its owner. Pid, boot and host name are evidence to show, never proof."""

    nonce: str
    process: ProcessId
    host: str
    beat_ms: int
    loop_ms: int
    journal_ms: int


@dataclass(frozen=True)
class Probe:
    """What was found where an engine's lock file should be.

    ``found`` says that something is there; ``info`` is None unless it is a valid lock file. ``problem`` says why the
    file proves nothing although it is there (or why one could not look), and is empty otherwise.
    """

    found: bool
    nonce_matches: bool
    locked: bool
    info: LockInfo | None
    problem: str = ""

    @property
    def decides(self) -> bool:
        """Tell whether this is the engine's own file and its lock could be tried: then ``locked`` is the truth."""
        return self.found and self.nonce_matches and not self.problem


NOT_FOUND = Probe(found=False, nonce_matches=False, locked=False, info=None)


class LockFile:
    """An engine's held lock; made by ``create``. Safe to use from any thread.

    It is held until ``release`` or the end of the process, never given up because the object is forgotten: a try of a
    dead incarnation may outlive everything that knew of it. In a forked child it is not held and every method
    does nothing.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._loop_ms = 0
        self._journal_ms = 0

    @classmethod
    def create(cls, state_dir: Path, engine_id: str, nonce: str, clock: Clock) -> Self:
        """Create and lock the file of a new engine (mode 0600; the directory, if it is missing, 0700).

        Call it before the engine's row is written: a row without a lock could not be judged.

        Raises ``Conflict`` when the file exists (an engine id is used once), ``InvalidArgument`` on an id or nonce of
        the wrong form, ``StorageUnavailable`` when the disk is full or ill, ``ConfigError`` when the
        directory cannot be written or its file system has no working flock.
        """
        path = lock_path(state_dir, engine_id)
        if not _NONCE.fullmatch(nonce):
            raise InvalidArgument("the nonce of a lock file is 32 hexadecimal characters", nonce_length=len(nonce))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = cls._open(path)
        except FileExistsError as error:
            raise Conflict(
                f"{path} exists; an engine id is used for one start only, start with a new one", engine_id=engine_id
            ) from error
        except OSError as error:
            raise _creation_error(path, error) from error
        try:
            lock._take(nonce, clock)
        except OSError as error:
            lock._give_up()
            raise _creation_error(path, error) from error
        if not probe(state_dir, engine_id, nonce).locked:
            lock._give_up()
            raise ConfigError(
                f"flock has no effect in {path.parent} (a network or shared folder?); use a local directory",
                path=str(path),
            )
        return lock

    @classmethod
    def _open(cls, path: Path) -> Self:
        with _guard:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            lock = cls(path, fd)
            _open_locks.add(lock)
        return lock

    def _take(self, nonce: str, clock: Clock) -> None:
        self._loop_ms = self._journal_ms = clock.mono_ms()
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        record = _pack(nonce, own_process(), host_name(), (clock.now_ms(), self._loop_ms, self._journal_ms))
        if os.pwrite(self._fd, record, 0) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def held(self) -> bool:
        """Tell whether this object still holds the lock in this process."""
        return self._fd >= 0

    def beat(self, now_ms: int) -> bool:
        """Write the heartbeat's wall clock, and what loop and journal last noted. Returns False if it could not.

        Call it from a thread of its own each sixth of the lease: on an ill disk it may block (without the GIL).
        A failed write changes no verdict by itself, because the lock is the proof. After ``release`` it does nothing.
        """
        with self._mutex:
            if self._fd < 0:
                return False
            try:
                os.pwrite(self._fd, _TIMES.pack(now_ms, self._loop_ms, self._journal_ms), _TIMES_AT)
            except OSError:
                return False
            return True

    def loop_alive(self, mono_ms: int) -> None:
        """Note that the event loop (or the runner's main line) came round; the next ``beat`` writes it. No I/O."""
        self._loop_ms = mono_ms

    def journal_alive(self, mono_ms: int) -> None:
        """Note that the journal came round; the next ``beat`` writes it. No I/O."""
        self._journal_ms = mono_ms

    def release(self) -> None:
        """Unlock and close; idempotent. The file stays: ``remove(lock.path)`` once the engine's row says ``stopped``.

        Call it after the last try has ended, never before: from this moment on the engine is provably dead.
        """
        with self._mutex, _guard:
            fd, self._fd = self._fd, -1
            _open_locks.discard(self)
            if fd < 0:
                return
            if self._pid == os.getpid():
                # Unlocking, not only closing: a child forked in C may still hold the same description.
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _give_up(self) -> None:
        self.release()
        remove(self.path)

    def _disown(self) -> None:
        """Forget the lock in a forked child: close the inherited descriptor without unlocking for the parent."""
        fd, self._fd = self._fd, -1
        self._mutex = threading.Lock()  # the old one may be held by a thread that does not exist here
        if fd >= 0:
            os.close(fd)


_guard = threading.RLock()
"""Held while a descriptor is opened or closed, and over every fork. Reentrant: a signal handler may fork."""

_open_locks: set[LockFile] = set()
"""Every held lock. Strong references: a lock that nobody refers to any more is still held, and a fork must close it."""


def _after_fork_in_child() -> None:
    for lock in tuple(_open_locks):
        with contextlib.suppress(OSError):
            lock._disown()
    _open_locks.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)


def lock_path(state_dir: Path, engine_id: str) -> Path:
    """Return where the lock of an engine lies. Raises ``InvalidArgument`` when the id is no safe file name."""
    if not _ENGINE_ID.fullmatch(engine_id):
        raise InvalidArgument(f"{engine_id[:100]!r} is not an engine id", engine_id=engine_id[:100])
    return Path(state_dir) / f"{engine_id}.lock"


def state_dir_for(place: str | os.PathLike[str]) -> Path:
    """Return the state directory of a store (``LockFile.create`` makes it).

    Of a SQLite file it is ``<file>-engines`` beside it. Symbolic links are followed first, so that all who open one file by
    different names meet in one directory. Of stores on servers it is one per user, since a server goes by many names and
    engines' ids are told apart: ``$XDG_STATE_HOME/relight/engines``, else ``~/.local/state/relight/engines``.
    """
    if isinstance(place, str) and place.startswith("postgresql://"):
        home = os.environ.get("XDG_STATE_HOME")
        return (Path(home) if home else Path.home() / ".local" / "state") / "relight" / "engines"
    file = Path(os.path.realpath(place))
    return file.with_name(f"{file.name}-engines")


def remove(path: Path) -> None:
    """Delete a lock file that has served: of a stopped engine by its owner, of a dead one by whoever recorded that.

    Never before the engine's row says so: the file of a row that is still live is the only proof of its death.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def probe(state_dir: Path, engine_id: str, nonce: str) -> Probe:
    """Look at an engine's lock file without disturbing its owner or other probes. Never raises, never waits."""
    try:
        path = lock_path(state_dir, engine_id)
    except InvalidArgument:
        return Probe(found=False, nonce_matches=False, locked=False, info=None, problem="not an engine id")
    try:
        # Non-blocking, because opening a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return NOT_FOUND
    except OSError as error:
        return _proves_nothing(_describe(error))
    try:
        return _probe_open(fd, nonce)
    except OSError as error:
        return _proves_nothing(_describe(error))
    finally:
        os.close(fd)


def _probe_open(fd: int, nonce: str) -> Probe:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return _proves_nothing("not a regular file")
    info = _unpack(os.pread(fd, _LAYOUT.size + 1, 0))
    if info is None:
        return _proves_nothing("not a lock file of this version")
    if info.nonce != nonce or not nonce:
        return Probe(found=True, nonce_matches=False, locked=False, info=info, problem="another engine's nonce")
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Probe(found=True, nonce_matches=True, locked=True, info=info)
    fcntl.flock(fd, fcntl.LOCK_UN)
    last = _unpack(os.pread(fd, _LAYOUT.size + 1, 0))  # read again: the owner's very last beat
    return Probe(found=True, nonce_matches=True, locked=False, info=last or info)


def _proves_nothing(problem: str) -> Probe:
    return Probe(found=True, nonce_matches=False, locked=False, info=None, problem=problem)


def _describe(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _creation_error(path: Path, error: OSError) -> Exception:
    reason = _describe(error)
    if error.errno in _FULL_OR_ILL:
        return StorageUnavailable(f"cannot create {path}: {reason}; free the disk and start again", path=str(path))
    return ConfigError(
        f"cannot lock {path}: {reason}; the state directory must be local and writable by this user", path=str(path)
    )


def _pack(nonce: str, process: ProcessId, host: str, times: tuple[int, int, int]) -> bytes:
    name = host.encode()[:_HOST_BYTES].decode(errors="ignore").encode()
    return _LAYOUT.pack(
        MAGIC,
        VERSION,
        _LAYOUT.size,
        *times,
        process.pid,
        process.start_ticks,
        process.pid_ns,
        nonce.encode(),
        process.boot_id.encode(),
        name,
    )


def _unpack(record: bytes) -> LockInfo | None:
    if len(record) != _LAYOUT.size:
        return None
    magic, version, size, beat, loop, journal, pid, start, namespace, nonce, boot, host = _LAYOUT.unpack(record)
    if (magic, version, size) != (MAGIC, VERSION, _LAYOUT.size):
        return None
    process = ProcessId(pid, start, namespace, _text(boot))
    return LockInfo(_text(nonce), process, _text(host), beat, loop, journal)


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
