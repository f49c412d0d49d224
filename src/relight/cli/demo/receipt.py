"""The receipt: what happened, what was promised, and which promise did not hold.

Pure, apart from ``tell_story``, which asks a client. ``broken_promises`` is where the demo can say no. This is the
last page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import msgspec

from relight.cli.demo.report import printable
from relight.ids import short
from relight.model import Event


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What ``relight demo --json`` prints.

    ``files`` are the Python files found. ``steps`` are recorded outcomes. ``gate_ms`` has one figure for each start of
    the engine, the first included: from ``start()`` to the open gate. ``events`` counts what this demo added to the
    record. ``verify`` is ``ok`` or says how much was found. ``identical``: both written files equal, byte for byte,
    those of a run that nobody interrupted.
    """

    files: int
    jobs: int
    steps: int
    crashes: int
    stalled: int
    resumed: int
    in_doubt: int
    finished_steps_rerun: int
    lost_jobs: int
    gate_ms: list[float]
    events: int
    verify: str
    identical: bool
    census_sha256: str
    seconds: float


@dataclass(frozen=True)
class Expected:
    """What is known without the engine: the plan, the witness, and the file on disk."""

    crashes: int
    jobs: int
    files_counted: int
    steps_witnessed: int


def broken_promises(receipt: Receipt, expected: Expected) -> list[str]:
    """Return one sentence for each promise that did not hold; none when all held."""
    checks = (
        (receipt.crashes == expected.crashes, f"only {receipt.crashes} of {expected.crashes} kills met work in flight"),
        (receipt.jobs == expected.jobs, f"{receipt.jobs} jobs were accepted for {expected.jobs} submitted under a key"),
        (receipt.lost_jobs == 0, f"{receipt.lost_jobs} accepted jobs did not complete"),
        (receipt.finished_steps_rerun == 0, f"{receipt.finished_steps_rerun} finished steps ran again"),
        (
            receipt.steps == expected.steps_witnessed,
            f"{receipt.steps} steps are recorded, {expected.steps_witnessed} were seen to end",
        ),
        (
            receipt.resumed == receipt.stalled,
            f"{receipt.stalled} jobs were stalled, {receipt.resumed} resumed",
        ),
        (receipt.verify == "ok", f"verify: {receipt.verify}"),
        (
            receipt.files == expected.files_counted,
            f"{receipt.files} files were found, {expected.files_counted} are in the census",
        ),
        (receipt.identical, "the census differs from that of an uninterrupted run"),
    )
    return [sentence for held, sentence in checks if not held]


def render_receipt(receipt: Receipt, broken: list[str]) -> Iterator[str]:
    """Yield the lines of the readable receipt."""
    yield "receipt"
    for name, value in (
        ("files", f"{receipt.files:,}"),
        ("jobs", f"{receipt.jobs:,} ({receipt.lost_jobs} lost)"),
        ("steps", f"{receipt.steps:,}"),
        ("crashes", f"{receipt.crashes} (kill -9)"),
        ("stalled", f"{receipt.stalled}, resumed {receipt.resumed}"),
        ("steps in doubt", f"{receipt.in_doubt} (cut off; run again)"),
        ("finished, run again", f"{receipt.finished_steps_rerun}"),
        ("start to gate open", f"{', '.join(f'{ms:.0f}' for ms in receipt.gate_ms)} ms"),
        ("audit events", f"{receipt.events:,}"),
        ("verify", receipt.verify),
        ("census", f"{'identical to' if receipt.identical else 'DIFFERS from'} an uninterrupted run"),
        ("sha256", receipt.census_sha256),
        ("took", f"{receipt.seconds:.1f} s"),
    ):
        yield f"  {name:<20} {value}"
    if broken:
        yield from (f"  BROKEN: {sentence}" for sentence in broken)
    else:
        yield "  every promise held"


def tell_story(store: str, job_id: str) -> Iterator[str]:
    """Yield what ``why`` says of a job, then its events in order, runs of step events drawn together."""
    from relight import Client

    with Client(store) as client:
        job = client.job(job_id)
        yield f"the story of {short(job_id)}, a job that stalled"
        yield f"  {printable(job.why().summary)}"
        yield from event_lines(job.events())


def event_lines(events: Iterable[Event]) -> Iterator[str]:
    """Yield a line for each event, and one for each stretch of steps."""
    for is_step, stretch in groupby(events, key=lambda event: event.type.startswith("step_")):
        if not is_step:
            yield from map(_event_line, stretch)
            continue
        known = list(stretch)
        finished = sum(event.type == "step_finished" for event in known)
        yield f"  {known[0].timestamp:%H:%M:%S.%f}"[:-3] + f"  … {finished} steps finished"


def _event_line(event: Event) -> str:
    said = event.payload
    detail = {
        "workflow_recovery": lambda: f"{said.get('verdict')}: {said.get('reason')}",
        "run_started": lambda: f"attempt {said.get('attempt')}",
        "job_resumed": lambda: f"from {said.get('from_state')}",
    }.get(event.type, lambda: "")()
    return f"  {event.timestamp:%H:%M:%S.%f}"[:-3] + f"  {event.type:<18} {printable(detail)}".rstrip()
