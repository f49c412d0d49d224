"""Unions: which member a value belongs to, when it is written and when it is read.

msgspec tells members apart by their JSON type, so two dataclasses, or a path and a text, are one too many for it.
Those are written with a tag, ``{"$type": "ToolCall", "value": …}``; None never has one. The tag is the class's bare
name, so that a class can move to another module under live jobs.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from relight.codec.faults import Fault, mismatch
from relight.codec.foreign import is_numpy_scalar, numpy_item
from relight.codec.nodes import UNSET, Change, Node, same

_TAGGED = {"$type", "value"}
_ONE_KIND: tuple[Any, ...] = (list, set, frozenset, collections.abc.Sequence, collections.abc.Set)


class Ambiguous(Exception):
    """Two members of a union that no value could be told apart by."""


def flat(t: Any, bare: Callable[[Any], Any]) -> list[Any]:
    """List the members of a union, those of unions and aliases inside it among them, each made ``bare``."""
    t = bare(t)
    if hasattr(t, "__value__"):
        return flat(t.__value__, bare)
    if typing.get_origin(t) not in (typing.Union, types.UnionType):
        return [t]
    members: list[Any] = []
    for argument in typing.get_args(t):
        members += [m for m in flat(argument, bare) if m not in members]
    return members


def merged(members: Sequence[Any]) -> list[Any]:
    """Put members together whose values are of one class: ``list[A] | list[B]`` holds what ``list[A | B]`` holds.

    Several typed dicts, which at run time are just dicts, become ``dict[str, Any]``: plain JSON values only.
    """
    groups: dict[Any, list[Any]] = {}
    for i, member in enumerate(members):
        origin = typing.get_origin(member) or member
        arguments = typing.get_args(member)
        if typing.is_typeddict(origin) or origin is dict:
            groups.setdefault(dict, []).append(member)
        elif origin in _ONE_KIND and arguments:
            groups.setdefault(origin, []).append(member)
        else:
            groups[i] = [member]
    return [_put_together(kind, group) for kind, group in groups.items()]


def _put_together(kind: Any, group: list[Any]) -> Any:
    if len(group) == 1:
        return group[0]
    if kind is not dict:
        return _subscripted(kind, _union(typing.get_args(m)[0] for m in group))
    arguments = [typing.get_args(m) for m in group]
    if all(arguments) and len({a[0] for a in arguments}) == 1:
        return _subscripted(dict, (arguments[0][0], _union(a[1] for a in arguments)))
    return dict[str, Any]


def _subscripted(kind: Any, argument: Any) -> Any:
    return kind[argument]


def _union(members: collections.abc.Iterable[Any]) -> Any:
    return typing.Union[tuple(members)]  # noqa: UP007  (known only at run time)


def without_covered(nodes: Sequence[Node]) -> list[Node]:
    """Leave out literals and repeated types whose values another member reads just as well."""
    kept: list[Node] = []
    for node in nodes:
        others = {n.accepts[0] for n in nodes if n is not node and n.name != "Literal"}
        covered = node.name == "Literal" and others.issuperset(node.accepts)
        if not covered and all(node.type != k.type for k in kept):
            kept.append(node)
    return kept


def optional(node: Node, absent: Sequence[type]) -> Node:
    """Let a node's values also be None, or not there at all."""
    if not absent:
        return node
    pack, unpack = node.pack, node.unpack
    return Node(
        _union((node.type, *absent)),
        node.name,
        (*node.accepts, *absent),
        None if pack is None else lambda value: value if value is None or value is UNSET else pack(value),
        None if unpack is None else lambda stored: None if stored is None else unpack(stored),
        node.trim,
    )


def pack_untagged(nodes: Sequence[Node], declared: str) -> Change:
    """Pack each value as its member is packed; what belongs to no member is left for msgspec to judge."""
    choose = chooser(nodes, declared)

    def packed(value: Any) -> Any:
        return value if value is None or value is UNSET else (choose(value).pack or same)(value)

    return packed


def pack_tagged(nodes: Sequence[Node], declared: str) -> Change:
    """Pack each value as its member is packed, under the member's name."""
    choose = chooser(nodes, declared)

    def packed(value: Any) -> dict[str, Any]:
        node = choose(value)
        return {"$type": node.name, "value": value if node.pack is None else node.pack(value)}

    return packed


def unpack_tagged(nodes: Sequence[Node], reads: Sequence[Change]) -> Change:
    """Unpack a value by its tag.

    One without a tag was written when the annotation was not a union yet: it is read as the member whose values look
    like that in JSON, else as the only one that can read it.
    """
    readers = {node.name: read for node, read in zip(nodes, reads, strict=True)}
    native = {node.accepts[0]: read for node, read in zip(nodes, reads, strict=True)}

    def unpacked(stored: Any) -> Any:
        if type(stored) is dict and stored.keys() == _TAGGED:
            read = readers.get(stored["$type"])
            if read is None:
                raise Fault(f"of the unknown type {stored['$type']!r:.60} (known: {', '.join(readers)})")
            return read(stored["value"])
        if type(stored) in native:
            return native[type(stored)](stored)
        fits = [value for ok, value in (_attempt(read, stored) for read in readers.values()) if ok]
        if len(fits) != 1:
            raise Fault(f"without a tag, and {'several' if fits else 'none'} of {', '.join(readers)} can read it")
        return fits[0]

    return unpacked


def _attempt(read: Change, stored: Any) -> tuple[bool, Any]:
    try:
        return True, read(stored)
    except RecursionError:
        raise
    except Exception:  # boundary: building a value runs user code (validators, codecs); a failure means "not this one"
        return False, None


def chooser(nodes: Sequence[Node], declared: str) -> Callable[[Any], Node]:
    """Return a function from a value to its member: by exact class, else by the closest base class.

    Raises ``Ambiguous`` when two members have one class; the function raises ``Fault`` for a value of no member.
    """
    by_class: dict[type, Node] = {}
    for node in nodes:
        cls = node.accepts[0]
        if cls in by_class:
            raise Ambiguous(f"{by_class[cls].name} and {node.name} are both {cls.__name__} at run time")
        by_class[cls] = node
    for node in nodes:
        for cls in node.accepts[1:]:
            by_class.setdefault(cls, node)

    def choose(value: Any) -> Node:
        node = by_class.get(type(value))
        if node is not None:
            return node
        if is_numpy_scalar(value) and type(item := numpy_item(value)) is not type(value):
            return choose(item)
        bases = [cls for cls in by_class if isinstance(value, cls)]
        if not bases:
            raise mismatch(value, declared)
        return by_class[max(bases, key=lambda cls: len(cls.__mro__))]

    return choose


def absent_members(members: Sequence[Any]) -> list[type]:
    """Pick the members that stand for no value: None, and msgspec's UNSET for a field that is left out."""
    return [m for m in members if m in (type(None), msgspec.UnsetType)]
