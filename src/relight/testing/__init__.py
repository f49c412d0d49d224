"""What tests of durable code need: run a workflow in one call, move time, crash at every boundary, replay old histories.

Nothing in Relight imports this package; it needs no pytest (fixtures for it come with a plugin, see
``docs/howto/testing.md``). Read next: ``inline.py``.
"""

from relight.testing.clock import ManualClock
from relight.testing.corpse import SimulatedCrash
from relight.testing.crashing import CrashRun, crash_points
from relight.testing.draining import drain
from relight.testing.inline import run_inline
from relight.testing.replaying import assert_replays

__all__ = ["CrashRun", "ManualClock", "SimulatedCrash", "assert_replays", "crash_points", "drain", "run_inline"]
