"""Annotations that stand for one kind of value and need help: odd enums, literals, secrets, users' codecs.

Owns their stored forms. Must not know about containers or classes; those are ``plan.py``'s.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Callable
from typing import Any, Protocol

from relight.codec.faults import Fault, as_fault, mismatch, show, type_name
from relight.codec.nodes import Node, reads
from relight.codec.unions import optional
from relight.secret import Secret


class Uncodable(Exception):
    """An annotation that no value can be stored under; the text says which and why."""


class UserCodec(Protocol):
    """What a plan needs of ``Codec``."""

    type: Any
    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def of_enum(cls: Any) -> Node:
    """Write an enum by value where msgspec reads it so (all text or all integers), else by name."""
    if reads(cls):
        return Node(cls, cls.__name__, (cls,))

    def unpack(stored: Any) -> Any:
        if stored not in cls.__members__:
            raise Fault(f"{stored!r:.60}, which is no member of {cls.__name__}")
        return cls[stored]

    node = Node(cls, cls.__name__, (cls,), unpack=unpack)
    node.pack = lambda value: node.checked(value).name
    return node


def of_literal(t: Any, values: tuple[Any, ...]) -> Node:
    """Write a literal as it is; members of one enum as that enum."""
    if reads(t):
        return Node(t, "Literal", tuple({type(v): None for v in values}))
    given = [v for v in values if v is not None]
    if len({type(v) for v in given}) != 1 or not isinstance(given[0], enum.Enum):
        raise Uncodable(f"{show(t)} cannot be stored (use text, integers, or members of one Enum)")
    return optional(of_enum(type(given[0])), [type(None)] if len(given) < len(values) else [])


def of_secret() -> Node:
    """Write a secret as the name of its place."""

    def unpack(stored: Any) -> Secret:
        if type(stored) is not dict or stored.keys() != {"$secret"}:
            raise Fault("not the reference of a Secret")
        return Secret(stored["$secret"])

    node = Node(Secret, "Secret", (Secret,), unpack=unpack)
    node.pack = lambda value: {"$secret": node.checked(value).name}
    return node


def of_codec(codec: UserCodec) -> Node:
    """Write a value as the bytes that the user's codec makes of it, with the codec's name."""

    def pack(value: Any) -> dict[str, str]:
        if not isinstance(value, codec.type):
            raise mismatch(value, type_name(codec.type))
        try:
            data = codec.encode(value)
        except Exception as error:  # boundary: the user's encode function
            reason = as_fault(error).reason
            raise Fault(f"not encoded: the codec {codec.name} failed ({reason})", origin=error) from None
        if not isinstance(data, bytes):
            raise Fault(f"not encoded: the codec {codec.name} returned {type_name(type(data))}, not bytes")
        return {"$codec": codec.name, "data": base64.b64encode(data).decode("ascii")}

    def unpack(stored: Any) -> Any:
        if type(stored) is not dict or stored.keys() != {"$codec", "data"}:
            raise Fault(f"not written by the codec {codec.name}")
        if stored["$codec"] != codec.name:
            raise Fault(f"written by the codec {stored['$codec']!r:.60}, but here {codec.name} is in charge")
        return codec.decode(base64.b64decode(stored["data"], validate=True))

    return Node(codec.type, codec.type.__name__, (codec.type,), pack, unpack)
