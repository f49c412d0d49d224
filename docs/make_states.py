"""Write docs/states.md from the transition table: ``python docs/make_states.py``. A test compares the file with this."""

from __future__ import annotations

from pathlib import Path

from relight.core.transitions import NEVER_LEFT, RUN_ENDS, TRANSITIONS, Transition
from relight.model import FINAL_STATES, JobState, RunState

PAGE = Path(__file__).with_name("states.md")

MEANS = {
    JobState.QUEUED: "waits to be run: for a slot, a time, or (put away) for what it waits for",
    JobState.RUNNING: "has exactly one run, in one engine",
    JobState.STALLED: "was left running by an engine that died; not the same as waiting",
    JobState.AWAITING_VALIDATION: "its validators look at it (no part of this version puts a job here)",
    JobState.AWAITING_USER: "only a person can move it: an answer, or an operator after a history mismatch",
    JobState.COMPLETED: "ended with a result",
    JobState.COMPLETED_WITH_ISSUES: "ended with a result and with issues: items of `parallel` that failed within its tolerance, steps that were removed",
    JobState.FAILED: "ended with an error; an operator may retry it",
    JobState.CANCELLED: "ended because somebody asked for it",
    JobState.POISONED: "kept killing its engine; never retried by itself",
}


def picture() -> str:
    """Return the state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {source(t)} --> {t.target}: {who(t)}" for t in TRANSITIONS]
    lines += [f"    {state} --> [*]" for state in JobState if state in NEVER_LEFT]
    return "\n".join(lines)


def source(t: Transition) -> str:
    """Name where a move begins, as mermaid does."""
    return "[*]" if t.source is None else str(t.source)


def who(t: Transition) -> str:
    """Name who may cause a move."""
    return ", ".join(sorted(str(by).replace("_", " ") for by in t.by))


def states() -> str:
    """Return the table of states."""
    rows = ["| state | means | ended | left by |", "|---|---|---|---|"]
    for state in JobState:
        left = [f"`{t.target}`" for t in TRANSITIONS if t.source is state]
        ended = "yes" if state in FINAL_STATES else ""
        rows.append(f"| `{state}` | {MEANS[state]} | {ended} | {', '.join(left) or '–'} |")
    return "\n".join(rows)


def runs() -> str:
    """Return the table of how runs end."""
    rows = ["| a run ends as | its job is then |", "|---|---|"]
    for state in RunState:
        if state in RUN_ENDS:
            jobs = [f"`{job}`" for job in JobState if job in RUN_ENDS[state]]
            rows.append(f"| `{state}` | {', '.join(jobs)} |")
    return "\n".join(rows)


def page() -> str:
    """Return the whole page."""
    return f"""# States of a job

<!-- made by docs/make_states.py from core/transitions.py: change that, then run the script -->

One table in the code says which state may follow which, and who may cause it. The statements' compare-and-set, `why`'s
actions, the audit and this page are made from it. Words are those of the [glossary](glossary.md).

```mermaid
{picture()}
```

{states()}

- Only **recovery** moves a job from `running` to `stalled`.
- Outputs exist only in `completed` and `completed_with_issues`.
- `queued` has two faces: a job that never began, and one that was put away and waits. The first is cancelled or failed
  at once; the second gets one last run, in which its clean-up happens.
- `awaiting_validation` is part of the table and of every reader; what moves jobs there comes with validators.

## Runs

A run is one attempt at a job by one engine. It begins `running` and never leaves its end state; each new attempt is a
new row, so evidence is never overwritten.

{runs()}

`attempt` counts the first start, stalls and operator's retries, not sleeps: a job that was put away goes on with the
same number.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
