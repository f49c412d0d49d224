"""Commands: requested durable changes, as values. Each knows the rows it writes and the events that tell of them.

A command is made by whoever wants the change, becomes ``Changes`` in that caller's thread (so that bad input is refused
at once, and encoding and hashing happen before any transaction), and is applied by the journal. ``refused`` says what to
raise when the store's compare-and-set on some operation did not hold.

Files: ``jobs`` (submit to end), ``steps`` (inside a run), ``outside`` (tokens, published values), ``steering`` (people and
clients), ``engines`` (writers, gate, recovery). Read next: ``store/store.py``.
"""

from relight.core.commands.base import Command, JobRef

__all__ = ["Command", "JobRef"]
