"""Causes why nobody takes a job that may be taken: engines, gates, kinds, queues, slots.

They are asked in the order in which a claim meets them: is there an engine, does it know the kind, is its gate open, is
there room. The first obstacle is the cause; a job without one is simply next in line. Read next: ``why_ends.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from relight.core.able import consumes, fits, kinds_of
from relight.core.terms import Terms, terms_of
from relight.core.why_acts import Act
from relight.core.why_case import Case, Found, engine_words
from relight.core.why_words import count, listed, ordinal, plain
from relight.ids import short
from relight.model import EngineRecord, EngineState, GateState


def line(case: Case) -> list[Found]:
    """Return why a job that may be claimed is not claimed yet; always one cause."""
    obstacle = nobody_able(case) or _gate(case, _able(case))
    if obstacle is not None:
        return [obstacle]
    return [_paused(case) or _draining(case) or _rate(case) or waiting_thread(case) or _full(case) or _in_line(case)]


def nobody_able(case: Case) -> Found | None:
    """Return why no engine could take this job even with all the room there is; None when one can."""
    heard = case.heard_of()
    if not heard:
        return _no_engine(case)
    job = case.job
    knowing = [e for e in heard if job.kind in kinds_of(e)]
    if not knowing:
        return _unable(case, "kind_not_registered", heard, _none(heard, "know", f'the kind "{plain(job.kind, 60)}"'))
    fitting = [e for e in knowing if fits(job, e)]
    if not fitting:
        versions = sorted({version for e in knowing for version in kinds_of(e)[job.kind]})
        have = listed([f"version {plain(v, 60)}" if v else "one without a version" for v in versions])
        began = f"it began under version {plain(job.version, 60)}" if job.version else "it began without a version"
        because = f"{began}, and the {_live(knowing)} {'has' if len(knowing) == 1 else 'have'} {have}"
        return _unable(case, "kind_version_not_registered", knowing, because, frozenset({Act.REROUTE}))
    if not any(consumes(e, job.queue) for e in fitting):
        return _unable(case, "no_engine", fitting, _none(fitting, "take", f"from queue {plain(job.queue, 60)}"))
    return None


def gates(case: Case) -> Found | None:
    """Return the gate that keeps every able engine from acting on this job; None when one is open."""
    return _gate(case, _able(case))


def _able(case: Case) -> list[EngineRecord]:
    job = case.job
    return [e for e in case.heard_of() if job.kind in kinds_of(e) and fits(job, e) and consumes(e, job.queue)]


def _live(engines: Sequence[EngineRecord]) -> str:
    return count(len(engines), "live engine")


def _none(engines: Sequence[EngineRecord], verb: str, what: str) -> str:
    if len(engines) == 1:
        return f"{engine_words(engines[0])}, the only live one, does not {verb} {what}"
    return f"none of the {_live(engines)} {verb}s {what}"


def _queued(case: Case) -> str:
    return f"{case.who} is queued {case.words.since(case.waits_since)}"


def _unable(
    case: Case, code: str, engines: Sequence[EngineRecord], because: str, acts: frozenset[Act] = frozenset()
) -> Found:
    return Found(
        code=code,
        since=case.waits_since,
        sentence=f"{_queued(case)} and nobody can take it: {because}",
        detail=f"{because} ({listed([engine_words(e) for e in engines])})",
        evidence=case.evidence("job_accepted"),
        acts=acts,
    )


def _no_engine(case: Case) -> Found:
    last = max((e for e in case.facts.engines if e.state is EngineState.LIVE), key=lambda e: e.beat_at, default=None)
    if last is None:
        heard = "no engine runs on this store"
        then = "start one: relight worker MODULE"
    else:
        heard = f"no engine is heard of: {engine_words(last)} spoke last {case.words.past(last.beat_at)} ago"
        then = "if it is dead, start one: relight worker MODULE"
    return Found(
        code="no_engine",
        since=max(case.waits_since, last.lease_until if last is not None else 0),
        sentence=f"{_queued(case)} and {heard} ({then})",
        detail=f"{heard}; {then}",
        evidence=case.evidence("job_accepted"),
    )


def _gate(case: Case, able: Sequence[EngineRecord]) -> Found | None:
    if not able or any(e.gate is GateState.OPEN for e in able):
        return None
    failed = next((e for e in able if e.gate is GateState.FAILED), None)
    engine = failed or able[0]
    marks = [
        m
        for m in case.facts.gate_marks
        if m.type in ("gate_failed", "recovery_failed", "recovery_started", "engine_started")
    ]
    evidence = tuple(m.event_id for m in marks[:1])
    since = engine.started_at
    if failed is not None:
        reason = plain(engine.gate_detail or "no reason is recorded")
        return Found(
            code="gate_failed",
            since=since,
            sentence=f"{case.who} waits for recovery, which fails in {engine_words(engine)}: {reason}; it is tried again by itself",
            detail=f"{engine_words(engine)} cannot finish its recovery: {reason}",
            evidence=evidence,
        )
    live = case.facts.live
    far = live.recovering if live is not None and live.engine_id == engine.engine_id else None
    counted = f"{far[0]:,} of {far[1]:,} runs, " if far is not None else ""
    return Found(
        code="gate_closed",
        since=since,
        sentence=f"{case.who} waits for the gate: {engine_words(engine)} is still recovering ({counted}{case.words.past(since)} so far)",
        detail=f"{engine_words(engine)} accounts for the last crash first; its gate opens by itself",
        evidence=evidence,
    )


def _paused(case: Case) -> Found | None:
    queue = case.facts.line.queue if case.facts.line is not None else None
    if queue is None or not queue.paused:
        return None
    name = plain(queue.queue, 60)
    since = max(queue.updated_at, case.waits_since)
    by = f" by {plain(queue.override_by, 60)}" if queue.override_by else ""
    return Found(
        code="queue_paused",
        since=since,
        sentence=f"{case.who} is queued: queue {name} was paused{by} {case.words.since(queue.updated_at)}",
        detail=f"queue {name} is paused{by}; nothing of it starts until it is resumed",
        acts=frozenset({Act.UNPAUSE}),
    )


def _draining(case: Case) -> Found | None:
    live = case.facts.live
    if live is None or live.draining_since is None or {e.engine_id for e in _able(case)} != {live.engine_id}:
        return None
    engine = case.engine_name(live.engine_id)
    return Found(
        code="draining",
        since=live.draining_since,
        sentence=f"{_queued(case)}: {engine} is stopping and takes nothing new; the next engine does",
        detail=f"{engine} has been draining for {case.words.past(live.draining_since)}",
    )


def _rate(case: Case) -> Found | None:
    until = case.facts.live.rate_limited_until if case.facts.live is not None else None
    if until is None and case.facts.line is not None:
        until = case.facts.line.rate_until
    if until is None or until <= case.facts.now_ms:
        return None
    queue = plain(case.job.queue, 60)
    terms = terms_of(case.facts.line.queue) if case.facts.line is not None else Terms()
    rate = f" of {terms.rate}" if terms.rate is not None else ""
    return Found(
        code="rate_limited",
        since=case.waits_since,
        sentence=f"{_queued(case)}: queue {queue} has used up its rate{rate} {case.words.until(until)}",
        detail=f"queue {queue} has used up its rate{rate}; the next start is possible then, {_place(case)}",
        next_ms=until,
    )


def waiting_thread(case: Case) -> Found | None:
    """Return that a sync job waits for a thread; None when it does not, or that is not known."""
    since = case.facts.live.thread_wait_since if case.facts.live is not None else None
    if since is None:
        return None
    return Found(
        code="waiting_thread",
        since=since,
        sentence=f"{case.who} waits for a free thread {case.words.since(since)}: all threads of its engine are at work",
        detail="all threads of its engine are at work (Engine(threads=…))",
        evidence=case.evidence("run_started"),
    )


def _full(case: Case) -> Found | None:
    facts = case.facts.line
    if facts is None:
        return None
    queue, slots = plain(case.job.queue, 60), terms_of(facts.queue)
    running = sum(facts.load.values())
    holders = listed([f"{short(job_id)} ({case.words.past(since)})" for job_id, since in facts.holders], of=running)
    able = _able(case)
    if slots.slots is not None and running >= slots.slots:
        full = f"queue {queue} is full, {running:,} of {slots.slots:,} slots held by {holders or 'others'}"
    elif (each := slots.per_engine_slots) is not None and all(facts.load.get(e.engine_id, 0) >= each for e in able):
        full = f"queue {queue} is full in each of {count(len(able), 'engine')}, {each:,} slots each, held by {holders or 'others'}"
    elif case.facts.live is not None and case.facts.live.free_slots == 0 and len(able) == 1:
        full = f"all slots of {engine_words(able[0])} are taken"
    else:
        return None
    place = f"; it is {_place(case)}"
    return Found(
        code="no_free_slot",
        since=case.waits_since,
        sentence=f"{case.who} is queued: {full}{place}",
        detail=f"{full}{place}",
        evidence=case.evidence("job_accepted"),
    )


def _in_line(case: Case) -> Found:
    place = _place(case, first="next")
    able = listed([engine_words(e) for e in _able(case)])
    return Found(
        code="in_line",
        since=case.waits_since,
        sentence=f"{_queued(case)} and {place} for {able}",
        detail=f"{place} in queue {plain(case.job.queue, 60)} for {able}",
        evidence=case.evidence("job_accepted"),
    )


def _place(case: Case, first: str = "1st") -> str:
    """Say where a job stands in its queue; under a partition key, where it stands among the jobs of that key."""
    ahead = case.facts.line.ahead if case.facts.line is not None else 0
    place = f"{ordinal(ahead + 1)} in line" if ahead else f"{first} in line"
    key = case.job.partition_key
    return place if key is None else f"{place} of partition {plain(key, 40)}, which takes turns with the others"
