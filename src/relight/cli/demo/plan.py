"""What the demo settles before the first engine starts: files, jobs, places, and the moments of the kills.

Moments are drawn from a seed and mean progress ("once 213 steps have ended, 4 ms later"), not time, so that every kill
meets work in flight on a fast machine and on a slow one. Read next: ``driver.py``.
"""

from __future__ import annotations

import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

from relight.cli.demo.evidence import is_server
from relight.cli.demo.listing import Listing, checked_folder, list_tree, plan_groups, standard_library
from relight.cli.demo.talk import Orders
from relight.errors import ConfigError, InvalidArgument, StorageError
from relight.store.open import store_at

LAST_KILL_SHARE = 0.85
MAX_DELAY_SECONDS = 0.015

PACED_STEPS = 500
"""With fewer steps, work would be over before a kill comes: each step then takes at least a little while."""


@dataclass(frozen=True)
class DemoOptions:
    """What the command line gave. ``folder`` None is the standard library; ``store`` None a temporary one."""

    folder: Path | None = None
    crashes: int = 3
    json: bool = False
    store: str | None = None
    seed: int | None = None
    out_folder: Path | None = None


@dataclass(frozen=True)
class Kill:
    """A moment: once ``after_steps`` steps have ended and one is under way, ``delay_seconds`` later."""

    after_steps: int
    delay_seconds: float


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first engine starts."""

    listing: Listing
    orders: Orders
    kills: list[Kill]
    seed: int
    steps: int

    @property
    def place(self) -> str:
        """Where the store is, without a password."""
        return store_at(self.orders.store).place if is_server(self.orders.store) else self.orders.store

    @property
    def jobs(self) -> int:
        """Count one job for each group, and the one that merges."""
        return len(self.orders.groups) + 1


def make_plan(options: DemoOptions) -> Plan:
    """List the folder, choose the places, draw the kills."""
    if options.crashes < 0:
        raise InvalidArgument(f"crashes must be 0 or more, not {options.crashes}", crashes=options.crashes)
    folder = str(checked_folder(options.folder or standard_library()))
    listing = list_tree(folder)
    groups = plan_groups(listing)
    steps = len(listing.files) + 2 * len(groups) + 3
    store, beside = _store_of(options.store)
    out_folder = (options.out_folder or beside).absolute()
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
        for name in ("witness.jsonl", "engine.log"):
            out_folder.joinpath(name).write_bytes(b"")
    except OSError as error:
        raise InvalidArgument(f"cannot write to {out_folder}: {error.strerror}; choose another --out") from None
    orders = Orders(
        store=store,
        folder=folder,
        out_folder=str(out_folder),
        witness=str(out_folder / "witness.jsonl"),
        session=secrets.token_hex(4),
        groups=groups,
        # Kills on purpose are no crash loop: with the default limit three in one long step would poison its job.
        max_stalls=options.crashes + 3,
        pace_seconds=min(0.1, 4 / steps) if steps < PACED_STEPS else 0.0,
    )
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    return Plan(listing, orders, draw_kills(Random(seed), options.crashes, steps), seed, steps)


def draw_kills(rng: Random, crashes: int, steps: int) -> list[Kill]:
    """Draw the moments, in order. None falls into the last part of the work, where it might come too late."""
    moments = sorted(rng.randrange(max(1, int(steps * LAST_KILL_SHARE))) for _ in range(crashes))
    return [Kill(after_steps, rng.uniform(0, MAX_DELAY_SECONDS)) for after_steps in moments]


def _store_of(store: str | None) -> tuple[str, Path]:
    """Return the store's address, and where the census goes unless somebody says so."""
    if store == "postgresql" or (store is not None and is_server(store)):
        address = "postgresql://" if store == "postgresql" else store
        server = store_at(address)
        try:
            server.open(create=True)
            server.close()
        except (ConfigError, StorageError) as error:
            raise InvalidArgument(f"no demo there: {error}", store="postgresql") from error
        return address, Path(tempfile.mkdtemp(prefix="relight-demo-"), "census")
    if store is None:
        path = Path(tempfile.mkdtemp(prefix="relight-demo-"), "relight.db")
    elif "://" in store and not store.startswith("sqlite:///"):
        raise InvalidArgument(
            f"the demo kills engines on a SQLite file or PostgreSQL; {store!r} is neither", store=store
        )
    else:
        path = Path(store.removeprefix("sqlite:///")).absolute()
    if not path.parent.is_dir():
        raise InvalidArgument(f"{path.parent} does not exist; create it or choose another --store", store=store)
    return str(path), path.with_name(f"{path.stem}-census")
