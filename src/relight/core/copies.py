"""A copy of an argument that a step may change as it likes: what the workflow holds stays as it is.

A replay does not call the step, so whatever the step changed in place would be changed on the first run only, and the next
step would be called with something else than its record says. Each try gets a copy of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

_AS_IT_IS = frozenset({type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID})
_NEVER_CHANGES = (Enum, PurePath, frozenset, type)


def own_copy(value: Any) -> Any:
    """Return a value that shares nothing with this one that can be changed.

    What cannot be copied (its class refuses) is returned as it is.
    """
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is list:
        return [own_copy(item) for item in value]
    if kind is dict:
        return {key: own_copy(item) for key, item in value.items()}
    if kind is tuple:
        return tuple([own_copy(item) for item in value])
    if isinstance(value, _NEVER_CHANGES):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # boundary: a user's __deepcopy__ or __reduce__, and objects that hold locks or handles
        return value


def own_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], kept: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a call's arguments as copies, but for the first ``kept`` (the ``self`` of a method)."""
    own = (*args[:kept], *map(own_copy, args[kept:]))
    return own, {name: own_copy(value) for name, value in kwargs.items()}
