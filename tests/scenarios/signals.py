"""Signals: buffered in order, read once, typed, idempotent, several names, time limits and defaults, to children too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.scenarios.script import After, End, Scenario, Send, Waits, named

from relight import sleep, start, step, wait_signal, workflow
from relight.errors import WaitTimeout


@dataclass
class Paid:
    cents: int
    by: str = "card"


@step
def note(word: str) -> str:
    return word


@workflow
def one(name: str) -> str:
    return wait_signal(name, type=str)


@workflow
async def one_aio(name: str) -> str:
    return await wait_signal.aio(name, type=str)


@workflow
def typed() -> str:
    paid = wait_signal("paid", type=Paid)
    return f"{paid.cents} by {paid.by}"


@workflow
async def three_in_order() -> list[str]:
    return [await wait_signal.aio("word", type=str) for _ in range(3)]


@workflow
def two_names_apart() -> list[str]:
    return [wait_signal("second", type=str), wait_signal("first", type=str)]


@workflow
def limited() -> str:
    try:
        return wait_signal("go", type=str, timeout_seconds=60)
    except WaitTimeout:
        return note("nobody came")


@workflow
async def with_default() -> str | None:
    return await wait_signal.aio("go", type=str, timeout_seconds=60, default=None)


@workflow
def looks() -> list[str | None]:
    found = [wait_signal("hurry", type=str, timeout_seconds=0, default=None)]
    sleep(10)
    return [*found, wait_signal("hurry", type=str, timeout_seconds=0, default=None)]


@workflow
def late_after_default() -> list[str]:
    first = wait_signal("go", type=str, timeout_seconds=60, default="default")
    return [first, wait_signal("go", type=str)]


@workflow
async def whichever() -> list[str]:
    found = await wait_signal.aio("paid", "cancelled")
    return [found.name, found.payload(str), found.by or ""]


@workflow
def whichever_in_turn() -> list[str]:
    return [wait_signal("a", "b").name for _ in range(3)]


@workflow
def whichever_limited() -> str:
    try:
        return wait_signal("a", "b", timeout_seconds=30).name
    except WaitTimeout:
        return "neither"


@workflow
def conversation() -> list[str]:
    said = []
    while (word := wait_signal("say", type=str)) != "bye":
        said.append(note(word.upper()))
    return said


@workflow
async def two_waits_at_once() -> list[str]:
    return list(await asyncio.gather(wait_signal.aio("a", type=str), wait_signal.aio("b", type=str)))


@workflow
def wrong_type() -> int:
    return wait_signal("number", type=int)


@workflow
def null_payload() -> bool:
    return wait_signal("go", type=type(None)) is None


@workflow
def child_waits() -> str:
    return wait_signal("go", type=str)


@workflow
def asks_its_child() -> str:
    return start(child_waits).result()


@workflow
async def never_reads() -> str:
    await sleep.aio(60)
    return "ended"


@step
async def two(word: str) -> str:
    return 2 * word


@workflow
async def between_steps() -> list[str]:
    a = await two("a")
    b = await wait_signal.aio("b", type=str)
    return [a, b, await two(b)]


SCENARIOS = named(
    [
        Scenario(
            "waits_first",
            one,
            ("go",),
            (Waits("signal:go#0"), Send("go", "on")),
            says="The run is put away; the signal queues the job; the wait has the payload.",
        ),
        Scenario(
            "waits_first_async",
            one_aio,
            ("go",),
            (Waits("signal:go#0"), Send("go", "on")),
            says="The same in async code.",
        ),
        Scenario(
            "sent_before_the_job_began",
            one,
            ("go",),
            early=(Send("go", "on"),),
            says="A signal that came before the wait is kept, and nothing is put away.",
        ),
        Scenario(
            "in_memory",
            one,
            ("go",),
            (Waits("signal:go#0", running=True), Send("go", "on")),
            engine={"suspend_after_seconds": 60},
            lines=True,
            says="A wait that is still in memory is woken there: one run.",
        ),
        Scenario(
            "typed",
            typed,
            (),
            (Waits("signal:paid#0"), Send("paid", {"cents": 7})),
            says="The payload comes as the type that is waited for, defaults filled in.",
        ),
        Scenario(
            "three_in_order_async",
            three_in_order,
            early=(Send("word", "a"), Send("word", "b"), Send("word", "c")),
            says="Three of one name are read first in, first out.",
        ),
        Scenario(
            "names_do_not_mix",
            two_names_apart,
            early=(Send("first", "1"), Send("second", "2")),
            says="Each name has a line of its own.",
        ),
        Scenario(
            "sent_twice_under_one_key",
            three_in_order,
            early=(Send("word", "a", "k1"), Send("word", "a", "k1"), Send("word", "b", "k2"), Send("word", "c", "k3")),
            says="One idempotency key sends once.",
        ),
        Scenario("nobody_comes", limited, says="After a minute WaitTimeout is raised, and can be caught."),
        Scenario(
            "comes_in_time",
            limited,
            (),
            (Waits("signal:go#0"), After(30), Send("go", "in time")),
            says="A signal after half the time ends the wait.",
        ),
        Scenario(
            "default_async", with_default, says="After a minute the default is the result, and nothing is raised."
        ),
        Scenario(
            "looks_without_waiting",
            looks,
            (),
            (Waits("sleep#0"), Send("hurry", "up")),
            says="With timeout_seconds=0 a wait looks: nothing at first, something later; what it saw is recorded.",
        ),
        Scenario(
            "late_for_one_wait",
            late_after_default,
            (),
            (Waits("signal:go#0"), After(61), Waits("signal:go#1"), Send("go", "late")),
            says="A signal after the time limit is for the next wait.",
        ),
        Scenario(
            "either_of_two_async",
            whichever,
            (),
            (Waits("signal:paid|cancelled#0"), Send("cancelled", "no")),
            says="Of several names the one that was sent ends the wait, with its sender.",
        ),
        Scenario(
            "either_of_two_in_turn",
            whichever_in_turn,
            early=(Send("b"), Send("a"), Send("b")),
            says="Of several that are there, the one sent first is read first.",
        ),
        Scenario("neither_of_two", whichever_limited, says="A time limit for several names."),
        Scenario(
            "conversation",
            conversation,
            (),
            (
                Waits("signal:say#0"),
                Send("say", "hi"),
                Waits("signal:say#1"),
                Send("say", "you"),
                Waits("signal:say#2"),
                Send("say", "bye"),
            ),
            says="Each signal goes on to the next wait; steps between are not called again.",
        ),
        Scenario(
            "two_waits_at_once_async",
            two_waits_at_once,
            (),
            (Waits("b0/signal:a#0"), Waits("b1/signal:b#0"), Send("b", "B"), Send("a", "A")),
            lines=True,
            says="Two lines wait for two names.",
        ),
        Scenario(
            "wrong_type",
            wrong_type,
            early=(Send("number", "many"),),
            says="A payload that does not fit, sent before anybody waited, fails the job at the wait.",
        ),
        Scenario("null_payload", null_payload, early=(Send("go"),), says="A signal need not carry anything."),
        Scenario(
            "to_a_child",
            asks_its_child,
            also=(child_waits,),
            script=(Waits("signal:go#0", child="start#0"), Send("go", "kid", child="start#0")),
            lines=True,
            says="A signal to a child job ends the child, and that its parent's wait.",
        ),
        Scenario(
            "never_read_async",
            never_reads,
            (),
            (Waits("sleep#0"), Send("stop", "now")),
            says="A signal that nobody reads does not disturb.",
        ),
        Scenario(
            "between_steps_async",
            between_steps,
            (),
            (Waits("signal:b#0"), Send("b", "b")),
            says="A step, a signal, a step.",
        ),
        Scenario(
            "waits_for_ever",
            one,
            ("go",),
            (Waits("signal:go#0"),),
            says="Without a limit it waits, put away, and why says for what.",
        ),
        Scenario(
            "cancelled_while_it_waits",
            one,
            ("go",),
            (Waits("signal:go#0"), End("cancel", "enough")),
            says="A wait without a limit has a cancel.",
        ),
    ]
)
