"""Kill the standard scenario at every durable boundary, restart it, and audit what comes out.

``python tests/killing/everywhere.py [--every K] [--nested]``: forks a child for each boundary N = 1, 1 + K, …; the child
kills itself with SIGKILL when it reaches its N-th one (before or after a commit, in recovery, before a step). It is run again
until it comes through: with ``--nested`` the first restart is killed too, in the middle of its recovery. Prints one JSON
line: how many points, how many runs, how many violations, and the violations.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import apsw

sys.path.insert(0, str(Path(__file__).parent))

import scenario

from relight import Client
from relight.errors import JobCancelled
from relight.recorder.verify import verify_store

STUCK_SECONDS = 30


class Killer:
    """Counts boundaries, and ends the process at one of them."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.count = 0

    def __call__(self, _name: str) -> None:
        self.count += 1
        if self.count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(folder: Path, call: Callable[[], object]) -> tuple[bool, str]:
    """Call something in a forked child; tell whether it came through, and what it said if it failed.

    This process never starts a thread: a fork beside one that holds a lock would leave the child waiting for ever.
    """
    said = folder / "said"
    said.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        stacks = (folder / "stacks").open("w")
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=stacks)
        try:
            call()
            code = 0
        except BaseException as error:  # boundary: a forked child must never return into its parent's code
            said.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False, ""
    stacks_text = (folder / "stacks").read_text()
    if stacks_text:
        return False, f"stuck for {STUCK_SECONDS} s:\n{stacks_text}"
    return os.WEXITSTATUS(status) == 0, said.read_text() if said.exists() else ""


def run_child(folder: Path, at: int | None) -> tuple[bool, str]:
    """Run the scenario in a forked child that is to be killed at a boundary, or never."""
    return in_child(folder, lambda: scenario.run(folder, Killer(at)))


def audited(folder: Path) -> list[str]:
    """Return what is wrong with a finished scenario, found out in a child."""
    path = folder / "findings"
    through, said = in_child(folder, lambda: path.write_text(json.dumps(audit(folder))))
    return json.loads(path.read_text()) if through else [f"the audit failed: {said}"]


def finished_steps(folder: Path) -> set[str]:
    """Return ``job key`` of every step whose outcome is on disk."""
    if not (folder / "jobs.db").exists():
        return set()
    db = apsw.Connection(str(folder / "jobs.db"))
    try:
        rows = list(
            db.execute("SELECT job_id || ' ' || step_key FROM steps WHERE state = 'completed' AND kind = 'step'")
        )
    except apsw.SQLError:
        return set()  # killed before the schema was there
    finally:
        db.close()
    return {key for (key,) in rows}


def begun_steps(folder: Path) -> list[str]:
    """Return the steps called so far, in order."""
    path = folder / "begun"
    return path.read_text().splitlines() if path.exists() else []


def audit(folder: Path) -> list[str]:
    """Return what is wrong with a finished scenario."""
    found = [f"{f.invariant}: {f.detail}" for f in verify_store(str(folder / "jobs.db")).findings]
    with Client(
        str(folder / "jobs.db"),
        workflows=[
            scenario.steps,
            scenario.waits,
            scenario.asks,
            scenario.victim,
            scenario.outside,
            scenario.races,
            scenario.araces,
        ],
    ) as client:
        state = client.job(kind="outside", idempotency_key=scenario.KEY).published("state", type=str, timeout_seconds=0)
        if state != "done":
            found.append(f"an older value was published last: {state}")
        for kind, (state, result) in scenario.EXPECTED.items():
            job = client.job(kind=kind, idempotency_key=scenario.KEY)
            info = job.info()
            if info.state != state:
                found.append(f"{kind} is {info.state} ({info.status_reason}), not {state}: {job.why().summary}")
            elif result is not None and job.result(timeout_seconds=1) != result:
                found.append(f"{kind} gave {job.result(timeout_seconds=1)!r}, not {result!r}")
            elif result is None:
                try:
                    job.result(timeout_seconds=1)
                    found.append(f"{kind} gave a result")
                except JobCancelled:
                    pass
    complaints = folder / "complaints"
    found += complaints.read_text().splitlines() if complaints.exists() else []
    charged = (folder / "charged").read_text().splitlines() if (folder / "charged").exists() else []
    if len(charged) != len(set(charged)) or len(charged) != 1:
        found.append(f"charged {len(charged)} times: {charged}")
    return found


def kill_at(point: int, *, nested: bool) -> tuple[bool, int, list[str]]:
    """Kill at one point and bring the scenario through; return whether the kill landed, the runs, the violations."""
    folder = Path(tempfile.mkdtemp(prefix="relight-kill-"))
    violations: list[str] = []
    landed = False
    try:
        kills = [point, *([point % 23 + 1] if nested else []), None]
        for runs, at in enumerate(kills, start=1):
            done_before, begun_before = finished_steps(folder), len(begun_steps(folder))
            through, said = run_child(folder, at)
            again = done_before.intersection(begun_steps(folder)[begun_before:])
            violations += [f"finished step ran again: {key}" for key in again]
            if said:
                violations.append(said)
            landed = landed or (runs == 1 and not through)
            if through:
                break
        else:
            violations.append("it did not come through")
        if not violations or through:
            violations += audited(folder)
        return landed, runs, [f"point {point}: {each}" for each in violations]
    finally:
        if not violations or "--keep" not in sys.argv:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run all points; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--nested", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    points = runs = 0
    violations: list[str] = []
    for point in itertools.count(options.first, options.every):
        landed, more, found = kill_at(point, nested=options.nested)
        runs += more
        violations += found
        if not landed:
            break
        points += 1
    print(json.dumps({"points": points, "runs": runs, "violations": len(violations), "found": violations[:20]}))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
