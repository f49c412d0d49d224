"""The census as a value, and its two written forms: ``census.json`` and ``census.html``.

Pure, apart from ``write_atomically``. Everything is sorted, and nothing tells of time, place, interruptions or how the
work was cut into jobs: two censuses of the same files are the same bytes. Read next: ``census.py``.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import msgspec

from relight.cli.demo.facts import FileFacts, Outcome, Problem
from relight.cli.demo.listing import top_of

LONGEST_SHOWN = 25
IMPORTS_SHOWN = 40


class PartFacts(msgspec.Struct, frozen=True):
    """What one job found."""

    files: list[FileFacts]
    problems: list[Problem]


class Totals(msgspec.Struct, frozen=True):
    """Sums over files. ``docstring_percent`` has one decimal; 0 when there is nothing to document."""

    files: int
    problems: int
    lines: int
    functions: int
    classes: int
    documentable: int
    documented: int
    docstring_percent: float


class TopFacts(msgspec.Struct, frozen=True):
    """The sums of one top-level package (``json/``) or letter (``a*.py``)."""

    top: str
    totals: Totals


class LongestFunction(msgspec.Struct, frozen=True):
    """One of the longest functions of the folder (only each file's longest takes part)."""

    path: str
    name: str
    line: int
    lines: int


class ImportCount(msgspec.Struct, frozen=True):
    """In how many files a top-level module is imported."""

    module: str
    files: int


class Census(msgspec.Struct, frozen=True):
    """The whole: sums, the longest functions, the most imported modules, each file, each problem."""

    format: int
    folder: str
    totals: Totals
    tops: list[TopFacts]
    longest_functions: list[LongestFunction]
    imports: list[ImportCount]
    problems: list[Problem]
    files: list[FileFacts]


def merge_part(outcomes: Iterable[Outcome], problems: Iterable[Problem]) -> PartFacts:
    """Sort a job's outcomes into facts and problems; ``problems`` are those met while listing."""
    known = list(outcomes)
    return PartFacts(
        files=[it.facts for it in known if it.facts is not None],
        problems=sorted([*problems, *(it.problem for it in known if it.problem is not None)]),
    )


def merge_census(folder_name: str, parts: Iterable[PartFacts]) -> Census:
    """Merge all jobs' findings; the order of ``parts`` does not matter."""
    known = list(parts)
    files = sorted((file for part in known for file in part.files), key=lambda it: it.path)
    problems = sorted(problem for part in known for problem in part.problems)
    by_top: defaultdict[str, PartFacts] = defaultdict(lambda: PartFacts([], []))
    for file in files:
        by_top[top_of(file.path)].files.append(file)
    for problem in problems:
        by_top[top_of(problem.path)].problems.append(problem)
    longest = [
        LongestFunction(it.path, it.longest.name, it.longest.line, it.longest.lines) for it in files if it.longest
    ]
    imports = Counter(module for file in files for module in file.imports)
    return Census(
        format=1,
        folder=folder_name,
        totals=_totals(files, problems),
        tops=[TopFacts(top, _totals(of_top.files, of_top.problems)) for top, of_top in sorted(by_top.items())],
        longest_functions=sorted(longest, key=lambda it: (-it.lines, it.path, it.line))[:LONGEST_SHOWN],
        imports=[ImportCount(*it) for it in sorted(imports.items(), key=lambda it: (-it[1], it[0]))],
        problems=problems,
        files=files,
    )


def _totals(files: Sequence[FileFacts], problems: Sequence[Problem]) -> Totals:
    documentable = sum(it.documentable for it in files)
    documented = sum(it.documented for it in files)
    return Totals(
        files=len(files),
        problems=len(problems),
        lines=sum(it.lines for it in files),
        functions=sum(it.functions for it in files),
        classes=sum(it.classes for it in files),
        documentable=documentable,
        documented=documented,
        docstring_percent=round(100 * documented / documentable, 1) if documentable else 0.0,
    )


def render_json(census: Census) -> bytes:
    """Render ``census.json``: UTF-8, indented, fields in the order of the classes above."""
    return msgspec.json.format(msgspec.json.encode(census), indent=1) + b"\n"


def render_html(census: Census) -> bytes:
    """Render ``census.html``: one page that needs nothing from elsewhere."""
    totals = census.totals
    return _PAGE.substitute(
        folder=shown(census.folder),
        cards="".join(
            f"<div><b>{value}</b><span>{name}</span></div>"
            for name, value in (
                ("files", f"{totals.files:,}"),
                ("lines", f"{totals.lines:,}"),
                ("functions", f"{totals.functions:,}"),
                ("classes", f"{totals.classes:,}"),
                ("with a docstring", f"{totals.docstring_percent:.1f} %"),
                ("problems", f"{totals.problems:,}"),
            )
        ),
        tops=_table(
            "package files lines functions classes documented% problems",
            [(it.top, *_figures(it.totals)) for it in census.tops],
        ),
        longest=_table(
            "function lines file", [(it.name, it.lines, f"{it.path}:{it.line}") for it in census.longest_functions]
        ),
        imports=_table("module files", [(it.module, it.files) for it in census.imports[:IMPORTS_SHOWN]]),
        problems=_table("path problem detail", [(it.path, it.code, it.detail) for it in census.problems]),
        files=_table("path lines functions classes documented%", [_file_row(it) for it in census.files]),
    ).encode()


def _figures(totals: Totals) -> tuple[int | str, ...]:
    percent = f"{totals.docstring_percent:.1f}"
    return totals.files, totals.lines, totals.functions, totals.classes, percent, totals.problems


def _file_row(file: FileFacts) -> tuple[int | str, ...]:
    percent = f"{100 * file.documented / file.documentable:.1f}"
    return file.path, file.lines, file.functions, file.classes, percent


def _table(heads: str, rows: Sequence[Sequence[int | str]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th scope=col>{name.replace('%', ' %')}</th>" for name in heads.split())
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cell(value: int | str) -> str:
    if isinstance(value, int):
        return f"<td class=n>{value:,}</td>"
    is_figure = value.replace(".", "", 1).isdecimal()
    return f"<td class=n>{value}</td>" if is_figure else f"<td>{shown(value)}</td>"


def shown(text: str) -> str:
    """Make text safe for a page; what has no picture (line feeds, direction marks) is written as an escape."""
    return escape(printable(text))


def printable(text: str) -> str:
    """Replace what a terminal or page would obey or hide by its escape."""
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)


def write_atomically(path: Path, data: bytes) -> None:
    """Put a whole file in place, durably: after a crash there is the old one or the new one.

    The temporary name is fixed, so that a killed writer leaves nothing that the next one does not overwrite; there is
    one writer at a time, because a job has one run at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Census of $folder</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 15%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-weight: 600; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; }
.cards div { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.cards b { display: block; font-size: 1.5rem; } .cards span { opacity: .7; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
th { font-weight: 600; opacity: .7; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; font-weight: 600; margin-top: 2.2rem; }
</style>
</head>
<body>
<h1>Census of $folder</h1>
<div class="cards">$cards</div>
<h2>Packages and top-level files</h2>
<div class="scroll">$tops</div>
<h2>Longest functions</h2>
<div class="scroll">$longest</div>
<h2>Most imported modules</h2>
<div class="scroll">$imports</div>
<h2>Problems</h2>
<div class="scroll">$problems</div>
<details><summary>All files</summary><div class="scroll">$files</div></details>
</body>
</html>
""")
