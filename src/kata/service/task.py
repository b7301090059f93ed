"""containerd's task service: every request for a container or a process in it."""

import asyncio
import json
import logging
import os
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty

from kata import __version__
from kata.config import RuntimeSettings, apply_annotations, check_container, load
from kata.resources.demand import Demand
from kata.sandbox import facts, guest_spec, history, identity
from kata.sandbox.container import ContainerRequest
from kata.sandbox.errors import InvalidRequestError, NotFoundError, UnimplementedError
from kata.sandbox.journal import Journal
from kata.sandbox.ledger import Ledger, now
from kata.sandbox.sandbox import Sandbox
from kata.sandbox.sizing import Sizing
from kata.service import from_containerd, to_containerd
from kata.service.publisher import Publisher
from kata.service.status import answered
from kata_api import any as packed
from kata_api import oci
from kata_api.containerd import task_pb2 as pb
from ttrpc import RpcError, StatusCode

_LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_log = logging.getLogger(__name__)


class TaskService:
    """The handlers; method names are those of `kata_api.task`.

    `address` is the path of the shim's socket and `origin` is when the shim was started, in seconds of the boot clock.  `on_shutdown` is called
    once nothing is left to serve.
    """

    def __init__(
        self, publisher: Publisher, address: str, origin: float, on_shutdown: Callable[[], None]
    ) -> None:
        self._publisher = publisher
        self._address = address
        self._origin = origin
        self._on_shutdown = on_shutdown
        self._sandbox: Sandbox | None = None
        self._past = ""
        self._ledger: Ledger | None = None
        self._directory = ""
        self._creating = 0
        self._ending: asyncio.Task[None] | None = None
        self._closing = False
        self._bring_up = asyncio.Lock()

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox; raises `NotFoundError` while there is none."""
        if self._sandbox is None:
            raise NotFoundError(self._past or "no container has been created in this shim")
        return self._sandbox

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
                sandbox = await self._sandbox_for(wanted, request)
                try:
                    await sandbox.create(wanted)
                except BaseException:
                    if not sandbox.containers and self._creating == 1:
                        await self._end_sandbox()
                    raise
                return pb.CreateTaskResponse(pid=sandbox.pid)
        finally:
            self._creating -= 1

    async def _sandbox_for(
        self, wanted: ContainerRequest, request: pb.CreateTaskRequest
    ) -> Sandbox:
        async with self._bring_up:
            if self._ending:  # its directories have the names that this one would take
                await asyncio.wait({self._ending})
            if self._sandbox is None:
                self._sandbox = await self._start_sandbox(wanted, request)
            else:
                check_container(self._sandbox.configuration, wanted.spec.annotations)
                guest_spec.check(
                    wanted.spec,
                    guest_seccomp=not self._sandbox.configuration.runtime.disable_guest_seccomp,
                )
            return self._sandbox

    async def _start_sandbox(
        self, wanted: ContainerRequest, request: pb.CreateTaskRequest
    ) -> Sandbox:
        try:
            sandbox_id = identity.sandbox_id(wanted.id, wanted.spec.annotations)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        ledger = Ledger(sandbox_id, self._origin)
        ledger.add("shim start", self._origin, now())
        with ledger.step("configuration"):
            configuration = apply_annotations(
                load(from_containerd.config_path(request.options)), wanted.spec.annotations
            )
            guest_spec.check(
                wanted.spec, guest_seccomp=not configuration.runtime.disable_guest_seccomp
            )
        linux = wanted.spec.linux or oci.Linux()
        sizing = Sizing(configuration, Demand.of_pod(wanted.spec.annotations, linux.resources))
        _set_log_level(configuration.runtime)
        journal = Journal(identity.directory_name(sandbox_id, self._address), self._address)
        journal.facts = facts.describe(
            sandbox_id, self._publisher.namespace, sizing.first, wanted.spec.annotations
        )
        sandbox = Sandbox(
            sandbox_id,
            journal,
            configuration,
            lambda event: self._publisher.publish(to_containerd.event(event)),
            ledger,
            sizing,
        )
        try:
            await sandbox.start(wanted.spec.hostname, linux.cgroups_path)
        except BaseException as error:
            history.save_ledger({**ledger.record(), "error": str(error)}, journal.kept)
            raise
        history.save_ledger(ledger.record(), journal.directory)
        self._ledger, self._directory = ledger, journal.directory
        return sandbox

    async def start(self, request: pb.StartRequest, _context: object) -> pb.StartResponse:
        """Start a container or an announced process."""
        with answered():
            await self.sandbox.start_process(request.id, request.exec_id)
            if self._ledger:
                record = self._ledger.record()
                _log.info("start ledger %s", json.dumps(record))
                history.save_ledger(record, self._directory)
                self._ledger = None
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
                await self._end_sandbox()
            return to_containerd.deleted(exit_, pid)

    async def _end_sandbox(self) -> None:
        """Stop the sandbox, once, however many ask; goes on when the asker's time is up."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox:
            self._past = f"sandbox {sandbox.id} was deleted, and its containers with it"
            self._ending = asyncio.create_task(sandbox.stop())
        if self._ending:
            await asyncio.shield(self._ending)

    async def shutdown(self, _request: pb.ShutdownRequest, _context: object) -> Empty:
        """End the shim, unless it still has a container or is making one."""
        if self._creating or (self._sandbox and self._sandbox.containers):
            return Empty()
        self._closing = True
        try:
            await self._end_sandbox()
        finally:
            self._on_shutdown()
        return Empty()

    async def stop(self) -> None:
        """Give everything back, whatever still runs."""
        await self._end_sandbox()

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
            task_pid=self._sandbox.pid if self._sandbox else 0,
            version=__version__,
        )


def _set_log_level(settings: RuntimeSettings) -> None:
    """Log as the configuration says; a containerd in debug mode has asked for more already."""
    wanted = logging.DEBUG if settings.enable_debug else _LOG_LEVELS[settings.log_level]
    root = logging.getLogger()
    if root.level != logging.DEBUG:
        root.setLevel(wanted)
