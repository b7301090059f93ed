"""What the kernel says to programs that choose sockets."""

import errno
import os
import socket
import struct
from pathlib import Path

import pytest
from forwarded_pod import connected_guest, descriptors
from lab.pod_namespace import Namespace

from kata.agent_client.agent import Agent
from kata.host import bpf
from kata.network import loopback_program
from kata.network.port_forward import PortForward
from ttrpc.server import Server

pytestmark = pytest.mark.linux


def test_verifier_takes_the_program_with_any_number_of_sockets() -> None:
    for count in (0, 1, 2):
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        sockets = bpf.make_socket_map([one.fileno() for one in listeners])
        program = bpf.load_lookup_program(loopback_program.assemble(sockets))
        for descriptor in (program, sockets):
            os.close(descriptor)
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize(
    "program",
    [
        struct.pack("=BBhI", 0x95, 0, 0, 0),  # ends without a verdict
        loopback_program.assemble(0x7FFF),  # a map that nobody has open
    ],
)
def test_program_that_is_refused_says_so(program: bytes) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="bpf") as refusal:
        bpf.load_lookup_program(program)
    assert refusal.value.errno in (errno.EACCES, errno.EINVAL, errno.EBADF)
    assert descriptors() == before


def test_socket_that_does_not_listen_leaves_no_map() -> None:
    before = descriptors()
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="bpf"):
        bpf.make_socket_map([sock.fileno()])
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["missing", "file", "other"])
async def test_start_that_fails_leaves_nothing(kind: str, tmp_path: Path) -> None:
    server = Server()
    client, serving = await connected_guest(server)
    place = {
        "missing": str(tmp_path / "none"),
        "file": str(tmp_path / "file"),
        "other": "/proc/self/ns/mnt",
    }[kind]
    if kind == "file":
        (tmp_path / "file").touch()
    before = descriptors()
    with pytest.raises(OSError, match=r"No such file|Invalid argument"):
        await PortForward.start(place, Agent(client))
    assert descriptors() == before
    await client.close()
    await serving


async def test_attachment_that_fails_leaves_nothing(
    with_loopback: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    client, serving = await connected_guest(server)
    before = descriptors()

    def refuse(socket_map: int) -> bytes:
        return struct.pack("=BBhI", 0x95, 0, 0, 0)

    monkeypatch.setattr(loopback_program, "assemble", refuse)
    with pytest.raises(OSError, match="bpf"):
        await PortForward.start(with_loopback.path, Agent(client))
    assert descriptors() == before
    await client.close()
    await serving
