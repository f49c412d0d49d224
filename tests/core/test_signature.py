"""The promises of binding: how a call is spelled does not matter, and each argument has a hash of its own."""

import dataclasses
import functools
import importlib
import inspect
import linecache
import sys
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.codec import CodecRegistry, canonical_hash
from relight.core.history import differing
from relight.errors import InvalidArgument, NotSerializable, PayloadError, PayloadTooLarge, RegistrationError
from relight.signature import Signature

T = TypeVar("T")
REGISTRY = CodecRegistry()
NOTHING = object()


def signature(fn: Callable[..., Any], **options: Any) -> Signature:
    return Signature(fn, REGISTRY, what=getattr(fn, "__name__", "fn"), **options)


def inputs(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    return signature(fn).bind(args, kwargs).inputs


def again(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function with its arguments stored and loaded."""
    compiled = signature(fn)
    loaded, named = compiled.load(compiled.bind(args, kwargs).inputs)
    return fn(*loaded, **named)


def not_registered(fn: Callable[..., Any]) -> str:
    with pytest.raises(RegistrationError) as caught:
        signature(fn)
    return str(caught.value)


@dataclasses.dataclass
class Doc:
    id: int
    note: str = ""


def fetch(url: str, tries: int = 3, *, timeout: float = 1.5, tags: dict[str, int] | None = None) -> str:
    return f"{url} {tries} {timeout} {tags}"


def everything(
    a: int, b: Path = Path("."), /, c: int = 1, *rest: int, d: str, e: Doc | str = "", **more: set[int]
) -> Any:
    return a, b, c, rest, d, e, more


def only_positional(a: int, b: int = 2, c: int = 3, /, d: int = 4, e: int = 5) -> Any:
    return a, b, c, d, e


def nothing() -> None:
    return None


def untyped(x, y=NOTHING):  # type: ignore[no-untyped-def]
    return x, y


def test_positional_keyword_and_default_arguments_give_one_record() -> None:
    calls = [
        signature(fetch).bind(("u",), {}),
        signature(fetch).bind((), {"url": "u"}),
        signature(fetch).bind(("u", 3), {"timeout": 1.5}),
        signature(fetch).bind((), {"tags": None, "timeout": 1.5, "tries": 3, "url": "u"}),
    ]
    assert {c.inputs for c in calls} == {b'{"url":"u"}'}
    assert [c.hashes for c in calls] == [{"url": canonical_hash(b'"u"')}] * 4


def test_inputs_are_one_json_object_in_the_order_of_the_parameters() -> None:
    assert inputs(fetch, timeout=2.0, tries=1, url="u") == b'{"url":"u","tries":1,"timeout":2.0}'
    assert inputs(everything, 1, Path("p"), 2, 3, 4, d="d", z={2, 1}) == (
        b'{"a":1,"b":"p","c":2,"rest":[3,4],"d":"d","more":{"z":[1,2]}}'
    )
    assert inputs(everything, 1, d="d") == b'{"a":1,"d":"d"}'
    assert inputs(nothing) == b"{}"


def test_a_new_parameter_with_a_default_changes_neither_inputs_nor_hashes() -> None:
    def before(doc: Doc) -> None: ...

    def after(doc: Doc, lang: str = "en", *, fast: bool = False) -> None: ...

    old, new = (signature(f).bind((Doc(1),)) for f in (before, after))
    assert (old.inputs, old.hashes) == (new.inputs, new.hashes)


def test_a_default_is_recognised_by_value_and_a_sentinel_by_identity() -> None:
    def read(where: Path = Path("a"), ids: list[int] = [1, 2], flag: bool = True) -> None: ...  # noqa: B006

    assert inputs(read, Path("a"), [1, 2], True) == b"{}"
    assert inputs(read, Path("b"), (1, 2), False) == b'{"where":"b","flag":false}'
    assert inputs(untyped, 1, NOTHING) == b'{"x":1}'
    assert again(untyped, 1) == (1, NOTHING)
    with pytest.raises(NotSerializable, match='argument "y" of untyped is object'):
        inputs(untyped, 1, object())


def test_a_default_dict_is_recognised_in_any_order() -> None:
    def ask(options: dict[str, int] = {"a": 1, "b": 2}) -> None: ...  # noqa: B006

    assert inputs(ask, {"b": 2, "a": 1}) == b"{}"


@given(
    st.integers(),
    st.integers(0, 2),
    st.lists(st.integers(), max_size=3),
    st.text("xyz", max_size=3),
    st.sampled_from(["", "s", Doc(1), Doc(2, "n")]),
    st.dictionaries(st.sampled_from(["k", "l", "a"]), st.sets(st.integers(), max_size=3), max_size=2),
    st.booleans(),
)
def test_a_stored_call_is_the_call(
    a: int, c: int, rest: list[int], d: str, e: Any, more: dict[str, set[int]], short: bool
) -> None:
    args = (a,) if short else (a, Path("."), c, *rest)
    kwargs = {"d": d, "e": e, **more}
    assert again(everything, *args, **kwargs) == everything(*args, **kwargs)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.dictionaries(st.sampled_from("de"), st.integers(3, 6)))
def test_defaults_left_out_before_positional_only_arguments_are_put_back(
    args: list[int], kwargs: dict[str, int]
) -> None:
    assert again(only_positional, *args, **kwargs) == only_positional(*args, **kwargs)


def test_defaults_are_those_of_the_code_that_loads() -> None:
    stored = inputs(fetch, "u")

    def fetch_later(url: str, tries: int = 9) -> int:
        return tries

    args, kwargs = signature(fetch_later).load(stored)
    assert fetch_later(*args, **kwargs) == 9


def test_loaded_arguments_have_the_annotated_types() -> None:
    args, kwargs = signature(everything).load(inputs(everything, 1, Path("p"), d="d", e=Doc(2), k={1}))
    assert args == (1, Path("p"))
    assert kwargs == {"d": "d", "e": Doc(2), "k": {1}}


def test_typed_variadics_are_kept() -> None:
    class Options(TypedDict):
        deep: bool
        where: NotRequired[Path]

    def walk(*pairs: *tuple[int, Path], **options: Unpack[Options]) -> Any:
        return pairs, options

    assert again(walk, 1, Path("p"), deep=True, where=Path("q")) == ((1, Path("p")), {"deep": True, "where": Path("q")})
    with pytest.raises(NotSerializable, match=r"argument .options. of walk .*the key 'depe'"):
        inputs(walk, 1, Path("p"), depe=True)


def test_a_method_is_bound_without_its_self() -> None:
    class Mailer:
        def send(self, to: str) -> str:
            return to

    compiled = signature(Mailer.send, skip_self=True)
    assert compiled.names == ("to",)
    assert compiled.bind(("ada",)).inputs == b'{"to":"ada"}'
    assert compiled.load(b'{"to":"ada"}') == (("ada",), {})
    assert signature(Mailer().send).bind(("ada",)).inputs == b'{"to":"ada"}'


def test_wrapped_and_partial_functions_have_the_signature_that_is_seen() -> None:
    @functools.wraps(fetch)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fetch(*args, **kwargs)

    assert inputs(wrapper, "u", 3) == b'{"url":"u"}'
    fast = functools.partial(fetch, timeout=0.1)
    assert inputs(fast, "u", timeout=0.1) == b'{"url":"u"}'


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"fetch\(url, tries=3, \*, timeout=1.5, tags=None\): missing a required argument: 'url'"),
        (("u", 1, 2), {}, "too many positional arguments"),
        (("u",), {"url": "v"}, "multiple values for argument 'url'"),
        (("u",), {"depth": 1}, "got an unexpected keyword argument 'depth'"),
    ],
)
def test_a_call_that_python_would_refuse_is_refused(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        signature(fetch).bind(args, kwargs)
    with pytest.raises(TypeError):
        fetch(*args, **kwargs)


def test_a_missing_keyword_only_argument_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"missing a required .*'d'"):
        signature(everything).bind((1,))
    with pytest.raises(InvalidArgument, match="too many positional arguments"):
        signature(nothing).bind((1,))


def test_an_argument_that_cannot_be_stored_is_named_with_its_place() -> None:
    def index(doc: Doc) -> None: ...

    with pytest.raises(NotSerializable, match=r'^argument "doc" of index at \.id: .*object\. Things that cannot'):
        inputs(index, Doc(object()))  # type: ignore[arg-type]
    with pytest.raises(NotSerializable, match=r'^argument "rest" of everything at \[1\]: text with a lone surrogate'):
        inputs(everything, 1, Path(), 1, 5, "\ud800", d="")  # type: ignore[arg-type]
    with pytest.raises(NotSerializable, match=r'^argument "x" of untyped is tuple'):
        inputs(untyped, (1,))


def test_all_arguments_together_have_the_size_limit_of_one_value() -> None:
    small = CodecRegistry(max_payload_bytes=20)

    def two(a: str, b: str) -> None: ...

    compiled = Signature(two, small, what="two")
    assert len(compiled.bind(("xx", "yyy")).inputs) == 20
    with pytest.raises(PayloadTooLarge, match="the arguments of two have"):
        compiled.bind(("xxx", "yyy"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b'{"url":"u","depth":3}', r'fetch has no parameter "depth".*\(it has: url, tries, timeout, tags\)'),
        (b'{"tries":1}', 'the stored inputs of fetch lack "url", which has no default'),
        (b'{"url":3}', 'argument "url" of fetch does not fit str: Expected `str`, got `int`'),
        (b'{"url":"u","tags":{"a":"x"}}', r'argument "tags" of fetch at .*does not fit dict\[str, int\] \| None'),
        (b"[]", "the stored inputs of fetch cannot be read"),
        (b'{"url":', "the stored inputs of fetch cannot be read"),
        (b"\xff", "the stored inputs of fetch cannot be read"),
    ],
)
def test_stored_inputs_that_do_not_fit_name_the_parameter(stored: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        signature(fetch).load(stored)


@given(st.binary(max_size=20))
def test_bytes_that_are_no_inputs_are_a_payload_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(PayloadError):
        signature(fetch).load(data)


def test_each_argument_has_its_own_hash_and_a_difference_names_it() -> None:
    recorded = signature(fetch).bind(("u", 1), {"tags": {"a": 1, "b": 2}}).hashes
    assert list(recorded) == ["url", "tries", "tags"]
    now = signature(fetch).bind(("u", 2), {"tags": {"b": 2, "a": 1}}).hashes
    assert differing(recorded, now) == ["tries"]
    assert differing(recorded, recorded) == []
    assert differing(recorded, {}) == ["tags", "tries", "url"]
    assert differing({"gone": "x", "b": "y"}, {"b": "z", "new": "w"}) == ["b", "gone", "new"]
    assert differing({"a": None}, {}) == ["a"], "nothing said is not None"


async def download(url: str) -> Path | None:
    return Path(url)


def test_the_result_of_an_async_function_is_what_awaiting_it_gives() -> None:
    compiled = signature(download)
    assert compiled.is_async
    assert not signature(fetch).is_async
    assert compiled.result.round_trip(Path("a"), what="result of download#0") == (b'"a"', Path("a"))
    assert signature(functools.partial(download, "u")).is_async
    assert signature(nothing).result.round_trip(None, what="x") == (b"null", None)
    with pytest.raises(NotSerializable):
        signature(nothing).result.round_trip(1, what="x")


def test_an_unannotated_result_is_a_plain_json_value() -> None:
    result = signature(untyped).result
    assert result.round_trip([1, "a"], what="x")[1] == [1, "a"]
    with pytest.raises(NotSerializable):
        result.round_trip((1, "a"), what="x")


def tokens() -> Iterator[str]:
    yield "a"


async def stream() -> AsyncIterator[str]:
    yield "a"


def first(items: list[T]) -> T:
    return items[0]


def firsts(items: list[T]) -> dict[str, list[T]]:
    return {"": items}


def later() -> Awaitable[int]:
    raise NotImplementedError


def lazily() -> Iterator[int]:
    return iter([1])


class Client:
    pass


def call(client: Client) -> None: ...


def connect() -> list[Client]:
    return []


class Fluent:
    def me(self) -> typing.Self:
        return self


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (tokens, ") is a generator; a step returns one value. publish() the parts and return the whole"),
        (stream, ") is an async generator; a step returns one value. publish() the parts and return the whole"),
        (first, ") returns ~T, whose type depends on its arguments"),
        (firsts, ") returns dict[str, list[~T]], whose type depends on its arguments"),
        (Fluent.me, ") returns Self, whose type depends on its arguments"),
        (later, "returns collections.abc.Awaitable[int]; a step returns one value. Make it an async def"),
        (lazily, "returns collections.abc.Iterator[int]; a step returns one value. Return a list"),
        (call, "Client cannot be stored. Things that cannot be stored belong in a Resource (docs/resources.md)"),
        (connect, "result of connect (tests/core/test_signature.py:"),
    ],
)
def test_what_cannot_be_a_step_is_refused_in_one_sentence(fn: Any, message: str) -> None:
    text = not_registered(fn)
    assert message in text
    assert fn.__name__ in text
    assert "test_signature.py:" in text


ONLY_FOR_CHECKERS = "is imported only under TYPE_CHECKING in index_flows.py. Import it at run time"
MODULE = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from decimal import Decimal as Vector
    import numpy.typing

def embed(text: str) -> Vector: ...
def many(text: str) -> list[Vector]: ...
def store(text: str, v: numpy.typing.X) -> None: ...
def lost(x: Nowhere) -> None: ...
def broken(x: "1 +") -> None: ...
def raises(x: int.nothing) -> None: ...
def good(x: int | None, y: list[str] = []) -> dict[str, int]: ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "index_flows.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "index_flows", types.ModuleType("index_flows"))  # put back afterwards
    del sys.modules["index_flows"]
    linecache.checkcache()
    return importlib.import_module("index_flows")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embed", f"embed (index_flows.py:8) returns Vector, which {ONLY_FOR_CHECKERS}"),
        ("many", f"many (index_flows.py:9) returns list[Vector], and Vector {ONLY_FOR_CHECKERS}"),
        (
            "store",
            f'argument "v" of store (index_flows.py:10) is annotated numpy.typing.X, and numpy {ONLY_FOR_CHECKERS}',
        ),
        ("lost", 'argument "x" of lost (index_flows.py:11) is annotated Nowhere, which does not exist where'),
        ("broken", "the annotations of broken (index_flows.py:12) cannot be resolved: "),
        ("raises", "the annotations of raises (index_flows.py:13) cannot be resolved: "),
    ],
)
def test_an_annotation_that_cannot_be_resolved_is_named(module: types.ModuleType, name: str, message: str) -> None:
    assert not_registered(getattr(module, name)).startswith(message)


def test_annotations_written_as_text_are_resolved(module: types.ModuleType) -> None:
    compiled = signature(module.good)
    assert compiled.bind((3,), {"y": []}).inputs == b'{"x":3}'
    assert compiled.result.annotation == dict[str, int]


def test_a_function_without_source_or_annotations_is_bound_too() -> None:
    made = eval("lambda x, *, y=2: x")  # noqa: S307
    assert inputs(made, 1, y=3) == b'{"x":1,"y":3}'
    assert inspect.signature(made) is not None


def test_type_variables_among_the_parameters_stand_for_their_limit() -> None:
    P = TypeVar("P", bound=Path)

    def size(path: P, other: T) -> int:  # type: ignore[type-var, unused-ignore]
        return 1

    compiled = signature(size)
    assert compiled.load(compiled.bind((Path("a"), [1])).inputs) == ((Path("a"), [1]), {})
