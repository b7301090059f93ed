"""The events service of containerd, and the topic of each event that a shim publishes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from kata_api.containerd import events_pb2 as pb
from kata_api.containerd.events_forward_pb2 import ForwardRequest
from ttrpc import Method

SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"

FORWARD: Final = Method(SERVICE, "Forward", ForwardRequest, Empty)

METHODS: Final[tuple[Method[Any, Any], ...]] = (FORWARD,)

# The events of sandboxes are not here: containerd publishes those itself.
TOPICS: Final[Mapping[type[Message], str]] = MappingProxyType(
    {
        pb.TaskCreate: "/tasks/create",
        pb.TaskStart: "/tasks/start",
        pb.TaskDelete: "/tasks/delete",
        pb.TaskExit: "/tasks/exit",
        pb.TaskOOM: "/tasks/oom",
        pb.TaskExecAdded: "/tasks/exec-added",
        pb.TaskExecStarted: "/tasks/exec-started",
        pb.TaskPaused: "/tasks/paused",
        pb.TaskResumed: "/tasks/resumed",
        pb.TaskCheckpointed: "/tasks/checkpointed",
    }
)
