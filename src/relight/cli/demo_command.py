"""``relight demo``: the command around ``relight.cli.demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--crashes", type=int, default=3, metavar="N", help="How often the engine is killed; else 3.")
@click.option("--seed", type=int, metavar="N", help="Fix the moments of the kills.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write the census here; else beside the store."
)
@click.option("--store", metavar="STORE", help="Keep the store here; else a temporary one, named at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as one JSON object.")
@click.pass_context
def demo(
    ctx: click.Context,
    folder: Path | None,
    crashes: int,
    seed: int | None,
    out: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Kill an engine again and again while it counts Python files; check every promise.

    FOLDER is the standard library if it is not given. The engine runs as a child process that is killed (kill -9) at random
    moments and started again at once. Exit 0 only if every promise held.
    """
    from relight.cli.demo.driver import DemoOptions, run_demo  # reads and parses much that no other command needs

    options = DemoOptions(folder, crashes=crashes, json=as_json, store=store, seed=seed, out_folder=out)
    ctx.exit(run_demo(options, sys.stdout))
