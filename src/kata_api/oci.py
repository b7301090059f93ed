"""The OCI runtime specification (config.json) as frozen types.

Names of the specification, version 1.2 with the Linux additions of 1.3, in snake_case; the JSON keeps
the spelling of the specification. Only what a Linux container can use is here. Fields that are not
known are ignored on decoding and therefore absent when the value is encoded again: whoever must pass
a document on unchanged passes on its bytes. An absent field and a field with its default value are
the same value, and encoding leaves both out; where the specification tells "not set" from zero, the
default is None. To change a value, make a new one with `msgspec.structs.replace`.

Sizes are in bytes, times of the scheduler in nanoseconds and times of cgroups in microseconds, except
where a class says otherwise.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar, dataclass_transform

import msgspec
from msgspec import Meta, Struct, field

U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
U64 = Annotated[int, Meta(ge=0)]  # its upper bound is checked in _Node
I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]


class SpecError(ValueError):
    """A document that is not what the specification says; the message has the JSON path of the fault."""


# The decorator repeats for the type checker what the class arguments tell msgspec.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class _Node(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One JSON object of the specification."""

    def __post_init__(self) -> None:
        # msgspec reads integers of any width, and its own bounds end at 2**63.
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) is int and value >= 2**64:
                raise ValueError(f"`{name}` does not fit 64 bits")


# ---- The process


class Box(_Node):
    """The size of a terminal, in characters."""

    height: U32
    width: U32


class User(_Node):
    """Who the process is, in numbers of the container's user namespace; `umask` is a mode."""

    uid: U32
    gid: U32
    umask: U32 | None = None
    additional_gids: tuple[U32, ...] = ()
    username: str = ""


def _root_user() -> User:
    return User(uid=0, gid=0)


class Capabilities(_Node):
    """The capability sets of the process, by name: CAP_KILL."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Node):
    """One resource limit, by name: RLIMIT_NOFILE. 2**64 - 1 is no limit."""

    type: str
    soft: U64
    hard: U64


class Scheduler(_Node):
    """The scheduling attributes of sched_setattr(2): SCHED_OTHER; times are in nanoseconds."""

    policy: str
    nice: I64 = 0
    priority: I64 = 0
    flags: tuple[str, ...] = ()
    runtime: U64 = 0
    deadline: U64 = 0
    period: U64 = 0


class IOPriority(_Node):
    """The I/O priority of ioprio_set(2): IOPRIO_CLASS_BE, and 0 to 7."""

    class_: str = field(name="class")
    priority: I64 = 0


class CPUAffinity(_Node):
    """CPU lists of a process that joins a container: before and after it enters the cgroup."""

    initial: str = ""
    final: str = ""


class Process(_Node):
    """What runs in the container, and as whom."""

    cwd: str
    terminal: bool = False
    console_size: Box | None = None
    user: User = field(default_factory=_root_user)
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: I64 | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CPUAffinity | None = field(name="execCPUAffinity", default=None)


# ---- Files and hooks


class IDMapping(_Node):
    """A range of `size` ids: `container_id` and up inside are `host_id` and up outside."""

    container_id: U32 = field(name="containerID")
    host_id: U32 = field(name="hostID")
    size: U32


class Root(_Node):
    """The root filesystem; a relative path is below the bundle."""

    path: str
    readonly: bool = False


class Mount(_Node):
    """One mount, in the order of the document; options are those of mount(8)."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(_Node):
    """A program to run at one moment of the container's life; `timeout` is in seconds."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: I64 | None = None


class Hooks(_Node):
    """Hooks by moment; `prestart` is the deprecated name of `create_runtime` and runs before it."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


# ---- Resources


class DeviceCgroup(_Node):
    """One rule of the device allow list; no `major` or `minor` is any, `access` is out of rwm."""

    allow: bool
    type: Literal["a", "b", "c", ""] = ""
    major: I64 | None = None
    minor: I64 | None = None
    access: str = ""


class Memory(_Node):
    """Memory limits in bytes, -1 for none; `swap` is memory and swap together, as in cgroup v1."""

    limit: I64 | None = None
    reservation: I64 | None = None
    swap: I64 | None = None
    kernel: I64 | None = None
    kernel_tcp: I64 | None = field(name="kernelTCP", default=None)
    swappiness: U64 | None = None
    disable_oom_killer: bool | None = field(name="disableOOMKiller", default=None)
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(_Node):
    """CPU limits: times in microseconds, `cpus` and `mems` as lists like 0-3,7."""

    shares: U64 | None = None
    quota: I64 | None = None
    burst: U64 | None = None
    period: U64 | None = None
    realtime_runtime: I64 | None = None
    realtime_period: U64 | None = None
    cpus: str = ""
    mems: str = ""
    idle: I64 | None = None


class Pids(_Node):
    """How many tasks there may be; 0 and below are no limit."""

    limit: I64 | None = None


class WeightDevice(_Node):
    """The block I/O weight of one device."""

    major: I64
    minor: I64
    weight: U16 | None = None
    leaf_weight: U16 | None = None


class ThrottleDevice(_Node):
    """A limit of one device, in bytes or in operations per second."""

    major: I64
    minor: I64
    rate: U64


class BlockIO(_Node):
    """Block I/O weights (10 to 1000) and limits."""

    weight: U16 | None = None
    leaf_weight: U16 | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = field(
        name="throttleReadIOPSDevice", default=()
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = field(
        name="throttleWriteIOPSDevice", default=()
    )


class HugepageLimit(_Node):
    """A limit in bytes for one size of huge pages, spelled as the kernel does: 2MB."""

    page_size: str
    limit: U64


class InterfacePriority(_Node):
    """The priority of traffic that leaves by one interface."""

    name: str
    priority: U32


class Network(_Node):
    """The network controllers of cgroup v1."""

    class_id: U32 | None = field(name="classID", default=None)
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(_Node):
    """The limits of one RDMA device."""

    hca_handles: U32 | None = None
    hca_objects: U32 | None = None


class LinuxResources(_Node):
    """Limits of the container's cgroup; `unified` holds files of cgroup v2 and their text."""

    devices: tuple[DeviceCgroup, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = field(name="blockIO", default=None)
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network | None = None
    rdma: Mapping[str, Rdma] = {}
    unified: Mapping[str, str] = {}


# ---- Seccomp


class SeccompArg(_Node):
    """A condition on one argument of a system call: SCMP_CMP_EQ, or masked with `value` first."""

    index: U32
    value: U64
    op: str
    value_two: U64 = 0


class Syscall(_Node):
    """System calls that share an action: SCMP_ACT_ALLOW. No `errno_ret` is EPERM."""

    names: tuple[str, ...]
    action: str
    errno_ret: U32 | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Node):
    """The system call filter; architectures are by name: SCMP_ARCH_X86_64."""

    default_action: str
    default_errno_ret: U32 | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[Syscall, ...] = ()


# ---- Linux


class Namespace(_Node):
    """A namespace to create, or with a path to join."""

    type: NamespaceType
    path: str = ""


class Device(_Node):
    """A device node to make in the container; `file_mode` holds the permission bits."""

    path: str
    type: Literal["b", "c", "u", "p"]
    major: I64 = 0
    minor: I64 = 0
    file_mode: U32 | None = None
    uid: U32 | None = None
    gid: U32 | None = None


class NetDevice(_Node):
    """A network device to move into the container, and its name there."""

    name: str = ""


class IntelRdt(_Node):
    """Cache and memory bandwidth classes of Intel Resource Director Technology."""

    clos_id: str = field(name="closID", default="")
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = field(name="l3CacheSchema", default="")
    mem_bw_schema: str = ""
    enable_monitoring: bool = False
    enable_cmt: bool = field(name="enableCMT", default=False)
    enable_mbm: bool = field(name="enableMBM", default=False)


class MemoryPolicy(_Node):
    """The NUMA policy of set_mempolicy(2): MPOL_BIND; `nodes` is a list like 0-1."""

    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Personality(_Node):
    """The execution domain of personality(2): LINUX or LINUX32."""

    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(_Node):
    """What a clock of the time namespace is ahead, in seconds and nanoseconds."""

    secs: I64 = 0
    nanosecs: U32 = 0


class Linux(_Node):
    """All that is particular to Linux; clocks of `time_offsets` are monotonic and boottime."""

    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    sysctl: Mapping[str, str] = {}
    resources: LinuxResources | None = None
    cgroups_path: str = ""
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: Mapping[str, NetDevice] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: Mapping[str, TimeOffset] = {}


class Spec(_Node):
    """A whole config.json."""

    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: Mapping[str, str] = {}
    linux: Linux | None = None


# ---- JSON

_T = TypeVar("_T", bound=_Node)

_NAMES: Final[Mapping[type[Struct], str]] = {
    Spec: "an OCI runtime specification",
    Process: "a process of the OCI runtime specification",
    LinuxResources: "Linux resources of the OCI runtime specification",
}


def load(path: str | os.PathLike[str]) -> Spec:
    """Return the specification in the file, usually config.json of a bundle.

    Raises `OSError` when the file cannot be read, and `SpecError`, which names the file and the JSON
    path of the fault, when its text is not a specification.
    """
    with open(path, "rb") as file:
        return _decode(file.read(), Spec, f"{os.fspath(path)}: ")


def decode_spec(data: bytes) -> Spec:
    """Return the specification in a JSON text; raises `SpecError`."""
    return _decode(data, Spec)


def decode_process(data: bytes) -> Process:
    """Return the process in a JSON text, as Exec carries it; raises `SpecError`."""
    return _decode(data, Process)


def decode_resources(data: bytes) -> LinuxResources:
    """Return the resources in a JSON text, as Update carries them; raises `SpecError`."""
    return _decode(data, LinuxResources)


def encode(value: Spec | Process | LinuxResources) -> bytes:
    """Return the value as compact JSON, without the fields that have their default value."""
    return msgspec.json.encode(value)


def _decode(data: bytes, kind: type[_T], origin: str = "") -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"{origin}not {_NAMES[kind]}: {error}") from error
