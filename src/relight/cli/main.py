"""The ``relight`` command: its commands, and the one place where an error becomes words and an exit code.

An error is told on stderr as ``error: CODE: what happened, and what to do next``; no error of Relight shows a traceback.
Exit codes are in ``exit_codes.py``. Read next: ``run.py``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from relight.cli import (
    acts,
    doctor,
    engines,
    export,
    fork,
    lists,
    log,
    queues,
    run,
    show,
    submit,
    tokens,
    upkeep,
    watch,
    worker,
)
from relight.cli.demo_command import demo
from relight.cli.exit_codes import Exit, worth_of
from relight.cli.later import LATER, WithLater
from relight.cli.output import make_output_safe, tell, visible
from relight.errors import RelightError
from relight.version import VERSION

WIDTH = 100


class _Commands(WithLater):
    """A group that ends the process with an exit code of ours, whatever was raised."""

    later = LATER

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run a command. In standalone mode, which is usual, end the process; else return the exit code."""
        make_output_safe()
        code = self._guarded(args, more)
        if standalone_mode:
            sys.exit(code)
        return code

    def _guarded(self, args: tuple[Any, ...], more: dict[str, Any]) -> int:
        try:
            code = super().main(*args, **{**more, "standalone_mode": False})
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            tell(error.format_message())
            return Exit.USAGE
        except click.UsageError as error:
            tell(f"error: usage: {visible(_usage(error))}")
            return Exit.USAGE
        except click.ClickException as error:
            tell(f"error: usage: {visible(error.format_message())}")
            return error.exit_code
        except click.Abort:
            return Exit.INTERRUPTED
        except RelightError as error:
            tell(f"error: {error.code}: {visible(str(error))}")
            return worth_of(error).exit
        except msgspec.ValidationError as error:
            tell(f"error: storage_corrupt: a stored row cannot be read: {visible(str(error))}. relight verify names it")
            return Exit.UNAVAILABLE
        return code if isinstance(code, int) else Exit.OK

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named; leave quietly when whoever read the output went away."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.BROKEN_PIPE)


def _usage(error: click.UsageError) -> str:
    words = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "relight"
    return f"{words}. See: {path} --help"


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH, "terminal_width": WIDTH},
)
@click.version_option(VERSION, "--version", prog_name="relight", message="%(prog)s %(version)s")
def cli() -> None:
    """Run, inspect and steer durable jobs.

    A job is named by the end of its id (4 characters or more, as lists show it), as @last (the newest), or as kind:key.
    The store is --store, else RELIGHT_STORE, else relight.db in the current folder.
    """


for _command in (
    demo,
    run.run,
    worker.worker,
    submit.submit,
    lists.jobs,
    show.show,
    show.why,
    watch.watch,
    log.events,
    export.export,
    acts.resume,
    acts.retry,
    acts.cancel,
    acts.fail,
    fork.fork,
    acts.signal,
    acts.answer,
    tokens.complete,
    tokens.beat,
    acts.release,
    lists.recoveries,
    engines.engines,
    queues.queues,
    upkeep.verify,
    doctor.doctor,
    upkeep.db,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line, and end the process."""
    cli.main(prog_name="relight")
