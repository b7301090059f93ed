"""The agent's services on the wire: requests translated to the sandbox and back.

A method that is not here answers UNIMPLEMENTED. Failures of the kernel that no layer below put into
words become INTERNAL here, with the errno's text and path.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from kata_agent import VERSION, guest, oom
from kata_agent.sandbox import Sandbox
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import health_pb2
from kata_api.agent.types_pb2 import Interface
from ttrpc import RpcError, StatusCode
from ttrpc.binding import Context

_PROTOCOL_VERSION = "0.0.1"  # what upstream's agents answer as grpc_version

_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Any]])


def _tells_errno(handler: _Handler) -> _Handler:
    @functools.wraps(handler)
    async def wrapped(self: object, request: object, context: Context) -> Any:
        try:
            return await handler(self, request, context)
        except OSError as error:
            raise RpcError(StatusCode.INTERNAL, f"{context.method}: {error}") from error

    return wrapped  # type: ignore[return-value]


class HealthService:
    """``grpc.Health``: the agent that can answer is well."""

    async def check(
        self, _: health_pb2.CheckRequest, __: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answer SERVING."""
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def version(
        self, _: health_pb2.CheckRequest, __: Context
    ) -> health_pb2.VersionCheckResponse:
        """Answer the versions of protocol and agent."""
        return health_pb2.VersionCheckResponse(
            grpc_version=_PROTOCOL_VERSION, agent_version=VERSION
        )


class AgentService:
    """``grpc.AgentService``: a sandbox, driven by its host."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @_tells_errno
    async def create_sandbox(self, request: pb.CreateSandboxRequest, _: Context) -> Empty:
        """Configure the guest for its pod."""
        await self._sandbox.configure(request)
        return Empty()

    @_tells_errno
    async def destroy_sandbox(self, _: pb.DestroySandboxRequest, __: Context) -> Empty:
        """End all containers and write what is cached to the shares. The host then ends the VM."""
        import os

        await self._sandbox.destroy()
        os.sync()
        return Empty()

    @_tells_errno
    async def create_container(self, request: pb.CreateContainerRequest, _: Context) -> Empty:
        """Create a container whose program waits for StartContainer."""
        await self._sandbox.create(request)
        return Empty()

    @_tells_errno
    async def start_container(self, request: pb.StartContainerRequest, _: Context) -> Empty:
        """Let the container's program run."""
        await self._sandbox.container(request.container_id).start()
        return Empty()

    @_tells_errno
    async def remove_container(self, request: pb.RemoveContainerRequest, _: Context) -> Empty:
        """Kill and remove a container; the timeout is in seconds."""
        await self._sandbox.remove(request.container_id, request.timeout)
        return Empty()

    @_tells_errno
    async def exec_process(self, request: pb.ExecProcessRequest, _: Context) -> Empty:
        """Run a further process in a container."""
        container = self._sandbox.container(request.container_id)
        await container.execute(request.exec_id, request.process)
        return Empty()

    @_tells_errno
    async def signal_process(self, request: pb.SignalProcessRequest, _: Context) -> Empty:
        """Send a signal; see `Container.signal` for the special cases."""
        self._sandbox.container(request.container_id).signal(request.exec_id, request.signal)
        return Empty()

    @_tells_errno
    async def wait_process(
        self, request: pb.WaitProcessRequest, _: Context
    ) -> pb.WaitProcessResponse:
        """Wait for a process to end; tell how many kills for memory there have been by then."""
        container = self._sandbox.container(request.container_id)
        process = container.process(request.exec_id)
        status = await container.wait(request.exec_id)
        return pb.WaitProcessResponse(
            status=status,
            stdout_total=process.stdout.total if process.stdout else None,
            stderr_total=process.stderr.total if process.stderr else None,
            oom_kills=oom.kills(container.cgroup),
        )

    @_tells_errno
    async def list_processes(
        self, request: pb.ListProcessesRequest, _: Context
    ) -> pb.ListProcessesResponse:
        """List the processes of a container, as this guest counts them."""
        import json

        if request.format != "json":
            raise RpcError(
                StatusCode.INVALID_ARGUMENT,
                f"processes are listed as json, not as {request.format!r}",
            )
        container = self._sandbox.container(request.container_id)
        return pb.ListProcessesResponse(
            process_list=json.dumps(container.cgroup.pids()).encode(), execs=container.execs()
        )

    @_tells_errno
    async def write_stdin(
        self, request: pb.WriteStreamRequest, _: Context
    ) -> pb.WriteStreamResponse:
        """Write to standard input; no data means its end."""
        process = self._sandbox.container(request.container_id).process(request.exec_id)
        if process.stdin is not None:
            await (process.stdin.write(request.data) if request.data else process.stdin.end())
        return pb.WriteStreamResponse(len=len(request.data))

    @_tells_errno
    async def read_stdout(self, request: pb.ReadStreamRequest, _: Context) -> pb.ReadStreamResponse:
        """Read standard output, or all of a terminal's."""
        container = self._sandbox.container(request.container_id)
        data = await container.read(request.exec_id, "stdout", request.len)
        return pb.ReadStreamResponse(data=data)

    @_tells_errno
    async def read_stderr(self, request: pb.ReadStreamRequest, _: Context) -> pb.ReadStreamResponse:
        """Read standard error."""
        container = self._sandbox.container(request.container_id)
        data = await container.read(request.exec_id, "stderr", request.len)
        return pb.ReadStreamResponse(data=data)

    @_tells_errno
    async def close_stdin(self, request: pb.CloseStdinRequest, _: Context) -> Empty:
        """End standard input."""
        process = self._sandbox.container(request.container_id).process(request.exec_id)
        if process.stdin is not None:
            await process.stdin.end()
        return Empty()

    @_tells_errno
    async def tty_win_resize(self, request: pb.TtyWinResizeRequest, _: Context) -> Empty:
        """Set the size of a terminal."""
        process = self._sandbox.container(request.container_id).process(request.exec_id)
        process.resize(request.row, request.column)
        return Empty()

    @_tells_errno
    async def update_container(self, request: pb.UpdateContainerRequest, _: Context) -> Empty:
        """Change the limits of a container."""
        await self._sandbox.container(request.container_id).update(request.resources)
        return Empty()

    @_tells_errno
    async def update_ephemeral_mounts(
        self, request: pb.UpdateEphemeralMountsRequest, _: Context
    ) -> Empty:
        """Give tmpfs storages new options, such as their size, and renew those that are copies."""
        for storage in request.storages:
            self._sandbox.storages.update(storage)
        return Empty()

    @_tells_errno
    async def stats_container(
        self, request: pb.StatsContainerRequest, _: Context
    ) -> pb.StatsContainerResponse:
        """Report the resource usage of a container."""
        from kata_agent import statistics

        return statistics.collect(self._sandbox.container(request.container_id).cgroup)

    @_tells_errno
    async def pause_container(self, request: pb.PauseContainerRequest, _: Context) -> Empty:
        """Freeze every process of a container; one that cannot be frozen goes on."""
        cgroup = self._sandbox.container(request.container_id).cgroup
        try:
            await cgroup.freeze(frozen=True)
        except RpcError:
            await cgroup.freeze(frozen=False)
            raise
        return Empty()

    @_tells_errno
    async def resume_container(self, request: pb.ResumeContainerRequest, _: Context) -> Empty:
        """Let a frozen container go on."""
        await self._sandbox.container(request.container_id).cgroup.freeze(frozen=False)
        return Empty()

    @_tells_errno
    async def get_oom_event(self, _: pb.GetOOMEventRequest, __: Context) -> pb.OOMEvent:
        """Wait for the kernel to kill a process for lack of memory; one container per answer."""
        container_id, kills = await self._sandbox.oom.take()
        return pb.OOMEvent(container_id=container_id, kills=kills)

    @_tells_errno
    async def update_interface(self, request: pb.UpdateInterfaceRequest, _: Context) -> Interface:
        """Set up the interface of a hardware address, waiting for it to be plugged in."""
        return await self._sandbox.network.update_interface(request.interface)

    @_tells_errno
    async def update_routes(self, request: pb.UpdateRoutesRequest, _: Context) -> pb.Routes:
        """Replace the guest's routes and rules."""
        network = self._sandbox.network
        return pb.Routes(Routes=network.update_routes(request.routes.Routes, request.rules))

    @_tells_errno
    async def list_interfaces(self, _: pb.ListInterfacesRequest, __: Context) -> pb.Interfaces:
        """List the guest's interfaces with their addresses."""
        return pb.Interfaces(Interfaces=self._sandbox.network.interfaces())

    @_tells_errno
    async def list_routes(self, _: pb.ListRoutesRequest, __: Context) -> pb.Routes:
        """List the guest's routes, but those to itself."""
        return pb.Routes(Routes=self._sandbox.network.routes())

    @_tells_errno
    async def add_arp_neighbors(self, request: pb.AddARPNeighborsRequest, _: Context) -> Empty:
        """Add neighbours that need not be asked for."""
        self._sandbox.network.add_neighbours(request.neighbors.ARPNeighbors)
        return Empty()

    @_tells_errno
    async def get_guest_details(
        self, request: pb.GuestDetailsRequest, _: Context
    ) -> pb.GuestDetailsResponse:
        """Describe the agent and the guest."""
        return guest.details(
            memory_block_size=request.mem_block_size, memory_probe=request.mem_hotplug_probe
        )

    @_tells_errno
    async def reseed_random_dev(self, request: pb.ReseedRandomDevRequest, _: Context) -> Empty:
        """Mix the host's randomness into the guest's."""
        guest.reseed(request.data)
        return Empty()

    @_tells_errno
    async def set_guest_date_time(self, request: pb.SetGuestDateTimeRequest, _: Context) -> Empty:
        """Set the guest's clock."""
        guest.set_time(request.Sec, request.Usec)
        return Empty()

    @_tells_errno
    async def online_cpu_mem(self, request: pb.OnlineCPUMemRequest, _: Context) -> Empty:
        """Bring hotplugged processors and memory into use."""
        await guest.online(cpus=request.nb_cpus, cpu_only=request.cpu_only)
        return Empty()
