"""Connections to the loopback of a pod's namespace reach who listens in the guest."""

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from forwarded_pod import ForwardedPod, connected_guest, descriptors
from lab.pod_namespace import Namespace

from kata.agent_client.agent import Agent
from kata.host import netns
from kata.network import port_forward
from kata.network.port_forward import PortForward
from kata_api.agent import forward_pb2 as pb
from ttrpc import RpcError, StatusCode, relay
from ttrpc.server import Server

pytestmark = pytest.mark.linux

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HUGE = 16 << 20
SOURCE = Path(__file__).parents[3] / "src"


@contextlib.asynccontextmanager
async def listening(handler: Handler, address: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve in the guest; yield the port."""
    server = await asyncio.start_server(handler, address, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def heard_before_reset(sock: socket.socket) -> bytes:
    """Return what comes until the reset; an orderly end is none."""
    loop, heard = asyncio.get_running_loop(), b""
    while True:
        try:
            data = await loop.sock_recv(sock, 1 << 16)
        except ConnectionResetError:
            return heard
        assert data, "the connection ended in order"
        heard += data


@pytest.mark.parametrize("guest", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("dialled", ["127.0.0.1", "127.8.9.10", "::1"])
async def test_any_loopback_reaches_whichever_the_guest_listens_on(
    forwarded: ForwardedPod, dialled: str, guest: str
) -> None:
    async with listening(echo, guest) as port:
        reader, writer = await forwarded.open(port, dialled)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b""
        await hang_up(writer)
        await forwarded.is_idle()


async def test_both_directions_carry_much_at_once_and_intact(forwarded: ForwardedPod) -> None:
    sent = random.Random(1).randbytes(HUGE)
    heard = hashlib.sha256()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def hear() -> None:
            while data := await reader.read(1 << 16):
                heard.update(data)

        hearing = asyncio.create_task(hear())
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
        await hearing
        writer.close()

    async with listening(both) as port:
        reader, writer = await forwarded.open(port)
        writer.write(sent)
        received = asyncio.create_task(reader.read())
        await writer.drain()
        writer.write_eof()
        assert await received == sent
        await hang_up(writer)
        await forwarded.is_idle()
    assert heard.digest() == hashlib.sha256(sent).digest()


async def test_guest_answers_after_its_caller_said_all(forwarded: ForwardedPod) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(await reader.read())
        writer.write(str(size).encode())
        await writer.drain()
        writer.close()

    async with listening(count) as port:
        reader, writer = await forwarded.open(port)
        writer.write(bytes(1_000_000))
        writer.write_eof()
        assert await reader.read() == b"1000000"
        await hang_up(writer)
        await forwarded.is_idle()


async def test_guest_listens_on_after_it_said_all(forwarded: ForwardedPod) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    async with listening(greet) as port:
        reader, writer = await forwarded.open(port)
        assert await reader.read() == b"hello"
        assert forwarded.forward.connections == 1
        writer.write(bytes(500_000))
        writer.write_eof()
        assert await heard == bytes(500_000)
        await hang_up(writer)
        await forwarded.is_idle()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_port_of_nobody_is_reset_at_once(
    forwarded: ForwardedPod, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = closed_port()
    async with asyncio.timeout(60):
        with pytest.raises(ConnectionResetError):
            await forwarded.ask(port, address)
    await forwarded.is_idle()
    (line,) = caplog.messages
    assert line == (
        "port-forward: nobody listens in the guest: "
        f"port {port}: 127.0.0.1: Connection refused, ::1: Connection refused"
    )


async def test_many_connections_at_once_each_have_their_own_bytes(forwarded: ForwardedPod) -> None:
    async def talk(port: int, seed: int) -> None:
        sent = random.Random(seed).randbytes(200_000)
        reader, writer = await forwarded.open(port)
        writer.write(sent)
        received = asyncio.create_task(reader.read())
        await writer.drain()
        writer.write_eof()
        assert await received == sent
        await hang_up(writer)

    async with listening(echo) as port, asyncio.timeout(60):
        await asyncio.gather(*(talk(port, seed) for seed in range(100)))
        await forwarded.is_idle()


async def test_hundreds_of_connections_one_after_the_other_leave_nothing(
    forwarded: ForwardedPod,
) -> None:
    async with listening(echo) as port:
        before = None
        for number in range(400):
            reader, writer = await forwarded.open(port)
            writer.write(b"x")
            await reader.readexactly(1)
            if number % 4:
                writer.write_eof()
                await reader.read()
            elif number % 8:
                writer.transport.abort()
            await hang_up(writer)
            await forwarded.is_idle()
            before = before or len(descriptors())
        assert len(descriptors()) == before


async def test_reset_by_the_caller_resets_the_guest(forwarded: ForwardedPod) -> None:
    outcome: asyncio.Future[BaseException | bytes] = asyncio.get_running_loop().create_future()

    accepted = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        try:
            outcome.set_result(await reader.read())
        except OSError as error:
            outcome.set_result(error)
        writer.close()

    async with listening(watch) as port:
        sock = await forwarded.dial(port)
        await accepted.wait()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        async with asyncio.timeout(60):
            assert isinstance(await outcome, ConnectionResetError)
        await forwarded.is_idle()


async def test_reset_by_the_guest_comes_after_what_it_said(
    forwarded: ForwardedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_LINGER_SECONDS", 60.0)
    said = random.Random(2).randbytes(100_000)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.close()

    async with listening(refuse) as port:
        sock = await forwarded.dial(port)
        assert await heard_before_reset(sock) == said
        sock.close()
        await forwarded.is_idle()


async def test_caller_that_goes_while_the_guest_talks_ends_the_guests_side(
    forwarded: ForwardedPod,
) -> None:
    ended = asyncio.Event()

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(bytes(10_000))
                await writer.drain()
        ended.set()
        await hang_up(writer)

    async with listening(talk) as port:
        reader, writer = await forwarded.open(port)
        await reader.readexactly(50_000)
        await hang_up(writer)
        async with asyncio.timeout(60):
            await ended.wait()
        await forwarded.is_idle()


async def test_reset_is_noticed_while_the_guest_takes_nothing(
    forwarded: ForwardedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_LOOK_SECONDS", 0.1)
    accepted = asyncio.Event()

    async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        accepted.set()
        await ended.wait()
        await hang_up(writer)

    ended = asyncio.Event()
    async with listening(ignore) as port:
        sock = await forwarded.dial(port)
        await accepted.wait()
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):  # until every buffer on the way is full
            async with asyncio.timeout(1):
                await loop.sock_sendall(sock, bytes(64 << 20))
        assert forwarded.forward.connections == 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await forwarded.is_idle()
        ended.set()


async def test_slow_reader_holds_up_nobody_else(forwarded: ForwardedPod) -> None:
    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(bytes(HUGE))
            await writer.drain()
        await hang_up(writer)

    async with listening(pour) as poured, listening(echo) as port:
        lazy = await forwarded.dial(poured)
        await asyncio.sleep(0.5)  # by then all buffers on its way are full
        async with asyncio.timeout(60):  # it would be held up for ever
            reader, writer = await forwarded.open(port)
            for _ in range(50):
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
        await hang_up(writer)
        loop, size = asyncio.get_running_loop(), 0
        while data := await loop.sock_recv(lazy, 1 << 20):  # and it still gets all that it is owed
            size += len(data)
        assert size == HUGE
        lazy.close()
        await forwarded.is_idle()


async def test_connections_beyond_the_limit_are_reset(
    forwarded: ForwardedPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_forward, "MOST", 5)
    async with listening(echo) as port:
        kept = [await forwarded.open(port) for _ in range(5)]
        for reader, writer in kept:
            writer.write(b"x")
            await reader.readexactly(1)
        with pytest.raises(ConnectionResetError):
            await forwarded.ask(port)
        await hang_up(kept.pop()[1])
        async with asyncio.timeout(60):
            while forwarded.forward.connections == 5:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0.01)
        reader, writer = await forwarded.open(port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        for _, open_writer in (*kept, (reader, writer)):
            await hang_up(open_writer)
        await forwarded.is_idle()


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest, held = max(map(int, descriptors())), [os.open("/dev/null", os.O_RDONLY)]
    while held[-1] <= highest:
        held.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


async def test_want_of_descriptors_is_waited_out(
    forwarded: ForwardedPod, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(port_forward, "_PAUSE_SECONDS", 0.1)
    loop = asyncio.get_running_loop()
    async with listening(echo) as port:
        sock = netns.inside(forwarded.namespace.path, socket.socket)
        sock.setblocking(False)
        with no_descriptor_left():
            began = loop.time()
            await loop.sock_connect(sock, ("127.0.0.1", port))
            async with asyncio.timeout(60):
                while len(caplog.messages) < 3:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        assert loop.time() - began > 0.1 * (len(caplog.messages) - 2)  # with a pause after each
        assert "Too many open files" in caplog.text
        await loop.sock_sendall(sock, b"x")
        assert await loop.sock_recv(sock, 1) == b"x"
        sock.close()
        await forwarded.is_idle()


async def test_stop_forgets_nobody_who_has_just_come(forwarded: ForwardedPod) -> None:
    sock = await forwarded.dial(80)
    await forwarded.forward.stop()
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(sock, 1)
    sock.close()


async def test_stop_resets_what_is_left_and_gives_the_namespace_back(
    forwarded: ForwardedPod,
) -> None:
    async with listening(echo) as port:
        reader, writer = await forwarded.open(port)
        writer.write(b"x")
        await reader.readexactly(1)
        await forwarded.forward.stop()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await hang_up(writer)
        with pytest.raises(ConnectionRefusedError):
            await forwarded.dial(port)
        await forwarded.is_idle()


async def test_guest_that_goes_resets_its_connections(forwarded: ForwardedPod) -> None:
    async with listening(echo) as port:
        reader, writer = await forwarded.open(port)
        writer.write(b"x")
        await reader.readexactly(1)
        await forwarded.client.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await hang_up(writer)
        with pytest.raises(ConnectionResetError):
            await forwarded.ask(port)
        await forwarded.is_idle()


async def test_other_addresses_and_protocols_are_left_alone(forwarded: ForwardedPod) -> None:
    forwarded.namespace.ip("addr add 192.0.2.7/32 dev lo")
    forwarded.namespace.ip("addr add 2001:db8::1/128 dev lo nodad")
    async with listening(echo) as port:
        for address in ("192.0.2.7", "2001:db8::1"):
            with pytest.raises(ConnectionRefusedError):
                await forwarded.dial(port, address)
        datagrams = netns.inside(
            forwarded.namespace.path, lambda: socket.socket(type=socket.SOCK_DGRAM)
        )
        with datagrams:
            datagrams.settimeout(2)
            datagrams.connect(("127.0.0.1", port))
            datagrams.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                datagrams.recv(1)


async def test_loopback_that_comes_up_later_is_carried(with_loopback: Namespace) -> None:
    with_loopback.ip("link set lo down")
    server = Server()
    client, serving = await connected_guest(server)
    forward = await PortForward.start(with_loopback.path, Agent(client))
    with_loopback.ip("link set lo up")
    forwarded = ForwardedPod(with_loopback, forward, client, server)
    for address in ("127.0.0.1", "::1"):
        sock = await forwarded.dial(80, address)
        sock.close()
    await forward.stop()
    await client.close()
    await serving


async def test_namespace_of_the_host_is_refused() -> None:
    server = Server()
    client, serving = await connected_guest(server)
    with pytest.raises(ValueError, match="namespace of the host"):
        await PortForward.start("/proc/self/ns/net", Agent(client))
    await client.close()
    await serving


async def test_agent_without_the_service_gets_one_line_in_the_log(
    with_loopback: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()  # answers UNIMPLEMENTED to everything, as upstream's does to us
    client, serving = await connected_guest(server)
    forward = await PortForward.start(with_loopback.path, Agent(client))
    forwarded = ForwardedPod(with_loopback, forward, client, server)
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            await forwarded.ask(80)
    await forward.stop()
    await client.close()
    await serving
    (line,) = caplog.messages
    assert "needs the agent of this project" in line


async def test_shim_that_is_killed_leaves_nothing_in_the_namespace(
    with_loopback: Namespace,
) -> None:
    program = (
        "import asyncio, socket, sys\n"
        "from kata.agent_client.agent import Agent\n"
        "from kata.agent_client.guest_client import GuestClient\n"
        "from kata.network.port_forward import PortForward\n"
        "async def main():\n"
        "    ours, theirs = socket.socketpair()\n"
        "    agent = Agent(await GuestClient.from_socket(ours))\n"
        "    await PortForward.start(sys.argv[1], agent)\n"
        "    print('up', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, with_loopback.path),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"up\n"

    def dial() -> None:
        socket.create_connection(("127.0.0.1", 80), timeout=20).close()

    netns.inside(with_loopback.path, dial)
    child.kill()
    await child.wait()
    async with asyncio.timeout(60):
        while True:
            try:
                netns.inside(with_loopback.path, dial)
            except ConnectionRefusedError:
                break
            await asyncio.sleep(0.01)


class HostileService:
    """A guest that does not keep to the rules, in the way that its port says."""

    async def connect(
        self, requests: AsyncIterator[pb.Piece], _: object
    ) -> AsyncIterator[pb.Piece]:
        first = await anext(requests)
        match first.port:
            case 1:  # more than it was granted
                yield pb.Piece(granted=1)
                for _ in range(100):
                    yield pb.Piece(data=bytes(3 << 20))
            case 2:  # grants that shrink
                yield pb.Piece(granted=100)
                yield pb.Piece(granted=99)
            case 3:  # bytes after the end
                yield pb.Piece(granted=1, end=True)
                yield pb.Piece(data=b"x")
            case 4:  # an end out of turn
                yield pb.Piece(granted=1)
                return
            case 5:  # words
                raise RpcError(StatusCode.UNAVAILABLE, "\x1b[31m" + "A" * 50_000)
            case 6:  # nothing
                async for _ in requests:
                    pass
        await asyncio.sleep(60)


@pytest.mark.parametrize("port", range(1, 7))
async def test_guest_that_breaks_the_rules_loses_the_connection_only(
    with_loopback: Namespace,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from kata_api import forward as service
    from ttrpc.server import bind

    monkeypatch.setattr(port_forward, "_ANSWER_SECONDS", 0.5 if port == 6 else 1000.0)
    server = Server(bind(service.METHODS, HostileService()))
    client, serving = await connected_guest(server)
    forward = await PortForward.start(with_loopback.path, Agent(client))
    forwarded = ForwardedPod(with_loopback, forward, client, server)
    sock = await forwarded.dial(port)
    async with asyncio.timeout(60):
        if port == 3:  # the reset comes in place of an end in order, or behind, and nobody hears it
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        else:
            assert len(await heard_before_reset(sock)) <= relay.WINDOW
        while forward.connections:  # noqa: ASYNC110 - it has no event for its being idle
            await asyncio.sleep(0.01)
    sock.close()
    assert "open" in repr(client)
    await forward.stop()
    await client.close()
    await serving
    await server.close()
    assert all(len(line) < 5000 and line.isprintable() for line in caplog.messages)
