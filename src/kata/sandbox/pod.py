"""What holds for a whole sandbox, whichever of its containers is asked for."""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from kata.host import netns
from kata.resources.demand import NOTHING, Demand
from kata.sandbox.errors import InvalidRequestError, UnimplementedError
from kata.sandbox.identity import is_of_pod
from kata_api import oci

_RESOLVER = "/etc/resolv.conf"
_HOST = "/proc/self/ns/net"


@dataclass(frozen=True, slots=True)
class Pod:
    """A sandbox's names and places on the host.

    `netns` is the file of its network namespace, or "" for a guest without network; `dns` are lines of
    resolv.conf(5).  `demand` is what its containers may use, as far as it is known before they come.
    """

    id: str
    hostname: str
    cgroups_path: str
    netns: str = ""
    dns: tuple[str, ...] = ()
    ends_with_container: bool = False
    """Whether the pod is over when the container that has the sandbox's id has ended."""
    standalone: bool = False
    """Whether the sandbox was made without a container; whoever made it ends it."""
    demand: Demand = NOTHING
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Of the pod itself; those of a container, a pause container's too, are in its specification."""


def pod_of(sandbox_id: str, spec: oci.Spec) -> Pod:
    """Return what the specification of a sandbox's first container says of the sandbox.

    Raises `UnimplementedError` for the host's network, `InvalidRequestError` for a network namespace
    that is not there, and `ConfigError` for an annotation with limits that cannot be read.
    """
    linux = spec.linux or oci.Linux()
    return Pod(
        sandbox_id,
        spec.hostname,
        linux.cgroups_path,
        _of(linux),
        _dns(spec.mounts),
        ends_with_container=is_of_pod(spec.annotations),
        demand=Demand.of_pod(spec.annotations, linux.resources),
    )


def _of(linux: oci.Linux) -> str:
    network = next((each for each in linux.namespaces if each.type == "network"), None)
    return network_namespace(network.path if network else None)


def network_namespace(path: str | None) -> str:
    """Return the namespace that a sandbox is connected with; None is the host's, "" one of its own.

    Raises `UnimplementedError` for the host's, and `InvalidRequestError` for one that is not there.
    """
    path = _HOST if path is None else path
    try:
        if path and netns.is_own(path):
            raise UnimplementedError(
                "host networking is not possible: the container has a kernel and a network stack of "
                "its own; leave out --net-host (hostNetwork) and let CNI connect the pod"
            )
    except OSError as error:
        raise InvalidRequestError(
            f"the pod's network namespace {path} cannot be entered: {error.strerror}"
        ) from error
    return path


def _dns(mounts: tuple[oci.Mount, ...]) -> tuple[str, ...]:
    """Return the lines of the file that the container has as its resolv.conf."""
    for mount in mounts:
        if mount.destination == _RESOLVER:
            try:
                with open(mount.source, encoding="utf-8", opener=_open_file) as file:
                    lines = (line.strip() for line in file)
                    return tuple(line for line in lines if line and line[0] not in "#;")
            except (OSError, ValueError):
                return ()  # creating the container says what is wrong with the mount
    return ()


def _open_file(path: str, flags: int) -> int:
    """Open a regular file, at once: a FIFO would have us wait for a writer.

    Raises `OSError` for anything else; a device may do something when it is opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)  # it has been replaced in this very moment
    raise OSError(errno.EINVAL, "not a regular file any more", path)
