"""``parallel`` with a tolerance: outcomes instead of an error, issues, stopping early, and the same again on replay."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig, eventually, wait_for

from relight import parallel, start, step, wait_signal, workflow
from relight.errors import InvalidArgument, JobFailed, StepError, StepFailed
from relight.model import JobState, Outcomes


@step
def odd_fails(n: int) -> int:
    if n % 2:
        raise ValueError(f"odd {n}")
    return n


@step(name="odd_fails")
async def aodd_fails(n: int) -> int:
    if n % 2:
        raise ValueError(f"odd {n}")
    return n


def told(found: Outcomes[int]) -> list[Any]:
    failed = [[index, error.step_key, error.message] for index, error in found.failed]
    return [found.ok, failed, found.skipped, len(found)]


def both(body: Any, abody: Any) -> list[Any]:
    return [pytest.param(workflow(name="job")(body), id="sync"), pytest.param(workflow(name="job")(abody), id="async")]


def tolerant(count: int, options: dict[str, Any]) -> list[Any]:
    return told(parallel(odd_fails, range(count), **options))


async def atolerant(count: int, options: dict[str, Any]) -> list[Any]:
    return told(await parallel.aio(aodd_fails, range(count), **options))


TOLERANT = both(tolerant, atolerant)
ENOUGH: list[dict[str, float]] = [{"max_failed": 3}, {"max_failed_share": 0.5}, {"min_ok": 3}, {"max_failed_share": 1}]


@pytest.mark.parametrize("job", TOLERANT)
@pytest.mark.parametrize("options", ENOUGH, ids=str)
def test_as_many_failures_as_allowed_are_outcomes_and_issues(rig: Rig, job: Any, options: dict[str, float]) -> None:
    done = rig.start(job).submit(job, 6, options)
    ok, failed, skipped, size = done.result(timeout_seconds=10)
    assert (ok, skipped, size) == ([0, 2, 4], 0, 6)
    assert failed == [[n, f"b{n}/odd_fails#0", f"odd {n}"] for n in (1, 3, 5)]
    row = rig.row(done)
    assert (row.state, row.status_reason) == (JobState.COMPLETED_WITH_ISSUES, "completed_with_issues")
    issues = msgspec.json.decode(row.issues or "")
    assert issues[0] == {"code": "item_failed", "detail": "b1/odd_fails#0: builtins.ValueError: odd 1"} or issues[
        0
    ] == {
        "code": "item_failed",
        "detail": "b1/odd_fails#0: ValueError: odd 1",
    }
    assert len(issues) == 3
    assert rig.told(done)[-1] == "job_completed_with_issues"
    assert "3 issues" in done.why().summary


@pytest.mark.parametrize("job", TOLERANT)
@pytest.mark.parametrize("options", [{"max_failed": 2}, {"max_failed_share": 0.49}, {"min_ok": 4}], ids=str)
def test_one_more_than_allowed_raises_all_failures_together(rig: Rig, job: Any, options: dict[str, float]) -> None:
    failed = rig.start(job).submit(job, 6, options)
    with pytest.raises(JobFailed, match=r"3 of 6 items of parallel\(odd_fails, …\) failed"):
        failed.result(timeout_seconds=10)
    assert rig.row(failed).issues is None


@pytest.mark.parametrize("job", TOLERANT)
def test_without_a_failure_the_job_completes_without_issues(rig: Rig, job: Any) -> None:
    done = rig.start(job).submit(job, 1, {"max_failed": 0})
    assert done.result(timeout_seconds=10) == [[0], [], 0, 1]
    assert rig.row(done).state is JobState.COMPLETED


@pytest.mark.parametrize("job", TOLERANT)
@pytest.mark.parametrize("options", [{"max_failed": 0}, {"max_failed_share": 0.3}, {"min_ok": 0}], ids=str)
def test_nothing_at_all_is_no_outcome(rig: Rig, job: Any, options: dict[str, float]) -> None:
    assert rig.start(job).submit(job, 0, options).result(timeout_seconds=10) == [[], [], 0, 0]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_failed": 1, "min_ok": 1}, "give one"),
    ({"max_failed": 1, "max_failed_share": 0.5}, "give one"),
    ({"max_failed": -1}, "a whole number"),
    ({"max_failed": True}, "a whole number"),
    ({"max_failed": 0.5}, "a whole number"),
    ({"min_ok": "3"}, "a whole number"),
    ({"min_ok": 7}, "of 6 items"),
    ({"max_failed_share": 1.01}, "from 0 to 1"),
    ({"max_failed_share": -0.01}, "from 0 to 1"),
    ({"max_failed_share": 2}, "from 0 to 1"),
    ({"max_failed_share": True}, "from 0 to 1"),
    ({"max_failed_share": float("nan")}, "from 0 to 1"),
]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(("options", "said"), BAD, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_a_tolerance_that_cannot_be_is_refused(rig: Rig, colour: str, options: dict[str, Any], said: str) -> None:
    @workflow(name="job")
    def job() -> str:
        try:
            parallel(odd_fails, range(6), **options)
        except InvalidArgument as error:
            return str(error)
        return ""

    @workflow(name="job")
    async def ajob() -> str:
        try:
            await parallel.aio(aodd_fails, range(6), **options)
        except InvalidArgument as error:
            return str(error)
        return ""

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    assert said in done.result(timeout_seconds=10)
    assert rig.steps(done) == {}


@pytest.mark.parametrize(
    ("share", "count", "allowed"), [(0.29, 100, 29), (0.02, 5000, 100), (0.019, 100, 1), (1, 7, 7)]
)
def test_a_share_allows_so_many_in_whole_items(share: float, count: int, allowed: int) -> None:
    from relight.authoring.items import tolerance

    assert tolerance(count, None, share, None) == allowed


# ---------------------------------------------------------------- stopping early


def stopping(rig: Rig, colour: str, calls: list[int]) -> Any:
    @step
    def check(n: int) -> int:
        calls.append(n)
        if n < 2:
            raise ValueError(f"bad {n}")
        return n

    @step(name="check")
    async def acheck(n: int) -> int:
        return check.__wrapped__(n)

    @workflow(name="job")
    def job() -> list[str]:
        try:
            parallel(check, range(50), limit=1, min_ok=49)
        except* StepFailed as group:
            said = [str(error) for error in group.exceptions], group.message
        return [*said[0], said[1], wait_signal("go", type=str)]

    @workflow(name="job")
    async def ajob() -> list[str]:
        try:
            await parallel.aio(acheck, range(50), limit=1, min_ok=49)
        except* StepFailed as group:
            said = [str(error) for error in group.exceptions], group.message
        return [*said[0], said[1], await wait_signal.aio("go", type=str)]

    return job if colour == "sync" else ajob


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_is_out_of_reach_begins_nothing_more_and_a_replay_tells_the_same(rig: Rig, colour: str) -> None:
    calls: list[int] = []
    job = stopping(rig, colour, calls)
    done = rig.start(job).submit(job)
    rig.until_put_away(done)
    assert calls == [0, 1]
    assert len(msgspec.json.decode(rig.steps(done)["parallel#0"].outcome or "")) == 48
    done.signal("go", "on")
    *failures, message, went_on = done.result(timeout_seconds=10)
    assert len(failures) == 2 and went_on == "on"
    assert message == "2 of 50 items of parallel(check, …) failed"
    assert calls == [0, 1]
    assert len(rig.runs(done)) == 2


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_after_an_operators_retry_what_was_skipped_has_its_turn(rig: Rig, colour: str) -> None:
    mended = threading.Event()

    def act(n: int) -> int:
        if n < 2 and not mended.is_set():
            raise ValueError(f"bad {n}")
        return n

    check, acheck = step(name="check")(act), step(name="check")(_async(act))

    @workflow(name="job")
    def job() -> int:
        return len(parallel(check, range(20), limit=1, max_failed=1).ok)

    @workflow(name="job")
    async def ajob() -> int:
        return len((await parallel.aio(acheck, range(20), limit=1, max_failed=1)).ok)

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    with pytest.raises(JobFailed, match="2 of 20 items"):
        done.result(timeout_seconds=10)
    mended.set()
    done.retry(by="ada")
    assert done.result(timeout_seconds=10) == 20
    assert rig.row(done).state is JobState.COMPLETED


def _async(act: Any) -> Any:
    async def check(n: int) -> int:
        return act(n)  # type: ignore[no-any-return]

    return check


def test_an_item_that_a_crash_cut_is_finished_although_too_many_have_failed(rig: Rig) -> None:
    go, calls = threading.Event(), []

    @step
    def check(n: int) -> int:
        calls.append(n)
        if n == 0 and not go.is_set():
            wait_for(go)
        if n in (1, 2):
            raise ValueError(f"bad {n}")
        return n

    @workflow
    def job() -> str:
        try:
            parallel(check, range(9), limit=2, max_failed=1)
        except ExceptionGroup as group:
            return str(len(group.exceptions))
        return ""

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_recorded(done, "b2/check#0", "failed")
    rig.crash(engine)
    go.set()
    assert rig.start(job).job(done.id).result(timeout_seconds=10) == "2"
    assert sorted(calls) == [0, 0, 1, 2]


def test_what_is_on_record_or_said_to_be_a_failure_is_tolerated_and_told_as_failed_steps(rig: Rig) -> None:
    class Declined(Exception): ...

    @step(raises=(Declined,))
    def pays() -> int:
        raise Declined("no money")

    @workflow
    def broken() -> int:
        return odd_fails(1)

    def arm(what: str) -> int:
        match what:
            case "declared":
                return pays()
            case "said":
                raise StepError("no text in it")
            case "child":
                return start(broken).result()
            case "late":
                return wait_signal("never", type=int, timeout_seconds=0)
            case "group":
                return parallel(odd_fails, [1])[0]
        return odd_fails(2)

    @workflow
    def job() -> list[Any]:
        found = parallel(arm, ["declared", "said", "child", "late", "group", "fine"], max_failed=5)
        assert found.failed[0][1].is_a(Declined) and found.failed[1][1].is_a(StepError)
        return [found.ok, [index for index, _ in found.failed], found.failed[0][1].step_key, found.skipped]

    done = rig.start(job, broken).submit(job)
    assert done.result(timeout_seconds=10) == [[2], [0, 1, 2, 3, 4], "b0/", 0]
    assert rig.row(done).state is JobState.COMPLETED_WITH_ISSUES


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_bug_in_an_arms_own_code_is_not_tolerated_and_goes_on_after_its_fix(rig: Rig, colour: str) -> None:
    calls: list[int] = []
    mended = threading.Event()

    @step
    def check(n: int) -> int:
        calls.append(n)
        return n

    def arm(n: int) -> int:
        got = check(n)
        return got if mended.is_set() or n != 1 else got + "1"  # type: ignore[operator]

    async def aarm(n: int) -> int:
        got = await check.aio(n)
        return got if mended.is_set() or n != 1 else got + "1"  # type: ignore[operator]

    @workflow(name="job")
    def job() -> int:
        return len(parallel(arm, range(6), limit=1, max_failed=4).ok)

    @workflow(name="job")
    async def ajob() -> int:
        return len((await parallel.aio(aarm, range(6), limit=1, max_failed=4)).ok)

    wanted: Any = job if colour == "sync" else ajob
    done = rig.start(wanted).submit(wanted)
    with pytest.raises(JobFailed, match="1 of 6 items") as caught:
        done.result(timeout_seconds=10)
    told = "".join(caught.value.__notes__)
    assert "TypeError came from the workflow's own code" in told and "4 items were not begun" in told
    assert rig.row(done).state is JobState.FAILED
    mended.set()
    done.retry(by="ada")
    assert done.result(timeout_seconds=10) == 6
    assert sorted(calls) == list(range(6))


def test_items_of_a_plain_function_are_found_by_a_key_that_people_can_read(rig: Rig) -> None:
    def arm(name: str) -> int:
        return odd_fails(2) + odd_fails(len(name) * 2)

    @workflow
    def job() -> int:
        return sum(parallel(arm, ["d-17", "a/b c", "x" * 70], key=str))

    done = rig.start(job).submit(job)
    done.result(timeout_seconds=10)
    lines = sorted({key.rpartition("/")[0] for key in rig.steps(done) if "/" in key})
    assert len(rig.steps(done)) >= 6
    assert lines[0].startswith("item:a_b_c~") and lines[1] == "item:d-17" and lines[2].startswith("item:xxx")
    assert len(lines[2]) < 70


# ---------------------------------------------------------------- progress


def test_progress_is_told_by_itself_and_does_not_go_back_over_a_crash(rig: Rig) -> None:
    go = threading.Event()

    @step
    def check(n: int) -> int:
        if n == 7 and not go.is_set():
            wait_for(go)
        if n in (1, 2):
            raise ValueError("bad")
        return n

    @workflow
    def job() -> int:
        return len(parallel(check, range(10), limit=2, max_failed=2).ok)

    engine = rig.start(job)
    done = engine.submit(job)
    rig.until_recorded(done, "b9/check#0", "completed")
    first = eventually(lambda: (p := done.info().progress) and p.done >= 5 and p)
    assert first.total == 10 and first.note == "check (2 failed, up to 2 allowed)"
    assert "of 10 (2 failed, up to 2 allowed)" in done.why().summary
    before = msgspec.json.decode(rig.row(done).progress or "")["done"]
    rig.crash(engine)
    go.set()
    again = rig.start(job)
    seen: list[float] = [before]
    while rig.row(done).completed_at is None:
        seen.append(msgspec.json.decode(rig.row(done).progress or "")["done"])
    assert again.job(done.id).result(timeout_seconds=10) == 8
    seen.append(msgspec.json.decode(rig.row(done).progress or "")["done"])
    assert seen == sorted(seen) and seen[-1] == 10
