"""A toy service with a method of each shape, and a handler that lets tests hold calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

from ttrpc import Method, RpcError, StatusCode
from ttrpc.server import Context

SERVICE = "toy.Toy"
ECHO = Method(SERVICE, "Echo", BytesValue, BytesValue)
HOLD = Method(SERVICE, "Hold", Int64Value, Int64Value)
FAIL = Method(SERVICE, "Fail", StringValue, StringValue)
METADATA = Method(SERVICE, "Metadata", StringValue, StringValue)
WRONG = Method(SERVICE, "Wrong", Int64Value, Int64Value)
ABSENT = Method(SERVICE, "Absent", Int64Value, Int64Value)
SIZED = Method(SERVICE, "Sized", Int64Value, BytesValue)
COUNT = Method(SERVICE, "Count", Int64Value, Int64Value, server_streams=True)
SUM = Method(SERVICE, "Sum", Int64Value, Int64Value, client_streams=True)
DOUBLE = Method(SERVICE, "Double", Int64Value, Int64Value, client_streams=True, server_streams=True)
METHODS = (ECHO, HOLD, FAIL, METADATA, WRONG, ABSENT, SIZED, COUNT, SUM, DOUBLE)


def number(value: int) -> Int64Value:
    return Int64Value(value=value)


class Toy:
    """Answers the toy service; `release` lets held calls go, `seen` says what happened."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.holding = asyncio.Semaphore(0)  # released once by each call that got here
        self.seen: list[str] = []
        self.finished = asyncio.Event()

    async def echo(self, request: BytesValue, context: Context) -> BytesValue:
        return request

    async def hold(self, request: Int64Value, context: Context) -> Int64Value:
        self.holding.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        else:
            self.seen.append("done")
        finally:
            self.finished.set()
        return request

    async def fail(self, request: StringValue, context: Context) -> StringValue:
        if request.value == "rpc":
            raise RpcError(StatusCode.NOT_FOUND, "no such thing")
        if request.value == "huge":
            raise RpcError(StatusCode.NOT_FOUND, "x" * (5 << 20))
        if request.value == "timeout":
            raise TimeoutError("the disk was slow")
        raise ValueError("what is that?")

    async def metadata(self, request: StringValue, context: Context) -> StringValue:
        values = context.metadata.get(request.value, ())
        words = [context.service, context.method, *values, str(context.timeout)]
        return StringValue(value=" ".join(words))

    async def wrong(self, request: Int64Value, context: Context) -> StringValue:
        return StringValue(value="not a number")

    async def sized(self, request: Int64Value, context: Context) -> BytesValue:
        self.holding.release()
        return BytesValue(value=bytes(request.value))

    async def count(self, request: Int64Value, context: Context) -> AsyncIterator[Int64Value]:
        try:
            for value in range(request.value):
                yield number(value)
            if request.value < 0:
                yield number(0)
                raise RpcError(StatusCode.OUT_OF_RANGE, "below nothing")
        finally:
            self.seen.append("count ended")
            self.finished.set()

    async def sum(self, requests: AsyncIterator[Int64Value], context: Context) -> Int64Value:
        total = 0
        async for request in requests:
            if request.value < 0:
                raise RpcError(StatusCode.OUT_OF_RANGE, "negative")
            if request.value == 1000:
                await self.hold(request, context)
            total += request.value
        return number(total)

    async def double(
        self, requests: AsyncIterator[Int64Value], context: Context
    ) -> AsyncIterator[Int64Value]:
        async for request in requests:
            yield number(2 * request.value)
