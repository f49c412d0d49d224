"""What the value system refuses, and that it says where: values when they are written, annotations before that."""

import collections
import dataclasses
import datetime
import inspect
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from tests.core.codec_examples import (
    NAN,
    WHAT,
    Answer,
    AsyncClient,
    Box,
    Colour,
    Level,
    Link,
    Message,
    Odd,
    Report,
    Row,
    ToolCall,
    Widening,
    back,
    codec,
    not_registered,
    refused,
    same,
)

from relight.codec import CodecRegistry
from relight.errors import (
    InvalidArgument,
    NotSerializable,
    PayloadTooLarge,
)
from relight.secret import Secret


def generator() -> Any:
    yield 1


def cycle() -> Any:
    a: list[Any] = []
    a.append({"back": a})
    return a


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


HINT = "Things that cannot be stored belong in a Resource (docs/resources.md)"
REFUSALS: list[tuple[Any, Any, str]] = [
    (Any, (1, 2), "result of totals#3 is tuple, which un-annotated would come back as list (annotate it)"),
    (Any, {"a": [0, {1}]}, ".a[1]: set, which un-annotated would come back as list"),
    (Any, {"a b": {1: "x"}}, "at ['a b']: a dict with the key 1, which would come back as text"),
    (Any, [Row()], "[0]: Row, which un-annotated would come back as dict"),
    (Any, Level.HIGH, "Level, which un-annotated would come back as a bare int"),
    (Any, collections.OrderedDict(a=1), "OrderedDict, which un-annotated would come back as a bare dict"),
    (Any, datetime.date(2026, 1, 1), "datetime.date, which un-annotated would come back as str"),
    (Any, Path("a"), "PosixPath, which un-annotated would come back as str"),
    (Any, Secret("env:HOME"), "Secret (annotate it: Secret)"),
    (Any, NAN, "result of totals#3 is NaN, which JSON has no form for (write None instead)"),
    (Any, {"rows": [1.0, {"x": float("-inf")}]}, ".rows[1].x: infinite, which JSON has no form for"),
    (float, NAN, "is NaN"),
    (float | None, NAN, "is NaN"),
    (Report, Report([Row(1.0), Row(NAN)]), "at .rows[1].amount: NaN"),
    (dict[str, set[float]], {"a": {NAN}}, "at .a[0]: NaN"),
    (Any, cycle(), "result of totals#3 at [0].back: the start of a cycle: it contains itself"),
    (list[Any], cycle(), "it contains itself"),
    (Any, deep(100_000), "nested too deeply"),
    (list[Any], deep(100_000), "nested too deeply"),
    (Any, "\ud800", "text with a lone surrogate"),
    (list[str], ["ok", "\udcff"], "at [1]: text with a lone surrogate"),
    (Path, Path(os.fsdecode(b"caf\xe9")), "text with a lone surrogate"),
    (Any, {"a": {"\ud800": 1}}, "at .a: a dict with a key that is text with a lone surrogate"),
    (Any, generator(), f"result of totals#3 is generator. {HINT}"),
    (list[int], generator(), f"result of totals#3 is generator. {HINT}"),
    (Any, [print], f"at [0]: builtin_function_or_method. {HINT}"),
    (Any, AsyncClient(), f"result of totals#3 is AsyncClient. {HINT}"),
    (Answer, Answer(AsyncClient()), "at .text: AsyncClient"),
    (Any, object(), f"is object. {HINT}"),
    (Any, 1 + 2j, "is complex."),
    (Any, range(3), "is range (write list(x))"),
    (list[str], {}.keys(), "is dict_keys (write list(x))"),
    (list[Any], "abc", "is str, but declared list"),
    (set[int], "abc", "is str, but declared set"),
    (int, "x", "does not fit int: Expected `int`, got `str`"),
    (Report, Report([Row("x")]), "result of totals#3 at .rows[0].amount does not fit Report: Expected"),
    (tuple[int, str], (1,), "does not fit tuple[int, str]"),
    (tuple[int, Any], (1,), "of length 1, but declared with 2 items"),
    (ToolCall | Answer, Row(), "is Row, but declared"),
    (list[Path | str], ["a", 1], "at [1]: int, but declared pathlib.Path | str"),
    (Message, {"role": "user", "content": "", "extra": 1}, "the key 'extra', which its type does not declare"),
    (dict[str, Any], {1: 2}, "the key 1, but declared with keys of text"),
    (list[dict[str, int]], [{"a": 1}, {1: 2}], "at [1]: a dict with the key 1, but declared with keys of text"),
    (dict[str, int], [1], "is list, but declared dict"),
    (ToolCall, ToolCall("t", {"x": [(1,)]}), "at .args.x[0]: tuple"),
    (ToolCall | Answer, ToolCall("t", {"x": (1,)}), "at .args.x: tuple"),
    (dict[str, ToolCall | Answer], {"a": Answer("\ud800")}, "result of totals#3 at .a.text: text with a lone surr"),
    (Odd, Colour.RED, "Colour, but declared Odd"),
    (Any, 10**5_000, "Exceeds the limit"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), REFUSALS, ids=[m[:50] for _, _, m in REFUSALS])
def test_what_would_not_come_back_is_refused_with_its_place(annotation: Any, value: Any, message: str) -> None:
    text = (
        refused(value, annotation)
        .replace("tests.core.codec_examples.", "")
        .replace("tests.core.test_codec_refusals.", "")
    )
    assert message in text
    assert text.startswith(WHAT)
    assert len(text) < 400


def test_the_error_has_the_place_as_a_field() -> None:
    with pytest.raises(NotSerializable) as caught:
        codec(Any).encode({"rows": [{"amount": (1,)}]}, what=WHAT)
    assert caught.value.fields == {"what": WHAT, "path": ".rows[0].amount"}


def test_nulls_beside_finite_numbers_are_not_taken_for_nan() -> None:
    value = {"a": None, "b": [1.5, "null", None], "c": {"d": 1e308}}
    assert back(value) == value
    assert back([Row(None), Row(1.0)], list[Row]) == [Row(None), Row(1.0)]


def test_a_part_that_is_there_twice_is_no_cycle() -> None:
    shared = [1]
    assert back([shared, {"a": shared}]) == [[1], {"a": [1]}]
    assert "at [2]: text with a lone surrogate" in refused([shared, shared, "\ud800"])


def test_a_deep_value_is_looked_through_for_nan_without_recursion() -> None:
    chain = None
    for i in range(500):
        chain = Link(float(i), chain)
    assert back(chain, Link) == chain
    chain.next.next.weight = NAN  # type: ignore[union-attr]
    assert "at .next.next.weight: NaN" in refused(chain, Link)


def test_a_subclass_whose_own_fields_would_be_lost_is_refused() -> None:
    @dataclasses.dataclass
    class Event:
        at: int

    values = codec(list[Event])
    assert values.round_trip([Event(1)], what=WHAT)[1] == [Event(1)]

    @dataclasses.dataclass
    class Click(Event):
        x: int

    with pytest.raises(NotSerializable, match=r"at \[1\]: .*Click, a subclass of the declared Event"):
        values.encode([Event(1), Click(1, 2)], what=WHAT)
    assert values.round_trip([Event(1)], what=WHAT)[1] == [Event(1)]
    assert same(back([Click(1, 2), Event(3)], list[Event | Click]), [Click(1, 2), Event(3)])


def test_a_size_limit_holds_at_exactly_the_threshold() -> None:
    registry = CodecRegistry(max_payload_bytes=10)
    values = registry.for_type(str, what="x")
    assert len(values.encode("x" * 8, what=WHAT)) == 10
    with pytest.raises(PayloadTooLarge, match=r"result of totals#3 has .* max_payload_bytes") as caught:
        values.encode("x" * 9, what=WHAT)
    assert caught.value.fields["size_bytes"] == 11
    with pytest.raises(InvalidArgument):
        CodecRegistry(max_payload_bytes=0)


def test_the_default_limit_is_64_mib() -> None:
    with pytest.raises(PayloadTooLarge, match=r"64\.0 MiB"):
        codec(bytes).encode(bytes(49 * 2**20), what=WHAT)


@dataclasses.dataclass
class WithInitVar:
    x: int
    y: dataclasses.InitVar[int]


def other_module() -> Any:
    @dataclasses.dataclass
    class ToolCall:
        name: str

    return ToolCall


@dataclasses.dataclass
class Unresolved:
    x: "Nowhere"  # noqa: F821


UNCODABLE: list[tuple[Any, str]] = [
    (
        AsyncClient,
        f"result of totals is annotated AsyncClient: AsyncClient cannot be stored. {HINT}",
    ),
    (list[AsyncClient | None], "AsyncClient cannot be stored"),
    (collections.abc.Callable[[], int], "cannot be stored"),
    (collections.abc.Iterator[int], "cannot be stored"),
    (type[int], "cannot be stored"),
    (complex, "complex cannot be stored"),
    (collections.defaultdict[str, int], "defaultdict cannot be stored"),
    (dict[tuple[int, int], str], "dict keys of type tuple[int, int] cannot be stored (use a list of pairs)"),
    (dict[Path | str, str], "dict keys of type pathlib.Path | str cannot be stored"),
    (dict[bool, str], "dict keys of type bool cannot be stored"),
    (ToolCall | other_module(), "two members are called ToolCall, so a record could not say which it holds"),
    (Box[int] | Box[str], "two members are called Box"),
    (WithInitVar, "InitVar parameters would be lost"),
    (Unresolved, "Unresolved mentions Nowhere, which does not exist at run time"),
    (Box[AsyncClient], "Box.value: AsyncClient cannot be stored"),
    (Widening[int], "it contains itself in ever new forms"),
    (Literal[b"x"], "use text, integers, or members of one Enum"),
    ("Forward", "Forward cannot be stored"),
    ([int], "is not a type"),
]


@pytest.mark.parametrize(("annotation", "message"), UNCODABLE, ids=[str(a)[:50] for a, _ in UNCODABLE])
def test_an_annotation_that_cannot_be_stored_is_refused_at_registration(annotation: Any, message: str) -> None:
    text = (
        not_registered(annotation)
        .replace("tests.core.codec_examples.", "")
        .replace("tests.core.test_codec_refusals.", "")
    )
    assert message in text
    assert text.startswith("result of totals is annotated ")


def test_a_codec_is_compiled_once_for_each_annotation() -> None:
    registry = CodecRegistry()
    assert registry.for_type(list[Path | str], what="a") is registry.for_type(list[Path | str], what="b")
    assert registry.for_type(inspect.Parameter.empty, what="a") is registry.for_type(Any, what="b")
    unhashable = Annotated[int, []]
    assert registry.for_type(unhashable, what="a").round_trip(3, what=WHAT) == (b"3", 3)
