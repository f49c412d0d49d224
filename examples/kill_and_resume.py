"""kill -9 in the middle of a job, and start again at once: finished steps are not run again.

The first engine runs in a child process, which is killed while its third step sleeps. The second engine starts a moment
later, finds the first one dead by its free lock, accounts for what it left, and resumes the job from its checkpoints.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from relight import Client, Engine, step, workflow

STORE = "kill.db"


@step
def copy(number: int) -> int:
    with Path("calls.txt").open("a") as file:
        file.write(f"{number}\n")
    if number == 3 and os.environ.get("DIE"):
        time.sleep(60)
    return number * number


@workflow
def squares(n: int) -> int:
    return sum(copy(number) for number in range(1, n + 1))


def first_life(key: str) -> None:
    os.environ["DIE"] = "1"
    with Engine(STORE, workflows=[squares]) as engine:
        engine.submit(squares, 5, idempotency_key=key).result()


def main() -> None:
    calls = Path("calls.txt")
    calls.write_text("")
    key = f"squares-{os.getpid()}"
    child = subprocess.Popen([sys.executable, __file__, key])
    while "3" not in calls.read_text():
        time.sleep(0.02)
    time.sleep(0.1)  # the step began; its record rides along with the next commit, within 20 ms
    child.kill()
    child.wait()
    with Client(STORE, workflows=[squares]) as client:
        print("after kill -9:", client.job(kind="squares", idempotency_key=key).state())
    with Engine(STORE, workflows=[squares]) as engine:
        job = engine.job(kind="squares", idempotency_key=key)
        print("result:", job.result(timeout_seconds=20), "attempt:", job.info().attempt)
        for event in job.events():
            if event.type == "workflow_recovery":
                print("recovered:", event.payload["verdict"], event.payload["in_doubt_steps"])
    print("calls:", calls.read_text().split())


if __name__ == "__main__":
    first_life(sys.argv[1]) if sys.argv[1:] else main()
