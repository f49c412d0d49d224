"""Ask a person, and wait: in memory for a moment, then as a row in the store.

The engine is stopped while the question is open, and the answer is given through a ``Client``, with no engine running.
The next engine goes on where the first one left.
"""

import time

from relight import Client, Engine, ask, step, workflow
from relight.model import JobState


@step
def draft(topic: str) -> str:
    print("drafting")  # printed once: the second engine reads the checkpoint
    return f"Dear all, {topic}."


@step
def send(text: str) -> None:
    print(f"sent: {text}")


@workflow
def announce(topic: str) -> str:
    text = draft(topic)
    decision = ask("Send it?", preview={"text": text}, timeout_seconds=86_400, on_timeout="reject")
    if decision.choice != "approve":
        return f"not sent ({decision.by})"
    send(text)
    return f"sent, approved by {decision.by}"


if __name__ == "__main__":
    with Engine("approval.db", workflows=[announce], suspend_after_seconds=0.2) as engine:
        job_id = engine.submit(announce, "we ship on Friday").id
        while engine.job(job_id).state() is not JobState.AWAITING_USER:
            time.sleep(0.05)
        print(engine.job(job_id).why().causes[0].code)

    with Client("approval.db", workflows=[announce]) as client:
        client.job(job_id).answer("approve", by="ben", note="looks good")

    with Engine("approval.db", workflows=[announce]) as engine:
        print(engine.job(job_id, type=str).result(timeout_seconds=10))
