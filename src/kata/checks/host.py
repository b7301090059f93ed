"""Checks of the kernel and the machine."""

import os
import platform

from kata.checks.finding import Finding, Level
from kata.config import Configuration
from kata.host.channel import reserve_vsock
from kata.hypervisor import accelerator

_CONTROLLERS = ("cpu", "memory", "pids")
"""What limits of a pod on the host are made of; the guest has all of them itself."""


def privileges() -> Finding:
    """Check that this process may look at everything that the others ask for."""
    if os.geteuid() == 0:
        return Finding("privileges", Level.OK, "root")
    return Finding(
        "privileges",
        Level.WARN,
        f"user {os.geteuid()}: containerd's shims run as root, and may find what you cannot",
        "run this as root",
    )


def virtualisation(device: str = "/dev/kvm", cpuinfo: str = "/proc/cpuinfo") -> Finding:
    """Check KVM in the three ways that matter: the processor, the device, a virtual machine."""
    chosen = accelerator.choose(device, cpuinfo)
    if not chosen.is_emulation:
        return Finding("kvm", Level.OK, f"{device} makes virtual machines")
    return Finding(
        "kvm",
        Level.WARN,
        f"guests run under emulation, which is slow: {chosen.reason}",
        "switch on VT-x or AMD-V in the firmware; where this machine is a virtual one, let it have "
        "nested virtualisation; then `modprobe kvm_intel` or `modprobe kvm_amd`",
    )


def vsock(device: str = "/dev/vhost-vsock") -> Finding:
    """Check vhost-vsock by reserving a context id."""
    try:
        reserved = reserve_vsock(device)
    except OSError as error:
        return Finding(
            "vhost-vsock", Level.FAIL, f"{device} gives no context id: {error}", "free some guests"
        )
    if reserved:
        os.close(reserved[0])
        return Finding("vhost-vsock", Level.OK, f"{device} gives context ids")
    remedy = "modprobe vhost_vsock"
    if _module_state("vmw_vsock_vmci_transport") == "loaded":
        remedy = f"modprobe -r vmw_vsock_vmci_transport, which holds vsock, then {remedy}"
    return Finding(
        "vhost-vsock",
        Level.WARN,
        f"{_why_not(device)}; agents are reached over virtio-serial instead",
        remedy,
    )


def vhost_net(device: str = "/dev/vhost-net") -> Finding:
    """Check vhost-net by opening it."""
    if not (why := _why_not(device)):
        return Finding("vhost-net", Level.OK, f"{device} opens")
    return Finding(
        "vhost-net", Level.WARN, f"{why}; packets would pass through QEMU", "modprobe vhost_net"
    )


def kernel_modules() -> Finding:
    """Check which of the modules that help are there; devices built into the kernel count."""
    vendor = _vendor_module()
    names = [*([vendor] if vendor else []), "vhost_vsock", "vhost_net", "overlay", "tun"]
    states = {name: _module_state(name) for name in names}
    told = ", ".join(f"{name} {state}" for name, state in states.items())
    missing = [name for name, state in states.items() if state not in ("loaded", "built in")]
    if not missing:
        return Finding("kernel modules", Level.OK, told)
    there = [name for name in missing if states[name] == "available"]
    remedy = f"modprobe -a {' '.join(there)}" if there else "install this kernel's modules"
    return Finding("kernel modules", Level.WARN, told, remedy)


def cgroups(mounts: str = "/proc/self/mounts", root: str = "/sys/fs/cgroup") -> Finding:
    """Check which hierarchies the host has; both versions will do."""
    mode = cgroup_mode(mounts)
    if mode == "none":
        return Finding(
            "cgroups",
            Level.FAIL,
            "no hierarchy is mounted",
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd",
        )
    if mode == "v2":
        with open(os.path.join(root, "cgroup.controllers")) as file:
            there = set(file.read().split())
    else:
        there = _v1_controllers(mounts)
    missing = [name for name in _CONTROLLERS if name not in there]
    if not missing:
        return Finding("cgroups", Level.OK, f"{mode}, with {', '.join(_CONTROLLERS)}")
    return Finding(
        "cgroups",
        Level.WARN,
        f"{mode}, without {', '.join(missing)}",
        "enable them on the kernel's command line (cgroup_enable=...)",
    )


def cgroup_mode(mounts: str = "/proc/self/mounts") -> str:
    """Return "v2", "v1", "hybrid" (v1 with a v2 hierarchy beside it) or "none"."""
    kinds = set()
    with open(mounts) as file:
        for line in file:
            kind = line.split()[2]
            if kind in ("cgroup", "cgroup2"):
                kinds.add(kind)
    if len(kinds) == 2:
        return "hybrid"
    return {"cgroup": "v1", "cgroup2": "v2"}[kinds.pop()] if kinds else "none"


def memory(configuration: Configuration | None, meminfo: str = "/proc/meminfo") -> Finding:
    """Check that a guest fits into the host's memory."""
    total, available = memory_mib(meminfo)
    told = f"{available} MiB of {total} MiB are available"
    if configuration is None:
        return Finding("memory", Level.OK, told)
    wanted = configuration.hypervisor.default_memory
    told += f"; a guest has {wanted} MiB"
    where = configuration.origins.where("hypervisor.qemu.default_memory")
    remedy = f"lower default_memory in [hypervisor.qemu] ({where}), or free memory"
    if total < wanted:
        return Finding("memory", Level.FAIL, told, remedy)
    return Finding("memory", Level.WARN if available < wanted else Level.OK, told, remedy)


def memory_mib(meminfo: str = "/proc/meminfo") -> tuple[int, int]:
    """Return the host's memory and what of it is available, in MiB."""
    found = {}
    with open(meminfo) as file:
        for line in file:
            name, _, value = line.partition(":")
            found[name] = int(value.split()[0]) // 1024
    return found["MemTotal"], found["MemAvailable"]


def _why_not(device: str) -> str:
    """Return why a device cannot be opened, or nothing when it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device}: {error.strerror}"
    return ""


def _v1_controllers(mounts: str) -> set[str]:
    found: set[str] = set()
    with open(mounts) as file:
        for line in file:
            fields = line.split()
            if fields[2] == "cgroup":
                found.update(fields[3].split(","))
    return found


def _vendor_module() -> str:
    with open("/proc/cpuinfo") as file:
        text = file.read()
    return "kvm_intel" if "GenuineIntel" in text else "kvm_amd" if "AuthenticAMD" in text else ""


def _module_state(name: str) -> str:
    """Return "loaded", "built in", "available" or "missing"."""
    if os.path.isdir(f"/sys/module/{name}"):
        return "loaded" if os.path.exists(f"/sys/module/{name}/initstate") else "built in"
    folder = f"/lib/modules/{platform.release()}"
    for listing, state in (("modules.builtin", "built in"), ("modules.dep", "available")):
        try:
            with open(os.path.join(folder, listing)) as file:
                if any(f"/{name}.ko" in line.partition(":")[0] for line in file):
                    return state
        except OSError:
            continue
    return "missing"
