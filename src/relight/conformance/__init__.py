"""The store's promises as a pytest suite, for everyone who writes a backend. Needs pytest; nothing of Relight imports it.

A backend gives one fixture and imports the suite::

    from relight.conformance import *

    @pytest.fixture
    def store_factory(tmp_path: Path) -> StoreFactory:
        return lambda: MyStore(tmp_path / "store")

Each call makes a ``Store`` that is not open; all stores of one test are the same database, empty when the test begins.
Other writers may use the database at the same time: no test looks at what is not its own. ``transitions`` holds the table,
``fence`` who may write, ``batches`` all or nothing, ``claims``, ``teams``, ``steps``, ``waits``, ``outside``, ``ends``
and ``recovery`` what each operation asks before it writes, ``reads`` what is given back. Start reading at ``world.py``.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"relight.conformance.{name}"
        for name in (
            *("transitions", "fence", "batches", "claims", "teams"),
            *("steps", "waits", "outside", "ends", "recovery", "reads"),
        )
    )
)

from relight.conformance.batches import *  # noqa: E402, F403
from relight.conformance.claims import *  # noqa: E402, F403
from relight.conformance.ends import *  # noqa: E402, F403
from relight.conformance.fence import *  # noqa: E402, F403
from relight.conformance.outside import *  # noqa: E402, F403
from relight.conformance.reads import *  # noqa: E402, F403
from relight.conformance.recovery import *  # noqa: E402, F403
from relight.conformance.steps import *  # noqa: E402, F403
from relight.conformance.teams import *  # noqa: E402, F403
from relight.conformance.transitions import *  # noqa: E402, F403
from relight.conformance.waits import *  # noqa: E402, F403
from relight.conformance.world import StoreFactory as StoreFactory  # noqa: E402
from relight.conformance.world import World as World  # noqa: E402
