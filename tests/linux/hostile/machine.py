"""A program that the shim takes for QEMU, with a guest in it that turns against its host.

Run as `machine.py SCENARIO QEMU-ARGUMENTS`.  It speaks QMP and the agent's protocol on the sockets
that it inherits, behaves until the container is started, and then does what the scenario says.
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty

from kata_api import agent_service, health
from kata_api.agent import agent_pb2 as pb
from kata_api.agent import health_pb2
from ttrpc import RpcError, StatusCode
from ttrpc.frames import HEADER, MAX_MESSAGE_SIZE, Frame
from ttrpc.server import Server, bind

_MOST = 2**64 - 1
_WRITTEN = 2_200_000
"""Bytes of output of the scenario "wordy": two full pipes do not hold them."""

_ANSWER = 200_000
"""Bytes of it in one answer: the pipe, of 1 MiB, takes five, and a part of the sixth."""

_ESCAPES = "\x1b]0;title\x07\x1b[31m\n" + "A" * 50_000


class Guest:
    """The agent of the hostile guest, and the wires that it has in hand."""

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario
        self.container_id = ""
        self.agent: asyncio.StreamWriter
        self.monitor: asyncio.StreamWriter
        self.console: asyncio.StreamWriter
        self.turned = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._said = 0

    # The agent's protocol

    async def check(self, _request: object, _context: object) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def create_sandbox(self, _request: object, _context: object) -> Empty:
        return Empty()

    async def destroy_sandbox(self, _request: object, _context: object) -> Empty:
        return Empty()

    async def create_container(self, request: pb.CreateContainerRequest, _context: object) -> Empty:
        self.container_id = request.container_id
        if self.scenario == "words":
            raise RpcError(StatusCode.NOT_FOUND, _ESCAPES)
        return Empty()

    async def start_container(self, _request: object, _context: object) -> Empty:
        self.turned.set()
        return Empty()

    async def remove_container(self, _request: object, _context: object) -> Empty:
        return Empty()

    async def signal_process(self, _request: object, _context: object) -> Empty:
        if self.scenario != "undead" and not self._ended.done():
            self._ended.set_result(None)
        return Empty()

    async def wait_process(self, _request: object, _context: object) -> pb.WaitProcessResponse:
        if self.scenario == "wordy":
            await self.turned.wait()
            return pb.WaitProcessResponse(status=3, stdout_total=_WRITTEN)
        await asyncio.shield(self._ended)
        if self.scenario == "starved":
            return pb.WaitProcessResponse(status=137, oom_kills=1)
        return pb.WaitProcessResponse(status=-(1 << 31))

    async def list_processes(self, _request: object, _context: object) -> pb.ListProcessesResponse:
        if self.scenario != "numbers":
            raise RpcError(StatusCode.UNIMPLEMENTED, "as upstream's agents say")
        return pb.ListProcessesResponse(process_list=b"[1, -1, 99999999999]")

    async def stats_container(
        self, _request: object, _context: object
    ) -> pb.StatsContainerResponse:
        stats = pb.StatsContainerResponse()
        memory = stats.cgroup_stats.memory_stats
        for data in (memory.usage, memory.swap_usage, memory.kernel_usage):
            data.usage = data.limit = data.max_usage = data.failcnt = _MOST
        memory.stats["anon"] = memory.stats["psi"] = memory.stats["usage"] = _MOST
        stats.cgroup_stats.pids_stats.limit = _MOST
        stats.cgroup_stats.blkio_stats.io_serviced_recursive.add(op="\x1b[2J", major=_MOST)
        stats.network_stats.add(name="\n", rx_bytes=_MOST)
        return stats

    async def read_stdout(
        self, request: pb.ReadStreamRequest, _context: object
    ) -> pb.ReadStreamResponse:
        await self.turned.wait()
        if self.scenario == "more":
            return pb.ReadStreamResponse(data=b"x" * (request.len + 1))
        if self.scenario == "wordy" and self._said < _WRITTEN:
            await asyncio.sleep(0.05)  # the answer to the wait goes first
            size = min(_ANSWER, request.len, _WRITTEN - self._said)
            self._said += size
            return pb.ReadStreamResponse(data=bytes(size))
        await asyncio.shield(self._ended)
        return pb.ReadStreamResponse()

    async def get_oom_event(self, _request: object, _context: object) -> pb.OOMEvent:
        await self.turned.wait()
        if self.scenario == "starved":
            await asyncio.shield(self._ended)
            await asyncio.sleep(0.1)
            self.scenario = "told"
            return pb.OOMEvent(container_id=self.container_id, kills=1)
        if self.scenario != "oom":
            await asyncio.Event().wait()
        return pb.OOMEvent(container_id=os.urandom(500).hex())

    # What it does once the container runs

    async def turn(self) -> None:
        await self.turned.wait()
        await asyncio.sleep(0.05)  # the answer to the start goes first
        actions: dict[str, Callable[[], Awaitable[None]]] = {
            "garbage": lambda: self._say(os.urandom(1 << 16)),
            "request": lambda: self._say(Frame(1, 1, 0, b"").encode()),
            "unasked": lambda: self._say(Frame(4097, 2, 0, b"").encode()),
            "drip": self._drip,
            "frames": self._frames,
            "console": self._console,
            "events": self._events,
            "monitor": self._break_monitor,
        }
        if self.scenario in actions:
            await actions[self.scenario]()

    async def _say(self, data: bytes) -> None:
        self.agent.write(data)
        await self.agent.drain()

    async def _drip(self) -> None:
        """Begin the largest frame that there may be, and never get on with it."""
        await self._say(HEADER.pack(MAX_MESSAGE_SIZE, 1, 2, 0))
        while True:
            await self._say(b"x")
            await asyncio.sleep(0.02)

    async def _frames(self) -> None:
        while True:
            await self._say(Frame(1, 2, 0, b"").encode() * 5000)
            await self._say(Frame(1, 99, 255, bytes(5000)).encode())

    async def _console(self) -> None:
        while True:
            self.console.write(b"\x1b[2J" + os.urandom(1 << 16))
            await self.console.drain()

    async def _events(self) -> None:
        event = {"event": "NONSENSE", "data": {"x": "y" * 1000}, "timestamp": {}}
        line = json.dumps(event | {"timestamp": {"seconds": 1, "microseconds": 1}}) + "\r\n"
        while True:
            self.monitor.write(line.encode() * 50)
            await self.monitor.drain()

    async def _break_monitor(self) -> None:
        self.monitor.write(b'{"return": [' * 5000 + b"\xff\r\n")
        await self.monitor.drain()


async def _serve_monitor(guest: Guest, reader: asyncio.StreamReader) -> None:
    version = {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}
    _tell(guest.monitor, {"QMP": {"version": version, "capabilities": ["oob"]}})
    buffer, decoder = "", json.JSONDecoder()
    while data := await reader.read(1 << 16):
        buffer += data.decode()
        while buffer := buffer.lstrip():
            try:
                command, end = decoder.raw_decode(buffer)
            except ValueError:
                break  # not all of it has come
            buffer = buffer[end:]
            mark = {"id": command["id"]} if "id" in command else {}
            _tell(guest.monitor, {"return": {}} | mark)
            if command["execute"] == "quit":
                await guest.monitor.drain()
                os._exit(0)


def _tell(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\r\n")


async def main(scenario: str, arguments: list[str]) -> None:
    guest = Guest(scenario)
    streams = {}
    for name, fd in re.findall(r"socket,id=(qmp|console|agent),fd=(\d+)", " ".join(arguments)):
        streams[name] = await asyncio.open_connection(sock=socket.socket(fileno=int(fd)))
    _, guest.console = streams["console"]
    monitor_reader, guest.monitor = streams["qmp"]
    agent_reader, guest.agent = streams["agent"]
    server = Server(bind(agent_service.METHODS, guest), bind(health.METHODS, guest))
    await asyncio.gather(
        _serve_monitor(guest, monitor_reader),
        server.serve_connection(agent_reader, guest.agent),
        guest.turn(),
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
