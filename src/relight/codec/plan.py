"""From an annotation to what has to be done to its values before msgspec writes them and after it has read them.

Most annotations need nothing done: msgspec writes and reads them in one call in C. Compiling an annotation finds the
others, and stops at one that cannot be stored at all, so that this shows at registration and not in a paid run.

What msgspec alone would get wrong, and what is done instead:

un-annotated, ``Any``
    Tuples, sets, dataclasses and int keys would come back as something else: only plain JSON values pass.
unions of one JSON type
    Refused by msgspec. Each member but None is written with a tag (``unions.py``).
sets
    Written in the order of the hash seed: sorted here by their encoded members, so that hashes last over a restart.
typed dicts, subclasses of a declared class
    Keys and fields that are not declared would vanish: refused. (Subclasses are looked at once a class *has* some.)
dicts with keys of text
    Another key, 1 say, would come back as text: refused.
enums whose values are neither all text nor all integers
    Refused by msgspec. Written by name.
``Codec`` types and secrets
    ``{"$codec": name, "data": base64}`` and ``{"$secret": "env:NAME"}``.
classes with ``__post_init__``, exceptions that are dataclasses
    Would be changed by it a second time; would lose ``args``. Built by ``shapes.py``, and their fields set again.

Rejected: pydantic's ``TypeAdapter`` for unions (the stored form would depend on what is installed), and tags on
everything (renaming a class would break every record). Read next: ``nodes.py``.
"""

from __future__ import annotations

import collections
import collections.abc
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from relight.codec import trims
from relight.codec.faults import RESOURCE_HINT, show, type_name
from relight.codec.foreign import is_pydantic_model
from relight.codec.nodes import (
    Change,
    Node,
    check_plain,
    check_text_keys,
    each_its_own,
    from_parsed,
    pack_entries,
    pack_fields,
    pack_items,
    pack_set,
    reads,
    same,
    same_class,
    unpack_entries,
    unpack_fields,
    unpack_items,
)
from relight.codec.shapes import limit, shape_of, substitute
from relight.codec.singles import Uncodable, UserCodec, of_codec, of_enum, of_literal, of_secret
from relight.codec.unions import (
    Ambiguous,
    absent_members,
    flat,
    merged,
    optional,
    pack_tagged,
    pack_untagged,
    unpack_tagged,
    without_covered,
)
from relight.secret import Secret

_ABC = collections.abc
_NONE = type(None)
_SCALARS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    bytes: (bytes, bytearray, memoryview),
    bytearray: (bytearray,),
    _NONE: (_NONE,),
    msgspec.UnsetType: (msgspec.UnsetType,),
    datetime.datetime: (datetime.datetime,),
    datetime.date: (datetime.date,),
    datetime.time: (datetime.time,),
    datetime.timedelta: (datetime.timedelta,),
    uuid.UUID: (uuid.UUID,),
    decimal.Decimal: (decimal.Decimal,),
}
_KEYS = frozenset(_SCALARS) - {bool, bytearray, _NONE, msgspec.UnsetType}
_LISTS = frozenset((list, _ABC.Sequence, _ABC.MutableSequence, _ABC.Collection, _ABC.Iterable))
_SETS: dict[Any, Any] = {set: set, frozenset: frozenset, _ABC.Set: set, _ABC.MutableSet: set}
_DICTS = frozenset((dict, _ABC.Mapping, _ABC.MutableMapping))
_REBUILT: dict[Any, Any] = {collections.deque: list, collections.OrderedDict: dict, collections.Counter: dict}
_WRAPPERS = {getattr(typing, name, None) for name in ("Required", "NotRequired", "Final", "ClassVar", "ReadOnly")}


class Compiler:
    """Compiles one annotation. With ``exact``, instances of subclasses are looked for and refused.

    Afterwards ``classes`` holds the classes whose subclasses would lose fields, and ``floats`` says whether a NaN can
    hide in a value.
    """

    def __init__(self, codecs: Mapping[Any, UserCodec], *, exact: bool = False) -> None:
        self._codecs = codecs
        self._exact = exact
        self._nodes: dict[Any, Node] = {}
        self._reused: set[Any] = set()
        self._late: set[tuple[Any, str]] = set()
        self._again = False
        self._parts: list[Any] = []
        self.classes: set[type] = set()
        self.floats = False

    def compile(self, annotation: Any) -> Node:
        """Compile an annotation. Raises ``Uncodable``.

        A class that contains itself is first taken to need no help from us. Where that turns out wrong, all is
        compiled again with the self-reference bound late.
        """
        while True:
            self._again = False
            self._nodes.clear()
            self._reused.clear()
            self._parts.clear()
            node = self._node(annotation)
            if not self._again:
                break
        refused = next((t for t in self._parts if not reads(t)), None)
        if refused is not None:
            raise Uncodable(f"{show(refused)} cannot be stored")
        return node

    def _reader(self, node: Node) -> Change:
        """Return the function that reads a part of a value that msgspec does not read as a whole."""
        if node.unpack is not None:
            return node.unpack
        self._parts.append(node.type)
        return from_parsed(node.type)

    def _node(self, annotation: Any) -> Node:
        t = bare(annotation)
        origin, arguments = typing.get_origin(t) or t, typing.get_args(t)
        if not isinstance(origin, _ABC.Hashable):
            raise Uncodable(f"{annotation!r} is not a type")
        if origin in self._codecs:
            return of_codec(self._codecs[origin])
        if origin in _SCALARS:
            self.floats = self.floats or origin is float
            return Node(t, t.__name__, _SCALARS[t])
        if origin in (typing.Union, types.UnionType):
            return self._union(t)
        if origin is typing.Literal:
            return of_literal(t, arguments)
        if origin is tuple:
            return self._tuple(t, arguments)
        if origin in _LISTS or origin in _SETS:
            return self._list(origin, arguments)
        if origin in _DICTS:
            return self._dict(arguments)
        if origin in _REBUILT:
            return self._rebuilt(origin, arguments)
        return self._other(t, origin, arguments)

    def _other(self, t: Any, origin: Any, arguments: tuple[Any, ...]) -> Node:
        if isinstance(t, typing.TypeVar):
            return self._node(limit(t))
        if t is Any or t is object or (hasattr(t, "__value__") and _is_json(t, set())):
            self.floats = True
            return Node(Any, "Any", (object,), pack=check_plain)
        if hasattr(t, "__value__"):  # an alias made by the ``type`` statement
            return self._once(t, lambda: self._node(t.__value__))
        if isinstance(origin, type):
            return self._class(t, origin, arguments)
        raise Uncodable(f"{show(t)} cannot be stored")

    def _once(self, key: Any, make: Callable[[], Node]) -> Node:
        """Compile what may contain itself; see ``compile``."""
        if key in self._nodes:
            self._reused.add(key)
            return self._nodes[key]
        cls = typing.get_origin(key) or key
        accepts = dict if typing.is_typeddict(cls) else cls if isinstance(cls, type) else object
        if accepts is object:  # an alias, which msgspec cannot read inside itself
            self._late.add((key, "unpack"))
        made: Node
        open_ = self._nodes[key] = Node(key, getattr(cls, "__name__", str(cls)), (accepts,))
        if (key, "pack") in self._late:
            open_.pack = lambda value: made.pack(value) if made.pack else value
        if (key, "unpack") in self._late:
            open_.unpack = lambda stored: made.unpack(stored) if made.unpack else stored
        open_.trim = lambda stored: made.trim(stored) if made.trim else stored
        made = make()
        wrong = {(key, side) for side in ("pack", "unpack") if getattr(made, side) is not None} - self._late
        if wrong and key in self._reused:
            self._late |= wrong
            self._again = True
        self._nodes[key] = made
        return made

    def _list(self, origin: Any, arguments: tuple[Any, ...]) -> Node:
        item = self._node(arguments[0] if arguments else Any)
        made = _SETS.get(origin, list)
        node = Node(made[item.type], made.__name__, (list, tuple) if made is list else (made, set, frozenset))
        if made is not list:
            node.pack = pack_set(node, item.pack)
        else:
            node.pack = None if item.pack is None else pack_items(node, item.pack)
        # msgspec would take a field annotated Iterable for a class of the user's.
        if item.unpack is not None or origin is _ABC.Iterable:
            node.unpack = unpack_items(made, self._reader(item))
        node.trim = item.trim and trims.trim_items(item.trim)
        return node

    def _tuple(self, t: Any, arguments: tuple[Any, ...]) -> Node:
        if t is tuple or arguments[1:] == (Ellipsis,):
            item = self._node(arguments[0] if arguments else Any)
            node = Node(tuple.__class_getitem__((item.type, Ellipsis)), "tuple", (tuple, list))
            node.pack = None if item.pack is None else pack_items(node, item.pack)
            node.unpack = None if item.unpack is None else unpack_items(tuple, item.unpack)
            node.trim = item.trim and trims.trim_items(item.trim)
            return node
        items = [self._node(a) for a in arguments]
        node = Node(tuple.__class_getitem__(tuple(i.type for i in items)), "tuple", (tuple, list))
        if any(i.pack for i in items):
            node.pack = each_its_own(node, [i.pack or same for i in items], list)
        if any(i.unpack for i in items):
            node.unpack = each_its_own(node, [self._reader(i) for i in items], tuple)
        if any(i.trim for i in items):
            node.trim = trims.trim_each([i.trim for i in items])
        return node

    def _dict(self, arguments: tuple[Any, ...]) -> Node:
        key = _key(arguments[0] if arguments else str)
        value = self._node(arguments[1] if arguments else Any)
        node = Node(dict.__class_getitem__((key, value.type)), "dict", (dict, _ABC.Mapping))
        node.pack = check_text_keys(node) if key is str else None
        if value.pack is not None:
            node.pack = pack_entries(node.pack or node.checked, value.pack)
        node.unpack = None if value.unpack is None else unpack_entries(key, value.unpack)
        node.trim = value.trim and trims.trim_entries(value.trim)
        return node

    def _rebuilt(self, cls: Any, arguments: tuple[Any, ...]) -> Node:
        if cls is collections.Counter:
            arguments = (*(arguments or (str,)), int)
        plain = _REBUILT[cls]
        inner = self._node(plain[arguments] if arguments else plain)
        read, node = self._reader(inner), Node(cls, cls.__name__, (cls,))
        node.pack = lambda value: (inner.pack or same)(plain(node.checked(value)))
        node.unpack = lambda stored: cls(read(stored))
        node.trim = inner.trim
        return node

    def _class(self, t: Any, cls: type, arguments: tuple[Any, ...]) -> Node:
        if cls is Secret:
            return of_secret()
        if issubclass(cls, enum.Enum):
            return of_enum(cls)
        if issubclass(cls, PurePath):
            return Node(cls, cls.__name__, (cls,))
        if is_pydantic_model(cls):
            self.floats = True
            self.classes.add(cls)
            return self._once(t, lambda: self._model(cls))
        return self._once(t, lambda: self._fields(t, cls, arguments))

    def _fields(self, t: Any, cls: type, arguments: tuple[Any, ...]) -> Node:
        try:
            shape = shape_of(cls, arguments)
        except NameError as error:
            reason = "does not exist at run time (imported only under TYPE_CHECKING, or defined inside a function?)"
            raise Uncodable(f"{type_name(cls)} mentions {error.name}, which {reason}") from error
        except TypeError as error:
            raise Uncodable(f"{type_name(cls)}: {error}") from error
        if shape is None:
            raise Uncodable(f"{type_name(cls)} cannot be stored. {RESOURCE_HINT}; for values, give the engine a Codec")
        nodes = [self._field(cls, field.name, field.annotation) for field in shape.fields]
        node = Node(t, cls.__name__, (shape.cls,))
        if shape.cls is cls and not issubclass(cls, tuple):
            self.classes.add(cls)
        if self._exact or shape.cls is dict or any(n.pack for n in nodes):
            node.pack = pack_fields(shape, [n.pack or same for n in nodes])
        if shape.own or any(n.unpack for n in nodes) or not reads(t):
            node.unpack = unpack_fields(shape, [self._reader(n) for n in nodes])
        defaults = [f.default for f in shape.fields]
        if any(n.trim for n in nodes) or any(d is not trims.NO_DEFAULT for d in defaults):
            fields = trims.Fields(
                [f.key for f in shape.fields], defaults, [n.trim for n in nodes], [n.pack for n in nodes]
            )
            node.trim = fields.in_array(shape.tag) if shape.as_list else fields.in_object(shape.tag)
        return node

    def _model(self, cls: Any) -> Node:
        """Leave a pydantic model to pydantic; only what is hashed of it is found here."""
        node = Node(cls, cls.__name__, (cls,), same_class(cls) if self._exact else None)
        fields = cls.model_fields
        inner = [self._trim_inside(f.annotation) for f in fields.values()]
        defaults = [
            trims.NO_DEFAULT if f.is_required() else trims.default_of(f.default, f.default_factory)
            for f in fields.values()
        ]
        if any(inner) or any(d is not trims.NO_DEFAULT for d in defaults):
            node.trim = trims.Fields(list(fields), defaults, inner, [None] * len(inner)).in_object(None)
        return node

    def _trim_inside(self, annotation: Any) -> Change | None:
        classes, floats, parts = set(self.classes), self.floats, list(self._parts)
        try:
            return self._node(annotation).trim
        except (Uncodable, TypeError):
            return None  # pydantic knows it, and it is hashed whole
        finally:
            self.classes, self.floats, self._parts = classes, floats, parts

    def _field(self, cls: type, name: str, annotation: Any) -> Node:
        try:
            return self._node(annotation)
        except Uncodable as error:
            raise Uncodable(f"{type_name(cls)}.{name}: {error}") from error

    def _union(self, t: Any) -> Node:
        members = flat(t, bare)
        absent = absent_members(members)
        if any(m is Any or m is object for m in members):
            return self._node(Any)
        nodes = without_covered([self._node(m) for m in merged([m for m in members if m not in absent])])
        if len(nodes) == 1:
            return optional(nodes[0], absent)
        declared = show(t)
        node = Node(typing.Union[tuple(n.type for n in nodes)], declared, tuple(c for n in nodes for c in n.accepts))  # noqa: UP007
        try:
            if all(n.unpack is None for n in nodes) and reads(node.type):
                node.pack = pack_untagged(nodes, declared) if any(n.pack for n in nodes) else None
                found = [n.trim for n in nodes if n.trim is not None]
                node.trim = trims.trim_all(found) if found else None
            else:
                names = [n.name for n in nodes]
                twice = next((n for n in names if names.count(n) > 1), None)
                if twice is not None:
                    raise Ambiguous(f"two members are called {twice}, so a record could not say which it holds")
                readers = [self._reader(n) for n in nodes]
                node.pack, node.unpack = pack_tagged(nodes, declared), unpack_tagged(nodes, readers)
                named = {n.name: n.trim for n in nodes if n.trim is not None}
                node.trim = trims.trim_tagged(named) if named else None
        except Ambiguous as error:
            raise Uncodable(f"{declared}: {error}. Rename one, or give it a Codec") from error
        return optional(node, absent)


def bare(annotation: Any) -> Any:
    """Take off what says nothing about the stored form: Annotated, NewType, Required, Final and the like."""
    while True:
        origin = typing.get_origin(annotation)
        if annotation is None or annotation in (typing.NoReturn, typing.Never):
            return _NONE
        if origin is typing.Annotated:
            annotation = annotation.__origin__
        elif origin is not None and origin in _WRAPPERS:
            annotation = annotation.__args__[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif hasattr(origin, "__value__"):  # a generic alias made by the ``type`` statement, with its arguments
            bound = dict(zip(origin.__type_params__, annotation.__args__, strict=True))
            annotation = substitute(origin.__value__, bound)
        else:
            return annotation


def _key(annotation: Any) -> Any:
    t = bare(annotation)
    if t is Any or t is object or isinstance(t, typing.TypeVar):
        return str
    fits = t in _KEYS or typing.get_origin(t) is typing.Literal
    if isinstance(t, type):
        fits = fits or issubclass(t, PurePath | enum.Enum)
    if not fits or not reads(dict.__class_getitem__((t, int))):
        raise Uncodable(f"dict keys of type {show(t)} cannot be stored (use a list of pairs)")
    return t


def _is_json(t: Any, seen: set[Any]) -> bool:
    """Tell whether an alias (``type JSON = dict[str, JSON] | list[JSON] | str | …``) means any plain JSON value."""
    t = bare(t)
    if t in seen or t in (str, int, float, bool, _NONE):
        return True
    if hasattr(t, "__value__"):
        return _is_json(t.__value__, seen | {t})
    origin, arguments = typing.get_origin(t), typing.get_args(t)
    if origin is dict:
        return arguments[0] is str and _is_json(arguments[1], seen)
    if origin in (list, typing.Union, types.UnionType):
        return all(_is_json(a, seen) for a in arguments)
    return False
