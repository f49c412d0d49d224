"""The rules of tokens in the reference: one answer, in time, while its job has not ended."""

from __future__ import annotations

from typing import Any

from tests.model.tables import Ground, need, put

from relight.core.commands import outside as co
from relight.model import FINAL_STATES, StepKind, StepState, TokenRecord


class TokenRules(Ground):
    """See the module."""

    def _make_token(self, c: co.MakeToken, now: int) -> None:
        self.begin(c.job, c.step_key, now, kind=StepKind.TOKEN, name=c.name, state=StepState.RUNNING)
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)
        need(c.token not in self.t.tokens)
        self.t.tokens[c.token] = TokenRecord(
            token=c.token,
            job_id=c.job.job_id,
            step_key=c.step_key,
            name=c.name,
            type=c.type,
            created_at=now,
            expires_at=c.expires_at,
            heartbeat_ms=c.heartbeat_ms,
            beat_at=now,
        )
        self.tell("external_created", c.job)

    def _open_token(self, c: Any) -> TokenRecord:
        row = self.t.tokens.get(c.token)
        need(row is not None and row.job_id == c.job.job_id and row.state == "open")
        need(self.job(c.job).state not in FINAL_STATES)
        assert row is not None
        return row

    def _in_time(self, c: Any, now: int) -> TokenRecord:
        row = self._open_token(c)
        need(row.expires_at is None or row.expires_at > now)
        return row

    def _complete_token(self, c: co.CompleteToken, now: int) -> None:
        row = self._in_time(c, now)
        self.t.tokens[c.token] = put(row, state="completed", value=c.value, by=c.who.id, ended_at=now)
        self.wake(c.job.job_id, c.token, now, decided=False)
        self.tell("external_completed", c.job)

    def _fail_token(self, c: co.FailToken, now: int) -> None:
        row = self._in_time(c, now)
        self.t.tokens[c.token] = put(row, state="failed", error=c.error, by=c.who.id, ended_at=now)
        self.wake(c.job.job_id, c.token, now, decided=False)
        self.tell("external_failed", c.job)

    def _beat_token(self, c: co.BeatTokenNow, now: int) -> None:
        row = self._in_time(c, now)
        self.t.tokens[c.token] = put(row, beat_at=max(row.beat_at, now), note=c.note or row.note)

    def _expire_token(self, c: co.ExpireToken, now: int) -> None:
        row = self._open_token(c)
        silent = row.heartbeat_ms is not None and row.beat_at + row.heartbeat_ms <= now
        need(silent or (row.expires_at is not None and row.expires_at <= now))
        self.t.tokens[c.token] = put(row, state="expired", ended_at=now)
        self.update(c.job, c.step_key, StepState.COMPLETED, now=now, outcome=c.outcome)
        self.tell("external_expired", c.job)
