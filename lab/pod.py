"""Pods and their containers as values, and as the CRI messages that kubelet makes of them.

Names and defaults are a Pod manifest's where there is one; the messages are plain mappings with the
names of the CRI's fields. What kubelet fills in by itself (namespaces, masked paths) is filled in here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from lab.images import BUSYBOX

# What kubelet sends for `procMount: Default`.
MASKED_PATHS: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
READONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
FOREVER: Final = ("sleep", "100000")


class Propagation(StrEnum):
    """How mounts made later travel between the host and a container."""

    PRIVATE = "PROPAGATION_PRIVATE"
    HOST_TO_CONTAINER = "PROPAGATION_HOST_TO_CONTAINER"
    BIDIRECTIONAL = "PROPAGATION_BIDIRECTIONAL"


class Namespace(StrEnum):
    """Whose namespace a container uses."""

    POD = "POD"
    CONTAINER = "CONTAINER"
    NODE = "NODE"


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the host in a container, as kubelet passes every kind of volume."""

    host_path: Path
    container_path: str
    readonly: bool = False
    recursive_read_only: bool = False
    propagation: Propagation = Propagation.PRIVATE

    def message(self) -> dict[str, Any]:
        """Return the CRI's Mount."""
        return {
            "host_path": str(self.host_path),
            "container_path": self.container_path,
            "readonly": self.readonly,
            "recursive_read_only": self.recursive_read_only,
            "propagation": self.propagation.value,
        }


@dataclass(frozen=True, slots=True)
class Seccomp:
    """A seccomp profile: the runtime's own, one in a file of the host, or none."""

    kind: str
    path: str = ""

    def message(self) -> dict[str, Any]:
        """Return the CRI's SecurityProfile."""
        return {"profile_type": self.kind, "localhost_ref": self.path}

    @classmethod
    def localhost(cls, path: Path) -> Self:
        """Return the profile that is in a file."""
        return cls("Localhost", str(path))


UNCONFINED: Final = Seccomp("Unconfined")
RUNTIME_DEFAULT: Final = Seccomp("RuntimeDefault")


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What a container may do, as a manifest's securityContext says it."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    privileged: bool = False
    readonly_rootfs: bool = False
    allow_privilege_escalation: bool = True
    seccomp: Seccomp = UNCONFINED
    unmasked: bool = False  # procMount: Unmasked

    def message(self) -> dict[str, Any]:
        """Return the CRI's LinuxContainerSecurityContext, without its namespaces."""
        # kubelet masks nothing for a privileged container either.
        masked = not (self.unmasked or self.privileged)
        return {
            "capabilities": {
                "add_capabilities": list(self.add),
                "drop_capabilities": list(self.drop),
            },
            "privileged": self.privileged,
            "supplemental_groups": list(self.supplemental_groups),
            "readonly_rootfs": self.readonly_rootfs,
            "no_new_privs": not self.allow_privilege_escalation,
            "masked_paths": list(MASKED_PATHS) if masked else [],
            "readonly_paths": list(READONLY_PATHS) if masked else [],
            "seccomp": self.seccomp.message(),
            **_wrapped("run_as_user", self.run_as_user),
            **_wrapped("run_as_group", self.run_as_group),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of a container or a pod; 0 and empty mean none. Memory is in bytes."""

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    memory: int = 0
    oom_score_adj: int = 1000
    unified: Mapping[str, str] = field(default_factory=dict)

    def message(self) -> dict[str, Any]:
        """Return the CRI's LinuxContainerResources."""
        return {
            "cpu_period": self.cpu_period,
            "cpu_quota": self.cpu_quota,
            "cpu_shares": self.cpu_shares,
            "cpuset_cpus": self.cpuset_cpus,
            "memory_limit_in_bytes": self.memory,
            "oom_score_adj": self.oom_score_adj,
            "unified": dict(self.unified),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod."""

    name: str = "main"
    command: Sequence[str] = FOREVER
    args: Sequence[str] = ()
    image: str = BUSYBOX.name
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    mounts: Sequence[Mount] = ()
    devices: Sequence[tuple[Path, str]] = ()  # path on the host, path in the container
    security: Security = Security()
    resources: Resources = Resources()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)

    def message(self, pod: "Pod", attempt: int) -> dict[str, Any]:
        """Return the CRI's ContainerConfig; `attempt` counts how often it has been made before."""
        context = self.security.message() | {"namespace_options": pod.namespaces()}
        return {
            "metadata": {"name": self.name, "attempt": attempt},
            "image": {"image": self.image},
            "command": list(self.command),
            "args": list(self.args),
            "working_dir": self.working_dir,
            "envs": [{"key": key, "value": value} for key, value in self.env.items()],
            "mounts": [mount.message() for mount in self.mounts],
            "devices": [
                {"host_path": str(host), "container_path": inside, "permissions": "mrw"}
                for host, inside in self.devices
            ],
            "labels": pod.labels() | {"io.kubernetes.container.name": self.name},
            "annotations": dict(self.annotations),
            "log_path": f"{self.name}/{attempt}.log",
            "stdin": self.stdin,
            "stdin_once": self.stdin_once,
            "tty": self.tty,
            "linux": {"resources": self.resources.message(), "security_context": context},
        }


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the pod that is one of the host's, too."""

    container_port: int
    host_port: int
    protocol: str = "TCP"

    def message(self) -> dict[str, Any]:
        """Return the CRI's PortMapping."""
        return {
            "protocol": self.protocol,
            "container_port": self.container_port,
            "host_port": self.host_port,
        }


@dataclass(frozen=True, slots=True)
class Dns:
    """What is in the pod's resolv.conf."""

    servers: tuple[str, ...] = ("192.0.2.53",)
    searches: tuple[str, ...] = ("default.svc.cluster.local", "cluster.local")
    options: tuple[str, ...] = ("ndots:5",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, without the containers: kubelet adds those one by one."""

    name: str = "pod"
    namespace: str = "default"
    hostname: str = ""
    dns: Dns = Dns()
    ports: Sequence[Port] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    resources: Resources | None = None  # the sum over the pod's containers
    overhead: Resources | None = None  # the RuntimeClass's
    privileged: bool = False  # whether one of its containers is
    host_network: bool = False
    share_process_namespace: bool = False
    host_pid: bool = False
    host_ipc: bool = False

    def labels(self) -> dict[str, str]:
        """Return the labels that kubelet gives everything of the pod."""
        names = {"io.kubernetes.pod.name": self.name}
        return names | {"io.kubernetes.pod.namespace": self.namespace}

    def namespaces(self) -> dict[str, str]:
        """Return the CRI's NamespaceOption."""
        pid = Namespace.POD if self.share_process_namespace else Namespace.CONTAINER
        return {
            "network": (Namespace.NODE if self.host_network else Namespace.POD).value,
            "pid": (Namespace.NODE if self.host_pid else pid).value,
            "ipc": (Namespace.NODE if self.host_ipc else Namespace.POD).value,
        }

    def message(self, uid: str, log_directory: Path, cgroup: str) -> dict[str, Any]:
        """Return the CRI's PodSandboxConfig."""
        linux: dict[str, Any] = {
            "cgroup_parent": cgroup,
            "sysctls": dict(self.sysctls),
            "security_context": {
                "namespace_options": self.namespaces(),
                "privileged": self.privileged,
                # kubelet runs every sandbox container under the runtime's own profile.
                "seccomp": RUNTIME_DEFAULT.message(),
            },
        }
        for name, resources in (("resources", self.resources), ("overhead", self.overhead)):
            linux |= {name: resources.message()} if resources is not None else {}
        return {
            "metadata": {"name": self.name, "uid": uid, "namespace": self.namespace, "attempt": 0},
            "hostname": "" if self.host_network else self.hostname or self.name,
            "log_directory": str(log_directory),
            "dns_config": {
                "servers": list(self.dns.servers),
                "searches": list(self.dns.searches),
                "options": list(self.dns.options),
            },
            "port_mappings": [port.message() for port in self.ports],
            "labels": self.labels(),
            "annotations": dict(self.annotations),
            "linux": linux,
        }


def _wrapped(name: str, value: int | None) -> dict[str, Any]:
    return {} if value is None else {name: {"value": value}}
