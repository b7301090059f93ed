"""Port-forward: connections to the loopback of the pod's namespace, carried to the guest's.

containerd and CRI-O enter that namespace and dial `localhost`, where nothing of the host listens: what
should answer runs in the guest. Which ports it has, nobody says, so connections to any port are
taken, and the guest finds out whether somebody listens there. See docs/decisions/014.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, Self

from kata.agent_client.agent import Agent
from kata.agent_client.guest_client import legible
from kata.host import bpf, netns
from kata.network import loopback_program
from kata_api.agent import forward_pb2 as pb
from ttrpc import ConnectionClosedError, RpcError, StatusCode
from ttrpc.relay import PieceError, Relay, reset

MOST: Final = 256
"""Connections at once. Each may hold 512 KiB that its user does not take (`ttrpc.relay.WINDOW`) and has
a descriptor; 128 MiB in all is what a guest can make the shim hold."""

_BACKLOG: Final = 128
"""Connections that wait to be accepted, which takes a turn of the event loop."""

_ANSWER_SECONDS: Final = 25.0
"""For the agent's first answer: it gives each of its two loopback addresses 10 s."""

_STOP_SECONDS: Final = 1.0
"""For connections to tell the guest that they end."""

_PAUSE_SECONDS: Final = 1.0
"""Before accepting is tried again when the process has no descriptor left."""

_IP_FREEBIND: Final = 15  # linux/in.h
_IPV6_FREEBIND: Final = 78  # linux/in6.h

_log = logging.getLogger(__name__)


class PortForward:
    """The bridge from one network namespace to one guest."""

    def __init__(self, agent: Agent, listeners: Sequence[socket.socket], attachment: int) -> None:
        self._agent = agent
        self._listeners = listeners
        self._attachment = attachment
        self._connections: set[asyncio.Task[None]] = set()
        self._accepted = 0
        self._is_unimplemented = False
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        for listener in listeners:
            self._listen(listener)

    @classmethod
    async def start(cls, namespace: str, agent: Agent) -> Self:
        """Take every TCP connection to the loopback of the network namespace that a file names.

        Raises OSError when the kernel does not let us, and ValueError for the caller's own namespace,
        whose connections are the host's; nothing is left then. The end of the process undoes
        it, as `stop` does.
        """
        if netns.is_own(namespace):
            raise ValueError(
                f"{namespace} is the namespace of the host; give the pod one of its own"
            )
        listeners = netns.inside(namespace, _make_listeners)
        try:
            attachment = _steer(namespace, listeners)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        return cls(agent, listeners, attachment)

    def __repr__(self) -> str:
        condition = "open" if self._attachment >= 0 else "stopped"
        return (
            f"<PortForward, {condition}, {len(self._connections)} of {self._accepted} connections>"
        )

    @property
    def connections(self) -> int:
        """How many are being carried."""
        return len(self._connections)

    async def stop(self) -> None:
        """Give the namespace back as it was and reset the connections that are left."""
        if self._attachment < 0:
            return
        os.close(self._attachment)
        self._attachment = -1
        for pause in self._pauses.values():
            pause.cancel()
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        while self._connections:  # a second time for those that cannot tell the guest
            for connection in self._connections:
                connection.cancel()
            await asyncio.wait(self._connections, timeout=_STOP_SECONDS)

    # -- inside --------------------------------------------------------------------------------

    def _listen(self, listener: socket.socket) -> None:
        # No task that waits for the socket: one that is cancelled could lose what was accepted.
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # whoever dialled has gone
        except OSError as error:
            _log.warning("port-forward: cannot accept: %s; trying again", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            self._pauses[listener] = loop.call_later(_PAUSE_SECONDS, self._listen, listener)
            return
        self._accepted += 1
        if len(self._connections) >= MOST:
            _log.warning("port-forward: a connection is refused: there are %d already", MOST)
            reset(connection)
            return
        task = asyncio.create_task(self._serve(connection))
        self._connections.add(task)
        # A callback, not a `finally` in the task: one cancelled before its first step has none.
        task.add_done_callback(functools.partial(self._ended, connection))

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        reset(connection)  # unless its relay has closed it already

    async def _serve(self, connection: socket.socket) -> None:
        """Carry one connection to its end."""
        port = connection.getsockname()[1]
        try:
            await self._carry(connection, port)
        except ConnectionClosedError:
            _log.debug("port-forward: port %d: the guest has gone", port)  # the sandbox tells
        except RpcError as error:
            self._report(port, error)
        except OSError as error:
            _log.debug("port-forward: port %d: %s", port, error)

    async def _carry(self, connection: socket.socket, port: int) -> None:
        loop = asyncio.get_running_loop()
        async with self._agent.connect_port(port) as stream:
            relay = Relay(connection, stream, pb.Piece)
            late = loop.call_later(_ANSWER_SECONDS, _expire, relay)
            try:
                async with aclosing(relay.pieces()) as pieces:
                    async for piece in pieces:
                        # A stream that takes no more has ended, and the relay is told why.
                        with contextlib.suppress(RpcError):
                            await stream.send(piece)
            finally:
                late.cancel()
                # An end before the time resets the guest's side; one that has ended needs none.
                with contextlib.suppress(RpcError):
                    await stream.end()
            async for _ in stream:
                raise PieceError("something after its end")

    def _report(self, port: int, error: RpcError) -> None:
        words = legible(error.message)
        match error.code:
            case StatusCode.UNIMPLEMENTED:
                if not self._is_unimplemented:
                    self._is_unimplemented = True
                    _log.warning(
                        "port-forward needs the agent of this project; the guest's says: %s", words
                    )
            case StatusCode.UNAVAILABLE:
                _log.info("port-forward: nobody listens in the guest: %s", words)
            case StatusCode.ABORTED:
                _log.debug("port-forward: %s", words)
            case _:
                _log.warning("port-forward: port %d: %s: %s", port, error.code.name, words)


def _expire(relay: Relay[pb.Piece]) -> None:
    if not relay.is_answered:
        relay.give_up(
            RpcError(StatusCode.DEADLINE_EXCEEDED, f"no answer within {_ANSWER_SECONDS:g} s")
        )


def _make_listeners() -> list[socket.socket]:
    """Return a listening socket for each family that the namespace has.

    Their own ports are of no use to anybody: they are on loopback, too, and steered as all are. The
    addresses need not be there yet: the loopback device may still be down.
    """
    listeners: list[socket.socket] = []
    try:
        for family, address, level, option in (
            (socket.AF_INET, "127.0.0.1", socket.IPPROTO_IP, _IP_FREEBIND),
            (socket.AF_INET6, "::1", socket.IPPROTO_IPV6, _IPV6_FREEBIND),
        ):
            try:
                listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and listeners:
                    continue  # a kernel without IPv6
                raise
            listeners.append(listener)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(level, option, 1)
            listener.bind((address, 0))
            listener.listen(_BACKLOG)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _steer(namespace: str, listeners: Sequence[socket.socket]) -> int:
    """Attach the program to the namespace; return the descriptor that keeps it there."""
    with contextlib.ExitStack() as stack:

        def close_later(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        # In the order of `loopback_program.INDEX`. The program keeps the map, the attachment the program.
        sockets = close_later(bpf.make_socket_map([one.fileno() for one in listeners]))
        program = close_later(bpf.load_lookup_program(loopback_program.assemble(sockets)))
        target = close_later(os.open(namespace, os.O_RDONLY | os.O_CLOEXEC))
        return bpf.attach_lookup_program(program, target)
