"""A ``Why`` as text for a terminal: the sentence, the causes with their evidence, and what to do.

::

    agent …77aa01 waits for a decision: "Let the agent run send_mail?" (asked 08:15:00, 4 min ago).
      waiting_decision  since 08:15:00 (4 min)  ask#0 waits for a decision: "Let the agent run send_mail?"
        evidence        …0c81d2
      do  relight answer …77aa01 approve
          relight answer …77aa01 reject

Times are the terminal's own; no colour, and no line depends on the terminal's width. Read next: ``core/why.py``.
"""

from __future__ import annotations

from datetime import datetime, tzinfo

from relight.clock import to_ms
from relight.core.why_words import Words
from relight.ids import short
from relight.model import Cause, Why

_LAST_RESORTS = ("cancel", "fail")
"""What ends a job is offered behind what helps it on."""


def why_text(why: Why, now: datetime, tz: tzinfo | None = None) -> str:
    """Return the block of text, without a last line end. ``tz`` is the machine's own when it is None."""
    words = Words(to_ms(now), tz or local_zone(now))
    width = max(len("  evidence"), *(len(cause.code) for cause in why.causes))
    lines = [why.summary]
    for cause in why.causes:
        lines += _cause_lines(cause, words, width)
    actions = list(dict.fromkeys(action for cause in why.causes for action in cause.actions))
    actions.sort(key=lambda action: action.split()[1] in _LAST_RESORTS)
    lines += [f"  {'do' if i == 0 else '  '}  {action}" for i, action in enumerate(actions)]
    return "\n".join(lines)


def local_zone(now: datetime) -> tzinfo:
    """Return the machine's time zone as it stands at a moment: what ``explain`` should speak in at a terminal."""
    zone = now.astimezone().tzinfo
    assert zone is not None
    return zone


def _cause_lines(cause: Cause, words: Words, width: int) -> list[str]:
    since = to_ms(cause.since)
    ahead = words.now_ms is not None and since > words.now_ms
    lines = [
        f"  {cause.code:<{width}}  {f'from {words.moment(since)}' if ahead else words.since(since)}  {cause.detail}"
    ]
    if cause.next_check_at is not None:
        lines.append(f"    {'next':<{width - 2}}  {words.moment(to_ms(cause.next_check_at))}")
    if cause.evidence:
        lines.append(f"    {'evidence':<{width - 2}}  {', '.join(short(event_id) for event_id in cause.evidence)}")
    return lines
