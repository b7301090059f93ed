"""A container of a sandbox: its own process and those added by exec."""

import asyncio
from dataclasses import dataclass, field

from kata.agent_client.stdio import Stdio
from kata.host.mounts import Mount
from kata.sandbox.errors import NotFoundError
from kata.sandbox.process import Exit, Process
from kata_api import oci


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """What containerd asks for; `root` is the list of mounts that make the root filesystem."""

    id: str
    bundle: str
    root: tuple[Mount, ...]
    stdio: Stdio
    spec: oci.Spec


@dataclass(slots=True)
class Container:
    """A created container."""

    request: ContainerRequest
    init: Process
    execs: dict[str, Process] = field(default_factory=dict)
    deletion: "asyncio.Task[Exit] | None" = None
    oom_kills: int = 0
    """How many processes of it were killed for want of memory, as far as that has been told."""
    resources: oci.LinuxResources = field(init=False)
    """Its limits, changes included."""
    updating: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a change of its limits, which is completed from those that hold."""

    def __post_init__(self) -> None:
        linux = self.request.spec.linux
        self.resources = (linux and linux.resources) or oci.LinuxResources()

    @property
    def id(self) -> str:
        """The container's id."""
        return self.request.id

    def process(self, exec_id: str) -> Process:
        """Return a process, the container's own for an empty id; raises `NotFoundError`."""
        if not exec_id:
            return self.init
        try:
            return self.execs[exec_id]
        except KeyError:
            raise NotFoundError(
                f"container {self.id} has no process {exec_id}: it was never added, or it was deleted"
            ) from None

    def processes(self) -> list[Process]:
        """Return the execs first, the container's own process last."""
        return [*self.execs.values(), self.init]
