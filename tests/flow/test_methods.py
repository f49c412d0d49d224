"""Steps as methods: the object is no argument, is not hashed and not stored; workflows are plain functions."""

from __future__ import annotations

from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import parallel, step, wait_signal, workflow
from relight.errors import RegistrationError

WHERE: list[str] = []


class Mailer:
    def __init__(self, host: str) -> None:
        self.host = host

    @step
    def send(self, to: str) -> str:
        WHERE.append(self.host)
        return f"{self.host}: {to}"

    @step
    async def asend(self, to: str) -> str:
        WHERE.append(self.host)
        return f"{self.host}: {to}"

    @staticmethod
    @step
    def check(to: str) -> bool:
        return "@" in to


class Other:
    @step
    def send(self, to: str) -> str:
        return to


COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


@COLOURS
def test_the_object_is_neither_hashed_nor_stored(rig: Rig, colour: str) -> None:
    hosts = iter(["first", "second", "third"])

    @workflow(name="job")
    def job() -> list[str]:
        mailer = Mailer(next(hosts))
        return [mailer.send("ada"), wait_signal("go", type=str), mailer.asend.sync("bob")]

    @workflow(name="job")
    async def ajob() -> list[str]:
        mailer = Mailer(next(hosts))
        return [await mailer.send.aio("ada"), await wait_signal.aio("go", type=str), await mailer.asend("bob")]

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    rig.until_put_away(done)
    done.signal("go", "on")
    assert done.result(timeout_seconds=10) == ["first: ada", "on", "second: bob"]
    steps = rig.steps(done)
    assert steps["Mailer.send#0"].inputs == '{"to":"ada"}' and steps["Mailer.asend#0"].inputs == '{"to":"bob"}'


@COLOURS
def test_methods_of_one_name_in_two_classes_are_two_steps(rig: Rig, colour: str) -> None:
    @workflow(name="job")
    def job() -> list[str]:
        return [Mailer("a").send("x"), Other().send("y"), *parallel(Mailer("b").send, ["z"])]

    @workflow(name="job")
    async def ajob() -> list[str]:
        one = [await Mailer("a").send.aio("x"), await Other().send.aio("y")]
        return [*one, *await parallel.aio(Mailer("b").asend, ["z"])]

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    assert done.result(timeout_seconds=10) == ["a: x", "y", "b: z"]
    last = "b0/Mailer.send#0" if colour == "sync" else "b0/Mailer.asend#0"
    assert set(rig.steps(done)) == {"Mailer.send#0", "Other.send#0", last}


def test_a_static_method_is_a_step_and_outside_a_job_all_are_plain(rig: Rig) -> None:
    assert Mailer("h").send("x") == "h: x" and Mailer.check("a@b") and Other().send("y") == "y"

    @workflow
    def job() -> bool:
        return Mailer.check("a@b") and Mailer("h").check("c@d")

    done = rig.start(job).submit(job)
    assert done.result(timeout_seconds=10) is True
    assert set(rig.steps(done)) == {"check#0", "check#1"}


@COLOURS
def test_workflows_as_methods_are_refused(colour: str) -> None:
    async def arun(self: object) -> None: ...

    def run(self: object) -> None: ...

    flow: Any = workflow(name="run")(run if colour == "sync" else arun)
    with pytest.raises((RegistrationError, RuntimeError)) as refused:  # 3.11 wraps what __set_name__ raises
        type("Flows", (), {"run": flow})
    error = refused.value if isinstance(refused.value, RegistrationError) else refused.value.__cause__
    assert isinstance(error, RegistrationError) and "plain function" in str(error)


# ---------------------------------------------------------------- inputs="hash"


def everything(rig: Rig) -> bytes:
    """Return what is in the store's files."""
    return b"".join(path.read_bytes() for path in rig.folder.glob("jobs.db*") if path.is_file())


@pytest.mark.sqlite_file("looks for text in the file")
@COLOURS
def test_hashed_inputs_are_nowhere_in_the_store_and_a_mismatch_is_still_told(rig: Rig, colour: str) -> None:
    said = ["the secret plan", "another plan"]

    @step(inputs="hash")
    def keep(plan: str, size: int) -> int:
        return len(plan) * size

    @step(name="keep", inputs="hash")
    async def akeep(plan: str, size: int) -> int:
        return len(plan) * size

    @workflow(name="job")
    def job() -> int:
        return keep(said[0], 2) + wait_signal("go", type=int)

    @workflow(name="job")
    async def ajob() -> int:
        return await akeep(said[0], 2) + await wait_signal.aio("go", type=int)

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    rig.until_put_away(done)
    assert rig.steps(done)["keep#0"].inputs is None
    assert b"secret plan" not in everything(rig) and b"keep#0" in everything(rig)
    said.pop(0)
    done.signal("go", 1)
    rig.until(done, "awaiting_user", "history_mismatch:arguments")
    assert 'argument "plan" differs (others equal)' in done.why().summary
    assert b"another plan" not in everything(rig)


def test_isolated_steps_are_said_to_be_no_part_of_this_version() -> None:
    with pytest.raises(RegistrationError, match="isolate=True is reserved"):

        @step(isolate=True)
        def alone() -> None: ...
