"""Branches, races, tolerances and patches: what each of them is to a type checker."""

from functools import partial
from pathlib import Path

from p03_fanout import extract, list_documents

from relight import Branch, branch, parallel, patched, race, sleep, step, workflow
from relight.model import Outcomes


@step
def merge(parts: list[Path], title: str = "all") -> Path:
    return Path(f"{title}.txt")


def both(path: Path) -> int:
    """An arm may call several steps."""
    return len(str(merge([extract(path)])))


@workflow
def bind(folder: Path) -> Path:
    documents = list_documents(folder)
    texts: list[Path] = parallel(extract, documents, limit=16, key=str)
    found: Outcomes[Path] = parallel(extract, documents, max_failed_share=0.02, key=lambda path: f"again {path}")
    counted: Outcomes[int] = parallel(both, documents, max_failed=3)
    some: Outcomes[int] = parallel(both, documents, min_ok=1)
    for index, error in found.failed:
        print(documents[index], error.step_key, error.message, found.skipped)
    merged: list[Path] = parallel(partial(merge, title="part"), [texts, texts[:1]])
    title: Branch[Path] = branch(merge, found.ok, "title")
    first: int = race(title, branch(sleep, 60))
    if first == 0 and patched("title-first"):
        merged.insert(0, title.result())
    return merge([*merged, *texts][: sum(counted.ok) + sum(some.ok)])
