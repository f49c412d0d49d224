"""The demo's director: starts the engine as a child process, kills it at random moments, starts it again, checks.

Nothing here is taken on trust from the engine: kills are timed by the witness file, reruns are counted from it, the
census is compared with one that nobody interrupted. One rule of order: after a kill, first the dead child's witness is
read, then the store, then the next child starts. Read next: ``receipt.py``.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import msgspec

from relight.cli.demo import evidence
from relight.cli.demo.plan import DemoOptions, Kill, Plan, make_plan
from relight.cli.demo.process import Child
from relight.cli.demo.receipt import Expected, Receipt, broken_promises, render_receipt, tell_story
from relight.cli.demo.report import Census, printable
from relight.cli.demo.talk import News, Orders
from relight.cli.demo.witness import Ledger, Tail
from relight.errors import RelightError

__all__ = ["DemoOptions", "run_demo"]

QUIET_SECONDS = 120
"""A child that neither reports nor works for so long has hung (P12)."""

RESUME_POLL_SECONDS = 0.1
BAR_SECONDS = 0.1


class Screen:
    """Lines for whoever watches, and a progress bar on a terminal only."""

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self._out = out
        self._quiet = quiet
        self._has_bar = not quiet and out.isatty()
        self._next_bar = 0.0

    def line(self, text: str) -> None:
        """Print a line, above the bar."""
        if not self._quiet:
            print(f"\r\x1b[K{text}" if self._has_bar else text, file=self._out, flush=True)

    def bar(self, done: int, total: int) -> None:
        """Draw how far the work is."""
        if self._has_bar and time.monotonic() >= self._next_bar:
            self._next_bar = time.monotonic() + BAR_SECONDS
            cells = 30 * done // max(total, 1)
            print(f"\r\x1b[K  [{'#' * cells:<30}] {done:,} of {total:,} steps", end="", file=self._out, flush=True)


class Show:
    """One census over as many lives of the engine as there are kills, plus one."""

    def __init__(self, orders: Orders, steps: int, screen: Screen, kills: list[Kill]) -> None:
        self._orders = orders
        self._steps = steps
        self._screen = screen
        self._kills = list(kills)
        self._after_seq = evidence.last_seq(orders.store)
        self._stalled_seen = 0
        self._resumes_due = 0
        self._next_look = 0.0
        self._is_done = False
        self.tail = Tail(orders.witness)
        self.ledger = Ledger()
        self.gate_ms: list[float] = []
        self.jobs: set[str] = set()
        self.crashes = 0

    def run(self) -> None:
        """Run to the end. Raises ``RelightError`` when an engine fails or hangs instead of being killed."""
        while not self._is_done:
            with Child(self._orders, Path(self._orders.witness).with_name("engine.log")) as child:
                self._watch(child, self._kills[0] if self._kills else None)

    def _watch(self, child: Child, kill: Kill | None) -> None:
        heard_at = time.monotonic()
        while True:
            has_ended = child.has_ended()  # Asked first: what it said before its end is read below.
            news = child.news()
            for item in news:
                self._hear(child, item)
            if self.tail.read() or news:
                heard_at = time.monotonic()
            if has_ended:
                return self._meet_end(child)
            if kill and self._is_due(child, kill):
                return self._kill(child, kill)
            if time.monotonic() - heard_at > QUIET_SECONDS:
                raise child.failure(f"has done nothing for {QUIET_SECONDS} s")
            self._look_for_resumes()
            self._screen.bar(len(self.tail.ended), self._steps)

    def _meet_end(self, child: Child) -> None:
        if not self._is_done or child.exit_code != 0:
            raise child.failure(f"ended by itself with exit code {child.exit_code}")

    def _is_due(self, child: Child, kill: Kill) -> bool:
        return len(self.tail.ended) >= kill.after_steps and bool(self.tail.under_way.get(child.pid))

    def _kill(self, child: Child, kill: Kill) -> None:
        time.sleep(kill.delay_seconds)
        child.kill()
        for news in child.news():
            self._hear(child, news)
        self.tail.read()
        if self._is_done:
            return  # It was faster than the kill: no work was in flight, so this is no crash.
        if child.exit_code != -signal.SIGKILL:
            raise child.failure(f"ended by itself with exit code {child.exit_code}")
        self._kills.pop(0)
        self.crashes += 1
        self.ledger.crash(self.tail.offset, evidence.finished_steps(self._orders.store))
        under_way = len(self.tail.under_way.get(child.pid, ()))
        self._screen.line(
            f"kill -9 {child.pid} after {len(self.tail.ended):,} of {self._steps:,} steps, {under_way} under way"
        )

    def _hear(self, child: Child, news: News) -> None:
        match news.event:
            case "started":
                self._screen.line(f"engine started (pid {child.pid}): gate closed")
            case "gate_open":
                self._gate_opened(news.ms)
            case "submitted":
                self.jobs.update(news.jobs)
            case "failed":
                raise child.failure(f"failed: {news.detail}")
            case "done":
                self._is_done = True

    def _gate_opened(self, ms: float) -> None:
        self.gate_ms.append(ms)
        tally = evidence.count_events(self._orders.store, self._after_seq)
        stalled = tally.stalled - self._stalled_seen
        self._stalled_seen = tally.stalled
        self._resumes_due = stalled
        if stalled:
            self._screen.line(f"  {stalled} jobs stalled")
        self._screen.line(f"  gate open after {ms:.0f} ms")

    def _look_for_resumes(self) -> None:
        if not self._resumes_due or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + RESUME_POLL_SECONDS
        if evidence.count_events(self._orders.store, self._after_seq).resumed >= self._stalled_seen:
            self._screen.line(f"  {self._resumes_due} jobs resumed")
            self._resumes_due = 0

    def tally(self) -> evidence.Tally:
        """Count what was recorded since the show began; stalls and resumes of its own jobs only."""
        return evidence.count_events(self._orders.store, self._after_seq, frozenset(self.jobs))

    def most_stalled(self) -> str | None:
        """Name the job whose story is worth telling."""
        return evidence.most_stalled(self._orders.store, self._after_seq, frozenset(self.jobs))


def run_demo(options: DemoOptions, out: TextIO) -> int:
    """Run the demo and print what happened to ``out``; return 0 when every promise held, else 1.

    Raises: ``InvalidArgument`` for a folder, store or number that cannot be used (nothing was started);
    ``RelightError`` when an engine failed or hung.
    """
    begun = time.monotonic()
    plan = make_plan(options)
    screen = Screen(out, quiet=options.json)
    screen.line(
        f"census of {printable(plan.orders.folder)}: {len(plan.listing.files):,} files, {plan.jobs} jobs, "
        f"{options.crashes} crashes, seed {plan.seed}"
    )
    if plan.orders.pace_seconds:
        screen.line(f"(few files: each step takes at least {1000 * plan.orders.pace_seconds:.0f} ms, to be killed in)")
    show = Show(plan.orders, plan.steps, screen, plan.kills)
    show.run()
    screen.line("all jobs are done; once more without crashes, in a fresh store, to compare")
    is_identical = equals_uninterrupted(plan, screen)
    receipt, expected, findings = check(plan, show, is_identical, begun)
    broken = [*broken_promises(receipt, expected), *(f"verify found: {printable(it)}" for it in findings)]
    if options.json:
        print(msgspec.json.encode(receipt).decode(), file=out, flush=True)
        sys.stderr.writelines(f"BROKEN: {sentence}\n" for sentence in broken)
        sys.stderr.write(f"store: {plan.place}\n")
    else:
        _print_end(plan, show, screen, render_receipt(receipt, broken))
    return 1 if broken else 0


def equals_uninterrupted(plan: Plan, screen: Screen) -> bool:
    """Run the same census with nobody in its way, in a fresh store; tell whether it wrote the same bytes."""
    with tempfile.TemporaryDirectory(prefix="relight-demo-reference-") as place:
        witness = Path(place, "witness.jsonl")
        witness.touch()
        orders = msgspec.structs.replace(
            plan.orders, store=f"{place}/relight.db", out_folder=place, witness=str(witness), pace_seconds=0.0
        )
        Show(orders, plan.steps, screen, []).run()
        return all(
            Path(place, name).read_bytes() == Path(plan.orders.out_folder, name).read_bytes()
            for name in ("census.json", "census.html")
        )


def check(plan: Plan, show: Show, is_identical: bool, begun: float) -> tuple[Receipt, Expected, list[str]]:
    """Put the receipt together, with what it is held against and what ``verify`` found."""
    store = plan.orders.store
    tally = show.tally()
    written = Path(plan.orders.out_folder, "census.json").read_bytes()
    census = msgspec.json.decode(written, type=Census)
    findings = verify(store)
    receipt = Receipt(
        files=len(plan.listing.files),
        jobs=len(show.jobs),
        steps=sum(job_id in show.jobs for job_id, _ in evidence.finished_steps(store)),
        crashes=show.crashes,
        stalled=tally.stalled,
        resumed=tally.resumed,
        in_doubt=tally.in_doubt,
        finished_steps_rerun=len(show.ledger.reruns(show.tail.lines)),
        lost_jobs=len(show.jobs - evidence.completed_jobs(store)),
        gate_ms=show.gate_ms,
        events=tally.events,
        verify=f"{len(findings)} findings" if findings else "ok",
        identical=is_identical,
        census_sha256=hashlib.sha256(written).hexdigest(),
        seconds=round(time.monotonic() - begun, 1),
    )
    counted = len(census.files) + len(census.problems) - len(plan.listing.problems)
    witnessed = sum(job_id in show.jobs for job_id, _ in show.tail.ended)
    return receipt, Expected(len(plan.kills), plan.jobs, counted, witnessed), findings


def verify(store: str) -> list[str]:
    """Return what ``relight verify`` finds wrong with a store."""
    from relight.recorder.verify import verify_store

    report = verify_store(store)
    return [] if report.ok else [str(finding) for finding in report.findings] or ["verify said no, without a finding"]


def _print_end(plan: Plan, show: Show, screen: Screen, receipt: Iterable[str]) -> None:
    for text in receipt:
        screen.line(text)
    stalled = show.most_stalled()
    if stalled:
        screen.line("")
        try:
            for text in tell_story(plan.orders.store, stalled):
                screen.line(text)
        except RelightError as error:
            screen.line(f"  no story: {error}")
    screen.line("")
    screen.line(f"store    {plan.place}")
    screen.line(f"census   {plan.orders.out_folder}/census.html")
    screen.line(f"witness  {plan.orders.witness}")
