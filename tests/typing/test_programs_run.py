"""The programs are also run, on real stores: what type-checks here is what works."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relight import Engine
from relight.model import JobState

HERE = Path(__file__).parent


class FakeStripe:
    """Keeps charges by key; the first answer is lost after the charge was made."""

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}
        self.answers_lost = 0

    def find(self, key: str) -> str | None:
        return self.by_key.get(key)

    def charge(self, cents: int, key: str) -> str:
        receipt = self.by_key.setdefault(key, f"r{len(self.by_key)}")
        if not self.answers_lost:
            self.answers_lost += 1
            raise ConnectionResetError("reset")
        return receipt


def program(name: str) -> Any:
    """Load a program as a module of its own."""
    return SimpleNamespace(**runpy.run_path(str(HERE / f"{name}.py")))


def test_p01_says_hello_and_its_key_gives_the_same_job_again(tmp_path: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-W", "error", str(HERE / "p01_hello.py")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert said[0].split(maxsplit=1)[1] == "HELLO, ADA\n"


def test_p04_charges_once_although_the_answer_was_lost(tmp_path: Path) -> None:
    p04 = program("p04_payment")
    fake = FakeStripe()
    with Engine(str(tmp_path / "p04.db"), workflows=[p04.checkout], resources={p04.stripe: fake}) as engine:
        job = engine.submit(p04.checkout, p04.Order("o1", 1200, "ada@example.com"), idempotency_key="o1")
        assert job.result(timeout_seconds=20) == "r0"
    assert len(fake.by_key) == 1


def test_p04_gives_a_declared_error_back_as_itself(tmp_path: Path) -> None:
    p04 = program("p04_payment")

    def declined(order: object) -> str:
        raise p04.CardDeclined("no money")

    with Engine(str(tmp_path / "p04.db"), workflows=[p04.checkout], replace={p04.charge: declined}) as engine:
        job = engine.submit(p04.checkout, p04.Order("o1", 1200, "ada@example.com"))
        assert job.result(timeout_seconds=20) == "declined: no money"


def test_p08_is_called_back_or_polls(tmp_path: Path) -> None:
    p08 = program("p08_webhook")
    with Engine(str(tmp_path / "p08.db"), workflows=[p08.scan_upload]) as engine:
        called = engine.submit(p08.scan_upload, "a.pdf")
        assert engine.complete(called.published("token", type=str, timeout_seconds=20), p08.Scan(True, "x")).counted
        assert called.result(timeout_seconds=20) == p08.Scan(True, "x")
        polled = engine.submit(p08.scan_upload, "b.pdf", 0.05)
        assert polled.result(timeout_seconds=20) == p08.Scan(True, "by polling")
        assert polled.state() == JobState.COMPLETED_WITH_ISSUES


def test_p06_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p06 = program("p06_digest")
    monkeypatch.chdir(tmp_path)
    mailed: list[list[str]] = []
    with Engine("jobs.db", workflows=[p06.digest, p06.reminder], replace={p06.mail: mailed.append}) as engine:
        assert engine.submit(p06.digest, date(2026, 11, 2)).result(timeout_seconds=20) == 1
        assert [lines[0] for lines in mailed] == ["what happened on 2026-11-02"]

        runpy.run_path(str(HERE / "p06_digest.py"), run_name="__main__")
        today = engine.job(kind="digest", idempotency_key=f"digest-{datetime.now(UTC).date()}")
        assert today.result(timeout_seconds=20) == 1
        waiting = {job.summary.split()[0] for job in engine.jobs(state=[JobState.QUEUED, JobState.RUNNING])}
        assert waiting == {"digest", "reminder"}


def test_p05_serves_orders_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    store = str(tmp_path / "p05.db")
    monkeypatch.setenv("RELIGHT_STORE", store)
    monkeypatch.syspath_prepend(HERE)
    p05 = program("p05_fastapi")
    order = {"id": "o1", "amount_cents": 1200, "email": "ada@example.com"}
    with Engine(store):
        pass  # the first deploy: an engine makes the store
    with TestClient(p05.app) as web:  # nothing executes yet: the front end needs no engine
        key = {"idempotency-key": "o1"}
        first = web.post("/orders", json=order, headers=key)
        again = web.post("/orders", json=order, headers=key)
        assert first.status_code == again.status_code == 202
        assert first.json() == again.json()
        assert web.post("/orders", json={**order, "amount_cents": 1}, headers=key).status_code == 409
        job_id = first.json()["job_id"]
        assert web.get(f"/orders/{job_id}").json()["state"] == "queued"
        assert web.get("/orders/nobody").status_code == 404

        import p04_payment  # the module that p05 imported, not one that was run again

        fake = FakeStripe()
        with Engine(store, workflows=[p04_payment.checkout], resources={p04_payment.stripe: fake}) as engine:
            assert engine.job(job_id).result(timeout_seconds=20) == "r0"
        assert web.get(f"/orders/{job_id}").json()["state"] == "completed"
        second = web.post("/orders", json={**order, "id": "o2"}, headers={"idempotency-key": "o2"}).json()["job_id"]
        assert web.delete(f"/orders/{second}").status_code == 202
        assert web.get(f"/orders/{second}").json()["state"] == "cancelled"


def test_p07_sums_frames_and_keeps_one_by_its_codec(tmp_path: Path) -> None:
    p07 = program("p07_pandas")
    for number, amounts in enumerate(["1.5\n2.5\n", "4\n", "0.25\n100\n"]):
        (tmp_path / f"{number}.csv").write_text(f"amount\n{amounts}")
    with Engine(str(tmp_path / "etl.db"), workflows=[p07.month], codecs=[p07.frames]) as engine:
        job = engine.submit(p07.month, tmp_path)
        assert job.result(timeout_seconds=60) == 108.25
        assert job.info().progress is not None


def test_p09_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    p09 = importlib.import_module("p09_test")
    p09.test_inline()
    p09.test_reminder_waits()
    p09.test_crash_at_every_boundary(tmp_path)
