"""``relight worker``: run an engine until it is told to stop."""

from __future__ import annotations

from typing import Any

import click

from relight.authoring.options import Queue
from relight.authoring.workflows import BaseWorkflow
from relight.cli.leaving import Leaving, drain, pause
from relight.cli.loading import Target, load
from relight.cli.news import News
from relight.cli.options import store_option
from relight.cli.output import tell
from relight.cli.parsing import seconds
from relight.engine.facade import Engine, _Host
from relight.errors import RegistrationError

LOOK_SECONDS = 0.05


@click.command()
@click.argument("target", metavar="MODULE[:ENGINE]")
@click.option(
    "--consume", multiple=True, metavar="QUEUE", help="Take jobs from this queue only. Repeatable; else from all."
)
@click.option("--slots", type=int, metavar="N", help="How many jobs run here at once; else 100.")
@click.option("--threads", type=int, metavar="N", help="How many sync jobs among them; else 32.")
@click.option("--name", metavar="NAME", help="What records and messages call this engine.")
@click.option("--drain", "drain_for", metavar="DURATION", help="How long leaving waits for running steps; else 20s.")
@click.option("--lease", metavar="DURATION", help="How long others wait for this engine when it is silent; else 30s.")
@store_option
def worker(
    target: str, consume: tuple[str, ...], drain_for: str | None, lease: str | None, store: str | None, **more: Any
) -> None:
    """Run an engine until SIGTERM or Ctrl-C; then drain and leave.

    MODULE's workflows and queues are taken: all that it defines or imports, and of a package those of its modules. With
    MODULE:ENGINE an unopened Engine object brings its own, with settings and resources; options go before its settings.
    Prints one line when its gate opens. A second Ctrl-C leaves at once; what ran is then recovered by the next start.
    """
    settings = {
        "store": store,
        "consume": [name for text in consume for name in text.split(",") if name] or None,
        "drain_seconds": None if drain_for is None else seconds(drain_for, "--drain"),
        "lease_seconds": None if lease is None else seconds(lease, "--lease"),
        **more,
    }
    host = _host(load(target), settings)
    with Leaving() as leaving:
        host._start()
        try:
            news = News(host, gate=True)
            while not leaving.asked:
                news.look()
                pause(LOOK_SECONDS)
        finally:
            drain(host, leaving)
    tell("stopped")


def _host(target: Target, settings: dict[str, Any]) -> _Host:
    """Return the engine that is meant: an object in the module, or one made of what is in the module."""
    value = target.value()
    if isinstance(value, _Host):
        value._override(settings)
        return value
    if value is not None and not isinstance(value, BaseWorkflow):
        raise RegistrationError(
            f"{target.text} is neither an Engine nor a workflow, but {type(value).__name__}. Give MODULE, or MODULE:ENGINE"
        )
    workflows = target.workflows() if value is None else [value]
    if not workflows:
        raise RegistrationError(
            f"there is no workflow in {target.text}. Decorate a function with @workflow, or name another module"
        )
    queues: list[Queue] = target.queues()
    return Engine(workflows=workflows, queues=queues, **settings)  # type: ignore[arg-type]
