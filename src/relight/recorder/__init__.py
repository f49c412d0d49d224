"""The flight recorder's readers: they follow the log, and audit the whole store against it. Nothing here writes.

``verify`` re-checks every promise that a store can be asked about; ``follow`` gives the log in commit order as it grows.
Read next: ``verify.py``.
"""
