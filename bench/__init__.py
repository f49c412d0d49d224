"""Benchmarks: what Relight does on SQLite or PostgreSQL, and beside it the raw floor: the same writes by the driver alone.

``python -m bench`` runs everything on SQLite, ``--store postgresql`` on a server of its own, ``W2 W4 --json`` some of it. Each
measurement is a process of its own (``child.py``), in a folder of its own on the working disk, with a store of its own
(``place.py``), right after a probe of that disk (``probe.py``); Relight and floor take turns, so that a busy machine disturbs
both. ``docs/performance.md`` says what the figures mean.
Not a test: nothing here asserts a time. Read next: ``figures.py``, then a workload (``sequence.py`` is W1).
"""
