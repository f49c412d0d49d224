"""Values that nothing is declared for (published, sent, previewed) are written so that any reader's declaration fits them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest

from relight.codec import CodecRegistry
from relight.errors import NotSerializable, PayloadTooLarge


@dataclass
class Message:
    role: str
    text: str


@dataclass
class Note:
    page: int


@dataclass
class Talk:
    messages: list[Message]
    turn: int


class Model(pydantic.BaseModel):
    n: int


HELLO = Message("user", "hello")
NOW = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "value, declared",
    [
        (3, int),
        ("a", str),
        (None, int | None),
        ({"a": [1, None]}, dict[str, Any]),
        (HELLO, Message),
        ([HELLO, HELLO], list[Message]),
        ([], list[Message]),
        ((HELLO, 3), tuple[Message, int]),
        ({"talk": [HELLO]}, dict[str, list[Message]]),
        ({"talk": [HELLO, Note(3)], "turn": 3}, dict[str, list[Message | Note] | int]),
        ({"at": NOW}, dict[str, datetime]),
        ({"in": [Path("a")]}, dict[str, list[Path]]),
        ([Model(n=1)], list[Model]),
        ({3, 1, 2}, set[int]),
        ([{"deep": {"er": [HELLO]}}], list[dict[str, dict[str, list[Message]]]]),
    ],
    ids=str,
)
def test_a_reader_that_declares_what_it_is_gets_it_back(value: object, declared: Any) -> None:
    registry = CodecRegistry()
    written = registry.encode_any(value, what="it")
    assert registry.for_type(declared, what="it").decode(written) == value


def test_a_mapping_can_be_read_as_a_class() -> None:
    registry = CodecRegistry()
    written = registry.encode_any({"messages": [HELLO], "turn": 3}, what="it")
    assert registry.for_type(Talk, what="it").decode(written) == Talk([HELLO], 3)


def cycle() -> list[object]:
    found: list[object] = [HELLO]
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value, place",
    [
        (object(), "it is object"),
        ([HELLO, object()], "it at [1] is object"),
        ({"a": [HELLO, float("nan")]}, "it at .a[1] is NaN"),
        ({"a": HELLO, "b": {2: 3}}, "it at .b is a dict with the key 2"),
        (cycle(), "cycle"),
    ],
    ids=["object", "in a list", "not a number", "key", "cycle"],
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(NotSerializable) as refused:
        CodecRegistry().encode_any(value, what="it")
    assert place in str(refused.value)


def test_the_limit_holds_for_the_whole() -> None:
    with pytest.raises(PayloadTooLarge):
        CodecRegistry(max_payload_bytes=50).encode_any([HELLO, HELLO], what="it")
