"""The command `kata-ctl`: what an administrator does with Kata Containers by hand.

Modules of commands are imported when their command is asked for: most answers take less time than
importing everything would.
"""

import errno
import importlib
import os
import sys
from typing import Any, NamedTuple, cast

import typer
from typer.core import TyperCommand, TyperGroup


class Entry(NamedTuple):
    """Where a command is: in `module`, a function or a group of commands called `name`.

    Of a `last_argument` that is a command line of its own, no word is an option of ours.
    """

    module: str
    name: str
    last_argument: bool = False


# In the order of `kata-ctl --help`: first what is wrong, then what runs, then what is kept ready.
COMMANDS: dict[str, Entry] = {
    "check": Entry("kata.cli.check", "check"),
    "env": Entry("kata.cli.environment", "environment"),
    "config": Entry("kata.cli.config", "config"),
    "list": Entry("kata.cli.sandboxes", "list_sandboxes"),
    "show": Entry("kata.cli.sandboxes", "show"),
    "exec": Entry("kata.cli.debug", "execute", last_argument=True),
    "logs": Entry("kata.cli.logs", "logs"),
    "start-ledger": Entry("kata.cli.ledger", "start_ledger"),
    "cleanup": Entry("kata.cli.cleanup", "cleanup"),
    "image": Entry("kata.cli.image", "app"),
    "template": Entry("kata.cli.template", "app"),
    "completion": Entry("kata.cli.completion", "completion"),
}


class LateCommands(TyperGroup):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        """Return a command by name, or None when there is none."""
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            self.add_command(load(cmd_name), cmd_name)
        found = super().get_command(ctx, cmd_name)
        return cast("TyperCommand | TyperGroup | None", found)


def load(name: str) -> TyperCommand | TyperGroup:
    """Import the command called `name`."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(entry.module), entry.name)
    command: Any
    if isinstance(found, typer.Typer):
        found.rich_markup_mode = "markdown"
        command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        settings = {"allow_interspersed_args": False} if entry.last_argument else {}
        alone.command(name, context_settings=settings)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return cast("TyperCommand | TyperGroup", command)


app = typer.Typer(
    name="kata-ctl",
    cls=LateCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kata import __version__

        print(f"kata-ctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Work with Kata Containers by hand.

    `check` says whether containers can run here, `config` what they would run with, and `list`
    what runs. Sandboxes are called by their id, or by any beginning of it that no other has.
    """
    del version


def main() -> None:
    """Run the command of this process's arguments and exit: 0 done, 1 failed, 2 misused."""
    if "_KATA_CTL_COMPLETE" in os.environ:  # a shell asks, see kata.cli.completion
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        try:
            app(prog_name="kata-ctl")
        finally:
            sys.stdout.flush()  # here, where a failure is told: of a short output it is the first write
    except BrokenPipeError:
        # Whoever read our output has seen enough; nor may the interpreter's own flush complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        remedy = _remedy(error)
        if not remedy:
            raise
        path = error.filename2 or error.filename or "standard output"
        print(f"kata-ctl: {path}: {error.strerror}; {remedy}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor is it tried again
        sys.exit(1)
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"kata-ctl: {error}", file=sys.stderr)
        sys.exit(1)


def _remedy(error: OSError) -> str:
    """Return what to do about a condition of the host; empty for what it is not to blame for."""
    if isinstance(error, PermissionError) and os.geteuid():
        return "run this as root"
    return {
        errno.ENOSPC: "free space there, or choose another folder",
        errno.EROFS: "choose a folder that can be written to",
    }.get(error.errno or 0, "")


def _is_expected(error: Exception) -> bool:
    """Tell an error that names cause and remedy from a fault of this program."""
    from kata.config.errors import ConfigError
    from kata.image.errors import ImageError
    from kata.sandbox.inventory import InventoryError
    from kata.template.store import TemplateError

    return isinstance(error, (ConfigError, ImageError, InventoryError, TemplateError))


if __name__ == "__main__":
    main()
