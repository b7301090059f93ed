"""The events that containerd gets, in order; a restart of it is waited out for some seconds."""

import asyncio
import logging
import time
from contextlib import suppress

from google.protobuf.message import Message

from kata.service import to_containerd
from kata_api import events as table
from kata_api.any import pack
from kata_api.containerd.events_forward_pb2 import ForwardRequest
from kata_api.containerd.types_pb2 import Envelope
from ttrpc import ConnectionClosedError, RpcError, StatusCode
from ttrpc.client import Client

_QUEUE = 2048
"""Events that wait for the one that is being sent; runc's figure."""

_TIMEOUT = 5.0
"""Seconds for one attempt; containerd's convention."""

_ATTEMPTS = 5
_RETRY_DELAY = 1.0

_log = logging.getLogger(__name__)


class Publisher:
    """One ordered queue to containerd; an empty `address` (as under CRI-O) only logs."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self.namespace = namespace
        self._queue: asyncio.Queue[tuple[float, Message]] = asyncio.Queue(_QUEUE)
        self._client: Client | None = None

    def publish(self, event: Message) -> None:
        """Queue an event; when containerd has been away for too long, it is dropped and logged."""
        try:
            self._queue.put_nowait((time.time(), event))
        except asyncio.QueueFull:
            _log.warning(
                "dropped event %s: containerd does not take events", table.TOPICS[type(event)]
            )

    async def run(self) -> None:
        """Send events until cancelled."""
        while True:
            at, event = await self._queue.get()
            try:
                await self._send(at, event)
            finally:
                self._queue.task_done()

    async def _send(self, at: float, event: Message) -> None:
        topic = table.TOPICS[type(event)]
        if not self._address:
            _log.info("event %s: %s", topic, event)
            return
        request = ForwardRequest(
            envelope=Envelope(
                timestamp=to_containerd.timestamp(at),
                namespace=self.namespace,
                topic=topic,
                event=pack(event),
            )
        )
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_RETRY_DELAY * attempt)
            try:
                if self._client is None:
                    self._client = await Client.connect_unix(self._address, timeout=_TIMEOUT)
                await self._client.call(table.FORWARD, request, timeout=_TIMEOUT)
            except (ConnectionClosedError, OSError) as error:
                reason: Exception = error
                await self._disconnect()
            except RpcError as error:
                reason = error
                if error.code != StatusCode.DEADLINE_EXCEEDED:
                    break  # containerd has it and does not want it
                await self._disconnect()
            else:
                return
        _log.warning("gave up on event %s: %s", topic, reason)

    async def _disconnect(self) -> None:
        if self._client:
            await self._client.close()
            self._client = None

    async def flush(self, timeout: float) -> None:
        """Wait until all events are out, at most `timeout` seconds, then disconnect."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), timeout)
        await self._disconnect()
