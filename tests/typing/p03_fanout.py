"""Fan-out over many documents, with keys that survive a changed list, and progress."""

from pathlib import Path

from relight import Engine, Retry, heartbeat, issue, parallel, step, workflow
from relight.errors import StepError


@step
def list_documents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pdf"))


@step(retry=Retry(tries=3, not_on=(ValueError,)), timeout_seconds=120)
def extract(path: Path) -> Path:
    if path.stat().st_size == 0:
        raise StepError("empty file", code="empty", retryable=False)
    out = path.with_suffix(".txt")
    out.write_text(f"text of {path.stem}\n")
    heartbeat(done=1, total=1, note=path.name)
    return out


@step
def merge(parts: list[Path]) -> Path:
    whole = parts[0].with_name("all.txt")
    whole.write_text("".join(part.read_text() for part in parts))
    return whole


@workflow(deadline_seconds=6 * 3600)
def ingest(folder: Path) -> Path:
    found = parallel(extract, list_documents(folder), limit=16, max_failed_share=0.02, key=str)
    for _, error in found.failed:
        issue("document_failed", f"{error.step_key}: {error.message}")
    return merge(found.ok)


if __name__ == "__main__":
    with Engine("ingest.db", workflows=[ingest]) as engine:
        job = engine.submit(ingest, Path("docs"))
        for _ in job.events(follow=True):
            progress = job.info().progress
            if progress:
                print(f"{progress.done:.0f}/{progress.total or 0:.0f} {progress.note}", end="\r")
        print(job.info().state, job.result().name)
