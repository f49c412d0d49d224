"""The promises of the value system: what is accepted comes back as it was, in bytes that say the same for ever."""

import collections
import contextlib
import datetime
import os
import pathlib
import subprocess
import sys
import typing
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.codec_examples import (
    REGISTRY,
    WHAT,
    Aliased,
    Answer,
    Box,
    Counted,
    Dated,
    Derived,
    Forest,
    Json,
    Knot,
    Labelled,
    Level,
    Loose,
    Message,
    Names,
    Nested,
    Odd,
    Part,
    Private,
    Report,
    Row,
    ToolCall,
    Tree,
    back,
    cases,
    codec,
    plain,
    same,
    texts,
)

from relight.codec import canonical_hash
from relight.errors import (
    NotSerializable,
    PayloadError,
)
from relight.secret import Secret


@given(cases)
def test_a_value_of_an_annotated_type_comes_back_equal_and_of_its_type(case: tuple[Any, Any]) -> None:
    annotation, value = case
    values = REGISTRY.for_type(annotation, what="x")
    data, got = values.round_trip(value, what=WHAT)
    assert same(got, value)
    assert values.encode(got, what=WHAT) == data  # and its bytes are a function of it


@given(plain)
def test_a_plain_json_value_needs_no_annotation(value: Any) -> None:
    assert same(back(value), value)
    assert same(back(value, Any), value)
    assert same(back(value, object), value)


EXAMPLES: list[tuple[Any, Any]] = [
    (Report, Report([Row(1.5), Row()], {datetime.date(2026, 1, 1): Answer("x")}, {"b", "a"})),
    (Tree, Tree("a", {2, 1}, kids=[Tree("b", owner=Forest(["x", Tree("c")]))])),
    (Forest, Forest([Tree("a", kids=[Tree("b")]), "just a name"])),
    (Private, Private(1, "two", [Path("a"), "b"])),
    (Message, {"role": "user", "content": [{"kind": "text"}, {"kind": "image", "path": Path("a.png")}]}),
    (list[Message], [{"role": "user", "content": "hi", "name": "Ada"}]),
    (Message | Part | None, {"role": "user", "content": "hi"}),
    (Nested, [Path("a"), [Path("b"), []]]),
    (Knot, ((), None, ((),))),
    (Loose, Loose([1], {"b": 1})),
    (Box[Path | str], Box("a", [Box(Path("b"), [Box("c")])])),
    (Aliased, Aliased(["a"])),
    (Labelled[Path | str], Labelled(1, [Box(2)], Path("a"))),
    (Dated, [datetime.date(2026, 1, 1), [[datetime.date(2026, 1, 2)]]]),
    (list[Json], [{"a": [1, None, "x", True, 1.5]}]),
    (Names | None, ["a"]),
    (dict[str, Names], {"a": ["b"]}),
    (tuple, (1, "a")),
    (tuple[()], ()),
    (list, [1, {"a": None}]),
    (dict, {"a": [1.0]}),
    (set, {1, "a"}),
    (collections.OrderedDict[str, Path | str], collections.OrderedDict(b=Path("a"), a="x")),
    (str | Literal["auto"] | Path, "auto"),
    (pathlib.PurePath | Path | str, Path("a")),
    (pathlib.PurePath | Path | str, PurePosixPath("a")),
    (Annotated[list[Annotated[Path | str, 1]], 2], [Path("a")]),
    (bytes | str, b"\xff"),
    (list[int] | tuple[int, ...] | set[int], {1}),
    (float | Path, 3.0),
    (int, 2**64),
    (Any, -(2**200)),
    (typing.NoReturn, None),
    (dict[str, list[tuple[int, ToolCall | Answer]]], {"a": [(1, Answer("x")), (2, ToolCall("t", {"k": [1]}))]}),
]


@pytest.mark.parametrize(
    ("annotation", "value"),
    EXAMPLES,
    ids=[f"{number}-{annotation}"[:60] for number, (annotation, _) in enumerate(EXAMPLES)],
)
def test_the_types_that_people_write_come_back(annotation: Any, value: Any) -> None:
    assert same(back(value, annotation), value)


def test_what_post_init_makes_of_fields_is_not_made_of_them_twice() -> None:
    thing = Derived(3)
    assert thing.width == 4
    thing.area = 10
    assert back(thing, Derived) == thing
    assert back([thing, "x"], list[Derived | str]) == [thing, "x"]
    assert back(Counted(1), Counted).n == 2


def test_a_dict_keeps_its_order_because_people_rely_on_it() -> None:
    assert list(back({"zeta": 1, "alpha": 2})) == ["zeta", "alpha"]
    assert list(back({"zeta": 1, "alpha": 2}, dict[str, int])) == ["zeta", "alpha"]


def test_what_comes_back_shares_nothing_with_what_went_in() -> None:
    inner = [1]
    assert back({"a": inner})["a"] is not inner


def test_a_typed_subclass_of_a_scalar_comes_back_as_its_base() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    assert same(back(Text("a"), str), "a")
    assert same(back([Level.HIGH], list[int]), [2])
    assert same(back(collections.OrderedDict(a=1), dict[str, int]), {"a": 1})
    assert same(back((1, 2), list[int]), [1, 2])
    assert same(back(3, float), 3.0)
    assert same(back(3, float | Path), 3.0)


@given(st.dictionaries(texts, plain, max_size=5), st.randoms())
def test_the_hash_of_a_dict_does_not_depend_on_the_order_it_was_filled_in(value: dict[str, Any], chance: Any) -> None:
    items = list(value.items())
    chance.shuffle(items)
    first, second = (codec(Any).encode([v], what=WHAT) for v in (value, dict(items)))
    assert canonical_hash(first) == canonical_hash(second)


def test_a_hash_is_sixteen_characters_of_sha256_and_tells_values_apart() -> None:
    assert canonical_hash(b'"a"') == "ac8d8342bbb2362d"
    assert len({canonical_hash(d) for d in (b"1", b"1.0", b'"1"', b"[1]", b'{"a":1}', b'{"a":2}', b'"{"')}) == 7


def test_sets_are_sorted_at_every_depth_of_a_class_that_contains_itself() -> None:
    names = {f"n{i}" for i in range(50)}
    tree = Tree("a", kids=[Tree("b", kids=[Tree("c", tags=names)])])
    written = msgspec.json.decode(codec(Tree).encode(tree, what=WHAT))
    assert written["kids"][0]["kids"][0]["tags"] == sorted(names)


def test_bytes_and_hashes_do_not_depend_on_the_hash_seed() -> None:
    script = (
        "from relight.codec import CodecRegistry\n"
        "c = CodecRegistry().for_type(dict[str, set[str | tuple[int, str]]], what='x')\n"
        "print(c.encode({'k': {'a', 'b', 'c', 'd', (1, 'x'), (2, 'y')}}, what='x'))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_members_of_a_union_that_msgspec_cannot_tell_apart_carry_a_tag() -> None:
    assert (
        codec(ToolCall | Answer).encode(Answer("x"), what=WHAT) == b'{"$type":"Answer","value":{"text":"x","at":null}}'
    )
    assert codec(Path | str | None).encode(None, what=WHAT) == b"null"
    assert codec(Path | None).encode(Path("a"), what=WHAT) == b'"a"'
    assert codec(int | str).encode("a", what=WHAT) == b'"a"'


def test_a_dict_that_looks_like_a_tag_is_only_a_dict() -> None:
    value = {"$type": "Answer", "value": {"text": "x"}}
    assert back(value) == value
    assert back([value, Path("a")], list[Path | dict[str, Any]]) == [value, Path("a")]


def test_an_unknown_tag_says_which_are_known() -> None:
    with pytest.raises(PayloadError, match=r"at \[0\].* of the unknown type 'Gone' \(known: ToolCall, Answer\)"):
        codec(list[ToolCall | Answer]).decode(b'[{"$type":"Gone","value":1}]', what=WHAT)


def test_a_value_stored_before_its_annotation_became_a_union_is_still_read() -> None:
    assert codec(ToolCall | Answer).decode(codec(Answer).encode(Answer("x"), what=WHAT)) == Answer("x")
    assert codec(Path | str).decode(b'"a"') == "a"
    with pytest.raises(PayloadError, match="without a tag, and none of ToolCall, Answer can read it"):
        codec(ToolCall | Answer).decode(b"3")
    with pytest.raises(PayloadError, match="without a tag, and several of Row, Report"):
        codec(Row | Report).decode(b'{"rows":[]}')


def test_a_stored_value_that_does_not_fit_says_where() -> None:
    with pytest.raises(PayloadError) as caught:
        codec(Report).decode(b'{"rows":[{"amount":"x"}],"by_day":{},"seen":[]}', what=WHAT)
    assert not isinstance(caught.value, NotSerializable)
    assert "result of totals#3 at .rows[0].amount does not fit" in str(caught.value)
    assert caught.value.fields["path"] == ".rows[0].amount"


@given(st.binary(max_size=30))
def test_bytes_that_are_no_value_are_refused_and_nothing_else(data: bytes) -> None:
    for annotation in (Any, Report, ToolCall | Answer | None, Secret, Odd, collections.Counter[str]):
        with contextlib.suppress(PayloadError):
            REGISTRY.for_type(annotation, what="x").decode(data)


def test_bottomless_bytes_are_refused() -> None:
    with pytest.raises(PayloadError, match="nested too deeply"):
        codec(Any).decode(b"[" * 100_000 + b"]" * 100_000)


def test_a_new_field_with_a_default_and_a_field_that_is_gone_are_no_obstacle() -> None:
    assert codec(Row).decode(b'{"amount":1.0,"gone":[1]}') == Row(1.0)
    assert codec(Private).decode(b'{"x":1,"gone":[1]}') == Private(1)
    with pytest.raises(PayloadError, match="missing"):
        codec(Private).decode(b"{}")
