"""Is an engine at rest: would it do nothing more before some time comes, or before somebody outside acts?

Asked after each look of the supervisor, only where somebody listens: the clocks and helpers of ``relight.testing``. Work
is handed on from the supervisor to the journal, to threads and the loop, and back; whoever hands it on still counts as
busy until the next one does. So an engine of which each is idle at one look has nothing under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from relight.engine.incarnation import Incarnation


@dataclass(frozen=True)
class Rest:
    """An engine with nothing to do.

    ``until``: when it has something to do by itself, on the monotonic clock; None: never. ``moves``: when a job goes on or
    ends by itself; before that, at most runs are put away, and other processes' commits looked for. ``claims``: when
    a queue's rate lets a job start that waits for nothing else; one of the moves.
    """

    until: int | None
    moves: int | None
    claims: int | None


@runtime_checkable
class Listener(Protocol):
    """Somebody who is told, from the supervisor's thread, how each of its looks ended."""

    def ticked(self, engine: Incarnation, rest: Rest | None) -> bool:
        """Hear that an engine is at rest, or (None) that it is not; return whether it should look again at once."""
        ...

    def left(self, engine: Incarnation) -> None:
        """Hear that an engine has stopped."""
        ...


class Attention:
    """Who attends to one engine from outside: who listens to its looks, and whether somebody waits for a job of it to end.

    ``watch_passes`` is how often the watch began or ended a look at everything: odd while it looks.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.awaited: Callable[[], bool] = lambda: False
        self.watch_passes = 0


def rest_of(engine: Incarnation, next_timer_ms: int | None, look_again_at: int, rate_timer: int | None) -> Rest | None:
    """Return how an engine rests whose supervisor has nothing due, or None when something is under way.

    ``next_timer_ms`` is the first timer of a job that is not in memory, on the wall clock; ``look_again_at`` when the
    supervisor means to look for other processes' commits, 0 for never; ``rate_timer`` when a queue's rate leaves room again.
    """
    if not engine.gate.is_open or engine.draining or engine.degraded is not None or engine.claiming:
        return None
    passes = engine.attention.watch_passes
    if passes < 2 or passes % 2 or not engine.journal.idle:
        return None
    runs = engine.all_runs()
    if not all(run.rests() for run in runs):
        return None
    if any(run.spec.is_async for run in runs) and not engine.loop.is_idle():
        return None
    now, wall = engine.clock.mono_ms(), engine.clock.now_ms()
    waiters = [waiter for run in runs for waiter in run.waiting()]
    moves = [waiter.until for waiter in waiters if waiter.until is not None]
    if next_timer_ms is not None:
        moves.append(next_timer_ms)
    moves_at = now + min(moves) - wall + 1 if moves else None
    claims_at = rate_timer if rate_timer is not None and rate_timer > now else None
    if claims_at is not None:
        moves_at = claims_at if moves_at is None else min(moves_at, claims_at)
    looks = [waiter.put_away_at for waiter in waiters if waiter.put_away_at > now]
    looks += [at for at in (look_again_at, moves_at) if at]
    return Rest(min(looks, default=None), moves_at, claims_at)
