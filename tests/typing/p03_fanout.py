"""Fan-out over many documents, with keys that survive a changed list, and progress."""

from functools import partial
from pathlib import Path

from relight import Branch, Engine, Retry, branch, heartbeat, parallel, patched, race, sleep, step, workflow
from relight.errors import StepError
from relight.model import Outcomes


@step
def list_documents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pdf"))


@step(retry=Retry(tries=3, not_on=(ValueError,)), timeout_seconds=120)
def extract(path: Path) -> Path:
    if path.stat().st_size == 0:
        raise StepError("empty file", code="empty", retryable=False)
    out = path.with_suffix(".txt")
    out.write_text("…")
    heartbeat(done=1, total=1, note=path.name)
    return out


@step
def merge(parts: list[Path], title: str = "all") -> Path:
    return Path(f"{title}.txt")


def both(path: Path) -> int:
    """An arm may call several steps."""
    text = extract(path)
    return len(str(merge([text])))


@workflow
def ingest(folder: Path) -> Path:
    documents = list_documents(folder)
    texts: list[Path] = parallel(extract, documents, limit=16, key=str)
    found: Outcomes[Path] = parallel(extract, documents, limit=16, max_failed_share=0.02, key=lambda path: path.name)
    counted: Outcomes[int] = parallel(both, documents, max_failed=3)
    for index, error in found.failed:
        print(documents[index], error.step_key, error.message, found.skipped)
    sizes: list[int] = parallel(both, documents)
    merged: list[Path] = parallel(partial(merge, title="part"), [texts, texts[:1]])
    title: Branch[Path] = branch(merge, found.ok, "title")
    first: int = race(title, branch(sleep, 60))
    if first == 0 and patched("title-first"):
        merged.insert(0, title.result())
    return merge([*merged, *texts][: sum(sizes) + sum(counted.ok)])


if __name__ == "__main__":
    with Engine("ingest.db", workflows=[ingest]) as engine:
        job = engine.submit(ingest, Path("docs"))
        for _ in job.events(follow=True):
            progress = job.info().progress
            if progress:
                print(f"{progress.done:.0f}/{progress.total or 0:.0f} {progress.note}", end="\r")
        print(job.info().state, job.result().name)
