"""Values from elsewhere: users' codecs, secrets, exceptions, numpy, pydantic."""

import dataclasses
import datetime
import decimal
import os
import pathlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.core.codec_examples import NAN, WHAT, AsyncClient, CardDeclined, Row, back, codec, refused, same

from relight.codec import Codec, CodecRegistry
from relight.errors import (
    ConfigError,
    NotSerializable,
    PayloadError,
    RegistrationError,
)
from relight.secret import Secret


class Frame:
    def __init__(self, columns: str) -> None:
        self.columns = columns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and self.columns == other.columns

    __hash__ = None  # type: ignore[assignment]


frames = Codec(Frame, encode=lambda f: f.columns.encode(), decode=lambda b: Frame(b.decode()), name="frame")


@dataclasses.dataclass
class Table:
    frame: Frame
    notes: list[Frame | str]
    total: float = 0.0


def test_a_users_codec_applies_wherever_its_type_is_written() -> None:
    value = Table(Frame("a"), [Frame("b"), "c"])
    assert back(value, Table, frames) == value
    assert codec(Frame, frames).encode(Frame("a"), what=WHAT) == b'{"$codec":"frame","data":"YQ=="}'
    assert back({"x": [Frame("a")]}, dict[str, list[Frame | None]], frames) == {"x": [Frame("a")]}


def test_a_users_codec_also_takes_over_a_type_that_json_knows() -> None:
    cents = Codec(decimal.Decimal, encode=lambda d: str(d * 100).encode(), decode=lambda b: decimal.Decimal(b.decode()))
    assert back(decimal.Decimal("1.5"), decimal.Decimal, cents) == decimal.Decimal("150.0")
    assert cents.name == "decimal.Decimal"
    assert repr(cents) == "Codec(decimal.Decimal)"


def test_another_fault_beside_a_codecs_value_is_found_at_its_own_place() -> None:
    assert "at .notes[0]: text with a lone surrogate" in refused(Table(Frame("a"), ["\ud800"]), Table, frames)
    assert "at .total: NaN" in refused(Table(Frame("a"), [], NAN), Table, frames)


def test_a_codec_that_fails_is_named_and_its_error_kept() -> None:
    def fail(_: object) -> Any:
        raise KeyError("lost")

    broken = Codec(Frame, encode=fail, decode=fail, name="frame")
    with pytest.raises(
        NotSerializable, match=r"at \[0\]: not encoded: the codec frame failed \(KeyError: 'lost'\)"
    ) as caught:
        codec(list[Frame], broken).encode([Frame("a")], what=WHAT)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(PayloadError, match="KeyError: 'lost'"):
        codec(Frame, broken).decode(codec(Frame, frames).encode(Frame("a"), what=WHAT))
    no_bytes = Codec(Frame, encode=lambda f: f.columns, decode=fail, name="frame")  # type: ignore[arg-type, return-value]
    assert "the codec frame returned str, not bytes" in refused(Frame("a"), Frame, no_bytes)


def test_bytes_of_another_codec_are_refused() -> None:
    other = Codec(Frame, encode=lambda f: b"", decode=lambda b: Frame(""), name="frame2")
    with pytest.raises(PayloadError, match="written by the codec 'frame', but here frame2 is in charge"):
        codec(Frame, other).decode(codec(Frame, frames).encode(Frame("a"), what=WHAT))
    with pytest.raises(PayloadError, match="not written by the codec frame"):
        codec(Frame, frames).decode(b"{}")


def test_two_codecs_for_one_type_or_name_are_refused() -> None:
    with pytest.raises(RegistrationError, match="frame, frame"):
        CodecRegistry([frames, Codec(Frame, encode=frames.encode, decode=frames.decode, name="frame")])
    with pytest.raises(RegistrationError):
        CodecRegistry([frames, Codec(AsyncClient, encode=lambda c: b"", decode=lambda b: AsyncClient(), name="frame")])


def test_a_secret_is_stored_as_the_name_of_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_API_KEY", "sk-live-123")
    secret = Secret("env:LLM_API_KEY")
    assert codec(Secret).encode(secret, what=WHAT) == b'{"$secret":"env:LLM_API_KEY"}'
    assert back([secret, None], list[Secret | None]) == [secret, None]
    assert back(secret, Secret).reveal() == "sk-live-123"
    assert "sk-live" not in repr(secret)
    assert len({secret, Secret("env:LLM_API_KEY"), Secret("env:OTHER")}) == 2
    place = tmp_path / "key"
    place.write_text("sk-file\n")
    assert Secret(f"file:{place}").reveal() == "sk-file"


def test_a_secret_that_is_not_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLM_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="the environment variable LLM_API_KEY is not set here"):
        Secret("env:LLM_API_KEY").reveal()
    with pytest.raises(ConfigError, match="cannot be read here"):
        Secret(f"file:{tmp_path}/none").reveal()


@pytest.mark.parametrize(
    ("literal", "message"),
    [
        ("sk-proj-1234567890", 'Secret("sk-…") would be lost at a restart. Name its place: Secret("env:LLM_API_KEY")'),
        ("hunter2", 'Secret("…") would be lost'),
        ("", "would be lost"),
        ("https://user:password@host", 'Secret("htt…") would be lost'),
        ("env:", "names no variable"),
        ("file:relative", "must be an absolute path"),
    ],
)
def test_a_literal_secret_is_refused_and_not_shown(literal: str, message: str) -> None:
    with pytest.raises(NotSerializable) as caught:
        Secret(literal)
    assert message in str(caught.value)
    assert len(literal) < 5 or literal not in str(caught.value) or literal.startswith("file:")


class Declined(Exception):
    def __init__(self, reason: str, *, code: int = 0) -> None:
        super().__init__(f"declined: {reason}")
        self.reason = reason
        self.code = code


@dataclasses.dataclass
class Refused(Exception):
    where: Path | str
    by: set[str] = dataclasses.field(default_factory=set, kw_only=True)


def exception_back(error: BaseException) -> Any:
    registry = CodecRegistry()
    return registry.decode_exception(type(error), registry.encode_exception(error, what=WHAT), what=WHAT)


def test_a_dataclass_exception_comes_back_with_fields_and_args() -> None:
    got = exception_back(CardDeclined("no money", 5))
    assert type(got) is CardDeclined
    assert got == CardDeclined("no money", 5)
    assert got.args == ("no money", 5)
    assert str(got) == str(CardDeclined("no money", 5))
    odd = exception_back(Refused(Path("a"), by={"x"}))
    assert odd.where == Path("a") and odd.by == {"x"}
    assert back([CardDeclined("x")], list[CardDeclined])[0].args == ("x", 0)


def test_another_exception_comes_back_with_args_and_attributes_whatever_its_init_takes() -> None:
    error = Declined("no money", code=7)
    error.add_note("seen at the bank")
    got = exception_back(error)
    assert type(got) is Declined
    assert (got.args, got.reason, got.code) == (("declined: no money",), "no money", 7)
    assert got.__notes__ == ["seen at the bank"]
    assert exception_back(KeyError("k")).args == ("k",)
    assert exception_back(OSError(2, "gone")).errno == 2


def test_an_exception_that_holds_what_cannot_be_stored_is_refused_by_place() -> None:
    error = ValueError("x", (1,))
    with pytest.raises(NotSerializable, match=r"result of totals#3 at \.args\[1\]: tuple"):
        CodecRegistry().encode_exception(error, what=WHAT)
    error = ValueError("x")
    error.response = AsyncClient()  # type: ignore[attr-defined]
    with pytest.raises(NotSerializable, match=r"at \.attributes\.response: .*AsyncClient"):
        CodecRegistry().encode_exception(error, what=WHAT)


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"args":1,"attributes":{}}', b"nonsense"])
def test_a_record_that_is_no_exception_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        CodecRegistry().decode_exception(ValueError, data)


def test_neither_numpy_nor_pydantic_is_imported() -> None:
    script = "import sys, relight.signature; print([m for m in ('numpy', 'pydantic', 'pandas') if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_numpy_scalars_come_back_as_the_python_values_they_stand_for() -> None:
    np = pytest.importorskip("numpy")
    assert same(back(np.float64(1.5)), 1.5)
    assert same(back({"a": [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("x")]}), {"a": [3, 0.5, True, "x"]})
    assert same(back([np.int64(3)], list[int]), [3])
    assert same(back(np.float64(2.5), float | Path), 2.5)
    assert same(back(np.int64(2), int | Path), 2)
    assert same(back(Row(np.float64(1.0)), Row), Row(1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda np: {"x": np.float64("nan")}, "at .x: NaN"),
        (lambda np: [np.float32("inf")], "at [0]: infinite"),
        (lambda np: np.zeros(3), "numpy.ndarray (write x.tolist())"),
        (lambda np: {"rows": [np.datetime64("2026-01-01", "ns")]}, "at .rows[0]: numpy.datetime64 (write"),
        (lambda np: np.complex128(1), "numpy.complex128 (write"),
        (lambda np: np.longdouble(1), "numpy.longdouble (write"),
        (lambda np: np.bytes_(b"x"), "numpy.bytes_, which un-annotated would come back as str"),
    ],
)
def test_numpy_values_that_stand_for_nothing_in_json_are_refused(make: Any, message: str) -> None:
    np = pytest.importorskip("numpy")
    assert message in refused(make(np))


def pydantic_models() -> Any:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        name: str = pydantic.Field(alias="itemName", min_length=1)
        price: float | None = None
        tags: set[str] = set()
        at: datetime.datetime | None = None

    class Order(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True, extra="forbid")
        items: list[Item]
        first: Item | None = None
        where: pathlib.Path | None = None
        data: Any = None

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def count(self) -> int:
            return len(self.items)

    return Item, Order


def test_pydantic_models_come_back_whatever_their_aliases_strictness_and_computed_fields() -> None:
    Item, Order = pydantic_models()  # noqa: N806
    order = Order(items=[Item(itemName="a", at=datetime.datetime.fromordinal(9), tags={"y", "x"})], where=Path("a"))
    assert back(order, Order) == order
    assert back([order, None], list[Order | None]) == [order, None]
    assert same(back([Item(itemName="a"), "x"], list[Item | Order | str]), [Item(itemName="a"), "x"])

    @dataclasses.dataclass
    class Basket:
        item: Item
        notes: set[str]

    assert back(Basket(Item(itemName="a"), {"x"}), Basket) == Basket(Item(itemName="a"), {"x"})


def test_sets_in_pydantic_models_are_written_sorted() -> None:
    Item, Order = pydantic_models()  # noqa: N806
    names = [f"t{i}" for i in range(50)]
    order = Order(items=[Item(itemName="a", tags=set(names))])
    assert msgspec.json.decode(codec(Order).encode(order, what=WHAT))["items"][0]["tags"] == sorted(names)

    class Anything(pytest.importorskip("pydantic").BaseModel):  # type: ignore[misc]
        data: Any

    anything = Anything(data=[{"x": frozenset(names)}])
    assert msgspec.json.decode(codec(Anything).encode(anything, what=WHAT)) == {"data": [{"x": sorted(names)}]}


def test_nan_and_foreign_things_in_pydantic_models_are_refused_by_place() -> None:
    Item, Order = pydantic_models()  # noqa: N806
    assert "at .items[0].price: NaN" in refused(Order(items=[Item(itemName="a", price=NAN)]), Order)
    assert "at .data" in refused(Order(items=[], data=AsyncClient()), Order)


def test_a_pydantic_model_that_refuses_its_own_output_is_refused() -> None:
    Item, _ = pydantic_models()  # noqa: N806
    broken = Item.model_construct(name="")
    assert "does not fit" in refused(broken, Item)
    with pytest.raises(PayloadError, match=r"at \[0\]|does not fit"):
        codec(list[Item]).decode(b'[{"name": 3}]', what=WHAT)


def test_a_subclass_of_a_pydantic_model_is_refused() -> None:
    Item, _ = pydantic_models()  # noqa: N806

    class Special(Item):  # type: ignore[misc, valid-type]
        extra: int = 0

    assert "Special, a subclass of the declared Item" in refused([Special(itemName="a")], list[Item])
