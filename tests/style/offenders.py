"""Finds what the project's style does not allow, in source text.

Owns the limits, the few excused places (each with its reason) and one function per rule, from a parsed file to
offences. It imports nothing of Relight. `tests/style/test_style.py` fails on offences; run as a script
(`make sizes`) it prints what is beyond the habit but not yet past the end.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVERYWHERE = ("src", "tests", "bench", "examples")
SHIPPED = ("src", "bench", "examples")

FUNCTION_HABIT_LINES = 40
FUNCTION_END_LINES = 70
FILE_HABIT_LINES = 400
FILE_END_LINES = 600

EXCUSED_SIZES: dict[str, str] = {
    "tests/bad_inputs.py": "one table of bad inputs, a row each",
    "tests/flow/test_cancel.py": "one story for each state a job can be cancelled in, told side by side",
    "tests/flow/test_failures.py": "one story for each way a step can fail, told side by side",
    "tests/flow/test_suspension.py:test_finally_runs_and_every_durable_call_in_it_is_refused_and_records_nothing": (
        "every durable call there is, in one finally block"
    ),
}
"""`path` or `path:function` → why this one may be longer than the end. A test fails on an excuse nobody needs."""

BROAD = frozenset({"Exception", "BaseException"})
UNSAFE_MODULES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
UNSAFE_CALLS = frozenset({"eval", "exec"})
IMPURE_MODULES = frozenset(
    {"apsw", "asyncio", "psycopg", "random", "threading", "time"}  # the design's list
    | {"concurrent", "multiprocessing", "secrets", "socket", "sqlite3", "subprocess"}  # and its spirit
)
DATE_CLASSES = frozenset({"date", "datetime"})
CLOCK_READS = frozenset({"now", "utcnow", "today"})

GLOSSARY = {
    "activity": "step",
    "dag": "workflow",
    "evict": "put away",
    "eviction": "put away",
    "execution": "run",
    "executor": "engine",
    "lane": "queue",
    "reap": "recover",
    "reaper": "recovery",
    "rescue": "recover",
    "rescuer": "recovery",
    "stuck": "stalled",
    "task": "job",
}
"""Words that are never said → the word of the glossary. Only names are looked at, not prose."""
GLOSSARY_EXCEPTIONS = frozenset({"task_schema_version"})  # a field of the source specification


@dataclass(frozen=True, order=True)
class Offence:
    """One place that breaks one rule."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.text}"


@dataclass(frozen=True)
class Source:
    """One Python file, parsed once."""

    path: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The file's lines, without their ends."""
        return self.text.splitlines()

    @property
    def tree(self) -> ast.Module:
        """The file's syntax tree."""
        try:
            return ast.parse(self.text, self.path)
        except SystemError:  # CPython 3.11 may lose count of its depth beside other threads: python/cpython#106905
            return ast.parse(self.text, self.path)

    def says(self, word: str, line: int, *, above: int = 0, below: int = 0) -> bool:
        """Tell whether a comment with this word stands at a line, or that many lines above or below it."""
        near = self.lines[max(0, line - 1 - above) : line + below]
        return any(word in text.partition("#")[2] for text in near)


def python_files(*folders: str) -> Iterator[Source]:
    """Read every Python file below these folders of the checkout, in the order of their paths."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield Source(str(path.relative_to(ROOT)), path.read_text("utf-8"))


def sql_files(*folders: str) -> Iterator[Source]:
    """Read every SQL file below these folders of the checkout."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.sql")):
            yield Source(str(path.relative_to(ROOT)), path.read_text("utf-8"))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _length_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(function, clean=False)
    whole = (function.end_lineno or function.lineno) - function.lineno + 1
    return whole - (len(docstring.splitlines()) if docstring else 0)


def sizes(source: Source, *, function_lines: int, file_lines: int) -> Iterator[tuple[str, Offence]]:
    """Find functions and files longer than this, each with the name an excuse for it would have.

    A function's lines are counted from its `def` to its end, functions inside it included, its docstring left out.
    """
    count = len(source.lines)
    if count > file_lines:
        yield source.path, Offence(source.path, 1, f"has {count} lines")
    for function in _functions(source.tree):
        count = _length_lines(function)
        if count > function_lines:
            text = f"{function.name} has {count} lines"
            yield f"{source.path}:{function.name}", Offence(source.path, function.lineno, text)


def _named(node: ast.expr | None) -> set[str]:
    if node is None:
        return set(BROAD)
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in parts}


def broad_excepts(source: Source) -> Iterator[Offence]:
    """Find handlers of everything that have no `# boundary:` reason.

    The reason stands at the line, at most two lines above, or on the line below. `suppress(Exception)` counts too.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            broad = bool(_named(node.type) & BROAD)
        elif isinstance(node, ast.Call) and _named(node.func) == {"suppress"}:
            broad = any(_named(argument) & BROAD for argument in node.args)
        else:
            continue
        if broad and not source.says("boundary:", node.lineno, above=2, below=1):
            yield Offence(source.path, node.lineno, "catches everything; say why with `# boundary: …`")


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and top-level module of every import, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


def unsafe_code(source: Source) -> Iterator[Offence]:
    """Find pickle and its kin, and calls of eval or exec: stored bytes must never become code."""
    for line, module in _imports(source.tree):
        if module in UNSAFE_MODULES:
            yield Offence(source.path, line, f"imports {module}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            yield Offence(source.path, node.lineno, f"calls {node.func.id}")


def impurities(source: Source) -> Iterator[Offence]:
    """Find what pure code may not have: modules of I/O, threads, time and chance, and reads of the wall clock."""
    for line, module in _imports(source.tree):
        if module in IMPURE_MODULES:
            yield Offence(source.path, line, f"imports {module}; core is pure, take it as an argument")
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in {"open", "input", "print"}:
            yield Offence(source.path, node.lineno, f"calls {called.id}; core does no I/O")
        if isinstance(called, ast.Attribute) and called.attr in CLOCK_READS and _named(called.value) & DATE_CLASSES:
            yield Offence(source.path, node.lineno, "reads the clock; core is passed the time")


def sleeps(source: Source) -> Iterator[Offence]:
    """Find tests that sleep: they wait for a signal or drive the clock. `sleep(0)` only yields and is let through."""
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"):
            continue
        nothing = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if _named(node.func.value) & {"time", "asyncio"} and not nothing and not source.says("sleep-ok:", node.lineno):
            yield Offence(source.path, node.lineno, "sleeps; drive the clock, or end the line with `# sleep-ok: why`")


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _unsaid(name: str, allowed: frozenset[str] = frozenset()) -> Iterator[str]:
    if name not in GLOSSARY_EXCEPTIONS:
        for word in _words(name):
            for form in {word, word.removesuffix("s")} & GLOSSARY.keys() - allowed:
                yield f"{name}: say {GLOSSARY[form]!r}, not {form!r}"


def _defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.lineno, node.target.id


def unsaid_words(source: Source) -> Iterator[Offence]:
    """Find names of classes, functions, parameters and fields made of words that the glossary replaces.

    A file that imports asyncio or concurrent may say task and executor, which are their words.
    `# word-ok: why` at the line lets any other through.
    """
    foreign = {module for _, module in _imports(source.tree)} & {"asyncio", "concurrent"}
    allowed = frozenset({"task", "executor"}) if foreign else frozenset[str]()
    for line, name in _defined_names(source.tree):
        if not source.says("word-ok:", line):
            yield from (Offence(source.path, line, text) for text in _unsaid(name, allowed))


def unsaid_sql_words(source: Source) -> Iterator[Offence]:
    """Find identifiers in SQL made of words that the glossary replaces; comments and texts are not looked at."""
    for number, line in enumerate(source.lines, 1):
        code = re.sub(r"'[^']*'", "", line).partition("--")[0]
        for name in re.findall(r"[A-Za-z_]\w*", code):
            yield from (Offence(source.path, number, text) for text in _unsaid(name))


def main() -> int:
    """Print what is past the end, which fails, and what of src is beyond the habit, which does not."""
    past_end = [
        offence
        for source in python_files(*EVERYWHERE)
        for name, offence in sizes(source, function_lines=FUNCTION_END_LINES, file_lines=FILE_END_LINES)
        if name not in EXCUSED_SIZES
    ]
    beyond = [
        offence
        for source in python_files("src")
        for _, offence in sizes(source, function_lines=FUNCTION_HABIT_LINES, file_lines=FILE_HABIT_LINES)
        if offence not in past_end
    ]
    for title, end, found in (
        ("past the end", (FUNCTION_END_LINES, FILE_END_LINES), past_end),
        ("beyond the habit", (FUNCTION_HABIT_LINES, FILE_HABIT_LINES), beyond),
    ):
        if found:
            print(f"{len(found)} {title} ({end[0]} lines a function, {end[1]} a file):")
            print("\n".join(f"  {offence}" for offence in found))
    return 1 if past_end else 0


if __name__ == "__main__":
    sys.exit(main())
