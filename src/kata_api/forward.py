"""The service of our own agent that connects to ports of the guest."""

from typing import Any, Final

from kata_api.agent import forward_pb2 as pb
from ttrpc import Method

SERVICE: Final = "kata.guest.v1.Forward"

CONNECT: Final = Method(
    SERVICE, "Connect", pb.Piece, pb.Piece, client_streams=True, server_streams=True
)

METHODS: Final[tuple[Method[Any, Any], ...]] = (CONNECT,)
