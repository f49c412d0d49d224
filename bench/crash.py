"""W5: an engine is killed with many jobs in flight; another one starts at once. When does its gate open, when is all done?

Every job has one finished step and one in flight. ``gate`` counts from before ``Engine.start`` (the store is opened in
it) to the open gate: by then each run is stalled, with its audit event, its step in doubt. ``done`` goes on to the last
job's end on disk.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from bench import jobs
from bench.engines import engine_at, running, wait_for_gate, wait_until_done
from bench.figures import Measured, Sizes
from bench.floor import batches, floor_at
from bench.place import Place
from relight.core.commands import JobRef
from relight.core.commands.engines import StallRunNow
from relight.ids import JobId, RunId
from relight.model import Verdict
from relight.store.open import store_at

GROUP = 1_000


def relight_few(place: Place, sizes: Sizes) -> Measured:
    """The smaller crash."""
    return _restart(place, sizes.crashed[0], sizes.best_slots)


def relight_many(place: Place, sizes: Sizes) -> Measured:
    """The larger crash."""
    return _restart(place, sizes.crashed[-1], sizes.best_slots)


def _restart(place: Place, n: int, slots: int) -> Measured:
    crash(place, n)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with engine_at(place, slots=slots) as engine:
        wait_for_gate(engine)
        gate_ms = (time.perf_counter() - began) * 1000
        growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        with engine.core.store.reading() as reads:
            receipt = reads.recoveries(limit=1)[0]
        done_s = wait_until_done(engine) - began
    if receipt.stalled != n:
        raise AssertionError(f"{receipt.stalled} runs were stalled, not {n}")
    detail = {
        "done_s": round(done_s, 3),
        "recovery_ms": receipt.duration_ms,
        "in_doubt": receipt.in_doubt,
        "rss_growth_mib": round(growth_kib / 1024, 1),
    }
    return Measured(gate_ms, "ms", {"in_flight": n, "slots": slots}, detail)


def crash(place: Place, n: int) -> None:
    """Leave a store as a killed engine leaves it, with ``n`` jobs in flight."""
    holder = subprocess.Popen(
        [sys.executable, "-m", "bench.crash", place.text(), str(n)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout as out:
        said = out.readline()
    holder.kill()
    holder.wait(timeout=20)
    if said != "ready\n":
        raise AssertionError("the engine that was to be killed ended by itself")


def floor_few(place: Place, sizes: Sizes) -> Measured:
    """The smaller crash, by hand."""
    return _floor(place, sizes.crashed[0])


def floor_many(place: Place, sizes: Sizes) -> Measured:
    """The larger crash, by hand."""
    return _floor(place, sizes.crashed[-1])


def _floor(place: Place, n: int) -> Measured:
    """Stall every run of the dead engine, with its event, a thousand a transaction. Nothing is judged."""
    crash(place, n)
    commands = _stalls(place)
    if len(commands) != n:
        raise AssertionError(f"{len(commands)} runs are running, not {n}")
    floor = floor_at(place)
    took = floor.write([floor.prepare(some) for some in batches(commands, GROUP)])
    return Measured(took * 1000, "ms", {"in_flight": n, "group": GROUP})


def _stalls(place: Place) -> list[StallRunNow]:
    store = store_at(place.store, durability=place.durability)
    store.open(create=False)
    with store.reading() as reads:
        owner = reads.engines()[0]
        runs = reads.running_of(owner.engine_id, limit=1_000_000)
    store.close()
    return [
        StallRunNow(
            job=JobRef(JobId(run.job_id), run.trace_id or "", "", RunId(run.run_id)),
            owner=owner.engine_id,
            verdict=Verdict.DEAD,
            evidence={"lock": "free", "pid": owner.pid},
            recovery_id=owner.engine_id,
            judge=owner.engine_id,
            last_heartbeat_ts="2026-01-01T00:00:00.000Z",
            threshold_secs=30,
            in_doubt=tuple(run.in_doubt),
            held=False,
        )
        for run in runs
    ]


def main() -> None:
    place, n = Place.of(sys.argv[1]), int(sys.argv[2])
    jobs.hold_steps.set()
    with running(place, slots=n) as engine:
        engine.submit_many(jobs.two_steps.bind(i) for i in range(n))
        while len(jobs.held) < n or engine.health()["journal_waiting"]:
            time.sleep(0.01)
        time.sleep(0.1)
        print("ready", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
