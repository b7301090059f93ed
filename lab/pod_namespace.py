"""Network namespaces of a test's own, with what CNI would make in them."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace by its name."""

    name: str

    @property
    def path(self) -> str:
        """The file that stands for it."""
        return f"/run/netns/{self.name}"

    def ip(self, words: str) -> str:
        """Run ip from iproute2 in here and return what it says."""
        return _said(["ip", "-n", self.name, *words.split()])

    def tc(self, words: str) -> str:
        """Run tc from iproute2 in here and return what it says."""
        return _said(["tc", "-n", self.name, *words.split()])

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs a program in here."""
        return ["ip", "netns", "exec", self.name, *words]

    def add_pair(self, name: str, *addresses: str, peer: "Namespace | None" = None) -> None:
        """Add a link as CNI's bridge plugin does; its other end, NAME-host, is in `peer` or in here."""
        outside = peer or self
        self.ip(f"link add {name} mtu 1450 type veth peer name {name}-host netns {outside.name}")
        for address in addresses:
            self.ip(f"address add {address} dev {name}" + (" nodad" if ":" in address else ""))
        self.ip(f"link set {name} up")
        outside.ip(f"link set {name}-host up")


def _said(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Hold an empty namespace; afterwards it is gone."""
    made = Namespace(f"kata-test-{secrets.token_hex(3)}")
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", made.name], check=True)
