"""The server goes away under load: stopped in the middle, away for longer than a lease, killed and replaced by its standby.

Each time: what was acknowledged is there, no step runs twice, nobody is declared dead, and work goes on by itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.flow.kit import Probe, eventually
from tests.postgres import Server

from relight import Client, Engine, Job, step, workflow
from relight.engine import incarnation
from relight.errors import StorageUnavailable
from relight.model import JobState
from relight.proof.procfs import this_host
from relight.recorder.verify import verify_store

PATIENCE_SECONDS = 60.0
GOES_ON_WITHIN_SECONDS = 5.0
SYNCED = {"fsync": "on", "full_page_writes": "on"}
STEPS = 4
TwoEngines = Callable[[str, float], list[Engine]]

ran: Counter[tuple[str, int]] = Counter()
"""How often each step of each job was called."""
_lock = threading.Lock()


@step
async def note(key: str, n: int) -> int:
    with _lock:
        ran[key, n] += 1
    return n


@workflow
async def count(key: str) -> int:
    total = 0
    for n in range(STEPS):
        total += await note(key, n)
    return total


class Load:
    """A client that submits job after job, each under its key until it is acknowledged, and what was acknowledged."""

    def __init__(self, store: str, name: str) -> None:
        self._store, self._name = store, name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: dict[str, str] = {}
        self.refusals = 0
        self.failed: BaseException | None = None

    def _run(self) -> None:
        try:
            with Client(self._store, workflows=[count]) as client:
                while not self._over.is_set():
                    key = f"{self._name}-{len(self.acknowledged)}"
                    try:
                        self.acknowledged[key] = client.submit(count.bind(key).options(idempotency_key=key)).id
                    except StorageUnavailable:
                        self.refusals += 1
                    self._over.wait(0.005)
        except BaseException as error:  # boundary: told to the test
            self.failed = error

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)
        assert self.failed is None, self.failed

    def goes_on(self, jobs: int = 20) -> None:
        """Wait until so many more jobs were acknowledged."""
        upto = len(self.acknowledged) + jobs
        eventually(lambda: len(self.acknowledged) >= upto or self.failed, f"{jobs} more jobs", seconds=PATIENCE_SECONDS)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@contextmanager
def serving(**settings: str) -> Iterator[Server]:
    server = Server(settings={**SYNCED, **settings})
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def two_engines(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoEngines:
    """Start two engines, each as on a host of its own: neither can see the other's process or lock, only its lease."""

    def started(store: str, lease_seconds: float) -> list[Engine]:
        ran.clear()
        engines = []
        for n in range(2):
            host = replace(this_host(), host_id=f"host-{n}", boot_id=f"boot-{n}", name=f"host-{n}")
            monkeypatch.setattr(incarnation, "this_host", lambda host=host: host)
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"host-{n}"))
            engine = Engine(store, workflows=[count], lease_seconds=lease_seconds, name=f"engine {n}")
            engine.probe = Probe()
            engines.append(stack.enter_context(engine))
        return engines

    return started


def seconds_until_a_job_runs(store: str, key: str) -> float:
    """Return how long it takes from now until a new job has run to its end."""
    began = time.monotonic()
    with Client(store, workflows=[count]) as client:
        job = eventually(lambda: _submitted(client, key), "a job is accepted", seconds=PATIENCE_SECONDS)
        assert job.result(timeout_seconds=PATIENCE_SECONDS) == sum(range(STEPS))
    return time.monotonic() - began


def _submitted(client: Client, key: str) -> Job[int] | None:
    try:
        return client.submit(count.bind(key).options(idempotency_key=key))
    except StorageUnavailable:
        return None


def assert_nothing_lost_nothing_repeated(store: str, load: Load, engines: list[Engine]) -> None:
    core = engines[0].core

    def unfinished() -> int:
        with core.store.reading() as reads:
            return sum(n for state, n in reads.count_in_states().items() if state is not JobState.COMPLETED)

    eventually(lambda: unfinished() == 0, "all jobs are completed", seconds=PATIENCE_SECONDS)
    stored = {job.id for job in engines[0].jobs(kind="count", limit=0)}
    assert set(load.acknowledged.values()) <= stored
    assert len(ran) == STEPS * len(stored)
    assert set(ran.values()) == {1}, {call: times for call, times in ran.items() if times > 1}
    with core.store.reading() as reads:
        states = {each.name: each.state for each in reads.engines(limit=0) if each.role == "engine"}
        stalled = [each.stalled for each in reads.recoveries()]
        hosts = {each.host_id for each in reads.engines(limit=0) if each.role == "engine"}
    assert hosts == {"host-0", "host-1"}
    assert states == {"engine 0": "live", "engine 1": "live"}, "somebody was declared dead"
    assert not any(stalled)
    report = verify_store(store)
    assert report.ok, report.findings[:10]


def test_a_server_that_is_stopped_five_times_under_load_loses_and_repeats_nothing(
    stack: ExitStack, two_engines: TwoEngines
) -> None:
    server = stack.enter_context(serving())
    store = server.address(server.new_database())
    engines = two_engines(store, 30)
    took = []
    with Load(store, "load") as load:
        for n in range(5):
            load.goes_on()
            server.control("stop", "-m", "immediate")
            server.start()
            took.append(seconds_until_a_job_runs(store, f"after stop {n}"))
    assert max(took) < GOES_ON_WITHIN_SECONDS, took
    assert_nothing_lost_nothing_repeated(store, load, engines)


@pytest.mark.parametrize(
    ("lease_seconds", "away_seconds"), [(4, 6), pytest.param(30, 40, marks=pytest.mark.slow)], ids=["short", "whole"]
)
def test_an_outage_longer_than_a_lease_makes_nobody_declare_anybody_dead(
    stack: ExitStack, two_engines: TwoEngines, lease_seconds: float, away_seconds: float
) -> None:
    server = stack.enter_context(serving())
    store = server.address(server.new_database())
    engines = two_engines(store, lease_seconds)
    early, late = (engine.probe for engine in engines)
    assert isinstance(early, Probe) and isinstance(late, Probe)
    with Load(store, "load") as load:
        load.goes_on()
        late.hold("before_commit")
        server.control("stop", "-m", "immediate")
        threading.Event().wait(away_seconds)
        server.start()
        took = seconds_until_a_job_runs(store, "after the outage")
        # One of them is back, and judges; the other's lease is over, and it has not said a word yet.
        looks = early.reached["watch"]
        eventually(lambda: early.reached["watch"] > looks + 1, "the other one looks", seconds=PATIENCE_SECONDS)
        late.let_go()
        load.goes_on()
    assert took < GOES_ON_WITHIN_SECONDS
    assert_nothing_lost_nothing_repeated(store, load, engines)


def test_a_synchronous_standby_that_takes_over_has_all_that_was_acknowledged(
    stack: ExitStack, two_engines: TwoEngines
) -> None:
    primary = stack.enter_context(serving())
    database = primary.new_database()
    standby = Server(settings=SYNCED, copy_of=primary)
    stack.callback(standby.stop)
    with psycopg.connect(primary.address("postgres"), autocommit=True) as db:
        db.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        db.execute("SELECT pg_reload_conf()")
        state = "SELECT 1 FROM pg_stat_replication WHERE application_name = 'standby' AND sync_state = 'sync'"
        eventually(lambda: db.execute(state).fetchone(), "the standby is synchronous")
    both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    store = f"postgresql://relight@{both}/{database}?target_session_attrs=read-write"
    engines = two_engines(store, 30)
    with Load(store, "load") as load:
        load.goes_on()
        primary.kill()
        acknowledged = dict(load.acknowledged)
        standby.control("promote")
        took = seconds_until_a_job_runs(store, "after the promotion")
        load.goes_on()
    assert took < GOES_ON_WITHIN_SECONDS
    assert acknowledged
    assert_nothing_lost_nothing_repeated(store, load, engines)
