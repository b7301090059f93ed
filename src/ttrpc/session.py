"""The calls of one connection on its serving side.

Owns the receive loop and, for each active stream, the task that runs its handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message

from ttrpc.binding import BoundMethod, Context, Handler
from ttrpc.channel import Channel
from ttrpc.errors import LocalProtocolError, RemoteProtocolError
from ttrpc.events import ConnectionEnded, Data, EndOfData, Opening, Refusal, Request, Response
from ttrpc.inbox import Inbox
from ttrpc.method import Method
from ttrpc.status import ConnectionClosedError, RpcError, StatusCode

_logger = logging.getLogger(__name__)


class Tally:
    """Counters that the sessions of a server share."""

    __slots__ = ("active_calls", "calls", "dropped_frames", "failed_calls")

    def __init__(self) -> None:
        self.calls = 0
        self.active_calls = 0
        self.failed_calls = 0
        self.dropped_frames = 0


class _Call(NamedTuple):
    """A running call: its task, and the client's messages when the client streams."""

    task: asyncio.Task[None]
    inbox: Inbox | None
    ends_with_caller: bool


class Session:
    """One connection being served.

    `spawn` starts a task whose owner outlives the session.
    """

    def __init__(
        self,
        channel: Channel,
        methods: Mapping[str, BoundMethod],
        tally: Tally,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._channel = channel
        self._methods = methods
        self._tally = tally
        self._spawn = spawn
        self._calls: dict[int, _Call] = {}

    async def run(self) -> None:
        """Serve until the peer is gone; calls still running are left running."""
        try:
            while not isinstance(event := await self._channel.receive(), ConnectionEnded):
                match event:
                    case Request():
                        self._start(event)
                    case Data():
                        await self._deliver(event)
                    case EndOfData(stream_id):
                        self._end_inbox(stream_id)
                    case Refusal():
                        await self._refuse(event)
        except RemoteProtocolError as error:
            _logger.warning("ttrpc: closing a connection: %s", error)
        finally:
            self._tally.dropped_frames += self._channel.connection.dropped_frames
            for call in self._calls.values():
                if call.inbox is not None:
                    call.inbox.end(ConnectionClosedError("the client is gone"))

    async def cancel(self, *, all_: bool) -> None:
        """Cancel the calls still running, or those that end with their caller; wait for their end."""
        tasks = [call.task for call in self._calls.values() if all_ or call.ends_with_caller]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- receive loop --------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        bound = self._methods.get(f"/{request.service}/{request.method}")
        inbox = None
        if bound is not None and bound.method.client_streams:
            inbox = Inbox()
            if request.payload:  # an opening request may carry the first message
                inbox.put_nowait(request.payload)
            if request.opening is not Opening.OPEN:
                inbox.end()
        self._tally.calls += 1
        self._tally.active_calls += 1
        task = self._spawn(self._serve(request, bound, inbox))
        ends_with_caller = bound is not None and bound.ends_with_caller
        self._calls[request.stream_id] = _Call(task, inbox, ends_with_caller)
        # A callback, not a `finally` in the task: one cancelled before its first step has none.
        task.add_done_callback(lambda _: self._ended(request.stream_id))

    def _ended(self, stream_id: int) -> None:
        del self._calls[stream_id]
        self._tally.active_calls -= 1

    async def _deliver(self, event: Data) -> None:
        call = self._calls.get(event.stream_id)
        if call is None or call.inbox is None:
            return  # the handler is not interested in what the client adds
        try:
            await call.inbox.put(event.payload)
        except RpcError as error:
            await self._refuse(Refusal(event.stream_id, error.code, error.message))

    def _end_inbox(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None and call.inbox is not None:
            call.inbox.end()

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer a stream with a fault, ending its call when it is active."""
        call = self._calls.get(refusal.stream_id)
        if call is not None:
            call.task.cancel()
        self._tally.failed_calls += 1
        with contextlib.suppress(ConnectionClosedError):  # the receive loop sees that by itself
            await self._channel.send(refusal)

    # -- calls ---------------------------------------------------------------------------------

    async def _serve(
        self, request: Request, bound: BoundMethod | None, inbox: Inbox | None
    ) -> None:
        """Run one call and answer it."""
        stream_id = request.stream_id
        try:
            payload = await self._run(request, bound, inbox)
            answer: Response | EndOfData
            answer = EndOfData(stream_id) if payload is None else Response(stream_id, payload)
        except RpcError as error:
            answer = Response(stream_id, b"", error.code, error.message, error.details)
        except LocalProtocolError as error:  # a streamed message over the limit
            answer = Response(stream_id, b"", error.code, str(error))
        except Exception as error:  # whatever a handler raises is an answer
            _logger.exception("ttrpc: /%s/%s failed", request.service, request.method)
            message = f"{type(error).__name__}: {error}"
            answer = Response(stream_id, b"", StatusCode.INTERNAL, message)
        await self._answer(answer)

    async def _answer(self, answer: Response | EndOfData) -> None:
        if isinstance(answer, Response) and answer.code is not StatusCode.OK:
            self._tally.failed_calls += 1
        try:
            await self._channel.send(answer)
        except LocalProtocolError as error:
            if error.code is not StatusCode.RESOURCE_EXHAUSTED:
                raise
            await self._answer(Response(answer.stream_id, b"", error.code, str(error)))
        except ConnectionClosedError:
            _logger.debug("ttrpc: nobody is left to take the answer on %r", self._channel)

    async def _run(
        self, request: Request, bound: BoundMethod | None, inbox: Inbox | None
    ) -> bytes | None:
        """Return the response's payload, or None when the server streamed.

        Raises what the handler raises, and RpcError with UNIMPLEMENTED, INVALID_ARGUMENT or
        DEADLINE_EXCEEDED.
        """
        method, handler = _require_handler(request, bound)
        context = _context(request)
        argument: Message | AsyncIterator[Message]
        argument = _decode(method, request.payload) if inbox is None else _messages(method, inbox)
        try:
            async with asyncio.timeout_at(context.deadline) as limit:
                if method.server_streams:
                    async with contextlib.aclosing(handler(argument, context)) as responses:
                        async for response in responses:
                            data = Data(request.stream_id, _encode(method, response))
                            await self._channel.send(data)
                    return None
                return _encode(method, await handler(argument, context))
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"{method.path}: not done within {context.timeout:g} s"
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, message) from None


def _require_handler(
    request: Request, bound: BoundMethod | None
) -> tuple[Method[Any, Any], Handler]:
    path = f"/{request.service}/{request.method}"
    if bound is None:
        raise RpcError(StatusCode.UNIMPLEMENTED, f"{path}: no such method is served here")
    method, handler = bound.method, bound.handler
    if handler is None:
        raise RpcError(StatusCode.UNIMPLEMENTED, f"{path}: not implemented")
    if request.opening is Opening.UNARY and (method.client_streams or method.server_streams):
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"{path} streams; open it as a stream")
    return method, handler


def _context(request: Request) -> Context:
    metadata: dict[str, tuple[str, ...]] = {}
    for key, value in request.metadata:
        metadata[key] = (*metadata.get(key, ()), value)
    timeout = deadline = None
    if request.timeout_nano:
        timeout = request.timeout_nano / 1e9
        deadline = asyncio.get_running_loop().time() + timeout
    return Context(request.service, request.method, metadata, timeout, deadline)


def _decode(method: Method[Any, Any], payload: bytes) -> Message:
    try:
        message: Message = method.request.FromString(payload)
    except DecodeError as error:
        reason = f"{method.path}: unreadable {method.request.__name__}: {error}"
        raise RpcError(StatusCode.INVALID_ARGUMENT, reason) from error
    return message


def _encode(method: Method[Any, Any], response: object) -> bytes:
    if not isinstance(response, method.response):
        raise TypeError(
            f"the handler of {method.path} returned {type(response).__name__}; "
            f"it must return {method.response.__name__}"
        )
    encoded: bytes = response.SerializeToString()
    return encoded


async def _messages(method: Method[Any, Any], inbox: Inbox) -> AsyncIterator[Message]:
    while (payload := await inbox.get()) is not None:
        yield _decode(method, payload)
