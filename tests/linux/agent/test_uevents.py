"""What the kernel announces of devices."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from containers import Guest

from kata_agent import storage
from kata_agent.uevents import Uevents
from kata_api import agent_service as api
from kata_api.agent import agent_pb2 as pb
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.linux

_DEVICE = Path("/sys/devices/virtual/mem/null/uevent")  # the kernel announces what is written there
_RARE = "offline"  # other tests change and bind devices of this host meanwhile


async def test_an_announcement_ends_the_wait() -> None:
    with Uevents(1000) as announced:
        waiting = asyncio.create_task(announced.wait(_RARE))
        await asyncio.sleep(0)
        _DEVICE.write_text("add")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        _DEVICE.write_text(_RARE)
        assert await asyncio.wait_for(waiting, 60)
        _DEVICE.write_text(_RARE)  # nobody waits at this moment, and it is not lost
        assert await announced.wait(_RARE)


async def test_the_wait_ends_with_the_time() -> None:
    with Uevents(0.1) as announced:
        _DEVICE.write_text("add")
        assert not await announced.wait(_RARE)
        assert not await announced.wait(_RARE)


async def test_a_share_that_does_not_come_is_told_in_the_kernels_words(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "virtiofs").mkdir()
    monkeypatch.setattr(storage, "_VIRTIO", str(tmp_path))
    monkeypatch.setattr(storage, "_HOTPLUG_WAIT_SECONDS", 0.3)
    share = pb.Storage(
        driver="virtio-fs", source="nowhere", fstype="virtiofs", mount_point=str(tmp_path / "point")
    )
    begin = time.monotonic()
    with pytest.raises(RpcError, match="cannot mount virtio-fs nowhere") as error:
        await guest.client.call(api.CREATE_SANDBOX, pb.CreateSandboxRequest(storages=[share]))
    assert error.value.code == StatusCode.INTERNAL
    assert time.monotonic() - begin >= 0.3
