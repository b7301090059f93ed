"""The network of one daemon's pods: a bridge, addresses and CNI lists of its own.

Everything in it carries the daemon's token: the bridge is named after it, the lists and with them the
comments of iptables rules too, and its addresses are the first free ones from where the token points.
Formats: CNI specification 1.0.
CNI leaves a bridge, empty iptables chains and changed sysctls behind by design; `remove` does not.
"""

import contextlib
import ipaddress
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from lab.command import LabError, run
from lab.leftovers import Leftover
from lab.paths import RUN

LINKS: Final = Path("/sys/class/net")
# Reserved for benchmarks of networks (RFC 2544): the one private range that no site uses.
_IPV4_POOL: Final = ipaddress.IPv4Network("198.18.0.0/15")
_IPV6_POOL: Final = ipaddress.IPv6Network("fd6b:6174:6100::/40")
_SLICES: Final = 512
_FORWARDING: Final = (
    Path("/proc/sys/net/ipv4/ip_forward"),
    Path("/proc/sys/net/ipv6/conf/all/forwarding"),
)
_NOTED: Final = RUN / "forwarding-before"
_NAT: Final = (("iptables", "iptables-save"), ("ip6tables", "ip6tables-save"))
_CNI_STATE: Final = Path("/var/lib/cni")
# Neither is a link's default.
BRIDGED_MTU: Final = 1450
PTP_MTU: Final = 1400


@dataclass(slots=True)
class PodNetwork:
    """The bridge and the CNI lists of one daemon's pods."""

    token: str
    home: Path
    _slice: int = field(init=False)  # of every network; `create` takes another if that is in use

    def __post_init__(self) -> None:
        number = re.sub(r"[^0-9a-f]", "", self.token.rpartition("-")[2]) or "0"
        self._slice = int(number, 16) % _SLICES

    @property
    def bridge(self) -> str:
        """The bridge's name: the token, which is short enough for a link's (15 bytes)."""
        return self.token

    @property
    def lists(self) -> Path:
        """The folder with the list that gives a pod one interface on the bridge."""
        return self.home / "cni"

    @property
    def several_lists(self) -> Path:
        """The folder with the lists that give a pod a bridge's, a ptp and a macvlan interface."""
        return self.home / "cni-several"

    @property
    def addresses(self) -> Path:
        """Where host-local notes the addresses that are in use."""
        return self.home / "ipam"

    @property
    def ipv4(self) -> ipaddress.IPv4Network:
        """The bridge's IPv4 network."""
        return ipaddress.IPv4Network((int(_IPV4_POOL[0]) + (self._slice << 8), 24))

    @property
    def ipv6(self) -> ipaddress.IPv6Network:
        """The bridge's IPv6 network."""
        return ipaddress.IPv6Network((int(_IPV6_POOL[0]) + (self._slice << 64), 64))

    @property
    def ptp(self) -> ipaddress.IPv4Network:
        """The network of the point-to-point interfaces; no route of the host is in it."""
        return ipaddress.IPv4Network(f"100.64.{self._slice % 256}.0/24")

    @property
    def macvlan(self) -> ipaddress.IPv4Network:
        """The network of the macvlan interfaces; only pods are in it."""
        return ipaddress.IPv4Network(f"100.65.{self._slice % 256}.0/24")

    @property
    def gateway(self) -> str:
        """The host's own address on the bridge."""
        return str(self.ipv4[1])

    def create(self) -> None:
        """Make the bridge and write the lists; the kernel's forwarding is noted, for `remove`.

        Raises `LabError` when none of the networks is free.
        """
        self._take_free_slice()
        _note_forwarding()
        run(["ip", "link", "add", self.bridge, "type", "bridge"])
        run(["ip", "link", "set", self.bridge, "up"])
        # Who adds the bridge owns its address's checks: a duplicate's search would cost two seconds.
        Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/accept_dad").write_text("0")
        _write_list(self.lists / "10-bridge.conflist", f"{self.token}-bridge", self._on_bridge())
        several = self.several_lists
        _write_list(several / "10-bridge.conflist", f"{self.token}-bridge", self._on_bridge())
        _write_list(several / "20-ptp.conflist", f"{self.token}-ptp", [self._on_ptp()])
        _write_list(several / "30-macvlan.conflist", f"{self.token}-macvlan", [self._on_macvlan()])

    def census(self) -> list[Leftover]:
        """Return what pods left in the network: ports, addresses in use, rules."""
        return [*self._ports(), *self._used_addresses(), *self._rules()]

    def remove(self) -> None:
        """Remove the bridge and what CNI never removes; nothing of it is an error when absent."""
        run(["ip", "link", "delete", self.bridge], check=False)
        if not any(LINKS.glob("lab-*")):
            _restore_forwarding()
            for program, saver in _NAT:
                _remove_portmap_chains(program, saver)
        for folder in (_CNI_STATE / "results", _CNI_STATE):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only once nobody's result is in it

    def _take_free_slice(self) -> None:
        lists = _written_lists()
        for _ in range(_SLICES):
            networks = [str(one) for one in (self.ipv4, self.ptp, self.macvlan)]
            if not any(network in lists or _is_routed(network) for network in networks):
                return
            self._slice = (self._slice + 1) % _SLICES
        raise LabError(f"the host has routes into every network of {_IPV4_POOL}")

    def _on_bridge(self) -> list[dict[str, object]]:
        ranges = [[{"subnet": str(self.ipv4)}], [{"subnet": str(self.ipv6)}]]
        return [
            {
                "type": "bridge",
                "bridge": self.bridge,
                "isGateway": True,
                "hairpinMode": True,
                "mtu": BRIDGED_MTU,
                "ipam": self._host_local(ranges, ["0.0.0.0/0", "::/0"]),
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ]

    def _on_ptp(self) -> dict[str, object]:
        ranges = [[{"subnet": str(self.ptp)}]]
        return {"type": "ptp", "mtu": PTP_MTU, "ipam": self._host_local(ranges, ["192.0.2.0/24"])}

    def _on_macvlan(self) -> dict[str, object]:
        ipam = self._host_local([[{"subnet": str(self.macvlan)}]], [])
        return {"type": "macvlan", "master": self.bridge, "mode": "bridge", "ipam": ipam}

    def _host_local(
        self, ranges: Sequence[object], destinations: Sequence[str]
    ) -> dict[str, object]:
        return {
            "type": "host-local",
            "dataDir": str(self.addresses),
            "ranges": ranges,
            "routes": [{"dst": destination} for destination in destinations],
        }

    def _ports(self) -> Iterator[Leftover]:
        for port in sorted((LINKS / self.bridge / "brif").glob("*")):
            remove = partial(run, ["ip", "link", "delete", port.name])
            yield Leftover("port of the bridge", port.name, remove)

    def _used_addresses(self) -> Iterator[Leftover]:
        for path in sorted(self.addresses.glob("*/*")):
            with contextlib.suppress(ValueError):  # beside them lie a lock and a counter
                ipaddress.ip_address(path.name)
                yield Leftover("address in use", str(path), path.unlink)

    def _rules(self) -> Iterator[Leftover]:
        for program, saver in _NAT:
            for line in run([saver, "-t", "nat"]).stdout.splitlines():
                if line.startswith("-A") and self.token in line:
                    words = ["sh", "-c", f"{program} -t nat -D {line.removeprefix('-A ')}"]
                    yield Leftover(f"{program} rule", line, partial(run, words))


def _written_lists() -> str:
    """Return every daemon's lists: before its first pod, nothing else tells what it has taken."""
    lists = []
    for path in RUN.glob("*/cni*/*.conflist"):
        with contextlib.suppress(FileNotFoundError):  # its daemon has ended meanwhile
            lists.append(path.read_text())
    return "".join(lists)


def _is_routed(network: str) -> bool:
    return bool(run(["ip", "-4", "route", "show", "root", network]).stdout.strip())


def _note_forwarding() -> None:
    """Note what the kernel forwards, unless another daemon's network has noted it before."""
    if not _NOTED.exists():
        values = {str(path): path.read_text() for path in _FORWARDING if path.exists()}
        _NOTED.parent.mkdir(parents=True, exist_ok=True)
        _NOTED.write_text(json.dumps(values))


def _restore_forwarding() -> None:
    """Have the kernel forward what it did before the first of the networks."""
    if _NOTED.exists():
        for path, value in json.loads(_NOTED.read_text()).items():
            Path(path).write_text(value)
        _NOTED.unlink()


def _write_list(path: Path, name: str, plugins: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"cniVersion": "0.4.0", "name": name, "plugins": plugins}
    path.write_text(json.dumps(content, indent=2))


def _remove_portmap_chains(program: str, saver: str) -> None:
    """Remove the chains that portmap makes once for all networks, if no rule of a pod is in one."""
    lines = run([saver, "-t", "nat"]).stdout.splitlines()
    if any(line.startswith("-A CNI-HOSTPORT-DNAT") for line in lines):
        return
    chains = [line[1:].split()[0] for line in lines if line.startswith(":CNI-HOSTPORT-")]
    for line in lines:
        if line.startswith("-A") and any(f"-j {chain}" in line for chain in chains):
            run(["sh", "-c", f"{program} -t nat -D {line.removeprefix('-A ')}"], check=False)
    for verb in ("-F", "-X"):
        for chain in chains:
            run([program, "-t", "nat", verb, chain], check=False)
