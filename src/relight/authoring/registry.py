"""Which workflows and codecs an engine or client knows, and how a call becomes a command.

Nothing registers itself: a registry is filled from ``workflows=`` (workflows, or modules whose workflows it takes).
Annotations are resolved and checked here, at registration, not in the middle of a paid run.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from types import ModuleType
from typing import Any, TypeGuard

import msgspec

from relight.authoring.options import check_max_stalls, check_on_stall, check_priority, queue_name
from relight.authoring.steps import BaseStep, Step
from relight.authoring.typerefs import UNKNOWN, KnownTypes
from relight.authoring.workflows import NO_OPTIONS, AnyWorkflow, BaseWorkflow, Call, SubmitOptions, WorkflowSpec
from relight.clock import to_ms
from relight.codec import Codec, CodecRegistry, canonical_hash
from relight.core.changes import Who
from relight.core.commands.jobs import SubmitJob
from relight.errors import (
    InvalidArgument,
    KindDuplicate,
    KindUnknown,
    NotSerializable,
    PayloadError,
    PayloadTooLarge,
    RegistrationError,
)
from relight.ids import JobId
from relight.signature import Signature

MAX_KEY = 500

_NOTHING_SAID = WorkflowSpec(kind="", function=lambda: None, code_ref="", is_async=False)


class Registry:
    """Workflows by kind, and the codecs that their values go through."""

    def __init__(self, workflows: Iterable[AnyWorkflow | ModuleType] = (), codecs: Sequence[Codec[Any]] = ()) -> None:
        self.codecs = CodecRegistry(codecs)
        self.types = KnownTypes()
        self._workflows: dict[tuple[str, str | None], BaseWorkflow[..., Any]] = {}
        self._newest: dict[str, BaseWorkflow[..., Any]] = {}
        self._signatures: dict[tuple[Any, bool], Signature] = {}
        self.takes_children = False
        """Whether a workflow is registered by being started as a child: for jobs that tests run inline."""
        for each in workflows:
            if isinstance(each, ModuleType):
                for workflow in workflows_in(each):
                    self.add(workflow)
            elif isinstance(each, BaseWorkflow):
                self.add(each)
            else:
                raise RegistrationError(
                    f"workflows= takes workflows and modules, not {each!r}. Is it decorated with @workflow?"
                )

    def add(self, workflow: BaseWorkflow[..., Any]) -> None:
        """Register a workflow, beside others of its kind under other versions.

        One of the same kind and version from ``__main__`` (a notebook cell run again) is replaced.
        """
        kind, version = workflow.kind, workflow.spec.version
        known = self._workflows.get((kind, version))
        same = known is None or known is workflow or known.spec.function is workflow.spec.function
        if known is not None and not same and not _is_of_main(workflow):
            raise KindDuplicate(
                f'two workflows are of kind "{kind}" ({known.spec.code_ref}, {workflow.spec.code_ref}). '
                'Rename one: @workflow(name="…"), or give it a version of its own: @workflow(version="…")',
                kind=kind,
            )
        self.signature(workflow.spec.function)
        self._workflows = {**self._workflows, (kind, version): workflow}  # others may be reading the old ones
        newest = self._newest.get(kind)
        if newest is None or version_order(newest.spec.version) <= version_order(version):
            self._newest = {**self._newest, kind: workflow}

    def renew(self, workflow: BaseWorkflow[..., Any]) -> bool:
        """Take a workflow of ``__main__`` in place of the one of its kind and version, if there was one; tell whether.

        So a notebook's cell can be run again while its engine runs. Jobs under way go on with what they began with until they
        are replayed.
        """
        known = self.find_version(workflow.kind, workflow.spec.version)
        if known is None or known is workflow or not _is_of_main(workflow):
            return False
        self.add(workflow)
        return True

    @property
    def kinds(self) -> list[str]:
        """The kinds known here, by name."""
        return sorted(self._newest)

    @property
    def workflows(self) -> list[BaseWorkflow[..., Any]]:
        """The workflows known here, by kind, the newest version of each first."""
        each = sorted(self._workflows.values(), key=lambda workflow: version_order(workflow.spec.version), reverse=True)
        return sorted(each, key=lambda workflow: workflow.kind)

    def find(self, kind: str) -> BaseWorkflow[..., Any] | None:
        """Return the newest version of a kind's workflow, or None."""
        return self._newest.get(kind)

    def find_version(self, kind: str, version: str | None) -> BaseWorkflow[..., Any] | None:
        """Return just this version of a kind's workflow, or None; having no version is a version, too."""
        return self._workflows.get((kind, version))

    def knows(self, workflow: BaseWorkflow[..., Any]) -> bool:
        """Tell whether a child's kind is known here; where children are taken as they come, it is from now on."""
        if self.takes_children:
            self.add(workflow)
        return workflow.kind in self._newest

    def signature(self, fn: Callable[..., Any], *, skip_self: bool = False) -> Signature:
        """Return a function's compiled signature. Raises ``RegistrationError``."""
        found = self._signatures.get((fn, skip_self))
        if found is None:
            found = Signature(fn, self.codecs, what=getattr(fn, "__name__", "function"), skip_self=skip_self)
            self._signatures[(fn, skip_self)] = found
        return found

    def encode_for(self, type_name: str | None, value: object, *, what: str) -> str:
        """Return a value from outside as JSON text, checked against the type that is waited for, if it is known here.

        Raises ``InvalidArgument`` for a value of another type, ``NotSerializable`` and ``PayloadTooLarge``.
        """
        wanted = self.types.find(type_name)
        try:
            codec = None if wanted is UNKNOWN else self.codecs.for_type(wanted, what=what)
        except RegistrationError:
            codec = None  # by the codecs that are in force here; those of the job decide
        if codec is None:
            return self.codecs.encode_any(value, what=what).decode()
        try:
            return codec.round_trip(value, what=what)[0].decode()
        except PayloadTooLarge:
            raise
        except PayloadError as refused:
            misfit = refused  # or it is plain JSON of that type: a mapping for a dataclass
        try:
            data = self.codecs.encode_any(value, what=what)
            codec.decode(data, what=what)
        except NotSerializable:
            pass
        except PayloadError as refused:
            misfit = refused
        else:
            return data.decode()
        raise InvalidArgument(f"{misfit}. The job waits for just that; nothing was delivered", what=what)

    def unknown(self, kind: str, known: Iterable[str], place: str) -> KindUnknown:
        """Return the error for a kind that nobody registered."""
        known = sorted(known)
        import difflib

        close = difflib.get_close_matches(kind, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        names = ", ".join(known[:20]) or "none yet; start an engine with its workflows once"
        return KindUnknown(f'no engine has ever registered "{kind}" in {place}. Known: {names}.{hint}', kind=kind)

    def submit_command(
        self,
        call: Call[Any],
        *,
        job_id: str,
        trace_id: str,
        who: Who,
        now_ms: int,
        parent: tuple[str, str, bool] | None = None,
    ) -> SubmitJob:
        """Return the command that submits a call, its arguments encoded. ``parent``: (job id, step key, detached)."""
        spec = call.workflow.spec
        signature = self.signature(spec.function)
        try:
            bound = signature.bind(call.args, call.kwargs)
        except InvalidArgument as error:
            raise _taken_for_option(call, signature) or error from None
        signature.load(bound.inputs)  # what could not be given to the function later is refused now
        return make_submit(
            spec.kind,
            bound.inputs.decode(),
            call.submit_options,
            defaults=spec,
            job_id=job_id,
            trace_id=trace_id,
            who=who,
            now_ms=now_ms,
            parent=parent,
        )


def _is_of_main(workflow: BaseWorkflow[..., Any]) -> bool:
    return workflow.spec.function.__module__ == "__main__"


def _taken_for_option(call: Call[Any], signature: Signature) -> InvalidArgument | None:
    """Return the error for a call that misses what was given as an option of submit, because both have one name."""
    given = [f.name for f in fields(call.submit_options) if getattr(call.submit_options, f.name) is not None]
    both = [name for name in given if name in signature.names]
    if not both:
        return None
    return InvalidArgument(
        f'{call.workflow.kind} has a parameter "{both[0]}", which is also an option of submit: '
        f"use submit({call.workflow.kind}.bind({both[0]}=…))"
    )


def make_submit(
    kind: str,
    inputs: str,
    options: SubmitOptions,
    *,
    defaults: WorkflowSpec | None,
    job_id: str,
    trace_id: str,
    who: Who,
    now_ms: int,
    parent: tuple[str, str, bool] | None = None,
) -> SubmitJob:
    """Return a submit with its options checked. ``defaults`` is a ``WorkflowSpec`` or None."""
    said = defaults or _NOTHING_SAID
    priority = options.priority if options.priority is not None else said.priority
    max_stalls = options.max_stalls if options.max_stalls is not None else said.max_stalls
    deadline = options.deadline_seconds if options.deadline_seconds is not None else said.deadline_seconds
    more: dict[str, Any] = {}
    if parent is not None:
        more = {"parent_job_id": parent[0], "parent_step_key": parent[1], "detached": parent[2]}
    return SubmitJob(
        job_id=JobId(job_id),
        trace_id=trace_id,
        kind=kind,
        version=said.version,
        inputs=inputs,
        inputs_hash=canonical_hash(inputs.encode()),
        who=who,
        queue=queue_name(options.queue) or said.queue,
        priority=check_priority(priority),
        ready_at=ready_at(options, now_ms),
        on_stall=check_on_stall(options.on_stall or said.on_stall),
        max_stalls=check_max_stalls(max_stalls),
        deadline_at=None if deadline is None else now_ms + _seconds("deadline_seconds", deadline),
        idempotency_key=check_text(options.idempotency_key, "idempotency_key"),
        partition_key=check_text(options.partition_key, "partition_key"),
        tags=None if options.tags is None else check_tags(options.tags),
        **more,
    )


def ready_at(options: SubmitOptions, now_ms: int) -> int | None:
    """Return when a job may start, in ms, or None for at once. Raises ``InvalidArgument`` for a naive time."""
    if options.run_at is not None and options.delay_seconds is not None:
        raise InvalidArgument("run_at= and delay_seconds= say the same thing twice; give one")
    if options.run_at is not None:
        return check_moment(options.run_at, "run_at")
    if options.delay_seconds is not None:
        return now_ms + _seconds("delay_seconds", options.delay_seconds)
    return None


def _seconds(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e10:
        raise InvalidArgument(f"{name}={value!r}: a number of seconds, 0 or more")
    return int(value * 1000)


def check_moment(when: object, what: str) -> int:
    """Return an aware point in time in ms. Raises ``InvalidArgument``."""
    if not isinstance(when, datetime):
        raise InvalidArgument(f"{what}={when!r}: an aware datetime")
    try:
        return to_ms(when)
    except ValueError as error:
        raise InvalidArgument(f"{what}: {error}") from None


def check_text(value: str | None, what: str, limit: int = MAX_KEY) -> str | None:
    """Return a key that can be stored: 1 to ``limit`` characters, no NUL, no lone surrogates. Raises ``InvalidArgument``."""
    if value is None:
        return None
    if not is_text(value) or not 0 < len(value) <= limit:
        raise InvalidArgument(f"{what}={value!r:.100}: text of 1 to {limit} characters, without NUL or lone surrogates")
    return value


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is text that every store can keep: no NUL, no lone surrogates."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_tags(tags: Any) -> str:
    """Return tags as JSON text. Raises ``InvalidArgument`` unless they map text to text."""
    try:
        pairs = dict(tags)
    except (TypeError, ValueError):
        raise InvalidArgument(f"tags={tags!r}: a mapping of text to text") from None
    if len(pairs) > 50:
        raise InvalidArgument(f"tags: {len(pairs)} of them; at most 50")
    for key, value in pairs.items():
        check_text(key, "tag", 200)
        if not is_text(value) or len(value) > 1000:
            raise InvalidArgument(f"tag {key!r}: {value!r} is not text of at most 1,000 characters")
    return msgspec.json.encode(pairs, order="sorted").decode()


def version_order(version: str | None) -> list[tuple[int, int, str]]:
    """Return what sorts versions from old to new: numbers in them by value (``"10"`` after ``"9"``), no version first."""
    parts = [] if version is None else [part for part in re.split("([0-9]+)", version) if part]
    return [(1, int(part), "") if part[0] in "0123456789" else (0, 0, part) for part in parts]


def workflows_in(module: ModuleType) -> list[BaseWorkflow[..., Any]]:
    """Return the workflows that a module defines or imports, each once."""
    found = {id(value): value for value in vars(module).values() if isinstance(value, BaseWorkflow)}
    return list(found.values())


def as_call(what: Any, args: Sequence[Any], options: SubmitOptions) -> Call[Any]:
    """Return a call for what ``submit`` was given. Raises ``RegistrationError`` or ``InvalidArgument``."""
    if isinstance(what, Call):
        if args or (options is not NO_OPTIONS and options != NO_OPTIONS):
            raise InvalidArgument("submit(call) takes no arguments beside the call: use call.options(…)")
        return what
    if isinstance(what, BaseStep):
        raise RegistrationError(f"{what.name} is a step; only workflows are submitted. Write a @workflow that calls it")
    if not isinstance(what, BaseWorkflow):
        raise RegistrationError(f"{what!r} is not a workflow. Decorate it with @workflow")
    return Call(what, tuple(args), {}, options)


def step_signature(registry: Registry, step: Step[..., Any] | Any) -> Signature:
    """Return the signature of a step; a method's ``self`` is not one of its arguments."""
    return registry.signature(step.spec.function, skip_self=step._owner is not None)


@functools.lru_cache(maxsize=1)
def reserved_aliases() -> dict[str, str]:
    """Return kinds accepted under another name: written as the value, read as the key too."""
    return {"term_exec": "terminal_exec"}
