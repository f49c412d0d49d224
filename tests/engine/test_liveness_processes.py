"""Promise P3 on real processes: killed, stopped, traced, busy and idle owners of a lock, their heirs, and ``/proc``."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from relight.clock import SystemClock
from relight.engine.liveness import Judge, Judgement, Observation, Subject, observe
from relight.model import Verdict
from relight.proof.lockfile import LockFile, lock_path
from relight.proof.procfs import ProcessId, ProcessView, is_gone, look, own_process, this_host

ENGINE = "0199aaaa-0000-7000-8000-000000000001"
NONCE = "0123456789abcdef" * 2
LEASE = 30_000
PERIOD = LEASE // 3
OTHER_BOOT = "22222222-2222-2222-2222-222222222222"
PROCESS = ProcessId(pid=4711, start_ticks=900, pid_ns=77, boot_id=OTHER_BOOT)

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")


# ---------------------------------------------------------------- /proc


def made_proc(tmp_path: Path, stat: str, status: str = "Name:\tx\nTracerPid:\t0\n") -> str:
    """Make a ``/proc`` that is this process's own and shows one more process, 4711."""
    (tmp_path / "self").symlink_to(str(os.getpid()))
    (tmp_path / str(os.getpid()) / "ns").mkdir(parents=True)
    (tmp_path / str(os.getpid()) / "ns" / "pid").touch()
    (tmp_path / "4711").mkdir()
    (tmp_path / "4711" / "stat").write_text(stat)
    (tmp_path / "4711" / "status").write_text(status)
    return str(tmp_path)


def a_stat(state: str = "S", start: int = 900, threads: int = 3, name: str = "python3") -> str:
    return f"4711 ({name}) {state} 1 2 3 4 5 6 7 8 9 10 111 222 13 14 20 0 {threads} 0 {start} 23 24 25\n"


@needs_proc
@pytest.mark.parametrize("name", ["python3", "a b", "tricky) S 1 (x"])
def test_stat_is_parsed_whatever_the_command_is_called(tmp_path: Path, name: str) -> None:
    proc = made_proc(tmp_path, a_stat("R", name=name), "TracerPid:\t12\n")
    process = replace(PROCESS, pid_ns=(tmp_path / str(os.getpid()) / "ns/pid").stat().st_ino, boot_id=boot())
    assert look(process, proc) == ProcessView(4711, "R", 333, 900, threads=3, tracer_pid=12)


@needs_proc
@pytest.mark.parametrize("stat", ["", "4711 (x", "4711 (x) S 1 2", "4711 (x) S " + "y " * 30, a_stat("Z", threads=1)])
def test_a_stat_that_says_nothing_or_of_an_ended_process_is_not_visible(tmp_path: Path, stat: str) -> None:
    proc = made_proc(tmp_path, stat)
    process = replace(PROCESS, pid_ns=(tmp_path / str(os.getpid()) / "ns/pid").stat().st_ino, boot_id=boot())
    assert look(process, proc) is None


def boot() -> str:
    return this_host().boot_id


@needs_proc
def test_this_process_is_visible_to_itself_and_not_gone() -> None:
    me = own_process()
    view = look(me)
    assert view is not None and (view.pid, view.start_ticks) == (os.getpid(), me.start_ticks)
    assert view.state in "RS" and not view.ended and view.threads >= 1
    assert not is_gone(me)


@needs_proc
def test_a_pid_used_again_is_another_process() -> None:
    before = replace(own_process(), start_ticks=own_process().start_ticks - 1)
    assert look(before) is None
    assert is_gone(before)


@needs_proc
@pytest.mark.parametrize(
    "changes", [{"pid_ns": 1}, {"pid_ns": 0}, {"boot_id": OTHER_BOOT}, {"boot_id": ""}, {"pid": 0}]
)
def test_a_pid_of_another_namespace_or_boot_is_neither_visible_nor_gone(changes: dict[str, object]) -> None:
    foreign = replace(own_process(), start_ticks=1, **changes)  # type: ignore[arg-type]
    assert look(foreign) is None
    assert not is_gone(foreign)


@needs_proc
def test_without_a_known_start_time_only_a_free_pid_is_gone() -> None:
    me = replace(own_process(), start_ticks=0)
    assert look(me) is None
    assert not is_gone(me)


def test_without_proc_nothing_is_visible_and_nothing_gone(tmp_path: Path) -> None:
    assert look(own_process(), str(tmp_path)) is None
    assert not is_gone(replace(own_process(), start_ticks=1), str(tmp_path))


def test_a_host_is_told_by_stable_ids() -> None:
    assert this_host() == this_host()
    assert this_host().host_id and this_host().name


# ---------------------------------------------------------------- real processes

OWNER = """
import ctypes, os, subprocess, sys, threading
from pathlib import Path
from relight.clock import SystemClock
from relight.proof.lockfile import LockFile
clock = SystemClock()
lock = LockFile.create(Path(sys.argv[1]), sys.argv[2], sys.argv[3], clock)

def say(text):
    os.write(1, f"{text}\\n".encode())

"""


@dataclass
class Owner:
    """A child process that holds an engine's lock, and what a judge in this process sees of it."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    judge: Judge

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def heard(self) -> str:
        """Wait for the owner's next line."""
        return self.out.readline().decode().strip()

    def look(self, at: int | None = None) -> Observation:
        row = self.row()
        host, clock = this_host(), SystemClock()
        found = observe(row, self.state_dir, host=host, clock=clock, store_now_ms=clock.now_ms())
        return found if at is None else replace(found, mono_ms=at)

    def row(self) -> Subject:
        """Return the row of an engine that beat a moment ago."""
        now, host = SystemClock().now_ms(), this_host()
        return Subject(ENGINE, NONCE, LEASE, now + LEASE, now, host.host_id, host.boot_id, self.pid)

    def judged(self, at: int | None = None) -> Judgement:
        return self.judge.judge(self.row(), self.look(at))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for_stop(self, flag: int) -> None:
        os.waitpid(self.pid, flag)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[[str], Owner]]:
    """Start owners that run the given code once they hold the lock; end exactly these."""
    started: list[subprocess.Popen[bytes]] = []

    def start(body: str) -> Owner:
        command = [sys.executable, "-c", OWNER + textwrap.dedent(body), str(tmp_path), ENGINE, NONCE]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        started.append(process)
        return Owner(process, tmp_path, Judge(this_host(), time_is_proof=False, period_ms=PERIOD))

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()  # heirs wait for the end of their input and then end, too


IDLE = "lock.beat(clock.now_ms()); say('ready'); sys.stdin.read()"


def test_a_killed_owner_is_dead_at_once_although_its_beat_is_fresh(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    assert engine.heard() == "ready"
    assert engine.judged().verdict is Verdict.ALIVE
    engine.kill()
    judged = engine.judged()
    assert (judged.verdict, judged.reason, judged.evidence["pid"]) == (Verdict.DEAD, "lock_free", engine.pid)
    age_ms = judged.evidence["beat_age_ms"]
    assert isinstance(age_ms, int) and age_ms < LEASE


@needs_proc
def test_an_owner_killed_but_not_reaped_is_dead_and_gone(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    os.kill(engine.pid, signal.SIGKILL)
    os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
    judged = engine.judged()
    assert (judged.verdict, judged.evidence["pid_gone"]) == (Verdict.DEAD, True)


def test_a_released_lock_is_a_death_although_the_process_lives(owner: Callable[[str], Owner]) -> None:
    engine = owner("lock.release(); say('released'); sys.stdin.read()")
    assert engine.heard() == "released"
    judged = engine.judged()
    assert (judged.verdict, judged.evidence["pid_gone"]) == (Verdict.DEAD, False)


@needs_proc
def test_a_stopped_owner_is_silent_and_alive_again_when_continued(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    os.kill(engine.pid, signal.SIGSTOP)
    engine.wait_for_stop(os.WUNTRACED)
    judged = engine.judged()
    assert (judged.verdict, judged.reason) == (Verdict.SILENT, "process_stopped")
    os.kill(engine.pid, signal.SIGCONT)
    engine.wait_for_stop(os.WCONTINUED)
    assert engine.judged().verdict is Verdict.ALIVE
    os.kill(engine.pid, signal.SIGSTOP)
    engine.wait_for_stop(os.WUNTRACED)
    engine.kill()
    assert engine.judged().verdict is Verdict.DEAD


@needs_proc
def test_an_owner_at_a_debuggers_breakpoint_is_silent_after_a_period(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, engine.pid, None, None) != 0:  # PTRACE_ATTACH
        pytest.skip("this machine forbids ptrace of a child")
    os.waitpid(engine.pid, 0)
    try:
        assert engine.judged(at=0).verdict is Verdict.ALIVE
        judged = engine.judged(at=PERIOD)
        assert (judged.verdict, judged.reason) == (Verdict.SILENT, "process_traced")
        assert judged.evidence["tracer_pid"] == os.getpid()
    finally:
        libc.ptrace(17, engine.pid, None, None)  # PTRACE_DETACH


@needs_proc
def test_an_owner_that_hogs_the_gil_for_longer_than_a_lease_is_alive(owner: Callable[[str], Owner]) -> None:
    engine = owner("""
        def beat_for_ever():
            while True:
                lock.beat(clock.now_ms())
        threading.Thread(target=beat_for_ever, daemon=True).start()
        say("hogging")
        while True:
            pow(3, (1 << 400_000) - 1, (1 << 400_000) - 593)  # one C call, minutes long, no GIL for anyone else
    """)
    assert engine.heard() == "hogging"
    before = engine.look(at=0)
    while (after := until_cpu_time_advances(engine, before)).probe != before.probe:
        before = after  # its C call has not begun: it still beats
    assert engine.judge.judge(engine.row(), replace(after, mono_ms=0)).verdict is Verdict.ALIVE
    for leases in (1, 2, 100):
        late = replace(until_cpu_time_advances(engine, after), mono_ms=leases * LEASE)
        assert late.probe == after.probe, "no beat, no loop, no journal: by its signs of life it is dead"
        judged = engine.judge.judge(engine.row(), late)
        assert (judged.verdict, judged.evidence["unchanged_ms"]) == (Verdict.ALIVE, 0)
        after = late


def until_cpu_time_advances(engine: Owner, since: Observation) -> Observation:
    """Look until the process has used CPU time since an observation (one clock tick is 10 ms)."""
    assert since.process is not None
    end = time.monotonic() + 60
    while time.monotonic() < end:
        now = engine.look()
        if now.process is not None and now.process.cpu_ticks > since.process.cpu_ticks:
            return now
        os.sched_yield()
    raise AssertionError("the owner got no CPU time in a minute")


@needs_proc
def test_an_idle_owner_that_shows_no_sign_of_life_is_silent_after_a_lease(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    # It may use a last clock tick on its way into the read, which starts the watch anew: hence three leases.
    first, *later = [engine.judged(at=leases * LEASE) for leases in range(4)]
    assert first.verdict is Verdict.ALIVE
    assert (later[-1].verdict, later[-1].reason) == (Verdict.SILENT, "no_sign_of_life")


HEIR_BY_FORK = """
child = os.fork()
if child == 0:
    say(os.getpid())
    os.read(0, 1)
    os._exit(0)
sys.stdin.read()
"""

HEIR_BY_EXEC = """
child = subprocess.Popen([sys.executable, "-c", "import os; os.write(1, b'%d\\\\n' % os.getpid()); os.read(0, 1)"],
                         close_fds=False)
child.wait()
"""

HEIR_BY_FORK_IN_C = """
fork = ctypes.PyDLL(None).fork  # calls no hook of Python's
if fork() == 0:
    say(os.getpid())
    os.read(0, 1)
    os._exit(0)
sys.stdin.read()
"""


@pytest.mark.parametrize("body", [HEIR_BY_FORK, HEIR_BY_EXEC], ids=["fork", "exec"])
def test_a_child_does_not_keep_a_dead_owners_lock(owner: Callable[[str], Owner], body: str) -> None:
    engine = owner(body)
    heir = int(engine.heard())
    assert engine.judged().verdict is Verdict.ALIVE
    engine.kill()
    os.kill(heir, 0)  # it lives
    assert engine.judged().verdict is Verdict.DEAD


@needs_proc
def test_a_child_forked_in_c_keeps_the_lock_and_its_engine_is_silent_not_dead(owner: Callable[[str], Owner]) -> None:
    engine = owner(HEIR_BY_FORK_IN_C)
    heir = int(engine.heard())
    engine.kill()
    os.kill(heir, 0)
    assert engine.judged(at=0).verdict is Verdict.ALIVE
    judged = engine.judged(at=LEASE)
    assert (judged.verdict, judged.evidence["process"]) == (Verdict.SILENT, "gone")


def test_a_child_forked_in_c_cannot_free_the_lock_of_its_living_parent(owner: Callable[[str], Owner]) -> None:
    engine = owner("""
        fork = ctypes.PyDLL(None).fork
        if fork() == 0:
            lock.release()
            say("released")
            os._exit(0)
        sys.stdin.read()
    """)
    assert engine.heard() == "released"
    assert engine.judged().verdict is Verdict.ALIVE
    engine.kill()
    assert engine.judged().verdict is Verdict.DEAD


def test_probes_of_many_processes_and_threads_agree_on_a_death(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    engine.kill()
    prober = "import sys; from pathlib import Path; from relight.proof.lockfile import probe; sys.stdin.read(1); "
    prober += "print({probe(Path(sys.argv[1]), sys.argv[2], sys.argv[3]).locked for _ in range(2000)})"
    command = [sys.executable, "-c", prober, str(engine.state_dir), ENGINE, NONCE]
    probers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    answers = []
    threads = [threading.Thread(target=lambda p=p: answers.append(p.communicate("g", timeout=60)[0])) for p in probers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.strip() for answer in answers] == ["{False}"] * 4


@needs_proc
def test_without_its_file_a_living_owner_is_alive_and_a_killed_one_dead(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    lock_path(engine.state_dir, ENGINE).unlink()
    judged = engine.judged()
    assert (judged.verdict, judged.evidence["lock"]) == (Verdict.ALIVE, "lock file missing")
    engine.kill()
    assert (engine.judged().verdict, engine.judged().reason) == (Verdict.DEAD, "pid_gone")


def test_a_garbage_file_in_place_of_a_living_owners_lock_proves_nothing(owner: Callable[[str], Owner]) -> None:
    engine = owner(IDLE)
    engine.heard()
    path = lock_path(engine.state_dir, ENGINE)
    path.unlink()
    path.write_bytes(b"\0" * 256)
    assert engine.judged().verdict is Verdict.ALIVE


@needs_proc
def test_a_lock_of_this_process_is_alive_until_released(tmp_path: Path) -> None:
    clock, host = SystemClock(), this_host()
    lock = LockFile.create(tmp_path, ENGINE, NONCE, clock)
    row = Subject(ENGINE, NONCE, LEASE, 0, 0, host.host_id, host.boot_id, os.getpid())
    judge = Judge(host, time_is_proof=True, period_ms=PERIOD)

    def verdict() -> Verdict:
        return judge.judge(row, observe(row, tmp_path, host=host, clock=clock, store_now_ms=clock.now_ms())).verdict

    assert verdict() is Verdict.ALIVE
    lock.release()
    assert verdict() is Verdict.DEAD
