"""``relight``: the command line. Click is imported here and nowhere below; ``import relight`` does not need it.

Read in this order: ``main.py`` (commands, errors), ``exit_codes.py``, ``addresses.py`` (how a job is named), ``run.py``.
"""
