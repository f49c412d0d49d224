"""The census as a durable workflow: what a user of Relight would write, plus one ``with observed():`` in each step.

One job for each group of files: list them, read and parse each, merge. A last job merges what the others found and
writes both files. Every step may be cut off at any moment and run again: reading changes nothing, and files are put in
place whole. Read next: ``child.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import msgspec

from relight import Resource, current_job, current_step, parallel, step, workflow
from relight.cli.demo import facts, report
from relight.cli.demo.facts import Outcome, Problem
from relight.cli.demo.listing import Group, Listing, list_tree
from relight.cli.demo.report import Census, PartFacts

ARMS = 2
"""Files of one job that are read at a time. Parsing holds the GIL, so that more would gain nothing."""

LABEL_CHARS = 160
"""A longer path is shortened in a step's key; a checksum keeps it apart from others."""


class Observer(Protocol):
    """What the steps need of a witness."""

    def observe(self, *, job_id: str, step_key: str, name: str, run_id: str) -> AbstractContextManager[None]:
        """Surround a step's work."""
        ...


class Nobody:
    """The observer when nobody asked for one."""

    def observe(self, *, job_id: str, step_key: str, name: str, run_id: str) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


witness: Resource[Observer] = Resource(Nobody, name="witness")


class SourceFile(msgspec.Struct, frozen=True):
    """A file to analyse: its folder, and its path in it."""

    folder: str
    path: str

    @property
    def label(self) -> str:
        """Name the file in step keys."""
        if len(self.path) <= LABEL_CHARS:
            return self.path
        return f"{self.path[:LABEL_CHARS]}~{hashlib.sha256(self.path.encode()).hexdigest()[:16]}"


@contextmanager
def observed() -> Iterator[None]:
    """Let the witness see the step that this runs in."""
    job, here = current_job(), current_step()
    with witness().observe(job_id=job.id, step_key=here.key, name=here.name, run_id=job.run_id):
        yield


@step
def list_files(folder: str, group: Group) -> Listing:
    """List one group's files."""
    with observed():
        return list_tree(folder, group)


@step
def analyse_file(file: SourceFile) -> Outcome:
    """Read and parse one file; a bad one is an outcome, no failure."""
    with observed():
        return facts.analyse_file(file.folder, file.path)


@step(inputs="hash")
def merge_part(outcomes: list[Outcome], problems: list[Problem]) -> PartFacts:
    """Merge one job's findings."""
    with observed():
        return report.merge_part(outcomes, problems)


@workflow
def census_part(folder: str, group: Group) -> PartFacts:
    """Count one group of files."""
    listing = list_files(folder, group)
    files = [SourceFile(folder, path) for path in listing.files]
    outcomes = parallel(analyse_file, files, limit=ARMS, key=lambda file: file.label)
    return merge_part(outcomes, listing.problems)


@step(inputs="hash")
def merge_parts(folder_name: str, parts: list[PartFacts]) -> Census:
    """Merge all jobs' findings."""
    with observed():
        return report.merge_census(folder_name, parts)


@step(inputs="hash")
def write_json(whole: Census, out_folder: str) -> str:
    """Write ``census.json``; return its SHA-256."""
    with observed():
        return _written(Path(out_folder, "census.json"), report.render_json(whole))


@step(inputs="hash")
def write_html(whole: Census, out_folder: str) -> str:
    """Write ``census.html``; return its SHA-256."""
    with observed():
        return _written(Path(out_folder, "census.html"), report.render_html(whole))


def _written(path: Path, data: bytes) -> str:
    report.write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


@workflow
def census(folder_name: str, parts: list[PartFacts], out_folder: str) -> str:
    """Merge and write the census; return the SHA-256 of ``census.json``."""
    whole = merge_parts(folder_name, parts)
    digest = write_json(whole, out_folder)
    write_html(whole, out_folder)
    return digest
