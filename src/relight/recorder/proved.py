"""What the locks prove of the engines in a job's facts, before any recovery has written it down.

Rows say that a killed engine is live until somebody recovers it. Whoever explains a job on the engine's own host can do
better: a free lock is proof of death. Nothing is written. Read next: ``core/why.py``.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from relight.core.why_facts import Facts
from relight.ids import EngineId
from relight.model import EngineRecord, EngineState
from relight.proof.lockfile import probe, state_dir_for


def as_proved(facts: Facts, place: str) -> Facts:
    """Return facts in which every engine marked live whose lock is free is dead. ``place`` is the store's."""
    return _as_proved(facts, place, {})


def _as_proved(facts: Facts, place: str, known: dict[EngineId, bool]) -> Facts:
    owner = facts.store.owner
    return replace(
        facts,
        engines=tuple(_one(engine, place, known) for engine in facts.engines),
        store=facts.store if owner is None else msgspec.structs.replace(facts.store, owner=_one(owner, place, known)),
        children={child: _as_proved(below, place, known) for child, below in facts.children.items()},
    )


def _one(engine: EngineRecord, place: str, known: dict[EngineId, bool]) -> EngineRecord:
    if engine.state is not EngineState.LIVE:
        return engine
    if engine.engine_id not in known:
        found = probe(state_dir_for(place), engine.engine_id, engine.nonce)
        known[engine.engine_id] = found.decides and not found.locked
    return msgspec.structs.replace(engine, state=EngineState.DEAD) if known[engine.engine_id] else engine
