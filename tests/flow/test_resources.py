"""What cannot be stored: resources, secrets, codecs of one's own; and their fakes in tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import Codec, Engine, Resource, Secret, parallel, sleep, step, workflow
from relight.errors import InvalidArgument, JobFailed, NotInStep, NotSerializable, StepFailed

# ---------------------------------------------------------------- resources


class Pool:
    """A client that counts."""

    def __init__(self) -> None:
        self.said: list[str] = ["opened"]
        self.thread = threading.current_thread().name

    def get(self, what: str) -> str:
        assert self.said[-1] != "closed"
        self.said.append(what)
        return what.upper()


def plain(pools: list[Pool]) -> Resource[Pool]:
    def make() -> Pool:
        pools.append(Pool())
        return pools[-1]

    return Resource(make)


def managed(pools: list[Pool]) -> Resource[Pool]:
    @contextmanager
    def make() -> Iterator[Pool]:
        pools.append(Pool())
        yield pools[-1]
        pools[-1].said.append("closed")

    return Resource(make)


def async_managed(pools: list[Pool]) -> Resource[Pool]:
    @asynccontextmanager
    async def make() -> AsyncIterator[Pool]:
        await asyncio.sleep(0)
        pools.append(Pool())
        yield pools[-1]
        await asyncio.sleep(0)
        pools[-1].said.append("closed")

    return Resource(make, name="pool")


pool: Resource[Pool] = Resource(Pool)
"""Async steps name their resource at module level, so that it can be opened before they are called."""


@step
async def aget(what: str) -> str:
    return pool().get(what)


@pytest.mark.parametrize("kind", [plain, managed, async_managed])
def test_a_resource_is_opened_once_at_first_use_and_closed_after_the_drain(rig: Rig, kind: Any) -> None:
    pools: list[Pool] = []
    the_pool = kind(pools)

    @step
    def get(what: str) -> str:
        return the_pool().get(what)

    @workflow
    def job() -> list[str]:
        return parallel(get, ["a", "b", "c", "d"])

    engine = rig.start(job)
    assert pools == []
    for _ in range(2):
        assert engine.submit(job).result(timeout_seconds=10) == ["A", "B", "C", "D"]
    assert len(pools) == 1 and pools[0].thread.startswith("relight-loop")
    rig.stop(engine)
    assert sorted(pools[0].said[1:9]) == sorted("abcd" * 2)
    assert (pools[0].said[-1] == "closed") is (kind is not plain)


@pytest.mark.parametrize("kind", [plain, managed, async_managed])
def test_an_async_step_uses_a_resource_that_its_code_names(
    rig: Rig, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[Pool] = []
    monkeypatch.setitem(globals(), "pool", kind(pools))

    @workflow
    async def job() -> list[str]:
        return list(await asyncio.gather(*(aget(what) for what in "abc")))

    engine = rig.start(job)
    assert engine.submit(job).result(timeout_seconds=10) == ["A", "B", "C"]
    assert len(pools) == 1


def test_each_engine_opens_its_own(rig: Rig) -> None:
    pools: list[Pool] = []
    the_pool = managed(pools)

    @step
    def get() -> str:
        return the_pool().get("a")

    @workflow
    def job() -> str:
        return get()

    for _ in range(2):
        engine = rig.start(job)
        engine.submit(job).result(timeout_seconds=10)
        rig.stop(engine)
    assert len(pools) == 2 and all(each.said[-1] == "closed" for each in pools)


def test_a_resource_that_cannot_be_opened_fails_the_step_and_the_next_use_tries_again(rig: Rig) -> None:
    opened: list[int] = []

    def make() -> str:
        opened.append(1)
        if len(opened) == 1:
            raise ConnectionError("no route")
        return "open"

    the_pool = Resource(make)

    @step
    def get() -> str:
        return the_pool()

    @workflow
    def job() -> str:
        return get()

    engine = rig.start(job)
    failed = engine.submit(job)
    with pytest.raises(JobFailed, match="no route"):
        failed.result(timeout_seconds=10)
    failed.retry()
    assert failed.result(timeout_seconds=10) == "open"


def test_a_factory_that_has_to_be_awaited_is_refused_with_the_way_out() -> None:
    async def make() -> Pool:
        return Pool()

    for open_it in (make, Pool()):
        with pytest.raises(InvalidArgument, match="is an @asynccontextmanager"):
            Resource(open_it)  # type: ignore[call-overload]


def test_a_resource_is_for_steps_only(rig: Rig) -> None:
    the_pool = Resource(Pool, name="the pool")
    with pytest.raises(NotInStep, match="the pool"):
        the_pool()

    @workflow
    def job() -> str:
        try:
            the_pool()
        except NotInStep as error:
            return str(error)
        return ""

    assert "replayed" in rig.start(job).submit(job).result(timeout_seconds=10)


def test_resources_are_replaced_in_tests(rig: Rig) -> None:
    pools: list[Pool] = []
    the_pool, other = managed(pools), plain(pools)

    class Fake:
        def get(self, what: str) -> str:
            return f"fake {what}"

    @step
    def get() -> list[str]:
        return [the_pool().get("a"), other().get("b")]

    @workflow
    def job() -> list[str]:
        return get()

    engine = rig.start(job, resources={the_pool: Fake(), other: Fake()})
    assert engine.submit(job).result(timeout_seconds=10) == ["fake a", "fake b"]
    assert pools == []


def test_a_client_as_an_argument_is_refused_with_the_way_out(rig: Rig) -> None:
    @step
    def get(client: Any) -> str:
        return ""

    @workflow
    def job() -> str:
        try:
            get(Pool())
        except NotSerializable as error:
            return str(error)
        return ""

    done = rig.start(job).submit(job)
    said = done.result(timeout_seconds=10)
    assert 'argument "client" of get' in said and "Resource" in said
    assert rig.steps(done) == {}


# ---------------------------------------------------------------- replace=


def test_steps_are_replaced_in_tests_in_every_colour(rig: Rig) -> None:
    @step
    def charge(cents: int) -> str:
        raise AssertionError("the real one")

    @step
    async def acharge(cents: int) -> str:
        raise AssertionError("the real one")

    async def afake(cents: int) -> str:
        return f"fake {cents}"

    @workflow
    def job() -> list[str]:
        return [charge(1), acharge.sync(2)]

    @workflow
    async def ajob() -> list[str]:
        return [await charge.aio(3), await acharge(4)]

    engine = rig.start(job, ajob, replace={charge: lambda cents: f"fake {cents}", acharge: afake})
    one, two = engine.submit(job), engine.submit(ajob)
    assert one.result(timeout_seconds=10) == ["fake 1", "fake 2"]
    assert two.result(timeout_seconds=10) == ["fake 3", "fake 4"]
    assert rig.steps(one)["charge#0"].outcome == '"fake 1"'


def test_what_a_fake_returns_is_checked_like_the_real_thing(rig: Rig) -> None:
    @step
    def charge() -> int:
        return 1

    @workflow
    def job() -> str:
        try:
            charge()
        except StepFailed as error:
            return error.error_type
        return ""

    engine = rig.start(job, replace={charge: lambda: "not a number"})
    assert "Payload" in engine.submit(job).result(timeout_seconds=10)


# ---------------------------------------------------------------- secrets


def test_a_secret_is_stored_as_a_reference_and_looked_up_where_it_is_used(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "sk-very-secret")

    @step
    def call(key: Secret) -> str:
        return key.reveal()[:3]

    @workflow
    def job(key: Secret) -> str:
        sleep(0.1)
        return call(key)

    engine = rig.start(job)
    done = engine.submit(job, Secret("env:SHOP_KEY"))
    assert done.result(timeout_seconds=10) == "sk-"
    rig.stop(engine)
    assert b"sk-very-secret" not in b"".join(
        path.read_bytes() for path in rig.folder.glob("jobs.db*") if path.is_file()
    )
    assert rig.row(done).inputs == '{"key":{"$secret":"env:SHOP_KEY"}}'


# ---------------------------------------------------------------- codecs


@dataclass(frozen=True)
class Frame:
    """Stands for a library's type that nobody can store."""

    rows: Any


def frames() -> Codec[Frame]:
    return Codec(
        Frame,
        encode=lambda frame: "|".join(frame.rows).encode(),
        decode=lambda data: Frame(tuple(data.decode().split("|"))),
        name="frame",
    )


def test_a_codec_opens_the_value_system_for_a_type_everywhere(rig: Rig) -> None:
    calls: list[Frame] = []

    @step
    def clean(frame: Frame) -> list[Frame]:
        calls.append(frame)
        return [frame, Frame((*frame.rows, "more"))]

    @workflow
    def job(frame: Frame) -> Frame:
        got = clean(frame)
        sleep(0.1)
        return got[1]

    engine = rig.start(job, codecs=[frames()])
    done = engine.submit(job, Frame(("a", "b")))
    assert done.result(timeout_seconds=10) == Frame(("a", "b", "more"))
    assert calls == [Frame(("a", "b"))]
    with rig.client(workflows=[job], codecs=[frames()]) as client:
        assert client.job(done.id, type=Frame).result(timeout_seconds=10) == Frame(("a", "b", "more"))


def test_without_its_codec_a_type_is_refused_at_registration(rig: Rig) -> None:
    from relight.errors import RegistrationError

    class Opaque:
        pass

    def take(thing: Opaque) -> None: ...

    take.__annotations__["thing"] = Opaque
    with pytest.raises(RegistrationError, match="Opaque"):
        Engine(rig.path, workflows=[workflow(take)])
