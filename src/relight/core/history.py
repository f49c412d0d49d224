"""What a job's record says, while its code is driven through it again.

Replay is a walk: each call asks for its key. What the record has and no call asked for yet lies *ahead*; a step without a
record in a line that still has finished steps ahead (its own, or of branches that it opens only later) was inserted by an
edit, and would run in the past. What stands in an inline workflow stands in its caller's line. A branch that **lost** a race goes nowhere any more: nothing of it is ahead or left over.
Read next: ``flow.py``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise

import msgspec

from relight.core.keys import branch_of, doubt_key, is_part, lines_to, trunk_of
from relight.errors import InvalidArgument, RegistrationError
from relight.ids import StepKey
from relight.model import FINISHED_STEPS, StepKind, StepRecord, StepState

RACE = "race"
"""The name of what records a race: its winner's number, and the lines that were cut short."""


_NEVER = 1 << 62


class History:
    """The records of one job, by key. Not locked: a run's arms take turns through the run's own lock.

    ``opened`` is the table of how many branches each line has opened so far in this replay (``keys.Branch``).
    ``accepting``: an operator let this run go on where its code and these records differ.
    """

    def __init__(
        self, records: Iterable[StepRecord] = (), opened: Mapping[str, int] | None = None, *, accepting: bool = False
    ) -> None:
        self.accepting = accepting
        self._records = {record.step_key: record for record in records}
        self._ahead: dict[str, set[StepKey]] = {}
        self._unread: dict[str, set[StepKey]] = {}
        self._begun: set[str] = set()
        self._called: dict[StepKey, object] = {}
        self._functions: dict[str, tuple[object, str]] = {}
        self._opened: Mapping[str, int] = {} if opened is None else opened
        self._lost = frozenset(line for record in self._records.values() for line in _losers(record))
        self._lines: set[str] = set()
        """Every line that has a record, and the lines that lead to it."""
        self._branches: dict[str, dict[str, StepKey | None]] = {}
        """Of each line, its branches that have a record, and the first finished step of each."""
        for key, record in self._records.items():
            line = branch_of(key)
            lines = lines_to(line)
            self._lines.update(lines)
            if "?" in key or is_part(key) or self.has_lost(line):
                continue
            branches = [(trunk_of(outer), inner) for outer, inner in pairwise(["", *lines]) if trunk_of(inner) == inner]
            for trunk, inner in branches:
                self._branches.setdefault(trunk, {}).setdefault(inner, None)
            self._unread.setdefault(trunk_of(line), set()).add(key)
            has_outcome = record.state in (StepState.COMPLETED, StepState.FAILED)
            if has_outcome and record.kind is not StepKind.VALUE and "[" not in key:
                self._ahead.setdefault(trunk_of(line), set()).add(key)
                for trunk, inner in branches:
                    self._branches[trunk][inner] = min(key, self._branches[trunk][inner] or key)
        self._by_end = {
            line: deque(sorted((self._ended(key), key) for key in keys)) for line, keys in self._ahead.items()
        }
        """Of each line, what may be ahead, in the order in which it ended."""
        self._passed_over: list[StepKey] = []
        self._to_read = sum(len(keys) for keys in self._unread.values())
        self._questions: dict[StepKey, int] = {}

    def _to_open(self, line: str) -> list[StepKey | None]:
        """Return, of each branch that an earlier run opened in a line and this one has not yet, its first finished step."""
        branches = self._branches.get(line)
        if not branches:
            return []
        found = [inner for inner in branches if _is_to_open(inner, self._opened)]
        if not found:
            del self._branches[line]  # branches are opened in order: none is left
        return [branches[inner] for inner in found]

    def __len__(self) -> int:
        return len(self._records)

    def enter(self, path: str) -> None:
        """Note that a branch begins or goes on with something that has no outcome yet: its replay is over."""
        path = trunk_of(path)
        self._begun.add(path)

    def replaying(self, path: str = "") -> bool:
        """Tell whether the code of a branch, and of those it made, has not come to where an earlier run of it stopped."""
        path = trunk_of(path)
        if path in self._begun or any(begun.startswith(path) for begun in list(self._begun)):
            return False
        if not path:
            return self._to_read > 0  # asked at each item of a large fan-out
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
            line = trunk_of(branch_of(key))
            if key in self._unread.get(line, ()):
                self._unread[line].discard(key)
                self._to_read -= 1
            self._ahead.get(line, set()).discard(key)
            self._pass(line, record)
        return record

    def _ended(self, key: StepKey) -> int:
        ended_at = self._records[key].ended_at
        return _NEVER if ended_at is None else ended_at

    def _pass(self, line: str, called: StepRecord) -> None:
        """Leave behind what had ended in a line before this began: what was not called by now was removed, it is not ahead.

        Things of one line may overlap in async code (a step's key is taken when it is called, not awaited), so that an end
        alone says nothing. Nor do two in one millisecond, but for a wait, which outlasts what stood before it.
        """
        limit = called.begun_at
        if called.kind is not StepKind.STEP:
            limit = min(limit + 1, self._ended(called.step_key))
        ahead, by_end = self._ahead.get(line), self._by_end.get(line)
        while ahead is not None and by_end and (by_end[0][1] not in ahead or by_end[0][0] < limit):
            key = by_end.popleft()[1]
            if key in ahead:
                ahead.discard(key)
                self._passed_over.append(key)

    def peek(self, key: StepKey) -> StepRecord | None:
        """Return a record without calling it."""
        return self._records.get(key)

    def ahead_of(self, key: StepKey) -> list[StepKey]:
        """Return the finished steps of a key's branch that no call has asked for yet."""
        if "[" in key:
            return []
        line = trunk_of(branch_of(key))
        return sorted({*self._ahead.get(line, ()), *(first for first in self._to_open(line) if first is not None)})

    def passed(self, line: str) -> bool:
        """Tell whether an earlier run came further in a line than this one has: anything at all is recorded ahead."""
        line = trunk_of(line)
        return bool(self._unread.get(line)) or bool(self._to_open(line))

    def has_begun(self, line: str) -> bool:
        """Tell whether anything was ever recorded in a line, or in a branch of it."""
        return line in self._lines

    def has_lost(self, line: str) -> bool:
        """Tell whether a line lost a race in an earlier run, or is a branch of one that did."""
        return bool(self._lost) and not self._lost.isdisjoint(lines_to(line))

    def cut_short(self, lines: Iterable[str], *, uncalled: bool) -> list[StepRecord]:
        """Return what an earlier run left open in lines that lost a race, or in branches of them.

        With ``uncalled`` only what this run has not come to.
        """
        lost = frozenset(lines)
        return [
            record
            for key, record in self._records.items()
            if record.state not in FINISHED_STEPS
            and not lost.isdisjoint(lines_to(branch_of(key)))
            and not (uncalled and key in self._called)
        ]

    def left_over(self) -> tuple[list[StepKey], list[StepKey]]:
        """Return what no call asked for when the job's code had ended: finished steps (removed), and steps in doubt."""
        passed = [key for key in self._passed_over if key not in self._called]
        removed = sorted([*(key for keys in self._ahead.values() for key in keys), *passed])
        doubts = [
            r.step_key
            for r in self._records.values()
            if r.state is StepState.IN_DOUBT and not self.has_lost(branch_of(r.step_key))
        ]
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

    def check_function(self, name: str, function: object, code_ref: str, *, what: str = "step") -> None:
        """Refuse two different functions under one name: each would get the other's checkpoints."""
        known = self._functions.setdefault(f"{what} {name}", (function, code_ref))
        if known[0] is not function:
            raise RegistrationError(
                f'two different {what}s are called "{name}" ({known[1]}, {code_ref}). Rename one: @{what}(name="…")',
                name=name,
            )


def _is_to_open(branch: str, opened: Mapping[str, int]) -> bool:
    at = branch.rfind("/", 0, -1) + 1
    return int(branch[at + 1 : -1]) >= opened.get(branch[:at], 0) if branch[at] == "b" else branch not in opened


def _losers(record: StepRecord) -> list[str]:
    """Return the lines that lost a recorded race."""
    if record.kind is not StepKind.VALUE or record.name != RACE or record.outcome is None:
        return []
    told: dict[str, list[str]] = msgspec.json.decode(record.outcome)
    return told["lost"]


def differing_arguments(recorded: str | None, now: Mapping[str, str]) -> list[str]:
    """Return the names of arguments whose hashes differ from the record's, in order."""
    return differing(msgspec.json.decode(recorded or "{}"), now)


def differing(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return the names whose values differ, or that only one side has, in order."""
    return sorted(name for name in {*then, *now} if then.get(name, ...) != now.get(name, ...))


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
