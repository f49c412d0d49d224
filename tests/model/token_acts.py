"""What may be done to tokens: see ``acts.py``."""

from __future__ import annotations

from typing import Any

from tests.model.driver import Driver, odd

from relight.conformance.world import ANN
from relight.core.commands import Command
from relight.core.commands import outside as co
from relight.core.commands import steering as cs
from relight.core.commands import steps as ct
from relight.core.flow import digest
from relight.ids import StepKey
from relight.model import StepKind, TokenRecord


class TokenActs(Driver):
    """See the module. ``n`` and ``m`` choose; ``wait`` leaves the command to be written with the next."""

    def make_token(self, n: int, m: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        key = StepKey(f"external:scan#{m % 2}")
        if (run.job_id, key) in self.reference.t.steps:
            return
        token = f"ext_{self.world.ids.token()}"
        command = co.MakeToken(
            job=run,
            step_key=key,
            token=token,
            name="scan",
            type=None,
            expires_at=None if m % 3 else self.world.clock.now_ms() + 1000,
            heartbeat_ms=(None, 500)[m % 5 == 0],
            outcome=f'"{token}"',
        )
        self.go(engine, command, wait)

    def a_token(self, n: int) -> TokenRecord | None:
        """Choose a token: nearly always one that is open."""
        tokens = list(self.reference.t.tokens.values())
        return self.some(tokens if odd(n) else [row for row in tokens if row.state == "open"], n)

    def wait_token(self, n: int, m: int, wait: bool) -> None:
        engine, run = self.a_run(n)
        row = self.some([row for row in self.reference.t.tokens.values() if row.job_id == run.job_id], m)
        if row is None:
            return
        key = StepKey(f"wait:scan#{row.step_key[-1]}")
        waiting = self.reference.t.steps.get((run.job_id, key))
        begin = ct.BeginWait(
            job=run, step_key=key, kind=StepKind.EXTERNAL, name="scan", until=None, waits_for=row.token
        )
        expire = co.ExpireToken(
            job=run,
            step_key=key,
            token=row.token,
            token_key=row.step_key,
            name="scan",
            reason="timeout",
            outcome='"expired"',
        )
        self.go(engine, begin if waiting is None or m % 3 == 0 else expire, wait)

    def answer_token(self, n: int, m: int, how: str, wait: bool) -> None:
        row = self.a_token(n)
        if row is None:
            return
        ref = cs.ref_of(self.reference.t.jobs[row.job_id])
        said: dict[str, Any] = {"job": ref, "step_key": row.step_key, "token": row.token, "name": "scan", "who": ANN}
        command: Command
        match how:
            case "complete":
                command = co.CompleteToken(value=str(m), value_hash=digest(str(m)), value_bytes=len(str(m)), **said)
            case "fail token":
                command = co.FailToken(error="broken", **said)
            case _:
                self.write_all()  # of an answer and a beat in one batch the beat may count first
                command = co.BeatTokenNow(job=ref, token=row.token, note=f"at {m}" if m % 2 else None)
                wait = False
        self.go(self.client, command, wait)
