"""What clients and engines do to jobs from outside, once for both colours: submit, look, steer.

``Core`` owns a store, a journal that opens a writer's row with its first write, and the registry. The facades in
``client.py`` and ``engine/facade.py`` are one-line methods over it. Every act is decided on the job as read and applied as a
compare-and-set; when the job moved meanwhile, it is read and decided again.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from relight.authoring.definitions import Call, SubmitOptions
from relight.authoring.registry import Registry, as_call, check_text, make_submit
from relight.client.ends import Ends
from relight.clock import Clock, to_datetime, to_ms
from relight.core.changes import OpenWriter, Who
from relight.core.commands import Command
from relight.core.commands.engines import CloseWriterNow, OpenWriterNow
from relight.core.commands.jobs import NoteDuplicate, SubmitJob
from relight.core.commands.steering import (
    GiveDecision,
    SendSignal,
    SettleDoubt,
    decide_end,
    decide_resume,
    decide_retry,
    ref_of,
)
from relight.core.flow import DOUBT_OPTIONS, INLINE_CHARS, STOWED, digest
from relight.core.keys import check_name
from relight.core.why import explain, summary_of
from relight.errors import (
    Conflict,
    Fenced,
    IdempotencyMismatch,
    InvalidArgument,
    NotFound,
    RecoveryPending,
    StorageUnavailable,
)
from relight.ids import EngineId, Ids, JobId, StepKey, short
from relight.model import (
    FINAL_STATES,
    Actor,
    DecisionRecord,
    Event,
    EventRecord,
    GateState,
    JobInfo,
    JobRecord,
    JobState,
    Progress,
    Role,
    StepState,
    Why,
)
from relight.recorder.facts import gather_facts
from relight.store.journal import Journal
from relight.store.reads import EventFilter, JobFilter
from relight.store.store import Store
from relight.version import VERSION

PATIENCE_SECONDS = 5.0
"""How long a client's write waits for a store that refuses."""
TRIES = 8
"""How often an act is decided anew when its job keeps moving."""


def default_actor() -> str:
    """Return who acts when nobody says: the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"


class Core:
    """See the module. ``journal`` is given by an engine; a client's own is made by ``open_journal``."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        ids: Ids,
        *,
        actor: str | None,
        require_recovered: bool = False,
    ) -> None:
        self.store = store
        self.registry = registry
        self.clock = clock
        self.ids = ids
        self.actor = check_text(actor, "actor", 200) or default_actor()
        self.require_recovered = require_recovered
        self.ends = Ends(store, clock)
        self.before_submit: Callable[[], None] = lambda: None
        self.patience_seconds: float | None = PATIENCE_SECONDS
        self._journal: Journal | None = None

    # the writer

    @property
    def journal(self) -> Journal:
        """The journal that this core's writes go through."""
        if self._journal is None:
            raise StorageUnavailable(f"{self.store.place} is not open; use: with Client(…) as client")
        return self._journal

    def use_journal(self, journal: Journal) -> None:
        """Write through this journal from now on."""
        self._journal = journal

    def open_journal(self) -> None:
        """Make a client's own journal. Nothing is written before the first act."""
        client_id = EngineId(self.ids.uuid7(self.clock.now_ms()))
        self._journal = Journal(self.store, client_id, lambda: self._opening(client_id), clock=self.clock, ids=self.ids)
        self._journal.start()

    def _opening(self, client_id: EngineId) -> Command:
        now_ms = self.clock.now_ms()
        with self.store.reading() as reads:
            heads = tuple(reads.unnamed_heads())
        row = OpenWriter(
            client_id,
            Role.CLIENT,
            self.actor,
            GateState.OPEN,
            "",
            "",
            "",
            os.getpid(),
            VERSION,
            0,
            0,
            now_ms,
            "[]",
            None,
        )
        return OpenWriterNow(row=row, heads=heads, who=Who(Actor.SYSTEM, client_id))

    def close(self) -> None:
        """Close the client's writer, if it ever wrote, and its waits."""
        self.ends.stop()
        journal, self._journal = self._journal, None
        if journal is None:
            return
        if journal.opened and not journal.fenced:
            try:
                journal.execute(CloseWriterNow(engine_id=journal.engine_id), patience_seconds=2)
            except (Conflict, StorageUnavailable):
                pass  # its row stays live: nobody minds, it owns no runs
        journal.close(timeout_seconds=2)

    def who(self, by: str | None) -> Who:
        """Return a person as an actor."""
        return Who(Actor.HUMAN, check_text(by, "by", 200) or self.actor)

    # submitting

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
        known = self.registry.find(call.workflow.kind)
        if known is None or known is not call.workflow:
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
        import hashlib

        name = hashlib.sha256(command.inputs.encode()).hexdigest()
        self.store.put_blob(name, command.inputs, self.clock.now_ms())
        return msgspec.structs.replace(command, inputs=STOWED + name)

    def submit_commands(self, commands: Sequence[SubmitJob]) -> list[tuple[str, str, bool]]:
        """Submit many jobs, as few transactions as they fit into; return id, kind and newness of each, in order."""
        self.before_submit()
        if self.require_recovered:
            self._refuse_while_owed()
        owners = self._owners(commands)
        fresh = [c for c in commands if (c.kind, c.idempotency_key) not in owners]
        errors = dict(zip((c.job_id for c in fresh), self._apply_all(fresh), strict=True))
        if any(isinstance(error, Conflict) and error.fields.get("op") for error in errors.values()):
            owners |= self._owners(commands)
        return [self._submitted(c, errors.get(c.job_id), owners) for c in commands]

    def _apply_all(self, commands: Sequence[SubmitJob]) -> list[BaseException | None]:
        if len(commands) == 1:
            try:
                self.journal.execute(commands[0], patience_seconds=self.patience_seconds)
            except Conflict as error:
                return [error]
            return [None]
        return self.journal.execute_all(commands) if commands else []

    def _submitted(
        self, command: SubmitJob, error: BaseException | None, owners: dict[tuple[str, str | None], JobRecord]
    ) -> tuple[str, str, bool]:
        owner = owners.get((command.kind, command.idempotency_key)) if command.idempotency_key is not None else None
        if owner is not None and owner.job_id != command.job_id:
            if owner.inputs_hash != command.inputs_hash:
                raise IdempotencyMismatch(
                    f'key "{command.idempotency_key}" belongs to {owner.kind} {short(owner.job_id)} ({owner.state}) with other '
                    "arguments. Use another key, or fork that job",
                    job_id=owner.job_id,
                )
            self.journal.put(
                NoteDuplicate(job=ref_of(owner), idempotency_key=command.idempotency_key or "", who=command.who),
                lazy=True,
            )
            return owner.job_id, owner.kind, False
        if error is not None:
            raise error
        return command.job_id, command.kind, True

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

    def _refuse_while_owed(self) -> None:
        with self.store.reading() as reads:
            owed = reads.count_running_of_dead()
        if owed:
            raise RecoveryPending(
                f"{owed:,} runs of dead engines in {self.store.place} are not recovered yet; start an engine, or try again soon",
                owed=owed,
                retry_after_seconds=2.0,
            )

    # looking

    def find(self, job_id: str) -> JobRecord:
        """Return a job. Raises ``NotFound``."""
        with self.store.reading() as reads:
            job = reads.job(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id} in {self.store.place}. relight jobs lists them", job_id=job_id)
        return job

    def find_by_key(self, kind: str, idempotency_key: str) -> JobRecord:
        """Return the job that owns a key. Raises ``NotFound``."""
        with self.store.reading() as reads:
            job = reads.job_by_key(kind, idempotency_key)
        if job is None:
            raise NotFound(f'no {kind} in {self.store.place} has the key "{idempotency_key}"', kind=kind)
        return job

    def list_jobs(
        self,
        *,
        kind: str | None,
        state: JobState | str | Sequence[JobState | str] | None,
        queue: str | None,
        tags: Mapping[str, str] | None,
        since: Any,
        limit: int,
    ) -> list[JobInfo]:
        """Return a page of jobs, newest first."""
        states = () if state is None else (state,) if isinstance(state, str) else tuple(state)
        try:
            wanted = tuple(JobState(each) for each in states)
        except ValueError as error:
            raise InvalidArgument(f"state: {error}; one of {', '.join(JobState)}") from None
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InvalidArgument(f"limit={limit!r}: a whole number, 0 for all")
        try:
            since_ms = 0 if since is None else to_ms(since)
        except ValueError as error:
            raise InvalidArgument(f"since: {error}") from None
        which = JobFilter(kind=kind, states=wanted, queue=queue, tags=tags, since_ms=since_ms, limit=limit)
        with self.store.reading() as reads:
            return [info_of(job) for job in reads.jobs(which)]

    def why(self, job_id: str) -> Why:
        """Explain a job. Raises ``NotFound``."""
        self.find(job_id)
        with self.store.reading(snapshot=True) as reads:
            return explain(gather_facts(reads, JobId(job_id), self.clock.now_ms()))

    def info(self, job_id: str) -> JobInfo:
        """Return a snapshot of a job."""
        return info_of(self.find(job_id))

    def events(self, job_id: str, *, follow: bool) -> Iterator[Event]:
        """Yield a job's events in commit order; with ``follow``, until it has ended and all of it was told."""
        after = 0
        token = self.store.watch()
        while True:
            ended = self.find(job_id).state in FINAL_STATES
            seen = token()
            while True:
                with self.store.reading() as reads:
                    page = reads.events(EventFilter(job_id=job_id, after=after, limit=500))
                for row in page:
                    after = row.seq
                    yield event_of(row)
                if len(page) < 500:
                    break
            if not follow or ended:
                return
            self._until_changed(token, seen)

    def _until_changed(self, token: Callable[[], int], seen: int) -> None:
        import threading

        condition = threading.Condition()
        waited = 0
        while token() == seen and waited < 1000:
            with condition:
                self.clock.wait(condition, 10)
            waited += 10

    # steering

    def _act(self, job_id: str, decide: Callable[[JobRecord], Command]) -> None:
        """Decide on the job as it is, and apply; decide again when it moved meanwhile."""
        for attempt in range(TRIES):
            command = decide(self.find(job_id))
            try:
                self.journal.execute(command, patience_seconds=self.patience_seconds)
            except Fenced:
                raise
            except Conflict:
                if attempt == TRIES - 1:
                    raise
            else:
                return

    def signal(self, job_id: str, name: str, payload: object, *, by: str | None, idempotency_key: str | None) -> None:
        """Deliver a message. Raises ``NotFound``, ``Conflict`` when the job has ended, ``NotSerializable``."""
        check_name(name, "signal")
        check_text(idempotency_key, "idempotency_key")
        what = f"payload of signal {name!r}"
        text = self.registry.codecs.for_type(type(payload), what=what).encode(payload, what=what).decode()
        signal_id = self.ids.uuid7(self.clock.now_ms())

        def decide(job: JobRecord) -> Command:
            self._refuse_ended(job, "take a signal")
            return SendSignal(
                job=ref_of(job),
                signal_id=signal_id,
                name=name,
                payload=text,
                payload_hash=digest(text),
                idempotency_key=idempotency_key,
                who=self.who(by),
            )

        if idempotency_key is not None and self._was_sent(job_id, name, idempotency_key, text):
            return
        try:
            self.journal.execute(decide(self.find(job_id)), patience_seconds=self.patience_seconds)
        except Fenced:
            raise
        except Conflict:
            self._refuse_ended(self.find(job_id), "take a signal")
            if idempotency_key is None or not self._was_sent(job_id, name, idempotency_key, text):
                raise

    def _was_sent(self, job_id: str, name: str, key: str, text: str) -> bool:
        with self.store.reading() as reads:
            known = reads.signal_by_key(job_id, name, key)
        if known is not None and known.payload != text:
            raise IdempotencyMismatch(
                f'signal {name!r} was sent to {short(job_id)} under the key "{key}" with another payload', job_id=job_id
            )
        return known is not None

    @staticmethod
    def _refuse_ended(job: JobRecord, verb: str) -> None:
        if job.state in FINAL_STATES:
            raise Conflict(
                f"{job.kind} {short(job.job_id)} is {job.state} and cannot {verb}", job_id=job.job_id, state=job.state
            )

    def end(self, job_id: str, *, code: str, reason: str | None, by: str | None, force: bool = False) -> None:
        """Cancel a job, or fail it. Asking twice is well; what has ended otherwise raises ``IllegalTransition``."""
        check_text(reason, "reason", 2000)

        def decide(job: JobRecord) -> Command:
            if job.cancel_code is not None and job.state not in FINAL_STATES and not force:
                raise _AlreadyAsked
            opened = [row.decision_id for row in self._decisions(job_id) if row.state == "open"] if force else []
            return decide_end(job, self.who(by), code=code, reason=reason, force=force, open_decisions=opened)

        try:
            self._act(job_id, decide)
        except _AlreadyAsked:
            return

    def _decisions(self, job_id: str) -> list[DecisionRecord]:
        with self.store.reading() as reads:
            return reads.decisions(job_id)

    def resume(self, job_id: str, *, by: str | None) -> None:
        """Queue a stalled or mismatched job again."""
        self._act(job_id, lambda job: decide_resume(job, self.who(by)))

    def retry(self, job_id: str, *, by: str | None, all_failed: bool = False) -> None:
        """Queue a failed or poisoned job again: the failed step that ended it runs again, finished ones do not.

        With ``all_failed`` every failed step runs again, also one whose failure the job's code had caught.
        """

        def decide(job: JobRecord) -> Command:
            return decide_retry(job, self.who(by), self._failures_that_ended(job, all_failed=all_failed))

        self._act(job_id, decide)

    def _failures_that_ended(self, job: JobRecord, *, all_failed: bool) -> list[StepKey]:
        """Return the failed steps whose failure reached the end of the job (all failed arms of a parallel), or all."""
        with self.store.reading() as reads:
            failed = [step for step in reads.steps(job.job_id) if step.state is StepState.FAILED]
        if all_failed:
            return [step.step_key for step in failed]
        failure = msgspec.json.decode(job.error) if job.error else {}
        key = failure.get("step_key")
        if key is not None:
            return [step.step_key for step in failed if step.step_key == key]
        if failure.get("type") == "ExceptionGroup":
            return [step.step_key for step in failed]
        declared = failure.get("type")
        return [s.step_key for s in failed if s.error and msgspec.json.decode(s.error).get("type") == declared]

    def answer(
        self,
        job_id: str,
        choice: str,
        *,
        decision_id: str | None,
        note: str | None,
        by: str | None,
        value: str | None = None,
    ) -> None:
        """Answer a job's open question. Raises ``Conflict`` when there is none, ``InvalidArgument`` for no such choice."""
        check_text(note, "note", 4000)
        job = self.find(job_id)
        row = self._open_question(job, decision_id)
        options: list[str] = msgspec.json.decode(row.options)
        if choice not in options:
            raise InvalidArgument(f'"{choice}" is not one of the choices: {", ".join(options)}', job_id=job_id)
        if row.expires_at is not None and row.expires_at <= self.clock.now_ms():
            raise Conflict(
                f"the question {row.question!r} expired at {to_datetime(row.expires_at):%Y-%m-%d %H:%M} UTC",
                job_id=job_id,
            )
        command = GiveDecision(
            job=ref_of(job),
            decision_id=row.decision_id,
            choice=choice,
            note=note,
            preview_hash=row.preview_hash,
            who=self.who(by),
            value=value,
        )
        try:
            self.journal.execute(command, patience_seconds=self.patience_seconds)
        except Fenced:
            raise
        except Conflict:
            raise Conflict(
                f"the question {row.question!r} was answered or withdrawn in the same moment", job_id=job_id
            ) from None

    def _open_question(self, job: JobRecord, decision_id: str | None) -> DecisionRecord:
        self._refuse_ended(job, "take an answer")
        opened = [
            row for row in self._decisions(job.job_id) if row.state == "open" and decision_id in (None, row.decision_id)
        ]
        if not opened:
            raise Conflict(f"{job.kind} {short(job.job_id)} has no open question", job_id=job.job_id)
        if len(opened) > 1:
            listed = "; ".join(f"{row.decision_id}: {row.question}" for row in opened)
            raise InvalidArgument(
                f"{short(job.job_id)} has {len(opened)} open questions; name one by decision_id: {listed}"
            )
        return opened[0]

    def settle(self, job_id: str, step_key: str, *, verdict: str, value: str | None, by: str | None) -> None:
        """Settle a step in doubt ahead of replay: ``verdict`` is done (with a value as JSON), not_done, or fail."""
        if verdict not in DOUBT_OPTIONS:
            raise InvalidArgument(f"verdict={verdict!r}: one of {', '.join(DOUBT_OPTIONS)}", job_id=job_id)
        if value is not None:
            try:
                msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise InvalidArgument(f"--value {value!r} is not JSON: {error}") from None
        job = self.find(job_id)
        self._refuse_ended(job, "be settled")
        for row in self._decisions(job_id):
            if row.state == "open" and row.step_key.startswith(f"{step_key}?"):
                self.answer(job_id, verdict, decision_id=row.decision_id, note=None, by=by, value=value)
                return
        with self.store.reading() as reads:
            step = next((s for s in reads.steps(job_id) if s.step_key == step_key), None)
        if step is None or step.state is not StepState.IN_DOUBT:
            raise Conflict(
                f"{step_key} of {job.kind} {short(job_id)} is not in doubt. relight why {short(job_id)} lists what is"
            )
        command = SettleDoubt(
            job=ref_of(job), step_key=StepKey(step_key), verdict=verdict, value=value, who=self.who(by)
        )
        self.journal.execute(command, patience_seconds=self.patience_seconds)


class _AlreadyAsked(Exception):
    """The job was asked to end before."""


def info_of(job: JobRecord) -> JobInfo:
    """Return what users are shown of a job's row."""
    progress = None
    if job.progress:
        said = msgspec.json.decode(job.progress)
        progress = Progress(said.get("done") or 0, said.get("total"), said.get("note"), to_datetime(said["at"]))
    return JobInfo(
        id=job.job_id,
        kind=job.kind,
        state=job.state,
        status_reason=job.status_reason,
        attempt=job.attempt,
        created_at=to_datetime(job.created_at),
        completed_at=None if job.completed_at is None else to_datetime(job.completed_at),
        tags=msgspec.json.decode(job.tags) if job.tags else {},
        progress=progress,
        summary=summary_of(job),
    )


def event_of(row: EventRecord) -> Event:
    """Return what users are shown of an event's row."""
    return Event(
        seq=row.seq,
        event_id=row.event_id,
        type=row.type,
        timestamp=to_datetime(row.ts),
        actor=row.actor,
        actor_id=row.actor_id,
        trace_id=row.trace_id,
        engine_id=row.engine_id,
        writer_id=row.writer_id,
        writer_seq=row.writer_seq,
        job_id=row.job_id,
        run_id=row.run_id,
        step_key=row.step_key,
        payload=msgspec.json.decode(row.payload),
    )


def calls_of(calls: Iterable[Call[Any]]) -> list[Call[Any]]:
    """Return the calls of a ``submit_many``. Raises ``InvalidArgument``."""
    found = list(calls)
    for call in found:
        if not isinstance(call, Call):
            raise InvalidArgument(f"submit_many takes workflow.bind(…) values, not {call!r}")
    return found
