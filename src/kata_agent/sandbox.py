"""The sandbox: every container of the pod, its storages, and the guest's settings that they share."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from kata_agent import disks
from kata_agent import syscalls as sc
from kata_agent.cgroup import Cgroup, relative_path
from kata_agent.container import Container
from kata_agent.device_programs import DevicePrograms
from kata_agent.identity import last_capability
from kata_agent.init import Join
from kata_agent.oom import OomEvents
from kata_agent.pid_namespace import PidNamespace, is_ending
from kata_agent.reaper import Reaper
from kata_agent.rootfs import sysctl_path
from kata_agent.scheduling import take_turns
from kata_agent.spec_check import check_sysctl
from kata_agent.storage import Storages
from kata_agent.submounts import Submounts
from kata_api.agent import agent_pb2 as pb
from ttrpc import RpcError, StatusCode

if TYPE_CHECKING:
    from kata_agent.network import Network

_RESOLVER_KEYWORDS = ("nameserver", "search", "domain", "options", "sortlist", "#", ";")


class Sandbox:
    """State that outlives connections: nothing in here knows of one, or of a clock.

    ``cgroup_root`` is the mount point of the unified hierarchy. ``load_module`` makes a kernel
    feature available by module name; ``resolv_conf`` is the file that names the DNS servers, ``hostname``
    that with the pod's name; containers may have both. With ``debug_console`` the host may run processes in the guest itself, as in a container without id.
    """

    def __init__(
        self,
        *,
        cgroup_root: str = "/sys/fs/cgroup",
        resolv_conf: str = "/etc/resolv.conf",
        hostname: str = "/etc/hostname",
        load_module: Callable[[str, str], None] | None = None,
        adopt_orphans: bool = False,
        debug_console: bool = False,
    ) -> None:
        last_capability()  # for the children, which inherit its answer
        self._cgroup_root = cgroup_root
        self._resolv_conf = resolv_conf
        self._hostname = hostname
        self._load = load_module or (lambda _name, _parameters: None)
        self._is_first = adopt_orphans
        self._reaper = Reaper(adopt_orphans=adopt_orphans)
        self._debug_console = debug_console
        self._containers: dict[str, Container] = {}
        self._submounts = Submounts()
        self._device_programs = DevicePrograms()
        self._uses: dict[str, list[str]] = {}  # container id, "" for the sandbox -> mount points
        self._id = ""
        self._pid_namespace: PidNamespace | None = None
        self._pid_namespace_turn = asyncio.Lock()  # two containers that come at once share one
        self.oom = OomEvents()
        self.storages = Storages(lambda name: self._load(name, ""))
        self._take_turns()

    def __repr__(self) -> str:
        return f"<sandbox, {len(self._containers)} containers, {self.storages!r}>"

    async def configure(self, request: pb.CreateSandboxRequest) -> None:
        """Apply what holds for the whole pod: modules, storages, host name, DNS, sysctls.

        Raises ``RpcError``; when a storage fails, the sandbox's are released.
        """
        for name, value in request.sysctls.items():
            check_sysctl(name, value)
        self._id = request.sandbox_id
        for module in request.kernel_modules:
            self._load(module.name, " ".join(module.parameters))
        await self._mount("", list(request.storages))
        if request.hostname:
            socket.sethostname(request.hostname)
            self._write_hostname(request.hostname)
        self._write_resolv_conf(list(request.dns))
        for name, value in sorted(request.sysctls.items()):
            _set_sysctl(name, value)

    async def destroy(self) -> None:
        """End every container and unmount every storage.

        Raises the first failure; every other container has been tried then, the shared storages
        stay, and it can be called again.
        """
        for container in list(self._containers.values()):
            container.cgroup.kill()
        failures: list[Exception] = []
        for container_id in list(self._containers):
            try:
                await self.remove(container_id)
            except (RpcError, OSError) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        if self._pid_namespace:
            await self._pid_namespace.close()
            self._pid_namespace = None
        self.storages.release_all()
        self._uses.clear()

    def close(self) -> None:
        """Stop watching processes; call `destroy` first."""
        self._reaper.close()
        self.oom.close()
        self._device_programs.close()

    def container(self, container_id: str) -> Container:
        """Return a container. Raises ``RpcError`` INVALID_ARGUMENT, upstream's code for this."""
        container = self._containers.get(container_id)
        if container is None and self._debug_console and not container_id:
            from kata_agent.debug_console import DebugConsole

            group = self._group("debug-console")
            container = self._containers[""] = DebugConsole(group, self._reaper)
        if container is None:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"there is no container {container_id!r}; "
                f"this sandbox has {', '.join(self._containers) or 'none'}",
            )
        return container

    @property
    def network(self) -> Network:
        """The network that all containers share; loaded when it is first asked for."""
        from kata_agent.network import Network

        return Network(self._load)

    async def create(self, request: pb.CreateContainerRequest) -> None:
        """Create a container with its storages.

        Raises ``RpcError``; nothing of the container is left then.
        """
        container_id = request.container_id
        if not container_id or "/" in container_id or container_id in (".", ".."):
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"{container_id!r} is no container id")
        if container_id in self._containers:
            raise RpcError(StatusCode.ALREADY_EXISTS, f"container {container_id!r} exists")
        if request.shared_mounts:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                "shared mounts are not supported by this agent; create the container without them",
            )
        path = relative_path(request.OCI.Linux.CgroupsPath, container_id)
        cgroup = self._group(path)
        container = Container(container_id, cgroup, self._reaper)
        self._containers[container_id] = container  # taken before the first wait
        self._take_turns()
        try:
            self._submounts.enter(container_id, _sources(request))
            await self._mount(container_id, list(request.storages))
            for module in disks.MODULES if request.devices else ():
                self._load(module, "")
            await disks.give(request.devices, request.OCI)
            shared = await self._shared_pid_namespace() if request.sandbox_pidns else None
            await container.create(request.OCI, shared)
            try:
                self.oom.watch(container_id, cgroup)
            except BaseException:
                await container.remove()
                raise
        except BaseException:
            self._containers.pop(container_id, None)
            self._take_turns()
            self._unmount(container_id)
            raise

    async def remove(self, container_id: str, timeout: float = 0) -> None:
        """Kill and remove a container with its storages; ``timeout`` in seconds, 0: 10 s.

        Raises ``RpcError``; the container then stays and can be removed again.
        """
        container = self.container(container_id)
        self.oom.unwatch(container_id)
        await container.remove(timeout or 10.0)
        self._containers.pop(container_id, None)
        self._take_turns()
        self._unmount(container_id)

    # -- inside --------------------------------------------------------------------------------

    def _take_turns(self) -> None:
        """Come before all else in the guest while there is no container to share with.

        A restored guest has devices to find when the host first asks.
        """
        if self._is_first:
            take_turns(first=not any(self._containers))  # the debug console is called ""

    async def _shared_pid_namespace(self) -> Join:
        """Return the pid namespace of the pod: that of its own container, or one made for it.

        Raises ``RpcError`` FAILED_PRECONDITION when the pod's own container has ended.
        """
        own = self._containers.get(self._id)
        if own is not None:
            init = own.process("")
            if init.ended or is_ending(init.child.pid):
                raise RpcError(
                    StatusCode.FAILED_PRECONDITION,
                    f"container {self._id} of the pod itself has ended, and with it the pid "
                    "namespace that the pod shares; start the pod anew",
                )
            return Join(init.child.pidfd, sc.CLONE_NEWPID)
        async with self._pid_namespace_turn:
            if self._pid_namespace is None or self._pid_namespace.ended:
                self._pid_namespace = None
                self._pid_namespace = await PidNamespace.opened(self._reaper)
        return Join(self._pid_namespace.pidfd, sc.CLONE_NEWPID)

    def _group(self, path: str) -> Cgroup:
        """Return the cgroup of a new container. Raises ``RpcError`` if it is part of another's."""
        group = Cgroup(self._cgroup_root, path, self._device_programs)
        for other in self._containers.values():
            if group.overlaps(other.cgroup):
                raise RpcError(
                    StatusCode.ALREADY_EXISTS,
                    f"cgroupsPath {path} equals, contains or lies below that of container "
                    f"{other.id!r}, {other.cgroup!r}; choose one apart from it",
                )
        return group

    def _write_hostname(self, name: str) -> None:
        os.makedirs(os.path.dirname(self._hostname), exist_ok=True)
        with open(self._hostname, "w", encoding="utf-8") as file:
            file.write(f"{name}\n")

    def _write_resolv_conf(self, dns: list[str]) -> None:
        """Write lines of resolv.conf(5); a bare address is taken for a name server."""
        os.makedirs(os.path.dirname(self._resolv_conf), exist_ok=True)
        with open(self._resolv_conf, "w", encoding="utf-8") as file:
            for line in dns:
                prefix = "" if line.startswith(_RESOLVER_KEYWORDS) else "nameserver "
                file.write(f"{prefix}{line}\n")

    async def _mount(self, owner: str, storages: list[pb.Storage]) -> None:
        points = self._uses.setdefault(owner, [])
        lasting = self._uses.setdefault("", [])
        try:
            for storage in storages:
                if not storage.shared:
                    points.append(await self.storages.add(storage))
                elif storage.mount_point not in lasting:
                    lasting.append(await self.storages.add(storage))
        except BaseException:
            self._unmount(owner)
            raise

    def _unmount(self, owner: str) -> None:
        for point in reversed(self._uses.pop(owner, [])):
            self.storages.release(point)
        self._submounts.release(owner)


def _set_sysctl(name: str, value: str) -> None:
    try:
        with open(sysctl_path(name), "w", encoding="utf-8") as file:
            file.write(value)
    except OSError as error:
        raise RpcError(
            StatusCode.INVALID_ARGUMENT,
            f"cannot set sysctl {name} of the pod to {value!r}: {os.strerror(error.errno or 0)}; "
            "correct the pod's securityContext.sysctls",
        ) from error


def _sources(request: pb.CreateContainerRequest) -> list[str]:
    """Return the paths in the guest that a container is made of: its root, and what it binds."""
    spec = request.OCI
    binds = (mount for mount in spec.Mounts if mount.type == "bind" or "bind" in mount.options)
    copied = (each.source for each in request.storages if each.driver == "watchable-bind")
    return [spec.Root.Path, *(mount.source for mount in binds), *copied]
