"""What is done to values around msgspec, as small closures made once per annotation.

Owns ``Node`` and how the parts of containers and classes are packed (before msgspec writes) and unpacked (after it
has read). A closure adds its own segment to the path of a fault that comes out of it. Which closure an annotation
needs is decided in ``plan.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relight.codec.faults import Fault, find_fault, key_segment, mismatch, not_plain, type_name, within
from relight.codec.foreign import ENCODER, from_builtin, is_numpy_scalar, numpy_item
from relight.codec.shapes import Shape

Change = Callable[[Any], Any]

_PLAIN = frozenset((str, int, float, bool, type(None)))
_TEXT = frozenset((str,))
UNSET = msgspec.UNSET


@dataclass(slots=True, eq=False)
class Node:
    """What is to be done for one annotation.

    ``type`` is what msgspec reads, ``accepts`` the classes of its values, ``name`` its tag as a member of a union.
    ``pack`` turns a value into one that msgspec writes rightly; ``unpack`` turns parsed JSON into a value. None means
    that msgspec needs no help. Both raise ``Fault``. ``trim`` leaves out what is not hashed (``trims.py``).
    """

    type: Any
    name: str
    accepts: tuple[type, ...]
    pack: Change | None = None
    unpack: Change | None = None
    trim: Change | None = None

    def checked(self, value: Any) -> Any:
        """Return a value that is of an accepted class. Raises ``Fault`` for others."""
        if isinstance(value, self.accepts):
            return value
        raise mismatch(value, self.name)


def reads(t: Any) -> bool:
    """Tell whether msgspec reads an annotation without help (save the hooks of ``foreign.py``)."""
    try:
        msgspec.json.Decoder(t, dec_hook=from_builtin)
    except Exception:  # boundary: resolving annotations runs the user's modules; whatever went wrong, we read it then
        return False
    return True


def from_parsed(t: Any) -> Change:
    """Return a function from parsed JSON to a value of a type that msgspec reads. The decoder is made at first use.

    The JSON is written once more for that: ``msgspec.convert`` would spare it, but leaves keys such as paths as they
    are.
    """
    decoder: msgspec.json.Decoder[Any] | None = None

    def read(stored: Any) -> Any:
        nonlocal decoder
        if decoder is None:
            decoder = msgspec.json.Decoder(t, dec_hook=from_builtin)
        return decoder.decode(msgspec.json.encode(stored))

    return read


def same(value: Any) -> Any:
    """Change nothing."""
    return value


def check_plain(value: Any) -> Any:
    """Return a value that plain JSON holds without loss, numpy scalars converted. Raises ``Fault`` for others.

    Types are compared exactly: an ``IntEnum`` or a ``defaultdict`` would come back equal, and yet as something else.
    Cost: 30 ns for each scalar inside a list or dict.
    """
    t = type(value)
    if t in _PLAIN:
        return value
    if t is list:
        if not _PLAIN.issuperset(map(type, value)):
            _check_parts(enumerate(value), lambda i: f"[{i}]")
        return value
    if t is dict and _TEXT.issuperset(map(type, value)):
        if not _PLAIN.issuperset(map(type, value.values())):
            _check_parts(value.items(), key_segment)
        return value
    if is_numpy_scalar(value):
        item = numpy_item(value)
        if type(item) in _PLAIN:
            return item
    raise not_plain(value)


def _check_parts(parts: Iterable[tuple[Any, Any]], segment: Callable[[Any], str]) -> None:
    for key, part in parts:
        try:
            check_plain(part)
        except Exception as error:  # boundary: see ``within``
            raise within(error, segment(key)) from None


def each(items: Iterable[Any], change: Change) -> list[Any]:
    """Change each item of a sequence."""
    done: list[Any] = []
    for item in items:
        try:
            done.append(change(item))
        except Exception as error:  # boundary: see ``within``
            raise within(error, f"[{len(done)}]") from None
    return done


def pack_items(node: Node, pack: Change) -> Change:
    """Pack a list or tuple of one kind of item."""
    return lambda value: each(node.checked(value), pack)


def pack_set(node: Node, pack: Change | None) -> Change:
    """Pack a set as a list that is sorted by the encoded members, whatever order the hash seed gives it."""

    def packed(value: Any) -> list[msgspec.Raw]:
        members = node.checked(value)
        if pack is not None:
            members = each(members, pack)
        return [msgspec.Raw(m) for m in sorted(map(_encoded, members))]

    return packed


def _encoded(member: Any) -> bytes:
    try:
        return ENCODER.encode(member)
    except Exception as error:  # boundary: the serializers of other libraries run in here
        raise find_fault(member) or error from None


def unpack_items(made: Callable[[list[Any]], Any], read: Change) -> Change:
    """Unpack an array of one kind of item, and make a ``made`` of it."""
    return lambda stored: made(each(_array(stored), read))


def each_its_own(node: Node, changes: Sequence[Change], made: Callable[[list[Any]], Any]) -> Change:
    """Pack or unpack a tuple of fixed length, each item in its own way."""

    def changed(value: Any) -> Any:
        items = node.checked(value)
        if len(items) != len(changes):
            raise Fault(f"of length {len(items)}, but declared with {len(changes)} items")
        return made(each(zip(changes, items, strict=True), lambda pair: pair[0](pair[1])))

    return changed


def check_text_keys(node: Node) -> Change:
    """Refuse a dict with a key that is not text where text is declared: as what it is it would not come back."""

    def checked(value: Any) -> Any:
        if not _TEXT.issuperset(map(type, node.checked(value))):
            for key in value:
                if not isinstance(key, str):
                    raise Fault(f"a dict with the key {key!r:.40}, but declared with keys of text")
        return value

    return checked


def pack_entries(check: Change, pack: Change) -> Change:
    """Pack a dict's values; keys are left to msgspec."""

    def packed(value: Any) -> dict[Any, Any]:
        done = {}
        for key, x in check(value).items():
            try:
                done[key] = pack(x)
            except Exception as error:  # boundary: see ``within``
                raise within(error, key_segment(key)) from None
        return done

    return packed


def unpack_entries(key_type: Any, read: Change) -> Change:
    """Unpack an object into a dict; msgspec converts the keys."""
    read_keys = same if key_type is str else from_parsed(dict.__class_getitem__((key_type, int)))

    def unpacked(stored: Any) -> dict[Any, Any]:
        done = {}
        for key, x in _object(stored).items():
            try:
                done[key] = read(x)
            except Exception as error:  # boundary: see ``within``
                raise within(error, key_segment(key)) from None
        return dict(zip(read_keys(dict.fromkeys(done, 0)), done.values(), strict=True))

    return unpacked


def _array(stored: Any) -> list[Any]:
    if type(stored) is list:
        return stored
    raise Fault(f"Expected `array`, got `{type(stored).__name__}`")


def _object(stored: Any) -> dict[str, Any]:
    if type(stored) is dict:
        return stored
    raise Fault(f"Expected `object`, got `{type(stored).__name__}`")


def same_class(cls: type) -> Change:
    """Refuse instances of subclasses: what these have of their own would not come back."""

    def checked(value: Any) -> Any:
        if type(value) is cls:
            return value
        if isinstance(value, cls):
            sub = type_name(type(value))
            raise Fault(f"{sub}, a subclass of the declared {cls.__name__}, as which it would come back (declare both)")
        raise mismatch(value, type_name(cls))

    return checked


def pack_fields(shape: Shape, packs: Sequence[Change]) -> Change:
    """Pack an instance into the form that msgspec would have given it, each field in its own way."""
    fields = list(zip(shape.fields, packs, strict=True))
    names = frozenset(f.name for f in shape.fields)
    check = same_class(shape.cls)
    open_ended = shape.cls is dict
    untouched = all(pack is same for pack in packs)

    def packed(value: Any) -> Any:
        if not open_ended:
            check(value)
        elif not isinstance(value, dict):
            raise mismatch(value, "a typed dict")
        elif not names.issuperset(value):
            extra = next(k for k in value if k not in names)
            raise Fault(f"a dict with the key {extra!r:.40}, which its type does not declare (it would be lost)")
        if untouched:
            return value
        done = {}
        for field, pack in fields:
            part = shape.read(value, field.name)
            if part is UNSET and not shape.as_list:
                continue
            try:
                done[field.key] = pack(part)
            except Exception as error:  # boundary: see ``within``
                raise within(error, f".{field.name}") from None
        return shape.write(done)

    return packed


def unpack_fields(shape: Shape, readers: Sequence[Change]) -> Change:
    """Build an instance from its stored form; unknown keys are passed over, missing ones have their defaults."""
    fields = list(zip(shape.fields, readers, strict=True))

    def unpacked(stored: Any) -> Any:
        by_key = shape.by_key(stored)
        values = {}
        for field, read in fields:
            if field.key in by_key:
                try:
                    values[field.name] = read(by_key[field.key])
                except Exception as error:  # boundary: see ``within``
                    raise within(error, f".{field.name}") from None
        return shape.build(values)

    return unpacked
