"""Two versions of one code base, as an engine's program: ``python -m tests.process.deployed STORE``.

Six kinds, one for each change that a deploy may bring. Old code waits in the middle (a signal named ``go``), so that many
jobs are in flight when the engine is killed.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

from relight import Engine, patched, step, wait_signal, workflow


@dataclass
class Doc:
    """A document as the old code knows it."""

    id: int


@dataclass
class NewDoc:
    """The same, with a field more."""

    id: int
    note: str = ""


@step
def work(n: int) -> int:
    return n


@step
def check(n: int) -> bool:
    return True


@step
def audit(n: int) -> bool:
    return True


@step(name="label")
def old_label(name: str) -> str:
    return name


@step(name="label")
def new_label(title: str) -> str:
    return title


@step(name="store")
def old_store(doc: Doc) -> int:
    return doc.id


@step(name="store")
def new_store(doc: NewDoc) -> int:
    return doc.id


def _go() -> None:
    wait_signal("go", type=bool)


# The old code.


@workflow(name="inserted")
def old_inserted(n: int) -> int:
    got = work(n)
    _go()
    return got


@workflow(name="guarded")
def old_guarded(n: int) -> int:
    got = work(n)
    _go()
    return got


@workflow(name="renamed")
def old_renamed(n: int) -> str:
    got = old_label(name=f"n{n}")
    _go()
    return got


@workflow(name="widened")
def old_widened(n: int) -> int:
    got = old_store(Doc(n))
    _go()
    return got


@workflow(name="removed")
def old_removed(n: int) -> int:
    audit(n)
    got = work(n)
    _go()
    return got


@workflow(name="versioned", version="1")
def old_versioned(n: int) -> str:
    got = work(n)
    _go()
    return f"1: {got}"


# The new code.


@workflow(name="inserted")
def new_inserted(n: int) -> int:
    check(n)
    got = work(n)
    _go()
    return got


@workflow(name="guarded")
def new_guarded(n: int) -> int:
    if patched("check first"):
        check(n)
    got = work(n)
    _go()
    return got


@workflow(name="renamed")
def new_renamed(n: int) -> str:
    got = new_label(title=f"n{n}")
    _go()
    return got


@workflow(name="widened")
def new_widened(n: int) -> int:
    got = new_store(NewDoc(n))
    _go()
    return got


@workflow(name="removed")
def new_removed(n: int) -> int:
    got = work(n)
    _go()
    return got


@workflow(name="versioned", version="2")
def new_versioned(n: int) -> str:
    check(n)
    got = work(n)
    _go()
    return f"2: {got}"


OLD: list[Any] = [old_inserted, old_guarded, old_renamed, old_widened, old_removed, old_versioned]
NEW: list[Any] = [new_inserted, new_guarded, new_renamed, new_widened, new_removed, new_versioned]
KINDS = [each.kind for each in OLD]


def main() -> None:
    """Run an engine until killed."""
    with Engine(sys.argv[1], workflows=OLD, durability="process", suspend_after_seconds=30, slots=500, threads=250):
        sys.stdout.write("started\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
