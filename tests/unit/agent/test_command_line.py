"""The kernel command line's words for the agent."""

from __future__ import annotations

import pytest

from kata_agent.command_line import AgentOptions, parse

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", AgentOptions()),
        ("console=ttyS0 quiet panic=1", AgentOptions()),
        ("agent.log=debug", AgentOptions(log="debug")),
        ("agent.log=loud", AgentOptions(unknown=("agent.log=loud",))),
        ("agent.debug_console", AgentOptions(debug_console=True)),
        ("agent.debug_console=false", AgentOptions()),
        ("agent.x agent.y=1 z", AgentOptions(unknown=("agent.x", "agent.y=1"))),
    ],
)
def test_parse(line: str, options: AgentOptions) -> None:
    assert parse(line) == options
