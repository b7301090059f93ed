"""The health service of the agent."""

from typing import Any, Final

from kata_api.agent import health_pb2 as pb
from ttrpc import Method

SERVICE: Final = "grpc.Health"

CHECK: Final = Method(SERVICE, "Check", pb.CheckRequest, pb.HealthCheckResponse)
VERSION: Final = Method(SERVICE, "Version", pb.CheckRequest, pb.VersionCheckResponse)

METHODS: Final[tuple[Method[Any, Any], ...]] = (CHECK, VERSION)
