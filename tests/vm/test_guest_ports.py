"""Port-forward into a machine: a pod's loopback on the host, a container's port in the guest."""

import asyncio
import hashlib
import json
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from lab.bundle import specification
from lab.paths import GUEST_KERNEL
from lab.pod_namespace import Namespace, namespace
from test_image_boot import QEMU, machine

from kata.agent_client.agent import Agent, GuestStorage
from kata.agent_client.guest_client import GuestClient
from kata.host import netns
from kata.network.port_forward import PortForward
from kata_api import oci

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"there is no {QEMU}"),
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_SHARE = "/run/kata-containers/shared/containers"
_SIZE = 8 << 20
_SCRIPT = (
    "mkdir /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1M count=8 2>/dev/null && "
    "sha256sum /tmp/www/file && httpd -p 127.0.0.1:8080 -h /tmp/www && "
    "exec nc -ll -p 9000 -e /bin/cat"
)


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with namespace() as made:
        made.ip("link set lo up")
        yield made


@pytest.fixture
async def agent(root: Path, tmp_path: Path) -> AsyncIterator[Agent]:
    """The agent of a machine in which a container serves a file on port 8080 and echoes on port 9000."""
    for applet in ("mkdir", "dd", "sha256sum", "httpd", "nc", "cat"):
        (root / "bin" / applet).symlink_to("busybox")
    share = [
        "-fsdev", f"local,id=share,path={root},security_model=passthrough,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
    ]  # fmt: skip
    async with machine(str(GUEST_KERNEL.parent), tmp_path, *share) as (channel, console):
        try:
            async with asyncio.timeout(120):
                client = await _connected(channel)
                agent = Agent(client)
                await agent.check()
                options = ("trans=virtio", "version=9p2000.L", "cache=mmap")
                await agent.create_sandbox(
                    "s", "guest", [GuestStorage("9p", "share", "9p", _SHARE, options)], []
                )
                spec = specification("/bin/sh", "-c", _SCRIPT, root={"path": _SHARE})
                spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
                decoded = oci.decode_spec(json.dumps(spec).encode())
                await agent.create_container("c", decoded, 30)
                await agent.start_container("c")
        except BaseException:
            print(console.read_text()[-2000:])
            raise
        yield agent
        await agent.close()


async def _connected(path: Path) -> GuestClient:
    while True:
        try:
            return await GuestClient.connect_unix(str(path))
        except OSError:
            await asyncio.sleep(0.01)


async def _open(pod: Namespace, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = netns.inside(pod.path, lambda: socket.create_connection(("127.0.0.1", port)))
    return await asyncio.open_connection(sock=sock)


async def _download(pod: Namespace) -> bytes:
    """Return the file, once the server listens."""
    while True:
        reader, writer = await _open(pod, 8080)
        writer.write(b"GET /file HTTP/1.0\r\n\r\n")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.splitlines()[0]
            return await reader.read()
        except ConnectionResetError:
            await asyncio.sleep(0.1)
        finally:
            writer.close()


async def _until_listening(pod: Namespace, port: int) -> None:
    """Wait until what is written to a port comes back."""
    async with asyncio.timeout(60):
        while True:
            reader, writer = await _open(pod, port)
            try:
                writer.write(b"x")
                writer.write_eof()
                assert await reader.read() == b"x"
            except ConnectionResetError:
                await asyncio.sleep(0.1)
            else:
                return
            finally:
                writer.close()


async def test_ports_of_a_container_answer_on_the_pods_loopback(
    agent: Agent, pod: Namespace
) -> None:
    digest = (await agent.read_stdout("c", "c", 64)).decode()
    forward = await PortForward.start(pod.path, agent)

    async with asyncio.timeout(60):
        body = await _download(pod)
    assert len(body) == _SIZE
    assert hashlib.sha256(body).hexdigest() == digest

    await _until_listening(pod, 9000)

    async def echo(text: bytes) -> None:
        reader, writer = await _open(pod, 9000)
        writer.write(text)
        writer.write_eof()
        assert await reader.read() == text
        writer.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(echo(bytes([number]) * 100_000) for number in range(5)))
    reader, writer = await _open(pod, 1)
    async with asyncio.timeout(15):  # and not the 25 s that an answer may take
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()
    await forward.stop()
