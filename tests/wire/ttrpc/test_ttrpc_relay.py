"""Two relays, joined without a connection between: what they say, and what comes out."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import NamedTuple

import pytest

from ttrpc import relay
from ttrpc.relay import Relay

pytestmark = pytest.mark.wire


class Said(NamedTuple):
    data: bytes = b""
    granted: int = 0
    end: bool = False


class End:
    """A relay on one half of a TCP connection; `user` is the other half."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.user = socket.create_connection(listener.getsockname())
            inner, _ = listener.accept()
        self.user.setblocking(False)
        self.inbox: asyncio.Queue[Said | None] = asyncio.Queue()
        self.said: list[Said] = []
        self.relay = Relay(inner, self._messages(), Said)

    async def _messages(self) -> AsyncIterator[Said]:
        while (piece := await self.inbox.get()) is not None:
            yield piece

    async def run(self, peer: "End | None" = None) -> None:
        async with aclosing(self.relay.pieces()) as pieces:
            async for piece in pieces:
                self.said.append(piece)
                if peer is not None:
                    peer.inbox.put_nowait(piece)

    def sent(self) -> int:
        """Return how many bytes the relay has sent to its peer."""
        return sum(len(piece.data) for piece in self.said)

    async def send(self, data: bytes, rng: random.Random) -> None:
        loop, start = asyncio.get_running_loop(), 0
        while start < len(data):
            size = rng.choice((1, 100, 5000, 300_000))
            await loop.sock_sendall(self.user, data[start : start + size])
            start += size
            if rng.random() < 0.05:
                await asyncio.sleep(0.001)
        self.user.shutdown(socket.SHUT_WR)

    async def receive(self, rng: random.Random) -> bytes:
        loop, received = asyncio.get_running_loop(), []
        while data := await loop.sock_recv(self.user, rng.choice((10_000, 1 << 20))):
            received.append(data)
            if rng.random() < 0.1:
                await asyncio.sleep(0.001)
        return b"".join(received)


@pytest.mark.parametrize("seed", range(10))
async def test_bytes_come_out_as_they_went_in(seed: int) -> None:
    rng = random.Random(seed)
    left, right = End(), End()
    there = rng.randbytes(rng.choice((0, 1, relay.CHUNK, relay.WINDOW, 3_000_001)))
    back = rng.randbytes(rng.choice((0, 1, relay.CHUNK, relay.WINDOW, 3_000_001)))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(left.run(right))
        group.create_task(right.run(left))
        group.create_task(left.send(there, rng))
        group.create_task(right.send(back, rng))
        at_right = group.create_task(right.receive(rng))
        at_left = group.create_task(left.receive(rng))
    assert at_right.result() == there
    assert at_left.result() == back
    for end in (left, right):
        assert max(len(piece.data) for piece in end.said) <= relay.CHUNK
        assert [piece.end for piece in end.said].count(True) == 1
        assert repr(end.relay).startswith("<relay, done, ")
        end.user.close()


async def test_nothing_is_sent_before_it_is_granted() -> None:
    end = End()
    running = asyncio.create_task(end.run())
    await asyncio.get_running_loop().sock_sendall(end.user, bytes(1000))
    while not end.said:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert end.said == [Said(granted=relay.WINDOW)]
    assert not end.relay.is_answered
    for granted, expected in ((10, 10), (10, 10), (500, 500), (2000, 1000)):
        end.inbox.put_nowait(Said(granted=granted))
        async with asyncio.timeout(60):
            while end.sent() < expected:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert end.sent() == expected
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    end.user.close()


async def test_user_that_takes_nothing_is_granted_no_more() -> None:
    end = End()
    running = asyncio.create_task(end.run())
    end.user.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = quiet = 0
    while quiet < 20:  # for as long as buffers on the way grow
        room = max((piece.granted for piece in end.said), default=0) - sent
        if room:
            end.inbox.put_nowait(Said(data=bytes(room)))
            sent, quiet = sent + room, 0
        await asyncio.sleep(0.01)
        quiet += 1
    assert len(end.relay._waiting) <= relay.WINDOW
    end.inbox.put_nowait(Said(data=b"x"))
    with pytest.raises(relay.PieceError, match="were granted"):
        await running
    end.user.close()


async def test_giving_up_resets_the_socket_with_its_reason() -> None:
    end = End()
    running = asyncio.create_task(end.run())
    await asyncio.sleep(0)
    end.relay.give_up(TimeoutError("enough"))
    end.relay.give_up(TimeoutError("too late"))
    with pytest.raises(TimeoutError, match="enough"):
        await running
    assert repr(end.relay) == "<relay, failed: enough, 0 bytes sent, 0 received>"
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(end.user, 1)
    end.user.close()


@pytest.mark.parametrize("reads", [True, False])
async def test_what_came_before_the_peer_went_is_delivered_to_those_who_take_it(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_LINGER_SECONDS", 1000.0 if reads else 0.2)
    end = End()
    end.user.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)  # all does not fit
    running = asyncio.create_task(end.run())
    while not end.said:  # noqa: ASYNC110 - nobody tells of the grant
        await asyncio.sleep(0.01)
    end.inbox.put_nowait(Said(data=bytes(relay.WINDOW)))
    end.inbox.put_nowait(None)
    loop, size = asyncio.get_running_loop(), 0
    if reads:
        with contextlib.suppress(ConnectionResetError):
            while data := await loop.sock_recv(end.user, 1 << 16):
                size += len(data)
        assert size == relay.WINDOW
    async with asyncio.timeout(60):
        with pytest.raises(ConnectionResetError, match="gave the connection up"):
            await running
    end.user.close()
