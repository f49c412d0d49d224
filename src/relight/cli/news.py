"""What an engine has to tell the terminal that it runs in: its gate, its store, a fence. Each change once, on stderr."""

from __future__ import annotations

from typing import Any

from relight.cli.output import tell, visible
from relight.engine.facade import _Host
from relight.ids import short


class News:
    """Looks at an engine's health, and says what is new. ``gate`` says that the open gate is worth a line."""

    def __init__(self, host: _Host, *, gate: bool) -> None:
        self._host = host
        self._gate = gate
        self._known: dict[str, Any] = {}

    def look(self) -> dict[str, Any]:
        """Say what has changed since the last look; return the health."""
        health: dict[str, Any] = self._host._engine_health()
        if self._is_new("fenced", health["fenced_times"] or None):
            tell("this engine was declared dead by another one; it starts anew, through the gate")
        if self._is_new("gate", (health["engine_id"], health["gate"], health.get("gate_reason"))):
            self._tell_gate(health)
        if self._is_new("degraded", health["degraded"]):
            trouble = health["degraded"]
            tell(
                f"the store refuses: {visible(trouble)}. Jobs wait; it is tried again"
                if trouble
                else "the store takes writes again"
            )
        return health

    def _is_new(self, name: str, value: Any) -> bool:
        new: bool = self._known.get(name) != value
        self._known[name] = value
        return new

    def _tell_gate(self, health: dict[str, Any]) -> None:
        if health["gate"] == "failed":
            reason = visible(str(health.get("gate_reason")))
            tell(f"the gate stays shut: {reason}. It is tried again; relight doctor shows how the store is")
        elif health["gate"] == "open" and self._gate:
            consume = self._host.settings.consume
            queues = "all queues" if consume is None else f"queues {', '.join(consume)}"
            kinds = ", ".join(health["kinds"]) or "nothing: no workflow was found"
            tell(
                f"engine {visible(health['name'])} ({short(health['engine_id'])}) is open after {health['gate_closed_ms']} ms: "
                f"takes {kinds} from {queues} of {health['store']}"
            )
