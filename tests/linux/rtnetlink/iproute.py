"""A network namespace as iproute2 sees it: the yardstick."""

from __future__ import annotations

import json
import subprocess
from typing import Any


class Namespace:
    """A network namespace, and iproute2 in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"

    def run(self, command: str) -> str:
        """Run a command inside; return its output."""
        argv = ["ip", "netns", "exec", self.name, *command.split()]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def show(self, command: str) -> list[dict[str, Any]]:
        """Return what an `ip -j` or `tc -j` command prints."""
        program, _, rest = command.partition(" ")
        found: list[dict[str, Any]] = json.loads(self.run(f"{program} -j {rest}") or "[]")
        return [one for one in found if one]
