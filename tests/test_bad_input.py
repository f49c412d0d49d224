"""Bad input is refused with a typed error that says what to do, nothing is lost, and the engine goes on. See ``bad_inputs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bad_inputs import ROWS, WORKFLOWS, Row, World, good
from tests.flow.kit import Rig

from relight import Engine
from relight.errors import RelightError
from relight.store.reads import JobFilter


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Engine]]:
    """One store and one engine for all rows: what one of them broke, the next one would meet."""
    rig = Rig(tmp_path_factory.mktemp("bad"))
    engine = rig.start(*WORKFLOWS, lease_seconds=30)
    yield rig, engine
    rig.close()
    rig.verify()


@pytest.fixture
def world(shared: tuple[Rig, Engine], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    rig, engine = shared
    world = World(rig, engine, monkeypatch)
    running = len(rig._engines)
    yield world
    for other in rig._engines[running:]:
        rig.stop(other)
    for client in rig._clients:
        client.__exit__(None, None, None)
    rig._clients.clear()
    for path in Path(rig.folder).glob("other.db*"):
        if path.is_file():
            path.unlink()


def everything(rig: Rig) -> dict[str, list[Any]]:
    """Return all rows of jobs, and all events about them."""
    with rig.reading() as reads:
        jobs = [reads.job(head.job_id) for head in reads.jobs(JobFilter(limit=0))]
        return {
            "jobs": jobs,
            "steps": [step for job in jobs for step in reads.steps(job.job_id)],
            "signals": [signal for job in jobs for signal in reads.signals(job.job_id)],
            "decisions": [row for job in jobs for row in reads.decisions(job.job_id)],
            "events": [event for event in rig.events() if event.job_id is not None],
        }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_refused_and_nothing_is_lost(world: World, row: Row) -> None:
    act = row.prepare(world)
    before = everything(world.rig)
    with pytest.raises(row.error) as caught:
        act()
    error = caught.value
    assert isinstance(error, RelightError)
    assert type(error) is row.error and error.code == row.code
    assert re.search(re.escape(row.says), str(error)), str(error)
    assert everything(world.rig) == before
    assert world.engine.submit(good, 7).result(timeout_seconds=20) == 7
    assert world.engine.health()["ok"] is True


def test_the_table_is_long_and_names_each_row_once() -> None:
    assert len(ROWS) >= 40
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert len({row.error for row in ROWS}) >= 15


def test_a_workflow_may_not_be_a_method() -> None:
    """Python 3.11 wraps what ``__set_name__`` raises; later versions let it through."""
    from relight import workflow
    from relight.errors import RegistrationError

    with pytest.raises((RegistrationError, RuntimeError)) as caught:

        class Flows:
            @workflow
            def job(self) -> None: ...

    error = caught.value if isinstance(caught.value, RegistrationError) else caught.value.__cause__
    assert isinstance(error, RegistrationError) and "Flows.job" in str(error)


def test_two_steps_of_one_name_in_a_job_are_refused(shared: tuple[Rig, Engine]) -> None:
    from relight import step, workflow
    from relight.errors import JobFailed

    one, two = step(name="fetch")(lambda: 1), step(name="fetch")(lambda: 2)

    @workflow(name="twins")
    def job() -> list[int]:
        return [one(), two()]

    rig, _ = shared
    engine = rig.start(job)
    failed = engine.submit(job)
    with pytest.raises(JobFailed, match=r'two different steps are called "fetch"') as caught:
        failed.result(timeout_seconds=20)
    assert caught.value.fields["error_code"] == "registration_error"
    rig.stop(engine)
