"""The reference pages say what the code says: errors, events, settings, why, verify, states."""

from __future__ import annotations

import importlib.util
import inspect
from types import ModuleType

import pytest
from tests.docs.pages import ROOT, code, table

from relight import errors
from relight.core.events import KINDS
from relight.core.why_codes import CODES
from relight.recorder.invariants import INVARIANTS
from relight.settings import SETTINGS

DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """Load a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def error_classes() -> dict[str, type[BaseException]]:
    return {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, BaseException) and cls.__module__ == errors.__name__
    }


class TestErrors:
    def test_every_class_is_on_the_page_once(self) -> None:
        named = [code(row[0]) for row in table(page("errors.md"), "class")]
        assert sorted(named) == sorted(error_classes())

    def test_code_and_retryable_are_those_of_the_class(self) -> None:
        for name, stable, retryable, *_ in table(page("errors.md"), "class", "code", "retryable"):
            cls = error_classes()[code(name)]
            assert issubclass(cls, errors.RelightError)
            assert (code(stable), retryable) == (cls.code, "yes" if cls.retryable else "no")

    def test_every_relight_error_has_its_code_on_the_page(self) -> None:
        with_code = {code(row[0]) for row in table(page("errors.md"), "class", "code", "retryable")}
        assert with_code == {n for n, cls in error_classes().items() if issubclass(cls, errors.RelightError)}


class TestEvents:
    def test_every_kind_is_on_the_page_once(self) -> None:
        assert sorted(code(row[0]) for row in table(page("events.md"), "type")) == sorted(KINDS)

    def test_actors_are_those_of_the_kind(self) -> None:
        for kind, actors, *_ in table(page("events.md"), "type", "actor"):
            assert set(actors.split(", ")) == {str(actor) for actor in KINDS[code(kind)].actors}


class TestWhy:
    def test_every_code_is_on_the_page_once_and_says_the_same(self) -> None:
        said = [(code(row[0]), row[1]) for row in table(page("why.md"), "code", "says")]
        assert len(said) == len(dict(said))
        assert dict(said) == dict(CODES)


class TestVerify:
    def test_every_invariant_is_on_the_page_and_says_the_same(self) -> None:
        said = {code(row[0]): row[1] for row in table(page("verify.md"), "id")}
        assert said == dict(INVARIANTS)

    def test_every_invariant_has_its_place_among_the_promises(self) -> None:
        assert set(script("make_tables").PROMISES) == set(INVARIANTS)

    def test_the_guarantees_name_only_invariants_that_there_are(self) -> None:
        named = {code(i) for row in table(page("guarantees.md"), "#") for i in row[-1].split(", ") if i != "–"}
        assert named <= set(INVARIANTS)

    def test_the_guarantees_and_the_audit_agree_on_what_re_checks_what(self) -> None:
        promises = script("make_tables").PROMISES
        for number, *_, checked in table(page("guarantees.md"), "#"):
            named = {code(i) for i in checked.split(", ") if i != "–"}
            assert named == {i for i, kept in promises.items() if number in kept.split(", ")}, number


class TestSettings:
    def test_every_setting_is_on_the_page_with_its_variable_and_default(self) -> None:
        rows = table(page("settings.md"), "keyword")
        assert [code(row[0]) for row in rows] == [setting.name for setting in SETTINGS]
        for row, setting in zip(rows, SETTINGS, strict=True):
            assert code(row[1]) == f"RELIGHT_{setting.name.upper()}"
            assert code(row[2]) == {"None": "all" if setting.name == "consume" else "none"}.get(
                str(setting.default), str(setting.default)
            )


class TestGenerated:
    def test_the_page_of_states_is_made_from_the_table(self) -> None:
        assert page("states.md") == script("make_states").page(), "run: python docs/make_states.py"

    @pytest.mark.parametrize("name", ["events.md", "verify.md"])
    def test_a_page_s_tables_are_made_from_the_code(self, name: str) -> None:
        assert page(name) == script("make_tables").rewritten(page(name)), "run: python docs/make_tables.py"

    def test_a_changed_table_is_seen(self) -> None:
        spoiled = page("events.md").replace("| `gate_opened` | system |", "| `gate_opened` | human |")
        assert spoiled != script("make_tables").rewritten(spoiled)
