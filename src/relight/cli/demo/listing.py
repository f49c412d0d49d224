"""Which files a census counts, and how they are cut into jobs.

Owns the walk over the folder: ``.py`` files, sorted, paths relative with ``/``. Links to files are read; links to
folders are named, not followed (so no walk runs in circles). Left out without a word: hidden folders, ``__pycache__``,
``site-packages``, ``dist-packages``. The same function lists the whole folder for the driver and one group for a job,
so that what is planned is what is counted. Read next: ``report.py``.
"""

from __future__ import annotations

import os
import stat
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from relight.cli.demo.facts import Problem, problem_of
from relight.errors import InvalidArgument

LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages"})

FILES_PER_JOB = 100
"""A package with more files is cut into several jobs."""


class Group(msgspec.Struct, frozen=True):
    """One job's share: a top-level package (``json/``) or the top-level files of one letter (``a*.py``).

    A large one is cut into ``parts`` by a checksum of the path: a file that appears or vanishes moves no other file.
    """

    top: str
    part: int = 1
    parts: int = 1

    @property
    def label(self) -> str:
        """Name the group: unique within a folder."""
        return self.top if self.parts == 1 else f"{self.top} {self.part} of {self.parts}"

    def has(self, path: str) -> bool:
        """Tell whether a path of this ``top`` belongs to this part."""
        return zlib.crc32(path.encode()) % self.parts == self.part - 1


class Listing(msgspec.Struct, frozen=True):
    """Paths to analyse, and those that cannot be; both sorted."""

    files: list[str]
    problems: list[Problem]


def standard_library() -> Path:
    """Name the folder that is counted when none is given."""
    return Path(sysconfig.get_path("stdlib"))


def checked_folder(folder: Path) -> Path:
    """Return the folder's absolute path. Raises ``InvalidArgument`` when it cannot be listed or named in a store."""
    whole = os.path.abspath(folder)
    shown = whole.encode("utf-8", "backslashreplace").decode()
    if shown != whole:
        raise InvalidArgument(f"the name of {shown} is not valid UTF-8; rename the folder", folder=shown)
    try:
        os.scandir(whole).close()
    except OSError as error:
        raise InvalidArgument(
            f"{whole} cannot be counted: {os.strerror(error.errno or 0)}; name a folder of Python source",
            folder=whole,
        ) from None
    return Path(whole)


def top_of(path: str) -> str:
    """Name the top-level package (``json/``) or letter (``a*.py``) that a path belongs to."""
    first, slash, _ = path.partition("/")
    return f"{first}/" if slash else f"{first[:1].lower()}*.py"


def list_tree(folder: str, group: Group | None = None) -> Listing:
    """List a folder, or one group of it.

    Raises: ``OSError`` when the folder itself cannot be listed; anything below it becomes a problem.
    """
    files: list[str] = []
    problems: list[Problem] = []
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inside)) as entries:
                found = list(entries)
        except OSError as error:
            if not inside:
                raise
            problems.append(problem_of(inside, error))
            continue
        for item in _judged(inside, found):
            path = item.path if isinstance(item, Problem) else item
            if group and top_of(path) != group.top:
                continue
            if isinstance(item, Problem):
                problems.append(item)
            else:
                (waiting if item.endswith("/") else files).append(item)
    if group:
        files = [path for path in files if group.has(path)]
        problems = [problem for problem in problems if group.has(problem.path)]
    return Listing(sorted(files), sorted(problems))


def plan_groups(listing: Listing) -> list[Group]:
    """Cut a listing into jobs, the largest first (so that no large one is left to the end)."""
    sizes = Counter(top_of(path) for path in listing.files)
    sizes.update(top_of(problem.path) for problem in listing.problems)
    groups = []
    for top, size in sorted(sizes.items(), key=lambda it: (-it[1], it[0])):
        parts = -(-size // FILES_PER_JOB)
        groups += [Group(top, part, parts) for part in range(1, parts + 1)]
    return groups


def _judged(inside: str, entries: list[os.DirEntry[str]]) -> Iterator[str | Problem]:
    """Yield files, folders (ending in a slash) and problems; nothing for what is no concern of a census."""
    for entry in entries:
        path = inside + entry.name
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            yield from _ill_named(inside, entry)
            continue
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
            yield from _linked(path, entry) if stat.S_ISLNK(mode) else _plain(path, mode)
        except FileNotFoundError:
            continue  # Gone before it was listed: it was never here.
        except OSError as error:
            yield problem_of(path, error)


def _ill_named(inside: str, entry: os.DirEntry[str]) -> Iterator[Problem]:
    shown = inside + os.fsencode(entry.name).decode("utf-8", "backslashreplace")
    if entry.is_dir(follow_symlinks=False):
        yield Problem(f"{shown}/", "bad_name", "the folder's name is not valid UTF-8")
    elif entry.name.endswith(".py"):
        yield Problem(shown, "bad_name", "the file's name is not valid UTF-8")


def _plain(path: str, mode: int) -> Iterator[str | Problem]:
    name = path.rpartition("/")[2]
    if stat.S_ISDIR(mode):
        if name not in LEFT_OUT and not name.startswith("."):
            yield f"{path}/"
    elif name.endswith(".py"):
        yield path if stat.S_ISREG(mode) else Problem(path, "not_a_file", "neither a regular file nor a folder")


def _linked(path: str, entry: os.DirEntry[str]) -> Iterator[str | Problem]:
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        if entry.name.endswith(".py"):
            yield Problem(path, "dangling_link", "a link to nothing")
        return
    for target in _plain(path, mode):
        if isinstance(target, str) and target.endswith("/"):
            yield _linked_folder(target, entry)
        else:
            yield target


def _linked_folder(path: str, entry: os.DirEntry[str]) -> Problem:
    home = os.path.realpath(os.path.dirname(entry.path))
    if os.path.commonpath([home, target := os.path.realpath(entry.path)]) == target:
        return Problem(path, "link_loop", "a link to a folder that it stands in")
    return Problem(path, "linked_folder", "a link to a folder is not followed")
