"""A class that gains a field with a default hashes as before, wherever it stands; any other value hashes differently."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple, Union

import msgspec
import pydantic
import pytest

from relight.codec import CodecRegistry, canonical_hash


def hashed(annotation: Any, value: Any) -> str:
    codec = CodecRegistry().for_type(annotation, what="it")
    return codec.hash(codec.encode(value, what="it"))


@dataclass
class OldPart:
    id: int


@dataclass
class NewPart:
    id: int
    note: str = ""
    seen: list[str] = field(default_factory=list)
    flag: bool = False


class OldStruct(msgspec.Struct):
    id: int


class NewStruct(msgspec.Struct):
    id: int
    place: Path = Path("here")
    seen: dict[str, int] = {}


class OldTagged(msgspec.Struct, tag="part"):
    id: int


class NewTagged(msgspec.Struct, tag="part"):
    id: int
    note: str | None = None


class OtherTagged(msgspec.Struct, tag="other"):
    id: int
    note: str | None = None


class OldArray(msgspec.Struct, array_like=True):
    id: int


class NewArray(msgspec.Struct, array_like=True):
    id: int
    note: str = ""


class OldRow(NamedTuple):
    id: int


class NewRow(NamedTuple):
    id: int
    note: str = ""


class OldModel(pydantic.BaseModel):
    id: int


class NewModel(pydantic.BaseModel):
    id: int
    note: str | None = None
    kids: list[NewModel] = []


NewModel.__name__ = OldModel.__name__  # it is stored where classes have to be told apart


@dataclass
class OldTree:
    id: int
    kids: list[OldTree]


@dataclass
class NewTree:
    id: int
    kids: list[NewTree]
    note: str = ""


PAIRS: list[tuple[Any, Any, Any, Any]] = [
    (OldPart, NewPart, OldPart, NewPart),
    (OldStruct, NewStruct, OldStruct, NewStruct),
    (OldTagged, NewTagged, OldTagged, NewTagged),
    (OldArray, NewArray, OldArray, NewArray),
    (OldRow, NewRow, OldRow, NewRow),
    (OldModel, NewModel, OldModel, NewModel),
    (OldTree, NewTree, lambda n: OldTree(n, [OldTree(2, [])]), lambda n: NewTree(n, [NewTree(2, [])])),
]


def around(old: Any, new: Any) -> list[tuple[Any, Any, Any]]:
    """The same place for both: an annotation with each class, and how a value gets there."""
    places: list[tuple[Any, Any]] = [
        (lambda c: c, lambda v: v),
        (lambda c: list[c], lambda v: [v, v]),
        (lambda c: tuple[int, c], lambda v: (1, v)),
        (lambda c: tuple[c, ...], lambda v: (v, v)),
        (lambda c: dict[str, c], lambda v: {"a": v}),
        (lambda c: c | None, lambda v: v),
        (lambda c: Union[c, int], lambda v: v),  # noqa: UP007
        (lambda c: deque[c], lambda v: deque([v])),
        (lambda c: OrderedDict[str, c], lambda v: OrderedDict(a=v)),
        (lambda c: dict[str, list[c | None]], lambda v: {"a": [v, None]}),
    ]
    return [(annotate(old), annotate(new), put) for annotate, put in places]


@pytest.mark.parametrize("old, new, make_old, make_new", PAIRS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_field_with_a_default_that_is_added_changes_no_hash(old: Any, new: Any, make_old: Any, make_new: Any) -> None:
    for before, after, put in around(old, new):
        assert hashed(before, put(make_old(id=1) if make_old is old else make_old(1))) == hashed(
            after, put(make_new(id=1) if make_new is new else make_new(1))
        ), (before, after)


@pytest.mark.parametrize(
    "annotation, plain, other",
    [
        (NewPart, NewPart(1), NewPart(1, note="x")),
        (NewPart, NewPart(1), NewPart(1, seen=["x"])),
        (NewPart, NewPart(1), NewPart(1, flag=True)),
        (NewStruct, NewStruct(1), NewStruct(1, Path("there"))),
        (NewArray, NewArray(1), NewArray(1, "x")),
        (NewRow, NewRow(1), NewRow(1, "x")),
        (NewModel, NewModel(id=1), NewModel(id=1, kids=[NewModel(id=2)])),
        (NewTree, NewTree(1, [NewTree(2, [])]), NewTree(1, [NewTree(2, [], "x")])),
        (NewTagged | OtherTagged, NewTagged(1), OtherTagged(1)),
        (NewTagged | OtherTagged, OtherTagged(1), OtherTagged(1, "x")),
        (NewPart | NewTree, NewPart(1), NewPart(1, "x")),
        (NewPart | NewTree, NewTree(1, []), NewTree(1, [], "x")),
    ],
)
def test_any_other_value_changes_it(annotation: Any, plain: Any, other: Any) -> None:
    assert hashed(annotation, plain) != hashed(annotation, other)
    assert hashed(list[annotation], [plain]) != hashed(list[annotation], [other])


def test_members_of_a_union_that_are_told_apart_by_a_tag_are_trimmed_too() -> None:
    @dataclass
    class Aside:
        x: int

    before = make_dataclass("Part", [("id", int)])
    after = make_dataclass("Part", [("id", int), ("note", str, field(default=""))])
    assert hashed(before | Aside, before(1)) == hashed(after | Aside, after(1))


def test_false_is_no_zero_and_null_is_no_absence() -> None:
    with_zero = make_dataclass("It", [("n", int | bool, field(default=0))])
    assert hashed(with_zero, with_zero(False)) != hashed(with_zero, with_zero(0))
    with_text = make_dataclass("It", [("n", str | None, field(default="x"))])
    assert hashed(with_text, with_text(None)) != hashed(with_text, with_text())


def test_what_a_factory_of_the_users_makes_is_hashed() -> None:
    made = iter(range(10))
    it = make_dataclass("It", [("n", int, field(default_factory=lambda: next(made)))])
    assert hashed(it, it()) == canonical_hash(b'{"n":0}')
    assert next(made) == 1, "the factory ran once, for the value"


def test_a_default_that_cannot_be_stored_is_none_to_compare_with() -> None:
    it = make_dataclass("It", [("n", int, field(default=object()))])
    assert hashed(it, it(1)) == canonical_hash(b'{"n":1}')


def test_a_parameter_whose_default_is_a_class_with_defaults_is_left_out() -> None:
    from relight.signature import Signature

    def old(part: OldPart = OldPart(1)) -> None: ...  # noqa: B008
    def new(part: NewPart = NewPart(1)) -> None: ...  # noqa: B008

    registry = CodecRegistry()
    for function, value in ((old, OldPart(1)), (new, NewPart(1))):
        assert Signature(function, registry, what="f").bind((value,)).hashes == {}
