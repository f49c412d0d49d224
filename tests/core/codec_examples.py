"""Classes, annotated examples and helpers for the tests of the value system."""

import collections
import dataclasses
import datetime
import decimal
import enum
import inspect
import typing
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Required, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from relight.codec import Codec, CodecRegistry, ValueCodec
from relight.errors import (
    NotSerializable,
    RegistrationError,
)

T = TypeVar("T")
WHAT = "result of totals#3"
NAN = float("nan")


def codec(annotation: Any = inspect.Parameter.empty, *codecs: Codec[Any]) -> ValueCodec:
    return CodecRegistry(codecs).for_type(annotation, what="result of totals")


def back(value: Any, annotation: Any = inspect.Parameter.empty, *codecs: Codec[Any]) -> Any:
    return codec(annotation, *codecs).round_trip(value, what=WHAT)[1]


def refused(value: Any, annotation: Any = inspect.Parameter.empty, *codecs: Codec[Any]) -> str:
    with pytest.raises(NotSerializable) as caught:
        codec(annotation, *codecs).round_trip(value, what=WHAT)
    return str(caught.value)


def not_registered(annotation: Any, *codecs: Codec[Any]) -> str:
    with pytest.raises(RegistrationError) as caught:
        codec(annotation, *codecs)
    return str(caught.value)


class AsyncClient:
    """Stands for what belongs in a Resource."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Odd(enum.Enum):
    PAIR = (1, 2)
    NOTHING = None


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


UserId = NewType("UserId", int)


@dataclasses.dataclass
class ToolCall:
    tool: str
    args: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    text: str
    at: datetime.datetime | None = None


@dataclasses.dataclass
class Row:
    amount: float | None = None
    note: str = ""


@dataclasses.dataclass
class Report:
    rows: list[Row]
    by_day: dict[datetime.date, "Row | Answer"] = dataclasses.field(default_factory=dict)
    seen: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Tree:
    name: str
    leaves: set[int] = dataclasses.field(default_factory=set)
    tags: set[str] = dataclasses.field(default_factory=set)
    kids: list["Tree"] = dataclasses.field(default_factory=list)
    owner: "Forest | None" = None


class Link(msgspec.Struct):
    weight: float
    next: "Link | None"


@dataclasses.dataclass
class Widening(Generic[T]):
    inner: "Widening[list[T]] | None"


@dataclasses.dataclass
class Forest:
    trees: list[Tree | str]


@dataclasses.dataclass
class Derived:
    width: int
    area: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.width += 1
        self.area = self.width * self.width


class Counted(msgspec.Struct, frozen=True):
    n: int

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "n", self.n + 1)


@dataclasses.dataclass
class Private:
    x: int
    _y: int | str = 0
    paths: "list[Path | str]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    value: T
    more: "list[Box[T]]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class PathBox(Box[Path | str]):
    label: str = ""


@dataclasses.dataclass
class Labelled(Box[int], Generic[T]):
    label: T | None = None  # another T than that of Box


@dataclasses.dataclass
class Loose:
    items: Iterable[int]
    more: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Aliased:
    names: "Names"


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


class Shape(msgspec.Struct, tag=True, rename="camel"):
    corner_points: set[int]
    made_of: Path | str = "wood"
    maybe: int | msgspec.UnsetType = msgspec.UNSET


class Line(msgspec.Struct, array_like=True, tag="l"):
    ends: set[int]
    kind: ToolCall | Answer | None = None


class Pair(NamedTuple):
    left: int
    right: Path | str = ""


class Message(TypedDict):
    role: Required[str]
    content: "str | list[Part]"
    name: NotRequired[str]


class Part(TypedDict):
    kind: Literal["text", "image"]
    path: NotRequired[Path]


@dataclasses.dataclass
class CardDeclined(Exception):
    reason: str
    cents: int = 0


class LazyAlias:
    """What ``type Name = …`` makes from Python 3.12 on: an alias that may mention itself."""

    def __init__(self, name: str, value: Any) -> None:
        self.__name__ = name
        self._value = value

    @property
    def __value__(self) -> Any:
        return self._value()

    def __repr__(self) -> str:
        return self.__name__

    def __call__(self) -> None:
        """Be callable: ``typing`` takes nothing else for a type."""


Json: Any = LazyAlias("Json", lambda: dict[str, Json] | list[Json] | str | float | bool | None)
Nested: Any = LazyAlias("Nested", lambda: Path | list[Nested])
Knot: Any = LazyAlias("Knot", lambda: tuple[Knot, ...] | None)
Dated: Any = LazyAlias("Dated", lambda: datetime.date | list[Dated])
Names = TypeAliasType("Names", list[str])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
zones = st.integers(-1439, 1439).map(lambda m: datetime.timezone(datetime.timedelta(minutes=m)))
moments = st.datetimes() | st.builds(lambda at, zone: at.replace(tzinfo=zone), st.datetimes(), zones)
paths = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)).map(
    lambda parts: Path(*parts)
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)

HASHABLE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, texts),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=20)),
    (datetime.datetime, moments),
    (datetime.date, st.dates()),
    (datetime.time, st.times()),
    (datetime.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals(allow_nan=False)),
    (Path, paths),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Odd, st.sampled_from(Odd)),
    (UserId, st.integers()),
    (Literal["a", 3, None], st.sampled_from(["a", 3, None])),
    (Literal[Colour.RED], st.just(Colour.RED)),
    (Annotated[int, "cents"], st.integers()),
    (float, finite),
    (Answer, st.builds(Answer, texts, st.none() | moments)),
    (Point, st.builds(Point, st.integers(), finite)),
    (Path | str, paths | texts),
    (datetime.datetime | str | None, moments | texts | st.none()),
    (Colour | Level | str | int, st.sampled_from(Colour) | st.sampled_from(Level) | texts | st.integers()),
    (int | float, st.integers() | finite),
    (frozenset[str | int], st.frozensets(texts | st.integers(), max_size=4)),
    (tuple[int, Path | str], st.tuples(st.integers(), paths | texts)),
]
OTHERS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (Any, plain),
    (dict[str, Any], st.dictionaries(texts, plain, max_size=4)),
    (Rights, st.integers(0, 3).map(Rights)),
    (ToolCall, st.builds(ToolCall, texts, st.dictionaries(texts, plain, max_size=3))),
    (ToolCall | Answer | None, st.none() | st.builds(ToolCall, texts) | st.builds(Answer, texts)),
    (Pair, st.builds(Pair, st.integers(), paths | texts)),
    (Shape, st.builds(Shape, st.sets(st.integers()), paths | texts, st.integers() | st.just(msgspec.UNSET))),
    (Line, st.builds(Line, st.sets(st.integers()), st.none() | st.builds(ToolCall, texts))),
    (Box[Path | str], st.builds(Box, paths | texts, st.lists(st.builds(Box, paths), max_size=2))),
    (PathBox, st.builds(PathBox, paths | texts, st.lists(st.builds(Box, texts), max_size=2), texts)),
    (Json, plain),
    (collections.Counter[str], st.dictionaries(texts, st.integers(), max_size=4).map(collections.Counter)),
    (collections.deque[Path | str], st.lists(paths | texts, max_size=4).map(collections.deque)),
    (list[int] | list[str] | str, st.lists(st.integers()) | st.lists(texts) | texts),
    (dict[int, Path | str], st.dictionaries(st.integers(), paths | texts, max_size=4)),
    (dict[Path, list[Any]], st.dictionaries(paths, st.lists(plain, max_size=2), max_size=4)),
    (dict[uuid.UUID, set[int]], st.dictionaries(st.uuids(), st.sets(st.integers(), max_size=3), max_size=3)),
]
KEYS = [
    pair for pair in HASHABLE if pair[0] in (int, str, bytes, datetime.date, uuid.UUID, Path, Colour, Level, UserId)
]


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of(pair: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        t, values = pair
        lists = st.lists(values, max_size=4)
        return st.sampled_from(
            [
                (list[t], lists),
                (Sequence[t], lists),
                (Iterable[t], lists),
                (tuple[t, ...], lists.map(tuple)),
                (typing.Optional[t], values | st.none()),  # noqa: UP045  (``|`` is not for everything that is a type)
                *((dict[k, t], st.dictionaries(keys, values, max_size=4)) for k, keys in KEYS),
                (Mapping[str, t], st.dictionaries(texts, values, max_size=4)),
            ]
        )

    return inner.flatmap(of)


annotated = st.recursive(st.sampled_from(HASHABLE + OTHERS), containers, max_leaves=3)
cases = annotated.flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1])) | st.sampled_from(HASHABLE).flatmap(
    lambda pair: st.tuples(st.just(set[pair[0]]), st.sets(pair[1], max_size=5))
)
REGISTRY = CodecRegistry()


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, list | tuple | collections.deque):
        return all(map(same, a, b))
    if isinstance(a, dict):
        return all(map(same, a, b)) and all(map(same, a.values(), b.values()))
    if isinstance(a, set | frozenset):
        return {(type(x), x) for x in a} == {(type(x), x) for x in b}
    return (
        all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)) if _is_dataclass(a) else True
    )


def _is_dataclass(a: Any) -> bool:
    return dataclasses.is_dataclass(a)
