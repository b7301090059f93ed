"""The image in a VM: its agent answers a call."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kata.cli.image import default_cache
from kata.image import manifest
from kata.image.build import build
from kata_api import health
from kata_api.agent import health_pb2
from ttrpc import RpcError
from ttrpc.client import Client

QEMU = f"qemu-system-{os.uname().machine}"

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"there is no {QEMU}"),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get"),
]
_BOOT_SECONDS = 120.0


@contextlib.asynccontextmanager
async def machine(image: str, folder: Path, *devices: str) -> AsyncIterator[tuple[Path, Path]]:
    """Run QEMU around the body; yield the agent's socket and the console's file."""
    channel, console = folder / "agent.sock", folder / "console.log"
    qemu = await asyncio.create_subprocess_exec(
        QEMU,
        "-machine", "q35,accel=tcg",
        "-cpu", "max,la57=off,erms=off",
        "-m", "256M",
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-kernel", os.path.join(image, manifest.KERNEL),
        "-initrd", os.path.join(image, manifest.INITRD),
        "-append", "console=ttyS0 quiet panic=-1",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=agent,path={channel},server=on,wait=off",
        "-device", "virtserialport,chardev=agent,name=agent.channel.0",
        "-serial", f"file:{console}",
        *devices,
    )  # fmt: skip
    try:
        yield channel, console
    finally:
        with contextlib.suppress(ProcessLookupError):
            qemu.kill()
        assert await qemu.wait() in (0, -9)


async def connected(path: Path) -> Client:
    while True:
        try:
            return await Client.connect_unix(str(path))
        except OSError:
            await asyncio.sleep(0.01)


async def test_the_agent_of_a_built_image_answers(tmp_path: Path) -> None:
    image = str(tmp_path / "image")
    built = await asyncio.to_thread(build, image, default_cache())
    assert built.kernel.modules
    async with machine(image, tmp_path) as (channel, console):
        try:
            async with asyncio.timeout(_BOOT_SECONDS), await connected(channel) as client:
                answer = await client.call(health.CHECK, health_pb2.CheckRequest(service=""))
                version = await client.call(health.VERSION, health_pb2.CheckRequest())
        except (TimeoutError, RpcError) as error:
            pytest.fail(f"{error!r}; the console says:\n{console.read_text()[-2000:]}")
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert version.agent_version
