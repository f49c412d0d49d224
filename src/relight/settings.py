"""Settings of an engine: argument, else ``RELIGHT_<NAME>`` in the environment, else a default; with where each came from.

Owns names, types, ranges and defaults. ``relight doctor`` prints them all with their origin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relight.errors import ConfigError
from relight.model import Durability

DEFAULT_STORE = "relight.db"


@dataclass(frozen=True)
class Setting:
    """One setting: how its text is read, what it may be, and what it is when nobody says."""

    name: str
    default: Any
    read: Callable[[str], Any]
    allowed: Callable[[Any], bool]
    meaning: str


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], bool]:
    kinds = (int,) if whole else (int, float)
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and 0 < len(value) <= 200)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "store", DEFAULT_STORE, str, lambda v: isinstance(v, str) and bool(v), "a path, sqlite:///… or postgresql://…"
    ),
    Setting(
        "consume", None, _names, lambda v: v is None or all(isinstance(n, str) for n in v), "queues taken from; all"
    ),
    Setting("slots", 100, int, _number(1, 100_000, whole=True), "a whole number from 1: jobs running here at once"),
    Setting(
        "threads", 32, int, _number(1, 10_000, whole=True), "a whole number from 1: sync jobs running here at once"
    ),
    Setting("lease_seconds", 30.0, float, _number(0.5, 86_400), "seconds from 0.5 to 86,400"),
    Setting("gate_timeout_seconds", 30.0, float, _number(0, 86_400), "seconds from 0 to 86,400"),
    Setting("drain_seconds", 20.0, float, _number(0, 86_400), "seconds from 0 to 86,400"),
    Setting("suspend_after_seconds", 5.0, float, _number(0, 86_400), "seconds from 0 to 86,400"),
    Setting("durability", "power", str, lambda v: v in ("power", "process"), '"power" or "process"'),
    Setting("name", None, str, _text, "text of 1 to 200 characters"),
)
"""In the order in which ``doctor`` prints them."""

Origin = Literal["argument", "environment", "default"]


@dataclass(frozen=True)
class Settings:
    """All settings, resolved. Milliseconds inside, seconds outside. ``origins`` says where each came from."""

    store: str
    consume: tuple[str, ...] | None
    slots: int
    threads: int
    lease_ms: int
    gate_timeout_ms: int
    drain_ms: int
    suspend_after_ms: int
    durability: Durability
    name: str | None
    origins: Mapping[str, Origin]
    values: Mapping[str, Any]


def resolve(arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Resolve settings. None as an argument means that nothing was said. Raises ``ConfigError`` naming value and origin."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for setting in SETTINGS:
        values[setting.name], origins[setting.name] = _resolve_one(setting, arguments.get(setting.name), environment)
    return Settings(
        store=values["store"],
        consume=None if values["consume"] is None else tuple(values["consume"]),
        slots=values["slots"],
        threads=values["threads"],
        lease_ms=int(values["lease_seconds"] * 1000),
        gate_timeout_ms=int(values["gate_timeout_seconds"] * 1000),
        drain_ms=int(values["drain_seconds"] * 1000),
        suspend_after_ms=int(values["suspend_after_seconds"] * 1000),
        durability=values["durability"],
        name=values["name"],
        origins=origins,
        values=values,
    )


def _resolve_one(setting: Setting, argument: Any, environment: Mapping[str, str]) -> tuple[Any, Origin]:
    variable = f"RELIGHT_{setting.name.upper()}"
    if argument is not None:
        value, origin, shown = argument, "argument", f"{setting.name}={argument!r}"
    elif environment.get(variable, "") != "":
        text = environment[variable]
        shown, origin = f"{variable}={text!r}", "environment"
        try:
            value = setting.read(text)
        except ValueError:
            raise ConfigError(f"{shown}: expected {setting.meaning}", setting=setting.name) from None
    else:
        return setting.default, "default"
    if isinstance(value, os.PathLike) and setting.name == "store":
        value = os.fspath(value)
    if not setting.allowed(value):
        raise ConfigError(f"{shown}: expected {setting.meaning}", setting=setting.name)
    return value, origin  # type: ignore[return-value]
