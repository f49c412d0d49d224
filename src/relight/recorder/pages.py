"""Whole tables in key order, a page at a time, and walked side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

PAGE = 1000
"""Rows read at once."""

BEHIND_ALL = "\U0010ffff"
"""Sorts behind every id."""


class OfJob(Protocol):
    """A row that belongs to a job."""

    @property
    def job_id(self) -> str:
        """The job's id."""
        ...


K = TypeVar("K")
T = TypeVar("T")
J = TypeVar("J", bound=OfJob)


def paged(fetch: Callable[[K], list[T]], key: Callable[[T], K], start: K) -> Iterator[T]:
    """Give all rows after ``start`` in the order of ``key``; ``fetch`` returns the next page after a key."""
    after = start
    while page := fetch(after):
        yield from page
        after = key(page[-1])


class SideBySide(Generic[J]):
    """Rows ordered by job, handed out job by job."""

    def __init__(self, rows: Iterator[J]) -> None:
        self._rows = rows
        self._next: J | None = next(rows, None)

    def before(self, job_id: str) -> Iterator[J]:
        """Give the rows of earlier jobs that nobody has taken."""
        while self._next is not None and self._next.job_id < job_id:
            yield self._next
            self._next = next(self._rows, None)

    def of(self, job_id: str) -> Iterator[J]:
        """Give the rows of a job, which is the next one; take all before the next job's."""
        while self._next is not None and self._next.job_id == job_id:
            yield self._next
            self._next = next(self._rows, None)
