"""The sandbox service of containerd, which a shim may offer beside the task service."""

from typing import Any, Final

from kata_api.containerd import sandbox_pb2 as pb
from ttrpc import Method

SERVICE: Final = "containerd.runtime.sandbox.v1.Sandbox"

CREATE_SANDBOX: Final = Method(
    SERVICE, "CreateSandbox", pb.CreateSandboxRequest, pb.CreateSandboxResponse
)
START_SANDBOX: Final = Method(
    SERVICE, "StartSandbox", pb.StartSandboxRequest, pb.StartSandboxResponse
)
PLATFORM: Final = Method(SERVICE, "Platform", pb.PlatformRequest, pb.PlatformResponse)
STOP_SANDBOX: Final = Method(SERVICE, "StopSandbox", pb.StopSandboxRequest, pb.StopSandboxResponse)
WAIT_SANDBOX: Final = Method(SERVICE, "WaitSandbox", pb.WaitSandboxRequest, pb.WaitSandboxResponse)
SANDBOX_STATUS: Final = Method(
    SERVICE, "SandboxStatus", pb.SandboxStatusRequest, pb.SandboxStatusResponse
)
PING_SANDBOX: Final = Method(SERVICE, "PingSandbox", pb.PingRequest, pb.PingResponse)
SHUTDOWN_SANDBOX: Final = Method(
    SERVICE, "ShutdownSandbox", pb.ShutdownSandboxRequest, pb.ShutdownSandboxResponse
)
SANDBOX_METRICS: Final = Method(
    SERVICE, "SandboxMetrics", pb.SandboxMetricsRequest, pb.SandboxMetricsResponse
)

METHODS: Final[tuple[Method[Any, Any], ...]] = (
    CREATE_SANDBOX,
    START_SANDBOX,
    PLATFORM,
    STOP_SANDBOX,
    WAIT_SANDBOX,
    SANDBOX_STATUS,
    PING_SANDBOX,
    SHUTDOWN_SANDBOX,
    SANDBOX_METRICS,
)
