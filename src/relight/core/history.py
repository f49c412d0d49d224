"""What a job's record says, while its code is driven through it again.

Replay is a walk: each call asks for its key. What the record has and no call asked for yet lies *ahead*; a step without a
record in a branch that still has finished steps ahead was inserted by an edit, and would run in the past.
Read next: ``flow.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from relight.core.keys import branch_of, doubt_key
from relight.errors import InvalidArgument, RegistrationError
from relight.ids import StepKey
from relight.model import FINISHED_STEPS, StepKind, StepRecord, StepState


class History:
    """The records of one job, by key. Not locked: a run's arms take turns through the run's own lock.

    ``accepting``: an operator let this run go on where its code and these records differ.
    """

    def __init__(self, records: Iterable[StepRecord] = (), *, accepting: bool = False) -> None:
        self.accepting = accepting
        self._records = {record.step_key: record for record in records}
        self._ahead: dict[str, set[StepKey]] = {}
        self._unread: dict[str, set[StepKey]] = {}
        self._begun: set[str] = set()
        self._called: dict[StepKey, object] = {}
        self._functions: dict[str, tuple[object, str]] = {}
        for key, record in self._records.items():
            if "?" in key:
                continue
            self._unread.setdefault(branch_of(key), set()).add(key)
            has_outcome = record.state in (StepState.COMPLETED, StepState.FAILED)
            if has_outcome and record.kind is not StepKind.VALUE and "[" not in key:
                self._ahead.setdefault(branch_of(key), set()).add(key)
        self._questions: dict[StepKey, int] = {}

    def __len__(self) -> int:
        return len(self._records)

    def enter(self, path: str) -> None:
        """Note that a branch begins or goes on with something that has no outcome yet: its replay is over."""
        self._begun.add(path)

    def replaying(self, path: str = "") -> bool:
        """Tell whether the code of a branch, and of those it made, has not come to where an earlier run of it stopped."""
        if path in self._begun or any(begun.startswith(path) for begun in list(self._begun)):
            return False
        return any(keys and branch.startswith(path) for branch, keys in list(self._unread.items()))

    def call(self, key: StepKey) -> StepRecord | None:
        """Note that a key was called, and return its record if there is one.

        Raises ``InvalidArgument`` for a key that was called before in this run: both calls would be one record.
        """
        mine = object()
        if self._called.setdefault(key, mine) is not mine:
            raise InvalidArgument(
                f"{key} was called before in this job: two calls cannot share a key, because they would share one outcome. "
                "Give each its own",
                key=key,
            )
        record = self._records.get(key)
        if record is not None:
            for keys in (self._unread.get(branch_of(key)), self._ahead.get(branch_of(key))):
                if keys is not None:
                    keys.discard(key)
        return record

    def peek(self, key: StepKey) -> StepRecord | None:
        """Return a record without calling it."""
        return self._records.get(key)

    def ahead_of(self, key: StepKey) -> list[StepKey]:
        """Return the finished steps of a key's branch that no call has asked for yet."""
        if "[" in key:
            return []
        return sorted(self._ahead.get(branch_of(key), ()))

    def left_over(self) -> tuple[list[StepKey], list[StepKey]]:
        """Return what no call asked for when the job's code had ended: finished steps (removed), and steps in doubt."""
        removed = sorted(key for keys in self._ahead.values() for key in keys)
        doubts = [r.step_key for r in self._records.values() if r.state is StepState.IN_DOUBT]
        return removed, doubts

    def settle(self, key: StepKey) -> None:
        """Note that a record in doubt was met, so that it is not left over."""
        record = self._records.get(key)
        if record is not None and record.state is StepState.IN_DOUBT:
            self._records[key] = msgspec.structs.replace(record, state=StepState.BACKOFF)

    def doubt_question(self, key: StepKey) -> tuple[StepKey, str | None]:
        """Return the key of the next question about a step in doubt, and the question's id if it was already asked.

        An answered question stands for the try it was about; a later doubt about the same step is a new question.
        """
        number = self._questions.get(key, 0)
        while (record := self._records.get(doubt_key(key, number))) is not None and record.state in FINISHED_STEPS:
            number += 1
        self._questions[key] = number + 1
        return doubt_key(key, number), None if record is None else record.waits_for

    def check_function(self, name: str, function: object, code_ref: str) -> None:
        """Refuse two different functions under one name: each would get the other's checkpoints."""
        known = self._functions.setdefault(name, (function, code_ref))
        if known[0] is not function:
            raise RegistrationError(
                f'two different steps are called "{name}" ({known[1]}, {code_ref}). Rename one: @step(name="…")',
                name=name,
            )


def differing_arguments(recorded: str | None, now: Mapping[str, str]) -> list[str]:
    """Return the names of arguments whose hashes differ from the record's, in order."""
    then: dict[str, str] = msgspec.json.decode(recorded or "{}")
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


_VOLATILE = (
    ("a time", "now()", re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?.*)?")),
    ("a UUID", "uuid7()", re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)),
    ("a time", "now()", re.compile(r"1\d{9}(\.\d+|\d{3}|\d{6}|\d{9})?")),
)
"""What changes from run to run, what to use instead, and what its values look like."""


def volatile_hint(inputs: str, names: Iterable[str]) -> str:
    """Return what an argument that changed by itself looks like, and what to use instead; nothing if it looks like none."""
    values: dict[str, object] = msgspec.json.decode(inputs)
    for name in names:
        text = str(values.get(name))
        for what, instead, form in _VOLATILE:
            if form.fullmatch(text):
                return f", it looks like {what}: use {instead}"
    return ""


def inserted_before(key: StepKey, ahead: list[StepKey]) -> str:
    """Say that a step is new in front of finished ones."""
    return f"{key} is new, but {ahead[0]} after it is already done"
