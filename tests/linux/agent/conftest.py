"""Fixtures: an agent in this process on this host's kernel, and a client on a socket pair."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from containers import Guest, build_rootfs
from lab.command import LabError
from lab.release import yardstick_runc

from kata_agent import syscalls as sc
from kata_agent.sandbox import Sandbox
from kata_agent.service import AgentService, HealthService
from kata_api import agent_service, health
from ttrpc.client import Client
from ttrpc.server import Server, bind

BUSYBOX = "/bin/busybox"


def unified_root() -> str | None:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            if rest.split()[0] == "cgroup2":
                return fields.split()[4]
    return None


@pytest.fixture(autouse=True, scope="session")
def _requirements() -> None:
    if os.geteuid():
        pytest.skip("missing: root, to create namespaces and mounts")
    if not os.path.exists(BUSYBOX):
        pytest.skip("missing: /bin/busybox, Debian package busybox-static")
    if unified_root() is None:
        pytest.skip("missing: a cgroup2 mount")
    if len(os.listdir("/proc/self/task")) > 1:
        pytest.exit(
            "threads (gRPC's?) keep this process from entering mount namespaces: run alone", 1
        )
    # As in a guest, nothing of the agent's is shared with anybody; systemd shares all of a host's mounts.
    sc.unshare(sc.CLONE_NEWNS)
    sc.mount(None, "/", None, sc.MS_PRIVATE | sc.MS_REC)


@pytest.fixture
def cgroup_root() -> Iterator[str]:
    """A subtree of the unified hierarchy that must be empty again at the end."""
    root = unified_root()
    assert root is not None
    path = os.path.join(root, f"kata-test-{uuid.uuid4().hex[:8]}")
    os.mkdir(path)
    yield path
    left = [directory for directory, _, _ in os.walk(path)][1:]
    for directory in reversed(left):
        os.rmdir(directory)
    os.rmdir(path)
    assert left == []


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Callable[[], str]]:
    made: list[Path] = []

    def make() -> str:
        path = tmp_path / f"rootfs{len(made)}"
        build_rootfs(path, BUSYBOX)
        made.append(path)
        return str(path)

    yield make
    for path in made:
        shutil.rmtree(path)  # fails on a mount that was left behind


@pytest.fixture(scope="session")
def runc() -> str:
    """The runc that tests compare with, unpacked for us alone."""
    try:
        return str(yardstick_runc())
    except LabError as error:
        pytest.skip(f"missing: runc; {error}")


@pytest.fixture
async def guest(
    cgroup_root: str, rootfs: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Guest]:
    """A served agent; at the end nothing of it may be left on this host."""
    children_before = _children()
    fds_before = len(os.listdir("/proc/self/fd"))
    sandbox = Sandbox(
        cgroup_root=cgroup_root,
        resolv_conf=str(tmp_path / "resolv.conf"),
        hostname=str(tmp_path / "hostname"),
    )
    server = Server(
        bind(agent_service.METHODS, AgentService(sandbox)), bind(health.METHODS, HealthService())
    )
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=theirs)
    serving = asyncio.create_task(server.serve_connection(reader, writer))
    client = await Client.from_socket(ours)
    yield Guest(client, rootfs, cgroup_root)
    try:
        await sandbox.destroy()
    finally:
        await client.close()
        await serving
        await server.close()
        sandbox.close()
    assert _children() == children_before
    assert _mounts_below(tmp_path) == []  # others mount things on this host meanwhile
    assert len(os.listdir("/proc/self/fd")) == fds_before


@pytest.fixture
def children() -> Callable[[], list[int]]:
    """What tells the processes whose parent is the agent."""
    return _children


def _mounts_below(path: Path) -> list[str]:
    with open("/proc/self/mounts", encoding="utf-8") as lines:
        return [line for line in lines if str(path) in line]


def _children() -> list[int]:
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return sorted(map(int, file.read().split()))
