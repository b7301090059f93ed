"""The guest's first moments: mounts, drivers, and the loopback interface."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct

from kata_agent import syscalls as sc
from kata_agent.kernel_modules import KernelModules

_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_MOST_FILES = 1 << 20  # what containerd's unit gives runc's containers

_SECURE = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
# target, file system, flags, options; the directories of /dev and /sys are made by their mounts
_MOUNTS = (
    ("/proc", "proc", _SECURE, ""),
    ("/sys", "sysfs", _SECURE, ""),
    ("/dev", "devtmpfs", sc.MS_NOSUID, "mode=755"),
    ("/dev/pts", "devpts", sc.MS_NOSUID | sc.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
    ("/dev/shm", "tmpfs", _SECURE, "mode=1777"),
    ("/run", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=755"),
    ("/tmp", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=1777"),
    # Delegated: a container must not lift the limits of the group that is its root.
    ("/sys/fs/cgroup", "cgroup2", _SECURE, "nsdelegate,memory_recursiveprot"),
)


def boot() -> KernelModules:
    """Turn an unpacked initramfs into a running guest and return its kernel modules.

    Only PID 1 of a VM may do this. Raises ``OSError``; the guest is of no use then.
    """
    leave_rootfs()
    # PID 1 is born sharing its root and directory with the kernel's threads, and the kernel moves
    # nobody who shares them into another mount namespace.
    sc.unshare(sc.CLONE_FS)
    # The kernel's 1024 for PID 1 is little for four descriptors a process, and containers inherit it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    for target, fstype, flags, data in _MOUNTS:
        os.makedirs(target, exist_ok=True)
        sc.mount(fstype, target, fstype, flags, data)
    raise_loopback()
    modules = KernelModules(f"/lib/modules/{os.uname().release}")
    modules.coldplug()
    return modules


def leave_rootfs() -> None:
    """Cover the kernel's rootfs with a mount of itself and make that the root.

    pivot_root(2) refuses to move away from the rootfs, which has no parent mount; from a mount on
    top of it containers can pivot. Nothing may be mounted below / yet.
    """
    staging = "/run"
    os.makedirs(staging, exist_ok=True)
    sc.mount("/", staging, None, sc.MS_BIND)
    os.chdir(staging)
    sc.mount(".", "/", None, sc.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def raise_loopback() -> None:
    """Bring the loopback interface up; the kernel gives it its addresses. Raises ``OSError``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))
