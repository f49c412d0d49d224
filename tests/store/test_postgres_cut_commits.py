"""A connection that is cut at a COMMIT's answer: whatever the server did, what was asked for is there once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from tests.cutting import CuttingProxy
from tests.postgres import new_schema, own_server

from relight.conformance.world import World
from relight.core.commands import Command
from relight.recorder.verify import verify
from relight.store.postgres import PostgresStore
from relight.store.reads import EventFilter
from relight.store.store import OutcomeUnknown

MODES = ("answered", "sent", "answered", "answered", "answered", "unsent")
CUTS, ANSWERED = 300, 200


@pytest.fixture
def proxy() -> Iterator[CuttingProxy]:
    made = CuttingProxy(own_server().port)
    yield made
    made.close()


@pytest.mark.slow
def test_200_cut_commits_double_nothing_and_lose_nothing(proxy: CuttingProxy) -> None:
    straight = new_schema()
    through = straight.replace(f":{own_server().port}/", f":{proxy.port}/")
    unknown: Counter[str] = Counter()
    with World(lambda: PostgresStore(straight, durability="process")) as world:
        store = PostgresStore(through, durability="process")
        store.open(create=True)
        engine = world.open_engine(store=store)
        asked = []

        def write(command: Command, mode: str | None) -> None:
            ticket = engine.journal.put(command)
            while not ticket.done:
                engine.journal.pump()
                if mode is not None and isinstance(engine.journal.trouble, OutcomeUnknown):
                    unknown[mode] += 1
                    mode = None
                world.clock.advance(5_000)
            assert ticket.error is None and engine.journal.trouble is None

        for number in range(CUTS):
            mode = MODES[number % len(MODES)]
            write(engine.submission(), None)  # so that the proxy knows the new connection for a writer's
            command = engine.submission()
            proxy.cut_next(mode)
            write(command, mode)
            asked.append(command.job_id)
        with world.store.reading() as reads:
            told = Counter(event.job_id for event in reads.events(EventFilter(types=("job_accepted",), limit=0)))
            stored = {job.job_id for job in reads.job_heads(asked)}
        store.close()
        assert stored == set(asked)
        assert len(told) == 2 * CUTS and set(told.values()) == {1}
        assert unknown["answered"] == ANSWERED and unknown["sent"] and unknown["unsent"], unknown
        report = verify(world.store)
        assert report.ok, report.findings
