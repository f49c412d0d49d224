"""Bad inputs, one function each: what is prepared, and then the act that must be refused.

``ROWS`` is the table that ``test_bad_input.py`` goes through: for each row the act, the error's class, its ``code`` and a part
of its message. An act may prepare jobs first; what it returns is called afterwards, and must change nothing.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.flow.kit import Rig

from relight import (
    AsyncEngine,
    Call,
    Client,
    Codec,
    Engine,
    Job,
    Queue,
    Resource,
    Retry,
    Secret,
    current_step,
    external,
    issue,
    parallel,
    poll,
    publish,
    sleep,
    sleep_until,
    start,
    step,
    wait_signal,
    workflow,
)
from relight import errors as e
from relight.errors import RelightError
from relight.model import JobState

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - what is refused
LIMIT_BYTES = 64 * 2**20


@workflow
def good(n: int = 1) -> int:
    return n


@workflow
def anything(x: object) -> None: ...


@workflow
def waiting() -> int:
    return wait_signal("go", type=int)


@workflow
def asking() -> str:
    from relight import ask

    return ask("Send it?", options=("yes", "no")).choice


@workflow
def failing() -> None:
    raise ValueError("as ever")


@workflow
def unregistered() -> None: ...


@step
def a_step(x: object = None) -> object:
    return x


@step
async def an_async_step() -> int:
    return 1


WORKFLOWS = (good, anything, waiting, asking, failing)


class World:
    """What an act may use: a running engine, a client, jobs in several states, and a rig for more."""

    def __init__(self, rig: Rig, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rig = rig
        self.engine = engine
        self.monkeypatch = monkeypatch
        self.caught: list[BaseException] = []

    def completed(self) -> Job[Any]:
        job = self.engine.submit(good)
        job.result(timeout_seconds=20)
        return job

    def cancelled(self) -> Job[Any]:
        job = self.engine.submit(good, delay_seconds=600)
        job.cancel()
        self.rig.until(job, JobState.CANCELLED)
        return job

    def waiting(self) -> Job[Any]:
        job = self.engine.submit(waiting)
        self.rig.until_put_away(job)
        return job

    def asking(self) -> Job[Any]:
        job = self.engine.submit(asking)
        self.rig.until(job, JobState.AWAITING_USER)
        return job

    def nobody(self) -> Job[Any]:
        return self.engine.job("01900000-0000-7000-8000-000000000000")

    def inside(self, body: Callable[[], Any], *, is_async: bool = False) -> Callable[[], None]:
        """Return what raises here what the body of a job met; the job itself goes on."""

        @workflow(name="inside")
        def sync_job() -> str:
            return self._met(body)

        @workflow(name="inside")
        async def async_job() -> str:
            try:
                got = body()
                if hasattr(got, "__await__"):
                    await got
            except RelightError as error:
                self.caught.append(error)
            return "went on"

        engine = self.rig.start(async_job if is_async else sync_job)
        job = engine.submit("inside")
        assert job.result(timeout_seconds=20) == "went on"
        steps = self.rig.steps(job)
        assert steps == {}, "nothing was recorded"

        def raise_it() -> None:
            raise self.caught[0]

        return raise_it

    def _met(self, body: Callable[[], Any]) -> str:
        try:
            body()
        except RelightError as error:
            self.caught.append(error)
        return "went on"

    def other_store(self, name: str = "other.db") -> str:
        return str(self.rig.folder / name)


Act = Callable[[], object]
Prepare = Callable[[World], Act]


@dataclass(frozen=True)
class Row:
    """One bad input."""

    name: str
    error: type[BaseException]
    code: str
    says: str
    prepare: Prepare


ROWS: list[Row] = []


def row(name: str, error: type[RelightError], says: str, act: Callable[[World], Any]) -> None:
    """Add a row whose act needs nothing prepared."""
    ROWS.append(Row(name, error, error.code, says, lambda world: lambda: act(world)))


def prepared(name: str, error: type[RelightError], says: str) -> Callable[[Prepare], Prepare]:
    """Add a row whose function prepares something and returns the act."""

    def add(prepare: Prepare) -> Prepare:
        ROWS.append(Row(name, error, error.code, says, prepare))
        return prepare

    return add


def submits(name: str, error: type[RelightError], says: str, value: Callable[[], object]) -> None:
    """Add a row that submits a value."""
    row(f"argument: {name}", error, says, lambda w: w.engine.submit(anything, value()))


def option(says: str, **options: Any) -> None:
    """Add a row that submits with an option."""
    [(name, value)] = options.items()
    row(f"option: {name}={value!r:.30}", e.InvalidArgument, says, lambda w: w.engine.submit(good, 1, **options))


# ---------------------------------------------------------------- arguments


def a_cycle() -> object:
    loop: list[object] = []
    loop.append({"again": loop})
    return loop


def a_well() -> object:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    return deep


submits("unserialisable", e.NotSerializable, "Resource", object)
submits("unserialisable, deep inside", e.NotSerializable, "at .rows[1].x", lambda: {"rows": [0, {"x": {1, object}}]})
submits("NaN", e.NotSerializable, "NaN", lambda: math.nan)
submits("infinite", e.NotSerializable, "at .a[1]", lambda: {"a": [1, -math.inf]})
submits("cyclic", e.NotSerializable, "contains itself", a_cycle)
submits("deep", e.NotSerializable, "nested too deeply", a_well)
submits("surrogate", e.NotSerializable, "surrogate", lambda: "\udcff")
submits("surrogate as a key", e.NotSerializable, "surrogate", lambda: {"\udcff": 1})
submits("key that is no text", e.NotSerializable, "key", lambda: {1: "one"})
submits("huge", e.PayloadTooLarge, "64.0 MiB", lambda: "x" * LIMIT_BYTES)
submits("lock", e.NotSerializable, "_thread.lock", threading.Lock)
row("argument: of another type", e.PayloadError, "does not fit int", lambda w: w.engine.submit(good, "seven"))
row("argument: missing", e.InvalidArgument, "missing a required argument", lambda w: w.engine.submit(anything))
row("argument: too many", e.InvalidArgument, "too many", lambda w: w.engine.submit(good, 1, 2))
row("argument: unknown keyword", e.InvalidArgument, "unexpected keyword", lambda w: w.engine.submit(good.bind(m=1)))
row("argument: literal secret", e.NotSerializable, "would be lost at a restart", lambda w: Secret("sk-very-secret"))
row(
    "argument: by kind, of another type", e.PayloadError, "does not fit int", lambda w: w.engine.submit("good", "seven")
)

# ---------------------------------------------------------------- options

option("no option retries", retries=3)
option("time zone", run_at=NAIVE)
option("datetime", run_at="tomorrow")
option("0 or more", delay_seconds=-1)
option("0 or more", delay_seconds=math.nan)
option("0 or more", delay_seconds="soon")
option("0 or more", deadline_seconds=-1)
option("0 or more", deadline_seconds=math.inf)
option("mapping", tags=5)
option("not text", tags={"order": 17})
option("tag=", tags={17: "order"})
option("not text", tags={"order": "a\0b"})
option("at most 50", tags={f"t{n}": "" for n in range(51)})
option("higher first", priority="high")
option("higher first", priority=2**40)
option("higher first", priority=True)
option('"resume" or "hold"', on_stall="panic")
option("1 or more", max_stalls=0)
option("queue", queue="a/b")
option("queue", queue=5)
option("NUL", idempotency_key="a\0b")
option("surrogates", idempotency_key="\ud800")
option("1 to 500", idempotency_key="x" * 501)
option("1 to 500", idempotency_key="")
option("1 to 500", idempotency_key=17)
option("1 to 500", partition_key=5)
row(
    "option: two times",
    e.InvalidArgument,
    "twice",
    lambda w: w.engine.submit(good, 1, delay_seconds=1, run_at=datetime.now(UTC)),
)
row("option: beside a call", e.InvalidArgument, "call.options", lambda w: w.engine.submit(good.bind(1), priority=3))
row("option: arguments beside a call", e.InvalidArgument, "call.options", lambda w: w.engine.submit(good.bind(1), 2))
row("submit_many of workflows", e.InvalidArgument, "bind", lambda w: w.engine.submit_many([good]))  # type: ignore[list-item]
row("submit_many of a number", e.InvalidArgument, "bind", lambda w: w.engine.submit_many(5))  # type: ignore[arg-type]
row(
    "submit_many with one bad call",
    e.PayloadError,
    "does not fit int",
    lambda w: w.engine.submit_many([good.bind(1), Call(good, ("x",), {})]),
)


@prepared("same key, other arguments", e.IdempotencyMismatch, 'with another "n"')
def other_arguments(world: World) -> Act:
    world.engine.submit(good, 1, idempotency_key="order-17").result(timeout_seconds=20)
    return lambda: world.engine.submit(good, 2, idempotency_key="order-17")


# ---------------------------------------------------------------- what is submitted

row("unknown kind", e.KindUnknown, "Did you mean good?", lambda w: w.engine.submit("goood"))
row("unknown kind, by a client", e.KindUnknown, '"goood"', lambda w: w.rig.client().submit("goood"))
row("kind with a NUL", e.InvalidArgument, "kind", lambda w: w.engine.submit("go\0od"))
row("workflow of another program", e.KindUnknown, '"unregistered"', lambda w: w.engine.submit(unregistered))
row("step submitted", e.RegistrationError, "a_step is a step", lambda w: w.engine.submit(a_step))
row("function submitted", e.RegistrationError, "Decorate it with @workflow", lambda w: w.engine.submit(len))
row("nothing submitted", e.RegistrationError, "None is not a workflow", lambda w: w.engine.submit(None))  # type: ignore[arg-type]

# ---------------------------------------------------------------- definitions


def a_generator() -> Any:
    yield 1


async def an_async_generator() -> Any:
    yield 1


def unresolved(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Annotated with a name that does not exist."""


class Opaque:
    """A type that nobody can store."""


def uncodable(x: Opaque) -> None: ...


def twin() -> None: ...


def declares(name: str, error: type[RelightError], says: str, act: Callable[[], object]) -> None:
    row(f"definition: {name}", error, says, lambda w: act())


declares("generator step", e.RegistrationError, "a generator", lambda: step(a_generator))
declares("async generator step", e.RegistrationError, "publish()", lambda: step(an_async_generator))
declares("generator workflow", e.RegistrationError, "a generator", lambda: workflow(a_generator))
declares("step on a workflow", e.RegistrationError, "goes on a function", lambda: step(good))  # type: ignore[call-overload]
declares("isolate", e.RegistrationError, "reserved", lambda: step(isolate=True)(len))
declares("unknown step option", e.InvalidArgument, "no option retries", lambda: step(retries=3))  # type: ignore[call-overload]
declares("unknown workflow option", e.InvalidArgument, "no option tries", lambda: workflow(tries=3))  # type: ignore[call-overload]
for bad in (0, -1, math.nan, "10", True):
    declares(f"timeout {bad!r}", e.InvalidArgument, "timeout_seconds", lambda bad=bad: step(timeout_seconds=bad)(twin))
declares("heartbeat", e.InvalidArgument, "heartbeat_seconds", lambda: step(heartbeat_seconds=-1)(twin))
declares("in_doubt", e.InvalidArgument, "in_doubt", lambda: step(in_doubt="perhaps")(twin))  # type: ignore[call-overload]
declares("retry that is a number", e.InvalidArgument, "Retry(tries=3)", lambda: step(retry=3)(twin))  # type: ignore[call-overload]
declares("raises that is no tuple", e.InvalidArgument, "raises", lambda: step(raises=ValueError)(twin))  # type: ignore[call-overload]
declares("raises of no exception", e.InvalidArgument, "raises", lambda: step(raises=(int,))(twin))  # type: ignore[arg-type]
declares("step name", e.InvalidArgument, "step 'a#0'", lambda: step(name="a#0")(twin))
declares("workflow name", e.InvalidArgument, "workflow ''", lambda: workflow(name="")(twin))
declares("workflow deadline", e.InvalidArgument, "deadline_seconds", lambda: workflow(deadline_seconds=0)(twin))
declares("tries", e.InvalidArgument, "tries", lambda: Retry(tries=0))
declares("queue slots", e.InvalidArgument, "slots", lambda: Queue("q", slots=-1))
declares("queue name", e.InvalidArgument, "queue", lambda: Queue("a/b"))
row(
    "definition: annotation that names nothing",
    e.RegistrationError,
    "Nowhere",
    lambda w: Engine(w.rig.path, workflows=[workflow(unresolved)]),
)
row(
    "definition: annotation that nobody can store",
    e.RegistrationError,
    "Opaque",
    lambda w: Engine(w.rig.path, workflows=[workflow(uncodable)]),
)
row(
    "definition: two workflows of one kind",
    e.KindDuplicate,
    "bad_inputs.py",
    lambda w: Engine(w.rig.path, workflows=[good, workflow(name="good")(twin)]),
)
row("definition: function registered", e.RegistrationError, "@workflow", lambda w: Engine(w.rig.path, workflows=[twin]))  # type: ignore[list-item]
row(
    "definition: two codecs of one type",
    e.RegistrationError,
    "two codecs",
    lambda w: Client(w.rig.path, codecs=[Codec(Opaque, encode=lambda x: b"", decode=lambda b: Opaque())] * 2),
)

# ---------------------------------------------------------------- settings


def setting(says: str, **options: Any) -> None:
    [(name, value)] = options.items()
    row(f"setting: {name}={value!r}", e.ConfigError, says, lambda w: Engine(w.rig.path, **options))


def environment(variable: str, text: str, says: str) -> None:
    def act(world: World) -> object:
        world.monkeypatch.setenv(variable, text)
        try:
            return Engine(world.rig.path)
        finally:
            world.monkeypatch.delenv(variable)

    row(f"environment: {variable}={text}", e.ConfigError, says, act)


setting("slots=0", slots=0)
setting("slots='many'", slots="many")
setting("threads=1.5", threads=1.5)
setting("lease_seconds", lease_seconds=0.1)
setting("lease_seconds", lease_seconds=math.nan)
setting("drain_seconds", drain_seconds=-1)
setting('"power" or "process"', durability="paper")
setting("name=''", name="")
row("setting: store=''", e.ConfigError, "store=''", lambda w: Engine(""))
environment("RELIGHT_SLOTS", "many", "RELIGHT_SLOTS='many'")
environment("RELIGHT_LEASE_SECONDS", "-3", "RELIGHT_LEASE_SECONDS='-3'")
environment("RELIGHT_DURABILITY", "paper", "RELIGHT_DURABILITY='paper'")

# ---------------------------------------------------------------- stores


def store(name: str, error: type[RelightError], says: str, address: Callable[[World], str]) -> None:
    row(f"store: {name}", error, says, lambda w: Engine(address(w), workflows=[good]).start())


def written(world: World, data: bytes) -> str:
    path = Path(world.other_store())
    path.write_bytes(data)
    return str(path)


def database(world: World, *statements: str) -> str:
    db = apsw.Connection(world.other_store())
    for statement in statements:
        db.execute(statement)
    db.close()
    return world.other_store()


def newer(world: World) -> str:
    Engine(world.other_store(), workflows=[good]).start().stop()
    return database(world, "INSERT INTO migrations VALUES (9999, 'from_the_future', 'x', 0)")


store("in a missing folder", e.ConfigError, "there is no folder", lambda w: str(w.rig.folder / "nowhere" / "jobs.db"))
store("a folder", e.ConfigError, "is a folder", lambda w: str(w.rig.folder))
store(
    "not a database",
    e.StorageCorrupt,
    "not a SQLite file",
    lambda w: written(w, b"not a database, and long enough" * 99),
)
store("a database of something else", e.ConfigError, "something else", lambda w: database(w, "CREATE TABLE t (x)"))
store("of newer code", e.SchemaTooNew, "9999", newer)
store(
    "on PostgreSQL, announced or not",
    e.ConfigError,
    "notify=off",
    lambda w: "postgresql://localhost/jobs?notify=perhaps",
)
store("in memory", e.ConfigError, "names no file", lambda w: ":memory:")
store("of an unknown scheme", e.ConfigError, "redis://", lambda w: "redis://localhost")
store("with a NUL", e.ConfigError, "names no file", lambda w: "a\0b")
row(
    "store: missing, for a client",
    e.StorageUnavailable,
    "An engine makes one",
    lambda w: Client(w.other_store()).__enter__(),
)


@prepared("store: vulnerable SQLite", e.UnsafeSqlite, "3.51.2")
def vulnerable(world: World) -> Act:
    def act() -> None:
        with world.monkeypatch.context() as patch:
            patch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
            Engine(world.other_store(), workflows=[good]).start()

    return act


# ---------------------------------------------------------------- handles and acts

NOBODYS = "there is no job"
for verb, act in {
    "state": lambda job: job.state(),
    "info": lambda job: job.info(),
    "why": lambda job: job.why(),
    "events": lambda job: list(job.events()),
    "result": lambda job: job.result(timeout_seconds=1),
    "cancel": lambda job: job.cancel(),
    "signal": lambda job: job.signal("x"),
    "answer": lambda job: job.answer("yes", by="ada"),
    "resume": lambda job: job.resume(),
    "retry": lambda job: job.retry(),
}.items():
    row(f"unknown id: {verb}", e.NotFound, NOBODYS, lambda w, act=act: act(w.nobody()))
row("id with a surrogate", e.NotFound, NOBODYS, lambda w: w.engine.job("\udcff").state())
row("id that is a number", e.NotFound, NOBODYS, lambda w: w.engine.job(5).state())  # type: ignore[arg-type]
row("no id", e.InvalidArgument, "job(id)", lambda w: w.engine.job())  # type: ignore[call-overload]
row("kind without key", e.InvalidArgument, "job(id)", lambda w: w.engine.job(kind="good"))  # type: ignore[call-overload]
row("unknown key", e.NotFound, '"nobody\'s"', lambda w: w.engine.job(kind="good", idempotency_key="nobody's"))
row("jobs: unknown state", e.InvalidArgument, "one of queued", lambda w: w.engine.jobs(state="lost"))  # type: ignore[arg-type]
row("jobs: state that is a number", e.InvalidArgument, "one of queued", lambda w: w.engine.jobs(state=5))  # type: ignore[arg-type]
row("jobs: limit", e.InvalidArgument, "limit=-1", lambda w: w.engine.jobs(limit=-1))
row("jobs: naive time", e.InvalidArgument, "time zone", lambda w: w.engine.jobs(since=NAIVE))
row("jobs: no time", e.InvalidArgument, "datetime", lambda w: w.engine.jobs(since="today"))  # type: ignore[arg-type]
row("jobs: tags", e.InvalidArgument, "not text", lambda w: w.engine.jobs(tags={"a": object()}))  # type: ignore[dict-item]
row("jobs: kind", e.InvalidArgument, "kind=5", lambda w: w.engine.jobs(kind=5))  # type: ignore[arg-type]


def on(name: str, error: type[RelightError], says: str, state: str, act: Callable[[Job[Any]], object]) -> None:
    """Add a row about a job in some state."""

    def prepare(world: World) -> Act:
        job = getattr(world, state)()
        return lambda: act(job)

    ROWS.append(Row(f"{state} job: {name}", error, error.code, says, prepare))


on("signal", e.Conflict, "is completed", "completed", lambda job: job.signal("x", 1))
on("cancel", e.IllegalTransition, "is completed", "completed", lambda job: job.cancel())
on("fail", e.IllegalTransition, "is completed", "completed", lambda job: job.fail())
on("retry", e.IllegalTransition, "only failed and poisoned", "completed", lambda job: job.retry())
on("resume", e.IllegalTransition, "is completed", "completed", lambda job: job.resume())
on("answer", e.Conflict, "is completed", "completed", lambda job: job.answer("yes", by="ada"))
on("time limit", e.InvalidArgument, "timeout_seconds=-1", "completed", lambda job: job.result(timeout_seconds=-1))
on(
    "time limit that is text",
    e.InvalidArgument,
    "timeout_seconds",
    "completed",
    lambda job: job.result(timeout_seconds="1"),
)  # type: ignore[arg-type]
on("signal", e.Conflict, "is cancelled", "cancelled", lambda job: job.signal("x", 1))
on("retry", e.IllegalTransition, "is cancelled", "cancelled", lambda job: job.retry())
on("answer without a question", e.Conflict, "no open question", "waiting", lambda job: job.answer("yes", by="ada"))
on("retry", e.IllegalTransition, "is queued", "waiting", lambda job: job.retry())
on("resume", e.IllegalTransition, "is queued", "waiting", lambda job: job.resume())
on("signal's name", e.InvalidArgument, "signal 'a/b'", "waiting", lambda job: job.signal("a/b"))
on("signal's payload", e.NotSerializable, "payload of signal 'x'", "waiting", lambda job: job.signal("x", object()))
on("signal's key", e.InvalidArgument, "idempotency_key", "waiting", lambda job: job.signal("x", idempotency_key=""))
on("who", e.InvalidArgument, "by=", "waiting", lambda job: job.cancel(by="a\0"))
on("reason", e.InvalidArgument, "1 to 2000", "waiting", lambda job: job.cancel("x" * 3000))
on("wait too short", e.WaitTimeout, "waits for the signal", "waiting", lambda job: job.result(timeout_seconds=0.01))
on("wrong choice", e.InvalidArgument, "yes, no", "asking", lambda job: job.answer("approve", by="ada"))
on(
    "unknown question",
    e.Conflict,
    "no open question",
    "asking",
    lambda job: job.answer("yes", decision_id="x", by="ada"),
)
on("note", e.InvalidArgument, "note=", "asking", lambda job: job.answer("yes", note="x\0", by="ada"))
on("resume", e.IllegalTransition, "waits for an answer", "asking", lambda job: job.resume())

on("published name", e.InvalidArgument, "published value 'a/b'", "waiting", lambda job: job.published("a/b", type=int))
on("published type", e.RegistrationError, "published 'x'", "waiting", lambda job: job.published("x", type=object()))
on("never published", e.NotFound, "never published 'x'", "completed", lambda job: job.published("x", type=int))
on(
    "not published yet",
    e.WaitTimeout,
    "waits for the signal",
    "waiting",
    lambda job: job.published("x", type=int, timeout_seconds=0),
)
row("unknown token", e.NotFound, "handed out this token", lambda w: w.engine.complete("ext_0", 1))
row("token that is a number", e.NotFound, "handed out this token", lambda w: w.engine.heartbeat(5))  # type: ignore[arg-type]
row("failure without a word", e.InvalidArgument, "error=", lambda w: w.engine.fail("ext_0", ""))
row("heartbeat's note", e.InvalidArgument, "note=", lambda w: w.engine.heartbeat("ext_0", "x\0"))

# ---------------------------------------------------------------- facades

row("engine that was not started", e.InvalidArgument, "not open", lambda w: w.rig.engine(good).submit(good))
row("client that was not opened", e.InvalidArgument, "not open", lambda w: Client(w.rig.path).jobs())


def on_a_loop(call: Callable[[], object]) -> None:
    async def main() -> None:
        call()

    asyncio.run(main())


row("sync submit on a loop", e.BlockingCall, "AsyncEngine", lambda w: on_a_loop(lambda: w.engine.submit(good)))
row("sync start on a loop", e.BlockingCall, "async with", lambda w: on_a_loop(w.rig.engine(good).start))


@prepared("unknown kind, async", e.KindUnknown, "Did you mean good?")
def unknown_async(world: World) -> Act:
    async def main() -> None:
        async with AsyncEngine(world.other_store(), workflows=[good], durability="process") as engine:
            await engine.submit("goood")

    return lambda: asyncio.run(main())


# ---------------------------------------------------------------- inside a job


def inside(name: str, error: type[RelightError], says: str, body: Callable[[], Any], *, is_async: bool = False) -> None:
    """Add a row about what a job's body does."""
    ROWS.append(Row(f"in a job: {name}", error, error.code, says, lambda world: world.inside(body, is_async=is_async)))


inside("blocking call on the loop", e.BlockingCall, "await sleep.aio(5)", lambda: sleep(5), is_async=True)
inside("blocking step on the loop", e.BlockingCall, "await a_step.aio", lambda: a_step(), is_async=True)
inside("async step in sync code", e.BlockingCall, "an_async_step.sync", lambda: an_async_step())
inside("plain timer", e.NonDurableWait, "sleep.aio", lambda: asyncio.sleep(5), is_async=True)  # sleep-ok: refused
inside("negative sleep", e.InvalidArgument, "0 or more", lambda: sleep(-1))
inside("sleep for text", e.InvalidArgument, "0 or more", lambda: sleep("long"))  # type: ignore[arg-type]
inside("sleep until a naive time", e.InvalidArgument, "time zone", lambda: sleep_until(NAIVE))
inside("sleep until text", e.InvalidArgument, "datetime", lambda: sleep_until("noon"))  # type: ignore[arg-type]
inside("signal's name", e.InvalidArgument, "signal 'a/b'", lambda: wait_signal("a/b", type=int))
inside(
    "signal's time limit", e.InvalidArgument, "timeout_seconds", lambda: wait_signal("a", type=int, timeout_seconds=-1)
)
inside("external's name", e.InvalidArgument, "external 'a/b'", lambda: external("a/b", type=int))
inside("external's type", e.RegistrationError, "type of external 'x'", lambda: external("x", type=object()))  # type: ignore[arg-type]
inside("no type for a signal", e.InvalidArgument, "give type=", lambda: wait_signal("a"))  # type: ignore[call-overload]
inside("published value", e.NotSerializable, "published 'x'", lambda: publish("x", object()))
inside("issue's code", e.InvalidArgument, "issue 'a/b'", lambda: issue("a/b"))
inside("issue's detail", e.InvalidArgument, "detail=", lambda: issue("a", "x\0"))
inside("poll without a pause", e.InvalidArgument, "every_seconds", lambda: poll(len, 1, until=bool, every_seconds=0))  # type: ignore[arg-type]
inside("no arms at once", e.InvalidArgument, "limit=0", lambda: parallel(a_step, [1], limit=0))
inside("start of a function", e.InvalidArgument, "start() takes", lambda: start(len, []))
inside("start of an unknown kind", e.KindUnknown, '"unregistered"', lambda: start(unregistered))
inside("step's argument", e.NotSerializable, 'argument "x" of a_step', lambda: a_step(object()))
inside("step's key", e.InvalidArgument, "key", lambda: a_step.options(key="\0")())
inside("current_step in the body", e.NotInStep, "step", current_step)
inside("resource in the body", e.NotInStep, "pool", Resource(dict, name="pool"))
row("sleep outside a job", e.NotInJob, "run_inline", lambda w: sleep(1))
