"""The codes of causes, closed and stable: what programs compare, and what the docs list."""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, str] = {
    # Nobody takes it.
    "quarantined": "its row could not be handled and is set aside until an operator releases it",
    "store_degraded": "the store refuses its engine's writes; it goes on by itself",
    "no_engine": "no engine that takes from its queue is heard of",
    "kind_not_registered": "no live engine knows its kind",
    "kind_version_not_registered": "it began under a version of its kind that no live engine has",
    "gate_closed": "its engine still accounts for the last crash",
    "gate_failed": "its engine's recovery fails and is tried again",
    "queue_paused": "its queue is paused",
    "rate_limited": "its queue has used up its rate",
    "no_free_slot": "all slots are taken",
    "draining": "its engine is stopping",
    "in_line": "it is taken next, or after those before it",
    "not_due": "it was submitted, or put away, for a later time",
    # It waits.
    "sleeping": "it sleeps until a time, or until its poll checks again",
    "backoff": "a failed step waits for its next try",
    "waiting_signal": "it waits for a message",
    "waiting_decision": "it waits for a person's answer",
    "waiting_child": "it waits for another job",
    "waiting_external": "it waits for somebody outside to complete what it handed out a token for",
    "waiting_thread": "it waits for a free thread of its engine",
    "waiting_validation": "its validators look at it",
    # It runs.
    "running": "a step, or its own code, is at work",
    "silent_step": "a try is past its time limit and cannot be stopped, or has not called heartbeat for too long",
    "abandoned_thread": "a thread outlived its try",
    "cancelling": "it was asked to end",
    "deadline": "it has a deadline, or is past it",
    "probation": "it runs alone, because engines died while it ran",
    # Its engine is gone, or its code has changed.
    "stalled": "its engine died in the middle of it",
    "in_doubt": "nobody knows whether a step happened",
    "owner_silent": "its engine is not heard of and may still act",
    "held": "it waits for its silent engine, or for an operator",
    "history_mismatch": "its code no longer agrees with its record",
    "step_inserted": "its code has a new step in front of recorded ones",
    # It has ended.
    "completed": "it ended well",
    "issues": "it ended with a result and with issues",
    "failed": "it failed",
    "cancelled": "it was cancelled",
    "poisoned": "it kept killing its engine",
}
"""Each code and what it says. The design's words, and two of our own: ``in_line`` and ``waiting_validation``."""
