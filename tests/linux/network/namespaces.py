"""Network namespaces of a test's own, with what CNI would make in them."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Namespace:
    """A network namespace of the test's own."""

    name: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def ip(self, words: str) -> str:
        command = ["ip", "-n", self.name, *words.split()]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def tc(self, words: str) -> str:
        command = ["tc", "-n", self.name, *words.split()]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def add_pair(self, name: str, *addresses: str) -> None:
        """Add a link as CNI's bridge plugin does; its other end is in here, too, for simplicity."""
        self.ip(f"link add {name} mtu 1450 type veth peer name {name}-host")
        for address in addresses:
            self.ip(f"address add {address} dev {name} nodad")
        self.ip(f"link set {name} up")
        self.ip(f"link set {name}-host up")
