"""Steps: outcomes, failures, retries, time limits, doubt, recorded values."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum

from tests.scenarios.script import WORLD, AnswerAll, Scenario, Submit, TryAgain, named

from relight import Done, NotDone, Retry, current_step, now, rng, step, uuid7, workflow
from relight.errors import StepError, StepFailed

PATIENT = Retry(tries=4, first_seconds=1, factor=2, jitter=False)


@step
def double(n: int) -> int:
    return 2 * n


@step
async def double_aio(n: int) -> int:
    return 2 * n


@workflow
def one_step(n: int) -> int:
    return double(n)


@workflow
async def one_step_aio(n: int) -> int:
    return await double_aio(n)


@workflow
def in_sequence(n: int) -> int:
    for _ in range(4):
        n = double(n)
    return n


@workflow
async def both_colours(n: int) -> int:
    return await double.aio(await double_aio(n))


@workflow
def nothing() -> None:
    return None


@workflow
async def no_steps_aio(word: str) -> str:
    return word.upper()


class Colour(Enum):
    RED = "red"


@dataclass
class Item:
    price: Decimal
    at: datetime
    colour: Colour
    tags: tuple[str, ...] = ()


@step
def price(item: Item) -> Item:
    return Item(item.price * 2, item.at, item.colour, (*item.tags, "priced"))


@workflow
def typed_values(item: Item) -> Item:
    return price(price(item))


@step
def same(numbers: list[int]) -> list[int]:
    return numbers


@workflow
def no_aliasing() -> list[int]:
    given = [0]
    same(given).append(1)  # to what came out, which is decoded from the record, and not to what went in
    return same(given)


# failures and retries


@step
def broken(word: str) -> str:
    raise ValueError(f"{word} is wrong")


@step
async def broken_aio(word: str) -> str:
    raise ValueError(f"{word} is wrong")


@workflow
def fails(word: str) -> str:
    return broken(word)


@workflow
async def caught(word: str) -> str:
    try:
        return await broken_aio(word)
    except StepFailed as failed:
        return f"{failed.error_type}: {failed.message} {failed.is_a(ValueError)}"


@workflow
def falls_back(word: str) -> int:
    try:
        broken(word)
    except StepFailed:
        return double(21)
    return 0


@workflow
def body_raises(word: str) -> int:
    double(1)
    raise KeyError(word)


@step(retry=PATIENT)
def third_time(word: str) -> str:
    if current_step().try_number < 3:
        raise ConnectionError("reset")
    return word


@workflow
def retried(word: str) -> str:
    return third_time(word)


@step(retry=PATIENT)
async def third_time_aio(word: str) -> str:
    if current_step().try_number < 3:
        raise ConnectionError("reset")
    return word


@workflow
async def retried_aio(word: str) -> str:
    return await third_time_aio(word)


@step(retry=Retry(tries=3, first_seconds=1, factor=1, jitter=False))
def never(word: str) -> str:
    raise ConnectionError(f"no {word}")


@workflow
def gives_up(word: str) -> str:
    return never(word)


@workflow
async def gives_up_and_goes_on(word: str) -> str:
    try:
        return await never.aio(word)
    except StepFailed as failed:
        return f"after {failed.tries}: {failed.message}"


@step(retry=Retry(tries=5, first_seconds=1, jitter=False, not_on=(ValueError,)))
def not_on_value_errors(word: str) -> str:
    if current_step().try_number == 1:
        raise ConnectionError("reset")
    raise ValueError(word)


@workflow
def stops_retrying(word: str) -> str:
    return not_on_value_errors(word)


@step(retry=Retry(tries=5, first_seconds=1, jitter=False, on=lambda error: "again" in str(error)))
async def while_it_says_again(word: str) -> str:
    raise RuntimeError("again" if current_step().try_number < 3 else word)


@workflow
async def retries_by_predicate(word: str) -> str:
    return await while_it_says_again(word)


@step(retry=Retry(tries=5, first_seconds=10, factor=10, max_seconds=50, jitter=False))
def capped(word: str) -> str:
    if current_step().try_number < 4:
        raise ConnectionError("reset")
    return word


@workflow
def pauses_are_capped(word: str) -> str:
    return capped(word)


@step(retry=Retry(tries=9, first_seconds=10, factor=1, jitter=False, total_seconds=25))
async def within_25(word: str) -> str:
    raise ConnectionError(word)


@workflow
async def total_is_limited(word: str) -> str:
    return await within_25(word)


@step(retry=PATIENT)
def told_to_stop(word: str) -> str:
    raise StepError("no such account", code="unknown_account", retryable=False, details={"word": word})


@workflow
def not_retryable(word: str) -> str:
    return told_to_stop(word)


@step(retry=PATIENT)
async def told_to_wait(word: str) -> str:
    if current_step().try_number == 1:
        raise StepError("slow down", code="429", retry_after_seconds=45)
    return word


@workflow
async def retry_after(word: str) -> str:
    return await told_to_wait(word)


class Declined(Exception):
    pass


@step(raises=(Declined,), retry=PATIENT)
def pay(cents: int) -> str:
    raise Declined(f"not {cents}")


@workflow
def declared_error(cents: int) -> str:
    try:
        return pay(cents)
    except Declined as declined:
        return f"declined: {declined}"


@step(raises=(Declined,))
async def pay_aio(cents: int) -> str:
    raise Declined(f"not {cents}")


@workflow
async def declared_error_ends_the_job(cents: int) -> str:
    return await pay_aio(cents)


@step(timeout_seconds=0.05)
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)  # sleep-ok: it has to overrun its time limit
    return "in time"


@workflow
async def times_out(seconds: float) -> str:
    return await slow(seconds)


@step(timeout_seconds=0.05, retry=Retry(tries=2, first_seconds=1, jitter=False))
def slow_once() -> str:
    if current_step().try_number == 1:
        threading.Event().wait(0.15)
    return "in time"


@workflow
def times_out_once() -> str:
    return slow_once()


# doubt


def was_booked(cents: int) -> Done[str] | NotDone:
    key = current_step().idempotency_key
    return Done(WORLD.books[key]) if key in WORLD.books else NotDone()


@step(in_doubt=was_booked, retry=PATIENT)
def book(cents: int) -> str:
    key = current_step().idempotency_key
    assert key not in WORLD.books, "booked twice"
    WORLD.books[key] = f"booked {cents}"
    WORLD.calls.append("booked")
    raise TimeoutError("the answer was lost")


@workflow
def reconciled(cents: int) -> str:
    return book(cents)


async def not_booked(cents: int) -> Done[str] | NotDone:
    return NotDone()


@step(in_doubt=not_booked, retry=PATIENT)
async def book_late(cents: int) -> str:
    if current_step().try_number == 1:
        raise ConnectionError("refused")
    return f"booked {cents}"


@workflow
async def reconciled_as_not_done(cents: int) -> str:
    return await book_late(cents)


@step(in_doubt="ask", retry=Retry(tries=4, first_seconds=0.01))
def mail(to: str) -> str:
    if current_step().try_number == 1:
        raise ConnectionError("reset")
    return f"mailed {to}"


@workflow
def asks_in_doubt(to: str) -> str:
    return mail(to)


@step(in_doubt="fail", retry=PATIENT)
async def once_only(word: str) -> str:
    raise ConnectionError("reset")


@workflow
async def fails_in_doubt(word: str) -> str:
    try:
        return await once_only(word)
    except StepFailed as failed:
        return f"{failed.code} {failed.error_code}"


# operator retries, recorded values, keys


@step
def needs_mending(word: str) -> str:
    if "mended" not in WORLD.books:
        raise ValueError(word)
    return f"{word} mended"


@workflow
def retried_by_operator(word: str) -> str:
    double(1)
    return needs_mending(word)


@workflow
async def bug_then_fix(word: str) -> str:
    await double_aio(1)
    if "mended" not in WORLD.books:
        raise TypeError("a bug in the body")
    return f"{word} {await double_aio(2)}"


@step
def remember(at: datetime, number: int, name: str) -> list[str]:
    return [at.isoformat(), str(number), name]


@workflow
def recorded_values() -> bool:
    before = (now(), rng().randrange(1000), str(uuid7()))
    found = remember(*before)
    return found == [before[0].isoformat(), str(before[1]), before[2]] and now() >= before[0]


@workflow
async def explicit_keys(names: list[str]) -> list[int]:
    return [await double_aio.options(key=name)(len(name)) for name in names]


@workflow
def renamed_step(n: int) -> int:
    return double.options(name="twice")(double(n))


@workflow
def inline(n: int) -> int:
    return one_step(n) + in_sequence(n)


@step
def outer(n: int) -> int:
    return double(n) + 1


@workflow
async def step_in_a_step(n: int) -> int:
    return await outer.aio(n)


@workflow
def loop_until(limit: int) -> int:
    n = 1
    while n < limit:
        n = double(n)
    return n


MAY = datetime(2031, 5, 1, tzinfo=UTC)

SCENARIOS = named(
    [
        Scenario("one_step", one_step, (4,), says="A step's result is the job's."),
        Scenario("one_step_async", one_step_aio, (4,), says="The same in async code."),
        Scenario("in_sequence", in_sequence, (1,), says="Four calls of one step are numbered in order."),
        Scenario("both_colours", both_colours, (1,), says="An async workflow calls async steps and sync ones."),
        Scenario("nothing", nothing, says="A workflow without steps completes with null."),
        Scenario("no_steps_async", no_steps_aio, ("a",), says="The same in async code, with a result."),
        Scenario(
            "typed_values",
            typed_values,
            (Item(Decimal("1.10"), MAY, Colour.RED),),
            says="Values of rich types come back as they went in.",
        ),
        Scenario(
            "no_aliasing",
            no_aliasing,
            says="What a step returns is decoded from its record: changing it changes nothing else.",
        ),
        Scenario("fails", fails, ("it",), says="A failure that nobody catches fails the job, after one try."),
        Scenario("caught", caught, ("it",), says="A failure that is caught does not."),
        Scenario("falls_back", falls_back, ("it",), says="Another step can take the place of one that failed."),
        Scenario(
            "body_raises", body_raises, ("k",), says="An error of the body fails the job; finished steps stay finished."
        ),
        Scenario("retried", retried, ("w",), says="Two tries fail; the pauses are 1 s and 2 s; the third completes."),
        Scenario("retried_async", retried_aio, ("w",), says="The same in async code."),
        Scenario("gives_up", gives_up, ("luck",), says="After three tries the step has failed, and so the job."),
        Scenario(
            "gives_up_and_goes_on", gives_up_and_goes_on, ("luck",), says="The workflow sees how many tries there were."
        ),
        Scenario("stops_retrying", stops_retrying, ("w",), says="A type of not_on ends the tries at the second."),
        Scenario(
            "retries_by_predicate",
            retries_by_predicate,
            ("w",),
            says="A function of the error decides: two more tries, then no more.",
        ),
        Scenario(
            "pauses_are_capped", pauses_are_capped, ("w",), says="Pauses of 10 s, 50 s, 50 s: max_seconds caps them."
        ),
        Scenario(
            "total_is_limited",
            total_is_limited,
            ("w",),
            says="Tries at 0, 10 and 20 s; one at 30 s would be beyond total_seconds.",
        ),
        Scenario(
            "not_retryable",
            not_retryable,
            ("w",),
            says="StepError(retryable=False) ends it at the first of four tries.",
        ),
        Scenario("retry_after", retry_after, ("w",), says="The provider's 45 s are the pause."),
        Scenario(
            "declared_error",
            declared_error,
            (5,),
            says="An error of raises= is an answer: it comes back as itself, after one try of four.",
        ),
        Scenario(
            "declared_error_ends_the_job",
            declared_error_ends_the_job,
            (5,),
            says="Nobody catches it: the job fails with it.",
        ),
        Scenario("times_out", times_out, (0.3,), says="A try longer than timeout_seconds fails with TimeoutError."),
        Scenario(
            "times_out_once",
            times_out_once,
            says="A sync function is not stopped: its result is not used, and the second try begins when it has returned.",
        ),
        Scenario(
            "reconciled",
            reconciled,
            (7,),
            says="The answer was lost; the reconciling function finds what happened, and there is no second booking.",
        ),
        Scenario(
            "reconciled_as_not_done", reconciled_as_not_done, (7,), says="It finds nothing: the step is called again."
        ),
        Scenario(
            "asks_in_doubt",
            asks_in_doubt,
            ("ada",),
            (AnswerAll("not_done"),),
            says="A person says that it did not happen: it is called again.",
        ),
        Scenario(
            "asks_in_doubt_and_failed",
            asks_in_doubt,
            ("ada",),
            (AnswerAll("fail"),),
            says="A person gives it up: the step fails.",
        ),
        Scenario(
            "fails_in_doubt",
            fails_in_doubt,
            ("w",),
            says="What must not be repeated fails, in doubt, and can be caught.",
        ),
        Scenario(
            "retried_by_operator",
            retried_by_operator,
            ("it",),
            (TryAgain(),),
            says="After an operator's retry only the failed step is called.",
        ),
        Scenario(
            "bug_then_fix",
            bug_then_fix,
            ("it",),
            (TryAgain(),),
            says="A bug in the body, a fix, a retry: it goes on behind its checkpoints.",
        ),
        Scenario("recorded_values", recorded_values, says="now, rng and uuid7 are the same on replay."),
        Scenario("explicit_keys", explicit_keys, (["a", "bcd"],), says="Explicit keys name the steps."),
        Scenario("renamed_step", renamed_step, (1,), says="options(name=) counts under the new name."),
        Scenario(
            "inline_workflow",
            inline,
            (1,),
            says="A workflow that is called is inline: no job, its steps in a branch of their own.",
        ),
        Scenario("step_in_a_step", step_in_a_step, (2,), says="A step called in a step is a plain call."),
        Scenario("loop_until", loop_until, (20,), says="A loop over results takes the same turns on replay."),
        Scenario(
            "same_key_same_job",
            one_step,
            (4,),
            (Submit(one_step, (4,), "main"),),
            says="A submit under the same key is the same job.",
            lines=True,
        ),
    ]
)
