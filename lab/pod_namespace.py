"""Network namespaces of a test's own, with what CNI would make in them."""

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATIENCE_S: Final = 60
_LISTENS: Final = "0A"  # in /proc/net/tcp, as the ports there are: hexadecimal


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
        """Add a link as CNI's bridge plugin does; its other end, NAME-host, is in `peer` or in here.

        Both ends carry frames when this returns.
        """
        outside = peer or self
        self.ip(f"link add {name} mtu 1450 type veth peer name {name}-host netns {outside.name}")
        for address in addresses:
            self.ip(f"address add {address} dev {name}" + (" nodad" if ":" in address else ""))
        self.ip(f"link set {name} up")
        outside.ip(f"link set {name}-host up")
        # The kernel notices that there is a carrier a moment later: what is sent before is lost, and
        # what is shown of the link changes.
        _until(lambda: self.is_up(name) and outside.is_up(f"{name}-host"))

    def is_up(self, link: str) -> bool:
        """Tell whether a link is up and has a carrier, and all that hear of links have heard so."""
        return bool(json.loads(self.ip(f"-j link show dev {link}"))[0]["operstate"] == "UP")

    @contextmanager
    def web_server(self, folder: Path, port: int) -> Iterator[None]:
        """Serve a folder in here, on all addresses."""
        words = ["busybox", "httpd", "-f", "-p", str(port), "-h", str(folder)]
        with subprocess.Popen(self.command(*words)) as server:
            try:
                _until(lambda: self._listens(port))
                yield
            finally:
                server.kill()

    def _listens(self, port: int) -> bool:
        rows = _said(self.command("cat", "/proc/net/tcp", "/proc/net/tcp6")).splitlines()
        fields = [row.split() for row in rows]
        return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTENS for row in fields)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
