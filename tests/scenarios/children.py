"""Children: jobs of their own; results, failures, many at once, nested, cancelled with their parent or detached, limits of waits."""

from __future__ import annotations

import asyncio

from tests.scenarios.script import (
    WORLD,
    After,
    End,
    Reaches,
    Scenario,
    Send,
    SendToNewest,
    Settles,
    TryAgain,
    TryChildAgain,
    Waits,
    named,
)

from relight import Child, parallel, sleep, start, step, wait_signal, workflow
from relight.errors import JobCancelled, JobFailed, WaitTimeout
from relight.model import JobState


@step
def double(n: int) -> int:
    return 2 * n


@step
def broken(word: str) -> str:
    if "mended" in WORLD.books:
        return f"{word} mended"
    raise ValueError(f"{word} is wrong")


@workflow
def quick(n: int) -> int:
    return double(n)


@workflow
async def slow(n: int) -> int:
    await sleep.aio(60 * n)
    return n


@workflow
def fails(word: str) -> str:
    return broken(word)


@workflow
def waits(name: str) -> str:
    return wait_signal(name, type=str)


@workflow
def bug_while_it_runs() -> str:
    child = start(waits, "go")
    sleep(10)
    if "mended" not in WORLD.books:
        raise TypeError("a bug in the body")
    return child.result()


@workflow
def one(n: int) -> int:
    return start(quick, n).result() + 1


@workflow
async def one_aio(n: int) -> int:
    child = await start.aio(quick, n)
    return await child.result.aio() + 1


@workflow
def waits_for_a_slow_one(n: int) -> int:
    return start(slow, n).result()


@workflow
def works_meanwhile(n: int) -> list[int]:
    child = start(slow, n)
    mine = double(10)
    return [mine, child.result()]


@workflow
def many(count: int) -> list[int]:
    children = start(slow.bind(n) for n in range(1, count + 1))
    return [child.result() for child in children]


@workflow
async def many_aio(count: int) -> list[int]:
    children = await start.aio([quick.bind(n) for n in range(count)])
    return list(await asyncio.gather(*(child.result.aio() for child in children)))


@workflow
def passes_it_on(word: str) -> str:
    return start(fails, word).result()


@workflow
async def catches_it(word: str) -> str:
    child = await start.aio(fails, word)
    try:
        return await child.result.aio()
    except JobFailed as failed:
        return f"caught {failed.error_type}"


@workflow
def one_of_three_fails() -> list[str]:
    found = []
    for child in [start(quick, 1), start(fails, "it"), start(quick, 3)]:
        try:
            found.append(str(child.result()))
        except JobFailed as failed:
            found.append(str(failed.error_type))
    return found


@workflow
def grandchild(n: int) -> int:
    return start(one, n).result() + 1


@workflow
def recursive(n: int) -> int:
    return 1 if n <= 1 else n * start(recursive, n - 1).result()


@workflow
def impatient(n: int) -> str:
    child = start(slow, n)
    try:
        return str(child.result(timeout_seconds=30))
    except WaitTimeout:
        return "not in time"


@workflow
async def impatient_then_patient(n: int) -> int:
    child = await start.aio(slow, n)
    try:
        return await child.result.aio(timeout_seconds=30)
    except WaitTimeout:
        return await child.result.aio()


@workflow
def asked_twice(n: int) -> list[int]:
    child = start(quick, n)
    return [child.result(), child.result()]


@workflow
def lets_go() -> str:
    start(waits, "never", detached=True)
    return "gone"


@workflow
def leaves_it() -> str:
    start(waits, "never")
    sleep(60)
    return "gone"


@workflow
def parent_of_waiting() -> str:
    return start(waits, "never").result()


@workflow
async def parent_of_detached() -> str:
    await start.aio(waits, "go", detached=True)
    await sleep.aio(86_400)
    return "never"


@workflow
def cancels_it() -> str:
    child: Child[str] = start(waits, "never")
    sleep(10)
    child.cancel("not needed")
    try:
        return child.result()
    except JobCancelled:
        return "cancelled it"


@workflow
def one_job(n: int) -> int:
    return start(quick, n).result()


@workflow
def fan_of_children(count: int) -> list[int]:
    return parallel(one_job, range(count))


@workflow
def child_under_a_key(n: int) -> list[int]:
    first = start(quick.bind(n).options(idempotency_key="same"))
    second = start(quick.bind(n).options(idempotency_key="same"))
    return [first.result(), second.result()]


@workflow
async def child_with_a_delay() -> int:
    child = await start.aio(quick.bind(4).options(delay_seconds=3600))
    return await child.result.aio()


SCENARIOS = named(
    [
        Scenario("one", one, (4,), also=(quick,), lines=True, says="A child's result is its parent's to use."),
        Scenario("one_async", one_aio, (4,), also=(quick,), lines=True, says="The same in async code."),
        Scenario(
            "slow_one",
            waits_for_a_slow_one,
            (5,),
            also=(slow,),
            lines=True,
            says="The parent is put away while its child sleeps.",
        ),
        Scenario(
            "works_meanwhile",
            works_meanwhile,
            (5,),
            also=(slow,),
            lines=True,
            says="start does not wait: the parent's step runs beside the child.",
        ),
        Scenario(
            "many_slow_ones",
            many,
            (4,),
            also=(slow,),
            lines=True,
            says="Four children started in one commit sleep side by side; results in the order of the calls.",
        ),
        Scenario("many_async", many_aio, (5,), also=(quick,), lines=True, says="Five children gathered."),
        Scenario(
            "fails",
            passes_it_on,
            ("it",),
            also=(fails,),
            lines=True,
            says="A child's failure that nobody catches fails its parent.",
        ),
        Scenario(
            "fails_and_is_caught_async",
            catches_it,
            ("it",),
            also=(fails,),
            lines=True,
            says="JobFailed tells what failed in the child.",
        ),
        Scenario(
            "one_of_three_fails",
            one_of_three_fails,
            also=(quick, fails),
            lines=True,
            says="The others' results are there all the same.",
        ),
        Scenario("grandchild", grandchild, (4,), also=(one, quick), lines=True, says="A child has a child."),
        Scenario("recursive", recursive, (4,), lines=True, says="A kind that starts itself: 4 jobs, 4! = 24."),
        Scenario(
            "impatient",
            impatient,
            (5,),
            also=(slow,),
            lines=True,
            says="The wait has a limit; the child is cancelled when its parent has ended.",
        ),
        Scenario(
            "impatient_then_patient_async",
            impatient_then_patient,
            (5,),
            also=(slow,),
            lines=True,
            says="A second wait for the same child has no limit.",
        ),
        Scenario("asked_twice", asked_twice, (3,), also=(quick,), lines=True, says="A result can be asked for again."),
        Scenario("detached", lets_go, also=(waits,), lines=True, says="A detached child outlives its parent."),
        Scenario(
            "left_behind",
            leaves_it,
            also=(waits,),
            lines=True,
            says="A child that is not detached is cancelled when its parent ends.",
        ),
        Scenario(
            "cancelled_with_its_parent",
            parent_of_waiting,
            (),
            (Waits("result:CHILD#0"), Waits("signal:never#0", child="start#0"), End("cancel", "enough")),
            also=(waits,),
            lines=True,
            says="A cancel of the parent reaches the child.",
        ),
        Scenario(
            "detached_is_not_cancelled_async",
            parent_of_detached,
            (),
            (
                Waits("sleep#0"),
                Waits("signal:go#0", child="start#0"),
                End("cancel", "enough"),
                Send("go", "on", child="start#0"),
            ),
            also=(waits,),
            lines=True,
            says="A cancel of the parent does not reach a detached child, which completes.",
        ),
        Scenario(
            "parent_cancels_it",
            cancels_it,
            also=(waits,),
            lines=True,
            says="A parent cancels its child, and sees JobCancelled.",
        ),
        Scenario(
            "child_and_parent_retried",
            passes_it_on,
            ("it",),
            (Reaches((JobState.FAILED,)), TryChildAgain("start#0"), TryAgain()),
            also=(fails,),
            lines=True,
            says="The child is retried and completes; then its parent is, and has the child's result.",
        ),
        Scenario(
            "bug_while_it_runs",
            bug_while_it_runs,
            (),
            (Waits("signal:go#0", child="start#0"), After(11), Settles(), TryAgain(), SendToNewest("go", "came")),
            also=(waits,),
            lines=True,
            says="A parent that fails takes its child with it; its retry starts the child again, and has its result.",
        ),
        Scenario(
            "parent_retried_alone",
            passes_it_on,
            ("it",),
            (TryAgain(),),
            also=(fails,),
            lines=True,
            says="The child has failed for good: a retry of its parent alone fails again.",
        ),
        Scenario(
            "arms_that_start_children",
            fan_of_children,
            (3,),
            also=(quick, one_job),
            lines=True,
            says="Each arm of a fan-out starts a child.",
        ),
        Scenario(
            "two_under_one_key",
            child_under_a_key,
            (3,),
            also=(quick,),
            lines=True,
            says="Two starts under one idempotency key are one child.",
        ),
        Scenario(
            "delayed_async",
            child_with_a_delay,
            also=(quick,),
            lines=True,
            says="A child's start can be delayed; its parent is put away.",
        ),
    ]
)
