"""What a private containerd's CRI plugin is told: handlers, network, pause image, streaming server.

The format is version 2 of containerd's configuration, which 1.6 reads and 2.x migrates.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import pod_cgroup
from lab.images import PAUSE
from lab.paths import CONFIGURATION
from lab.pod_network import PodNetwork
from lab.release import Release

_CRI: Final = 'plugins."io.containerd.grpc.v1.cri"'
_KATA: Final = "io.containerd.kata-qemu.v2"
_ANNOTATIONS: Final = ["io.katacontainers.*"]
# A handler's twin with this ending gives pods three interfaces in place of one.
SEVERAL_INTERFACES: Final = "-several"


@dataclass(frozen=True, slots=True)
class Handler:
    """One way to run pods: the name that a RuntimeClass has, and what is behind it."""

    name: str
    runtime_type: str
    options: dict[str, str | bool]
    annotations: tuple[str, ...] = ()
    without_host_devices: bool = False
    sandboxer: str = ""

    def lines(self, name: str, network: Path, networks: int) -> Iterator[str]:
        """Yield the handler's table under a name, its pods in the networks of a folder."""
        table = f'{_CRI}.containerd.runtimes."{name}"'
        yield f"[{table}]"
        yield f'runtime_type = "{self.runtime_type}"'
        yield f"privileged_without_host_devices = {str(self.without_host_devices).lower()}"
        if self.annotations:
            yield f"pod_annotations = {list(self.annotations)!r}"
            yield f"container_annotations = {list(self.annotations)!r}"
        if self.sandboxer:
            yield f'sandboxer = "{self.sandboxer}"'
        yield f'cni_conf_dir = "{network}"'
        yield f"cni_max_conf_num = {networks}"
        if self.options:
            yield f"[{table}.options]"
        # Strings and booleans look the same in JSON and TOML.
        yield from (f"{key} = {json.dumps(value)}" for key, value in self.options.items())


def handlers(release: Release, home: Path) -> tuple[Handler, ...]:
    """Return the handlers that a daemon of this release has."""
    runc = Handler(
        "runc",
        "io.containerd.runc.v2",
        # Its state lies where the daemon's is, not in the one folder of the machine's daemons.
        {
            "BinaryName": str(release.runc),
            "Root": f"{home}/runc",
            "SystemdCgroup": pod_cgroup.has_slices(),
        },
    )
    kata = Handler(
        "kata-qemu",
        _KATA,
        {"ConfigPath": str(CONFIGURATION)},
        annotations=tuple(_ANNOTATIONS),
        without_host_devices=True,
    )
    if release.line == "1.6":  # it has no Sandbox API
        return (runc, kata)
    sandboxer = Handler(
        "kata-qemu-sandboxer",
        _KATA,
        {},  # with any, containerd 2.1 fails to create containers: it takes them for runc's
        annotations=kata.annotations,
        without_host_devices=True,
        sandboxer="shim",
    )
    return (runc, kata, sandboxer)


def configuration(release: Release, home: Path, network: PodNetwork) -> Iterator[str]:
    """Yield the lines of the CRI plugin's tables."""
    yield f"[{_CRI}]"
    yield f'sandbox_image = "{PAUSE.name}"'
    yield "disable_tcp_service = true"
    yield 'stream_server_address = "127.0.0.1"'
    yield 'stream_server_port = "0"'
    # Seconds; a test that waits for the size of a container's layer waits for this.
    yield "stats_collect_period = 1"
    # A pod's netns is mounted below the daemon's state, where the census knows it as the daemon's.
    yield "netns_mounts_under_state_dir = true"
    # Where the machine's root lacks CAP_SYS_RESOURCE, it cannot lower a score.
    yield "restrict_oom_score_adj = true"
    yield "enable_unprivileged_ports = true"
    yield "enable_unprivileged_icmp = true"
    yield f"[{_CRI}.cni]"
    yield f'bin_dir = "{release.cni_plugins}"'
    yield f'conf_dir = "{network.lists}"'
    yield "max_conf_num = 1"
    yield f"[{_CRI}.containerd]"
    yield 'default_runtime_name = "runc"'
    for handler in handlers(release, home):
        yield from handler.lines(handler.name, network.lists, 1)
        yield from handler.lines(handler.name + SEVERAL_INTERFACES, network.several_lists, 3)
