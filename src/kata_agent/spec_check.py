"""What a specification may not ask for, said before anything is made.

Modules that few containers need are loaded here, in the agent: in the root of a container, where its
first process uses them, there is nothing of the guest to load, and what has the name is the image's.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from kata_agent.identity import LIMITS
from kata_agent.mount_options import PROPAGATION
from kata_agent.program import is_scheduled
from kata_agent.rootfs import sysctl_path
from kata_api.agent.oci_pb2 import Linux, Process, Spec
from ttrpc import RpcError, StatusCode

_PROPAGATIONS = ", ".join(PROPAGATION)
_CLOCKS = ("monotonic", "boottime")
_IDMAPS = frozenset({"idmap", "ridmap"})
# Sysctls that belong to a namespace of the container or its sandbox (sysctl-explorer: the ipc, net
# and uts namespaces); any other one would change the guest for all.
_IPC_SYSCTLS = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)
_UTS_SYSCTLS = frozenset({"kernel.domainname"})  # the host name is the specification's own field
_SYSCTL_PREFIXES = ("net.", "fs.mqueue.")


def check(spec: Spec) -> None:
    """Raise ``RpcError`` INVALID_ARGUMENT if the agent cannot make what ``spec`` describes."""
    linux = spec.Linux
    refusals = [
        (not os.path.isabs(spec.Root.Path), f"root path {spec.Root.Path!r} is not absolute"),
        (not os.path.isdir(spec.Root.Path), f"root path {spec.Root.Path!r} is no directory here"),
        (
            bool(linux.UIDMappings or linux.GIDMappings)
            or any(namespace.Type == "user" for namespace in linux.Namespaces),
            "user namespaces are not supported in the guest; run the pod with hostUsers: true",
        ),
        *_clocks(linux),
        (
            any(_IDMAPS.intersection(mount.options) for mount in spec.Mounts),
            "id-mapped mounts are not supported in the guest; leave out idmap and ridmap",
        ),
        (bool(linux.MountLabel), "SELinux mount labels are not supported in the guest; drop them"),
        (
            bool(linux.RootfsPropagation) and linux.RootfsPropagation not in PROPAGATION,
            f"rootfsPropagation={linux.RootfsPropagation} is not supported; {_PROPAGATIONS} are",
        ),
        (
            _has_host_hooks(spec),
            "the guest runs createContainer and startContainer hooks; others are the host's to run",
        ),
    ]
    _refuse(refusals)
    for name, value in linux.Sysctl.items():
        check_sysctl(name, value)
    guest_hooks = [*spec.Hooks.CreateContainer, *spec.Hooks.StartContainer]
    if guest_hooks:
        from kata_agent import hooks

        _refuse_if(lambda: hooks.check(guest_hooks))
    if linux.HasField("Personality") or linux.HasField("MemoryPolicy"):
        from kata_agent import scheduling

        _refuse_if(lambda: scheduling.check_container(linux))
    check_process(spec.Process)


def check_process(process: Process) -> None:
    """Raise ``RpcError`` INVALID_ARGUMENT if the agent cannot run ``process``."""
    _refuse(
        [
            (not process.Args, "args must not be empty; the first one names the program"),
            (
                bool(process.Cwd) and not os.path.isabs(process.Cwd),
                f"Cwd must be an absolute path, not {process.Cwd!r}",
            ),
            (
                bool(process.ApparmorProfile),
                "AppArmor is not supported in the guest; drop the profile",
            ),
            (bool(process.SelinuxLabel), "SELinux is not supported in the guest; drop the label"),
        ]
    )
    for entry in process.Rlimits:
        if entry.Type not in LIMITS:
            _refuse([(True, f"wrong rlimit value: {entry.Type}; getrlimit(2) has the names")])
    if is_scheduled(process, Linux()):
        from kata_agent import scheduling

        _refuse_if(lambda: scheduling.check_process(process))


def check_sysctl(name: str, value: str) -> None:
    """Raise ``RpcError`` for a sysctl that is not of a pod or container, however it is spelt."""
    parts = sysctl_path(name).removeprefix("/proc/sys/").split("/")
    dotted = ".".join(parts)
    namespaced = dotted in _IPC_SYSCTLS | _UTS_SYSCTLS or (
        dotted.startswith(_SYSCTL_PREFIXES) and not {"", ".", ".."}.intersection(parts)
    )
    message = (
        f'sysctl "{name}" is not in a separate kernel namespace; set it on the kernel command line '
        f"of the guest (kernel_params), as sysctl.{dotted}={value}"
    )
    _refuse([(not namespaced, message)])


def _clocks(linux: Linux) -> list[tuple[bool, str]]:
    separate = any(namespace.Type == "time" for namespace in linux.Namespaces)
    lost = bool(linux.TimeOffsets) and not separate
    unknown = sorted(set(linux.TimeOffsets) - set(_CLOCKS))
    return [
        (lost, "timeOffsets need a time namespace; add one to linux.namespaces"),
        (bool(unknown), f"timeOffsets of {', '.join(unknown)}: the clocks are {_CLOCKS}"),
    ]


def _refuse_if(check_: Callable[[], None]) -> None:
    try:
        check_()
    except ValueError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error


def _refuse(refusals: list[tuple[bool, str]]) -> None:
    for refused, message in refusals:
        if refused:
            raise RpcError(StatusCode.INVALID_ARGUMENT, message)


def _has_host_hooks(spec: Spec) -> bool:
    named = spec.Hooks
    return any((named.Prestart, named.Poststart, named.Poststop, named.CreateRuntime))
