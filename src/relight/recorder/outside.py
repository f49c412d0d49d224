"""What passed between a job and the outside, against what its events say: tokens (I-31) and published values (I-32).

Read next: ``verify.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from relight.core import events as ev
from relight.core.flow import digest_of_stored
from relight.model import EventRecord
from relight.recorder.invariants import Findings
from relight.store.audits import AuditedJob, AuditedToken, AuditedValue

ENDS = {"external_completed": "completed", "external_failed": "failed", "external_expired": "expired"}
"""What each answer makes of a token."""

READ = frozenset({"external_created", "published", *ENDS})
"""The kinds that are followed here."""


@dataclass
class _Token:
    made: int = 0
    ends: list[str] = field(default_factory=list)
    value_hash: str | None = None


class OutsideStory:
    """Takes a job's events in commit order; tokens go by the step that made them, values by name."""

    def __init__(self, job: AuditedJob, found: Findings) -> None:
        self._job = job
        self._found = found
        self._tokens: dict[str, _Token] = {}
        self._published: dict[str, str] = {}

    def take(self, event: EventRecord, payload: ev.EventPayload | None) -> None:
        """Follow one event."""
        if isinstance(payload, ev.Published):
            self._published[payload.name] = payload.value_hash
        if event.type not in READ or event.step_key is None or isinstance(payload, ev.Published):
            return
        token = self._tokens.setdefault(event.step_key, _Token())
        if event.type == "external_created":
            token.made += 1
            if token.made > 1:
                self._tell("I-31", f"the token of {event.step_key} was made {token.made} times", event.event_id)
            return
        token.ends.append(ENDS[event.type])
        if isinstance(payload, ev.ExternalCompleted):
            token.value_hash = payload.value_hash
        if len(token.ends) > 1:
            told = ", ".join(token.ends)
            self._tell(
                "I-31", f"the token of {event.step_key} was answered {len(token.ends)} times: {told}", event.event_id
            )

    def _tell(self, invariant: str, detail: str, *ids: object) -> None:
        self._found.add(invariant, detail, self._job.job_id, *ids)

    def check(self, tokens: Iterable[AuditedToken], values: Iterable[AuditedValue]) -> None:
        """Compare the rows with what was told; nothing is said of those of a job in quarantine."""
        if self._job.quarantined:
            for _ in (*tokens, *values):
                pass
            return
        left = dict(self._tokens)
        for row in tokens:
            self._check_token(row, left.pop(row.step_key, _Token()))
        for key in sorted(left):
            self._tell("I-31", f"the token of {key} was told of and has no row")
        unseen = dict(self._published)
        for value in values:
            told = unseen.pop(value.name, None)
            if told is None or (value.value is not None and digest_of_stored(value.value) != told):
                says = "nothing" if told is None else "another value"
                self._tell("I-32", f"what is published as {value.name!r} is not what was told: the events say {says}")
        for name in sorted(unseen):
            self._tell("I-32", f"{name!r} was published by the events and has no row")

    def _check_token(self, row: AuditedToken, told: _Token) -> None:
        key = row.step_key
        if not told.made:
            self._tell("I-31", f"the token of {key} was never handed out by the events")
        ends = told.ends[-1] if told.ends else "open"
        if row.state != ends:
            self._tell("I-31", f"the token of {key} is {row.state}, its events say {ends}")
        elif row.value is not None and told.value_hash is not None and digest_of_stored(row.value) != told.value_hash:
            self._tell("I-31", f"the value of the token of {key} is not the one whose hash was told")
        if row.ended != (row.state != "open"):
            self._tell("J-2", f"the token of {key} is {row.state} and has {'an' if row.ended else 'no'} end time")
