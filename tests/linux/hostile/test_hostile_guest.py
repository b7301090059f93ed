"""A whole shim with a guest that turns against it: it goes on answering, small and tidy.

Everything is real but QEMU, in whose place `machine.py` runs: a guest's kernel that has been taken
over can send what it likes on the agent's stream and the console, and QEMU on its monitor.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import socket
import stat
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from lab.bundle import Bundle, specification, wait_gone

from kata.host import proc
from kata.storage.share import HOST_ROOT
from kata_api import events, task
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.events_forward_pb2 import ForwardRequest
from kata_api.containerd.task_types_pb2 import Status
from ttrpc import ConnectionClosedError, RpcError, StatusCode
from ttrpc.client import Client
from ttrpc.server import Server, bind

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(
        Path("/dev/vhost-vsock").exists(), reason="the stand-in for QEMU has no vsock"
    ),
]

_MACHINE = Path(__file__).with_name("machine.py")
_MOST_MEMORY = 160 << 20
"""Bytes of a shim at any time; 60 MiB without a guest that does anything to it."""


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    """A bundle; afterwards nothing of its sandbox is there."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    made = Bundle(folder)
    made.write(specification("/bin/sh"))
    yield made
    left = made.leftovers()
    print(made.log())
    made.close()
    assert not left


class Played:
    """A shim with a started container whose guest plays a scenario."""

    def __init__(self, bundle: Bundle, folder: Path, client: Client) -> None:
        self.bundle = bundle
        self.folder = folder
        self.client = client
        self.log = ""

    async def create(self, scenario: str, stdout: str = "") -> None:
        program = self.folder / "qemu"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {_MACHINE} {scenario} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        configuration = self.folder / "configuration.toml"
        configuration.write_text(
            f'[hypervisor.qemu]\npath = "{program}"\nkernel = "{program}"\ninitrd = "{program}"\n'
            'shared_fs = "virtio-9p"\n[factory]\nenable_template = false\n'
            "[runtime]\nsandbox_logs_count = 0\n"
        )
        root = self.folder / "root"
        root.mkdir()
        await self.bundle.create(self.client, configuration, root, stdout=stdout)

    async def start(self) -> None:
        await self.client.call(task.v2.START, pb.StartRequest(id=self.bundle.id))

    async def state(self) -> "Status.ValueType":
        request = pb.StateRequest(id=self.bundle.id)
        return (await self.client.call(task.v2.STATE, request, timeout=30)).status

    async def kill(self) -> None:
        request = pb.KillRequest(id=self.bundle.id, signal=9)
        await self.client.call(task.v2.KILL, request, timeout=60)

    async def wait(self, timeout: float) -> int:
        request = pb.WaitRequest(id=self.bundle.id)
        return (await self.client.call(task.v2.WAIT, request, timeout=timeout)).exit_status

    async def delete(self) -> int:
        request = pb.DeleteRequest(id=self.bundle.id)
        return (await self.client.call(task.v2.DELETE, request, timeout=60)).exit_status

    def said(self) -> str:
        """Return all that the shim has logged."""
        self.log += self.bundle.log()
        return self.log

    def memory(self) -> int:
        """Return the most memory that the shim has ever had, in bytes."""
        status = Path(f"/proc/{self.bundle.shim_pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("garbage", ""),
        (
            "request",
            "its agent cannot be talked to any more: a client was sent a message of type 1",
        ),
        (
            "unasked",
            "the sandbox is lost: its agent cannot be talked to any more: the server answered on stream 4097, which nobody opened",
        ),
    ],
)
async def test_a_guest_that_breaks_the_protocol_is_lost(
    bundle: Bundle, tmp_path: Path, scenario: str, reason: str
) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create(scenario)
        await played.start()
        if scenario == "garbage":  # which may well be the head of a long frame
            with contextlib.suppress(RpcError):
                await played.kill()
        assert await played.wait(60) == 255
        assert await played.state() == Status.STOPPED
        with pytest.raises(RpcError) as error:
            await client.call(task.v2.EXEC, pb.ExecProcessRequest(id=bundle.id, exec_id="e"))
        assert error.value.code in (StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION)
        assert await played.delete() == 255
        assert reason in played.said()
        await bundle.shut_down(client)


async def test_a_guest_that_drips_is_given_up_at_a_deadline(bundle: Bundle, tmp_path: Path) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("drip")
        await played.start()
        await asyncio.sleep(0.2)
        assert await played.state() == Status.RUNNING
        await played.kill()
        assert await played.wait(60) == 255
        assert await played.delete() == 255
        assert "it did not answer a SIGKILL in time" in played.said()
        await bundle.shut_down(client)


async def test_a_guest_that_keeps_an_exit_to_itself_is_given_up(
    bundle: Bundle, tmp_path: Path
) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("undead")
        await played.start()
        await played.kill()
        assert await played.state() == Status.RUNNING
        assert await played.wait(60) == 255
        assert await played.delete() == 255
        assert "it took a SIGKILL and did not tell of an exit" in played.said()
        await bundle.shut_down(client)


@pytest.mark.parametrize("scenario", ["frames", "console", "events", "monitor", "oom"])
async def test_a_flood_leaves_the_shim_small_and_answering(
    bundle: Bundle, tmp_path: Path, scenario: str
) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create(scenario)
        await played.start()
        began, answered = time.monotonic(), 0
        while time.monotonic() < began + 1.5 or answered < 4:
            assert await played.state() == Status.RUNNING  # within its own deadline
            answered += 1
            await asyncio.sleep(0.05)
        for log in Path("/run/kata").glob(f"{bundle.id}*/console.log"):
            assert log.stat().st_size <= 4 << 20
        assert played.memory() < _MOST_MEMORY
        await played.kill()
        assert await played.wait(60) == 255
        assert await played.delete() == 255
        assert len(played.said()) < 64 << 10
        assert "/tasks/oom" not in played.said()
        await bundle.shut_down(client)


async def test_a_kill_is_told_once_and_before_the_exit(bundle: Bundle, tmp_path: Path) -> None:
    """The guest says with the exit that memory was its cause, and by itself only later."""
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("starved")
        await played.start()
        await played.kill()
        assert await played.wait(60) == 137
        await asyncio.sleep(0.3)
        assert await played.delete() == 137
        await bundle.shut_down(client)
    topics = re.findall(r"event (/tasks/[a-z-]+)", played.said())
    assert topics == [f"/tasks/{each}" for each in ("create", "start", "oom", "exit", "delete")]
    assert (bundle.path / "oom").exists()


def _length(pipe: int) -> int:
    """Return how many bytes are in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("end", ["machine", "reader"])
async def test_an_exit_that_the_guest_told_of_is_known_whatever_comes(
    bundle: Bundle, tmp_path: Path, end: str
) -> None:
    """The output is still on its way to a slow reader as QEMU is killed, or the pod's time is up."""
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("wordy", stdout=str(fifo))
        machine = (await client.call(task.v2.CONNECT, pb.ConnectRequest(id=bundle.id))).task_pid
        await played.start()
        while _length(reader) <= 1_000_000:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
        assert await played.state() == Status.RUNNING
        if end == "machine":
            os.kill(machine, signal.SIGKILL)
            assert await played.wait(60) == 3
        else:
            await played.kill()
            waiting = asyncio.create_task(played.wait(60))
            while not waiting.done():
                os.read(reader, 1 << 14)
                await asyncio.wait([waiting], timeout=1)
            assert await waiting == 3
            assert proc.is_running(machine, proc.start_time(machine))
        assert await played.delete() == 3
        await bundle.shut_down(client)
    os.close(reader)


async def test_a_delete_that_failed_can_be_repeated(bundle: Bundle, tmp_path: Path) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("starved")
        await played.start()
        await played.kill()
        assert await played.wait(60) == 137
        (place,) = Path(HOST_ROOT).glob(f"{bundle.id}*/rw/{bundle.id}")
        (place / "in the way").write_text("data")
        for _ in range(2):
            with pytest.raises(RpcError, match="not an empty mount point"):
                await played.delete()
        await client.call(task.v2.SHUTDOWN, pb.ShutdownRequest(id=bundle.id))
        assert await played.state() == Status.STOPPED
        (place / "in the way").unlink()
        assert await played.delete() == 137
        await bundle.shut_down(client)


class Events:
    """containerd's service of events, which takes the last ones only once it is told to go on."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.go_on = asyncio.Event()

    async def forward(self, request: ForwardRequest, _context: object) -> Empty:
        if request.envelope.topic == "/tasks/exit":
            await self.go_on.wait()
        self.topics.append(request.envelope.topic)
        return Empty()


async def test_the_last_events_go_out_though_something_cannot_be_given_back(
    bundle: Bundle, tmp_path: Path
) -> None:
    service = Events()
    server = Server(bind(events.METHODS, service))
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/events")
        listener.listen()
        serving = asyncio.create_task(server.serve_unix(listener))
        bundle.environment["TTRPC_ADDRESS"] = f"{folder}/events"
        async with await bundle.connect() as client:
            played = Played(bundle, tmp_path, client)
            await played.create("starved")
            await played.start()
            await played.kill()
            await played.wait(60)
            (place,) = Path(HOST_ROOT).glob(f"{bundle.id}*")
            (place / "in the way").write_text("data")
            with pytest.raises(RpcError, match="not an empty mount point"):
                await played.delete()
            assert "/tasks/exit" not in service.topics
            service.go_on.set()
            with contextlib.suppress(RpcError):
                await bundle.shut_down(client)
            await wait_gone(bundle.shim_pid)
        await server.close()
        await serving
    told = [f"/tasks/{each}" for each in ("create", "start", "oom", "exit", "delete")]
    assert service.topics == told
    assert "not everything of the sandbox was given back" in played.said()
    (place / "in the way").unlink()
    assert bundle.run("-bundle", str(bundle.path), "delete").returncode == 0


async def test_numbers_of_a_guest_are_bounded(bundle: Bundle, tmp_path: Path) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("numbers")
        await played.start()
        with pytest.raises(RpcError, match="list of processes is none") as error:
            await client.call(task.v2.PIDS, pb.PidsRequest(id=bundle.id))
        assert error.value.code == StatusCode.INTERNAL
        await client.call(task.v2.STATS, pb.StatsRequest(id=bundle.id))
        await played.kill()
        await played.wait(60)
        await played.delete()
        await bundle.shut_down(client)


async def test_an_agent_that_lists_nothing_leaves_the_monitor(
    bundle: Bundle, tmp_path: Path
) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("upstream")
        await played.start()
        state = await client.call(task.v2.STATE, pb.StateRequest(id=bundle.id))
        answer = await client.call(task.v2.PIDS, pb.PidsRequest(id=bundle.id))
        assert [each.pid for each in answer.processes] == [state.pid]
        await played.kill()
        await played.wait(60)
        await played.delete()
        await bundle.shut_down(client)


async def test_a_shutdown_ends_no_shim_that_is_needed(bundle: Bundle, tmp_path: Path) -> None:
    """containerd sends one after each delete, whatever else goes on in the pod."""
    async with await bundle.connect() as client:
        shutdown = pb.ShutdownRequest(id=bundle.id)
        played = Played(bundle, tmp_path, client)
        creating = asyncio.create_task(played.create("upstream"))
        while not creating.done():
            await asyncio.sleep(0.02)
            await client.call(task.v2.SHUTDOWN, shutdown)
        await creating
        await client.call(task.v2.SHUTDOWN, shutdown)
        await played.start()
        await played.kill()
        await played.wait(60)
        pid = bundle.shim_pid
        delete = pb.DeleteRequest(id=bundle.id)
        deleted, _, again, *_ = await asyncio.gather(
            client.call(task.v2.DELETE, delete),
            client.call(task.v2.SHUTDOWN, shutdown),
            client.call(task.v2.DELETE, delete),
            client.call(task.v2.SHUTDOWN, shutdown),
            return_exceptions=True,
        )
        assert isinstance(deleted, pb.DeleteResponse)
        assert isinstance(again, RpcError)  # or else the shim has ended before it came
        assert isinstance(again, ConnectionClosedError) or again.code == StatusCode.NOT_FOUND
        await asyncio.gather(
            *(client.call(task.v2.SHUTDOWN, shutdown) for _ in range(3)), return_exceptions=True
        )
        await wait_gone(pid)


async def test_more_output_than_asked_for_is_no_output(bundle: Bundle, tmp_path: Path) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        await played.create("more", stdout=f"file://{tmp_path}/out")
        await played.start()
        await played.kill()
        assert await played.wait(60) == 255
        await played.delete()
        await bundle.shut_down(client)
    assert os.path.getsize(tmp_path / "out") == 0


async def test_a_guests_words_are_short_and_plain(bundle: Bundle, tmp_path: Path) -> None:
    async with await bundle.connect() as client:
        played = Played(bundle, tmp_path, client)
        with pytest.raises(RpcError) as error:
            await played.create("words")
        assert error.value.code == StatusCode.NOT_FOUND
        assert 4096 < len(error.value.message) < 5000
        assert error.value.message.isprintable()
        await bundle.shut_down(client)
