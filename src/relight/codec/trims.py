"""What is left out before a value is hashed: fields that equal their defaults, at every depth.

A class that gains a field with a default then hashes as before, so that jobs under way do not mismatch on it. The stored
value keeps all its fields. A *trim* turns parsed JSON into the parsed JSON that is hashed; it passes over what it was not
made for, so that the members of a union can each have their turn. Which trims an annotation has is found in ``plan.py``.

Only plain defaults and empty containers count: what a factory makes may be another value in the next process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from relight.codec.foreign import ENCODER

Trim = Callable[[Any], Any]
NO_DEFAULT = msgspec.NODEFAULT
_PLAIN_FACTORIES = (list, dict, set, frozenset, tuple, str, bytes, int, float, bool)
_written = functools.partial(msgspec.json.encode, order="deterministic")


def default_of(default: Any, factory: Any, *nothing: Any) -> Any:
    """Return a field's default, or ``NO_DEFAULT``; ``nothing`` are the marks for "none" of the class's maker."""
    if any(factory is plain for plain in _PLAIN_FACTORIES):
        return factory()
    return NO_DEFAULT if factory not in (*nothing, NO_DEFAULT, None) or default in nothing else default


def trim_items(trim: Trim) -> Trim:
    """Trim each item of an array."""
    return lambda stored: [trim(item) for item in stored] if type(stored) is list else stored


def trim_each(trims: Sequence[Trim | None]) -> Trim:
    """Trim each item of an array of fixed length in its own way."""

    def trimmed(stored: Any) -> Any:
        if type(stored) is not list or len(stored) != len(trims):
            return stored
        return [item if trim is None else trim(item) for trim, item in zip(trims, stored, strict=True)]

    return trimmed


def trim_entries(trim: Trim) -> Trim:
    """Trim each value of an object."""
    return lambda stored: {key: trim(x) for key, x in stored.items()} if type(stored) is dict else stored


def trim_tagged(trims: Mapping[str, Trim]) -> Trim:
    """Trim a value that is stored under its member's name."""

    def trimmed(stored: Any) -> Any:
        is_tagged = type(stored) is dict and stored.keys() == {"$type", "value"}
        trim = trims.get(stored["$type"]) if is_tagged else None
        return stored if trim is None else {"$type": stored["$type"], "value": trim(stored["value"])}

    return trimmed


def trim_all(trims: Sequence[Trim]) -> Trim:
    """Let each trim have its turn."""
    return lambda stored: functools.reduce(lambda left, trim: trim(left), trims, stored)


class Fields:
    """Trims an object (or an array, for classes stored as one: only its last fields) of a class's fields."""

    def __init__(
        self, keys: Sequence[str], defaults: Sequence[Any], trims: Sequence[Trim | None], packs: Sequence[Any]
    ) -> None:
        self._keys = keys
        self._defaults = defaults
        self._trims = trims
        self._packs = packs

    @functools.cached_property
    def _known(self) -> dict[str, tuple[Trim | None, bytes | None]]:
        """The defaults in the form that is compared; made late, when every part of a class that holds itself is there."""
        known = {}
        for key, default, trim, pack in zip(self._keys, self._defaults, self._trims, self._packs, strict=True):
            written = None
            if default is not NO_DEFAULT:
                try:
                    stored = msgspec.json.decode(ENCODER.encode(default if pack is None else pack(default)))
                    written = _written(stored if trim is None else trim(stored))
                except Exception:  # boundary: a default that cannot be stored (a sentinel, say) is none to compare with
                    written = None
            known[key] = (trim, written)
        return known

    def in_object(self, tag: tuple[str, Any] | None) -> Trim:
        """Return a trim of objects; ``tag`` is the entry that objects of this class carry."""

        def trimmed(stored: Any) -> Any:
            if type(stored) is not dict or (tag is not None and stored.get(tag[0]) != tag[1]):
                return stored
            known, kept = self._known, {}
            for key, part in stored.items():
                trim, default = known.get(key, (None, None))
                left = part if trim is None else trim(part)
                if default is None or _written(left) != default:
                    kept[key] = left
            return kept

        return trimmed

    def in_array(self, tag: tuple[str, Any] | None) -> Trim:
        """Return a trim of arrays; ``tag`` stands first, if there is one."""
        skipped = 0 if tag is None else 1

        def trimmed(stored: Any) -> Any:
            if type(stored) is not list or (tag is not None and stored[:1] != [tag[1]]):
                return stored
            known = list(self._known.values())[: len(stored) - skipped]
            kept = stored[:skipped] + [
                part if trim is None else trim(part) for (trim, _), part in zip(known, stored[skipped:], strict=False)
            ]
            while len(kept) > skipped and _written(kept[-1]) == known[len(kept) - skipped - 1][1]:
                kept.pop()
            return kept

        return trimmed
