"""Connections to the guest's loopback, for a host whose callers dial the pod's."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ttrpc import RpcError, StatusCode
from ttrpc.binding import Context

if TYPE_CHECKING:
    from kata_api.agent import forward_pb2 as pb

_DIAL_SECONDS = 10.0
"""Loopback answers at once, unless the backlog of whoever listens is full."""

_LARGEST_PORT = 65535

# In the order that kubelet's runtimes try them on the host.
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class ForwardService:
    """``kata.guest.v1.Forward``: bytes between the host and what listens in the guest."""

    async def connect(
        self, requests: AsyncIterator[pb.Piece], _: Context
    ) -> AsyncIterator[pb.Piece]:
        """Connect to the port that the first piece names, and carry the connection.

        Raises ``RpcError``: UNAVAILABLE when nobody listens there, ABORTED for a reset.
        """
        from contextlib import aclosing

        from kata_api.agent import forward_pb2
        from ttrpc.relay import Relay

        first = await anext(requests, None)
        if first is None or not 0 < first.port <= _LARGEST_PORT:
            raise RpcError(
                StatusCode.INVALID_ARGUMENT, "the first piece names no port from 1 to 65535"
            )
        relay = Relay(await _dial(first.port), requests, forward_pb2.Piece)
        try:
            async with aclosing(relay.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
        except OSError as error:
            raise RpcError(StatusCode.ABORTED, f"port {first.port}: {error}") from error


async def _dial(port: int) -> socket.socket:
    from ttrpc.relay import reset

    failures = []
    for family, address in _LOOPBACKS:
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a kernel without that family
            failures.append(f"{address}: {_reason(error)}")
            continue
        connection.setblocking(False)  # noqa: FBT003 - the standard library has no keyword for it
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
            # Where nobody listens, the kernel may choose that very port for our end, too. Reset, or
            # the port would not be free for a minute.
            if connection.getsockname() == connection.getpeername():
                raise ConnectionRefusedError(errno.ECONNREFUSED, "connected with itself")
        except OSError as error:  # TimeoutError is one
            reset(connection)
            failures.append(f"{address}: {_reason(error)}")
        except BaseException:
            reset(connection)
            raise
        else:
            return connection
    raise RpcError(StatusCode.UNAVAILABLE, f"port {port}: {', '.join(failures)}")


def _reason(error: OSError) -> str:
    """Return the kernel's words: asyncio puts the address in their place."""
    return os.strerror(error.errno) if error.errno else f"no answer within {_DIAL_SECONDS:g} s"
