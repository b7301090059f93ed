"""The calling side of a connection, for asyncio.

Many calls may be outstanding at once, answers come in any order, and a call that is cancelled or
runs out of time forgets its stream: the protocol has no way to tell the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Generic, Self

from google.protobuf.message import DecodeError

from ttrpc.channel import READ_SIZE, Channel
from ttrpc.connection import Connection, Role
from ttrpc.errors import LocalProtocolError, RemoteProtocolError
from ttrpc.events import (
    ConnectionEnded,
    Data,
    EndOfData,
    Event,
    Opening,
    Refusal,
    Request,
    Response,
)
from ttrpc.frames import MAX_MESSAGE_SIZE
from ttrpc.inbox import Inbox
from ttrpc.method import Method, Req, Resp
from ttrpc.status import ConnectionClosedError, RpcError, StatusCode
from ttrpc.streams import StreamState

Metadata = Mapping[str, Sequence[str]]

_MAX_TIMEOUT: Final = 9e9  # seconds, about 285 years: the most that nanoseconds in an i64 hold


class Client:
    """A connection on which this side calls and the peer serves.

    Must be made inside a running event loop, and closed; `async with` does so.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> None:
        self._connection = Connection(Role.CLIENT, max_message_size)
        self._channel = Channel(reader, writer, self._connection)
        self._calls: dict[int, asyncio.Future[Response | RpcError]] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._closed: str | None = None  # why, once it is
        self._receiver = asyncio.get_running_loop().create_task(self._receive())

    @classmethod
    async def connect_unix(cls, path: str, timeout: float | None = None) -> Self:
        """Connect to a unix socket, giving up after `timeout` seconds.

        Raises OSError when nobody listens there, TimeoutError when time is up; no descriptor is
        left open.
        """
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path, limit=READ_SIZE)
        return cls(reader, writer)

    @classmethod
    async def from_socket(cls, sock: socket.socket) -> Self:
        """Take over a connected stream socket of any family (unix, vsock)."""
        sock.setblocking(False)  # noqa: FBT003 - the standard library has no keyword for it
        reader, writer = await asyncio.open_connection(sock=sock, limit=READ_SIZE)
        return cls(reader, writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        condition = "open" if self._closed is None else f"closed: {self._closed}"
        outstanding = len(self._calls) + len(self._inboxes)
        return f"<ttrpc client, {condition}, {outstanding} calls outstanding>"

    # -- calls ---------------------------------------------------------------------------------

    async def call(
        self,
        method: Method[Req, Resp],
        request: Req,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        max_answer: int | None = None,
    ) -> Resp:
        """Call a unary method and return its response.

        `timeout` in seconds goes to the server and is kept here too. `max_answer` (bytes) bounds
        the encoded response below what a frame may hold: decoded, it can be thirty times as large.
        Raises RpcError with the
        server's status, with DEADLINE_EXCEEDED when time is up, with RESOURCE_EXHAUSTED when the
        request is over the limit (nothing was sent), ConnectionClosedError when the peer is gone.
        """
        self._require_open(timeout)
        event = self._request(method, request, Opening.UNARY, timeout, metadata)
        answer: asyncio.Future[Response | RpcError] = self._receiver.get_loop().create_future()
        self._calls[event.stream_id] = answer
        try:
            async with asyncio.timeout(timeout) as deadline:
                await self._send(event)
                response = await answer
        except TimeoutError:
            if deadline.expired():
                raise _deadline_exceeded(method, timeout) from None
            raise
        finally:
            del self._calls[event.stream_id]
            self._connection.forget(event.stream_id)
        if isinstance(response, RpcError):
            raise response
        if response.code is not StatusCode.OK:
            raise RpcError(response.code, response.message, response.details)
        if max_answer is not None and len(response.payload) > max_answer:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the answer to {method.path} has {len(response.payload)} bytes, over the limit of "
                f"{max_answer}",
            )
        return _decoded(method, response.payload)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: Method[Req, Resp],
        request: Req | None = None,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncIterator[ClientStream[Req, Resp]]:
        """Open a streaming call for the length of an `async with` block.

        A method whose server alone streams needs its `request`; for the others it is an optional
        first message. `timeout` in seconds bounds the whole block. Leaving the block forgets the
        stream. Raises what `call` raises.
        """
        self._require_open(timeout)
        opening = Opening.OPEN if method.client_streams else Opening.CLOSED
        event = self._request(method, request, opening, timeout, metadata)
        inbox = self._inboxes[event.stream_id] = Inbox(single=not method.server_streams)
        try:
            async with asyncio.timeout(timeout) as deadline:
                await self._send(event)
                yield ClientStream(self._channel, event.stream_id, method, inbox)
        except TimeoutError:
            if deadline.expired():
                raise _deadline_exceeded(method, timeout) from None
            raise
        finally:
            del self._inboxes[event.stream_id]
            self._connection.forget(event.stream_id)
            inbox.end(RpcError(StatusCode.CANCELLED, f"{method.path}: the stream was left"))

    async def close(self) -> None:
        """Close the connection; calls still outstanding raise ConnectionClosedError."""
        self._end("closed by this side")
        self._receiver.cancel()
        await asyncio.wait([self._receiver])
        await self._channel.close()

    async def wait_closed(self) -> str:
        """Wait until the peer is gone or `close` was called; say in words why."""
        await asyncio.wait([self._receiver])
        return self._closed or "the receiver of this side failed"

    # -- inside --------------------------------------------------------------------------------

    def _require_open(self, timeout: float | None) -> None:
        if self._closed is not None:
            raise ConnectionClosedError(self._closed)
        if timeout is not None and timeout <= 0:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call")

    def _request(
        self,
        method: Method[Req, Resp],
        request: Req | None,
        opening: Opening,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> Request:
        try:
            stream_id = self._connection.next_stream_id
        except LocalProtocolError as error:
            raise RpcError(error.code, str(error)) from error
        return Request(
            stream_id,
            method.service,
            method.name,
            b"" if request is None else request.SerializeToString(),
            _nanoseconds(timeout),
            tuple((key, value) for key, values in (metadata or {}).items() for value in values),
            opening,
        )

    async def _send(self, event: Request) -> None:
        try:
            await self._channel.send(event)
        except LocalProtocolError as error:
            raise RpcError(error.code, str(error)) from error

    async def _receive(self) -> None:
        """Hand out events until the connection ends, then close it."""
        reason = "the receiver of this side failed"
        try:
            while not isinstance(event := await self._channel.receive(), ConnectionEnded):
                await self._deliver(event)
            reason = "the peer closed the connection"
        except RemoteProtocolError as error:
            reason = str(error)
        finally:  # whatever went wrong, nobody may be left waiting
            self._end(reason)
        await self._channel.close()

    async def _deliver(self, event: Request | Response | Data | EndOfData | Refusal) -> None:
        answer = self._calls.get(event.stream_id)
        inbox = self._inboxes.get(event.stream_id)
        if answer is not None:
            if not answer.done():
                answer.set_result(_outcome(event))
        elif inbox is not None:
            await self._deliver_streamed(event, inbox)

    async def _deliver_streamed(self, event: Event, inbox: Inbox) -> None:
        match event:
            case Data(stream_id, payload):
                try:
                    await inbox.put(payload)
                except RpcError as error:
                    self._connection.forget(stream_id)
                    inbox.end(error)
            case EndOfData():
                inbox.end()
            case Response(code=StatusCode.OK):
                inbox.finish(event.payload)
            case Response() | Refusal():
                inbox.end(_error(event))

    def _end(self, reason: str) -> None:
        """Fail what is outstanding; only the first reason counts."""
        if self._closed is not None:
            return
        self._closed = reason
        for answer in self._calls.values():
            if not answer.done():
                answer.set_result(ConnectionClosedError(reason))
        for inbox in self._inboxes.values():
            inbox.end(ConnectionClosedError(reason))


class ClientStream(Generic[Req, Resp]):
    """A streaming call as its caller sees it; iterate over it for the server's messages."""

    def __init__(
        self, channel: Channel, stream_id: int, method: Method[Req, Resp], inbox: Inbox
    ) -> None:
        self._channel = channel
        self._stream_id = stream_id
        self._method = method
        self._inbox = inbox

    def __repr__(self) -> str:
        state = self._channel.connection.stream_state(self._stream_id)
        return f"<ttrpc stream {self._stream_id} {self._method.path}, {state.name}>"

    async def send(self, message: Req) -> None:
        """Send one message, waiting while the peer is slower than us.

        Raises RpcError: FAILED_PRECONDITION when this side may not send (the method does not
        stream from here, or `end` was called), the server's own status when it ended the stream,
        RESOURCE_EXHAUSTED when the message is over the limit; ConnectionClosedError when the peer
        is gone.
        """
        await self._send(Data(self._stream_id, message.SerializeToString()))

    async def end(self) -> None:
        """Tell the server that no more messages follow. Raises as `send`."""
        await self._send(EndOfData(self._stream_id))

    async def _send(self, event: Data | EndOfData) -> None:
        try:
            await self._channel.send(event)
        except LocalProtocolError as error:
            if error.code is StatusCode.RESOURCE_EXHAUSTED:
                raise RpcError(error.code, str(error)) from error
            if self._inbox.error is not None:
                raise self._inbox.error from None
            raise RpcError(StatusCode.FAILED_PRECONDITION, str(error)) from error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Resp:
        payload = await self._inbox.get()
        if payload is None:
            raise StopAsyncIteration
        return _decoded(self._method, payload)

    async def result(self) -> Resp:
        """End sending and return the one response of a method whose server does not stream.

        Raises RpcError with the server's status, or with INTERNAL when it answered nothing.
        """
        if self._channel.connection.stream_state(self._stream_id) is StreamState.OPEN:
            await self.end()
        try:
            return await anext(self)
        except StopAsyncIteration:
            message = f"{self._method.path}: the server ended the stream without a response"
            raise RpcError(StatusCode.INTERNAL, message) from None


def _decoded(method: Method[Req, Resp], payload: bytes) -> Resp:
    """Return the message that a server sent; raises RpcError with INTERNAL when it is none."""
    try:
        return method.response.FromString(payload)
    except DecodeError as error:
        text = f"the answer to {method.path} does not decode: {error}"
        raise RpcError(StatusCode.INTERNAL, text) from error


def _outcome(event: Event) -> Response | RpcError:
    """Return what a unary call gets from an event of its stream."""
    if isinstance(event, Response):
        return event
    return _error(event)


def _error(event: Event) -> RpcError:
    match event:
        case Response(code=code, message=message, details=details):
            return RpcError(code, message, details)
        case Refusal(code=code, message=message):
            return RpcError(code, message)
    return RpcError(StatusCode.INTERNAL, f"unexpected {type(event).__name__} on a unary call")


def _deadline_exceeded(method: Method[Req, Resp], timeout: float | None) -> RpcError:
    message = f"{method.path}: no answer within {timeout:g} s"
    return RpcError(StatusCode.DEADLINE_EXCEEDED, message)


def _nanoseconds(timeout: float | None) -> int:
    """Return a timeout in seconds as the wire's nanoseconds; 0 there means none."""
    if timeout is None or timeout > _MAX_TIMEOUT:
        return 0
    return max(1, int(timeout * 1e9))
