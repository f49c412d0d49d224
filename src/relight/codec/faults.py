"""What is wrong with a value, and where: the sentences behind ``NotSerializable`` and ``PayloadError``.

Owns the path (``.rows[17].amount``) and the wording. Nothing here runs while values are storable: msgspec says only
*that* a value cannot be written, so the walk below goes over the value afterwards and finds the place. It is a loop
and not a recursion, because two of the things it looks for are cycles and bottomless nesting. Read next: ``plan.py``.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from relight.codec.foreign import ENCODER, is_numpy_scalar, is_pydantic_model

RESOURCE_HINT = "Things that cannot be stored belong in a Resource (docs/resources.md)"
_HINTS = {
    **{
        ("builtins", name): "write list(x)"
        for name in ("range", "dict_keys", "dict_values", "dict_items", "map", "zip")
    },
    ("numpy", "ndarray"): "write x.tolist()",
    ("relight", "Secret"): "annotate it: Secret",
    ("pandas", "Timestamp"): "write x.to_pydatetime()",
    ("pandas", "NaTType"): "write None",
    ("pandas", "Series"): "write x.tolist()",
    ("pandas", "DataFrame"): "give the engine a Codec for it, or write a file and return its Path",
}
_MSGSPEC_PLACE = re.compile(r" - at (?:`key` in )?`\$(.*)`$", re.DOTALL)
_SHOWN_SEGMENTS = 12

Test = Callable[[Any], str | None]


class Fault(Exception):
    """Why one value cannot be stored or read, while its place is still being put together from the inside out.

    ``origin`` is the foreign error behind it, if there is one.
    """

    def __init__(self, reason: str, path: Iterable[str] = (), *, origin: Exception | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.origin = origin
        self._inner_first = list(path)[::-1]

    def inside(self, segment: str) -> Fault:
        """Note that the place lies within ``segment`` (``.rows`` or ``[17]``), and return the fault."""
        self._inner_first.append(segment)
        return self

    @property
    def path(self) -> str:
        """The place, from the value's root; empty for the root itself. A very long one is cut in the middle."""
        segments = self._inner_first[::-1]
        if len(segments) > 2 * _SHOWN_SEGMENTS:
            segments = [*segments[:_SHOWN_SEGMENTS], "…", *segments[-_SHOWN_SEGMENTS:]]
        return "".join(segments)


def within(error: Exception, segment: str) -> Exception:
    """Turn an error met inside ``segment`` into a fault that knows it; a ``RecursionError`` stays what it is.

    Any error may come: users' codecs, validators, ``__post_init__`` and properties run while values are taken apart.
    """
    return error if isinstance(error, RecursionError) else as_fault(error).inside(segment)


def as_fault(error: Exception) -> Fault:
    """Turn an error of msgspec, pydantic or a user's codec into a fault, taking over the place that msgspec found."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, RecursionError):
        return Fault("nested too deeply (about 1,000 levels are the end)")
    text = str(error)
    if not isinstance(error, msgspec.MsgspecError | TypeError | ValueError):
        text = f"{type_name(type(error))}: {text}"
    place = _MSGSPEC_PLACE.search(text)
    if place is None:
        return Fault(text, origin=error)
    return Fault(text[: place.start()], filter(None, [place.group(1)]), origin=error)


def sentence(what: str, fault: Fault) -> str:
    """Say what is wrong with ``what`` (``result of totals#3``) and where in it."""
    return f"{what} at {fault.path}: {fault.reason}" if fault.path else f"{what} is {fault.reason}"


def type_name(t: type) -> str:
    """Name a type for a person: ``numpy.float64``, ``flows.ToolCall``, ``list``."""
    name = t.__qualname__.rpartition("<locals>.")[2]
    return name if t.__module__ in ("builtins", "__main__") else f"{t.__module__}.{name}"


def show(annotation: Any) -> str:
    """Write an annotation as its author did, as nearly as Python still knows it."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return type_name(annotation)
    return re.sub(r"\b(typing|__main__)\.|[\w.]+\.<locals>\.", "", str(annotation))


def describe(value: Any) -> str:
    """Say of which kind a value is that cannot be stored, with the way out."""
    hint = _hint(value)
    return f"{type_name(type(value))} ({hint})" if hint else f"{type_name(type(value))}. {RESOURCE_HINT}"


def mismatch(value: Any, declared: str) -> Fault:
    """Make the fault of a value that is not of its declared type."""
    hint = _hint(value)
    return Fault(f"{type_name(type(value))}{f' ({hint})' if hint else ''}, but declared {declared}")


def not_plain(value: Any) -> Fault:
    """Make the fault of a value that without an annotation would not come back as it was."""
    if type(value) is dict:
        key = next(k for k in value if type(k) is not str)
        return Fault(f"a dict with the key {key!r:.40}, which would come back as text (annotate it: dict[…, …])")
    try:
        back = type_name(type(msgspec.json.decode(ENCODER.encode(value))))
    except Exception:  # boundary: as in ``_refused``
        return Fault(describe(value))
    name = type_name(type(value))
    same = "a bare " if name == back or isinstance(value, str | int | float | list | dict) else ""
    return Fault(f"{name}, which un-annotated would come back as {same}{back} (annotate it)")


def _hint(value: Any) -> str | None:
    t = type(value)
    if is_numpy_scalar(value):
        return "write float(x), str(x) or whatever it stands for"
    return _HINTS.get((t.__module__.partition(".")[0], t.__name__))


def find_fault(value: Any) -> Fault | None:
    """Walk a value to the first thing in it that msgspec cannot write. Cost: some microseconds an element."""
    return _first(value, _leaf_fault, _keys_fault, opaque=_written_by_pydantic)


def find_cycle(value: Any) -> Fault | None:
    """Walk a value to the first container that contains itself."""
    return _first(value, lambda _: None, lambda _: None)


def find_nonfinite(value: Any) -> Fault | None:
    """Walk a value to its first NaN or infinity: msgspec writes null for both without a word."""
    try:
        if _surely_finite(value):
            return None
    except RecursionError:
        pass  # msgspec goes deeper than Python does; so does the walk
    return _first(value, nonfinite, lambda _: None)


def _surely_finite(value: Any) -> bool:
    """Tell quickly that a value which msgspec has written holds no NaN; False when that takes a closer look."""
    t = type(value)
    if t is float:
        return math.isfinite(value)
    if t in (str, int, bool, type(None)):
        return True
    if t is dict:
        return all(map(_surely_finite, value.values()))
    if t is list or t is tuple:
        return all(map(_surely_finite, value))
    names: Iterable[str] = getattr(t, "__dataclass_fields__", ()) or getattr(t, "__struct_fields__", ())
    return bool(names) and all(_surely_finite(getattr(value, name, None)) for name in names)


def nonfinite(value: Any) -> str | None:
    """Say that a number is NaN or infinite, which JSON cannot hold; None when it is not."""
    if isinstance(value, float) or (is_numpy_scalar(value) and value.dtype.kind == "f"):
        number = float(value)
        if not math.isfinite(number):
            return f"{'NaN' if math.isnan(number) else 'infinite'}, which JSON has no form for (write None instead)"
    return None


def _leaf_fault(leaf: Any) -> str | None:
    return nonfinite(leaf) or _refused(leaf, leaf)


def _keys_fault(mapping: Mapping[Any, Any]) -> str | None:
    for key in mapping:
        reason = _refused({key: 0}, key)
        if reason is not None:
            return f"a dict with a key that is {reason}"
    return None


def _refused(value: Any, culprit: Any) -> str | None:
    try:
        ENCODER.encode(value)
    except UnicodeEncodeError:
        return "text with a lone surrogate, which is not valid Unicode (file names can hold such)"
    except (TypeError, NotImplementedError):
        return describe(culprit)
    except Exception as error:  # boundary: the serializers of other libraries run in here
        return as_fault(error).reason
    return None


def _written_by_pydantic(value: Any) -> bool:
    return is_pydantic_model(type(value)) and _refused(value, value) is None


def _first(
    value: Any, leaf_test: Test, mapping_test: Test, *, opaque: Callable[[Any], bool] = lambda _: False
) -> Fault | None:
    """Search depth first; ``path`` leads to the innermost open container, ``ids`` holds all open ones."""
    path: list[str] = []
    open_: list[tuple[int, Iterator[tuple[str, Any]]]] = []
    ids: set[int] = set()

    def look(x: Any) -> str | None:
        parts = None if opaque(x) else _parts(x)
        if parts is None:
            return leaf_test(x)
        if id(x) in ids:
            return "the start of a cycle: it contains itself"
        ids.add(id(x))
        open_.append((id(x), parts))
        return mapping_test(x) if isinstance(x, Mapping) else None

    reason = look(value)
    while open_ and reason is None:
        segment, part = next(open_[-1][1], (None, None))
        if segment is None:
            ids.discard(open_.pop()[0])
            del path[-1:]
            continue
        depth = len(open_)
        path.append(segment)
        reason = look(part)
        if reason is None and len(open_) == depth:
            path.pop()
    return None if reason is None else Fault(reason, path)


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    """List a value's parts, each with its path segment; None for a leaf."""
    t = type(value)
    if type(value) is dict and value.keys() == {"$type", "value"}:
        return iter([("", value["value"])])  # the tag of a union is no part of the path that a person knows
    if isinstance(value, Mapping):
        return ((key_segment(key), x) for key, x in value.items())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return ((f"[{i}]", x) for i, x in enumerate(value))
    if dataclasses.is_dataclass(t):
        names: Iterable[str] = [f.name for f in dataclasses.fields(t)]
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif is_pydantic_model(t):
        names = list(value.__dict__)
    else:
        return None
    return ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def key_segment(key: Any) -> str:
    """Write a mapping's key as a path segment."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r:.40}]"
