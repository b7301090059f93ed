"""containerd's task service: every request for a container or a process in it."""

import os
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty

from kata import __version__
from kata.sandbox.errors import UnimplementedError
from kata.sandbox.sandbox import Sandbox
from kata.service import from_containerd, to_containerd
from kata.service.publisher import Publisher
from kata.service.sandbox_owner import SandboxOwner
from kata.service.status import answered
from kata_api import any as packed
from kata_api import oci
from kata_api.containerd import task_pb2 as pb
from ttrpc import RpcError, StatusCode


class TaskService:
    """The handlers; method names are those of `kata_api.task`.

    `on_shutdown` is called once nothing is left to serve.
    """

    def __init__(
        self, owner: SandboxOwner, publisher: Publisher, on_shutdown: Callable[[], None]
    ) -> None:
        self._owner = owner
        self._publisher = publisher
        self._on_shutdown = on_shutdown
        self._creating = 0
        self._closing = False

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox; raises `NotFoundError` while there is none."""
        return self._owner.sandbox

    # Life of a container

    async def create(
        self, request: pb.CreateTaskRequest, _context: object
    ) -> pb.CreateTaskResponse:
        """Create a container, and the sandbox around it when it is the first."""
        if self._closing:
            raise RpcError(StatusCode.UNAVAILABLE, "the shim is shutting down; start another")
        self._creating += 1
        try:
            with answered():
                wanted = from_containerd.container_request(request, self._publisher.namespace)
                sandbox = await self._owner.for_container(wanted, request.options)
                try:
                    await sandbox.create(wanted)
                except BaseException:
                    if not (sandbox.standalone or sandbox.containers) and self._creating == 1:
                        await self._owner.end()
                    raise
                return pb.CreateTaskResponse(pid=sandbox.pid)
        finally:
            self._creating -= 1

    async def start(self, request: pb.StartRequest, _context: object) -> pb.StartResponse:
        """Start a container or an announced process."""
        with answered():
            await self.sandbox.start_process(request.id, request.exec_id)
            self._owner.started(request.id)
            return pb.StartResponse(pid=self.sandbox.pid)

    async def delete(self, request: pb.DeleteRequest, _context: object) -> pb.DeleteResponse:
        """Remove what has ended; the sandbox goes with the container that has its id."""
        with answered():
            sandbox = self.sandbox
            pid = sandbox.pid
            if request.exec_id:
                return to_containerd.deleted(
                    await sandbox.delete_exec(request.id, request.exec_id), pid
                )
            exit_ = await sandbox.delete(request.id)
            if request.id == sandbox.id:
                await self._owner.end()
            return to_containerd.deleted(exit_, pid)

    async def shutdown(self, _request: pb.ShutdownRequest, _context: object) -> Empty:
        """End the shim, unless it still has a container, is making one, or is a pod's."""
        sandbox = self._owner.present
        if self._creating or (sandbox and (sandbox.containers or sandbox.standalone)):
            return Empty()
        self._closing = True
        try:
            await self._owner.end()
        finally:
            self._on_shutdown()
        return Empty()

    # Processes

    async def exec(self, request: pb.ExecProcessRequest, _context: object) -> Empty:
        """Announce a further process in a container."""
        with answered():
            if not request.exec_id:
                raise RpcError(StatusCode.INVALID_ARGUMENT, "the request has no exec id")
            spec = oci.decode_process(packed.unpack_json(request.spec, packed.PROCESS_URL))
            stdio = from_containerd.stdio(request, self._publisher.namespace)
            self.sandbox.add_exec(request.id, request.exec_id, spec, stdio)
            return Empty()

    async def kill(self, request: pb.KillRequest, _context: object) -> Empty:
        """Send a signal to a process, or to all of a container's."""
        with answered():
            await self.sandbox.signal(request.id, request.exec_id, request.signal, all_=request.all)
            return Empty()

    async def wait(self, request: pb.WaitRequest, _context: object) -> pb.WaitResponse:
        """Wait for the end of a process."""
        with answered():
            process = self.sandbox.container(request.id).process(request.exec_id)
            exit_ = await process.wait()
            return pb.WaitResponse(
                exit_status=exit_.status, exited_at=to_containerd.timestamp(exit_.at)
            )

    async def resize_pty(self, request: pb.ResizePtyRequest, _context: object) -> Empty:
        """Set the size of a process's terminal."""
        with answered():
            process = self.sandbox.container(request.id).process(request.exec_id)
            await process.resize(request.height, request.width)
            return Empty()

    async def close_io(self, request: pb.CloseIORequest, _context: object) -> Empty:
        """Let a process's stdin end once the client has closed it."""
        with answered():
            process = self.sandbox.container(request.id).process(request.exec_id)
            if request.stdin:
                process.streams.close_stdin()
            return Empty()

    async def pause(self, request: pb.PauseRequest, _context: object) -> Empty:
        """Freeze a container."""
        with answered():
            await self.sandbox.pause(request.id)
            return Empty()

    async def resume(self, request: pb.ResumeRequest, _context: object) -> Empty:
        """Thaw a container."""
        with answered():
            await self.sandbox.resume(request.id)
            return Empty()

    async def update(self, request: pb.UpdateTaskRequest, _context: object) -> Empty:
        """Change a container's limits."""
        with answered():
            resources = packed.unpack_json(request.resources, packed.LINUX_RESOURCES_URL)
            await self.sandbox.update(request.id, oci.decode_resources(resources))
            return Empty()

    async def checkpoint(self, request: pb.CheckpointTaskRequest, _context: object) -> Empty:
        """Refuse: a container's memory is part of its virtual machine's."""
        with answered():
            self.sandbox.container(request.id)
            raise UnimplementedError(
                "checkpoints are not implemented: a container's memory is part of its virtual "
                "machine's, which cannot be saved yet; stop the container instead"
            )

    # Questions

    async def state(self, request: pb.StateRequest, _context: object) -> pb.StateResponse:
        """Tell where in its life a process is."""
        with answered():
            container = self.sandbox.container(request.id)
            process = container.process(request.exec_id)
            return to_containerd.state(process, container.request.bundle, self.sandbox.pid)

    async def pids(self, request: pb.PidsRequest, _context: object) -> pb.PidsResponse:
        """Tell the processes of a container, by the guest's numbers for them."""
        with answered():
            container = self.sandbox.container(request.id)
            listed = await self.sandbox.guest_processes(request.id)
            return to_containerd.processes(listed, container.execs)

    async def stats(self, request: pb.StatsRequest, _context: object) -> pb.StatsResponse:
        """Tell what a container uses."""
        from kata.service import metrics

        with answered():
            usage = await self.sandbox.usage(request.id)
            stats = metrics.metrics(usage, unified=metrics.host_is_unified())
            return pb.StatsResponse(stats=packed.pack(stats))

    async def connect(self, _request: pb.ConnectRequest, _context: object) -> pb.ConnectResponse:
        """Tell who we are."""
        return pb.ConnectResponse(
            shim_pid=os.getpid(),
            task_pid=self._owner.present.pid if self._owner.present else 0,
            version=__version__,
        )
