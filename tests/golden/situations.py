"""Situations in which people are told something, by title; each gives the whole text. See ``tests/test_messages.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.flow.kit import Rig

from relight import (
    workflow,
)
from relight.errors import RelightError

GOLDEN = Path(__file__).with_name("messages.txt")
MARKS = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"…[0-9a-f]{6}\b", "…ID"),
    (r"\bengine-[0-9a-f]{6}\b", "engine-ID"),
    (r"\b\d\d:\d\d:\d\d\b( UTC)?", "TIME"),
    (r"\b\d[\d.,]* (ms|s|min|h)\b", "DURATION"),
    (r"\.py:\d+", ".py:LINE"),
    (r"0x[0-9a-f]+", "ADDRESS"),
    (r"pid \d+", "pid N"),
    (r"(?<![\w.])/[^\s\"']*/(?=[\w.-]+\.(db|py|txt))", ""),
)


def with_marks(text: str) -> str:
    """Put marks where every run has something else."""
    for pattern, mark in MARKS:
        text = re.sub(pattern, mark, text)
    return text


Situation = Callable[[Rig], str]
SITUATIONS: dict[str, Situation] = {}


def situation(title: str) -> Callable[[Situation], Situation]:
    def add(function: Situation) -> Situation:
        SITUATIONS[title] = function
        return function

    return add


def said(act: Callable[[], object], error: type[BaseException] = RelightError) -> str:
    """Return what an act is refused with, its class before it."""
    with pytest.raises(error) as caught:
        act()
    return f"{type(caught.value).__name__}: {caught.value}"


def said_inside(rig: Rig, body: Callable[[], Any], *, is_async: bool = False) -> str:
    """Return what code inside a job is refused with."""
    found: list[str] = []

    @workflow(name="checkout")
    def sync_job() -> None:
        try:
            body()
        except RelightError as error:
            found.append(f"{type(error).__name__}: {error}")

    @workflow(name="checkout")
    async def async_job() -> None:
        try:
            await body()
        except RelightError as error:
            found.append(f"{type(error).__name__}: {error}")

    job = async_job if is_async else sync_job
    rig.start(job).submit(job).result(timeout_seconds=20)
    return found[0]


def failed(rig: Rig, job: Any, *args: Any, **options: Any) -> str:
    """Return what a caller is told of a job that failed."""
    return said(lambda: rig.start(job, **options).submit(job, *args).result(timeout_seconds=20))


def golden() -> dict[str, str]:
    """Read the file: a title in brackets, then what is said."""
    parts = re.split(r"^\[(.+)\]\n", GOLDEN.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {title: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}
