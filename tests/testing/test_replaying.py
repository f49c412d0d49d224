"""``relight export`` and ``assert_replays``: old histories against new code, without side effects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.stores import new_store

from relight import Engine, Secret, ask, cleanup, now, parallel, rng, sleep, start, step, uuid7, wait_signal, workflow
from relight.cli.main import cli
from relight.errors import InvalidArgument, StepFailed
from relight.testing import assert_replays, drain

called: list[str] = []


@step
def add(n: int, note: str = "") -> int:
    called.append("add")
    return n + 1


@step
async def add_async(n: int) -> int:
    called.append("add_async")
    return n + 1


@step
def fails(n: int) -> int:
    called.append("fails")
    raise ValueError("password=hunter2")


@step
def reveal(key: Secret) -> str:
    called.append("reveal")
    return "Authorization: Bearer abcdefghijklmnopqrstuvwxyz012345"


@step
def extra(n: int) -> int:
    called.append("extra")
    return n


@workflow
def child(n: int) -> int:
    return add(n)


@workflow
def everything(n: int) -> list[Any]:
    began = now()
    sleep(0.001)
    word = wait_signal("word", type=str)
    choice = ask("Go?").choice
    try:
        fails(n)
    except StepFailed as error:
        failed = error.error_type
    arms = parallel(add, [1, 2, 3])
    of_child = start(child, n).result()
    return [word, choice, failed, arms, of_child, rng().random(), str(uuid7()), began < now()]


@workflow
async def gathers(n: int) -> int:
    return sum(await asyncio.gather(add_async(1), add_async(n), add.aio(3)))


@workflow
def breaks(n: int) -> int:
    return fails(add(n))


@workflow
def keeps_a_secret(key: Secret) -> str:
    return reveal(key)


@workflow
def waits(n: int) -> str:
    add(n)
    return wait_signal("word", type=str)


FLOWS = [everything, gathers, breaks, keeps_a_secret, waits, child]
History = Callable[..., Path]


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Run a workflow until nothing moves, and export its job."""

    def make(flow: Any, *args: Any) -> Path:
        file = tmp_path / f"{flow.kind}.json"
        with Engine(new_store(tmp_path), workflows=FLOWS, durability="process") as engine:
            job = engine.submit(flow, *args)
            if flow is everything:
                job.signal("word", "so", by="ben")
                drain(engine)
                job.answer("approve", by="ann")
            drain(engine)
        said = CliRunner().invoke(
            cli, ["export", job.id, "-o", str(file), "--store", new_store(tmp_path)], prog_name="relight"
        )
        assert said.exit_code == 0, said.output
        called.clear()
        return file

    return make


class TestAgreeing:
    @pytest.mark.parametrize("flow", [everything, gathers, breaks, waits], ids=lambda flow: flow.kind)
    def test_the_same_code_replays_and_nothing_is_called(self, history: History, flow: Any) -> None:
        file = history(flow, 4)
        assert_replays(flow, file)
        assert_replays(flow, str(file))
        assert called == []

    def test_the_body_is_run_to_its_end(self, history: History) -> None:
        seen: list[int] = []

        @workflow(name="gathers")
        async def seeing(n: int) -> int:
            seen.append(sum(await asyncio.gather(add_async(1), add_async(n), add.aio(3))))
            return 0

        assert_replays(seeing, history(gathers, 4))
        assert seen == [2 + 5 + 4]

    def test_steps_behind_the_end_of_an_open_job_are_fine(self, history: History) -> None:
        @workflow(name="waits")
        def more(n: int) -> str:
            add(n)
            word = wait_signal("word", type=str)
            extra(n)
            return word

        assert_replays(more, history(waits, 1))
        assert called == []

    def test_clean_up_behind_the_end_calls_nothing(self, history: History) -> None:
        @workflow(name="waits")
        def careful(n: int) -> str:
            try:
                add(n)
                return wait_signal("word", type=str)
            finally:
                with cleanup():
                    extra(n)

        assert_replays(careful, history(waits, 1))
        assert called == []

    def test_defaults_and_harmless_edits_agree(self, history: History) -> None:
        @workflow(name="waits")
        def edited(n: int, more: str = "") -> str:
            add(n=n, note="")
            return wait_signal("word", type=str) + more

        assert_replays(edited, history(waits, 1))

    def test_a_step_that_is_called_no_more_is_warned_of(self, history: History) -> None:
        @workflow(name="breaks")
        def shorter(n: int) -> int:
            return n

        with pytest.warns(UserWarning, match="recorded and called no more: add#0, fails#0"):
            assert_replays(shorter, history(breaks, 1))


class TestDiffering:
    def test_another_argument_is_shown_on_both_sides(self, history: History) -> None:
        @workflow(name="waits")
        def differing(n: int) -> str:
            add(n + 1)
            return wait_signal("word", type=str)

        with pytest.raises(AssertionError) as caught:
            assert_replays(differing, history(waits, 1))
        said = str(caught.value)
        assert 'at add#0: argument "n" differs' in said
        assert "recorded  n = 1\n  now       n = 2" in said
        assert "docs/howto/code-changes.md" in said
        assert called == []

    def test_one_arm_among_many_is_named(self, history: History) -> None:
        @workflow(name="gathers")
        async def differing(n: int) -> int:
            return sum(await asyncio.gather(add_async(1), add_async(n), add.aio(4)))

        with pytest.raises(AssertionError, match=r'at .*add#0: argument "n" differs(.|\n)*n = 3\n(.|\n)*n = 4'):
            assert_replays(differing, history(gathers, 4))

    def test_a_step_put_in_front_is_named_with_what_is_behind_it(self, history: History) -> None:
        @workflow(name="breaks")
        def inserted(n: int) -> int:
            extra(n)
            return fails(add(n))

        with pytest.raises(AssertionError, match=r"at extra#0: extra#0 is new, but add#0 after it is already done"):
            assert_replays(inserted, history(breaks, 1))
        assert called == []

    def test_a_step_behind_the_end_of_a_completed_job_is_named(self, history: History) -> None:
        @workflow(name="gathers")
        async def longer(n: int) -> int:
            total = sum(await asyncio.gather(add_async(1), add_async(n), add.aio(3)))
            return await extra.aio(total)

        with pytest.raises(AssertionError, match="at extra#0: the recorded job completed without it"):
            assert_replays(longer, history(gathers, 4))
        assert called == []

    def test_code_that_raises_where_the_job_completed_is_told_with_its_cause(self, history: History) -> None:
        @workflow(name="gathers")
        async def broken(n: int) -> int:
            return 1 // 0

        with pytest.raises(AssertionError, match="now the code raises ZeroDivisionError") as caught:
            assert_replays(broken, history(gathers, 4))
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_files_that_are_no_history_of_it_are_refused(self, history: History, tmp_path: Path) -> None:
        file = history(waits, 1)
        with pytest.raises(InvalidArgument, match="history of a waits, and this workflow is breaks"):
            assert_replays(breaks, file)
        with pytest.raises(InvalidArgument, match="cannot be read: No such file"):
            assert_replays(waits, tmp_path / "nothing.json")
        for text, why in (
            ("", "no exported history"),
            ("[1]", "no exported history"),
            ('{"relight_history": 99}', "has format 99; this Relight reads 1"),
            ('{"relight_history": 1, "kind": "waits"}', "is damaged"),
        ):
            file.write_text(text)
            with pytest.raises(InvalidArgument, match=why):
                assert_replays(waits, file)


class TestExport:
    def test_secrets_never_leave_and_what_looks_like_one_is_replaced(
        self, history: History, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLM_KEY", "sk-very-secret-value")
        file = history(keeps_a_secret, Secret("env:LLM_KEY"))
        text = file.read_text()
        assert "sk-very-secret-value" not in text
        assert "abcdefghijklmnopqrstuvwxyz012345" not in text
        exported = json.loads(text)
        assert exported["inputs"] == {"key": {"$secret": "env:LLM_KEY"}}
        assert exported["redacted"] == ["outcome of reveal#0", "outputs"]
        assert_replays(keeps_a_secret, file)

    def test_errors_are_kept_without_their_traceback(self, history: History) -> None:
        exported = json.loads(history(breaks, 1).read_text())
        failure = next(each for each in exported["steps"] if each["step_key"] == "fails#0")["error"]
        assert failure["type"] == "ValueError"
        assert "traceback" not in failure
        assert "hunter2" not in json.dumps(exported)
        assert exported["state"] == "failed"

    def test_without_a_file_it_is_printed_as_one_object(self, history: History, tmp_path: Path) -> None:
        file = history(waits, 1)
        store = ["--store", new_store(tmp_path)]
        said = CliRunner().invoke(cli, ["export", "@last", *store], prog_name="relight")
        assert json.loads(said.stdout) == json.loads(file.read_text())
        said = CliRunner().invoke(cli, ["export", "nobody", *store], prog_name="relight")
        assert said.exit_code == 1
        nowhere = str(tmp_path / "no" / "folder.json")
        said = CliRunner().invoke(cli, ["export", "@last", "-o", nowhere, *store], prog_name="relight")
        assert said.exit_code == 2
        assert "cannot be written" in said.stderr
