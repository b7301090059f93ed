"""`kata-ctl exec`: a program in the guest itself, outside of its containers."""

import asyncio
import sys
from typing import Annotated

import typer

from kata.cli.sandboxes import SandboxId


def execute(
    sandbox: SandboxId,
    command: Annotated[
        list[str] | None, typer.Argument(help="Program and arguments; a shell by default.")
    ] = None,
    interactive: Annotated[
        bool | None,
        typer.Option(
            "--tty/--no-tty",
            "-t/-T",
            help="Give the program a terminal; by default, if this has one on both ends.",
        ),
    ] = None,
) -> None:
    """Run a program in a guest itself, outside of its containers, and exit with its status.

    For debugging: the program sees all of the guest, as root. The sandbox must have been started
    with debug_console_enabled = true in [agent.kata]. Ctrl-] leaves a terminal; the program is
    killed when this command ends, however it does.
    """
    from kata.sandbox import debug_session
    from kata.sandbox.inventory import find

    terminal = interactive
    if terminal is None:
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
    status = asyncio.run(debug_session.run(find(sandbox), command or [], terminal=terminal))
    raise typer.Exit(status)
