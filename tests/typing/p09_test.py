"""Tests that users write: a workflow inline, time skipped, a crash at every boundary, an old history."""

from datetime import UTC, datetime
from pathlib import Path

from p04_payment import Order, charge, checkout, send_receipt, stripe
from p06_digest import mail, reminder

from relight import Engine
from relight.model import JobState
from relight.testing import CrashRun, ManualClock, assert_replays, crash_points, drain, run_inline


class FakeStripe:
    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}

    def find(self, key: str) -> str | None:
        return self.by_key.get(key)

    def charge(self, cents: int, key: str) -> str:
        return self.by_key.setdefault(key, f"r{len(self.by_key)}")


ORDER = Order("o1", 1200, "ada@example.com")


def test_inline() -> None:
    receipt: str = run_inline(checkout, ORDER, replace={charge: lambda o: "r0", send_receipt: lambda to, r: None})
    assert receipt == "r0"
    assert run_inline(checkout.bind(order=ORDER), resources={stripe: FakeStripe()}) == "r0"


def test_reminder_waits() -> None:
    sent: list[list[str]] = []
    clock = ManualClock(skip=True)
    run_inline(reminder, "tea", datetime(2127, 1, 1, tzinfo=UTC), replace={mail: sent.append}, clock=clock)
    assert sent == [["tea", "at 00:00"]]


def test_crash_at_every_boundary(tmp_path: Path) -> None:
    fake = FakeStripe()
    run: CrashRun
    for run in crash_points(
        lambda e: e.submit(checkout, ORDER, idempotency_key="o1"),
        store=str(tmp_path / "t.db"),
        workflows=[checkout],
        resources={stripe: fake},
    ):
        engine: Engine = run.crash_then_restart(resources={stripe: fake})
        drain(engine)
        job = engine.job(kind="checkout", idempotency_key="o1")
        assert job.info().state in (JobState.COMPLETED, JobState.AWAITING_USER), (run.boundary, job.why().summary)
        assert len(fake.by_key) == 1


def check_old_histories(folder: Path) -> None:
    for file in folder.glob("checkout-*.json"):
        assert_replays(checkout, file)
