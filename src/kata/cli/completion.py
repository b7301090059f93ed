"""`kata-ctl completion`: the script that makes a shell complete our words."""

from enum import StrEnum
from typing import Annotated

import typer

PROGRAM = "kata-ctl"
VARIABLE = "_KATA_CTL_COMPLETE"
"""The variable in which the script hands over what has been typed; the name is typer's."""


class Shell(StrEnum):
    """The shells there are scripts for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"

    @property
    def file(self) -> str:
        """Where the script belongs, below an installation's `share`."""
        return {
            Shell.BASH: f"bash-completion/completions/{PROGRAM}",
            Shell.ZSH: f"zsh/site-functions/_{PROGRAM}",
            Shell.FISH: f"fish/vendor_completions.d/{PROGRAM}.fish",
        }[self]


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.")],
) -> None:
    """Print the completion script of a shell; for bash: source <(kata-ctl completion bash)."""
    print(script(shell))


def script(shell: Shell) -> str:
    """Return the completion script of a shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    text: str = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)
    return text
