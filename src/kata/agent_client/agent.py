"""The agent's calls, with the domain's types instead of protobuf messages.

Calls raise `ttrpc.RpcError`: the agent's own answer, `DEADLINE_EXCEEDED`, or
`ttrpc.ConnectionClosedError` when the guest has gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.agent_client import guest_network, to_agent
from kata_api import agent_service as service
from kata_api import health, oci
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import health_pb2
from ttrpc import ConnectionClosedError, Method, RpcError, StatusCode
from ttrpc.client import Client, ClientStream
from ttrpc.method import Req, Resp

if TYPE_CHECKING:
    from kata_api.agent import forward_pb2
    from rtnetlink import Address, Link, Neighbour, Route, Rule

_log = logging.getLogger(__name__)

_LARGEST_STATUS = 255
"""An exit status is a byte; a guest may answer anything."""

_LARGEST_PID = 1 << 22
"""What no process id of a Linux kernel exceeds (PID_MAX_LIMIT)."""

_REQUEST_TIMEOUT = 30.0
"""Seconds for an ordinary request; upstream's figure."""


@dataclass(frozen=True, slots=True)
class GuestStorage:
    """A file system that the agent mounts; one that is `shared` stays as long as the sandbox."""

    driver: str
    source: str
    fstype: str
    mount_point: str
    options: tuple[str, ...] = ()
    driver_options: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True, slots=True)
class GuestDevice:
    """A disk that was plugged in: its serial number, and its node in the container."""

    serial: str
    path: str


@dataclass(frozen=True, slots=True)
class GuestExit:
    """The end of a process: its status, and how many bytes of each output it wrote.

    `oom_kills` is how many processes of its container had been killed for want of memory by then.
    None where the agent does not say: upstream's never does.
    """

    status: int
    stdout_total: int | None = None
    stderr_total: int | None = None
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """A process of a container; `pid` is the guest's number for it, `exec_id` empty if it has none."""

    pid: int
    exec_id: str = ""


class Agent:
    """A connected agent."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # By the numbers of the host: loopback has the first in every namespace.
        self._link_names = {1: "lo"}

    async def check(self) -> None:
        """Wait for the agent's first answer, however long; the caller sets the deadline."""
        await self._client.call(health.CHECK, health_pb2.CheckRequest())

    async def renew(self, seed: bytes) -> None:
        """Tell a guest that was restored what is not what it was: randomness and the time.

        Both have come true when this returns.
        """
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        await asyncio.gather(
            self._client.call(
                service.RESEED_RANDOM_DEV,
                pb.ReseedRandomDevRequest(data=seed),
                timeout=_REQUEST_TIMEOUT,
            ),
            self._client.call(
                service.SET_GUEST_DATE_TIME,
                pb.SetGuestDateTimeRequest(Sec=seconds, Usec=nanoseconds // 1000),
                timeout=_REQUEST_TIMEOUT,
            ),
        )

    async def online_processors(self, count: int) -> None:
        """Bring `count` processors into use that were plugged in; the guest waits for them."""
        request = pb.OnlineCPUMemRequest(wait=True, nb_cpus=count, cpu_only=True)
        await self._client.call(service.ONLINE_CPU_MEM, request, timeout=_REQUEST_TIMEOUT)

    async def create_sandbox(
        self,
        sandbox_id: str,
        hostname: str,
        storages: Sequence[GuestStorage],
        kernel_modules: Sequence[str],
        dns: Sequence[str] = (),
        sysctls: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the guest for its containers: names, file systems, modules, resolver, sysctls."""
        request = pb.CreateSandboxRequest(
            sandbox_id=sandbox_id,
            hostname=hostname,
            dns=dns,
            sysctls=sysctls,
            storages=[_storage(storage) for storage in storages],
            kernel_modules=[
                pb.KernelModule(name=name, parameters=parameters)
                for name, *parameters in (line.split() for line in kernel_modules if line.strip())
            ],
        )
        await self._client.call(service.CREATE_SANDBOX, request, timeout=_REQUEST_TIMEOUT)

    async def update_interface(self, link: Link, addresses: Iterable[Address]) -> None:
        """Make the guest's link of the same hardware address what a link of the host is.

        Name, MTU and addresses are the host's then. The guest waits up to 10 s for it to appear.
        """
        request = pb.UpdateInterfaceRequest(interface=guest_network.interface(link, addresses))
        await self._client.call(service.UPDATE_INTERFACE, request, timeout=_REQUEST_TIMEOUT)
        self._link_names[link.index] = link.name

    async def update_routes(self, routes: Iterable[Route], rules: Iterable[Rule]) -> None:
        """Replace the guest's routes and rules, but those that every kernel makes itself.

        Raises `ValueError` for a route by a link that `update_interface` was not called for.
        """
        names = self._link_names
        request = pb.UpdateRoutesRequest(
            routes=pb.Routes(Routes=[guest_network.route(route, names) for route in routes]),
            rules=[guest_network.rule(rule) for rule in rules],
        )
        await self._client.call(service.UPDATE_ROUTES, request, timeout=_REQUEST_TIMEOUT)

    async def add_neighbours(self, neighbours: Iterable[Neighbour]) -> None:
        """Add neighbours that the guest need not ask for. Raises `ValueError` as `update_routes`."""
        request = pb.AddARPNeighborsRequest(
            neighbors=pb.ARPNeighbors(
                ARPNeighbors=[guest_network.neighbour(one, self._link_names) for one in neighbours]
            )
        )
        await self._client.call(service.ADD_ARP_NEIGHBORS, request, timeout=_REQUEST_TIMEOUT)

    async def destroy_sandbox(self, timeout: float) -> None:
        """End everything in the guest and write its file systems back."""
        await self._client.call(
            service.DESTROY_SANDBOX, pb.DestroySandboxRequest(), timeout=timeout
        )

    async def create_container(
        self,
        container_id: str,
        spec: oci.Spec,
        timeout: float,
        storages: Sequence[GuestStorage] = (),
        devices: Sequence[GuestDevice] = (),
        *,
        pod_processes: bool = False,
    ) -> None:
        """Make a container whose process waits to be started, after its storages.

        With `pod_processes` it shares its pid namespace with the pod.
        """
        request = pb.CreateContainerRequest(
            container_id=container_id,
            exec_id=container_id,
            OCI=to_agent.spec(spec),
            sandbox_pidns=pod_processes,
            storages=[_storage(storage) for storage in storages],
            devices=[
                pb.Device(id=device.serial, type="blk", container_path=device.path)
                for device in devices
            ],
        )
        await self._client.call(service.CREATE_CONTAINER, request, timeout=timeout)

    async def renew_storage(self, storage: GuestStorage) -> None:
        """Have the agent look at the source of a storage anew: it has changed on the host."""
        request = pb.UpdateEphemeralMountsRequest(storages=[_storage(storage)])
        await self._client.call(service.UPDATE_EPHEMERAL_MOUNTS, request, timeout=_REQUEST_TIMEOUT)

    async def start_container(self, container_id: str) -> None:
        """Let the container's process run."""
        request = pb.StartContainerRequest(container_id=container_id)
        await self._client.call(service.START_CONTAINER, request, timeout=_REQUEST_TIMEOUT)

    async def remove_container(self, container_id: str, timeout: float) -> None:
        """Remove a container and all that is left of its processes."""
        request = pb.RemoveContainerRequest(container_id=container_id)
        await self._client.call(service.REMOVE_CONTAINER, request, timeout=timeout)

    async def exec_process(self, container_id: str, exec_id: str, process: oci.Process) -> None:
        """Start another process in a container."""
        request = pb.ExecProcessRequest(
            container_id=container_id, exec_id=exec_id, process=to_agent.process(process)
        )
        await self._client.call(service.EXEC_PROCESS, request, timeout=_REQUEST_TIMEOUT)

    async def signal_process(
        self, container_id: str, exec_id: str, number: int, timeout: float = _REQUEST_TIMEOUT
    ) -> None:
        """Send a signal; with an empty `exec_id`, SIGKILL reaches the whole container."""
        request = pb.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=number)
        await self._client.call(service.SIGNAL_PROCESS, request, timeout=timeout)

    async def wait_process(self, container_id: str, exec_id: str) -> GuestExit:
        """Wait for the end of a process, however long."""
        request = pb.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        answer = await self._client.call(service.WAIT_PROCESS, request)
        return GuestExit(
            answer.status if 0 <= answer.status <= _LARGEST_STATUS else _LARGEST_STATUS,
            answer.stdout_total if answer.HasField("stdout_total") else None,
            answer.stderr_total if answer.HasField("stderr_total") else None,
            answer.oom_kills if answer.HasField("oom_kills") else None,
        )

    async def list_processes(self, container_id: str) -> list[GuestProcess]:
        """Return the processes of a container; upstream's agent answers UNIMPLEMENTED."""
        request = pb.ListProcessesRequest(container_id=container_id, format="json")
        answer = await self._client.call(service.LIST_PROCESSES, request, timeout=_REQUEST_TIMEOUT)
        try:
            pids = json.loads(answer.process_list)
        except (ValueError, RecursionError):
            pids = None
        if not isinstance(pids, list) or not all(
            type(pid) is int and 0 < pid <= _LARGEST_PID for pid in pids
        ):
            raise RpcError(StatusCode.INTERNAL, "the agent's list of processes is none")
        exec_ids = {pid: exec_id for exec_id, pid in answer.execs.items()}
        return [GuestProcess(pid, exec_ids.get(pid, "")) for pid in dict.fromkeys(pids)]

    async def update_container(self, container_id: str, resources: oci.LinuxResources) -> None:
        """Change the limits of a container that runs."""
        request = pb.UpdateContainerRequest(
            container_id=container_id, resources=to_agent.resources(resources)
        )
        await self._client.call(service.UPDATE_CONTAINER, request, timeout=_REQUEST_TIMEOUT)

    async def stats_container(self, container_id: str) -> pb.StatsContainerResponse:
        """Return what a container uses, in the agent's own message: nobody here reads a number."""
        request = pb.StatsContainerRequest(container_id=container_id)
        return await self._client.call(service.STATS_CONTAINER, request, timeout=_REQUEST_TIMEOUT)

    async def read_stdout(self, container_id: str, exec_id: str, size: int) -> bytes:
        """Return up to `size` bytes of output, waiting for the first; b"" at its end."""
        return await self._read(service.READ_STDOUT, container_id, exec_id, size)

    async def read_stderr(self, container_id: str, exec_id: str, size: int) -> bytes:
        """Return up to `size` bytes of error output, waiting for the first; b"" at its end."""
        return await self._read(service.READ_STDERR, container_id, exec_id, size)

    async def _read(
        self,
        method: Method[pb.ReadStreamRequest, pb.ReadStreamResponse],
        container_id: str,
        exec_id: str,
        size: int,
    ) -> bytes:
        request = pb.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=size)
        try:
            data = (await self._client.call(method, request)).data
        except ConnectionClosedError:
            raise
        except RpcError as error:
            # Agents answer the end of a stream with an error, upstream's included.
            if error.code == StatusCode.NOT_FOUND:
                _log.warning("output of %s is not to be had: %s", exec_id, error)
            return b""
        if len(data) > size:
            raise RpcError(
                StatusCode.INTERNAL, f"the agent gave {len(data)} bytes of output for {size}"
            )
        return data

    async def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> int:
        """Write `data`, not empty, and return how many bytes were taken, at least one."""
        request = pb.WriteStreamRequest(container_id=container_id, exec_id=exec_id, data=data)
        taken = (await self._client.call(service.WRITE_STDIN, request)).len
        if not 0 < taken <= len(data):
            raise RpcError(StatusCode.INTERNAL, f"the agent took {taken} of {len(data)} bytes")
        return taken

    async def close_stdin(self, container_id: str, exec_id: str) -> None:
        """Tell the process that its input has ended."""
        request = pb.CloseStdinRequest(container_id=container_id, exec_id=exec_id)
        await self._client.call(service.CLOSE_STDIN, request, timeout=_REQUEST_TIMEOUT)

    async def resize_terminal(
        self, container_id: str, exec_id: str, rows: int, columns: int
    ) -> None:
        """Set the size of a process's terminal, in characters."""
        request = pb.TtyWinResizeRequest(
            container_id=container_id, exec_id=exec_id, row=rows, column=columns
        )
        await self._client.call(service.TTY_WIN_RESIZE, request, timeout=_REQUEST_TIMEOUT)

    async def pause_container(self, container_id: str) -> None:
        """Freeze a container."""
        request = pb.PauseContainerRequest(container_id=container_id)
        await self._client.call(service.PAUSE_CONTAINER, request, timeout=_REQUEST_TIMEOUT)

    async def resume_container(self, container_id: str) -> None:
        """Thaw a container."""
        request = pb.ResumeContainerRequest(container_id=container_id)
        await self._client.call(service.RESUME_CONTAINER, request, timeout=_REQUEST_TIMEOUT)

    async def next_oom(self) -> tuple[str, int | None]:
        """Wait until the guest has killed something for want of memory.

        Returns the container, and how many kills it has had, None if the agent does not say.
        """
        event = await self._client.call(service.GET_OOM_EVENT, pb.GetOOMEventRequest())
        return event.container_id, event.kills if event.HasField("kills") else None

    async def forward(self, method: Method[Req, Resp], request: Req) -> Resp:
        """Pass on what somebody else asks of the agent, in its own messages."""
        return await self._client.call(method, request)

    def connect_port(
        self, port: int
    ) -> AbstractAsyncContextManager[ClientStream[forward_pb2.Piece, forward_pb2.Piece]]:
        """Open a connection to a port of the guest's loopback; see `kata.guest.v1.Forward`.

        Upstream's agent answers UNIMPLEMENTED.
        """
        from kata_api import forward
        from kata_api.agent.forward_pb2 import Piece

        return self._client.stream(forward.CONNECT, Piece(port=port))

    async def wait_closed(self) -> str:
        """Wait until the connection is gone and say in words why."""
        return await self._client.wait_closed()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _storage(storage: GuestStorage) -> pb.Storage:
    return pb.Storage(
        driver=storage.driver,
        source=storage.source,
        fstype=storage.fstype,
        mount_point=storage.mount_point,
        options=storage.options,
        driver_options=storage.driver_options,
        shared=storage.shared,
    )
