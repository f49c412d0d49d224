"""Types by name: so that whoever sends a value from outside can check it against what a job waits for.

A wait's record names its type; a client or engine that has that type imported finds it again, any other learns nothing and
the value is checked at the wait. Nothing is ever imported for it, and only classes and what ``typing`` makes of them are
found. Names of ``__main__`` and of functions mean another thing in each process: they are found where they were named.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec


class _Unnamed(Exception):
    """A type that has no name."""


UNKNOWN: Final = object()
"""Stands for a type that is not to be found here."""


class KnownTypes:
    """The types that waits of this process named, by name. ``name`` and ``find`` are each other's inverse."""

    def __init__(self) -> None:
        self._here: dict[str, type] = {}

    def name(self, annotation: Any) -> str | None:
        """Return a type's name as JSON text, or None for one that has none."""
        try:
            return msgspec.json.encode(self._name(annotation)).decode()
        except (_Unnamed, msgspec.MsgspecError, TypeError):
            return None

    def _name(self, annotation: Any) -> Any:
        if annotation is None or annotation is type(None):
            return None
        if annotation is Any:
            return True
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is None and isinstance(annotation, type):
            name = f"{annotation.__module__}:{annotation.__qualname__}"
            self._here[name] = annotation
            return name
        if origin in (Union, types.UnionType):
            return {"any_of": [self._name(each) for each in args]}
        if origin is Literal:
            return {"literal": list(args)}
        if isinstance(origin, type):
            return {"of": self._name(origin), "args": ["..." if each is ... else self._name(each) for each in args]}
        raise _Unnamed

    def find(self, name: str | None) -> Any:
        """Return the type of a name, or ``UNKNOWN``."""
        try:
            return UNKNOWN if name is None else self._find(msgspec.json.decode(name))
        except (_Unnamed, msgspec.MsgspecError, TypeError, AttributeError, KeyError):
            return UNKNOWN

    def _find(self, name: Any) -> Any:
        match name:
            case None:
                return type(None)
            case True:
                return Any
            case str():
                return self._here.get(name) or _imported(name)
            case {"any_of": [*members]}:
                return Union[tuple(self._find(each) for each in members)]  # noqa: UP007 - made at run time
            case {"literal": [*values]}:
                return Literal[tuple(values)]
            case {"of": origin, "args": [*args]}:
                return self._find(origin)[tuple(... if each == "..." else self._find(each) for each in args)]
        raise _Unnamed


def _imported(name: str) -> type:
    module, _, path = name.partition(":")
    if module == "__main__" or module not in sys.modules:
        raise _Unnamed
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = vars(found)[part]
    if not isinstance(found, type):
        raise _Unnamed
    return found
