"""The durable logic of one step: replay, tries, doubt. Written once, as a generator that yields requests.

A sync and an async driver of a few lines interpret the requests (``engine/runner.py``); there is no I/O here, no clock,
no thread. In the order things happen to a step:

1. Its key was taken when it was called. A finished record is returned as it was recorded, after its arguments were
   compared; other arguments, or a record ahead in this branch while this step has none, stop the job (``Mismatch``).
2. ``Enter`` asks whether anything may begin now: not while the run is being put away, not after a cancel.
3. A step **in doubt** (it had begun when its engine died, or a try ended without a certain answer) is settled before
   every next try: ``retry`` calls again, ``fail`` fails it, ``ask`` asks a person, ``reconcile`` calls its function.
4. The begin record: durable *before* the call for every policy but ``retry``, where it rides along.
5. ``Invoke`` calls the function. What comes back is encoded, recorded, and decoded again: the first run gets what a
   replay gets. A failure is recorded with what follows: another try at a stored time, doubt, or the end.

Certain is a result, a declared error (``raises=``) and a ``StepError`` (its author says what it means); anything else (a
time-out, a lost connection, a crash) leaves open whether the work happened. A crash is not a failed try: a try that was
cut keeps its number. The waits are in ``waits.py``. Read next: ``store/store.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from relight.core.commands import Command, JobRef
from relight.core.commands.steps import AcceptMismatch, AskPerson, BeginTry, EndWait, FailTry, FinishStep, ReconcileStep
from relight.core.copies import own_arguments
from relight.core.failure import Failure, failure_of, mark_recorded, read_failure
from relight.core.history import History, differing_arguments, inserted_before, volatile_hint
from relight.core.retry import ONE_TRY, Retry
from relight.core.sizes import size_of
from relight.core.stopped import FailedTry, Stopped, where_it_stopped
from relight.errors import PayloadError, StepError, type_name
from relight.ids import StepKey
from relight.model import DecisionRecord, InDoubtPolicy, StepKind, StepRecord, StepState

E = TypeVar("E", bound=BaseException)

# Requests: what the generators ask of their driver. Each names what is sent back. Structs, because a step makes seven of
# them: a frozen dataclass takes five times as long to make, and its class much longer.


class Enter(msgspec.Struct, frozen=True):
    """May something new begin here? Sends back nothing, or leaves with CancelRequested or Suspending."""

    key: StepKey


class Persist(msgspec.Struct, frozen=True):
    """Write this; ``lazy`` does not wait for the disk. Sends back nothing, or raises the command's error."""

    command: Command
    lazy: bool = False


class Invoke(msgspec.Struct, frozen=True):
    """Call the step's function, or its reconciling one. Sends back ``Returned`` or ``Raised``."""

    step: StepSpec
    call: StepCall
    try_number: int
    reconcile: bool = False


class Park(msgspec.Struct, frozen=True):
    """Wait, in memory for a while and then put away, until a time or until what is waited for comes.

    ``key`` and ``try_number`` name the record that waits; ``also`` are further (key, what it waits for) of the same wait. Sends back ``"due"`` or ``"arrived"``, or leaves with
    CancelRequested or Suspending.
    """

    kind: StepKind | Literal["abandoned"]
    waits_for: str | None
    until: int | None
    key: StepKey
    try_number: int = 1
    also: tuple[tuple[StepKey, str], ...] = ()


class LookDecision(msgspec.Struct, frozen=True):
    """Read a question's row. Sends back a ``DecisionRecord``."""

    decision_id: str


class Stow(msgspec.Struct, frozen=True):
    """Keep a large text by its content, before what refers to it. Sends back the text, or a reference to it."""

    text: str


class Unstow(msgspec.Struct, frozen=True):
    """Bring back a stowed text. Sends back the text."""

    text: str


class Now(msgspec.Struct, frozen=True):
    """Read the wall clock. Sends back milliseconds."""


class NewId(msgspec.Struct, frozen=True):
    """Make an id. Sends back a UUIDv7."""


class NewToken(msgspec.Struct, frozen=True):
    """Make a secret name. Sends back 32 unguessable characters."""


class Mismatch(msgspec.Struct, frozen=True):
    """The code no longer agrees with the record: stop the job for an operator. Leaves with Suspending."""

    key: StepKey
    code: str
    detail: str
    recorded_hash: str
    now_hash: str


class Abandoned(msgspec.Struct, frozen=True):
    """What was called here was cancelled while it ran or waited, and is not run again: wait until that happens again.

    If nothing else can happen in the run, its code waits for an outcome that never was: a mismatch.
    """

    key: StepKey


class Returned(msgspec.Struct, frozen=True):
    """The function returned."""

    value: Any


class Raised(msgspec.Struct, frozen=True):
    """The function raised, or its time was up. ``certain`` is False when the work may have happened."""

    error: Exception
    certain: bool | None = None


Request = Enter | Persist | Invoke | Park | LookDecision | Stow | Unstow | Now | NewId | Mismatch | Abandoned
Flow = Generator[Any, Any, Any]
"""A generator of requests; its return value is what the caller of the primitive gets."""

INLINE_CHARS = 256 * 1024
STOWED = "@blob:"
"""Texts that begin so are references to a blob; JSON never does."""


class ResultCodec(Protocol):
    """What a flow needs of the codec of a step's result."""

    def encode(self, value: Any, *, what: str) -> bytes:
        """Return canonical JSON."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the value."""
        ...


class ErrorCodec(Protocol):
    """What a flow needs to keep exceptions that a step declares."""

    def encode_exception(self, error: BaseException, *, what: str) -> bytes:
        """Return canonical JSON."""
        ...

    def decode_exception(self, type_: type[E], data: bytes) -> E:
        """Return the exception."""
        ...


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step as its author declared it. ``raises`` are exceptions that come back as themselves."""

    name: str
    function: Callable[..., Any]
    code_ref: str
    is_async: bool
    policy: InDoubtPolicy = "retry"
    reconcile: Callable[..., Any] | None = None
    retry: Retry = ONE_TRY
    timeout_ms: int | None = None
    heartbeat_ms: int | None = None
    raises: tuple[type[Exception], ...] = ()
    inputs: Literal["full", "hash"] = "full"
    check_args: bool = True
    outside: Literal["call", "error"] = "call"


class StepCall(msgspec.Struct, frozen=True):
    """One call of a step: its key, its arguments as they were given, and as they are recorded."""

    key: StepKey
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: str
    hashes: dict[str, str]
    result: ResultCodec
    errors: ErrorCodec
    kept: int = 0
    """How many of the first arguments are no values: the ``self`` of a method."""

    def own_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments for one try, which may change them."""
        return own_arguments(self.args, self.kwargs, self.kept)

    @property
    def args_hash(self) -> str:
        """One short hash over all arguments."""
        return digest(self.inputs)


def digest(text: str) -> str:
    """Return the short hash that records and events carry of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_stored(text: str) -> str:
    """Return the same hash of a stored text: a stowed one's reference begins with its content's hash."""
    return text.removeprefix(STOWED)[:16] if text.startswith(STOWED) else digest(text)


def idempotency_key(job_id: str, key: str) -> str:
    """Return the key that a step should give to the outside world: the same over all tries and runs of it."""
    return f"{job_id}:{key}"


def run_step(history: History, job: JobRef, step: StepSpec, call: StepCall) -> Flow:
    """Give a step's outcome: from its record, or by calling it. See the module for the order of things."""
    history.check_function(step.name, step.function, step.code_ref)
    record = history.call(call.key)
    if record is not None and record.kind is not StepKind.STEP:
        yield Mismatch(call.key, "other_kind", f"recorded as {record.kind}, now a step", "", "")
    if record is not None and step.check_args:
        differing = differing_arguments(record.args_hashes, call.hashes)
        if differing and record.state in (StepState.COMPLETED, StepState.FAILED, StepState.ABANDONED):
            yield from differ(
                history,
                job,
                _argument_mismatch(record, step, call, differing),
                msgspec.json.encode(call.hashes).decode(),
            )
    if record is not None and record.state in (StepState.COMPLETED, StepState.FAILED):
        return (yield from _replayed(record, step, call))
    if record is not None and record.state is StepState.ABANDONED:
        yield Abandoned(call.key)
    yield Enter(call.key)
    ahead = history.ahead_of(call.key)
    if record is None and ahead:
        yield from differ(
            history, job, Mismatch(call.key, "step_inserted", inserted_before(call.key, ahead), "", call.args_hash)
        )
    history.settle(call.key)
    return (yield from _try_until_settled(history, job, step, call, record))


def differ(history: History, job: JobRef, mismatch: Mismatch, args_hashes: str | None = None) -> Flow:
    """Stop for a mismatch, or, where an operator accepted it, tell of it and go on.

    A finished step keeps its outcome and gets ``args_hashes`` as what it was called with: a later replay agrees with it.
    """
    if not history.accepting:
        yield mismatch
    hashes = (mismatch.recorded_hash, mismatch.now_hash)
    accept = AcceptMismatch(
        job=job, step_key=mismatch.key, args_hashes=args_hashes, hashes=hashes, detail=mismatch.detail
    )
    yield Persist(accept, lazy=True)


def _argument_mismatch(record: StepRecord, step: StepSpec, call: StepCall, differing: list[str]) -> Mismatch:
    names = ", ".join(f'"{name}"' for name in differing)
    others = " (others equal)" if len(call.hashes) > len(differing) else ""
    hint = volatile_hint(call.inputs, differing)
    detail = f"argument {names} differs{others}{hint}. Recorded under {record.code_ref}, now {step.code_ref}"
    return Mismatch(call.key, "arguments", detail, record.args_hashes or "", msgspec.json.encode(call.hashes).decode())


def _replayed(record: StepRecord, step: StepSpec, call: StepCall) -> Flow:
    if record.state is StepState.FAILED:
        raise as_raised(read_failure(record.error or "{}"), step, call)
    text = yield Unstow(record.outcome or "null")
    try:
        return call.result.decode(text.encode())
    except PayloadError as error:
        detail = f"its recorded outcome no longer fits: {error}. Recorded under {record.code_ref}, now {step.code_ref}"
        yield Mismatch(call.key, "outcome", detail, digest(text), "")


def as_raised(failure: Failure, step: StepSpec, call: StepCall) -> Exception:
    """Return what a workflow gets for a failed step: a declared error as itself, everything else as ``StepFailed``."""
    if failure.declared is not None:
        for declared in step.raises:
            if type_name(declared) == failure.type:
                try:
                    return mark_recorded(call.errors.decode_exception(declared, failure.declared.encode()))
                except PayloadError:
                    break  # its class can no longer be made from the record
    return failure.as_step_failed(call.key)


def _try_until_settled(
    history: History, job: JobRef, step: StepSpec, call: StepCall, record: StepRecord | None
) -> Flow:
    stopped = Stopped(1) if record is None else where_it_stopped(record, step.policy)
    first_ms: int = stopped.first_at or (yield Now())
    if stopped.resume_at:
        yield Park(StepKind.STEP, None, stopped.resume_at, call.key, stopped.next_try - 1)
    if stopped.doubtful_try is not None:
        done, value = yield from _settle_doubt(history, job, step, call, stopped.doubtful_try)
        if done:
            return value
    try_number = stopped.next_try
    while True:
        outcome = yield from _one_try(job, step, call, try_number)
        if isinstance(outcome, Returned):
            return outcome.value
        next_at = yield from _record_failure(job, step, call, try_number, outcome, first_ms)
        yield Park(StepKind.STEP, None, next_at, call.key, try_number)
        if not _certain(step, outcome):
            done, value = yield from _settle_doubt(history, job, step, call, try_number)
            if done:
                return value
        try_number += 1


def _one_try(job: JobRef, step: StepSpec, call: StepCall, try_number: int) -> Flow:
    """Begin, call, and record a result. Returns ``Returned`` with the value as replay gives it, or ``Raised``."""
    inputs: str | None = None
    if step.inputs == "full":
        inputs = call.inputs if len(call.inputs) <= INLINE_CHARS else (yield Stow(call.inputs))
    began_at: int = yield Now()
    begin = BeginTry(
        job=job,
        step_key=call.key,
        name=step.name,
        try_number=try_number,
        policy=step.policy,
        args_hashes=msgspec.json.encode(call.hashes).decode(),
        args_hash=call.args_hash,
        args_bytes=size_of(call.inputs),
        inputs=inputs,
        code_ref=step.code_ref,
        until=None if step.timeout_ms is None else began_at + step.timeout_ms,
        heartbeat_ms=step.heartbeat_ms,
    )
    yield Persist(begin, lazy=step.policy == "retry")
    got: Returned | Raised = yield Invoke(step, call, try_number)
    if isinstance(got, Raised):
        return got
    try:
        data = call.result.encode(got.value, what=f"result of {call.key}")
        value = call.result.decode(data)
    except PayloadError as error:
        return Raised(error, certain=True)
    text = data.decode()
    stored = text if len(text) <= INLINE_CHARS else (yield Stow(text))
    yield Persist(
        FinishStep(
            job=job,
            step_key=call.key,
            try_number=try_number,
            outcome=stored,
            outcome_hash=digest(text),
            outcome_bytes=size_of(text),
            began_at=began_at,
        )
    )
    return Returned(value)


def _certain(step: StepSpec, raised: Raised) -> bool:
    if step.policy == "retry":
        return True
    if raised.certain is not None:
        return raised.certain
    return isinstance(raised.error, (StepError, *step.raises))


def _record_failure(
    job: JobRef, step: StepSpec, call: StepCall, try_number: int, raised: Raised, first_ms: int
) -> Flow:
    """Record a failed try; return when the next one is, or raise what the workflow gets when there is none."""
    error = raised.error
    declared = declared_text(step, call, error)
    certain = _certain(step, raised)
    failure = failure_of(error, tries=try_number, certain=certain, details=details_text(error), declared=declared)
    now_ms: int = yield Now()
    next_at = None
    if not isinstance(error, step.raises):
        seed = idempotency_key(job.job_id, call.key)
        try:
            next_at = step.retry.next_try_at(try_number, error, seed, now_ms=now_ms, first_ms=first_ms)
        except Exception as broken:  # boundary: the user's predicate of Retry(on=…); a failure it cannot judge is final
            error.add_note(f"and Retry(on=…) of {step.name} raised {type(broken).__name__}: {broken}")
            failure = failure_of(
                error, tries=try_number, certain=certain, details=details_text(error), declared=declared
            )
    if step.policy == "fail" and not certain:
        next_at, failure = None, msgspec.structs.replace(failure, code="in_doubt")  # no try may follow: it fails here
    state = StepState.FAILED if next_at is None else StepState.BACKOFF if certain else StepState.IN_DOUBT
    yield Persist(
        FailTry(
            job=job,
            step_key=call.key,
            try_number=try_number,
            state=state,
            failure=FailedTry(**msgspec.structs.asdict(failure), first_at=first_ms),
            until=next_at,
            policy=step.policy,
        )
    )
    if next_at is None:
        raise as_raised(failure, step, call)
    return next_at


def declared_text(step: StepSpec, call: StepCall, error: Exception) -> str | None:
    """Return a declared error in its stored form; None for any other, and for one that cannot be stored."""
    if not isinstance(error, step.raises):
        return None
    try:
        return call.errors.encode_exception(error, what=step.name).decode()
    except PayloadError:
        return None  # it comes back as StepFailed, on the first run too


def details_text(error: Exception) -> str | None:
    """Return the details that a ``StepError`` carries, as JSON text."""
    if not isinstance(error, StepError) or error.details is None:
        return None
    try:
        return msgspec.json.encode(error.details, enc_hook=str).decode()
    except Exception:  # boundary: a user's __str__, cycles, lone surrogates; the failure itself must be recorded
        return msgspec.json.encode(ascii(type(error.details).__name__)).decode()


def _settle_doubt(history: History, job: JobRef, step: StepSpec, call: StepCall, try_number: int) -> Flow:
    """Settle whether a try happened. Returns (True, value) when it did, (False, None) when it is to be tried again."""
    match step.policy:
        case "retry":
            return False, None
        case "fail":
            failure = Failure(
                type="in_doubt",
                code="in_doubt",
                message=f"nobody knows whether try {try_number} happened",
                tries=try_number,
            )
            yield Persist(
                ReconcileStep(
                    job=job,
                    step_key=call.key,
                    verdict="failed",
                    by="policy:fail",
                    try_number=try_number,
                    failure=failure,
                )
            )
            raise failure.as_step_failed(call.key)
        case "reconcile":
            got: Returned | Raised = yield Invoke(step, call, try_number, reconcile=True)
            settled, text = _reading_of(call, got)
            if settled:
                return (yield from _reconciled(job, step, call, try_number, text))
            return (yield from _ask_about(history, job, call, try_number, f" (to reconcile it failed: {text})"))
    return (yield from _ask_about(history, job, call, try_number))


def _reading_of(call: StepCall, got: Returned | Raised) -> tuple[bool, str | None]:
    """Read a reconciling function's answer: (True, the result as JSON), (True, None) for not done, (False, why not)."""
    if isinstance(got, Raised):
        return False, f"{type(got.error).__name__}: {got.error}"
    answer = got.value
    match type(answer).__name__:
        case "NotDone":
            return True, None
        case "Done" if hasattr(answer, "value"):
            try:
                text = call.result.encode(answer.value, what=f"result of {call.key}, as reconciled").decode()
                call.result.decode(text.encode())
            except PayloadError as error:
                return False, str(error)
            return True, text
    return False, f"returned {type(answer).__name__}, neither Done(value) nor NotDone()"


def _reconciled(job: JobRef, step: StepSpec, call: StepCall, try_number: int, text: str | None) -> Flow:
    by = getattr(step.reconcile, "__qualname__", "reconcile")
    if text is not None:
        return (yield from _done(job, call, try_number, text, by, human=False))
    yield Persist(ReconcileStep(job=job, step_key=call.key, verdict="not_done", by=by, try_number=try_number))
    return False, None


def _done(
    job: JobRef, call: StepCall, try_number: int, text: str, by: str, *, human: bool, ask_key: StepKey | None = None
) -> Flow:
    value = call.result.decode(text.encode())
    stored = text if len(text) <= INLINE_CHARS else (yield Stow(text))
    yield Persist(
        ReconcileStep(
            job=job,
            step_key=call.key,
            verdict="done",
            by=by,
            try_number=try_number,
            outcome=stored,
            outcome_hash=digest(text),
            human=human,
            ask_key=ask_key,
        )
    )
    return True, value


DOUBT_OPTIONS = ("done", "not_done", "fail")
"""What a person may answer about a step in doubt."""


def _ask_about(history: History, job: JobRef, call: StepCall, try_number: int, why: str = "") -> Flow:
    """Ask a person whether a try happened, and wait for the answer. The question outlives runs and crashes.

    A value that does not fit the step's result settles nothing: the person is asked again, and told why.
    """
    key, open_question = history.doubt_question(call.key)
    if open_question is None:
        open_question = yield NewId()
        question = f"{call.key} began (try {try_number}) and nobody knows whether it happened{why}. Did it?"
        yield Persist(
            AskPerson(
                job=job,
                step_key=key,
                decision_id=open_question,
                question=question,
                options=msgspec.json.encode(DOUBT_OPTIONS).decode(),
                preview=None,
                preview_hash=None,
                expires_at=None,
            )
        )
    yield Park(StepKind.ASK, open_question, None, key)
    answer: DecisionRecord = yield LookDecision(open_question)
    if answer.state == "withdrawn":  # the job had been ended by force, and is retried: that settled nothing
        yield Persist(EndWait(job=job, step_key=key, outcome=msgspec.json.encode("withdrawn").decode()))
        return (yield from _ask_about(history, job, call, try_number, why))
    by = answer.by or "unknown"
    if answer.choice == "done":
        text = answer.value or "null"
        try:
            call.result.decode(text.encode())
        except PayloadError as error:
            yield Persist(EndWait(job=job, step_key=key, outcome=msgspec.json.encode("unreadable").decode()))
            return (yield from _ask_about(history, job, call, try_number, f" (the value from {by}: {error})"))
        return (yield from _done(job, call, try_number, text, by, human=True, ask_key=key))
    failed = answer.choice == "fail"
    failure = Failure(type="in_doubt", code="in_doubt", message=answer.note or f"{by} failed it", tries=try_number)
    yield Persist(
        ReconcileStep(
            job=job,
            step_key=call.key,
            verdict="failed" if failed else "not_done",
            by=by,
            try_number=try_number,
            failure=failure if failed else None,
            human=True,
            ask_key=key,
        )
    )
    if failed:
        raise failure.as_step_failed(call.key)
    return False, None
