"""The documentation as data: pages, their fenced blocks, links, headings, tables and the commands that they name."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

_FENCE = re.compile(r"^```(?P<info>.*)$")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FROM = re.compile(r"<!-- from (?P<path>\S+?)(?:: (?P<marker>\w+))? -->")


def name_of(page: Path) -> str:
    """A page's path as the tests print it."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, what its fence says, and the line before the fence."""

    page: str
    line: int
    info: tuple[str, ...]
    before: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def language(self) -> str:
        """What is highlighted."""
        return self.info[0] if self.info else ""

    @property
    def source(self) -> tuple[Path, str | None] | None:
        """The file (and the part of it) that the block says it is copied from."""
        found = _FROM.fullmatch(self.before.strip())
        return None if found is None else (ROOT / found["path"], found["marker"])


def blocks(text: str, page: str = "page") -> Iterator[Block]:
    """Yield a page's fenced blocks, in order."""
    before, opened, info, body = "", 0, (), []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            body.append(line)
            if not opened and line.strip():
                before = line
        elif not opened:
            opened, info, body = number, tuple(fence["info"].split()), []
        else:
            yield Block(page, opened, info, before, "\n".join(body) + "\n")
            opened, before, body = 0, "", []
    assert not opened, f"{page}:{opened}: a fence is not closed"


def all_blocks(*languages: str) -> list[Block]:
    """Every block of the documentation in one of these languages."""
    found = (block for page in PAGES for block in blocks(page.read_text("utf-8"), name_of(page)))
    return [block for block in found if block.language in languages]


def part_of(path: Path, marker: str | None) -> str:
    """Return a file's text, or the part between ``# begin marker`` and ``# end marker``."""
    text = path.read_text("utf-8")
    if marker is None:
        return text
    _, found, rest = text.partition(f"# begin {marker}\n")
    part, ended, _ = rest.partition(f"# end {marker}")
    assert found and ended, f"{path.name} has no part {marker}"
    return part.strip("\n") + "\n"


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    kept, inside = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def links(text: str) -> list[str]:
    """Return where a page's links lead, those in code left out."""
    return _LINK.findall(_SPAN.sub("", prose(text)))


def anchors(text: str) -> set[str]:
    """Return the anchors that a page's headings get."""
    found = set()
    for line in prose(text).splitlines():
        if line.startswith("#"):
            words = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower().replace("`", ""))
            found.add(re.sub(r"\s", "-", words))
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Return a page's links to files or headings that are not there."""
    bad = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page if not place else (page.parent / place).resolve()
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            bad.append(link)
    return bad


def table(text: str, *header: str) -> list[list[str]]:
    """Return the rows of all tables of a page whose header begins with these cells."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[: len(header)] == list(header):
            inside = True
        elif inside and not set(line) <= set("|- :"):
            rows.append(cells)
    return rows


def code(cell: str) -> str:
    """Return a cell's text without the backticks around it."""
    return cell.strip("`")


def imports_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield what a snippet imports from Relight: module and name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "relight":
            yield from ((node.module or "", alias.name) for alias in node.names)


def commands(text: str) -> list[str]:
    """Return the ``relight …`` command lines of a page: in console blocks behind ``$``, and in code spans."""
    found = []
    for block in blocks(text):
        if block.language == "console":
            found += [line[2:] for line in block.text.splitlines() if line.startswith("$ relight")]
    found += [span for span in _SPAN.findall(prose(text)) if span == "relight" or span.startswith("relight ")]
    return [line.partition("  #")[0].strip() for line in found]


def fault_of(line: str, root: click.Command) -> str | None:
    """Say what is wrong with a command line by click's own command tree, or None."""
    command, context = root, click.Context(root)
    words = shlex.split(line.replace("…", ""))[1:]
    places = 0
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            option, has_value, _ = word.partition("=")
            known = [
                p for p in command.params if isinstance(p, click.Option) and option in (*p.opts, *p.secondary_opts)
            ]
            if not known and option != "--help":
                return f"{command.name} has no option {option}"
            if known and not (known[0].is_flag or known[0].count or has_value):
                words = words[1:]
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return f"{command.name} has no command {word}"
            command, context, places = found, click.Context(found, parent=context), 0
        else:
            places += 1
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    most = sum(1 if p.nargs == 1 else 10_000 for p in arguments)
    return f"{command.name} takes fewer arguments" if places > most else None
