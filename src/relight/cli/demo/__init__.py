"""``relight demo``: real work on real input, with real crashes, and a receipt that can say no.

A folder of Python source is counted by durable jobs while their engine is killed again and again; what the engine says
of itself is then checked against a witness that it does not write. Read in this order: ``facts.py`` and ``listing.py``
(the work, pure), ``report.py`` (what is written), ``census.py`` (the workflow: what a user would write), ``witness.py``
(what the steps themselves saw), ``evidence.py`` (what the store says), ``driver.py`` (kills, restarts), ``receipt.py``.
"""
