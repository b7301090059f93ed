"""The task service of containerd, in both of its versions.

`v2` and `v3` differ in the name of the service and in nothing else, so a shim binds the same handlers
to the methods of each:

    reply = await client.call(task.v2.STATE, StateRequest(id="c1"))
    for method in (*task.v2, *task.v3): ...
"""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from kata_api.containerd import task_pb2 as pb
from ttrpc import Method


class TaskMethods:
    """The methods of one version of the task service, as values; iterating gives them all."""

    def __init__(self, service: str) -> None:
        self.service: Final = service
        self.STATE: Final = Method(service, "State", pb.StateRequest, pb.StateResponse)
        self.CREATE: Final = Method(service, "Create", pb.CreateTaskRequest, pb.CreateTaskResponse)
        self.START: Final = Method(service, "Start", pb.StartRequest, pb.StartResponse)
        self.DELETE: Final = Method(service, "Delete", pb.DeleteRequest, pb.DeleteResponse)
        self.PIDS: Final = Method(service, "Pids", pb.PidsRequest, pb.PidsResponse)
        self.PAUSE: Final = Method(service, "Pause", pb.PauseRequest, Empty)
        self.RESUME: Final = Method(service, "Resume", pb.ResumeRequest, Empty)
        self.CHECKPOINT: Final = Method(service, "Checkpoint", pb.CheckpointTaskRequest, Empty)
        self.KILL: Final = Method(service, "Kill", pb.KillRequest, Empty)
        self.EXEC: Final = Method(service, "Exec", pb.ExecProcessRequest, Empty)
        self.RESIZE_PTY: Final = Method(service, "ResizePty", pb.ResizePtyRequest, Empty)
        self.CLOSE_IO: Final = Method(service, "CloseIO", pb.CloseIORequest, Empty)
        self.UPDATE: Final = Method(service, "Update", pb.UpdateTaskRequest, Empty)
        self.WAIT: Final = Method(service, "Wait", pb.WaitRequest, pb.WaitResponse)
        self.STATS: Final = Method(service, "Stats", pb.StatsRequest, pb.StatsResponse)
        self.CONNECT: Final = Method(service, "Connect", pb.ConnectRequest, pb.ConnectResponse)
        self.SHUTDOWN: Final = Method(service, "Shutdown", pb.ShutdownRequest, Empty)

    def __iter__(self) -> Iterator[Method[Any, Any]]:
        return (value for value in vars(self).values() if isinstance(value, Method))

    def __repr__(self) -> str:
        return f"TaskMethods({self.service!r})"


v2: Final = TaskMethods("containerd.task.v2.Task")
v3: Final = TaskMethods("containerd.task.v3.Task")
