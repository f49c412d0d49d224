"""Sizes that the record tells are of the payloads themselves; a key's job is found again though a class gained a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.flow.kit import Rig

from relight import start, step, workflow
from relight.core.flow import INLINE_CHARS
from relight.errors import IdempotencyMismatch, JobFailed

LARGE = INLINE_CHARS + 100


@step
def same(text: str) -> str:
    return text


@workflow
def echoes(text: str) -> str:
    return same(text)


@workflow
def starts_one(text: str) -> str:
    return start(echoes, text).result()


@pytest.mark.parametrize("text", ["x" * LARGE, "ä" * LARGE, "ä"], ids=["large", "large and wide", "small and wide"])
@pytest.mark.parametrize("flow", [echoes, starts_one], ids=lambda flow: flow.kind)
def test_sizes_are_of_what_was_stored_wherever_it_is_kept(rig: Rig, flow: Any, text: str) -> None:
    engine = rig.start(echoes, starts_one)
    done = engine.submit(flow, text)
    assert done.result(timeout_seconds=20) == text
    size = len(text.encode()) + 2
    [child] = [info for info in engine.jobs() if info.kind == "echoes"]
    told = {event.type: event.payload for event in engine.job(child.id).events()}
    args = len(msgspec.json.encode({"text": text}))
    assert told["job_accepted"]["inputs_bytes"] == told["step_began"]["args_bytes"] == args
    assert told["step_finished"]["outcome_bytes"] == told["job_completed"]["outputs_bytes"] == size
    fork = engine.job(child.id).fork()
    assert next(fork.events()).payload["inputs_bytes"] == args


@dataclass
class Doc:
    id: int
    text: str = ""


@dataclass
class More(Doc):
    note: str = ""
    tags: list[str] | None = None


def reads_doc(more: bool) -> Any:
    """Return a workflow, and its class of documents, which gained a field with a default."""
    if more:

        @workflow(name="reads")
        def new(doc: More, depth: int = 1) -> int:
            return doc.id

        return new, More

    @workflow(name="reads")
    def old(doc: Doc) -> int:
        return doc.id

    return old, Doc


@pytest.mark.parametrize("text", ["", "x" * LARGE], ids=["small", "large"])
def test_a_field_with_a_default_needs_no_new_key(rig: Rig, text: str) -> None:
    old, doc = reads_doc(False)
    engine = rig.start(old)
    first = engine.submit(old, doc(1, text), idempotency_key="one")
    assert first.result(timeout_seconds=10) == 1
    rig.stop(engine)
    new, more = reads_doc(True)
    engine = rig.start(new)
    again = engine.submit(new, more(id=1, text=text), idempotency_key="one")
    assert (again.id, again.created) == (first.id, False)
    for other in (more(id=2, text=text), more(id=1, text=text, note="b")):
        with pytest.raises(IdempotencyMismatch):
            engine.submit(new, other, idempotency_key="one")
    with pytest.raises(IdempotencyMismatch):
        engine.submit(new.bind(more(id=1, text=text), depth=2).options(idempotency_key="one"))


def test_nor_does_a_child_s(rig: Rig) -> None:
    old, doc = reads_doc(False)
    engine = rig.start(old)
    first = engine.submit(old, doc(1), idempotency_key="one")
    first.result(timeout_seconds=10)
    rig.stop(engine)
    new, more = reads_doc(True)

    @workflow
    def parent(number: int) -> str:
        return start(new.bind(more(id=number)).options(idempotency_key="one")).id

    engine = rig.start(new, parent)
    assert engine.submit(parent, 1).result(timeout_seconds=10) == first.id
    with pytest.raises(JobFailed, match="other arguments"):
        engine.submit(parent, 2).result(timeout_seconds=10)
