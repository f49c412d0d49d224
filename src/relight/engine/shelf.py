"""What a run asks of its engine besides writing: large texts kept by their content, other jobs, questions, fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from relight.authoring.registry import Registry
from relight.clock import Clock
from relight.core.commands import JobRef
from relight.core.commands.jobs import SubmitJob
from relight.core.flow import STOWED
from relight.engine.runner import Conductor
from relight.errors import (
    IdempotencyMismatch,
    StorageCorrupt,
)
from relight.ids import short
from relight.model import DecisionRecord, JobRecord, TokenRecord
from relight.store.store import Store

if TYPE_CHECKING:
    pass


class Shelf:
    """The reading side of an incarnation."""

    store: Store
    clock: Clock
    registry: Registry
    _replace: Mapping[Any, Callable[..., Any]]
    conductor: type[Conductor] = Conductor
    """What the code inside a job talks to; tests that only replay bring their own."""

    def replaced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a test's fake for a step's function, or the function."""
        return self._replace.get(function, function)

    def stow(self, text: str) -> str:
        """Keep a large text by its content, durable before what refers to it; return the reference."""
        import hashlib

        name = hashlib.sha256(text.encode()).hexdigest()
        self.store.put_blob(name, text, self.clock.now_ms())
        return STOWED + name

    def unstow(self, text: str) -> str:
        """Bring a stowed text back."""
        if not text.startswith(STOWED):
            return text
        with self.store.reading() as reads:
            content = reads.blob(text.removeprefix(STOWED))
        if content is None:
            raise StorageCorrupt(f"blob {text.removeprefix(STOWED)[:12]}… is missing from {self.store.place}")
        return content

    def look_job(self, job_id: str) -> JobRecord | None:
        """Return a job with its payloads in full."""
        with self.store.reading() as reads:
            job = reads.job(job_id)
        if job is None or job.outputs is None or not job.outputs.startswith(STOWED):
            return job
        return msgspec.structs.replace(job, outputs=self.unstow(job.outputs))

    def look_token(self, token: str) -> TokenRecord:
        """Return a token's row with its value in full."""
        with self.store.reading() as reads:
            row = reads.token(token)
        if row is None:
            raise StorageCorrupt(f"a token that a job of {self.store.place} handed out is missing from it")
        return row if row.value is None else msgspec.structs.replace(row, value=self.unstow(row.value))

    def open_decisions(self, job_id: str) -> Sequence[DecisionRecord]:
        """Return a job's open questions."""
        with self.store.reading() as reads:
            return [row for row in reads.decisions(job_id) if row.state == "open"]

    def owners_of(self, children: Sequence[SubmitJob]) -> dict[tuple[str, str], JobRef]:
        """Return which jobs own these submits' idempotency keys. Raises ``IdempotencyMismatch``."""
        by_kind: dict[str, dict[str, SubmitJob]] = {}
        for child in children:
            if child.idempotency_key is not None:
                by_kind.setdefault(child.kind, {})[child.idempotency_key] = child
        owners: dict[tuple[str, str], JobRef] = {}
        for kind, keyed in by_kind.items():
            with self.store.reading() as reads:
                jobs = reads.jobs_by_keys(kind, list(keyed))
            for job in jobs:
                key = job.idempotency_key or ""
                if job.inputs_hash != keyed[key].inputs_hash and not self._means_the_same(job, keyed[key]):
                    raise IdempotencyMismatch(
                        f'key "{key}" belongs to {kind} {short(job.job_id)} ({job.state}) with other arguments. '
                        "Use another key, or fork that job",
                        job_id=job.job_id,
                    )
                owners[(kind, key)] = JobRef(job.job_id, job.trace_id, kind)
        return owners

    def _means_the_same(self, owner: JobRecord, child: SubmitJob) -> bool:
        with self.store.reading() as reads:
            job = reads.job(owner.job_id)
        then = self.unstow((job and job.inputs) or "{}")
        return self.registry.are_same_inputs(owner.kind, then, self.unstow(child.inputs))

    def decode_result(self, kind: str, text: str | None, version: str | None = None) -> Any:
        """Decode a job's outputs as its workflow's result, or as plain JSON when the workflow is not known here.

        ``version``: of the workflow that made it, where it is known; else the newest decodes it.
        """
        data = self.unstow(text or "null")
        workflow = self.registry.find_version(kind, version) or self.registry.find(kind)
        if workflow is None:
            return msgspec.json.decode(data)
        return self.registry.signature(workflow.spec.function).result.decode(data.encode())
