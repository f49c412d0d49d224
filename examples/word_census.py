"""Count words in parallel. Each file's count is recorded once; a crash costs at most the counts under way."""

# begin word_census
from pathlib import Path

from relight import Engine, parallel, step, workflow


@step
def list_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@step
def count_words(path: Path) -> int:
    return len(path.read_text("utf-8").split())


@workflow
def census(folder: Path) -> int:
    return sum(parallel(count_words, list_files(folder), limit=8))


if __name__ == "__main__":
    with Engine("jobs.db", workflows=[census]) as engine:
        print(engine.submit(census, Path(__file__).parent).result(timeout_seconds=60))
# end word_census
