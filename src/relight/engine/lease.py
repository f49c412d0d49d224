"""The lease: an engine's time-bounded right to own runs, its heartbeat, and the limit it sets itself.

A beat shows that the process lives (lock file) and renews the lease (the store). Before a step starts, the engine compares
the time since its last renewal by a clock that counts suspension: beyond the lease it renews first, and learns there if it
was fenced in the meantime. So a process that was stopped for an hour starts nothing on its return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from relight.clock import Clock
from relight.core.commands.engines import RenewLease
from relight.errors import (
    Fenced,
    RelightError,
    StorageUnavailable,
    Suspending,
)
from relight.ids import EngineId
from relight.proof.lockfile import LockFile
from relight.settings import Settings
from relight.store.journal import Journal
from relight.store.tickets import Ticket
from relight.store.time import look_at

if TYPE_CHECKING:
    from relight.engine.loop import EngineLoop


class Lease:
    """The part of an incarnation that beats and renews."""

    clock: Clock
    journal: Journal
    settings: Settings
    engine_id: EngineId
    lock: LockFile | None
    renewed_at: int
    reached: Callable[[str], None]
    _loop: EngineLoop | None

    def beat(self) -> None:
        """Show that this process lives, and renew the lease. Called each sixth of a lease."""
        if self.lock is not None:
            self.lock.journal_alive(self.clock.mono_ms())
            if self._loop is not None:
                self._loop.call(self._loop_is_alive)
            look_at(self.clock)
            self.lock.beat(self.clock.now_ms())
        self._renew()

    def _loop_is_alive(self) -> None:
        if self.lock is not None:
            self.lock.loop_alive(self.clock.mono_ms())

    def _renew(self) -> None:
        asked = self.clock.mono_ms()

        def renewed(tickets: list[Ticket]) -> None:
            if tickets[0].error is None:
                self.renewed_at = max(self.renewed_at, asked)

        try:
            self.journal.put(RenewLease(engine_id=self.engine_id, lease_ms=self.settings.lease_ms), waker=renewed)
        except RelightError:
            return  # fenced, closing or full: whoever looks after this incarnation is told otherwise

    def _lease_is_over(self) -> bool:
        return self.clock.mono_ms() - self.renewed_at > self.settings.lease_ms - self.settings.lease_ms // 6

    def may_begin_step(self) -> None:
        """Return when a step may begin: a lease that may have run out (a suspend, a stop) is renewed first."""
        self.reached("before_step")
        if self._lease_is_over():
            asked = self.clock.mono_ms()
            try:
                self.journal.execute(RenewLease(engine_id=self.engine_id, lease_ms=self.settings.lease_ms))
            except (Fenced, StorageUnavailable) as error:
                raise Suspending(str(error)) from None
            self.renewed_at = max(self.renewed_at, asked)

    async def may_begin_step_async(self) -> None:
        """As ``may_begin_step``, on the loop."""
        self.reached("before_step")
        if self._lease_is_over():
            asked = self.clock.mono_ms()
            try:
                assert self._loop is not None  # this runs on it
                await self._loop.written(
                    self.journal, RenewLease(engine_id=self.engine_id, lease_ms=self.settings.lease_ms)
                )
            except (Fenced, StorageUnavailable) as error:
                raise Suspending(str(error)) from None
            self.renewed_at = max(self.renewed_at, asked)
