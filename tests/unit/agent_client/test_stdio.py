"""The pumps between named pipes and the agent; the agent here is a queue in each direction."""

import asyncio
import hashlib
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from kata.agent_client.sink import Sink
from kata.agent_client.source import Source
from kata.agent_client.stdio import Stdio, StdioError, StdioSchemeError, Streams
from kata.agent_client.uri import StreamUri
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.unit


class QueueAgent:
    """Answers reads from a list of chunks, and takes what is written, a few bytes at a time."""

    def __init__(self, chunks: list[bytes], bite: int = 1 << 20) -> None:
        self._chunks = [*chunks, b""]
        self._bite = bite
        self.written = bytearray()
        self.stdin_closed = asyncio.Event()

    async def read_stdout(self, _container: str, _exec: str, _size: int) -> bytes:
        await asyncio.sleep(0)
        return self._chunks.pop(0) if self._chunks else b""

    async def read_stderr(self, _container: str, _exec: str, _size: int) -> bytes:
        await asyncio.sleep(0)
        return b""

    async def write_stdin(self, _container: str, _exec: str, data: bytes) -> int:
        taken = data[: self._bite]
        self.written += taken
        return len(taken)

    async def close_stdin(self, _container: str, _exec: str) -> None:
        self.stdin_closed.set()


def _fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def _streams(agent: Any, stdio: Stdio) -> Streams:
    return Streams(agent, "c", "c", stdio)


async def test_output_is_complete_and_ends(tmp_path: Path) -> None:
    chunks = [os.urandom(100_000) for _ in range(50)]
    path = _fifo(tmp_path / "out")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    streams = _streams(QueueAgent(chunks), Stdio(stdout=path))
    streams.start()
    os.set_blocking(reader, True)
    data = await asyncio.to_thread(_read_all, reader)
    await streams.close()
    assert hashlib.sha256(data).digest() == hashlib.sha256(b"".join(chunks)).digest()


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


async def test_output_waits_for_a_slow_reader(tmp_path: Path) -> None:
    path = _fifo(tmp_path / "out")
    sink = Sink.open(StreamUri.parse(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = asyncio.create_task(sink.write(bytes(8 << 20)))
    got = 0
    while got < 8 << 20:
        await asyncio.sleep(0)
        try:
            got += len(os.read(reader, 1 << 20))
        except BlockingIOError:
            assert not writing.done()
    await writing
    sink.close()
    os.close(reader)


async def test_input_ends_only_after_close_io_and_the_client(tmp_path: Path) -> None:
    path = _fifo(tmp_path / "in")
    agent = QueueAgent([], bite=3)
    streams = _streams(agent, Stdio(stdin=path))
    streams.open_input()
    streams.start()
    for text in (b"first ", b"second"):
        client = os.open(path, os.O_WRONLY)
        os.write(client, text)
        os.close(client)
        await asyncio.sleep(0.02)
    assert not agent.stdin_closed.is_set()
    client_end = os.open(path, os.O_WRONLY)
    streams.close_stdin()
    await asyncio.sleep(0.02)
    assert not agent.stdin_closed.is_set()
    os.close(client_end)
    await asyncio.wait_for(agent.stdin_closed.wait(), 5)
    assert agent.written == b"first second"
    await streams.close()


async def test_a_client_is_not_broken_off_before_its_process_ends(tmp_path: Path) -> None:
    class DeafAgent(QueueAgent):
        async def write_stdin(self, _container: str, _exec: str, _data: bytes) -> int:
            self.stdin_closed.set()
            raise RpcError(StatusCode.FAILED_PRECONDITION, "the process has closed its input")

    path = _fifo(tmp_path / "in")
    agent = DeafAgent([])
    streams = _streams(agent, Stdio(stdin=path))
    streams.open_input()
    streams.start()
    client = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(client, b"unheard")
    await asyncio.wait_for(agent.stdin_closed.wait(), 5)
    await asyncio.sleep(0.02)
    os.write(client, b"still there")
    streams.end_input()
    await asyncio.sleep(0.02)
    with pytest.raises(BrokenPipeError):
        os.write(client, b"gone")
    os.close(client)
    await streams.close()


async def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    stdio = Stdio(stdin=_fifo(tmp_path / "in"), stdout=_fifo(tmp_path / "out"))
    for _ in range(20):
        streams = _streams(QueueAgent([]), stdio)
        streams.open_input()
        streams.start()
        await asyncio.sleep(0)
        await streams.close()
    assert os.listdir("/proc/self/fd") == before


async def test_files_are_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "c.log"
    for chunk in (b"one\n", b"two\n"):
        streams = _streams(QueueAgent([chunk]), Stdio(stdout=f"file://{path}"))
        streams.start()
        await streams.drained(5)
        await streams.close()
    assert path.read_bytes() == b"one\ntwo\n"


async def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StdioSchemeError, match="npipe:// is not known here; use a path, fifo://"):
        _streams(QueueAgent([]), Stdio(stdout="npipe:///pipe"))
    with pytest.raises(StdioSchemeError, match="file:// is not known here"):
        Source("file:///etc/passwd")
    with pytest.raises(StdioError, match="cannot open /no/such/file for output: No such file"):
        _streams(QueueAgent([]), Stdio(stdout="/no/such/file"))
    with pytest.raises(StdioError, match="No such file"):
        Source(str(tmp_path / "missing"))
    fifo = _fifo(tmp_path / "in")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StdioError):
        _streams(QueueAgent([]), Stdio(stdin=fifo, stdout="/no/x"))
    assert os.listdir("/proc/self/fd") == before


async def test_settled_waits_for_the_reader_of_what_was_read(tmp_path: Path) -> None:
    path = _fifo(tmp_path / "out")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    streams = _streams(QueueAgent([bytes(2 << 20)]), Stdio(stdout=path))
    streams.start()
    settled = asyncio.create_task(streams.settled())
    await asyncio.sleep(0.3)
    assert not settled.done()
    os.set_blocking(reader, True)
    assert len(await asyncio.to_thread(_read_all, reader)) == 2 << 20
    await asyncio.wait_for(settled, 5)
    await streams.close()


class HeldAgent(QueueAgent):
    """Answers no read after the last chunk: another process holds the output."""

    async def read_stdout(self, container: str, exec_: str, size: int) -> bytes:
        if len(self._chunks) == 1:
            await asyncio.Event().wait()
        return await super().read_stdout(container, exec_, size)


class DrippingAgent(QueueAgent):
    """Answers a byte a millisecond once its chunks are through, for ever: a child writes on."""

    async def read_stdout(self, container: str, exec_: str, size: int) -> bytes:
        if len(self._chunks) == 1:
            await asyncio.sleep(0.001)
            return b"."
        return await super().read_stdout(container, exec_, size)


async def test_output_that_nobody_wants_is_read(tmp_path: Path) -> None:
    """Else its process would block once the guest's pipe is full."""
    agent = QueueAgent([b"x" * 1000] * 5)
    streams = _streams(agent, Stdio())
    streams.start()
    await streams.drained(5)
    assert agent._chunks == []
    await streams.close()


async def test_settled_does_not_wait_for_children_that_hold_the_output(tmp_path: Path) -> None:
    path = tmp_path / "log"
    streams = _streams(HeldAgent([b"said"]), Stdio(stdout=f"file://{path}"))
    streams.start()
    await asyncio.wait_for(streams.settled(), 5)
    assert path.read_bytes() == b"said"
    await streams.close()


@pytest.mark.parametrize("agent", [HeldAgent, DrippingAgent])
async def test_settled_is_exact_when_the_agent_says_how_much_was_written(
    tmp_path: Path, agent: type[QueueAgent]
) -> None:
    path = tmp_path / "log"
    said = os.urandom(3 << 20)  # more than a process can leave behind
    streams = _streams(agent([said[: 1 << 20], said[1 << 20 :]]), Stdio(stdout=f"file://{path}"))
    streams.start()
    streams.expect(len(said), None)
    await asyncio.wait_for(streams.settled(), 5)
    written = path.read_bytes()
    assert written[: len(said)] == said
    assert len(written) < len(said) + (1 << 10)  # what its child wrote does not count
    await streams.close()


async def test_settled_waits_for_all_that_an_agent_says_was_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    streams = _streams(HeldAgent([b"half"]), Stdio(stdout=f"file://{path}"))
    streams.start()
    streams.expect(8, None)
    settled = asyncio.create_task(streams.settled())
    await asyncio.sleep(0.5)
    assert path.read_bytes() == b"half"
    assert not settled.done()
    settled.cancel()
    await streams.close()


async def test_settled_does_not_wait_for_a_reader_that_is_not_there(tmp_path: Path) -> None:
    path = _fifo(tmp_path / "out")
    streams = _streams(QueueAgent([bytes(4 << 20)]), Stdio(stdout=path))
    client = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    streams.start()
    streams.expect(4 << 20, 0)
    settled = asyncio.create_task(streams.settled())
    await asyncio.sleep(0.5)
    assert not settled.done()
    os.close(client)
    await asyncio.wait_for(settled, 5)
    client = os.open(path, os.O_RDONLY)  # and one that comes back finds it all
    assert len(await asyncio.to_thread(_read_all, client)) == 4 << 20
    await streams.close()


async def test_a_reader_is_looked_for_without_a_descriptor_to_spare(tmp_path: Path) -> None:
    path = _fifo(tmp_path / "out")
    sink = Sink.open(StreamUri.parse(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        assert not sink.has_reader()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]  # the numbers that came free
    sink.close()
    for descriptor in taken:
        os.close(descriptor)  # nobody else has


async def test_output_that_cannot_be_written_does_not_stop_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = QueueAgent([b"lost"] * 3)
    streams = _streams(agent, Stdio(stdout="/dev/full"))
    streams.start()
    streams.expect(12, 0)
    await asyncio.wait_for(streams.settled(), 5)
    await streams.drained(5)
    assert agent._chunks == []
    assert "output is lost, stdout of c: " in caplog.text
    await streams.close()
