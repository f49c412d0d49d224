"""What proves on this host that an engine's process lives or is dead: its lock, and what the kernel says of the process.

Below everything that asks, so that an engine's judge and whoever explains a job look at the same proof. It reaches no
verdict: that is ``engine/liveness.py``. Read ``lockfile.py`` first.
"""
