"""How values that msgspec does not know are written and read: paths, numpy scalars, pydantic models, subclasses.

Owns the two hooks that msgspec calls and the one encoder that has them. numpy and pydantic are never imported here:
a value or a class of theirs can only come from a program that has imported them, so ``sys.modules`` is asked.
Must not know about annotations: whatever depends on a *type* is in ``plan.py``.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import Any

import msgspec

_NUMPY_KINDS = frozenset("biufUS")
"""bool, int, unsigned, float, text, bytes. ``item()`` of a datetime64 in ns is a bare int: not lossless, refused."""

_PLAIN_BASES: tuple[Any, ...] = (str, int, float, bytes)


def is_numpy_scalar(value: object) -> bool:
    """Tell whether a value is a numpy scalar, without importing numpy."""
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    return generic is not None and isinstance(value, generic)


def is_pydantic_model(t: object) -> bool:
    """Tell whether a class is a pydantic (2) model, without importing pydantic."""
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base is not None and isinstance(t, type) and issubclass(t, base)


def numpy_item(value: Any) -> Any:
    """Return the Python value that a numpy scalar stands for; the scalar itself when there is no exact one."""
    if value.dtype.kind not in _NUMPY_KINDS:
        return value
    return value.item()


def to_builtin(value: Any) -> Any:
    """Turn a value that msgspec cannot write into one that it can. Raises ``NotImplementedError`` for all others."""
    if isinstance(value, PurePath):
        return str(value)
    if is_numpy_scalar(value):
        item = numpy_item(value)
        if type(item) in (bool, *_PLAIN_BASES):
            return item
        raise NotImplementedError
    for base in _PLAIN_BASES:
        if isinstance(value, base):
            return base.__getnewargs__(value)[0]  # the bare base value, whatever the subclass overrides
    if is_pydantic_model(type(value)):
        return msgspec.Raw(_pydantic_json(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, deque):
        return list(value)
    raise NotImplementedError


def from_builtin(t: Any, stored: Any) -> Any:
    """Build a value of a type that msgspec cannot read from what ``to_builtin`` wrote."""
    if issubclass(t, PurePath):
        if type(stored) is not str:
            raise TypeError(f"Expected a path, got `{type(stored).__name__}`")
        return t(stored)
    if is_pydantic_model(t):
        return t.model_validate_json(msgspec.json.encode(stored), by_name=True, by_alias=True)
    raise NotImplementedError


ENCODER = msgspec.json.Encoder(enc_hook=to_builtin)


def _pydantic_json(model: Any) -> bytes:
    """Write a model under its field names, not its aliases: those serve somebody else's wire format.

    pydantic writes sets in the order of iteration, which differs from process to process; they are sorted here, or
    the hash of an argument would change over a restart.
    """
    cls: Any = type(model)
    if not _may_hold_sets(cls):
        text: str = model.model_dump_json(by_alias=False, round_trip=True)
        return text.encode()
    written = model.model_dump(mode="json", by_alias=False, round_trip=True)
    return msgspec.json.encode(_sort_sets(written, model.model_dump(by_alias=False, round_trip=True)))


@cache
def _may_hold_sets(model: Any) -> bool:
    return re.search(r"'type': '(set|frozenset|any)'", str(model.__pydantic_core_schema__)) is not None


def _sort_sets(written: Any, shape: Any) -> Any:
    """Sort each list of ``written`` where ``shape``, the same model as Python values, has a set."""
    if isinstance(shape, set | frozenset):
        return sorted(written, key=msgspec.json.encode)
    if isinstance(written, dict) and isinstance(shape, dict):
        return {k: _sort_sets(x, y) for (k, x), y in zip(written.items(), shape.values(), strict=True)}
    if isinstance(written, list) and isinstance(shape, list | tuple):
        return [_sort_sets(x, y) for x, y in zip(written, shape, strict=True)]
    return written
