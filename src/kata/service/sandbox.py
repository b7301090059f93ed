"""containerd's sandbox service: a pod's sandbox as a thing of its own, without a pause container.

Used by containerd 2.x for handlers with `sandboxer = "shim"`; containers come by the task service.
"""

import os
import platform
from collections.abc import Callable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from kata import __version__
from kata.resources.demand import Demand
from kata.sandbox.errors import InvalidRequestError, NotFoundError, StateError
from kata.sandbox.pod import Pod, network_namespace
from kata.sandbox.sandbox import Sandbox
from kata.service import to_containerd
from kata.service.sandbox_owner import SandboxOwner
from kata.service.status import answered
from kata_api import any as packed
from kata_api.containerd import sandbox_pb2 as pb
from kata_api.containerd import types_pb2
from kata_api.containerd.pod_sandbox_config_pb2 import LinuxContainerResources, PodSandboxConfig

_READY, _NOT_READY = "SANDBOX_READY", "SANDBOX_NOTREADY"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names of architectures, which containerd uses."""

_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""What containerd 2.x gives each pause container unless it is configured otherwise."""


class SandboxService:
    """The handlers; method names are those of `kata_api.sandbox`.

    `options` are the encoded runtime options of the shim's start: requests here carry none.
    `on_shutdown` is called once nothing is left to serve.
    """

    def __init__(
        self, owner: SandboxOwner, options: bytes, on_shutdown: Callable[[], None]
    ) -> None:
        self._owner = owner
        self._options = options
        self._on_shutdown = on_shutdown
        self._created: tuple[Pod, dict[str, str]] | None = None

    async def create_sandbox(
        self, request: pb.CreateSandboxRequest, _context: object
    ) -> pb.CreateSandboxResponse:
        """Take down what the sandbox is to be."""
        with answered():
            if not request.sandbox_id:
                raise InvalidRequestError("the request has no sandbox id")
            if self._created or self._owner.present:
                raise StateError("this shim has a sandbox already")
            config = PodSandboxConfig()
            if request.HasField("options"):
                config = packed.unpack(request.options, PodSandboxConfig)
            pod = Pod(
                request.sandbox_id,
                config.hostname,
                _cgroups_path(config.linux.cgroup_parent, request.sandbox_id),
                network_namespace(request.netns_path or None),
                _dns(config),
                standalone=True,
                demand=_demand(config.linux.resources),
                sysctls={**_SYSCTLS, **config.linux.sysctls},
            )
            self._created = pod, {**config.annotations, **request.annotations}
            return pb.CreateSandboxResponse()

    async def start_sandbox(
        self, request: pb.StartSandboxRequest, _context: object
    ) -> pb.StartSandboxResponse:
        """Bring the sandbox up."""
        with answered():
            if self._created is None or self._created[0].id != request.sandbox_id:
                raise NotFoundError(f"sandbox {request.sandbox_id} has not been created here")
            pod, annotations = self._created
            sandbox = await self._owner.bring_up(pod, self._runtime_options(), annotations)
            return pb.StartSandboxResponse(
                pid=sandbox.pid, created_at=to_containerd.timestamp(sandbox.created_at)
            )

    async def platform(self, _request: pb.PlatformRequest, _context: object) -> pb.PlatformResponse:
        """Tell what images run in the guest: those of the host's architecture."""
        machine = platform.machine()
        return pb.PlatformResponse(
            platform=types_pb2.Platform(
                os="linux", architecture=_ARCHITECTURES.get(machine, machine)
            )
        )

    async def stop_sandbox(
        self, request: pb.StopSandboxRequest, _context: object
    ) -> pb.StopSandboxResponse:
        """End the guest and all that runs in it; what is stopped already stays so."""
        with answered():
            await self._sandbox(request.sandbox_id).end_guest("the pod was stopped")
            return pb.StopSandboxResponse()

    async def wait_sandbox(
        self, request: pb.WaitSandboxRequest, _context: object
    ) -> pb.WaitSandboxResponse:
        """Wait for the end of the guest."""
        with answered():
            exit_ = await self._sandbox(request.sandbox_id).wait()
            return pb.WaitSandboxResponse(
                exit_status=exit_.status, exited_at=to_containerd.timestamp(exit_.at)
            )

    async def sandbox_status(
        self, request: pb.SandboxStatusRequest, _context: object
    ) -> pb.SandboxStatusResponse:
        """Tell whether the guest runs."""
        with answered():
            sandbox = self._sandbox(request.sandbox_id)
            end = sandbox.end
            return pb.SandboxStatusResponse(
                sandbox_id=sandbox.id,
                pid=sandbox.pid,
                state=_NOT_READY if end else _READY,
                info={"version": __version__, "shim": str(os.getpid())} if request.verbose else {},
                created_at=to_containerd.timestamp(sandbox.created_at),
                exited_at=to_containerd.timestamp(end.at) if end else None,
            )

    async def ping_sandbox(self, request: pb.PingRequest, _context: object) -> pb.PingResponse:
        """Answer while the sandbox is here."""
        with answered():
            self._sandbox(request.sandbox_id)
            return pb.PingResponse()

    async def shutdown_sandbox(
        self, _request: pb.ShutdownSandboxRequest, _context: object
    ) -> pb.ShutdownSandboxResponse:
        """Give everything back and end the shim."""
        try:
            await self._owner.end()
        finally:
            self._on_shutdown()
        return pb.ShutdownSandboxResponse()

    def _runtime_options(self) -> AnyMessage:
        try:
            return AnyMessage.FromString(self._options)
        except DecodeError as error:
            raise InvalidRequestError(
                f"the shim was started with {len(self._options)} bytes that are no runtime options"
            ) from error

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        sandbox = self._owner.sandbox
        if sandbox.id != sandbox_id:
            raise NotFoundError(f"sandbox {sandbox_id} is not here; {sandbox.id} is")
        return sandbox


def _cgroups_path(parent: str, sandbox_id: str) -> str:
    """Return the sandbox's path below its pod's, in containerd's form for cgroupfs or systemd."""
    if not parent:
        return ""
    name = os.path.basename(parent)
    if name.endswith(".slice"):
        return f"{name}:cri-containerd:{sandbox_id}"
    return os.path.join(parent, sandbox_id)


def _demand(resources: LinuxContainerResources) -> Demand:
    """Return what kubelet says that the pod's containers may use."""
    return Demand.of_numbers(
        quota=resources.cpu_quota,
        period=resources.cpu_period,
        shares=resources.cpu_shares,
        memory=resources.memory_limit_in_bytes,
    )


def _dns(config: PodSandboxConfig) -> tuple[str, ...]:
    """Return the lines of resolv.conf(5)."""
    dns = config.dns_config
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return tuple(lines)
