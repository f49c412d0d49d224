"""Step keys: where in a job something happened, the same on every replay.

``fetch#0`` is the first ``fetch`` of the job's own line; ``b2/summarize#3`` the fourth ``summarize`` of its third branch;
``extract[d-17]`` has an explicit key; ``digest#0/fetch#0`` stands in the first call of the workflow ``digest`` there. A key
is taken when a step is *called*, not when it is awaited, so ``gather(*(fetch(u) for u in urls))`` needs no luck. Branches are
numbered per creating branch in order of creation. An inline workflow has a branch of its own, but no line: its caller waits
for it, so what stands in it and around it happens one after the other (``trunk_of``).
"""

from __future__ import annotations

import hashlib
import re

from relight.errors import InvalidArgument
from relight.ids import StepKey

_NAME = re.compile(r"[^\x00-\x1f#/\[\]?!\ud800-\udfff]{1,200}")

_PLAIN_KEY = re.compile(r"[\w.:@=+-]{1,60}")
_NO_PLAIN = re.compile(r"[^\w.:@=+-]")


def check_name(name: object, what: str) -> str:
    """Return a name that can stand in a key. Raises ``InvalidArgument``."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"{what} {name!r}: a name has 1 to 200 characters and none of # / [ ] ? ! or control characters", name=name
        )
    return name


class Branch:
    """One line of steps inside a job, and its counters. Used from one thread or task at a time."""

    __slots__ = ("_counts", "opened", "path")

    def __init__(self, path: str = "", opened: dict[str, int] | None = None) -> None:
        self.path = path
        self._counts: dict[str, int] = {}
        self.opened: dict[str, int] = {} if opened is None else opened
        """How many branches each line of the job has opened so far, by its path: one table for all of them."""

    def next_key(self, name: str) -> StepKey:
        """Take the key of the next step of this name in this branch."""
        ordinal = self._counts.get(name, 0)
        self._counts[name] = ordinal + 1
        return StepKey(f"{self.path}{name}#{ordinal}")

    def child(self) -> Branch:
        """Open the next branch that this one creates."""
        ordinal = self.opened.get(self.path, 0)
        self.opened[self.path] = ordinal + 1
        return Branch(f"{self.path}b{ordinal}/", self.opened)

    def named(self, name: str) -> Branch:
        """Open a branch that is found by its name again, not by its number. ``name`` is of ``item_name``."""
        path = f"{self.path}item:{name}/"
        self.opened.setdefault(path, 0)
        return Branch(path, self.opened)

    def inline(self, kind: str) -> Branch:
        """Open the branch of the next inline call of a workflow in this one."""
        return Branch(f"{self.next_key(kind)}/", self.opened)


def item_name(key: str) -> str:
    """Return what stands for an item's key in the path of its branch: itself, or what can be of it and a hash of it."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    hashed = hashlib.sha256(key.encode()).hexdigest()[:12]
    return f"{_NO_PLAIN.sub('_', key)[:40]}~{hashed}"


def lines_to(path: str) -> list[str]:
    """Return a line's path and those of the lines that lead to it, the outermost first; the job's own line is no branch."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) + "/" for n in range(len(parts))]


def trunk_of(path: str) -> str:
    """Return the line that the code of a branch runs in: that of an inline workflow is its caller's."""
    while path.rpartition("/")[0].rpartition("/")[2].find("#") > 0:
        path = path[: path.rfind("/", 0, -1) + 1]
    return path


def explicit_key(name: str, key: str) -> StepKey:
    """Return the key of a step that was given one: the same in every branch."""
    if not key or "\0" in key or len(key) > 400:
        raise InvalidArgument(f"key {key!r} of {name}: a key has 1 to 400 characters and no NUL", key=key)
    return StepKey(f"{name}[{key}]")


def doubt_key(key: str, number: int) -> StepKey:
    """Return the key under which a person is asked about a step in doubt for the ``number``-th time (from 0)."""
    return StepKey(f"{key}?{number}")


def part_key(key: str, number: int) -> StepKey:
    """Return the key of a further row of one wait (from 1): replay asks only for the wait's own."""
    return StepKey(f"{key}!{number}")


def is_part(key: str) -> bool:
    """Tell whether a key is that of a further row of a wait."""
    return "!" in key.partition("[")[0]


def branch_of(key: str) -> str:
    """Return the branch path of a key; explicit keys belong to no branch (None would say the same: they are never ahead)."""
    plain = key.partition("[")[0]
    return plain[: plain.rfind("/") + 1]
