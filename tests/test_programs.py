"""The programs are also run, on real stores: what type-checks here is what works."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.flow.kit import Rig, eventually

from relight import Client, Engine
from relight.errors import RelightError
from relight.model import JobState
from relight.store.sqlite import SqliteStore

HERE = Path(__file__).parent / "typing"


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


class FakeLlm:
    """Talks to itself: searches, wants to mail, and is done. Counts what it was asked, by idempotency key."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.mailed: list[str] = []

    async def post(self, url: str, *, headers: Any, json: Any) -> Any:
        self.asked.append(headers["Idempotency-Key"])
        if url.endswith("/send"):
            self.mailed.append(json[0])
            return SimpleNamespace(status=200, body={"id": "m1"})
        turn = sum(message["role"] == "tool" for message in json)
        replies = [
            {"tool": "search", "args": {"query": "lunch"}},
            {"tool": "send_mail", "args": {"to": "ada", "body": "Friday?"}},
            {"text": f"done, {json[-1]['text']}"},
        ]
        return SimpleNamespace(status=200, body=replies[turn], retry_after=None)

    async def get(self, url: str) -> Any:
        return SimpleNamespace(status=200, body="a café")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()
    rig.verify()


def talking(p02: Any, llm: FakeLlm) -> dict[Any, Any]:
    return {p02.http: llm, p02.pooled_http: llm}


def test_p02_goes_on_after_a_crash_asks_before_it_mails_and_asks_the_model_nothing_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_API_KEY", "secret")
    p02, llm = program("p02_agent"), FakeLlm()
    front = rig.start(
        p02.agent, consume=["nobody's"]
    )  # takes the orders, and runs none: the message is there at the first turn
    job = front.submit(p02.agent, "Invite Ada to lunch")
    job.signal("user", "make it Friday", by="ben", idempotency_key="chat-17")
    rig.stop(front)
    engine = rig.start(p02.agent, resources=talking(p02, llm))
    rig.question(job)
    again = rig.restart(engine, p02.agent, resources=talking(p02, llm))
    resumed = again.job(job.id)
    rig.until(job, JobState.AWAITING_USER)
    assert llm.mailed == []
    resumed.answer("approve", by="ann")
    assert resumed.result(timeout_seconds=20) == "done, m1"
    talk = resumed.published("history", type=list[p02.Message], timeout_seconds=10)
    assert [message.role for message in talk] == ["user", "user", "tool", "tool"]
    assert len(llm.asked) == len(set(llm.asked)) == 4
    assert llm.mailed == ["ada"]
    assert b"secret" not in Path(rig.path).read_bytes()


def test_p02_cleans_up_when_it_is_cancelled_while_it_waits_for_approval(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_API_KEY", "secret")
    p02, llm = program("p02_agent"), FakeLlm()
    job = rig.start(p02.agent, resources=talking(p02, llm)).submit(p02.agent, "Invite Ada to lunch")
    rig.question(job)
    rig.until(job, JobState.AWAITING_USER)
    job.cancel("user closed the tab", by="ben")
    rig.until(job, JobState.CANCELLED)
    assert rig.steps(job)["release_workspace#0"].state == "completed"
    assert llm.mailed == []


def test_p03_tolerates_an_empty_document_and_a_crash(rig: Rig) -> None:
    p03 = program("p03_fanout")
    folder = rig.folder / "docs"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.pdf").write_text("" if number == 17 else "%PDF")
    engine = rig.start(p03.ingest)
    job = engine.submit(p03.ingest, folder)
    eventually(lambda: len([key for key, row in rig.steps(job).items() if row.state == "completed"]) > 10, "some")
    again = rig.restart(engine, p03.ingest)
    whole = again.job(job.id, type=Path).result(timeout_seconds=60)
    assert len(whole.read_text().splitlines()) == 59
    info = again.job(job.id).info()
    assert info.state is JobState.COMPLETED_WITH_ISSUES
    assert "document_failed" in (rig.row(job).issues or "")
    finished = Counter(event.step_key for event in rig.events(job, "step_finished"))
    assert set(finished.values()) == {1}


def test_p10_spreads_over_two_workers_and_its_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "p10.db")
    environment = {**os.environ, "RELIGHT_STORE": store, "PYTHONPATH": str(HERE)}
    worker = [sys.executable, "-m", "relight", "worker"]
    commands = (
        ["p10.engine:engine", "--consume", "gpu"],
        ["p10.engine:engine", "--consume", "bulk", "--consume", "default"],
    )
    workers = [subprocess.Popen([*worker, *more], cwd=tmp_path, env=environment) for more in commands]
    try:
        monkeypatch.setenv("RELIGHT_STORE", store)
        monkeypatch.syspath_prepend(HERE)
        flows = importlib.import_module("p10.flows")
        eventually(lambda: Path(store).exists() and opens(store), "a store")
        with Client(workflows=[flows]) as client:
            eventually(lambda: sum(row.state == "live" for row in engines_of(store)) == 2, "two workers")
            job = client.submit(flows.index_all, [flows.Doc("a"), flows.Doc("bb")])
            assert job.result(timeout_seconds=60) == 3
            assert client.submit(flows.mixed, "ada").result(timeout_seconds=60) == len("smtp: ada") + 2
            inline = client.submit(flows.inline, [flows.Doc("a")])
            assert inline.result(timeout_seconds=60) == [[1.0]]
            assert {row.kind: row.state for row in client.jobs()}["index_one"] is JobState.COMPLETED
    finally:
        for process in workers:
            process.terminate()
        codes = [process.wait(60) for process in workers]
    assert codes == [143, 143] or codes == [0, 0]
    done = subprocess.run(
        [sys.executable, str(HERE / "p10" / "notebook.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "index_all" in done.stdout


def opens(store: str) -> bool:
    """Tell whether a store is there, its schema too."""
    try:
        with Client(store):
            return True
    except RelightError:
        return False


def engines_of(store: str) -> list[Any]:
    """Return the engines that a store knows."""
    look = SqliteStore(store)
    look.open(create=False)
    try:
        with look.reading() as reads:
            return [row for row in reads.engines(limit=0) if row.role == "engine"]
    finally:
        look.close()


def test_an_engine_may_live_in_a_web_applications_lifespan(tmp_path: Path) -> None:
    from contextlib import asynccontextmanager

    from fastapi import FastAPI, Request
    from fastapi.testclient import TestClient

    from relight import AsyncEngine, step, workflow

    @step
    async def double(n: int) -> int:
        return 2 * n

    @workflow
    async def quick(n: int) -> int:
        return await double(n)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, AsyncEngine]]:
        async with AsyncEngine(str(tmp_path / "web.db"), workflows=[quick], durability="process") as engine:
            yield {"engine": engine}

    app = FastAPI(lifespan=lifespan)

    async def route(n: int, request: Request) -> int:
        job = await request.state.engine.submit(quick, n)
        result: int = await job.result(timeout_seconds=20)
        return result

    route.__annotations__.update(n=int, request=Request)  # annotations are text in this module, and Request is local
    app.post("/double/{n}", response_model=int)(route)
    for _ in range(2):  # a reload: the next one goes on with the same store
        with TestClient(app) as web:
            assert web.post("/double/21").json() == 42
    [first, second] = engines_of(str(tmp_path / "web.db"))
    assert {first.state, second.state} == {"stopped"}
