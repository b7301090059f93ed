"""What happens to containers, as values; the service translates them for containerd."""

from dataclasses import dataclass

from kata.agent_client.stdio import Stdio
from kata.host.mounts import Mount
from kata.sandbox.process import Exit


@dataclass(frozen=True, slots=True)
class ContainerCreated:
    """A container waits to be started."""

    container_id: str
    bundle: str
    root: tuple[Mount, ...]
    stdio: Stdio
    pid: int


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """A container's own process runs."""

    container_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class ExecAdded:
    """A further process was announced."""

    container_id: str
    exec_id: str


@dataclass(frozen=True, slots=True)
class ExecStarted:
    """A further process runs."""

    container_id: str
    exec_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessExited:
    """A process has ended; `exec_id` is empty for the container's own."""

    container_id: str
    exec_id: str
    pid: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class ContainerPaused:
    """A container is frozen."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerResumed:
    """A container runs again."""

    container_id: str


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The guest's kernel has killed a process of the container for want of memory."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerDeleted:
    """A container is gone."""

    container_id: str
    pid: int
    exit: Exit


Event = (
    ContainerCreated
    | ContainerStarted
    | ExecAdded
    | ExecStarted
    | ProcessExited
    | ContainerPaused
    | ContainerResumed
    | OutOfMemory
    | ContainerDeleted
)
