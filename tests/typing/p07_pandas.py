"""A sync code base with data frames: files go between steps, or a codec says how a frame is stored."""

import io
from pathlib import Path

import pandas as pd

from relight import Codec, Engine, heartbeat, parallel, step, workflow


def write_frame(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def read_frame(data: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(data))


frames = Codec(pd.DataFrame, encode=write_frame, decode=read_frame)


@step
def sorted_csv(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.csv"))


@step(timeout_seconds=900)
def clean(csv: Path) -> Path:
    frame = pd.read_csv(csv)
    for i in range(10):
        heartbeat(done=i, total=10)
    out = csv.with_suffix(".clean")
    frame.dropna().to_csv(out, index=False)
    return out


@step
def largest(paths: list[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_csv(path) for path in paths]).nlargest(3, "amount")


@step
def totals(path: Path) -> float:
    return float(pd.read_csv(path)["amount"].sum())


@workflow
def month(folder: Path) -> float:
    cleaned = parallel(clean, sorted_csv(folder), limit=4)
    assert len(largest(cleaned)) <= 3
    return sum(parallel(totals, cleaned))


if __name__ == "__main__":
    with Engine("etl.db", workflows=[month], codecs=[frames]) as engine:
        total: float = engine.submit(month, Path("2026-11")).result()
        print(total)
