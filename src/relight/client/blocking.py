"""Refusing sync facades on a running event loop, and running them for async ones. No asyncio is imported unless it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from relight.errors import BlockingCall

T = TypeVar("T")


def refuse_on_any_loop(what: str, instead: str) -> None:
    """Raise ``BlockingCall`` when this thread runs an event loop (a notebook's own loop excepted)."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None or _in_notebook():
        return
    raise BlockingCall(
        f"{what} waits for the disk (and may wait for the gate), which would block this event loop. {instead}"
    )


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


async def in_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a blocking call in a thread, awaited."""
    import asyncio

    return await asyncio.to_thread(call, *args, **kwargs)
