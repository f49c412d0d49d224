"""The form of what a batch writes. The rows themselves are in ``changes.py`` and ``queue_rows.py``."""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row for one operation of a batch."""

    op: ClassVar[str]
