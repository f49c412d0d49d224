"""What the driver and the killed child say to each other: orders as one JSON line on stdin, news as lines on stdout."""

from __future__ import annotations

from typing import Literal

import msgspec

from relight.cli.demo.listing import Group


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the child needs. ``session`` keeps the idempotency keys of one demo apart from another's."""

    store: str
    folder: str
    out_folder: str
    witness: str
    session: str
    groups: list[Group]
    max_stalls: int
    pace_seconds: float = 0.0


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing the child reports.

    ``started``: the engine begins to start. ``gate_open``: it took ``ms`` from there. ``submitted``: these ``jobs``
    were accepted. ``done``: all results are there. ``failed``: ``detail`` says why.
    """

    event: Literal["started", "gate_open", "submitted", "done", "failed"]
    ms: float = 0.0
    jobs: list[str] = []
    detail: str = ""
