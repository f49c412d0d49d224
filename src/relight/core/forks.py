"""What a fork takes over of its source: the steps that had finished when the chosen one began, and nothing that acts for two.

Not taken over: a **token** whose answer had not come by then, because it is the source's to answer (the fork hands out one of
its own, so whatever came after it in its line would have been told another one: such a fork is refused); and that a value
was **published**, which the fork's body does again, for itself. Branches, races and fan-outs are taken over step by step:
a race that was decided stays decided, one that was not is run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from relight.core.commands.outside import PUBLISH
from relight.core.history import History
from relight.core.keys import branch_of, is_part, trunk_of
from relight.core.reopening import failures_that_ended
from relight.errors import Conflict, InvalidArgument
from relight.ids import StepKey, short
from relight.model import FINISHED_STEPS, EventRecord, JobRecord, StepKind, StepRecord, StepState, TokenRecord

SHOWN = 20

BEGIN = ("step_began", "sleep_started", "wait_started", "external_created")
END = (
    *("step_finished", "step_failed", "step_reconciled", "step_abandoned"),
    *("signal_consumed", "child_finished", "decision_expired"),
)
"""The kinds of events that say when something began and ended."""


class Story:
    """A job's records and the events of ``BEGIN`` and ``END`` that tell of them; ``tokens`` by their text."""

    def __init__(
        self, steps: Sequence[StepRecord], told: Sequence[EventRecord], tokens: Mapping[str, TokenRecord]
    ) -> None:
        self.steps = {step.step_key: step for step in steps}
        self.tokens = tokens
        self._lines = History(steps)
        self._began: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        for event in told:
            if event.step_key is not None and event.type in BEGIN:
                self._began.setdefault(event.step_key, event.seq)
            if event.step_key is not None and event.type in END:
                self._ended[event.step_key] = event.seq

    def token_of(self, step: StepRecord) -> TokenRecord | None:
        """Return the token that a record hands out."""
        return self.tokens.get(token_text(step))

    def was_over(self, step: StepRecord, chosen: StepRecord) -> bool:
        """Tell whether a finished step had finished when another one began.

        Values and waits end without an event, copied steps have none of their own: their times tell.
        """
        ended, began = self._ended.get(step.step_key), self._began.get(chosen.step_key)
        if ended is not None and began is not None:
            return ended < began
        return step.ended_at is not None and step.ended_at <= chosen.begun_at

    def was_answered(self, step: StepRecord, chosen: StepRecord | None) -> bool:
        """Tell whether the token of a record had its answer when another step began; without one: whether it has."""
        token = self.token_of(step)
        if token is None or token.ended_at is None:
            return False
        return chosen is None or token.ended_at <= chosen.begun_at

    def lost(self, step: StepRecord) -> bool:
        """Tell whether a step was cut short because its line lost a race: replay calls it only if that is run again."""
        return step.state is StepState.ABANDONED and self._lines.has_lost(branch_of(step.step_key))

    def began_after(self, step: StepRecord, other: StepRecord) -> bool:
        """Tell whether a step began after another one."""
        mine, its = self._began.get(step.step_key), self._began.get(other.step_key)
        if mine is not None and its is not None:
            return mine > its
        return step.begun_at > other.begun_at


def token_text(step: StepRecord) -> str:
    """Return the token that a record hands out, as text."""
    return str(msgspec.json.decode(step.outcome or '""'))


def steps_to_copy(source: JobRecord, story: Story, from_step: str | None) -> list[StepKey]:
    """Return the keys of the steps that a fork takes over, in the order in which they began.

    Raises ``InvalidArgument`` for a step that is not recorded, ``Conflict`` when a token that is open stands before others.
    """
    chosen = None if from_step is None else _chosen(source, story, from_step)
    kept = [
        step for step in story.steps.values() if step.state in FINISHED_STEPS and not _is_left_out(story, step, chosen)
    ]
    if chosen is None:
        opened = set(failures_that_ended(source.error, list(story.steps.values())))
        kept = [step for step in kept if step.step_key not in opened]
    else:
        kept = [step for step in kept if step is not chosen and story.was_over(step, chosen)]
    keys = {step.step_key for step in kept}
    # The further rows of a wait go with it.
    kept = [step for step in kept if not is_part(step.step_key) or step.step_key.rpartition("!")[0] in keys]
    _refuse_before_open_token(source, story, kept)
    return [step.step_key for step in kept]


def _chosen(source: JobRecord, story: Story, key: str) -> StepRecord:
    found = story.steps.get(StepKey(key))
    if found is not None and not _is_inner(key):
        return found
    keys = [each for each in story.steps if not _is_inner(each)]
    more = f" and {len(keys) - SHOWN:,} more (relight show)" if len(keys) > SHOWN else ""
    raise InvalidArgument(
        f"{source.kind} {short(source.job_id)} has no step {key!r:.100}. It has: {', '.join(keys[:SHOWN]) or 'none yet'}{more}",
        job_id=source.job_id,
    )


def _is_inner(key: str) -> bool:
    """Tell whether a key is no step of its own: a question about a step, or a further row of a wait."""
    return "?" in key or is_part(key)


def _is_left_out(story: Story, step: StepRecord, chosen: StepRecord | None) -> bool:
    if step.kind is StepKind.TOKEN:
        return not story.was_answered(step, chosen)
    return story.lost(step) or (step.kind is StepKind.VALUE and step.name == PUBLISH)


def _refuse_before_open_token(source: JobRecord, story: Story, kept: Sequence[StepRecord]) -> None:
    """Refuse to take over what came after a token that the fork would hand out anew: it was made for another one.

    The fork could not even replay it: its token would be new in front of what is done already (``step_inserted``).
    """
    keys = {step.step_key for step in kept}
    for token in story.steps.values():
        if token.kind is not StepKind.TOKEN or token.step_key in keys:
            continue
        later = [step.step_key for step in kept if _depends_on(story, step, token)]
        if later:
            raise Conflict(
                f"{later[0]} of {source.kind} {short(source.job_id)} came after a token that was handed out by {token.step_key} "
                f"and not answered by then; a fork hands out its own, and would call {later[0]} again for it. "
                f"Begin there: relight fork {short(source.job_id)} --from {token.step_key}",
                job_id=source.job_id,
                step_key=token.step_key,
            )


def _depends_on(story: Story, step: StepRecord, token: StepRecord) -> bool:
    """Tell whether a record came after a token in its line, or holds the token's text wherever it is."""
    if step.kind is StepKind.VALUE or not story.began_after(step, token):
        return False
    if trunk_of(branch_of(step.step_key)) == trunk_of(branch_of(token.step_key)):
        return True
    text = token_text(token)
    return bool(text) and (text in (step.inputs or "") or text in (step.outcome or ""))
