"""Types by name: found again where they are imported, and never by importing anything."""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar

import pytest

from relight.authoring.registry import Registry
from relight.authoring.typerefs import UNKNOWN, KnownTypes
from relight.errors import InvalidArgument, NotSerializable

T = TypeVar("T")


@dataclass
class Paid:
    cents: int

    @dataclass
    class Part:
        n: int


@dataclass
class Refused:
    why: str


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        None,
        Any,
        Paid,
        Paid.Part,
        Colour,
        Path,
        list[Paid],
        dict[str, list[int]],
        tuple[int, ...],
        tuple[int, str],
        Paid | None,
        Optional[Paid],  # noqa: UP045 - as people write it
        Paid | Refused,
        Literal["a", 1],
    ],
)
def test_a_type_is_found_by_its_name_in_another_process(annotation: Any) -> None:
    name = KnownTypes().name(annotation)
    assert name is not None
    found = KnownTypes().find(name)
    assert found == (type(None) if annotation is None else annotation)


@pytest.mark.parametrize("annotation", [T, Annotated[int, "x"], "Paid", 5])
def test_what_has_no_name_is_not_checked(annotation: Any) -> None:
    assert KnownTypes().name(annotation) is None


def test_a_type_of_a_function_or_of_main_is_found_only_where_it_was_named() -> None:
    @dataclass
    class Local:
        n: int

    class Main:
        pass

    Main.__module__ = "__main__"
    for annotation in (Local, list[Local], Main):
        here = KnownTypes()
        name = here.name(annotation)
        assert here.find(name) == annotation
        assert KnownTypes().find(name) is UNKNOWN


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "{",
        "5",
        '"no.such.module:Type"',
        '"this:Thing"',
        '"os:path.join"',
        '"os:system"',
        '{"of": 1, "args": []}',
        '{"any_of": []}',
        "[1]",
        "false",
    ],
)
def test_anything_else_is_unknown_and_imports_nothing(name: str | None) -> None:
    before = set(sys.modules)
    assert KnownTypes().find(name) is UNKNOWN
    assert set(sys.modules) == before


class TestDelivery:
    def encode(self, annotation: Any, value: object) -> str:
        registry = Registry()
        return registry.encode_for(registry.types.name(annotation), value, what="value")

    def test_a_value_of_the_type_and_plain_json_of_it_pass(self) -> None:
        assert self.encode(Paid, Paid(3)) == self.encode(Paid, {"cents": 3}) == '{"cents":3}'
        assert self.encode(Paid | Refused, Refused("x")) != '{"why":"x"}'  # a member of a union is tagged

    def test_another_value_is_refused(self) -> None:
        for value in ({"cents": "x"}, 5, None, [Paid(1)]):
            with pytest.raises(InvalidArgument, match="nothing was delivered"):
                self.encode(Paid, value)

    def test_of_an_unknown_type_everything_storable_passes(self) -> None:
        assert Registry().encode_for(None, {"a": 1}, what="value") == '{"a":1}'
        with pytest.raises(NotSerializable):
            Registry().encode_for(None, object(), what="value")
