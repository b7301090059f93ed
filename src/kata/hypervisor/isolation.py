"""What a monitor's process gives up before it becomes one."""

from kata.config.hypervisor import HypervisorSettings
from kata.host import libc, mounts, netns

_COVERED = ("/dev", "/proc", "/run", "/var/run", "/var/lib/containerd", "/var/lib/kubelet")
"""Where the host keeps devices, its daemons' sockets, and what belongs to other pods.

/proc is there since a process of root without capabilities may enter another's `root` and `fd`.
"""

_DEVICES = tuple(
    f"/dev/{name}"
    for name in (
        *("kvm", "vhost-net", "vhost-vsock", "net/tun"),
        *("null", "zero", "urandom", "random"),
    )
)
_PROCESS = tuple(f"/proc/{name}" for name in ("self", "cpuinfo", "meminfo", "sys"))


def isolate(settings: HypervisorSettings, shared: str, network: str = "") -> None:
    """Leave the host's network, its mounts, and protection from the OOM killer.

    It goes to the pod's network namespace, the file `network`, where people look for the pod's
    process, or to an empty one.
    By path the process can then write to no file that was mounted before, and open no device but
    those of a monitor and `entropy_source`.  It sees no other process in /proc, and of what else lies
    below /dev, /run, /var/lib/containerd and /var/lib/kubelet kernel, initrd and `shared`: the
    socket of the process that serves a share, the directory to serve, or nothing, "".  Sockets
    elsewhere, and mounts that the host makes elsewhere later, stay within its reach.

    containerd may have protection from the OOM killer.  Call it in the process, before exec.
    """
    if network:
        netns.enter(network)
    else:
        libc.unshare(libc.CLONE_NEWNET)
    with open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")
    used = (settings.entropy_source, settings.kernel, settings.initrd, shared)
    mounts.freeze(_COVERED, [path for path in (*_DEVICES, *_PROCESS, *used) if path])
