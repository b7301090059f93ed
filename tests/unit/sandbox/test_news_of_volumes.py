"""Volumes that kubelet replaces, on a host that has no inotify instance left, or no watch."""

import asyncio
import errno
import os
from pathlib import Path
from typing import cast

import pytest

from kata.agent_client.agent import Agent, GuestStorage
from kata.host import libc
from kata.hypervisor.port import VirtualMachine
from kata.sandbox.errors import InvalidRequestError
from kata.sandbox.pod_volumes import HOST_TELLS, PodVolumes
from kata.storage.volumes import Volumes
from kata.storage.watched_volume import Watched

pytestmark = pytest.mark.unit


class _Agent:
    def __init__(self) -> None:
        self.renewed: asyncio.Queue[GuestStorage] = asyncio.Queue()

    async def renew_storage(self, storage: GuestStorage) -> None:
        self.renewed.put_nowait(storage)


def _volumes(agent: _Agent) -> PodVolumes:
    return PodVolumes(cast("VirtualMachine", None), cast("Agent", agent))


def _wanted(path: Path) -> Volumes:
    return Volumes(watched=[Watched(str(path), "/shared", "/copy")])


def _refuse(number: int) -> None:
    raise OSError(number, os.strerror(number))


async def test_without_an_instance_the_guest_looks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(libc, "inotify_init", lambda: _refuse(errno.EMFILE))
    volumes = _volumes(_Agent())
    (storage,), _ = await volumes.prepare("c", _wanted(tmp_path))
    assert storage.driver_options == ()
    assert "the guest looks for changes itself: Too many open files; the host's l" in caplog.text
    volumes.follow("c")
    await volumes.release("c")


async def test_without_a_watch_for_what_has_come_the_volume_is_followed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = _Agent()
    volumes = _volumes(agent)
    (storage,), _ = await volumes.prepare("c", _wanted(tmp_path))
    assert storage.driver_options == (HOST_TELLS,)
    volumes.follow("c")
    monkeypatch.setattr(libc, "inotify_add_watch", lambda *_: _refuse(errno.ENOSPC))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        assert await asyncio.wait_for(agent.renewed.get(), 5) == storage
    await volumes.release("c")


async def test_a_volume_that_is_gone_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot watch .*gone: No such file"):
        await _volumes(_Agent()).prepare("c", _wanted(tmp_path / "gone"))
