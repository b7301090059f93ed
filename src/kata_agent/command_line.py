"""The kernel's command line, as far as it is addressed to the agent."""

from __future__ import annotations

from typing import NamedTuple

_LEVELS = ("trace", "debug", "info", "warn", "error", "critical")


class AgentOptions(NamedTuple):
    """What the command line asks of the agent; names are upstream's ``agent.*``."""

    log: str = "info"
    debug_console: bool = False
    debug_console_port: int = 0  # whoever names one wants no shell on the console
    unknown: tuple[str, ...] = ()  # agent.* words this agent does not know, or cannot read


def parse(command_line: str) -> AgentOptions:
    """Read the ``agent.*`` words of a kernel command line; others belong to others."""
    options = AgentOptions()
    unknown: list[str] = []
    for word in command_line.split():
        name, _, value = word.partition("=")
        if name == "agent.log" and value in _LEVELS:
            options = options._replace(log=value)
        elif name == "agent.debug_console":
            options = options._replace(debug_console=value not in ("false", "0"))
        elif name == "agent.debug_console_vport" and value.isascii() and value.isdigit():
            options = options._replace(debug_console_port=int(value))
        elif name.startswith("agent."):
            unknown.append(word)
    return options._replace(unknown=tuple(unknown))
