"""What the kernel says of this host and of a process: read from ``/proc``, never guessed.

Owns the reading of ``/proc`` and the names by which a host, a boot and a process are known. A pid alone names nothing
(pids are used again, and mean something else in another pid namespace): a process is known by ``ProcessId``, and
whatever cannot be tied to exactly that process is "not visible". Three answers must be kept apart:

* *visible*: ``look`` returns a view; state, CPU time and start time come from one read of one file;
* *gone*: ``is_gone`` has proof that this very process does not exist any more;
* *not visible*: neither; another pid namespace, another boot, a hidden or foreign ``/proc``, or no ``/proc`` at all.

It must not draw conclusions: that is ``liveness.py``, read that next.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

PROC = "/proc"


@dataclass(frozen=True)
class ProcessId:
    """One process and no other. ``start_ticks`` 0 and ``pid_ns`` 0 and an empty ``boot_id`` mean unknown.

    ``start_ticks`` is field 22 of ``/proc/<pid>/stat``; ``pid_ns`` the inode of its pid namespace. An inode may be
    given to a later namespace, but only once every process of the earlier one has ended.
    """

    pid: int
    start_ticks: int
    pid_ns: int
    boot_id: str


@dataclass(frozen=True)
class ProcessView:
    """What was seen of a process at one moment. ``cpu_ticks`` is user and system time of all its threads."""

    pid: int
    state: str
    cpu_ticks: int
    start_ticks: int
    threads: int = 1
    tracer_pid: int = 0

    @property
    def ended(self) -> bool:
        """Tell whether it has ended and its parent has not noticed yet (a first thread alone may end earlier)."""
        return self.state in {"Z", "X"} and self.threads <= 1

    @property
    def stopped(self) -> bool:
        """Tell whether a signal (SIGSTOP, SIGTSTP, Ctrl-Z) has stopped it."""
        return self.state == "T"

    @property
    def tracing_stop(self) -> bool:
        """Tell whether a tracer (debugger, strace) holds it at this moment."""
        return self.state == "t"


@dataclass(frozen=True)
class Host:
    """This host and boot as seen from this process. ``host_id`` is stable, ``name`` is for people."""

    host_id: str
    boot_id: str
    pid_ns: int
    name: str


def this_host() -> Host:
    """Return this host's identity. Never raises; what cannot be known is empty or 0."""
    return Host(host_id=host_id(), boot_id=boot_id(), pid_ns=pid_namespace(), name=host_name())


def host_name() -> str:
    """Return the host's name as it calls itself; storable text whatever it holds."""
    return os.uname().nodename.encode(errors="replace").decode(errors="replace")


def boot_id() -> str:
    """Return the kernel's random id of this boot (36 characters), or "" where there is none."""
    return _read(f"{PROC}/sys/kernel/random/boot_id").strip()


def pid_namespace(proc: str = PROC) -> int:
    """Return the inode of this process's pid namespace; 0 when unknown or when ``/proc`` belongs to another one.

    A container may have its host's ``/proc`` mounted; pids in it are not our pids. ``/proc/self`` gives it away.
    """
    try:
        if os.readlink(f"{proc}/self") != str(os.getpid()):
            return 0
        return os.stat(f"{proc}/self/ns/pid").st_ino
    except OSError:
        return 0


def host_id() -> str:
    """Return a stable id of this host *and* pid namespace: ``<machine>-<namespace>``, hexadecimal.

    Equal ids on one boot mean: the same pids mean the same processes. The machine part is a hash (systemd asks that
    the machine id itself is not shown around), of the host's name where there is no machine id.
    """
    machine = _read("/etc/machine-id").strip()
    known = machine if len(machine) == 32 else host_name()
    return f"{hashlib.sha256(f'relight:{known}'.encode()).hexdigest()[:12]}-{pid_namespace():x}"


def own_process() -> ProcessId:
    """Return the identity of the calling process."""
    pid = os.getpid()
    stat = _stat(pid, PROC)
    return ProcessId(pid, stat.start_ticks if stat else 0, pid_namespace(), boot_id())


def look(process: ProcessId, proc: str = PROC) -> ProcessView | None:
    """Return a view of exactly this process, or None when it is not visible from here (or is no more)."""
    if not _is_ours(process, proc) or process.start_ticks == 0:
        return None
    # status before stat: if the pid changes hands between the two, the start time no longer fits.
    tracer = _tracer(process.pid, proc)
    view = _stat(process.pid, proc)
    if view is None or view.ended or view.start_ticks != process.start_ticks:
        return None
    return replace(view, tracer_pid=tracer)


def is_gone(process: ProcessId, proc: str = PROC) -> bool:
    """Tell whether this very process is proved to run no more: its pid is free, or of a process ended or begun since.

    False means "not proved". ``kill(pid, 0)`` and not a missing directory is the proof, because a ``/proc`` mounted
    with ``hidepid`` has no directory for the living processes of other users.
    """
    if not _is_ours(process, proc):
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    view = _stat(process.pid, proc)
    return view is not None and (view.ended or process.start_ticks not in (0, view.start_ticks))


def _is_ours(process: ProcessId, proc: str) -> bool:
    """Tell whether the pid means the same here as where it was written down."""
    if process.pid <= 0 or process.pid_ns == 0 or not process.boot_id:
        return False
    return process.pid_ns == pid_namespace(proc) and process.boot_id == boot_id()


def _stat(pid: int, proc: str) -> ProcessView | None:
    """Parse ``/proc/<pid>/stat``. The command's name (field 2) may hold blanks and parentheses: count from its end."""
    fields = _read(f"{proc}/{pid}/stat").rpartition(")")[2].split()
    try:
        return ProcessView(pid, fields[0], int(fields[11]) + int(fields[12]), int(fields[19]), int(fields[17]))
    except (IndexError, ValueError):
        return None


def _tracer(pid: int, proc: str) -> int:
    for line in _read(f"{proc}/{pid}/status").splitlines():
        if line.startswith("TracerPid:"):
            return int(line.partition(":")[2])
    return 0


def _read(path: str) -> str:
    """Return a small text file's content, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
