"""Submits, once for both colours: from a call to a job on disk, one or many, each under its key at most once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from relight.authoring.registry import as_call, make_submit
from relight.authoring.workflows import Call, SubmitOptions
from relight.client.session import Session
from relight.core import events as ev
from relight.core.changes import Who
from relight.core.commands.engines import Tell
from relight.core.commands.jobs import NoteDuplicate, SubmitJob
from relight.core.commands.steering import (
    ref_of,
)
from relight.core.flow import INLINE_CHARS, STOWED
from relight.core.history import differing
from relight.core.keys import check_name
from relight.errors import (
    Conflict,
    Fenced,
    IdempotencyMismatch,
    InvalidArgument,
    RecoveryPending,
    StorageCorrupt,
)
from relight.ids import short
from relight.model import (
    Actor,
    JobRecord,
)


class Submitting(Session):
    """A session that submits."""

    def submit(self, what: Any, args: Sequence[Any], options: SubmitOptions) -> tuple[str, str, bool]:
        """Submit one job; return its id, its kind, and whether it is new."""
        return self.submit_commands([self.submit_command(what, args, options)])[0]

    def submit_command(self, what: Any, args: Sequence[Any], options: SubmitOptions) -> SubmitJob:
        """Return the command for one submit. Raises what is wrong with it, before anything is written."""
        now_ms = self.clock.now_ms()
        new: dict[str, Any] = {
            "job_id": self.ids.uuid7(now_ms),
            "trace_id": self.ids.uuid7(now_ms),
            "who": Who(Actor.HUMAN, self.actor),
            "now_ms": now_ms,
        }
        if isinstance(what, str):
            return self._submit_by_kind(what, args, options, new)
        call = as_call(what, args, options)
        if self.registry.renew(call.workflow):
            renewed = ev.WorkflowReplaced(job_kind=call.workflow.kind, code_ref=call.workflow.spec.code_ref)
            self.journal.put(Tell(payload=renewed, who=new["who"]), lazy=True)
        elif self.registry.find(call.workflow.kind) is not call.workflow:
            self._must_be_known(call.workflow.kind)
        command = self.registry.submit_command(call, **new)
        return self._stowed(command)

    def _submit_by_kind(self, kind: str, args: Sequence[Any], options: SubmitOptions, new: dict[str, Any]) -> SubmitJob:
        workflow = self.registry.find(kind)
        if workflow is not None:
            return self._stowed(self.registry.submit_command(Call(workflow, tuple(args), {}, options), **new))
        check_name(kind, "kind")
        self._must_be_known(kind)
        if len(args) > 1 or (args and not isinstance(args[0], Mapping)):
            raise InvalidArgument(
                f'submit("{kind}", …): this client does not know its parameters. Give one mapping of parameter names to JSON '
                "values, or Client(workflows=[…])"
            )
        inputs = self.registry.codecs.for_type(Any, what="arguments").encode(
            dict(args[0]) if args else {}, what="arguments"
        )
        return self._stowed(make_submit(kind, inputs.decode(), options, defaults=None, **new))

    def _must_be_known(self, kind: str) -> None:
        with self.store.reading() as reads:
            known = {name for name, _ in reads.kinds()}
        if kind not in known and self.registry.find(kind) is None:
            raise self.registry.unknown(kind, {*known, *self.registry.kinds}, self.store.place)

    def _stowed(self, command: SubmitJob) -> SubmitJob:
        if len(command.inputs) <= INLINE_CHARS:
            return command
        return msgspec.structs.replace(command, inputs=self.stow(command.inputs))

    def submit_commands(self, commands: Sequence[SubmitJob]) -> list[tuple[str, str, bool]]:
        """Submit many jobs, as few transactions as they fit into; return id, kind and newness of each, in order."""
        self.before_submit()
        if self.require_recovered:
            self.refuse_while_owed()
        owners = self._owners(commands)
        fresh = [c for c in commands if (c.kind, c.idempotency_key) not in owners]
        errors = dict(zip((c.job_id for c in fresh), self._apply_all(fresh), strict=True))
        if any(isinstance(error, Conflict) and error.fields.get("op") for error in errors.values()):
            owners |= self._owners(commands)
        return [self._submitted(c, errors.get(c.job_id), owners) for c in commands]

    def _apply_all(self, commands: Sequence[SubmitJob]) -> list[BaseException | None]:
        """Apply submits. What an engine refused because it was fenced in this moment is put through its successor."""
        through = self.journal
        errors = self._apply_through_journal(commands)
        again = [command for command, error in zip(commands, errors, strict=True) if isinstance(error, Fenced)]
        if not again:
            return errors
        self.before_submit()
        if self.journal is through:
            return errors
        later = dict(zip((c.job_id for c in again), self._apply_through_journal(again), strict=True))
        return [later.get(c.job_id, error) for c, error in zip(commands, errors, strict=True)]

    def _apply_through_journal(self, commands: Sequence[SubmitJob]) -> list[BaseException | None]:
        if len(commands) == 1:
            try:
                self.journal.execute(commands[0], patience_seconds=self.patience_seconds)
            except Conflict as error:
                return [error]
            return [None]
        return self.journal.execute_all(commands, patience_seconds=self.patience_seconds) if commands else []

    def _submitted(
        self, command: SubmitJob, error: BaseException | None, owners: dict[tuple[str, str | None], JobRecord]
    ) -> tuple[str, str, bool]:
        owner = owners.get((command.kind, command.idempotency_key)) if command.idempotency_key is not None else None
        if owner is not None and owner.job_id != command.job_id:
            self.refuse_other_inputs(command, owner)
            self.journal.put(
                NoteDuplicate(job=ref_of(owner), idempotency_key=command.idempotency_key or "", who=command.who),
                lazy=True,
            )
            return owner.job_id, owner.kind, False
        if error is not None:
            raise error
        return command.job_id, command.kind, True

    def refuse_other_inputs(self, command: SubmitJob, owner: JobRecord) -> None:
        """Raise ``IdempotencyMismatch`` when the owner of a submit's key was submitted with other arguments."""
        if owner.inputs_hash == command.inputs_hash or self._means_the_same(owner, command):
            return
        raise IdempotencyMismatch(
            f'key "{command.idempotency_key}" belongs to {owner.kind} {short(owner.job_id)} ({owner.state}) with '
            f"{_what_differs(self._inputs_of(owner) or 'null', command.inputs)}. Use another key, or fork that job",
            job_id=owner.job_id,
        )

    def _inputs_of(self, job: JobRecord) -> str | None:
        return job.inputs if job.inputs is not None else self.find(job.job_id).inputs

    def _means_the_same(self, owner: JobRecord, command: SubmitJob) -> bool:
        then = self._in_full(self._inputs_of(owner) or "{}")
        return self.registry.are_same_inputs(owner.kind, then, self._in_full(command.inputs))

    def _in_full(self, text: str) -> str:
        if not text.startswith(STOWED):
            return text
        with self.store.reading() as reads:
            found = reads.blob(text.removeprefix(STOWED))
        if found is None:
            raise StorageCorrupt(f"a payload is missing from {self.store.place}: relight verify")
        return found

    def _owners(self, commands: Sequence[SubmitJob]) -> dict[tuple[str, str | None], JobRecord]:
        keys: dict[str, list[str]] = {}
        for command in commands:
            if command.idempotency_key is not None:
                keys.setdefault(command.kind, []).append(command.idempotency_key)
        found: dict[tuple[str, str | None], JobRecord] = {}
        if keys:
            with self.store.reading() as reads:
                for kind, some in keys.items():
                    for job in reads.jobs_by_keys(kind, some):
                        found[(kind, job.idempotency_key)] = job
        return found

    def refuse_while_owed(self) -> None:
        """Raise ``RecoveryPending`` while runs of dead engines are not accounted for."""
        with self.store.reading() as reads:
            owed = reads.count_running_of_dead()
        if owed:
            raise RecoveryPending(
                f"{owed:,} runs of dead engines in {self.store.place} are not recovered yet; start an engine, or try again soon",
                owed=owed,
                retry_after_seconds=2.0,
            )


def _what_differs(before: str, now: str) -> str:
    if before.startswith(STOWED) or now.startswith(STOWED):
        return "other arguments"
    names = differing(msgspec.json.decode(before), msgspec.json.decode(now))
    return "another " + ", ".join(f'"{name}"' for name in names) if names else "other arguments"


def calls_of(calls: Iterable[Call[Any]]) -> list[Call[Any]]:
    """Return the calls of a ``submit_many``. Raises ``InvalidArgument``."""
    found = list(calls) if isinstance(calls, Iterable) else [calls]
    for call in found:
        if not isinstance(call, Call):
            raise InvalidArgument(f"submit_many takes workflow.bind(…) values, not {call!r}")
    return found
