"""Many jobs wait for tokens that two client processes complete at the same time: each token is answered exactly once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.flow.kit import eventually
from tests.stores import new_store

from relight import Engine, external, workflow
from relight.model import JobState
from relight.recorder.verify import verify_store
from relight.store.reads import EventFilter, JobFilter

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0


@workflow
async def waits(n: int) -> int:
    return await external("answer", type=int).wait.aio()


def put_away(engine: Engine, wanted: int) -> bool:
    with engine.core.store.reading() as reads:
        jobs = reads.jobs(JobFilter(kind="waits", states=(JobState.QUEUED,), limit=0))
    return sum(job.begun and not job.claimable for job in jobs) == wanted


def completed(engine: Engine) -> int:
    with engine.core.store.reading() as reads:
        return reads.count_in_states().get(JobState.COMPLETED, 0)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_each_token_that_two_clients_race_for_is_completed_exactly_once(tmp_path: Path, number: int) -> None:
    store, file = new_store(tmp_path), tmp_path / "tokens.txt"
    with Engine(store, workflows=[waits], durability="process", suspend_after_seconds=0, slots=1000) as engine:
        jobs = engine.submit_many(waits.bind(n) for n in range(number))
        eventually(lambda: put_away(engine, number), "all wait", seconds=PATIENCE_SECONDS)
        with engine.core.store.reading() as reads:
            token_of = {job.id: reads.tokens(job.id)[0].token for job in jobs}
        file.write_text("\n".join(token_of.values()), "utf-8")
        clients = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.process.completer", store, str(file), which],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for which in ("1", "2")
        ]
        for client in clients:
            assert client.stdout is not None and client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        said = [json.loads(client.communicate(timeout=PATIENCE_SECONDS)[0]) for client in clients]
        assert [client.returncode for client in clients] == [0, 0]
        eventually(lambda: completed(engine) == number, "all are completed", seconds=PATIENCE_SECONDS)

        counted = [each["counted"] for each in said]
        assert sorted([*counted[0], *counted[1]]) == sorted(token_of.values())
        assert sum(each["late"] for each in said) == number
        winner = {token: which for which, tokens in enumerate(counted, 1) for token in tokens}
        for job in jobs:
            assert job.result(timeout_seconds=10) == winner[token_of[job.id]]
        with engine.core.store.reading() as reads:
            told = reads.events(EventFilter(types=("external_completed",), limit=0))
        assert len(told) == len({event.job_id for event in told}) == number
    report = verify_store(store)
    assert report.ok, report.findings
    print(f"{len(counted[0])} by one client, {len(counted[1])} by the other")
