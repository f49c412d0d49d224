"""What one Python file says about itself: lines, functions, classes, docstrings, longest function, imports.

Pure, apart from reading the one file. Any file gives an answer: either facts, or a ``Problem`` that names what is
wrong with it, and nothing raises. The answer depends on the file's bytes only (never on how deep the caller's stack is,
on warning filters or on time), because a census that was interrupted must equal one that was not, byte for byte.
Read next: ``listing.py``.
"""

from __future__ import annotations

import ast
import errno
import io
import os
import stat
import threading
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NoReturn

import msgspec

MAX_BYTES = 2 * 1024 * 1024
"""Larger files are named, not parsed: the parser holds the GIL all the time (2 MiB are about a second)."""

Code = Literal[
    "bad_encoding",
    "bad_name",
    "dangling_link",
    "link_loop",
    "linked_folder",
    "nested_too_deeply",
    "not_a_file",
    "null_bytes",
    "syntax_error",
    "too_large",
    "unreadable",
    "vanished",
]
"""What can be wrong with a file or folder."""

_CODE_BY_ERRNO: dict[int, Code] = {
    errno.ENOENT: "vanished",
    errno.ENOTDIR: "vanished",
    errno.ELOOP: "link_loop",
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",
}

_PARSING = threading.Lock()
"""Changing warning filters is process-wide. The parser holds the GIL anyway, so that waiting here costs nothing."""


class Problem(msgspec.Struct, frozen=True, order=True):
    """Why a path could not be counted. Paths of folders end in a slash."""

    path: str
    code: Code
    detail: str


class Longest(msgspec.Struct, frozen=True):
    """The longest function of a file, from its ``def`` line to its last; of equals the first."""

    name: str
    line: int
    lines: int


class FileFacts(msgspec.Struct, frozen=True):
    """What was counted in one file. ``documentable`` are the module, its classes and its functions.

    ``imports`` holds top-level module names, sorted; a relative import counts as ``.``.
    """

    path: str
    lines: int
    functions: int
    classes: int
    documentable: int
    documented: int
    longest: Longest | None
    imports: list[str]


class Outcome(msgspec.Struct, frozen=True):
    """Either facts or a problem."""

    facts: FileFacts | None = None
    problem: Problem | None = None


class _Bad(Exception):
    """Carries a problem's code and detail up to where its path is known."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(code, detail)
        self.code: Code = code
        self.detail = detail


def analyse_file(folder: str, path: str) -> Outcome:
    """Read and analyse one file of a folder. Whatever is wrong with it becomes a problem."""
    try:
        data = read_source(os.path.join(folder, path))
    except _Bad as bad:
        return Outcome(problem=Problem(path, bad.code, bad.detail))
    except OSError as error:
        return Outcome(problem=problem_of(path, error))
    return analyse_source(path, data)


def analyse_source(path: str, data: bytes) -> Outcome:
    """Analyse the bytes of one file; ``path`` is only its name in the answer."""
    try:
        text = decode(data)
        facts = _count(path, text, _parse(text))
    except _Bad as bad:
        return Outcome(problem=Problem(path, bad.code, bad.detail))
    return Outcome(facts=facts)


def problem_of(path: str, error: OSError) -> Problem:
    """Name what the operating system said, without the absolute path that its message holds."""
    number = error.errno or 0
    return Problem(path, _CODE_BY_ERRNO.get(number, "unreadable"), os.strerror(number))


def read_source(full_path: str) -> bytes:
    """Read a regular file of at most ``MAX_BYTES``.

    Opened without blocking and judged after opening: a pipe that is called ``x.py`` would hang the job for ever.
    """
    number = os.open(full_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise _Bad("not_a_file", "neither a regular file nor a folder")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _Bad("too_large", f"larger than {MAX_BYTES:,} bytes")
    return data


def decode(data: bytes) -> str:
    """Turn source bytes into text as ``tokenize.open`` does: BOM, PEP 263 cookie, all kinds of line ends."""
    if b"\0" in data:
        raise _Bad("null_bytes", f"a null byte at offset {data.index(0)}")
    encoding = "utf-8"
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        with _warnings_ignored(), io.TextIOWrapper(io.BytesIO(data), encoding) as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise _Bad("bad_encoding", f"byte {error.start} is not {error.encoding}: {error.reason}") from None
    except SyntaxError as error:
        raise _Bad("bad_encoding", _printable(error.msg)) from None
    except (LookupError, ValueError) as error:
        raise _Bad("bad_encoding", _printable(f"not readable as {encoding}: {error}")) from None


@contextmanager
def _warnings_ignored() -> Iterator[None]:
    """Ignore warnings inside: under ``-W error`` a ``SyntaxWarning`` would be an error, and the census another one."""
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parse(text: str) -> ast.Module:
    try:
        return _parse_here(text)
    except (RecursionError, SystemError):
        # How deep the parser may go counts from the depth of this stack. A fresh thread always has the same. The other one:
        # CPython 3.11 may lose count of that depth beside other threads (python/cpython#106905); a second time it is right.
        return _parse_in_fresh_thread(text)


def _parse_here(text: str) -> ast.Module:
    try:
        with _warnings_ignored():
            return ast.parse(text)
    except SyntaxError as error:
        raise _Bad("syntax_error", _printable(f"line {error.lineno or 0}: {error.msg}")) from None
    except MemoryError:
        _too_deep()
    except ValueError as error:
        raise _Bad("syntax_error", _printable(str(error))) from None


def _parse_in_fresh_thread(text: str) -> ast.Module:
    found: list[ast.Module | _Bad] = []

    def parse() -> None:
        try:
            found.append(_parse_here(text))
        except _Bad as bad:
            found.append(bad)
        except (RecursionError, SystemError):
            pass

    thread = threading.Thread(target=parse, name="census-parse")
    thread.start()
    thread.join()
    if not found:
        _too_deep()
    if isinstance(found[0], _Bad):
        raise found[0]
    return found[0]


def _too_deep() -> NoReturn:
    raise _Bad("nested_too_deeply", "nested deeper than the parser goes")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _count(path: str, text: str, tree: ast.Module) -> FileFacts:
    functions = classes = 0
    documented = int(_has_docstring(tree))
    longest: Longest | None = None
    imports: set[str] = set()
    for node, name in _statements(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
                documented += _has_docstring(node)
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                longest = _longer(longest, Longest(name, node.lineno, lines))
            case ast.ClassDef():
                classes += 1
                documented += _has_docstring(node)
            case ast.Import():
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom():
                imports.add("." if node.level else (node.module or ".").partition(".")[0])
    return FileFacts(
        path=path,
        lines=text.count("\n") + bool(text and not text.endswith("\n")),
        functions=functions,
        classes=classes,
        documentable=1 + functions + classes,
        documented=documented,
        longest=longest,
        imports=sorted(imports),
    )


def _longer(one: Longest | None, other: Longest) -> Longest:
    if one is None:
        return other
    return min(one, other, key=lambda it: (-it.lines, it.line, it.name))


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every statement with the dotted name of what it defines or stands in.

    Definitions and imports are statements, so expressions need no visit (they are nine tenths of a tree). A stack of
    our own instead of recursion: a chain of a thousand ``elif`` is a thousand levels.
    """
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, where = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}" if where else node.name
        if isinstance(node, ast.stmt):
            yield node, where
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += [(child, where) for child in getattr(node, field, ())]
