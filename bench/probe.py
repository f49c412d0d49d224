"""The disk under a measurement: how long it takes to make 4 KiB durable. Nearly every figure of one caller is made of it."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

APPENDS = 200
BLOCK = b"\0" * 4096


def fsync_ms_p50(folder: Path, appends: int = APPENDS) -> float:
    """Return the median time of appending 4 KiB to a new file of the folder and making it durable."""
    path = folder / "probe"
    took = []
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_EXCL, 0o600)
    try:
        for _ in range(appends):
            before = time.perf_counter()
            os.write(fd, BLOCK)
            os.fdatasync(fd)
            took.append((time.perf_counter() - before) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    return round(statistics.median(took), 3)


def filesystem_of(folder: Path) -> str:
    """Return the kind of file system that a folder is on, as the kernel calls it; empty where it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    here = folder.resolve()
    best, kind = "", ""
    for line in mounts:
        _, mount, this, *_ = line.split(" ")
        if here.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, this
    return kind
