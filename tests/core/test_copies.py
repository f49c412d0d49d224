"""``own_copy``: nothing that can be changed is shared."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from relight.core.copies import own_arguments, own_copy


@dataclass
class Doc:
    words: list[str] = field(default_factory=list)


class Long(Doc): ...


class Packed(msgspec.Struct, frozen=True):
    words: list[str]


class Colour(Enum):
    RED = [1]


@pytest.mark.parametrize(
    "value", [[1], {"a": [1]}, ([1],), {1}, Doc(["a"]), Long(["a"]), Packed(["a"]), bytearray(b"a")], ids=repr
)
def test_it_is_equal_of_the_same_type_and_another_one(value: Any) -> None:
    own = own_copy(value)
    assert own == value and type(own) is type(value) and own is not value
    inner = own[0] if type(own) is tuple else own["a"] if type(own) is dict else getattr(own, "words", own)
    theirs = value[0] if type(own) is tuple else value["a"] if type(own) is dict else getattr(value, "words", value)
    assert inner is not theirs


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        1.5,
        "a",
        b"a",
        Path("a"),
        Colour.RED,
        UUID(int=1),
        Decimal(1),
        datetime(2026, 1, 1, tzinfo=UTC),
        frozenset("a"),
        Doc,
    ],
    ids=repr,
)
def test_what_never_changes_is_itself(value: Any) -> None:
    assert own_copy(value) is value


def test_what_cannot_be_copied_is_itself() -> None:
    lock = threading.Lock()
    assert own_copy([lock]) == [lock]


def test_the_first_ones_can_be_kept() -> None:
    owner, items, more = Doc(), [1], {"more": [2]}
    args, kwargs = own_arguments((owner, items), more, 1)
    assert args[0] is owner and args[1] == items and args[1] is not items
    assert kwargs == more and kwargs["more"] is not more["more"]
