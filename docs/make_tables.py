"""Write the generated tables of the pages anew: ``python docs/make_tables.py``. A test compares them with the code.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in its page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from relight.core import payloads, spec_payloads, step_payloads
from relight.core.events import KINDS, STATE_EVENTS
from relight.core.payloads import EventPayload, Part
from relight.recorder.invariants import INVARIANTS

HERE = Path(__file__).parent
_TABLE = re.compile(r"<!-- table: (?P<name>\w+) -->\n.*?<!-- end of table -->", re.DOTALL)

PROMISES = {
    "I-0": "P5",
    "I-1": "P10",
    "I-2": "P5, P9",
    "I-3": "P9",
    "I-4": "P9",
    "I-5": "P2",
    "I-6": "P2",
    "I-7": "P2",
    "I-8": "P2, P5",
    "I-9": "P4, P9",
    "I-11": "P9",
    "I-12": "P9",
    "I-14": "P6",
    "I-15": "P1",
    "I-17": "",
    "I-22": "P10",
    "R-1": "",
    "F-1": "",
    "I-27": "",
    "I-29": "P11",
    "I-30": "P1, P5",
    "I-31": "P5",
    "I-32": "P5",
    "P2": "P2",
    "P4": "P4",
    "P6": "P6",
    "J-1": "P9",
    "J-2": "P9",
    "J-3": "P9",
    "J-4": "P5",
    "J-5": "P5",
    "J-6": "P9",
    "S-1": "P2, P7",
    "S-2": "P9",
}
"""Which promise of docs/guarantees.md an invariant re-checks."""


def first_sentence(cls: type) -> str:
    """Return what a class's docstring says first."""
    return (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def fields_of(cls: type[msgspec.Struct]) -> str:
    """Return a payload's fields as the wire has them; a question mark behind those that may be missing."""
    names = [f"`{f.encode_name}`" + ("" if f.required else "?") for f in msgspec.structs.fields(cls)]
    return ", ".join(names) or "–"


def event_rows(kinds: Iterable[type[EventPayload]]) -> Iterator[str]:
    """Yield the rows of a table of kinds."""
    yield "| type | actor | payload | says |"
    yield "|---|---|---|---|"
    for cls in kinds:
        actors = ", ".join(sorted(str(actor) for actor in cls.actors))
        moves = " **Moves the job.**" if cls.kind in STATE_EVENTS else ""
        yield f"| `{cls.kind}` | {actors} | {fields_of(cls)} | {first_sentence(cls)}{moves} |"


def kinds_of(module: object) -> list[type[EventPayload]]:
    """Return the kinds that a module defines, in its order."""
    return [cls for cls in KINDS.values() if cls.__module__ == getattr(module, "__name__", "")]


def part_rows() -> Iterator[str]:
    """Yield the rows of the table of what payloads hold lists of."""
    yield "| part | fields | says |"
    yield "|---|---|---|"
    for module in (payloads, step_payloads, spec_payloads):
        for name, cls in vars(module).items():
            if (
                isinstance(cls, type)
                and issubclass(cls, Part)
                and cls is not Part
                and cls.__module__ == module.__name__
            ):
                yield f"| `{name}` | {fields_of(cls)} | {first_sentence(cls)} |"


def invariant_rows() -> Iterator[str]:
    """Yield the rows of the table of invariants."""
    yield "| id | what must hold | promise |"
    yield "|---|---|---|"
    for name, sentence in INVARIANTS.items():
        yield f"| `{name}` | {sentence} | {PROMISES.get(name, '?') or '–'} |"


TABLES = {
    "events": lambda: event_rows(kinds_of(payloads)),
    "step_events": lambda: event_rows(kinds_of(step_payloads)),
    "spec_events": lambda: event_rows(kinds_of(spec_payloads)),
    "parts": part_rows,
    "invariants": invariant_rows,
}


def rewritten(text: str) -> str:
    """Return a page with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        rows = "\n".join(TABLES[found["name"]]())
        return f"<!-- table: {found['name']} -->\n\n{rows}\n\n<!-- end of table -->"

    return _TABLE.sub(table, text)


def pages() -> list[Path]:
    """Return the pages that have tables."""
    return [page for page in sorted(HERE.rglob("*.md")) if _TABLE.search(page.read_text("utf-8"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(rewritten(page.read_text("utf-8")), encoding="utf-8")
